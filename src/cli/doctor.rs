//! `doctor`: what this machine has, and whether every kernel computes rightly on it. Its report is
//! made to be pasted into a bug report.

use std::{collections::BTreeMap, io::IsTerminal};

use indicatif::{ProgressBar, ProgressStyle};
#[cfg(feature = "cuda")]
use metal_candle::backend::cuda::{self, CudaError};
use metal_candle::{
    Device,
    backend::wgpu::{ShaderLanguage, WgpuAdapter, adapters},
    dispatch::{Kernels, check::Report},
};
use metal_candle_kernels::{Kernel, table};
use serde::Serialize;
use serde_json::json;

use super::{
    Failure, NO_KERNELS,
    args::{DoctorArgs, Format},
};

/// Failures that are listed by name; the rest are counted.
const LISTED: usize = 20;

/// One adapter with one language.
#[derive(Serialize)]
struct Examined {
    device: String,
    facts: BTreeMap<&'static str, String>,
    #[serde(flatten)]
    report: Report,
    /// Why it could not be opened.
    error: Option<String>,
}

pub fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let asked = asked(args);
    if asked.is_empty() {
        return Err("no kernel of this family has such a name".into());
    }
    let found = adapters();
    let text = args.format == Format::Text;
    if text {
        let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
        println!("{name} {version} on {os} {arch}, {} threads", rayon::current_num_threads());
        println!("{} adapters", found.len());
    }
    let mut devices = Vec::new();
    let mut say = |examined: Examined| {
        if text {
            print(&examined);
        }
        devices.push(examined);
    };
    if let Some(choice) = args.device {
        let (device, _) = Device::open(choice)?;
        let kernels = device.kernels().ok_or(NO_KERNELS)?;
        say(check(device.describe(), &kernels, &asked)?);
    } else {
        for adapter in &found {
            for language in [ShaderLanguage::SpirV, ShaderLanguage::Msl, ShaderLanguage::Wgsl] {
                if adapter.takes(language) {
                    say(examine(adapter, language, &asked)?);
                }
            }
        }
        #[cfg(feature = "cuda")]
        cuda_devices(&asked)?.into_iter().for_each(&mut say);
    }
    if !text {
        println!("{}", json!({"version": env!("CARGO_PKG_VERSION"), "devices": devices}));
    }
    match devices.iter().map(|examined| examined.report.failures.len()).sum() {
        0usize => Ok(()),
        n => Err(format!("{n} cases failed").into()),
    }
}

fn asked(args: &DoctorArgs) -> Vec<Kernel> {
    let is_asked = |kernel: &Kernel| {
        args.family.as_deref().is_none_or(|family| family == kernel.family())
            && args.kernel.as_deref().is_none_or(|text| kernel.name().contains(text))
    };
    table().into_iter().filter(is_asked).collect()
}

fn examine(
    adapter: &WgpuAdapter,
    language: ShaderLanguage,
    asked: &[Kernel],
) -> Result<Examined, Failure> {
    let device = format!("{} by {}", adapter.describe(), language.name());
    let opened = match adapter.open(language) {
        Ok(opened) => opened,
        Err(error) => {
            let (facts, report) = (BTreeMap::new(), Report::default());
            return Ok(Examined { device, facts, report, error: Some(error.to_string()) });
        }
    };
    check(device, &Kernels::of(&opened), asked)
}

/// Every CUDA device; where there is none, why.
#[cfg(feature = "cuda")]
fn cuda_devices(asked: &[Kernel]) -> Result<Vec<Examined>, Failure> {
    let mut all = Vec::new();
    loop {
        match cuda::open(all.len()) {
            Ok((device, name)) => {
                all.push(check(format!("{name} by CUDA"), &Kernels::of_cuda(&device), asked)?);
            }
            Err(CudaError::NotFound { .. }) if !all.is_empty() => return Ok(all),
            Err(error) => {
                let (facts, report) = (BTreeMap::new(), Report::default());
                let (device, error) = ("CUDA".into(), Some(error.to_string()));
                return Ok(vec![Examined { device, facts, report, error }]);
            }
        }
    }
}

fn check(device: String, kernels: &Kernels, asked: &[Kernel]) -> Result<Examined, Failure> {
    let bar = if std::io::stderr().is_terminal() {
        ProgressBar::new(asked.len() as u64)
    } else {
        ProgressBar::hidden()
    };
    bar.set_style(ProgressStyle::with_template("checking {bar:40} {pos}/{len} {msg}")?);
    let report = Report::of(kernels, asked, |kernel| {
        bar.set_message(kernel.name());
        bar.inc(1);
    });
    bar.finish_and_clear();
    Ok(Examined { device, facts: kernels.facts(), report, error: None })
}

fn print(examined: &Examined) {
    println!("\n{}", examined.device);
    if let Some(error) = &examined.error {
        println!("  not opened: {error}");
        return;
    }
    for (fact, value) in &examined.facts {
        println!("  {fact}: {value}");
    }
    print!("{}", examined.report);
    let failures = &examined.report.failures;
    for failure in failures.iter().take(LISTED) {
        println!("    {failure}");
    }
    if failures.len() > LISTED {
        println!("    and {} more", failures.len() - LISTED);
    }
}
