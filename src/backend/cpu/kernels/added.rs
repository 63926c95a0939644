//! What is added to a linear layer's product: a bias, and what an adapter of low rank makes of the same row.

use super::linear::{Dots, Weight};
use super::parallel::{TileMut, Tiles, for_each_task, for_each_task_after};
use super::simd::{Element, Isa, Kernel, MAX_LANES, Simd};
use std::sync::atomic::{AtomicU32, Ordering};

/// The greatest rank that is a part of a product.
pub const MAX_RANK: usize = 256;
/// Bytes in a cache line.
const LINE: usize = 64;
/// Rows of `a` that one thread takes at a time.
const PART: usize = 8;

/// `bias + b · a · x`, whichever there are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Added<'a> {
    /// `[features]`.
    pub bias: Option<&'a [f32]>,
    /// For a single row.
    pub low_rank: Option<LowRank<'a>>,
}

/// `b · a` (Hu et al., `LoRA`, 2021).
#[derive(Clone, Copy, Debug)]
pub struct LowRank<'a> {
    /// 1 to [`MAX_RANK`].
    pub rank: usize,
    /// `[rank, depth]`.
    pub a: Weight<'a>,
    /// `[features, rank]`.
    pub b: Weight<'a>,
}

impl<'a> Added<'a> {
    /// A bias alone.
    pub fn of(bias: Option<&'a [f32]>) -> Self {
        Self { bias, low_rank: None }
    }

    /// Asserts that it belongs to a product of that shape.
    pub(super) fn check(&self, rows: usize, features: usize, depth: usize) {
        assert!(self.bias.is_none_or(|b| b.len() == features), "linear: length of the bias");
        if let Some(LowRank { rank, a, b }) = self.low_rank {
            assert_eq!(rows, 1, "linear: rows with one low-rank product");
            assert!((1..=MAX_RANK).contains(&rank), "linear: rank");
            assert_eq!(a.len(), rank * depth, "linear: length of a");
            assert_eq!(b.len(), features * rank, "linear: length of b");
        }
    }

    /// What is left of a product with empty rows: the bias.
    pub(super) fn alone(&self, out: &mut [f32]) {
        match self.bias {
            Some(bias) => {
                out.chunks_exact_mut(bias.len()).for_each(|row| row.copy_from_slice(bias));
            }
            None => out.fill(0.0),
        }
    }

    /// Runs `product` for every tile, and adds to what it leaves there what the adapter makes of `x`. (The bias is a part
    /// of the product.)
    ///
    /// `a · x` is shared out before the tiles; who has finished a tile finds it done.
    pub(super) fn for_each_tile(
        &self,
        isa: Isa,
        x: &[f32],
        tiles: &Tiles<'_>,
        product: impl Fn(&mut TileMut<'_>) + Sync,
    ) {
        let Some(LowRank { rank, a, b }) = self.low_rank else {
            for_each_task(tiles.count(), |number| product(&mut tiles.take_by_columns(number)));
            return;
        };
        // As bits: several threads write them, and all read them.
        let low = [const { AtomicU32::new(0) }; MAX_RANK];
        let narrow = |part: usize| {
            let first = part * PART;
            let rows = PART.min(rank - first);
            let mut values = [0.0; PART];
            let mut out = TileMut::whole(&mut values, 1, rows);
            match a {
                Weight::F32(a) => isa.run(Dots::of_row(x, &a[first * x.len()..], &mut out)),
                Weight::F16(a) => isa.run(Dots::of_row(x, &a[first * x.len()..], &mut out)),
            }
            for (cell, value) in low[first..].iter().zip(&values[..rows]) {
                cell.store(value.to_bits(), Ordering::Relaxed);
            }
        };
        for_each_task_after(rank.div_ceil(PART), narrow, tiles.count(), |number, first| {
            let mut tile = tiles.take_by_columns(number);
            let columns = tile.column_range();
            let range = columns.start * rank..columns.end * rank;
            match b {
                Weight::F32(b) => isa.run(Fetch(&b[range.clone()])),
                Weight::F16(b) => isa.run(Fetch(&b[range.clone()])),
            }
            product(&mut tile);
            first.wait();
            let mut values = [0.0; MAX_RANK];
            for (value, cell) in values.iter_mut().zip(&low[..rank]) {
                *value = f32::from_bits(cell.load(Ordering::Relaxed));
            }
            let (low, to) = (&values[..rank], tile.row(0));
            match b {
                Weight::F32(b) => isa.run(Widen { b: &b[range], low, to }),
                Weight::F16(b) => isa.run(Widen { b: &b[range], low, to }),
            }
        });
    }
}

/// Asks for values that will be read soon.
struct Fetch<'a, W>(&'a [W]);

impl<W: Element> Kernel for Fetch<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for line in self.0.chunks(LINE / size_of::<W>()) {
            simd.prefetch(line.as_ptr());
        }
    }
}

/// `to[f] += Σᵣ low[r] · b[f, r]`.
struct Widen<'a, W> {
    b: &'a [W],
    low: &'a [f32],
    to: &'a mut [f32],
}

impl<W: Element> Kernel for Widen<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let rank = self.low.len();
        if rank == S::LANES {
            self.rows::<S, 1>(simd);
        } else if rank == 2 * S::LANES {
            self.rows::<S, 2>(simd);
        } else if rank == 4 * S::LANES {
            self.rows::<S, 4>(simd);
        } else {
            self.rows::<S, 0>(simd);
        }
    }
}

impl<W: Element> Widen<'_, W> {
    /// With `N` vectors in a row; 0 where a row is not so many vectors that are full.
    #[inline(always)]
    fn rows<S: Simd, const N: usize>(self, simd: S) {
        let Self { b, low, to } = self;
        let rank = if N > 0 { N * S::LANES } else { low.len() };
        let low = &low[..rank];
        let (b, b_rest) = b.split_at(to.len() / S::LANES * S::LANES * rank);
        let mut groups = to.chunks_exact_mut(S::LANES);
        for (b, to) in b.chunks_exact(S::LANES * rank).zip(&mut groups) {
            let mut rows = [simd.splat(0.0); MAX_LANES];
            for i in 0..S::LANES {
                rows[i] = products(simd, &b[i * rank..][..rank], low);
            }
            simd.store(simd.add(simd.load(to), simd.reduce_each(&rows)), to);
        }
        for (b, to) in b_rest.chunks_exact(rank).zip(groups.into_remainder()) {
            *to += simd.reduce_add(products(simd, b, low));
        }
    }
}

/// The products of one row, to be added up over the lanes.
#[inline(always)]
fn products<S: Simd, W: Element>(simd: S, b: &[W], low: &[f32]) -> S::V {
    let mut sum = simd.splat(0.0);
    let mut k = 0;
    while k + S::LANES <= low.len() {
        sum = simd.fma(W::load(simd, &b[k..]), simd.load(&low[k..]), sum);
        k += S::LANES;
    }
    if k < low.len() {
        let (b, low) = (W::load_partial(simd, &b[k..]), simd.load_partial(&low[k..]));
        sum = simd.fma(b, low, sum);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Random, assert_close};
    use super::super::{Activations, PackedMatrix, linear, packed_linear};
    use super::*;
    use crate::quant::Encoding;
    use half::f16;

    /// A base of `[features, depth]` with low-rank matrices in a type, and what they add to `x`.
    struct Case {
        x: Vec<f32>,
        a: Vec<f32>,
        b: Vec<f32>,
        halves: [Vec<f16>; 2],
        added: Vec<f64>,
    }

    impl Case {
        fn new(features: usize, depth: usize, rank: usize, random: &mut Random) -> Self {
            let x = random.values(depth);
            let mut rounded = |count| -> (Vec<f16>, Vec<f32>) {
                random.values(count).into_iter().map(f16::from_f32).map(|v| (v, v.to_f32())).unzip()
            };
            let (half_a, a) = rounded(rank * depth);
            let (half_b, b) = rounded(features * rank);
            let dot = |a: &[f32], x: &[f64]| -> f64 {
                a.iter().zip(x).map(|(a, x)| f64::from(*a) * x).sum()
            };
            let wide: Vec<f64> = x.iter().copied().map(f64::from).collect();
            let low: Vec<f64> = a.chunks(depth).map(|a| dot(a, &wide)).collect();
            let added = b.chunks(rank).map(|b| dot(b, &low)).collect();
            Self { x, a, b, halves: [half_a, half_b], added }
        }

        fn low_rank(&self, rank: usize, half: bool) -> LowRank<'_> {
            let [a, b] = &self.halves;
            let (a, b) = if half {
                (Weight::F16(a), Weight::F16(b))
            } else {
                (Weight::F32(&self.a), Weight::F32(&self.b))
            };
            LowRank { rank, a, b }
        }
    }

    #[test]
    fn low_rank_products_are_added() {
        let mut random = Random::new(7);
        let shapes = [(1, 1, 1), (17, 100, 3), (40, 64, 8), (700, 576, 16), (90, 96, 33)];
        for (features, depth, rank) in [&shapes[..], &[(5, 32, MAX_RANK)]].concat() {
            let case = Case::new(features, depth, rank, &mut random);
            let (w, bias) = (random.values(features * depth), random.values(features));
            let mut without = vec![0.0; features];
            let w = Weight::F32(&w);
            linear(&case.x, 1, w, features, depth, Added::of(Some(&bias)), &mut without);
            let want = without.iter().zip(&case.added).map(|(w, a)| f64::from(*w) + a);
            let want: Vec<f64> = want.collect();
            for half in [false, true] {
                let low_rank = Some(case.low_rank(rank, half));
                let added = Added { bias: Some(&bias), low_rank };
                let mut out = vec![f32::NAN; features];
                linear(&case.x, 1, w, features, depth, added, &mut out);
                let what = format!("{features} x {depth}, rank {rank}, half: {half}");
                assert_close(&out, &want, 1e-5, &what);
            }
        }
    }

    #[test]
    fn every_instruction_set_widens() {
        let mut random = Random::new(8);
        for rank in [1, 4, 8, 15, 16, 17, 48] {
            let case = Case::new(37, 24, rank, &mut random);
            for isa in Isa::available() {
                for half in [false, true] {
                    let mut out = vec![0.0; 37];
                    let tiles = Tiles::new(&mut out, (1, 37), (1, 16));
                    let added = Added { bias: None, low_rank: Some(case.low_rank(rank, half)) };
                    added.for_each_tile(isa, &case.x, &tiles, |_| ());
                    assert_close(&out, &case.added, 1e-5, &format!("{isa:?} rank {rank}"));
                }
            }
        }
    }

    #[test]
    fn packed_weights_have_the_same_added() {
        let (features, depth, rank) = (500, 576, 16);
        let mut random = Random::new(9);
        let case = Case::new(features, depth, rank, &mut random);
        let len = Encoding::Q4_0.bytes_for(features * depth).expect("whole blocks");
        let mut bytes = vec![0x5a; len];
        for block in bytes.chunks_exact_mut(18) {
            block[..2].copy_from_slice(&f16::from_f32(0.01).to_le_bytes());
        }
        let w = PackedMatrix::new(&bytes, Encoding::Q4_0, features, depth).expect("a matrix");
        let product = |added| {
            let mut out = vec![0.0; features];
            packed_linear(&case.x, 1, &w, added, Activations::Quantised, &mut out);
            out
        };
        let without = product(Added::default());
        let added = Added { bias: None, low_rank: Some(case.low_rank(rank, true)) };
        let want = without.iter().zip(&case.added).map(|(w, a)| f64::from(*w) + a);
        assert_close(&product(added), &want.collect::<Vec<_>>(), 1e-5, "packed");
    }

    #[test]
    #[should_panic(expected = "linear: length of b")]
    fn lengths_are_checked() {
        let (a, b) = ([0.0; 4], [0.0; 3]);
        let low_rank = Some(LowRank { rank: 2, a: Weight::F32(&a), b: Weight::F32(&b) });
        let added = Added { bias: None, low_rank };
        linear(&[0.0; 2], 1, Weight::F32(&[0.0; 4]), 2, 2, added, &mut [0.0; 2]);
    }
}
