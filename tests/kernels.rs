//! Every generated kernel against plain loops in f64, on every target that runs here.

mod support;

use std::collections::BTreeMap;

use metal_candle::{
    backend::wgpu::ShaderLanguage,
    dispatch::{Kernels, check},
};

/// Runs the cases of every kernel whose needs the device meets.
fn every_kernel(language: ShaderLanguage) {
    let (device, name) = support::wgpu(language);
    let kernels = Kernels::of(&device);
    let mut families: BTreeMap<&str, (usize, usize, f64)> = BTreeMap::new();
    let mut left_out = 0;
    let mut failures = Vec::new();
    for kernel in metal_candle_kernels::table() {
        if !kernels.meets(&kernel.needs()) {
            left_out += 1;
            continue;
        }
        let family = families.entry(kernel.family()).or_default();
        family.0 += 1;
        for case in check::cases(kernel) {
            family.1 += 1;
            match case.run(&kernels) {
                Ok(outcome) => {
                    family.2 = family.2.max(outcome.error);
                    if !outcome.passed() {
                        failures.push(format!(
                            "{} {}: {:.1e} > {:.1e}",
                            kernel.name(),
                            case.label,
                            outcome.error,
                            outcome.tolerance
                        ));
                    }
                }
                Err(error) => failures.push(error.to_string()),
            }
        }
    }
    println!("{name}: plane {:?}, f16 {}", kernels.plane(), kernels.f16());
    for (family, (variants, cases, error)) in &families {
        println!(
            "  {family:<12} {variants:>4} kernels {cases:>5} cases, largest error {error:.1e}"
        );
    }
    println!("  {left_out} kernels need another plane size");
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    for family in ["attention", "copy", "dequantise", "matvec", "norm", "rope", "swiglu"] {
        assert!(families.get(family).is_some_and(|f| f.1 > 0), "no case of {family} ran");
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
