//! The formats with blocks of 256 values, in groups of 16 or 32 whose scales are small integers.

use super::super::integers::{Blocks, FEATURES, Integers, Lanes, Words};
use super::small::levels;
use super::{
    Centred, Factors, Format, PLANE, Planes, Raised, columns, gather, half, negated, plane, product,
};
use crate::quant::Encoding;

/// See [`crate::quant::Encoding::Q2_K`].
pub(in super::super) struct Q2K;

impl Format for Q2K {
    type Codes = Raised<16, 3>;
    const ENCODING: Encoding = Encoding::Q2_K;
    const OFFSET: u8 = 0;

    #[inline(always)]
    fn factors<I: Integers>(integers: I, rows: impl Blocks, to: &mut Factors<'_>) {
        let head = gather(integers, rows, 80);
        let d = head.halves();
        let dmin = negated(&head.right(16).halves());
        for (k, scales) in columns(integers, rows, 0).into_iter().enumerate() {
            let (low, high) = (scales.bytes_and(0x0f), scales.right(4).bytes_and(0x0f));
            for i in 0..4 {
                to.factors[4 * k + i] = product(&d, &low.byte(i as u32));
                to.minimums[4 * k + i] = product(&dmin, &high.byte(i as u32));
            }
        }
    }

    #[inline(always)]
    fn planes<I: Integers>(integers: I, rows: impl Blocks, to: &mut impl Planes) {
        for part in 0..2 {
            let packed = plane(integers, rows, 16 + 32 * part);
            for p in 0..4 {
                let mut codes = [Words::ZERO; PLANE];
                for s in 0..PLANE {
                    codes[s] = packed[s].right(2 * p as u32).bytes_and(3).words();
                }
                to.take((4 * part + p) * PLANE, &codes);
            }
        }
    }
}

/// See [`crate::quant::Encoding::Q3_K`].
pub(in super::super) struct Q3K;

impl Format for Q3K {
    type Codes = Centred<16, 7>;
    const ENCODING: Encoding = Encoding::Q3_K;
    const OFFSET: u8 = 4;

    #[inline(always)]
    fn factors<I: Integers>(integers: I, rows: impl Blocks, to: &mut Factors<'_>) {
        let first = gather(integers, rows, 96);
        let second = gather(integers, rows, 100);
        let high = gather(integers, rows, 104);
        let d = half(integers, rows, 108);
        let low = [first, second, first.right(4), second.right(4)];
        for q in 0..4 {
            let high = high.right(2 * q as u32).bytes_and(3).left(4);
            let scales = low[q].bytes_and(0x0f).or(high);
            for i in 0..4 {
                let mut factor = scales.byte(i as u32);
                for f in 0..FEATURES {
                    factor[f] = d[f] * (factor[f] - 32.0);
                }
                to.factors[4 * q + i] = factor;
            }
        }
    }

    #[inline(always)]
    fn planes<I: Integers>(integers: I, rows: impl Blocks, to: &mut impl Planes) {
        let third = plane(integers, rows, 0);
        for part in 0..2 {
            let packed = plane(integers, rows, 32 + 32 * part);
            for p in 0..4 {
                let mut codes = [Words::ZERO; PLANE];
                for s in 0..PLANE {
                    let bit = third[s].right((4 * part + p) as u32).bytes_and(1).left(2);
                    codes[s] = packed[s].right(2 * p as u32).bytes_and(3).or(bit).words();
                }
                to.take((4 * part + p) * PLANE, &codes);
            }
        }
    }
}

/// The factors and minimums of `Q4_K` and `Q5_K`, from the first 16 bytes of a block.
#[inline(always)]
fn six_bits<I: Integers>(integers: I, rows: impl Blocks, to: &mut Factors<'_>) {
    let [head, a, b, c] = columns(integers, rows, 0);
    let d = head.halves();
    let dmin = negated(&head.right(16).halves());
    let high = |word: Lanes<I>| word.right(6).bytes_and(3).left(4);
    let scales = [a.bytes_and(0x3f), c.bytes_and(0x0f).or(high(a))];
    let minimums = [b.bytes_and(0x3f), c.right(4).bytes_and(0x0f).or(high(b))];
    for k in 0..2 {
        for i in 0..4 {
            to.factors[4 * k + i] = product(&d, &scales[k].byte(i as u32));
            to.minimums[4 * k + i] = product(&dmin, &minimums[k].byte(i as u32));
        }
    }
}

/// See [`crate::quant::Encoding::Q4_K`].
pub(in super::super) struct Q4K;

impl Format for Q4K {
    type Codes = Raised<32, 15>;
    const ENCODING: Encoding = Encoding::Q4_K;
    const OFFSET: u8 = 0;

    #[inline(always)]
    fn factors<I: Integers>(integers: I, rows: impl Blocks, to: &mut Factors<'_>) {
        six_bits(integers, rows, to);
    }

    #[inline(always)]
    fn planes<I: Integers>(integers: I, rows: impl Blocks, to: &mut impl Planes) {
        for pair in 0..4 {
            let packed = plane(integers, rows, 16 + 32 * pair);
            let (mut low, mut high) = ([Words::ZERO; PLANE], [Words::ZERO; PLANE]);
            for s in 0..PLANE {
                low[s] = packed[s].bytes_and(0x0f).words();
                high[s] = packed[s].right(4).bytes_and(0x0f).words();
            }
            to.take(2 * PLANE * pair, &low);
            to.take(2 * PLANE * pair + PLANE, &high);
        }
    }
}

/// See [`crate::quant::Encoding::Q5_K`].
pub(in super::super) struct Q5K;

impl Format for Q5K {
    type Codes = Raised<32, 31>;
    const ENCODING: Encoding = Encoding::Q5_K;
    const OFFSET: u8 = 0;

    #[inline(always)]
    fn factors<I: Integers>(integers: I, rows: impl Blocks, to: &mut Factors<'_>) {
        six_bits(integers, rows, to);
    }

    #[inline(always)]
    fn planes<I: Integers>(integers: I, rows: impl Blocks, to: &mut impl Planes) {
        let fifth = plane(integers, rows, 16);
        for pair in 0..4 {
            let packed = plane(integers, rows, 48 + 32 * pair);
            let (mut low, mut high) = ([Words::ZERO; PLANE], [Words::ZERO; PLANE]);
            for s in 0..PLANE {
                let bits = fifth[s].right(2 * pair as u32);
                low[s] = packed[s].bytes_and(0x0f).or(bits.bytes_and(1).left(4)).words();
                let bits = bits.right(1).bytes_and(1).left(4);
                high[s] = packed[s].right(4).bytes_and(0x0f).or(bits).words();
            }
            to.take(2 * PLANE * pair, &low);
            to.take(2 * PLANE * pair + PLANE, &high);
        }
    }
}

/// See [`crate::quant::Encoding::Q6_K`].
pub(in super::super) struct Q6K;

impl Format for Q6K {
    type Codes = Centred<16, 63>;
    const ENCODING: Encoding = Encoding::Q6_K;
    const OFFSET: u8 = 32;

    #[inline(always)]
    fn factors<I: Integers>(integers: I, rows: impl Blocks, to: &mut Factors<'_>) {
        let d = half(integers, rows, 208);
        for (k, scales) in columns(integers, rows, 192).into_iter().enumerate() {
            for i in 0..4 {
                to.factors[4 * k + i] = product(&d, &scales.signed_byte(i as u32));
            }
        }
    }

    #[inline(always)]
    fn planes<I: Integers>(integers: I, rows: impl Blocks, to: &mut impl Planes) {
        for part in 0..2 {
            let high = plane(integers, rows, 128 + 32 * part);
            let low = [plane(integers, rows, 64 * part), plane(integers, rows, 64 * part + 32)];
            for p in 0..4 {
                let (nibble, low) = (p / 2, &low[p % 2]);
                let mut codes = [Words::ZERO; PLANE];
                for s in 0..PLANE {
                    let high = high[s].right(2 * p as u32).bytes_and(3).left(4);
                    let low = low[s].right(4 * nibble as u32).bytes_and(0x0f);
                    codes[s] = low.or(high).words();
                }
                to.take((4 * part + p) * PLANE, &codes);
            }
        }
    }
}

/// See [`crate::quant::Encoding::IQ4_XS`].
pub(in super::super) struct Iq4Xs;

impl Format for Iq4Xs {
    type Codes = Centred<32, 255>;
    const ENCODING: Encoding = Encoding::IQ4_XS;
    const OFFSET: u8 = 128;

    #[inline(always)]
    fn factors<I: Integers>(integers: I, rows: impl Blocks, to: &mut Factors<'_>) {
        let head = gather(integers, rows, 0);
        let d = head.halves();
        let (low, high) = (gather(integers, rows, 4), head.right(16));
        for g in 0..8 {
            let high = high.right(2 * g as u32).bytes_and(3).left(4);
            let scale = low.right(4 * g as u32).bytes_and(0x0f).or(high).byte(0);
            let mut factor = d;
            for f in 0..FEATURES {
                factor[f] *= scale[f] - 32.0;
            }
            to.factors[g] = factor;
        }
    }

    #[inline(always)]
    fn planes<I: Integers>(integers: I, rows: impl Blocks, to: &mut impl Planes) {
        for g in 0..8 {
            to.take(PLANE * g, &levels(integers, rows, 8 + 16 * g));
        }
    }
}
