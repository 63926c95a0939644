//! The cube backend over wgpu: Vulkan, Metal, DX12 and WebGPU.
//!
//! One Rust type serves every adapter; what differs is the language that its kernels are compiled
//! to, which belongs to the *device*. [`WgpuAdapter::open`] makes a device for an adapter and a
//! [`ShaderLanguage`], so a program (or a test) can hold a SPIR-V and a WGSL device of the same
//! adapter side by side.

mod adapter;
mod server;
#[cfg(not(target_os = "macos"))]
mod vulkan;

use std::sync::Arc;

pub use adapter::{AdapterError, WgpuAdapter, adapters};
pub use burn_wgpu::WgpuDevice;

use cubecl::wgpu::WgpuRuntime;

use super::cube::{Cube, Gpu};
use crate::dispatch::Kernels;
pub use crate::dispatch::queue::{TASKS_PER_SUBMISSION, submissions};

/// The cube backend over wgpu.
pub type Wgpu = Cube<WgpuRuntime>;

impl Gpu for WgpuRuntime {
    fn kernels(device: &WgpuDevice) -> Arc<Kernels> {
        Kernels::of(device)
    }
}

/// A device of an adapter.
struct Opened {
    device: wgpu::Device,
    queue: wgpu::Queue,
    /// Whether pipelines may say that the driver need not check their accesses of buffers.
    leaves_checks_out: bool,
}

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
