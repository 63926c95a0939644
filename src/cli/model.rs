//! From arguments to a loaded model: the path, the device, the progress bar.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
};

use burn::tensor::DType;
use indicatif::{ProgressBar, ProgressStyle};
use metal_candle::{
    Backend, Device,
    formats::{Checkpoint, FormatError},
    models::{self, CausalLm, LoadOptions, ModelError},
};

use super::{
    Failure,
    args::{DtypeChoice, ModelArgs},
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
        if let Some(adapter) = args.adapter.first() {
            let adapter = adapter.display();
            return Err(format!("--adapter {adapter}: this version cannot use adapters yet").into());
        }
        let path = path(args.model.as_deref())?;
        let checkpoint = Checkpoint::open(&path)?;
        let (device, why) = Device::open(args.device)?;
        let dtype = match args.dtype {
            DtypeChoice::Auto => device.default_dtype(),
            DtypeChoice::F32 => DType::F32,
            DtypeChoice::F16 => DType::F16,
        };
        device.check_dtype(dtype)?;
        eprintln!("{} on {}, {} ({why})", path.display(), device.describe(), dtype.name());
        Ok(Self { checkpoint, device, dtype })
    }
}

/// Loads the model with a progress bar on standard error, if that is a terminal.
pub fn load<B: Backend>(
    checkpoint: &Checkpoint,
    dtype: DType,
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
    let options = LoadOptions { dtype, on_bytes: Some(&report) };
    let model = models::load::<B>(checkpoint, options, device);
    bar.finish_and_clear();
    model
}

fn path(model: Option<&Path>) -> Result<PathBuf, Failure> {
    let Some(model) = model else { return default_model() };
    if model.exists() {
        return Ok(model.to_path_buf());
    }
    match hub_snapshot(model) {
        Some(snapshot) => Ok(snapshot),
        None => Err(FormatError::MissingFile {
            path: model.to_path_buf(),
            expected: "a model folder, a .gguf file, or the id of a model that is in the local \
                       Hugging Face cache (this version downloads nothing)"
                .into(),
        }
        .into()),
    }
}

fn default_model() -> Result<PathBuf, Failure> {
    let here = PathBuf::from(DEFAULT_MODEL);
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join(DEFAULT_MODEL);
    [here, built].into_iter().find(|path| path.exists()).ok_or_else(|| {
        format!("no --model given, and the small model is not at {DEFAULT_MODEL}").into()
    })
}

/// The snapshot of `organisation/name` in the cache that Hugging Face's own tools keep.
fn hub_snapshot(id: &Path) -> Option<PathBuf> {
    let id = id.to_str()?;
    let (organisation, name) = id.split_once('/')?;
    if name.contains('/') || organisation.is_empty() || organisation.starts_with('.') {
        return None;
    }
    let home = || std::env::home_dir().map(|home| home.join(".cache/huggingface"));
    let hub = match std::env::var_os("HF_HOME") {
        Some(path) => PathBuf::from(path),
        None => home()?,
    }
    .join("hub");
    let model = hub.join(format!("models--{organisation}--{name}"));
    let revision = std::fs::read_to_string(model.join("refs/main")).ok()?;
    let snapshot = model.join("snapshots").join(revision.trim());
    snapshot.is_dir().then_some(snapshot)
}
