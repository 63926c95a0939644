//! burn's cube backend over wgpu: Vulkan, Metal, DX12 and WebGPU.
//!
//! One Rust type serves every adapter; what differs is the language that its kernels are compiled
//! to, which belongs to the *device*. [`WgpuAdapter::open`] makes a device for an adapter and a
//! [`ShaderLanguage`], so a program (or a test) can hold a SPIR-V and a WGSL device of the same
//! adapter side by side.
//!
//! burn's `fusion` and `autotune` features are off, deliberately: `fusion` changes the tensor type
//! underneath this trait, and `autotune` costs seconds at the first product of each shape.

mod adapter;
mod server;

pub use adapter::{AdapterError, WgpuAdapter, adapters};
pub use burn_wgpu::WgpuDevice;

use burn_cubecl::CubeBackend;
use cubecl::{Runtime, wgpu::WgpuRuntime};

use super::{Backend, HostPacked, TensorKvCache};

/// burn's cube backend over wgpu. Booleans take 32 bits, because WGSL can address nothing smaller.
pub type Wgpu = CubeBackend<WgpuRuntime, f32, i32, u32>;

/// What kernels are compiled to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShaderLanguage {
    /// For Vulkan, straight to the driver.
    SpirV,
    /// For Metal, straight to the driver.
    Msl,
    /// For any API, through naga: the portable path.
    Wgsl,
}

impl ShaderLanguage {
    /// The name as messages and reports print it.
    pub fn name(self) -> &'static str {
        match self {
            Self::SpirV => "SPIR-V",
            Self::Msl => "MSL",
            Self::Wgsl => "WGSL",
        }
    }
}

impl Backend for Wgpu {
    type Packed = HostPacked;
    type KvCache = TensorKvCache<Self>;

    fn pack(weight: HostPacked, _device: &Self::Device) -> HostPacked {
        weight
    }

    fn max_tensor_bytes(device: &Self::Device) -> u64 {
        WgpuRuntime::client(device).properties().memory.max_page_size
    }
}
