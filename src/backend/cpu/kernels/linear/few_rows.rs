//! The linear layer for few rows: dot products along the depth, straight from the stored weights.
//!
//! Every weight is read once, in the order of memory, and used for all rows of `x`, which stay in the first-level cache.

use super::super::added::Added;
use super::super::parallel::{FORK_BYTES, TileMut, Tiles, is_for_one};
use super::super::simd::{Element, Isa, Kernel, Simd};

/// Bytes of weights in one task: long enough to stream, short enough to balance threads.
const TASK_BYTES: usize = 32 * 1024;

/// `out[r, o] = Σᵢ x[r, i] · w[o, i] + added[o]`; neither `out` nor `depth` is empty.
pub(in super::super) fn few_rows<W: Element>(
    isa: Isa,
    x: &[f32],
    w: &[W],
    depth: usize,
    added: Added<'_>,
    out: &mut [f32],
) {
    let rows = x.len() / depth;
    let features = w.len() / depth;
    let row_bytes = depth * size_of::<W>();
    let task = if is_for_one(features * row_bytes, FORK_BYTES) {
        features
    } else {
        let threads = rayon::current_num_threads();
        let even = features.div_ceil(threads * 4);
        even.max(TASK_BYTES / row_bytes).next_multiple_of(16)
    };
    let tiles = Tiles::new(out, (rows, features), (rows, task));
    added.for_each_tile(isa, x, &tiles, |out| {
        let columns = out.column_range();
        let kernel = Dots {
            x,
            rows,
            w: &w[columns.start * depth..],
            stride: depth,
            depth,
            bias: added.bias.map(|b| &b[columns.clone()]),
            features: columns.len(),
            out,
        };
        isa.run(kernel);
    });
}

/// `out[r][o] = Σᵢ x[r, i] · w[o · stride + i] + bias[o]` on one thread.
pub(in super::super) struct Dots<'a, 'b, W> {
    /// `[rows, depth]`
    pub(in super::super) x: &'a [f32],
    pub(in super::super) rows: usize,
    /// Rows of `depth` values, `stride` apart.
    pub(in super::super) w: &'a [W],
    pub(in super::super) stride: usize,
    pub(in super::super) depth: usize,
    pub(in super::super) bias: Option<&'a [f32]>,
    /// Rows of `w`.
    pub(in super::super) features: usize,
    pub(in super::super) out: &'a mut TileMut<'b>,
}

impl<'a, 'b, W> Dots<'a, 'b, W> {
    /// Of one row, with as many features as `out` has columns.
    pub(in super::super) fn of_row(x: &'a [f32], w: &'a [W], out: &'a mut TileMut<'b>) -> Self {
        let (depth, features) = (x.len(), out.column_range().len());
        Self { x, rows: 1, w, stride: depth, depth, bias: None, features, out }
    }
}

impl<W: Element> Kernel for Dots<'_, '_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        // A single row waits for memory only, which likes one stream of addresses best: a feature at a time. More rows
        // have arithmetic to save: each load of `x` serves several features, as many as the registers allow.
        match (self.rows, S::PANEL >= 4) {
            (1, _) => self.all::<S, 1, 1, 4>(simd),
            (2, _) => self.all::<S, 2, 4, 1>(simd),
            (3, true) => self.all::<S, 3, 4, 1>(simd),
            (_, true) => self.all::<S, 4, 4, 1>(simd),
            (_, false) => self.all::<S, 4, 2, 1>(simd),
        }
    }
}

impl<W: Element> Dots<'_, '_, W> {
    /// All features for all rows: up to `R` rows times `F` features at once, with `U` sums for each.
    #[inline(always)]
    fn all<S: Simd, const R: usize, const F: usize, const U: usize>(&mut self, simd: S) {
        let mut feature = 0;
        while feature + F <= self.features {
            self.rows::<S, R, F, U>(simd, feature);
            feature += F;
        }
        while feature < self.features {
            self.rows::<S, R, 1, U>(simd, feature);
            feature += 1;
        }
    }

    #[inline(always)]
    fn rows<S: Simd, const R: usize, const F: usize, const U: usize>(
        &mut self,
        simd: S,
        feature: usize,
    ) {
        let mut row = 0;
        while row + R <= self.rows {
            self.block::<S, R, F, U>(simd, row, feature);
            row += R;
        }
        if R > 2 && row + 2 <= self.rows {
            self.block::<S, 2, F, U>(simd, row, feature);
            row += 2;
        }
        while row < self.rows {
            self.block::<S, 1, F, U>(simd, row, feature);
            row += 1;
        }
    }

    #[inline(always)]
    fn block<S: Simd, const R: usize, const F: usize, const U: usize>(
        &mut self,
        simd: S,
        row: usize,
        feature: usize,
    ) {
        let depth = self.depth;
        let x: [&[f32]; R] = std::array::from_fn(|r| &self.x[(row + r) * depth..][..depth]);
        let w: [&[W]; F] = std::array::from_fn(|f| &self.w[(feature + f) * self.stride..][..depth]);
        let next = w[0].as_ptr().wrapping_add(F * self.stride);
        let mut sums = [[[simd.splat(0.0); U]; F]; R];
        let mut k = 0;
        while k + U * S::LANES <= depth {
            for u in 0..U {
                let at = k + u * S::LANES;
                let mut weights = [simd.splat(0.0); F];
                for f in 0..F {
                    if F > 1 {
                        // The next features, in the order of memory: F streams of addresses would be too many.
                        simd.prefetch(next.wrapping_add(F * at + f * S::LANES));
                    }
                    weights[f] = W::load(simd, &w[f][at..at + S::LANES]);
                }
                for r in 0..R {
                    let x = simd.load(&x[r][at..at + S::LANES]);
                    for f in 0..F {
                        sums[r][f][u] = simd.fma(x, weights[f], sums[r][f][u]);
                    }
                }
            }
            k += U * S::LANES;
        }
        while k < depth {
            let end = depth.min(k + S::LANES);
            for f in 0..F {
                let weights = W::load_partial(simd, &w[f][k..end]);
                for r in 0..R {
                    let x = simd.load_partial(&x[r][k..end]);
                    sums[r][f][0] = simd.fma(x, weights, sums[r][f][0]);
                }
            }
            k = end;
        }
        for (r, sums) in sums.iter().enumerate() {
            let mut totals = [0.0; F];
            for f in 0..F {
                let mut sum = sums[f][0];
                for other in &sums[f][1..] {
                    sum = simd.add(sum, *other);
                }
                totals[f] = simd.reduce_add(sum) + self.bias.map_or(0.0, |b| b[feature + f]);
            }
            self.out.row(row + r)[feature..feature + F].copy_from_slice(&totals);
        }
    }
}
