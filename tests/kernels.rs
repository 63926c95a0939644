//! Every generated kernel against plain loops in f64, on every target that runs here.

mod support;

use metal_candle::{
    backend::wgpu::ShaderLanguage,
    dispatch::{Kernels, check::Report},
};

/// Runs the cases of every kernel whose needs the device meets.
fn every_kernel(language: ShaderLanguage) {
    let (device, name) = support::wgpu(language);
    let kernels = Kernels::of(&device);
    let report = Report::of(&kernels, &metal_candle_kernels::table(), |_| ());
    println!("{name}: plane {:?}, f16 {}\n{report}", kernels.plane(), kernels.f16());
    assert!(report.failures.is_empty(), "{}", report.failures.join("\n"));
    for family in ["attention", "copy", "dequantise", "matvec", "norm", "rope", "swiglu"] {
        assert!(
            report.families.get(family).is_some_and(|f| f.cases > 0),
            "no case of {family} ran"
        );
    }
}

#[test]
fn wgpu_spirv() {
    every_kernel(ShaderLanguage::SpirV);
}

#[test]
fn wgpu_wgsl() {
    every_kernel(ShaderLanguage::Wgsl);
}
