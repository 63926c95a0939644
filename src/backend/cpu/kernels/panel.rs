//! The register-blocked kernel under every many-row product: sums of outer products.
//!
//! A *panel* holds several rows of a matrix side by side in the lanes of a few vectors, one depth after the other:
//! `panel[k][lane]`. [`accumulate`] adds `Σₖ c(f, k) · panel[k][lane]` to `sums[f][lane]`; the coefficients `c` are read
//! in place and broadcast, so only one operand is ever rearranged, and every vector operation is vertical. It serves the
//! linear layer (`c` = weights), attention scores (`c` = keys) and attention values (`c` = values or probabilities).

use super::simd::{MAX_LANES, Simd};

/// Coefficients in one register block: 6 × 4 vectors of sums fill 32 registers, 6 × 2 fill 16.
pub(super) const BLOCK: usize = 6;

/// Where the coefficient of `(feature, depth)` lies.
#[derive(Clone, Copy)]
pub(super) enum Coefficients<'a> {
    /// At `feature * stride + depth`.
    FeatureRows(&'a [f32], usize),
    /// At `depth * stride + feature`.
    DepthRows(&'a [f32], usize),
}

/// The panel and how to walk it: `values[k * stride + lane]` for `k` below `depth`.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    /// The values.
    pub(super) values: &'a [f32],
    /// From one depth to the next.
    pub(super) stride: usize,
    /// How many depths.
    pub(super) depth: usize,
    /// Vectors side by side: 1 to 4.
    pub(super) vectors: usize,
}

/// `sums[f * sums_stride + lane] += Σₖ c(f, k) · panel[k][lane]` for `f` below `features`.
#[inline(always)]
pub(super) fn accumulate<S: Simd>(
    simd: S,
    panel: Panel<'_>,
    coefficients: Coefficients<'_>,
    features: usize,
    sums: &mut [f32],
    sums_stride: usize,
) {
    match panel.vectors {
        1 => blocks::<S, 1>(simd, panel, coefficients, features, sums, sums_stride),
        2 => blocks::<S, 2>(simd, panel, coefficients, features, sums, sums_stride),
        3 => blocks::<S, 3>(simd, panel, coefficients, features, sums, sums_stride),
        4 => blocks::<S, 4>(simd, panel, coefficients, features, sums, sums_stride),
        other => unreachable!("{other} vectors in a panel"),
    }
}

#[inline(always)]
fn blocks<S: Simd, const V: usize>(
    simd: S,
    panel: Panel<'_>,
    coefficients: Coefficients<'_>,
    features: usize,
    sums: &mut [f32],
    stride: usize,
) {
    let mut f = 0;
    while f + BLOCK <= features {
        block::<S, V, BLOCK>(simd, panel, coefficients, f, &mut sums[f * stride..], stride);
        f += BLOCK;
    }
    if f + 2 < features {
        block::<S, V, 3>(simd, panel, coefficients, f, &mut sums[f * stride..], stride);
        f += 3;
    }
    while f < features {
        block::<S, V, 1>(simd, panel, coefficients, f, &mut sums[f * stride..], stride);
        f += 1;
    }
}

#[inline(always)]
fn block<S: Simd, const V: usize, const F: usize>(
    simd: S,
    panel: Panel<'_>,
    coefficients: Coefficients<'_>,
    feature: usize,
    sums: &mut [f32],
    stride: usize,
) {
    match coefficients {
        Coefficients::FeatureRows(values, from) => {
            let row = |f: usize| &values[(feature + f) * from..][..panel.depth];
            let source = FeatureBlock(std::array::from_fn(row));
            multiply::<S, _, V, F>(simd, panel, &source, sums, stride);
        }
        Coefficients::DepthRows(values, from) => {
            let source = DepthBlock { values, stride: from, feature };
            multiply::<S, _, V, F>(simd, panel, &source, sums, stride);
        }
    }
}

/// The coefficients of one register block. A trait, for a closure might not be inlined into the innermost loop.
trait Source<const F: usize> {
    /// Those of depth `k`.
    fn at(&self, k: usize) -> [f32; F];
}

struct FeatureBlock<'a, const F: usize>([&'a [f32]; F]);

impl<const F: usize> Source<F> for FeatureBlock<'_, F> {
    #[inline(always)]
    fn at(&self, k: usize) -> [f32; F] {
        let mut all = [0.0; F];
        for f in 0..F {
            all[f] = self.0[f][k];
        }
        all
    }
}

struct DepthBlock<'a> {
    values: &'a [f32],
    stride: usize,
    feature: usize,
}

impl<const F: usize> Source<F> for DepthBlock<'_> {
    #[inline(always)]
    fn at(&self, k: usize) -> [f32; F] {
        let mut all = [0.0; F];
        all.copy_from_slice(&self.values[k * self.stride + self.feature..][..F]);
        all
    }
}

#[inline(always)]
fn multiply<S: Simd, C: Source<F>, const V: usize, const F: usize>(
    simd: S,
    panel: Panel<'_>,
    source: &C,
    sums: &mut [f32],
    stride: usize,
) {
    let mut totals = [[simd.splat(0.0); V]; F];
    for k in 0..panel.depth {
        let from = &panel.values[k * panel.stride..][..V * S::LANES];
        let mut x = [simd.splat(0.0); V];
        for v in 0..V {
            x[v] = simd.load(&from[v * S::LANES..]);
        }
        let c = source.at(k);
        for f in 0..F {
            let c = simd.splat(c[f]);
            for v in 0..V {
                totals[f][v] = simd.fma(x[v], c, totals[f][v]);
            }
        }
    }
    for f in 0..F {
        let to = &mut sums[f * stride..][..V * S::LANES];
        for v in 0..V {
            let to = &mut to[v * S::LANES..];
            simd.store(simd.add(simd.load(to), totals[f][v]), to);
        }
    }
}

/// Fills a panel: lane `i` of depth `k` becomes `row(i)[k]`, and zero from lane `rows` on.
///
/// `to` has `depth` times `lanes` values; `lanes` is a multiple of [`Simd::LANES`].
#[inline(always)]
pub(super) fn pack<'a, S: Simd>(
    simd: S,
    row: impl Fn(usize) -> &'a [f32],
    rows: usize,
    depth: usize,
    lanes: usize,
    to: &mut [f32],
) {
    let mut square = [0.0; MAX_LANES * MAX_LANES];
    let side = S::LANES;
    for lane in (0..lanes).step_by(side) {
        let used = side.min(rows.saturating_sub(lane));
        square[used * side..].fill(0.0);
        for k in (0..depth).step_by(side) {
            let width = side.min(depth - k);
            for i in 0..used {
                square[i * side..][..width].copy_from_slice(&row(lane + i)[k..k + width]);
            }
            if width == side {
                simd.transpose(&square, side, &mut to[k * lanes + lane..], lanes);
            } else {
                for j in 0..width {
                    let to = &mut to[(k + j) * lanes + lane..][..side];
                    for (i, to) in to.iter_mut().enumerate() {
                        *to = square[i * side + j];
                    }
                }
            }
        }
    }
}

/// The way back: calls `row(i)` for the place of lane `i` below `rows`, and writes its `depth` values there.
#[inline(always)]
pub(super) fn unpack<S: Simd>(
    simd: S,
    from: &[f32],
    lanes: usize,
    rows: usize,
    depth: usize,
    mut write: impl FnMut(usize, usize, &[f32]),
) {
    let mut square = [0.0; MAX_LANES * MAX_LANES];
    let side = S::LANES;
    for lane in (0..rows).step_by(side) {
        let used = side.min(rows - lane);
        for k in (0..depth).step_by(side) {
            let width = side.min(depth - k);
            if width == side {
                simd.transpose(&from[k * lanes + lane..], lanes, &mut square, side);
            } else {
                for j in 0..width {
                    let from = &from[(k + j) * lanes + lane..][..used];
                    for (i, from) in from.iter().enumerate() {
                        square[i * side + j] = *from;
                    }
                }
            }
            for i in 0..used {
                write(lane + i, k, &square[i * side..][..width]);
            }
        }
    }
}
