//! Why a layer could not be run.

use thiserror::Error;

use crate::backend::{CacheError, PackError};

/// Why a layer could not be run.
#[derive(Debug, Error)]
pub enum LayerError {
    /// The cache cannot take the positions.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The backend cannot use packed weights.
    #[error(transparent)]
    Pack(#[from] PackError),
}
