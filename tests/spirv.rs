//! Every SPIR-V module by Khronos's own validator.

use std::{path::Path, process::Command};

#[test]
fn every_module_is_valid() {
    let folder = Path::new(env!("METAL_CANDLE_KERNELS")).join("text");
    let mut failures = Vec::new();
    let mut modules = 0;
    for kernel in metal_candle_kernels::table() {
        let path = folder.join(format!("{}.spirv", kernel.name()));
        let output = Command::new("spirv-val")
            .args(["--target-env", "vulkan1.3"])
            .arg(&path)
            .output()
            .expect("spirv-val runs; install it: apt-get install spirv-tools");
        modules += 1;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            failures.push(format!("{}: {words}", kernel.name()));
        }
    }
    assert!(modules > 0);
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
