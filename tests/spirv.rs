//! Every SPIR-V module by Khronos's own validator. One that is older than matrix units (those of 2023
//! are) cannot judge the modules that use them: it must refuse just these, and for just that.

use std::{path::Path, process::Command};

use metal_candle_kernels::Kernel;

/// What a validator says that does not know `CooperativeMatrixKHR`.
const TOO_OLD: &str = "Invalid capability operand: 6022\n";

#[test]
fn every_module_is_valid() {
    let folder = Path::new(env!("METAL_CANDLE_KERNELS")).join("text");
    let mut failures = Vec::new();
    let (mut modules, mut not_judged) = (0, 0);
    let made = |kernel: &Kernel| kernel.languages()[2];
    for kernel in metal_candle_kernels::table().into_iter().filter(made) {
        let path = folder.join(format!("{}.spirv", kernel.name()));
        let output = Command::new("spirv-val")
            .args(["--target-env", "vulkan1.3"])
            .arg(&path)
            .output()
            .expect("spirv-val runs; install it: apt-get install spirv-tools");
        modules += 1;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            if kernel.needs().units.is_some() && words.ends_with(TOO_OLD) {
                not_judged += 1;
            } else {
                failures.push(format!("{}: {words}", kernel.name()));
            }
        }
    }
    println!("{modules} modules, of which this spirv-val is too old for {not_judged}");
    assert!(modules > not_judged);
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
