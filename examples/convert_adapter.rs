//! Rewrites a LoRA adapter: from PEFT, llama.cpp or mlx-lm to a PEFT folder, or to llama.cpp's GGUF.
//!
//! ```sh
//! cargo run --release --example convert_adapter -- MODEL ADAPTER OUT
//! ```
//!
//! MODEL is the base model: only its configuration is read. OUT is a GGUF file if it ends in `.gguf`,
//! else a folder.

use std::{error::Error, path::PathBuf};

use metal_candle::{
    adapters::{Adapter, gguf},
    formats::Checkpoint,
    models::DecoderConfig,
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [model, adapter, out] = &arguments[..] else {
        return Err("expected MODEL ADAPTER OUT".into());
    };
    let model = Checkpoint::open(model)?;
    let config = DecoderConfig::from_json(model.config(), model.config_path())?;
    let adapter = Adapter::open_for(adapter, &config)?;
    if out.extension().is_some_and(|extension| extension == "gguf") {
        gguf::write(&adapter, out, &config)?;
    } else {
        adapter.save(out)?;
    }
    println!("{}: {} modules", out.display(), adapter.modules.len());
    Ok(())
}
