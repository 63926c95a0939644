//! What a file says about a tensor, and its stored bytes.

use bytes::Bytes;

use crate::quant::Encoding;

/// A tensor as it is stored: a part of the memory map, unless its rows had to be reordered.
#[derive(Debug, Clone)]
pub struct RawTensor {
    /// The name it was asked for by.
    pub name: String,
    /// Row-major, slowest dimension first: a linear weight is `[out, in]`.
    pub shape: Vec<usize>,
    /// How the values are stored.
    pub encoding: Encoding,
    /// The stored values: exactly the bytes that `encoding` takes for `shape`; any alignment.
    pub bytes: Bytes,
}

impl RawTensor {
    /// Number of values.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// One line of a file's table of contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name in the file.
    pub name: String,
    /// Row-major, slowest dimension first.
    pub shape: Vec<usize>,
    /// The file's own name for the storage type, whether or not it can be decoded here.
    pub type_name: String,
    /// Stored size in bytes.
    pub bytes: usize,
}
