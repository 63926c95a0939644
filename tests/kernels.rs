//! Every generated kernel against plain loops in f64, on every target that runs here.

mod support;

use metal_candle::{
    backend::wgpu::ShaderLanguage,
    dispatch::{Kernels, check::Report},
};

/// Runs the cases of every kernel whose needs the device meets.
fn every_kernel(kernels: &Kernels, name: &str) {
    let report = Report::of(kernels, &metal_candle_kernels::table(), |_| ());
    println!("{name}: plane {:?}, f16 {}\n{report}", kernels.plane(), kernels.f16());
    assert!(report.failures.is_empty(), "{}", report.failures.join("\n"));
    for family in [
        "attention",
        "copy",
        "dequantise",
        "largest",
        "matmul",
        "matvec",
        "norm",
        "rope",
        "rows",
        "swiglu",
    ] {
        assert!(
            report.families.get(family).is_some_and(|f| f.cases > 0),
            "no case of {family} ran"
        );
    }
}

fn on_wgpu(language: ShaderLanguage) {
    let (device, name) = support::wgpu(language);
    every_kernel(&Kernels::of(&device), &name);
}

#[test]
fn wgpu_spirv() {
    on_wgpu(ShaderLanguage::SpirV);
}

#[test]
fn wgpu_wgsl() {
    on_wgpu(ShaderLanguage::Wgsl);
}

#[cfg(feature = "cuda")]
#[test]
fn cuda() {
    let (device, name) =
        metal_candle::backend::cuda::open(0).unwrap_or_else(|error| panic!("{error}"));
    every_kernel(&Kernels::of_cuda(&device), &format!("{name} by CUDA"));
}
