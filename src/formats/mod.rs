//! Model files: bytes on disk to named tensors.
//!
//! Two containers are read, each from a memory map and without copying:
//!
//! * safetensors, one file or shards with an index (source of truth: the safetensors format
//!   description and the `safetensors` crate);
//! * GGUF versions 2 and 3 (source of truth: ggml's `docs/gguf.md` and `gguf.cpp`).
//!
//! [`Container`] opens either and tells what is inside. [`Checkpoint`] adds a configuration in
//! Hugging Face's shape and tensors by Hugging Face's names, whatever the file calls them: that is
//! what models read.
//!
//! Both are written, too: [`safetensors::write`], [`gguf::write`].
//!
//! Files are taken to be hostile. Every count, length and offset is checked against the bytes that
//! are really there before it is used, memory grows with the file and never with what a header
//! claims, and whatever is wrong becomes a [`FormatError`] that names the file and the place.

mod checkpoint;
mod container;
mod error;
pub mod gguf;
mod map;
mod output;
mod random;
pub mod safetensors;
mod tensor;

pub use checkpoint::{Checkpoint, TokenizerSource};
pub use container::Container;
pub(crate) use container::read_object;
pub use error::{FormatError, Result};
pub(crate) use error::{Shown, similar_names};
pub use gguf::GgufFile;
pub use output::TensorSpec;
pub use random::RandomWeights;
pub use safetensors::{SafetensorsFile, SafetensorsSet};
pub use tensor::{RawTensor, TensorInfo};
