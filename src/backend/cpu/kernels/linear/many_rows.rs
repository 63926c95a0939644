//! The linear layer for many rows: `x` is packed into panels once, the weights are read in place.
//!
//! A task computes a block of features for a group of panels. Its weights are small enough to stay in the second-level
//! cache while panel after panel passes, and so is a panel while the features pass. Weights that are not single precision
//! are widened one task at a time.

use super::super::panel::{Coefficients, Panel, accumulate, pack, unpack};
use super::super::parallel::{TileMut, Tiles, for_each_task};
use super::super::scratch::with_scratch;
use super::super::simd::{Element, Isa, Kernel, Simd};
use std::ops::Range;

/// Features in a task: a multiple of the register block and of every vector length.
const FEATURES: usize = 48;
/// Depth that is summed before the next one starts, so that a panel's slice of it stays cached.
const DEPTH: usize = 1024;
/// The most lanes in a panel.
const MAX_PANEL: usize = 64;

/// Weights that become single precision.
#[derive(Clone, Copy)]
pub(in super::super) enum Source<'a> {
    /// They are.
    F32(&'a [f32]),
    /// Writes all values of a range of features.
    Widened(&'a (dyn Fn(Range<usize>, &mut [f32]) + Sync)),
}

/// `out = x · wᵀ + bias`; neither `out` nor `depth` is empty.
pub(in super::super) fn many_rows(
    isa: Isa,
    x: &[f32],
    w: Source<'_>,
    depth: usize,
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    let rows = x.len() / depth;
    let features = out.len() / rows;
    let panel = isa.panel_lanes();
    let panels = rows.div_ceil(panel);
    let blocks = features.div_ceil(FEATURES);
    // Enough tasks to balance the threads, but each with as many panels per reading of its weights as that allows.
    let groups = (4 * rayon::current_num_threads()).div_ceil(blocks).min(panels);
    let group = panels.div_ceil(groups);
    let padded = rows.next_multiple_of(isa.lanes());
    with_scratch(padded * depth, |packed| {
        let slices = Tiles::new(packed, (1, padded * depth), (1, panel * depth));
        let packing = |p: usize| {
            let rows = &x[p * panel * depth..];
            let rows = &rows[..rows.len().min(panel * depth)];
            isa.run(Packing { rows, depth, to: slices.take(0, p).row(0) });
        };
        for_each_task(panels, packing);
        drop(slices);
        let packed = &*packed;
        let tiles = Tiles::new(out, (rows, features), (group * panel, FEATURES));
        for_each_task(blocks * rows.div_ceil(group * panel), |task| {
            // Tasks that share weights run next to each other in time.
            let groups = rows.div_ceil(group * panel);
            let mut out = tiles.take(task % groups, task / groups);
            let columns = out.column_range();
            let packed = &packed[out.row_range().start * depth..];
            let bias = bias.map(|b| &b[columns.clone()]);
            let (from, to) = (columns.start * depth, columns.end * depth);
            match w {
                Source::F32(w) => {
                    isa.run(Block { packed, weights: &w[from..to], depth, bias, out: &mut out });
                }
                Source::Widened(widen) => with_scratch(to - from, |wide| {
                    widen(columns, wide);
                    isa.run(Block { packed, weights: wide, depth, bias, out: &mut out });
                }),
            }
        });
    });
}

/// Packs up to a panel of rows.
struct Packing<'a> {
    rows: &'a [f32],
    depth: usize,
    to: &'a mut [f32],
}

impl Kernel for Packing<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let depth = self.depth;
        let rows = self.rows.len() / depth;
        let lanes = rows.next_multiple_of(S::LANES);
        pack(simd, |r| &self.rows[r * depth..][..depth], rows, depth, lanes, self.to);
    }
}

/// Converts stored weights to single precision.
pub(super) struct Widen<'a, W> {
    pub(super) from: &'a [W],
    pub(super) to: &'a mut [f32],
}

impl<W: Element> Kernel for Widen<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let whole = self.from.len() / S::LANES * S::LANES;
        let (from, from_rest) = self.from.split_at(whole);
        let (to, to_rest) = self.to.split_at_mut(whole);
        for (from, to) in from.chunks_exact(S::LANES).zip(to.chunks_exact_mut(S::LANES)) {
            simd.store(W::load(simd, from), to);
        }
        simd.store_partial(W::load_partial(simd, from_rest), to_rest);
    }
}

/// One block of features for the rows of `out`.
struct Block<'a, 'b> {
    packed: &'a [f32],
    weights: &'a [f32],
    depth: usize,
    bias: Option<&'a [f32]>,
    out: &'a mut TileMut<'b>,
}

impl Kernel for Block<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { packed, weights, depth, bias, out } = self;
        let (rows, features) = (out.row_range().len(), out.column_range().len());
        let full = S::PANEL * S::LANES;
        let mut sums = [0.0; FEATURES * MAX_PANEL];
        for first in (0..rows).step_by(full) {
            let used = full.min(rows - first);
            let vectors = used.div_ceil(S::LANES);
            let lanes = vectors * S::LANES;
            let values = &packed[first * depth..][..lanes * depth];
            for (f, sums) in sums.chunks_exact_mut(lanes).take(features).enumerate() {
                sums.fill(bias.map_or(0.0, |b| b[f]));
            }
            for k in (0..depth).step_by(DEPTH) {
                let panel = Panel {
                    values: &values[k * lanes..],
                    stride: lanes,
                    depth: DEPTH.min(depth - k),
                    vectors,
                };
                let weights = Coefficients::FeatureRows(&weights[k..], depth);
                accumulate(simd, panel, weights, features, &mut sums, lanes);
            }
            unpack(simd, &sums, lanes, used, features, |row, column, values| {
                out.row(first + row)[column..][..values.len()].copy_from_slice(values);
            });
        }
    }
}
