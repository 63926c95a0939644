//! The linear layer on block-quantised weights, read as a GGUF file stores them.
//!
//! Sixteen features form a *panel*. A slice of its depth is unpacked into first-level cache ([`formats`]), one word of
//! four codes per feature side by side; then every row of `x` is multiplied with it ([`integers`]). Where the rows of a
//! panel lie side by side ([`arranged`]), one or two rows are multiplied with codes as they are unpacked, which then are
//! not put into memory first: the same sums, bit for bit.
//!
//! With [`Activations::Quantised`] the scheme is ggml's (`Q8_0`, `Q8_1`): `x` becomes 8-bit codes with a scale for each
//! block of 32 values, weight codes are multiplied with them in integers, and each group of 16 or 32 values adds
//! `factor · scale · Σ code·q + minimum · scale · Σ q` to its sum in single precision. The groups are added in the order
//! of the depth whatever the number of rows or threads, so a row's result does not depend on either.
//!
//! With [`Activations::Exact`] a few rows of weights at a time are dequantised for the kernels of `linear`.

mod activations;
mod arranged;
mod exact;
mod formats;
mod integers;
mod product;

use super::added::Added;
use super::simd::Isa;
use crate::quant::Encoding;
use integers::{Instructions, Words};

pub use arranged::ArrangedMatrix;

/// How the left factor of [`packed_linear`] enters the products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activations {
    /// As it is: single-precision products with dequantised weights. What the tests hold the other way against; models
    /// take that one.
    #[cfg_attr(not(test), allow(dead_code))]
    Exact,
    /// Rounded to 8 bits for each block of 32 values: several times as fast, and an error of up to 1/254 of a block's
    /// greatest value in each of its values.
    Quantised,
}

/// Why bytes are no [`PackedMatrix`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackedMatrixError {
    /// The format stores single values, which [`super::linear`] takes, or blocks that have no kernel.
    #[error("no kernel takes {encoding} as it is stored")]
    NoKernel {
        /// The format.
        encoding: Encoding,
    },
    /// The bytes do not hold the shape.
    #[error(
        "packed matrix [{features}, {depth}] as {encoding}: expected {}, found {found} bytes",
        expected.map_or_else(
            || format!("a depth in multiples of {}", encoding.block_len()),
            |bytes| format!("{bytes} bytes"),
        )
    )]
    Size {
        /// The format.
        encoding: Encoding,
        /// Rows.
        features: usize,
        /// Values in a row.
        depth: usize,
        /// Bytes that the shape takes; `None` if a row is not whole blocks, or on overflow.
        expected: Option<usize>,
        /// Bytes given.
        found: usize,
    },
}

/// A weight matrix `[features, depth]`: rows of blocks, at any address.
#[derive(Clone, Copy, Debug)]
pub struct PackedMatrix<'a> {
    /// The rows after those in panels.
    bytes: &'a [u8],
    /// The first rows, where they are [arranged](ArrangedMatrix).
    panels: &'a [Words],
    encoding: Encoding,
    features: usize,
    depth: usize,
}

impl<'a> PackedMatrix<'a> {
    /// Checks that `bytes` hold exactly that shape.
    ///
    /// # Errors
    /// [`PackedMatrixError`] if they do not, or if no kernel [takes](Self::takes) the format.
    pub fn new(
        bytes: &'a [u8],
        encoding: Encoding,
        features: usize,
        depth: usize,
    ) -> Result<Self, PackedMatrixError> {
        if !Self::takes(encoding) {
            return Err(PackedMatrixError::NoKernel { encoding });
        }
        let expected = encoding.bytes_for(depth).and_then(|row| row.checked_mul(features));
        if expected == Some(bytes.len()) {
            Ok(Self { bytes, panels: &[], encoding, features, depth })
        } else {
            let found = bytes.len();
            Err(PackedMatrixError::Size { encoding, features, depth, expected, found })
        }
    }

    /// Whether there is a kernel for blocks of a format.
    pub fn takes(encoding: Encoding) -> bool {
        product::kernel(encoding).is_some()
    }

    /// Bytes in a row.
    fn row_bytes(&self) -> usize {
        self.depth / self.encoding.block_len() * self.encoding.block_bytes()
    }
}

/// `out = x · wᵀ + added`.
///
/// # Shapes
///
/// `x` is `[rows, depth]`, `w` is `[features, depth]`, `out` is `[rows, features]`; every size may be zero.
///
/// # Panics
///
/// If a length does not match its shape.
pub fn packed_linear(
    x: &[f32],
    rows: usize,
    w: &PackedMatrix<'_>,
    added: Added<'_>,
    activations: Activations,
    out: &mut [f32],
) {
    let depth = w.depth;
    assert_eq!(x.len(), rows * depth, "packed linear: length of x");
    assert_eq!(out.len(), rows * w.features, "packed linear: length of out");
    added.check(rows, w.features, depth);
    if out.is_empty() {
        return;
    }
    if depth == 0 {
        added.alone(out);
        return;
    }
    match activations {
        Activations::Exact => {
            assert!(added.low_rank.is_none(), "packed linear: an exact product adds a bias alone");
            exact::exact(Isa::best(), x, rows, w, added.bias, out);
        }
        Activations::Quantised => product::quantised(Instructions::best(), x, rows, w, added, out),
    }
}

/// Bytes of memory for `rows` of quantised activations.
pub fn quantised_bytes(rows: usize, depth: usize) -> usize {
    // Groups of 32 and of 16 values: the formats have either.
    4 * activations::Quantised::floats(rows, depth, 16)
}

#[cfg(test)]
mod tests;
