//! `inspect`: what a model file holds, and what memory the model would take.

use std::collections::BTreeMap;

use metal_candle::{
    Backend, Device,
    device::DeviceJob,
    formats::{Checkpoint, Container, TensorInfo, gguf::GgufValue},
    generation,
    memory::Size,
    models::{DecoderConfig, LoadOptions, MemoryPlan, ModelError, Unpacked, Workload, unpacked},
};

use super::{Failure, args::InspectArgs, model::dtype};

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
    // What is no model of a known kind has everything but this.
    match memory(args) {
        Ok(()) => Ok(()),
        Err(Unplanned::Model(why)) => {
            println!("memory: not predicted: {why}");
            Ok(())
        }
        Err(Unplanned::Device(failure)) => Err(failure),
    }
}

/// Why no prediction can be made.
enum Unplanned {
    Model(String),
    Device(Failure),
}

/// Predicts what the model would take.
fn memory(args: &InspectArgs) -> Result<(), Unplanned> {
    let model = |error: &dyn std::fmt::Display| Unplanned::Model(error.to_string());
    let checkpoint = Checkpoint::open(&args.path).map_err(|e| model(&e))?;
    let config = DecoderConfig::from_json(checkpoint.config(), checkpoint.config_path());
    let context = args.context.unwrap_or(config.map_err(|e| model(&e))?.context);
    let (device, _) = Device::open(args.device).map_err(|e| Unplanned::Device(e.into()))?;
    let dtype = dtype(args.dtype, &device).map_err(Unplanned::Device)?;
    let options = LoadOptions { dtype, dequantize: args.dequantize, on_bytes: None };
    let job = Job { checkpoint: &checkpoint, options, workload: generation::workload(context) };
    let (plan, unpacked) = device.dispatch(job).map_err(|e| model(&e))?;

    println!("memory on {}, {}, for {context} positions:", device.describe(), dtype.name());
    for (name, bytes) in [
        ("weights", plan.weights),
        ("cache", plan.cache),
        ("scratch", plan.scratch),
        ("in all", plan.total()),
    ] {
        println!("  {name}: {bytes} bytes ({})", Size(bytes));
    }
    match device.available_bytes() {
        Some(bytes) => println!("  available: {}", Size(bytes)),
        None => println!("  available: unknown, this device does not say"),
    }
    for formats in unpacked {
        println!("  {formats}");
    }
    Ok(())
}

struct Job<'a> {
    checkpoint: &'a Checkpoint,
    options: LoadOptions<'a>,
    workload: Workload,
}

impl DeviceJob for Job<'_> {
    type Output = Result<(MemoryPlan, Vec<Unpacked>), ModelError>;

    fn run<B: Backend>(self, device: &B::Device) -> Self::Output {
        let Self { checkpoint, options, workload } = self;
        let plan = MemoryPlan::new::<B>(checkpoint, &options, workload, device)?;
        Ok((plan, unpacked::<B>(checkpoint, &options, device)?))
    }
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
