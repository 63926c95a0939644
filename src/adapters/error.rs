//! What can be wrong with an adapter, each with the file, the place, what was expected and what was
//! found.

use std::path::PathBuf;

use thiserror::Error;

use crate::{
    backend::PackError,
    evaluation::EvaluationError,
    formats::{FormatError, Shown},
    nn::DeltaError,
    quant::QuantError,
};

/// Why an adapter could not be read, applied or merged.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// A file cannot be read.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The configuration asks for something that does not make sense or is not done here.
    #[error("{}: key {}: expected {expected}, found {}", file.display(), Shown(key), Shown(found))]
    Config {
        /// The configuration's file.
        file: PathBuf,
        /// The key.
        key: String,
        /// What was expected.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A tensor that belongs to the adapter is absent.
    #[error(
        "{}: tensor {}: expected shape {expected}, found no such tensor ({})",
        file.display(), Shown(tensor), Shown(why)
    )]
    Missing {
        /// The adapter's file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape that it should have.
        expected: String,
        /// Why it should be there.
        why: String,
    },
    /// A tensor that has no place in the adapter, or none in the base model.
    #[error("{}: tensor {}: expected {}, found shape {found:?}", file.display(), Shown(tensor), Shown(expected))]
    Unexpected {
        /// The adapter's file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// What may be there.
        expected: String,
        /// The shape found.
        found: Vec<usize>,
    },
    /// A tensor of another shape than its configuration or the base model says.
    #[error(
        "{}: tensor {}: expected shape {expected:?} ({}), found {found:?}",
        file.display(), Shown(tensor), Shown(why)
    )]
    Shape {
        /// The adapter's file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape needed.
        expected: Vec<usize>,
        /// What needs it.
        why: String,
        /// The shape found.
        found: Vec<usize>,
    },
    /// A tensor is stored as something else than floats.
    #[error("{}: tensor {}: expected F32, F16 or BF16, found {found}", file.display(), Shown(tensor))]
    Dtype {
        /// The adapter's file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// How it is stored.
        found: String,
    },
    /// The stored bytes of a tensor do not decode.
    #[error("{}: tensor {}: {source}", file.display(), Shown(tensor))]
    Decode {
        /// The adapter's file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong with them.
        source: QuantError,
    },
    /// Nothing is registered under this name.
    #[error("no adapter is called {name:?} (there are: {known})")]
    Unknown {
        /// The name.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The name is taken.
    #[error("an adapter is called {name:?} already: unload it first")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// Adapters cannot be used together, or with this model.
    #[error(transparent)]
    Delta(#[from] DeltaError),
    /// What is in use leaves too little of the budget.
    #[error(
        "adapter {name:?} takes {needed} bytes on the device, but {in_use} of the budget of \
         {budget} bytes are in use"
    )]
    Budget {
        /// The adapter, or adapters.
        name: String,
        /// Bytes that it takes.
        needed: u64,
        /// Bytes of adapters that cannot be given up now.
        in_use: u64,
        /// Bytes that may be used.
        budget: u64,
    },
    /// The base's blocks cannot be read.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// Merging a packed base was not asked for.
    #[error(
        "{module}: the base is stored as {encoding}: merging makes it dense, {dense} bytes instead \
         of {packed}, and has to be asked for"
    )]
    PackedBase {
        /// The first such module.
        module: String,
        /// How it is stored.
        encoding: &'static str,
        /// Bytes of its stored matrix.
        packed: u64,
        /// Bytes of it when it is dense.
        dense: u64,
    },
    /// A comparison of the merged model with the unmerged one failed.
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
    /// The device failed.
    #[error("reading {what} back from the device: {reason}")]
    Device {
        /// What was read.
        what: String,
        /// What the device said.
        reason: String,
    },
}
