//! What benches of GPU kernels begin with.

use metal_candle::{Device, backend::wgpu::WgpuDevice};

/// The device that `METAL_CANDLE_BENCH_DEVICE` names (`auto` without it), and what it is.
///
/// # Panics
///
/// If there is none, or it is no GPU.
pub fn gpu() -> (WgpuDevice, String) {
    let choice = std::env::var("METAL_CANDLE_BENCH_DEVICE").unwrap_or_else(|_| "auto".into());
    let choice = choice.parse().unwrap_or_else(|error| panic!("{error}"));
    let (device, why) = Device::open(choice).unwrap_or_else(|error| panic!("{error}"));
    let name = format!("{} ({why})", device.describe());
    let Device::Wgpu { device, .. } = device else {
        panic!("kernels run on a GPU: set METAL_CANDLE_BENCH_DEVICE to vulkan, metal or wgpu");
    };
    (device, name)
}
