//! The layers that decoders are built from, each written once against [`Backend`].
//!
//! Activations travel as `[batch · positions, features]`; only attention sees the four dimensions.
//!
//! [`Backend`]: crate::backend::Backend

mod attention;
mod embedding;
mod error;
mod linear;
mod linears;
mod matrix;
mod mlp;
mod norm;
mod rope;
mod weights;

pub use attention::{Attention, AttentionConfig};
pub use embedding::Embedding;
pub use error::LayerError;
pub use linear::Linear;
pub use linears::Linears;
pub use matrix::{Matrix, PackedWeight};
pub use mlp::SwiGluMlp;
pub use norm::RmsNorm;
pub use rope::{RopeFrequencies, RopeScaling};
pub use weights::{LoadError, Weights};
