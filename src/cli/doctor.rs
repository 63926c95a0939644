//! `doctor`: what this machine has, and whether every kernel computes rightly on it. Its report is
//! made to be pasted into a bug report.

use std::{collections::BTreeMap, io::IsTerminal};

use indicatif::{ProgressBar, ProgressStyle};
use metal_candle::{
    backend::wgpu::{ShaderLanguage, WgpuAdapter, adapters},
    dispatch::{Kernels, check},
};
use metal_candle_kernels::{Kernel, table};
use serde_json::{Value, json};

use super::{
    Failure,
    args::{DoctorArgs, Format},
};

/// Failures that are listed by name; the rest are counted.
const LISTED: usize = 20;

pub fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let found = adapters();
    let text = args.format == Format::Text;
    if text {
        let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
        println!("{name} {version} on {os} {arch}, {} threads", rayon::current_num_threads());
        println!("{} adapters", found.len());
    }
    let mut reports = Vec::new();
    let mut failures = 0;
    for adapter in &found {
        for language in [ShaderLanguage::SpirV, ShaderLanguage::Msl, ShaderLanguage::Wgsl] {
            if adapter.takes(language) {
                let report = examine(adapter, language, args)?;
                failures += report["failures"].as_array().map_or(0, Vec::len);
                if text {
                    print(&report);
                }
                reports.push(report);
            }
        }
    }
    if !text {
        println!("{}", json!({"version": env!("CARGO_PKG_VERSION"), "devices": reports}));
    }
    match failures {
        0 => Ok(()),
        n => Err(format!("{n} cases failed").into()),
    }
}

/// One adapter with one language.
fn examine(
    adapter: &WgpuAdapter,
    language: ShaderLanguage,
    args: &DoctorArgs,
) -> Result<Value, Failure> {
    let name = format!("{} by {}", adapter.describe(), language.name());
    let device = match adapter.open(language) {
        Ok(device) => device,
        Err(error) => {
            return Ok(json!({"device": name, "failures": [], "error": error.to_string()}));
        }
    };
    let kernels = Kernels::of(&device);
    let runs = |kernel: &Kernel| {
        kernels.meets(&kernel.needs())
            && args.family.as_deref().is_none_or(|family| family == kernel.family())
    };
    let (chosen, others): (Vec<Kernel>, Vec<Kernel>) = table().into_iter().partition(runs);
    let bar = if std::io::stderr().is_terminal() {
        ProgressBar::new(chosen.len() as u64)
    } else {
        ProgressBar::hidden()
    };
    bar.set_style(ProgressStyle::with_template("checking {bar:40} {pos}/{len} {msg}")?);
    let mut families: BTreeMap<&str, (usize, usize, f64)> = BTreeMap::new();
    let mut failures = Vec::new();
    for kernel in chosen {
        bar.set_message(kernel.name());
        let family = families.entry(kernel.family()).or_default();
        family.0 += 1;
        for case in check::cases(kernel) {
            family.1 += 1;
            let what = format!("{} {}", kernel.name(), case.label);
            match case.run(&kernels) {
                Ok(outcome) => {
                    family.2 = family.2.max(outcome.error);
                    if !outcome.passed() {
                        let (error, tolerance) = (outcome.error, outcome.tolerance);
                        failures.push(format!("{what}: {error:.1e} > {tolerance:.1e}"));
                    }
                }
                Err(error) => failures.push(format!("{what}: {error}")),
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let families: Vec<Value> = families
        .into_iter()
        .map(|(family, (kernels, cases, error))| {
            json!({"family": family, "kernels": kernels, "cases": cases, "largest_error": error})
        })
        .collect();
    Ok(json!({
        "device": name,
        "facts": kernels.facts(),
        "families": families,
        "not_for_this_device": others.len(),
        "failures": failures,
    }))
}

fn print(report: &Value) {
    println!("\n{}", report["device"].as_str().unwrap_or_default());
    if let Some(error) = report["error"].as_str() {
        println!("  not opened: {error}");
        return;
    }
    for (fact, value) in report["facts"].as_object().into_iter().flatten() {
        println!("  {fact}: {value}");
    }
    for family in report["families"].as_array().into_iter().flatten() {
        println!(
            "  {:<12} {:>4} kernels {:>5} cases, largest error {:.1e}",
            family["family"].as_str().unwrap_or_default(),
            family["kernels"],
            family["cases"],
            family["largest_error"].as_f64().unwrap_or(f64::NAN)
        );
    }
    println!("  {} kernels are for other devices", report["not_for_this_device"]);
    let failures = report["failures"].as_array().map_or(&[][..], Vec::as_slice);
    println!("  {} failures", failures.len());
    for failure in failures.iter().take(LISTED) {
        println!("    {}", failure.as_str().unwrap_or_default());
    }
    if failures.len() > LISTED {
        println!("    and {} more", failures.len() - LISTED);
    }
}
