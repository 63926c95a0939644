//! A client of one of CubeCL's runtimes. Buffers are the same for all of them, so what holds one of
//! these need not be generic.

#[cfg(feature = "cuda")]
use cubecl::cuda::CudaRuntime;
use cubecl::{client::ComputeClient, server::Handle, wgpu::WgpuRuntime};

/// A client.
#[derive(Clone)]
pub(super) enum Client {
    Wgpu(ComputeClient<WgpuRuntime>),
    #[cfg(feature = "cuda")]
    Cuda(ComputeClient<CudaRuntime>),
}

/// `$body` with `$client` as the client inside.
macro_rules! with_client {
    ($of:expr, $client:ident => $body:expr) => {
        match $of {
            $crate::dispatch::client::Client::Wgpu($client) => $body,
            #[cfg(feature = "cuda")]
            $crate::dispatch::client::Client::Cuda($client) => $body,
        }
    };
}
pub(super) use with_client;

impl Client {
    /// Memory for so many bytes.
    pub(super) fn empty(&self, bytes: usize) -> Handle {
        with_client!(self, client => client.empty(bytes))
    }
}
