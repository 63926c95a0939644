//! Decoders: the body that they share, one file per architecture for what differs, and the registry
//! that finds it by the checkpoint's `model_type` (or GGUF's `general.architecture`).

mod ahead;
mod cache;
mod classifier;
mod config;
mod decoder;
mod export;
mod language_model;
mod llama;
mod memory;
mod mistral;
mod qwen2;
mod shapes;
mod tokens;

use std::{fmt, path::PathBuf, sync::Arc};

use burn::tensor::{DType, Tensor};
use thiserror::Error;

pub use cache::Cache;
pub use classifier::SequenceClassifier;
use config::Keys;
pub use config::{DecoderConfig, SlidingWindow};
use language_model::LanguageModel;
pub use memory::{DoesNotFit, MemoryError, MemoryPlan, Unpacked, Workload, check_memory, unpacked};
pub use shapes::{SHAPES, shape};
pub use tokens::{BatchError, TokenBatch};

use crate::{
    backend::{Backend, CacheError, Chosen, PackError},
    formats::{Checkpoint, FormatError},
    nn::{DeltaError, Deltas, LayerError, LoadError, Slots, Weights},
};

/// Why a model could not be loaded or run.
#[derive(Debug, Error)]
pub enum ModelError {
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A weight cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// No file here implements the architecture.
    #[error("{}: architecture {found:?} is not supported (supported: {supported})", file.display())]
    Architecture {
        /// The checkpoint.
        file: PathBuf,
        /// What it says it is.
        found: String,
        /// What there is.
        supported: String,
    },
    /// The configuration does not make sense.
    #[error("{}: {key}: expected {expected}, found {found}", file.display())]
    Config {
        /// The checkpoint.
        file: PathBuf,
        /// The key.
        key: String,
        /// What was expected.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A token outside the vocabulary.
    #[error("token {token} is outside the vocabulary of {vocabulary}")]
    Token {
        /// The token.
        token: u32,
        /// Tokens there are.
        vocabulary: usize,
    },
    /// The tokens' rows are not the cache's.
    #[error("the cache was made for {cache} sequences, but {tokens} were given")]
    Batch {
        /// Sequences of the cache.
        cache: usize,
        /// Sequences given.
        tokens: usize,
    },
    /// The sequences do not make a batch.
    #[error(transparent)]
    Tokens(#[from] BatchError),
    /// The adapters do not belong to the model or the batch.
    #[error(transparent)]
    Delta(#[from] DeltaError),
    /// The cache cannot take the positions.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The backend cannot use packed weights.
    #[error(transparent)]
    Pack(#[from] PackError),
}

impl From<LayerError> for ModelError {
    fn from(error: LayerError) -> Self {
        match error {
            LayerError::Cache(error) => Self::Cache(error),
            LayerError::Pack(error) => Self::Pack(error),
        }
    }
}

/// Which positions a forward pass gives logits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitRows {
    /// Every position.
    All,
    /// The last position of each sequence.
    Last,
}

/// What a forward pass goes through on its way to the logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HiddenState {
    /// The tokens' rows of the embedding.
    Embedding,
    /// What this layer passes on, counted from 0: the stream with all that the layer adds to it.
    Layer(usize),
    /// What the output layer takes; only the rows that logits are wanted for.
    FinalNorm,
}

/// As transformers' hidden states are called in `fixtures/reference`.
impl fmt::Display for HiddenState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding => f.write_str("hidden.embed"),
            Self::Layer(layer) => write!(f, "hidden.layer.{layer}"),
            Self::FinalNorm => f.write_str("hidden.final_norm"),
        }
    }
}

/// Called with each hidden state as it is made: `[batch, positions, hidden]`, in the type of the
/// activations.
pub type Observer<'a, B> = dyn FnMut(HiddenState, Tensor<B, 3>) + 'a;

/// What is asked of a forward pass.
pub struct Pass<'a, 'o, B: Backend> {
    /// The positions to give logits for.
    pub rows: LogitRows,
    /// What adapters change in the layers.
    pub deltas: Deltas<'a, B>,
    /// Who is shown the hidden states. Without anybody, nothing is computed for it.
    pub observer: Option<&'a mut Observer<'o, B>>,
}

impl<B: Backend> Pass<'_, '_, B> {
    /// These positions, by the base alone and without an observer.
    pub fn of(rows: LogitRows) -> Self {
        Self { rows, deltas: Deltas::NONE, observer: None }
    }
}

/// A causal language model on a device.
pub trait CausalLm<B: Backend>: Send + Sync + std::fmt::Debug {
    /// What it is made of.
    fn config(&self) -> &DecoderConfig;

    /// Where it is.
    fn device(&self) -> &B::Device;

    /// How its matrices are stored.
    fn dtype(&self) -> DType;

    /// Where adapters can step in.
    fn slots(&self) -> &Arc<Slots<B>>;

    /// Logits in f32: `[batch, positions, vocabulary]`, or `[batch, 1, vocabulary]` for
    /// [`LogitRows::Last`]. With a cache, the tokens follow what it holds and are added to it.
    ///
    /// # Errors
    /// [`ModelError`] for a token outside the vocabulary, or a cache that is full or has another
    /// number of rows. The cache is then as it was.
    fn forward(
        &self,
        tokens: &TokenBatch,
        cache: Option<&mut Cache<B>>,
        rows: LogitRows,
    ) -> Result<Tensor<B, 3>, ModelError> {
        self.run(tokens, cache, Pass::of(rows))
    }

    /// [`forward`](Self::forward) with adapters, or with an observer.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and when the adapters are of another model or chosen for
    /// another number of sequences.
    fn run(
        &self,
        tokens: &TokenBatch,
        cache: Option<&mut Cache<B>>,
        pass: Pass<'_, '_, B>,
    ) -> Result<Tensor<B, 3>, ModelError>;

    /// To be called after a pass, while its logits are computed ([`Backend::read_while`]), when one more
    /// token of each sequence follows, by the same adapters: that step is then listed for the device
    /// already, where the backend can do so, and begins as soon as [`run`](Self::run) gets its tokens. For
    /// everybody else the cache is as before.
    fn look_ahead(&self, _cache: &mut Cache<B>, _deltas: Deltas<'_, B>) {}

    /// Runs the token of each sequence that the device has chosen, and has it choose again, so many times: to
    /// be called while the host still waits for the former ([`Backend::read_chosen`]). These steps are handed
    /// over together, and what they choose is there when all of them are done. Fewer when the cache is full
    /// then; none where the device cannot go on by itself, and the cache is as it was.
    fn choose_next(
        &self,
        _tokens: &Chosen<B>,
        _steps: usize,
        _cache: &mut Cache<B>,
        _deltas: Deltas<'_, B>,
    ) -> Vec<Chosen<B>> {
        Vec::new()
    }

    /// An empty cache for sequences with this left padding each (one entry a sequence).
    fn new_cache(&self, left_padding: &[usize], capacity: usize) -> Cache<B> {
        let dtype = B::cache_dtype(self.dtype());
        Cache::new(self.config(), left_padding, capacity, dtype, self.device())
    }
}

/// How a model is put on a device.
#[derive(Clone, Copy)]
pub struct LoadOptions<'a> {
    /// How matrices are stored: `F32` or `F16`. Packed ones stay packed where the backend can use
    /// them so.
    pub dtype: DType,
    /// Loads packed matrices as dense ones.
    pub dequantize: bool,
    /// Called with the file bytes of each tensor once it is loaded.
    pub on_bytes: Option<&'a (dyn Fn(u64) + Sync)>,
}

impl Default for LoadOptions<'_> {
    fn default() -> Self {
        Self { dtype: DType::F32, dequantize: false, on_bytes: None }
    }
}

impl<'a> LoadOptions<'a> {
    /// The root of a checkpoint, to be loaded so.
    fn weights<B: Backend>(
        self,
        checkpoint: &'a Checkpoint,
        device: &'a B::Device,
    ) -> Weights<'a, B> {
        let weights = Weights::new(checkpoint, device, self.dtype).dequantized(self.dequantize);
        match self.on_bytes {
            Some(report) => weights.on_bytes(report),
            None => weights,
        }
    }
}

/// What an architecture makes of a configuration.
type ReadConfig = fn(&Keys<'_>) -> Result<DecoderConfig, ModelError>;

/// The registry: `model_type`, and its file's way to read a configuration.
const REGISTRY: &[(&str, ReadConfig)] =
    &[("llama", llama::config), ("mistral", mistral::config), ("qwen2", qwen2::config)];

/// Loads the model of a checkpoint.
///
/// # Errors
/// [`ModelError`] when the architecture is unknown, the configuration makes no sense, or a tensor
/// is missing, has another shape or does not fit the device.
pub fn load<B: Backend>(
    checkpoint: &Checkpoint,
    options: LoadOptions<'_>,
    device: &B::Device,
) -> Result<Box<dyn CausalLm<B>>, ModelError> {
    let config = DecoderConfig::from_json(checkpoint.config(), checkpoint.config_path())?;
    for formats in unpacked::<B>(checkpoint, &options, device)? {
        tracing::warn!(
            "{}: {formats} ({} has no kernel)",
            checkpoint.path().display(),
            B::name(device)
        );
    }
    let weights = options.weights(checkpoint, device);
    Ok(Box::new(LanguageModel::load(&weights, config, options.dtype, device)?))
}
