//! Decoders: one file per architecture, and the registry that finds it by the checkpoint's
//! `model_type` (or GGUF's `general.architecture`).

mod cache;
mod config;
mod decoder;
mod llama;
mod memory;
mod shapes;
mod tokens;

use std::{fmt, path::PathBuf};

use burn::tensor::{DType, Tensor};
use thiserror::Error;

pub use cache::Cache;
pub use config::DecoderConfig;
pub use llama::Llama;
pub use memory::{DoesNotFit, MemoryError, MemoryPlan, Unpacked, Workload, check_memory, unpacked};
pub use shapes::{SHAPES, shape};
pub use tokens::{BatchError, TokenBatch};

use crate::{
    backend::{Backend, CacheError, PackError},
    formats::{Checkpoint, FormatError},
    nn::{LayerError, LoadError, Weights},
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

/// A causal language model on a device.
pub trait CausalLm<B: Backend>: Send + std::fmt::Debug {
    /// What it is made of.
    fn config(&self) -> &DecoderConfig;

    /// Where it is.
    fn device(&self) -> &B::Device;

    /// How its matrices are stored.
    fn dtype(&self) -> DType;

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
        self.forward_observed(tokens, cache, rows, None)
    }

    /// [`forward`](Self::forward) that shows its hidden states to an observer, if there is one.
    /// Without one, nothing is computed for it.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    fn forward_observed(
        &self,
        tokens: &TokenBatch,
        cache: Option<&mut Cache<B>>,
        rows: LogitRows,
        observer: Option<&mut Observer<'_, B>>,
    ) -> Result<Tensor<B, 3>, ModelError>;

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

/// Loads one architecture.
type Loader<B> = fn(
    &Weights<'_, B>,
    DecoderConfig,
    DType,
    &<B as burn::tensor::backend::BackendTypes>::Device,
) -> Result<Box<dyn CausalLm<B>>, ModelError>;

/// The registry: `model_type` to loader.
fn registry<B: Backend>() -> [(&'static str, Loader<B>); 1] {
    [("llama", |w, c, t, d| Ok(Box::new(Llama::load(w, c, t, d)?)))]
}

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
    let architecture = checkpoint.architecture()?;
    let registry = registry::<B>();
    let Some((_, loader)) = registry.iter().find(|(name, _)| *name == architecture) else {
        return Err(ModelError::Architecture {
            file: checkpoint.path().to_path_buf(),
            found: architecture,
            supported: registry.map(|(name, _)| name).join(", "),
        });
    };
    let config = DecoderConfig::from_json(checkpoint.config(), checkpoint.config_path())?;
    for formats in unpacked::<B>(checkpoint, &options, device)? {
        tracing::warn!(
            "{}: {formats} ({} has no kernel)",
            checkpoint.path().display(),
            B::name(device)
        );
    }
    let mut weights =
        Weights::new(checkpoint, device, options.dtype).dequantized(options.dequantize);
    if let Some(report) = options.on_bytes {
        weights = weights.on_bytes(report);
    }
    loader(&weights, config, options.dtype, device)
}
