//! `inspect`: what a model file holds.

use std::collections::BTreeMap;

use metal_candle::formats::{Container, TensorInfo, gguf::GgufValue};

use super::{Failure, args::InspectArgs};

pub fn run(args: &InspectArgs) -> Result<(), Failure> {
    let container = Container::open(&args.path)?;
    let infos: Vec<TensorInfo> = container.infos().collect();
    println!("{}: {}", container.path().display(), container.format_name());
    if let Some(gguf) = container.gguf() {
        println!("version {}, {} metadata entries", gguf.version(), gguf.metadata().len());
        if gguf.paths().len() > 1 {
            for path in gguf.paths() {
                println!("  part {}", path.display());
            }
        }
        for (key, value) in gguf.metadata().iter() {
            println!("  {key} = {}", shown(value));
        }
    }
    for TensorInfo { name, shape, type_name, bytes } in &infos {
        println!("  {name} {shape:?} {type_name}, {bytes} bytes");
    }
    let mut types: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for info in &infos {
        let entry = types.entry(&info.type_name).or_default();
        entry.0 += 1;
        entry.1 += info.bytes;
    }
    let elements: usize = infos.iter().map(|info| info.shape.iter().product::<usize>()).sum();
    let bytes: usize = infos.iter().map(|info| info.bytes).sum();
    println!("{} tensors, {elements} parameters, {bytes} bytes", infos.len());
    for (name, (count, bytes)) in types {
        println!("  {name}: {count} tensors, {bytes} bytes");
    }
    Ok(())
}

/// A metadata value on one line.
fn shown(value: &GgufValue) -> String {
    const LONGEST: usize = 100;
    let text = match value {
        GgufValue::Array(array) => format!("{} x {}", array.len(), array.type_name()),
        other => format!("{other:?}"),
    };
    if text.chars().count() <= LONGEST {
        return text;
    }
    text.chars().take(LONGEST).chain("…".chars()).collect()
}
