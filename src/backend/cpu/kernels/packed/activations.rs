//! Activations as 8-bit codes: `x ≈ scale · q` with `q` in -127..=127 and a scale for each block of 32 values.
//!
//! The rule is that of ggml's `quantize_row_q8_0_ref` (scale = greatest magnitude / 127, codes rounded to the nearest),
//! but the scale stays single precision.

use super::integers::{Integers, Kernel};

/// Values that share a scale.
pub(super) const BLOCK: usize = 32;
/// Codes in a word.
pub(super) const WORD: usize = 4;
/// The greatest code.
const GREATEST: f32 = 127.0;
/// Adding 1.5 · 2²³ leaves the nearest integer in the low bits of a single-precision number below 2²².
const MAGIC: f32 = 12_582_912.0;

/// Rows of quantised activations, the depth in groups of 16 or 32 values as the weights have them.
#[derive(Clone, Copy)]
pub(super) struct Quantised<'a> {
    /// Four codes a word, the first in the lowest byte: `[rows, depth / 4]`.
    pub(super) words: &'a [u32],
    /// The scale of each group: `[rows, groups]`.
    pub(super) scales: &'a [f32],
    /// What each group adds for all its weights: see [`Sums`]; `[rows, groups]`.
    pub(super) sums: &'a [f32],
    /// Values in a row.
    pub(super) depth: usize,
    /// Values in a group.
    pub(super) group: usize,
}

/// What the sum of a group's codes is multiplied with.
#[derive(Clone, Copy)]
pub(super) enum Sums {
    /// The group's scale: weights have a minimum of their own, to be multiplied with `Σ x`.
    Scale,
    /// Minus this: weights are `factor · (code - offset)`, so `Σ (code - offset)·q = Σ code·q + sum`.
    Offset(u8),
}

impl<'a> Quantised<'a> {
    /// Floats of memory for `rows`.
    pub(super) fn floats(rows: usize, depth: usize, group: usize) -> usize {
        rows * (depth / WORD + 2 * (depth / group))
    }

    /// The codes, scales and sums of one row.
    pub(super) fn row(&self, row: usize) -> (&'a [u32], &'a [f32], &'a [f32]) {
        let (words, groups) = (self.depth / WORD, self.depth / self.group);
        (
            &self.words[row * words..][..words],
            &self.scales[row * groups..][..groups],
            &self.sums[row * groups..][..groups],
        )
    }
}

/// Quantises one row; compiled for every instruction set, as a [`Kernel`].
pub(super) struct QuantiseRow<'a> {
    /// A whole number of blocks.
    pub(super) x: &'a [f32],
    /// Values in a group: divides [`BLOCK`].
    pub(super) group: usize,
    pub(super) meaning: Sums,
    pub(super) words: &'a mut [u32],
    pub(super) scales: &'a mut [f32],
    pub(super) sums: &'a mut [f32],
}

impl Kernel for QuantiseRow<'_> {
    #[inline(always)]
    fn run<I: Integers>(self, _integers: I) {
        let (blocks, _) = self.x.as_chunks::<BLOCK>();
        let (words, _) = self.words.as_chunks_mut::<{ BLOCK / WORD }>();
        let groups = BLOCK / self.group;
        let scales = self.scales.chunks_exact_mut(groups);
        let sums = self.sums.chunks_exact_mut(groups);
        for (((x, words), scales), sums) in blocks.iter().zip(words).zip(scales).zip(sums) {
            let (codes, scale) = quantise(x);
            scales.fill(scale);
            for (sum, codes) in sums.iter_mut().zip(codes.chunks_exact(self.group)) {
                let total = codes.iter().map(|&q| i32::from(q)).sum::<i32>() as f32;
                *sum = match self.meaning {
                    Sums::Scale => total * scale,
                    Sums::Offset(offset) => -(total * f32::from(offset)),
                };
            }
            let (codes, _) = codes.as_chunks::<WORD>();
            for (word, codes) in words.iter_mut().zip(codes) {
                *word = u32::from_le_bytes(codes.map(i8::cast_unsigned));
            }
        }
    }
}

/// The codes and the scale of one block. A value that is not finite makes the scale not a number.
#[inline(always)]
fn quantise(x: &[f32; BLOCK]) -> ([i8; BLOCK], f32) {
    // Eight of each, so that the loops become vectors: the order of a sum may not change otherwise.
    let mut greatest = [0.0f32; 8];
    let mut poison = [0.0f32; 8];
    for part in x.as_chunks::<8>().0 {
        for i in 0..8 {
            let magnitude = part[i].abs();
            greatest[i] = if magnitude > greatest[i] { magnitude } else { greatest[i] };
            poison[i] += part[i] * 0.0;
        }
    }
    let greatest = greatest.into_iter().fold(0.0, f32::max);
    let scale = greatest / GREATEST;
    let inverse = if greatest > 0.0 { GREATEST / greatest } else { 0.0 };
    let mut codes = [0; BLOCK];
    for (code, &x) in codes.iter_mut().zip(x) {
        *code = ((x * inverse + MAGIC).to_bits() as u8).cast_signed();
    }
    (codes, scale + poison.into_iter().sum::<f32>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal_block() {
        let mut x = [0.0; BLOCK];
        x[..4].copy_from_slice(&[-254.0, 1.0, 3.0, 127.4]);
        let (codes, scale) = quantise(&x);
        // Ties go to the even code: 0.5 to 0, 1.5 to 2.
        assert_eq!(codes[..5], [-127, 0, 2, 64, 0]);
        assert_eq!(scale, 2.0);
    }

    #[test]
    fn zeros_have_scale_zero() {
        assert_eq!(quantise(&[0.0; BLOCK]), ([0; BLOCK], 0.0));
    }

    #[test]
    fn what_is_not_finite_does_not_vanish() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; BLOCK];
            x[17] = bad;
            assert!(quantise(&x).1.is_nan());
        }
    }

    #[test]
    fn tiny_values_keep_finite_codes() {
        // 127 / greatest overflows: the codes are then the sign alone, and what they stand for is still tiny.
        let (_, scale) = quantise(&[f32::from_bits(1); BLOCK]);
        assert!(scale.abs() < 1e-40);
    }
}
