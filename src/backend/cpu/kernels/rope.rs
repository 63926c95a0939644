//! Rotary position embedding in place (Su et al. 2021, <https://arxiv.org/abs/2104.09864>).
//!
//! Each pair `(a, b)` becomes `(a · cos − b · sin, b · cos + a · sin)`. Which values form a pair is a matter of how the
//! weights were stored: [`RopeOrder`].

use super::parallel::{FORK_BYTES, Tiles, for_each_task};
use super::simd::{Isa, Kernel, Simd};

/// Which values of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeOrder {
    /// `i` and `i + dim / 2`: transformers' Llama, GPT-NeoX.
    HalfSplit,
    /// `2 i` and `2 i + 1`: the original Llama, GGUF's Llama, GPT-J.
    AdjacentPairs,
}

/// The sizes of a [`rope`] call.
#[derive(Clone, Copy, Debug)]
pub struct RopeShape {
    /// Sequences.
    pub batch: usize,
    /// Heads of each.
    pub heads: usize,
    /// Positions of each head.
    pub seq: usize,
    /// Values of each position.
    pub dim: usize,
    /// Leading values that turn, even and at most `dim`; the rest stays.
    pub rotary_dim: usize,
}

/// Turns `x`, `[batch, heads, seq, dim]`, in place.
///
/// `cos` and `sin` are `[positions, rotary_dim / 2]`; `positions`, `[batch, seq]`, says which of their rows belongs to
/// each position.
///
/// # Panics
///
/// If a length does not match its shape, `rotary_dim` is odd or above `dim`, or a position is outside the tables.
pub fn rope(
    x: &mut [f32],
    shape: RopeShape,
    cos: &[f32],
    sin: &[f32],
    positions: &[usize],
    order: RopeOrder,
) {
    rope_on(Isa::best(), x, shape, cos, sin, positions, order);
}

fn rope_on(
    isa: Isa,
    x: &mut [f32],
    shape: RopeShape,
    cos: &[f32],
    sin: &[f32],
    positions: &[usize],
    order: RopeOrder,
) {
    let RopeShape { batch, heads, seq, dim, rotary_dim } = shape;
    assert_eq!(x.len(), batch * heads * seq * dim, "rope: length of x");
    assert_eq!(positions.len(), batch * seq, "rope: number of positions");
    assert_eq!(cos.len(), sin.len(), "rope: lengths of the tables");
    assert!(rotary_dim.is_multiple_of(2) && rotary_dim <= dim, "rope: rotary_dim");
    let half = rotary_dim / 2;
    let last = positions.iter().max().map_or(0, |last| last + 1);
    assert!(cos.len() >= last * half, "rope: a position is outside the tables");
    if x.is_empty() || half == 0 {
        return;
    }
    let rows = batch * heads;
    let block = FORK_BYTES.div_ceil(seq * dim * size_of::<f32>()).min(rows);
    let tiles = Tiles::new(x, (rows, seq * dim), (block, seq * dim));
    for_each_task(rows.div_ceil(block), |task| {
        let mut tile = tiles.take(task, 0);
        for (i, row) in tile.row_range().enumerate() {
            let positions = &positions[row / heads * seq..][..seq];
            isa.run(Turn { x: tile.row(i), positions, cos, sin, dim, half, order });
        }
    });
}

/// The positions of one head.
struct Turn<'a> {
    x: &'a mut [f32],
    positions: &'a [usize],
    cos: &'a [f32],
    sin: &'a [f32],
    dim: usize,
    half: usize,
    order: RopeOrder,
}

impl Kernel for Turn<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let half = self.half;
        for (x, &position) in self.x.chunks_exact_mut(self.dim).zip(self.positions) {
            let cos = &self.cos[position * half..][..half];
            let sin = &self.sin[position * half..][..half];
            let x = &mut x[..2 * half];
            match self.order {
                RopeOrder::HalfSplit => half_split(simd, x, cos, sin),
                RopeOrder::AdjacentPairs => adjacent_pairs(x, cos, sin),
            }
        }
    }
}

#[inline(always)]
fn half_split<S: Simd>(simd: S, x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (a, b) = x.split_at_mut(cos.len());
    let pairs = a.chunks_mut(S::LANES).zip(b.chunks_mut(S::LANES));
    let angles = cos.chunks(S::LANES).zip(sin.chunks(S::LANES));
    let zero = simd.splat(0.0);
    for ((to_a, to_b), (cos, sin)) in pairs.zip(angles) {
        let (a, b) = (simd.load_partial(to_a), simd.load_partial(to_b));
        let (cos, sin) = (simd.load_partial(cos), simd.load_partial(sin));
        let minus = simd.sub(zero, simd.mul(b, sin));
        simd.store_partial(simd.fma(a, cos, minus), to_a);
        simd.store_partial(simd.fma(b, cos, simd.mul(a, sin)), to_b);
    }
}

/// Plain Rust: compilers vectorise it with shuffles, for whatever instruction set it is inlined into.
#[inline(always)]
fn adjacent_pairs(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (pairs, _) = x.as_chunks_mut::<2>();
    for (pair, (cos, sin)) in pairs.iter_mut().zip(cos.iter().zip(sin)) {
        let [a, b] = *pair;
        *pair = [a * cos - b * sin, b * cos + a * sin];
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Random, assert_close};
    use super::*;

    #[test]
    fn against_double_precision() {
        let mut random = Random::new(6);
        for isa in Isa::available() {
            for order in [RopeOrder::HalfSplit, RopeOrder::AdjacentPairs] {
                for (batch, heads, seq, dim, rotary_dim) in [
                    (1, 1, 1, 2, 2),
                    (2, 3, 5, 64, 64),
                    (1, 2, 7, 72, 72),
                    (2, 1, 3, 24, 14),
                    (1, 9, 200, 64, 64),
                    (1, 1, 1, 3, 0),
                ] {
                    let shape = RopeShape { batch, heads, seq, dim, rotary_dim };
                    let half = rotary_dim / 2;
                    let (cos, sin) = (random.values(50 * half), random.values(50 * half));
                    let positions: Vec<usize> =
                        (0..batch * seq).map(|_| random.below(50)).collect();
                    let mut x = random.values(batch * heads * seq * dim);
                    let mut want: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
                    for (row, values) in want.chunks_exact_mut(dim).enumerate() {
                        let position = positions[row / (heads * seq) * seq + row % seq];
                        for i in 0..half {
                            let (i, j) = match order {
                                RopeOrder::HalfSplit => ((i, i + half), i),
                                RopeOrder::AdjacentPairs => ((2 * i, 2 * i + 1), i),
                            };
                            let (c, s) = (
                                f64::from(cos[position * half + j]),
                                f64::from(sin[position * half + j]),
                            );
                            let (a, b) = (values[i.0], values[i.1]);
                            (values[i.0], values[i.1]) = (a * c - b * s, b * c + a * s);
                        }
                    }
                    rope_on(isa, &mut x, shape, &cos, &sin, &positions, order);
                    assert_close(&x, &want, 1e-6, &format!("{isa:?} {shape:?} {order:?}"));
                }
            }
        }
    }
}
