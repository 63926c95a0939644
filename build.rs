//! Expands every kernel of `kernels/` and writes it for every target; see `kernels/src/build.rs`.

use std::{env, fs, path::PathBuf};

fn main() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    let out = env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: this is cargo's build script")?;
    let folder = PathBuf::from(out).join("kernels");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let summary = metal_candle_kernels::build::write(&folder)?;
    println!("cargo::rustc-env=METAL_CANDLE_KERNELS={}", folder.display());
    println!("cargo::warning={summary}");
    Ok(())
}
