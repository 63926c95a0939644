//! Reading model files: values against golden data, names and shapes against the models that the
//! files were made from, and hostile input. The files under `fixtures/reference` were made by the
//! reference implementations, not by this library.

#[path = "support/allocations.rs"]
#[allow(dead_code)] // LoRA's tests use the rest
mod allocations;
#[path = "formats/checkpoints.rs"]
mod checkpoints;
#[path = "formats/hostile.rs"]
mod hostile;
#[path = "formats/quant.rs"]
mod quant;
#[path = "formats/shards.rs"]
mod shards;
#[path = "formats/split.rs"]
mod split;
#[path = "formats/synthetic.rs"]
mod synthetic;

use std::path::PathBuf;

/// A file or folder of the reference data.
fn fixture(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/reference")).join(path)
}
