//! How weight values are stored, and how to get them back: plain Rust on slices.
//!
//! The block formats are ggml's; their layouts are those of `ggml-common.h` and their values are
//! bit-equal to ggml's `dequantize_row_*`. This module knows nothing of files, tensors or devices.
//!
//! One file per format: [`Encoding`] names them, [`dequantize`] and [`dequantize_f16`] decode any.

mod decode;
mod encoding;
mod float;
mod grids;
mod iq1_m;
mod iq1_s;
mod iq2_s;
mod iq2_xs;
mod iq2_xxs;
mod iq3_s;
mod iq3_xxs;
mod iq4_nl;
mod iq4_xs;
mod mxfp4;
mod nvfp4;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod tq1_0;
mod tq2_0;

pub use decode::{dequantize, dequantize_f16};
pub use encoding::Encoding;
pub use float::encode_floats;

/// Why a slice of stored values could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuantError {
    /// The number of values is not a whole number of blocks (or its bytes overflow `usize`).
    #[error("{encoding}: expected a multiple of {} values, found {elements}", encoding.block_len())]
    PartialBlock {
        /// The format asked for.
        encoding: Encoding,
        /// Number of values asked for.
        elements: usize,
    },
    /// The stored bytes are too few or too many for the number of values.
    #[error("{encoding}: expected {expected} bytes for {elements} values, found {found}")]
    Length {
        /// The format asked for.
        encoding: Encoding,
        /// Number of values asked for.
        elements: usize,
        /// Bytes that so many values take.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
}
