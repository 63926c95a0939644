//! wgpu's own handles of the devices that are open, by CubeCL's number. CubeCL keeps them to itself.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use cubecl::wgpu::{AutoCompiler, WgpuDevice};

use super::exit;

/// Kernel launches that are gathered before they are submitted. Encoding them takes the host longer
/// than running them takes a large GPU, so that it is best to have it begin early: a 1B-shaped model
/// in f16 on an H200 decodes 201 tokens/s with 512, where a step is one submission, 309 with 64, 353
/// with 32 and 308 with 16.
pub const TASKS_PER_SUBMISSION: usize = 32;

/// A device as wgpu has it.
#[derive(Clone)]
pub struct Queue {
    /// What makes command encoders and bind groups.
    pub device: wgpu::Device,
    /// What takes them.
    pub queue: wgpu::Queue,
    /// Makes what turns kernels into the device's language.
    pub compiler: fn() -> AutoCompiler,
    /// Whether kernels may multiply bytes ([`Needs::bytes`](metal_candle_kernels::Needs::bytes)).
    pub multiplies_bytes: bool,
    /// Whether the device begins the cubes of a list's launches in order, so that a cube may wait for those
    /// of launches before it: see [`Wait`](metal_candle_kernels::Wait).
    pub begins_in_order: bool,
    /// Whether pipelines may say that the driver need not check their accesses of buffers.
    pub leaves_checks_out: bool,
}

static OPEN: Mutex<Option<HashMap<WgpuDevice, Queue>>> = Mutex::new(None);

/// Remembers a device that was opened.
pub fn register(device: WgpuDevice, queue: Queue) {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    open.get_or_insert_default().insert(device, queue);
    exit::prepare();
}

/// All devices that are open, which are not to be found any more: when the program ends.
pub(super) fn take_all() -> HashMap<WgpuDevice, Queue> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
}

/// The handles of a device that was opened by this crate.
pub(super) fn of(device: &WgpuDevice) -> Option<Queue> {
    let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    open.as_ref()?.get(device).cloned()
}

/// Bytes that this process can still have on a device, where the driver says so (Vulkan's do).
#[cfg(not(target_os = "macos"))]
pub fn memory_left(device: &WgpuDevice) -> Option<u64> {
    super::heap::bytes_left(&of(device)?.device)
}

/// Bytes that this process can still have on a device: wgpu does not say, nor does it for Metal.
#[cfg(target_os = "macos")]
pub fn memory_left(_device: &WgpuDevice) -> Option<u64> {
    None
}

/// How often work was submitted to a device so far, for measuring. Asking counts as once, because
/// the queue tells its number only when something is submitted.
pub fn submissions(device: &WgpuDevice) -> Option<u64> {
    // wgpu keeps the number private, but prints it.
    let index = format!("{:?}", of(device)?.queue.submit([]));
    index.chars().filter(char::is_ascii_digit).collect::<String>().parse().ok()
}
