//! From arguments to a loaded model: the path, the device, the progress bar.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    sync::Arc,
};

use burn::tensor::DType;
use indicatif::{ProgressBar, ProgressStyle};
use metal_candle::{
    Backend, Device,
    adapters::{Adapter, AdapterRegistry, ApplyAdapter},
    device::DeviceJob,
    formats::{Checkpoint, FormatError},
    generation,
    hub::Hub,
    models::{
        self, CausalLm, DecoderConfig, LoadOptions, MemoryError, MemoryPlan, ModelError, Workload,
        check_memory,
    },
    quant::Encoding,
};

use super::{
    Failure,
    args::{AdapterArg, DtypeChoice, ModelArgs},
};

/// The small model that is used without `--model`, below the repository.
const DEFAULT_MODEL: &str = "fixtures/models/shakespeare-llama";

/// A checkpoint and the device it shall run on.
pub struct Source {
    pub checkpoint: Checkpoint,
    pub device: Device,
    pub dtype: DType,
}

impl Source {
    /// Opens what the arguments name, and says on standard error what will run where.
    pub fn open(args: &ModelArgs) -> Result<Self, Failure> {
        let checkpoint = checkpoint(args.model.as_deref(), args.shape.as_deref(), args.encoding)?;
        let (device, why) = Device::open(args.device)?;
        let dtype = dtype(args.dtype, &device)?;
        let model = args.shape.as_ref().map_or(checkpoint.path(), Path::new).display();
        eprintln!("{model} on {}, {} ({why})", device.describe(), dtype.name());
        Ok(Self { checkpoint, device, dtype })
    }

    /// Refuses what cannot fit the device, before anything is loaded. What cannot even be planned
    /// is left to loading, which says why.
    pub fn check_memory(&self, dequantize: bool, workload: Workload) -> Result<(), Failure> {
        let Some(available) = self.device.available_bytes() else { return Ok(()) };
        let options = LoadOptions { dtype: self.dtype, dequantize, on_bytes: None };
        match self.device.dispatch(CheckMemory { source: self, options, workload, available }) {
            Err(MemoryError::DoesNotFit(mut refusal)) => {
                // A backend says what it is, not which device it has.
                refusal.device = self.device.describe();
                Err(refusal)
            }
            Ok(_) | Err(MemoryError::Model(_)) => Ok(()),
        }
    }

    /// [`check_memory`](Self::check_memory) for generating in so many positions, or as many as the
    /// model has.
    pub fn check_context(&self, dequantize: bool, positions: usize) -> Result<(), Failure> {
        let (config, path) = (self.checkpoint.config(), self.checkpoint.config_path());
        let context = DecoderConfig::from_json(config, path).map_or(positions, |c| c.context);
        self.check_memory(dequantize, generation::workload(positions.min(context)))
    }
}

struct CheckMemory<'a> {
    source: &'a Source,
    options: LoadOptions<'a>,
    workload: Workload,
    available: u64,
}

impl DeviceJob for CheckMemory<'_> {
    type Output = Result<MemoryPlan, MemoryError>;

    fn run<B: Backend>(self, device: &B::Device) -> Self::Output {
        let Self { source, options, workload, available } = self;
        check_memory::<B>(&source.checkpoint, &options, workload, device, available)
    }
}

/// The type that matrices are stored in.
pub fn dtype(choice: DtypeChoice, device: &Device) -> Result<DType, Failure> {
    let dtype = match choice {
        DtypeChoice::Auto => device.default_dtype(),
        DtypeChoice::F32 => DType::F32,
        DtypeChoice::F16 => DType::F16,
    };
    device.check_dtype(dtype)?;
    Ok(dtype)
}

/// Loads the model with a progress bar on standard error, if that is a terminal.
pub fn load<B: Backend>(
    checkpoint: &Checkpoint,
    dtype: DType,
    dequantize: bool,
    device: &B::Device,
) -> Result<Box<dyn CausalLm<B>>, ModelError> {
    let total = checkpoint.infos().map(|info| info.bytes as u64).sum();
    let bar = if std::io::stderr().is_terminal() {
        ProgressBar::new(total)
    } else {
        ProgressBar::hidden()
    };
    if let Ok(style) = ProgressStyle::with_template("loading {bar:40} {bytes}/{total_bytes}") {
        bar.set_style(style);
    }
    let report = |bytes| bar.inc(bytes);
    let options = LoadOptions { dtype, dequantize, on_bytes: Some(&report) };
    let model = models::load::<B>(checkpoint, options, device);
    bar.finish_and_clear();
    model
}

/// The model with the adapters that `--adapter` names.
pub fn load_adapted<B: Backend>(
    checkpoint: &Checkpoint,
    dtype: DType,
    args: &ModelArgs,
    device: &B::Device,
) -> Result<Box<dyn CausalLm<B>>, Failure> {
    // First: what is wrong with an adapter is found sooner than a model is loaded.
    let mut adapters = Vec::new();
    let config = DecoderConfig::from_json(checkpoint.config(), checkpoint.config_path())?;
    for AdapterArg { path, scale } in &args.adapter {
        let adapter = Adapter::open_for(path, &config)?;
        let (rank, modules) = (adapter.config.rank, adapter.modules.len());
        eprintln!("adapter {}, scale {scale}: rank {rank}, {modules} modules", path.display());
        adapters.push((adapter, *scale));
    }
    let model = load::<B>(checkpoint, dtype, args.dequantize, device)?;
    if adapters.is_empty() {
        return Ok(model);
    }
    let model: Arc<dyn CausalLm<B>> = model.into();
    let registry = AdapterRegistry::new(model.slots());
    let mut named = Vec::new();
    for (i, (adapter, scale)) in adapters.into_iter().enumerate() {
        // By number: the same folder may be given twice.
        registry.add_adapter(&i.to_string(), adapter)?;
        named.push((i.to_string(), scale));
    }
    let named: Vec<_> = named.iter().map(|(name, scale)| (name.as_str(), *scale)).collect();
    registry.apply_adapters(&named)?;
    Ok(Box::new(registry.adapt(&model)?))
}

/// What `--model` or `--shape` names, or the default model.
pub fn checkpoint(
    model: Option<&Path>,
    shape: Option<&str>,
    encoding: Encoding,
) -> Result<Checkpoint, Failure> {
    match shape {
        Some(name) => random(name, encoding),
        None => Ok(Checkpoint::open(&path(model)?)?),
    }
}

/// Random weights in a shape: one of the library's, or that of a configuration file.
fn random(name: &str, encoding: Encoding) -> Result<Checkpoint, Failure> {
    if let Some(config) = models::shape(name) {
        return Ok(Checkpoint::random(config, 0, encoding));
    }
    let text = std::fs::read(name).map_err(|error| {
        let known = models::SHAPES.join(", ");
        format!("--shape {name}: expected {known}, or a config.json: {error}")
    })?;
    let config = serde_json::from_slice(&text).map_err(|error| format!("{name}: {error}"))?;
    Ok(Checkpoint::random(config, 0, encoding))
}

fn path(model: Option<&Path>) -> Result<PathBuf, Failure> {
    let Some(model) = model else { return default_model() };
    if model.exists() {
        return Ok(model.to_path_buf());
    }
    let Some(Ok(id)) = model.to_str().map(str::parse) else {
        return Err(FormatError::MissingFile {
            path: model.to_path_buf(),
            expected: "a model folder, a .gguf file, or the id of a model on the Hugging Face Hub \
                       (organisation/name)"
                .into(),
        }
        .into());
    };
    let hub = Hub::from_env()?.with_progress(std::io::stderr().is_terminal());
    // A mistyped path looks like an id: say that it was taken for one.
    hub.get(&id).map_err(|error| format!("{}: no such file; {error}", model.display()).into())
}

fn default_model() -> Result<PathBuf, Failure> {
    let here = PathBuf::from(DEFAULT_MODEL);
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join(DEFAULT_MODEL);
    [here, built].into_iter().find(|path| path.exists()).ok_or_else(|| {
        format!("no --model given, and the small model is not at {DEFAULT_MODEL}").into()
    })
}
