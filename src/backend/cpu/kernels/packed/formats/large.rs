//! The formats with blocks of 256 values, in groups of 16 or 32 whose scales are small integers.

use super::super::integers::{BlockRows, FEATURES, Integers, Lanes};
use super::small::levels;
use super::{
    Block, Centred, Format, Place, Raised, Whole, columns, gather, negated, plane, product,
};
use crate::quant::Encoding;

const VALUES: usize = 256;
/// Words in 32 values.
const PLANE: usize = 8;

/// See [`crate::quant::Encoding::Q2_K`].
pub(in super::super) struct Q2K;

impl Format for Q2K {
    type Codes = Raised<16, 3>;
    const VALUES: usize = VALUES;
    const BYTES: usize = Encoding::Q2_K.block_bytes();
    const OFFSET: u8 = 0;
    const WHOLE: Option<Whole> = Some(Whole::Q2K);

    #[inline(always)]
    fn factors<I: Integers>(integers: I, rows: BlockRows<'_>, to: &mut Block<'_>) {
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
    fn unpack<I: Integers>(integers: I, rows: BlockRows<'_>, to: &mut Block<'_>) {
        Self::factors(integers, rows, to);
        for half in 0..2 {
            let packed = plane(integers, rows, 16 + 32 * half);
            for p in 0..4 {
                let to = &mut to.codes[(4 * half + p) * PLANE..][..PLANE];
                for s in 0..PLANE {
                    to[s] = packed[s].right(2 * p as u32).bytes_and(3).words();
                }
            }
        }
    }
}

/// See [`crate::quant::Encoding::Q3_K`].
pub(in super::super) struct Q3K;

impl Format for Q3K {
    type Codes = Centred<16, 7>;
    const VALUES: usize = VALUES;
    const BYTES: usize = Encoding::Q3_K.block_bytes();
    const OFFSET: u8 = 4;
    const WHOLE: Option<Whole> = Some(Whole::Q3K);

    #[inline(always)]
    fn factors<I: Integers>(integers: I, rows: BlockRows<'_>, to: &mut Block<'_>) {
        // Twelve bytes of scales and the two of `d` end the block: read from two bytes before them.
        let tail = columns(integers, rows, 94);
        let word = |k: usize| tail[k].right(16).or(tail[k + 1].left(16));
        let (first, second, high) = (word(0), word(1), word(2));
        let d = tail[3].right(16).halves();
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
    fn unpack<I: Integers>(integers: I, rows: BlockRows<'_>, to: &mut Block<'_>) {
        Self::factors(integers, rows, to);
        let third = plane(integers, rows, 0);
        for half in 0..2 {
            let packed = plane(integers, rows, 32 + 32 * half);
            for p in 0..4 {
                let to = &mut to.codes[(4 * half + p) * PLANE..][..PLANE];
                for s in 0..PLANE {
                    let bit = third[s].right((4 * half + p) as u32).bytes_and(1).left(2);
                    to[s] = packed[s].right(2 * p as u32).bytes_and(3).or(bit).words();
                }
            }
        }
    }
}

/// The factors and minimums of `Q4_K` and `Q5_K`, from the first 16 bytes of a block.
#[inline(always)]
fn six_bits<I: Integers>(integers: I, rows: BlockRows<'_>, to: &mut Block<'_>) {
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
    const VALUES: usize = VALUES;
    const BYTES: usize = Encoding::Q4_K.block_bytes();
    const OFFSET: u8 = 0;
    const WHOLE: Option<Whole> = Some(Whole::Q4K);
    const PLACES: &'static [Place] = &[
        Place::Low(16),
        Place::High(16),
        Place::Low(48),
        Place::High(48),
        Place::Low(80),
        Place::High(80),
        Place::Low(112),
        Place::High(112),
    ];

    #[inline(always)]
    fn unpack<I: Integers>(integers: I, rows: BlockRows<'_>, to: &mut Block<'_>) {
        six_bits(integers, rows, to);
        for pair in 0..4 {
            let packed = plane(integers, rows, 16 + 32 * pair);
            let to = &mut to.codes[2 * PLANE * pair..][..2 * PLANE];
            for s in 0..PLANE {
                to[s] = packed[s].bytes_and(0x0f).words();
                to[PLANE + s] = packed[s].right(4).bytes_and(0x0f).words();
            }
        }
    }

    #[inline(always)]
    fn factors<I: Integers>(integers: I, rows: BlockRows<'_>, to: &mut Block<'_>) {
        six_bits(integers, rows, to);
    }
}

/// See [`crate::quant::Encoding::Q5_K`].
pub(in super::super) struct Q5K;

impl Format for Q5K {
    type Codes = Raised<32, 31>;
    const VALUES: usize = VALUES;
    const BYTES: usize = Encoding::Q5_K.block_bytes();
    const OFFSET: u8 = 0;
    const WHOLE: Option<Whole> = Some(Whole::Q5K);

    #[inline(always)]
    fn factors<I: Integers>(integers: I, rows: BlockRows<'_>, to: &mut Block<'_>) {
        six_bits(integers, rows, to);
    }

    #[inline(always)]
    fn unpack<I: Integers>(integers: I, rows: BlockRows<'_>, to: &mut Block<'_>) {
        six_bits(integers, rows, to);
        let fifth = plane(integers, rows, 16);
        for pair in 0..4 {
            let packed = plane(integers, rows, 48 + 32 * pair);
            let to = &mut to.codes[2 * PLANE * pair..][..2 * PLANE];
            for s in 0..PLANE {
                let bits = fifth[s].right(2 * pair as u32);
                to[s] = packed[s].bytes_and(0x0f).or(bits.bytes_and(1).left(4)).words();
                let bits = bits.right(1).bytes_and(1).left(4);
                to[PLANE + s] = packed[s].right(4).bytes_and(0x0f).or(bits).words();
            }
        }
    }
}

/// See [`crate::quant::Encoding::Q6_K`].
pub(in super::super) struct Q6K;

impl Format for Q6K {
    type Codes = Centred<16, 63>;
    const VALUES: usize = VALUES;
    const BYTES: usize = Encoding::Q6_K.block_bytes();
    const OFFSET: u8 = 32;
    const WHOLE: Option<Whole> = Some(Whole::Q6K);

    #[inline(always)]
    fn factors<I: Integers>(integers: I, rows: BlockRows<'_>, to: &mut Block<'_>) {
        // The last four bytes are two scales and `d`.
        let d = gather(integers, rows, 206).right(16).halves();
        for (k, scales) in columns(integers, rows, 192).into_iter().enumerate() {
            for i in 0..4 {
                to.factors[4 * k + i] = product(&d, &scales.signed_byte(i as u32));
            }
        }
    }

    #[inline(always)]
    fn unpack<I: Integers>(integers: I, rows: BlockRows<'_>, to: &mut Block<'_>) {
        Self::factors(integers, rows, to);
        for half in 0..2 {
            let high = plane(integers, rows, 128 + 32 * half);
            for side in 0..2 {
                let low = plane(integers, rows, 64 * half + 32 * side);
                for nibble in 0..2 {
                    let p = 2 * nibble + side;
                    let to = &mut to.codes[(4 * half + p) * PLANE..][..PLANE];
                    for s in 0..PLANE {
                        let high = high[s].right(2 * p as u32).bytes_and(3).left(4);
                        to[s] = low[s].right(4 * nibble as u32).bytes_and(0x0f).or(high).words();
                    }
                }
            }
        }
    }
}

/// See [`crate::quant::Encoding::IQ4_XS`].
pub(in super::super) struct Iq4Xs;

impl Format for Iq4Xs {
    type Codes = Centred<32, 255>;
    const VALUES: usize = VALUES;
    const BYTES: usize = Encoding::IQ4_XS.block_bytes();
    const OFFSET: u8 = 128;

    #[inline(always)]
    fn unpack<I: Integers>(integers: I, rows: BlockRows<'_>, to: &mut Block<'_>) {
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
            levels(integers, rows, 8 + 16 * g, &mut to.codes[PLANE * g..][..PLANE]);
        }
    }
}
