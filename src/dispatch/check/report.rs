//! The cases of many kernels on one device, family by family.

use std::collections::BTreeMap;

use metal_candle_kernels::Kernel;
use serde::Serialize;

use super::{super::Kernels, cases, long_cases};

/// How a family did.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Family {
    /// Kernels that ran.
    pub kernels: usize,
    /// Their cases.
    pub cases: usize,
    /// The largest relative error of all.
    pub largest_error: f64,
}

/// How a device did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// By the family's name.
    pub families: BTreeMap<&'static str, Family>,
    /// Kernels whose needs the device does not meet.
    pub not_for_this_device: usize,
    /// The cases that failed, each with its reason.
    pub failures: Vec<String>,
}

impl Report {
    /// Runs every case of every kernel that the device can run. `on_kernel` is called before each.
    pub fn of(kernels: &Kernels, all: &[Kernel], mut on_kernel: impl FnMut(&Kernel)) -> Self {
        let mut report = Self::default();
        for kernel in all {
            if !kernels.meets(&kernel.needs()) {
                report.not_for_this_device += 1;
                continue;
            }
            on_kernel(kernel);
            let family = report.families.entry(kernel.family()).or_default();
            family.kernels += 1;
            for case in cases(*kernel).into_iter().chain(long_cases(*kernel)) {
                family.cases += 1;
                let what = format!("{} {}", kernel.name(), case.label);
                match case.run(kernels) {
                    Ok(outcome) => {
                        family.largest_error = family.largest_error.max(outcome.error);
                        if !outcome.passed() {
                            let (error, tolerance) = (outcome.error, outcome.tolerance);
                            report.failures.push(format!("{what}: {error:.1e} > {tolerance:.1e}"));
                        }
                    }
                    Err(error) => report.failures.push(format!("{what}: {error}")),
                }
            }
        }
        report
    }
}

impl std::fmt::Display for Report {
    /// A line a family, and what was left out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, Family { kernels, cases, largest_error }) in &self.families {
            writeln!(
                f,
                "  {name:<12} {kernels:>4} kernels {cases:>5} cases, largest error {largest_error:.1e}"
            )?;
        }
        writeln!(f, "  {} kernels are for other devices", self.not_for_this_device)?;
        writeln!(f, "  {} failures", self.failures.len())
    }
}
