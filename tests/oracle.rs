//! The oracle: every operation of the backend trait, on every backend, in f32 and f16, at odd
//! shapes, against plain loops in f64.
//!
//! Prints the adapter and the number of cases per operation; with `ORACLE_REPORT=FILE` it also
//! writes them, with the largest errors, as JSON (one object per backend, one per line).

mod support;

#[path = "oracle/cases.rs"]
mod cases;
#[path = "oracle/plain.rs"]
mod plain;

use cases::Oracle;
use metal_candle::backend::wgpu::ShaderLanguage;
use support::on;

#[test]
fn cpu() {
    run("cpu", "this machine's CPU");
}

#[test]
fn candle() {
    run("candle", "this machine's CPU");
}

#[test]
fn wgpu_spirv() {
    run("wgpu-spirv", &support::wgpu(ShaderLanguage::SpirV).1);
}

#[test]
fn wgpu_wgsl() {
    run("wgpu-wgsl", &support::wgpu(ShaderLanguage::Wgsl).1);
}

#[cfg(feature = "cuda")]
#[test]
fn cuda() {
    run("cuda", "the first CUDA device");
}

#[test]
fn autodiff_cpu() {
    run("autodiff-cpu", "this machine's CPU");
}

#[test]
fn autodiff_candle() {
    run("autodiff-candle", "this machine's CPU");
}

#[test]
fn autodiff_wgpu() {
    run("autodiff-wgpu", &support::wgpu(ShaderLanguage::SpirV).1);
}

fn run(backend: &str, adapter: &str) {
    let mut oracle = Oracle::default();
    on(backend, &mut oracle);
    oracle.report(backend, adapter);
}
