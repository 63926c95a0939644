//! Expands every kernel of `kernels/` and writes it for every target; see `kernels/src/build.rs`.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use metal_candle_kernels::build::{self, LANGUAGES};

fn main() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    let out = env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: this is cargo's build script")?;
    let folder = PathBuf::from(out).join("kernels");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    println!("cargo::rustc-env=METAL_CANDLE_KERNELS={}", folder.display());
    if is_for_lints() {
        return nothing(&folder).map_err(|error| format!("{}: {error}", folder.display()));
    }
    let summary = build::write(&folder)?;
    println!("cargo::warning={summary}");
    Ok(())
}

/// Whether clippy runs, which has a folder of its own: it looks at no kernel's text, and generating them takes a
/// minute or two.
fn is_for_lints() -> bool {
    let wrapper = env::var_os("RUSTC_WORKSPACE_WRAPPER");
    wrapper.is_some_and(|path| {
        Path::new(&path).file_stem().is_some_and(|name| name == "clippy-driver")
    })
}

/// No kernels.
fn nothing(folder: &Path) -> std::io::Result<()> {
    fs::write(folder.join("manifest.rs"), "&[]\n")?;
    LANGUAGES.iter().try_for_each(|language| fs::write(folder.join(format!("{language}.bin")), []))
}
