//! Products in single precision: a few rows of weights at a time are dequantised, and the kernels of `linear` do the rest.

use super::super::linear::{Dots, FEW, Source, many_rows};
use super::super::parallel::{FORK_BYTES, Tiles, for_each_task};
use super::super::scratch::with_scratch;
use super::super::simd::Isa;
use super::PackedMatrix;
use crate::quant;
use std::ops::Range;

/// Features that are dequantised at a time for few rows of `x`.
const FEATURES: usize = 8;

impl PackedMatrix<'_> {
    /// Dequantises consecutive rows.
    fn dequantise_rows(&self, first: usize, to: &mut [f32]) {
        let mut row = Vec::with_capacity(self.row_bytes());
        for (feature, to) in to.chunks_exact_mut(self.depth).enumerate() {
            row.clear();
            self.append_row(first + feature, &mut row);
            quant::dequantize(self.encoding, &row, to)
                .expect("rows of a packed matrix are whole blocks");
        }
    }
}

/// `out = x · wᵀ + bias`; neither `out` nor the depth is empty.
pub(super) fn exact(
    isa: Isa,
    x: &[f32],
    rows: usize,
    w: &PackedMatrix<'_>,
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    let (features, depth) = (w.features, w.depth);
    if rows > FEW {
        let widen = |features: Range<usize>, to: &mut [f32]| w.dequantise_rows(features.start, to);
        many_rows(isa, x, Source::Widened(&widen), depth, bias, out);
        return;
    }
    let tiles = Tiles::new(out, (rows, features), (rows, FEATURES));
    // Dequantising takes several times as long as reading what it makes.
    let whole = features * depth <= FORK_BYTES / 16;
    let tasks = if whole { 1 } else { (4 * rayon::current_num_threads()).min(tiles.across()) };
    let each = tiles.across().div_ceil(tasks);
    for_each_task(tiles.across().div_ceil(each), |task| {
        with_scratch(FEATURES * depth, |wide| {
            for along in task * each..tiles.across().min((task + 1) * each) {
                let mut out = tiles.take(0, along);
                let columns = out.column_range();
                let wide = &mut wide[..columns.len() * depth];
                w.dequantise_rows(columns.start, wide);
                isa.run(Dots {
                    x,
                    rows,
                    w: &*wide,
                    stride: depth,
                    depth,
                    bias: bias.map(|b| &b[columns.clone()]),
                    features: columns.len(),
                    out: &mut out,
                });
            }
        });
    });
}
