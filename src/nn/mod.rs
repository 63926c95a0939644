//! The layers that decoders are built from, each written once against [`Backend`].
//!
//! Linear layers and embeddings have slots for what adapters change: [`DeltaSet`]. It is an argument
//! of a forward pass and no state of the layers.
//!
//! Activations travel as `[batch · positions, features]`; only attention sees the four dimensions.
//!
//! [`Backend`]: crate::backend::Backend

mod active;
mod attention;
mod choice;
mod deltas;
mod embedding;
mod error;
mod linear;
mod linears;
mod matrix;
mod mlp;
mod norm;
mod parts;
mod rope;
mod slots;
mod stream;
mod weights;

pub use active::Active;
pub use attention::{Attention, AttentionConfig};
pub use choice::{Choice, Deltas};
pub use deltas::{DeltaError, DeltaSet, LowRank, ParkedDeltas, Replacement};
pub use embedding::Embedding;
pub use error::LayerError;
pub use linear::Linear;
pub use linears::Linears;
pub use matrix::{Matrix, PackedWeight};
pub use mlp::SwiGluMlp;
pub use norm::RmsNorm;
pub use rope::{RopeFrequencies, RopeScaling};
pub use slots::{Slot, SlotKind, SlotTable, Slots, Stored};
pub use stream::Stream;
pub use weights::{LoadError, Weights};
