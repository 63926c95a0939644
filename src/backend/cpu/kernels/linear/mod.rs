//! The linear layer: `out[r, o] = Σᵢ x[r, i] · w[o, i] + added[o]`, with `w` as files store it, `[out, in]`.
//!
//! Few rows (a decode step) are bound by reading the weights once from memory: [`few_rows`]. Many rows (a prompt) are
//! bound by arithmetic: [`many_rows`].

mod few_rows;
mod many_rows;

use super::added::Added;
use super::simd::Isa;
use half::f16;
use std::ops::Range;

pub(super) use few_rows::{Dots, few_rows};
use many_rows::Widen;
pub(super) use many_rows::{Source, many_rows};

/// Up to this many rows [`few_rows`] is the faster one.
pub(super) const FEW: usize = 8;

/// A weight matrix `[out_features, in_features]`, row-major.
#[derive(Clone, Copy, Debug)]
pub enum Weight<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// Half precision; half the bytes to read, and exact in the single precision that the kernel computes with.
    F16(&'a [f16]),
}

impl Weight<'_> {
    pub(super) fn len(self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F16(values) => values.len(),
        }
    }
}

/// `out = x · wᵀ + added`, in single precision.
///
/// # Shapes
///
/// `x` is `[rows, in_features]`, `w` is `[out_features, in_features]`, `out` is `[rows, out_features]`; every size may be
/// zero.
///
/// # Panics
///
/// If a length does not match its shape.
pub fn linear(
    x: &[f32],
    rows: usize,
    w: Weight<'_>,
    out_features: usize,
    in_features: usize,
    added: Added<'_>,
    out: &mut [f32],
) {
    linear_on(Isa::best(), x, rows, w, out_features, in_features, added, out);
}

fn linear_on(
    isa: Isa,
    x: &[f32],
    rows: usize,
    w: Weight<'_>,
    out_features: usize,
    in_features: usize,
    added: Added<'_>,
    out: &mut [f32],
) {
    assert_eq!(x.len(), rows * in_features, "linear: length of x");
    assert_eq!(w.len(), out_features * in_features, "linear: length of the weight");
    assert_eq!(out.len(), rows * out_features, "linear: length of out");
    added.check(rows, out_features, in_features);
    if out.is_empty() {
        return;
    }
    if in_features == 0 {
        added.alone(out);
        return;
    }
    let bias = added.bias;
    match (w, rows <= FEW) {
        (Weight::F32(w), true) => few_rows(isa, x, w, in_features, added, out),
        (Weight::F16(w), true) => few_rows(isa, x, w, in_features, added, out),
        (Weight::F32(w), false) => many_rows(isa, x, Source::F32(w), in_features, bias, out),
        (Weight::F16(w), false) => {
            let widen = |features: Range<usize>, to: &mut [f32]| {
                let from = &w[features.start * in_features..features.end * in_features];
                isa.run(Widen { from, to });
            };
            many_rows(isa, x, Source::Widened(&widen), in_features, bias, out);
        }
    }
}

#[cfg(test)]
mod tests;
