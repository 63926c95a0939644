//! What can go wrong.

use std::path::PathBuf;

use thiserror::Error;

use crate::models::{BatchError, ModelError};

/// Why a model could not be evaluated.
#[derive(Debug, Error)]
pub enum EvaluationError {
    /// The text fills no window.
    #[error("the text has {tokens} tokens, less than one window of {length}")]
    Short {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens of a window.
        length: usize,
    },
    /// A model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The tokens are no batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The results could not be read back.
    #[error("reading the logits back: {0}")]
    Device(String),
    /// The base predicts other tokens.
    #[error("the base has a vocabulary of {base} tokens, the model one of {model}")]
    Vocabulary {
        /// Tokens of the base.
        base: usize,
        /// Tokens of the model.
        model: usize,
    },
    /// A file of predictions is not what it should be.
    #[error("{}: expected {expected}, found {found}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What was expected.
        expected: String,
        /// What there is.
        found: String,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}
