//! The cube backend over CUDA: the kernels' generated CUDA text, compiled by NVRTC.

use std::sync::Arc;

pub use cubecl::cuda::CudaDevice;
use cubecl::{
    Runtime as _,
    cuda::{CudaRuntime, install},
};
use cudarc::driver::result::{self as driver, DriverError};
use thiserror::Error;

use super::{
    cube::{Cube, Gpu},
    streams::with_one_stream,
};
use crate::dispatch::Kernels;

/// The cube backend over CUDA.
pub type Cuda = Cube<CudaRuntime>;

impl Gpu for CudaRuntime {
    fn kernels(device: &CudaDevice) -> Arc<Kernels> {
        Kernels::of_cuda(device)
    }
}

/// Why no CUDA device could be had.
#[derive(Debug, Error)]
pub enum CudaError {
    /// A library is not on the machine.
    #[error("no CUDA device: {name} is not installed; {remedy}")]
    Missing {
        /// What is missing.
        name: &'static str,
        /// What has it.
        remedy: &'static str,
    },
    /// The driver refuses.
    #[error("no CUDA device: the driver says {0}")]
    Driver(String),
    /// There are fewer devices.
    #[error("no CUDA device {index}: there are {count}")]
    NotFound {
        /// The number asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
}

fn refused(error: DriverError) -> CudaError {
    CudaError::Driver(error.to_string())
}

/// The memory of a device, in bytes; `None` where the driver does not say.
pub fn memory_bytes(device: &CudaDevice) -> Option<u64> {
    let device = driver::device::get(device.index as i32).ok()?;
    // SAFETY: the driver has just given the device.
    unsafe { driver::device::total_mem(device) }.ok().map(|bytes| bytes as u64)
}

/// The `index`-th CUDA device and its name. Its threads share one stream.
///
/// # Errors
/// [`CudaError`] where the machine has no such device, or lacks the driver, NVRTC or CUDA's headers.
pub fn open(index: usize) -> Result<(CudaDevice, String), CudaError> {
    // SAFETY: looking for a library of the system, and loading it.
    let (has_driver, has_nvrtc) = unsafe {
        (cudarc::driver::sys::is_culib_present(), cudarc::nvrtc::sys::is_culib_present())
    };
    let missing = |name, remedy| Err(CudaError::Missing { name, remedy });
    if !has_driver {
        return missing("libcuda", "it comes with NVIDIA's driver");
    }
    if !has_nvrtc {
        return missing("libnvrtc", "it comes with the CUDA toolkit");
    }
    if !install::cuda_path().is_some_and(|path| path.join("include/cuda_fp16.h").exists()) {
        return missing("cuda_fp16.h", "install the CUDA toolkit and set CUDA_PATH to it");
    }
    driver::init().map_err(refused)?;
    let count = usize::try_from(driver::device::get_count().map_err(refused)?).unwrap_or(0);
    if index >= count {
        return Err(CudaError::NotFound { index, count });
    }
    let name = driver::device::get(index as i32).and_then(driver::device::get_name);
    let (device, name) = (CudaDevice::new(index), name.map_err(refused)?);
    let _client = with_one_stream(|| CudaRuntime::client(&device));
    Ok((device, name))
}
