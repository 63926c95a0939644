//! Every SPIR-V module by Khronos's own validator. One that is older than matrix units (those of 2023
//! are) cannot judge the modules that use them: it must refuse just these, and for just that.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use metal_candle_kernels::{Kernel, targets};

/// What a validator says that does not know `CooperativeMatrixKHR`.
const TOO_OLD: &str = "Invalid capability operand: 6022\n";

/// What a validator says of a file that it refuses; `None` if it is too old to judge it.
fn validate(kernel: &Kernel, path: &Path) -> Option<Result<(), String>> {
    let output = Command::new("spirv-val")
        .args(["--target-env", "vulkan1.3"])
        .arg(path)
        .output()
        .expect("spirv-val runs; install it: apt-get install spirv-tools");
    if output.status.success() {
        return Some(Ok(()));
    }
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    let is_too_old = kernel.needs().units.is_some() && words.ends_with(TOO_OLD);
    (!is_too_old).then(|| Err(format!("{}: {words}", kernel.name())))
}

/// Where the build script has left the module of a kernel.
fn module(kernel: &Kernel) -> PathBuf {
    Path::new(env!("METAL_CANDLE_KERNELS")).join(format!("text/{}.spirv", kernel.name()))
}

fn assert_valid(all: impl Iterator<Item = Option<Result<(), String>>>) {
    let (mut modules, mut not_judged, mut failures) = (0, 0, Vec::new());
    for validated in all {
        modules += 1;
        match validated {
            Some(valid) => failures.extend(valid.err()),
            None => not_judged += 1,
        }
    }
    println!("{modules} modules, of which this spirv-val is too old for {not_judged}");
    assert!(modules > not_judged);
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_module_is_valid() {
    let kernels = metal_candle_kernels::table().into_iter();
    let made = kernels.filter(|kernel| kernel.languages()[2]);
    assert_valid(made.map(|kernel| validate(&kernel, &module(&kernel))));
}

/// Of kernels that are compiled for the sizes of their launches.
#[test]
fn every_module_with_constants_is_valid() {
    let folder = tempfile::tempdir().expect("a folder");
    assert_valid(metal_candle_kernels::table().into_iter().filter_map(|kernel| {
        let passing = kernel.passing().filter(|_| kernel.languages()[2])?;
        let all = (0..14u32).filter(|at| !passing.contains(&(*at as usize)));
        let words: Vec<_> = all.map(|at| (at, 1 << at)).collect();
        let bytes = std::fs::read(module(&kernel)).expect("its module");
        let known: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes);
        // Results come right behind the parameters.
        let params = kernel.announces().start as u32 - 1;
        let made = targets::with_constants(&known, params, &words).expect("it has parameters");
        let path = folder.path().join(kernel.name());
        std::fs::write(&path, bytemuck::cast_slice(&made)).expect("written");
        Some(validate(&kernel, &path))
    }));
}
