//! The formats with blocks of 32 values: one group each.

use super::super::integers::{Blocks, Integers, Lanes, Words};
use super::{
    Centred, Factors, Format, LEVELS, PLANE, Planes, Raised, columns, gather, half, plane,
};
use crate::quant::Encoding;

/// Nibbles of sixteen bytes: the low ones are the first half of the block, the high ones the second.
#[inline(always)]
fn nibbles<I: Integers>(integers: I, rows: impl Blocks, at: usize) -> [Words; PLANE] {
    let packed = columns(integers, rows, at);
    let mut codes = [Words::ZERO; PLANE];
    for s in 0..PLANE / 2 {
        codes[s] = packed[s].bytes_and(0x0f).words();
        codes[PLANE / 2 + s] = packed[s].right(4).bytes_and(0x0f).words();
    }
    codes
}

/// Adds the fifth bits, of which bit `i` belongs to value `i`.
#[inline(always)]
fn with_fifth<I: Integers>(integers: I, bits: Lanes<I>, codes: &mut [Words; PLANE]) {
    for s in 0..PLANE {
        let fifth = bits.right(4 * s as u32).spread_bits().left(4);
        codes[s] = Lanes::new(integers, codes[s]).or(fifth).words();
    }
}

/// See [`crate::quant::Encoding::Q4_0`].
pub(in super::super) struct Q4_0;

impl Format for Q4_0 {
    type Codes = Centred<32, 15>;
    const ENCODING: Encoding = Encoding::Q4_0;
    const OFFSET: u8 = 8;

    #[inline(always)]
    fn factors<I: Integers>(integers: I, rows: impl Blocks, to: &mut Factors<'_>) {
        to.factors[0] = half(integers, rows, 0);
    }

    #[inline(always)]
    fn planes<I: Integers>(integers: I, rows: impl Blocks, to: &mut impl Planes) {
        to.take(0, &nibbles(integers, rows, 2));
    }
}

/// See [`crate::quant::Encoding::Q4_1`].
pub(in super::super) struct Q4_1;

impl Format for Q4_1 {
    type Codes = Raised<32, 15>;
    const ENCODING: Encoding = Encoding::Q4_1;
    const OFFSET: u8 = 0;

    #[inline(always)]
    fn factors<I: Integers>(integers: I, rows: impl Blocks, to: &mut Factors<'_>) {
        let head = gather(integers, rows, 0);
        to.factors[0] = head.halves();
        to.minimums[0] = head.right(16).halves();
    }

    #[inline(always)]
    fn planes<I: Integers>(integers: I, rows: impl Blocks, to: &mut impl Planes) {
        to.take(0, &nibbles(integers, rows, 4));
    }
}

/// See [`crate::quant::Encoding::Q5_0`].
pub(in super::super) struct Q5_0;

impl Format for Q5_0 {
    type Codes = Centred<32, 31>;
    const ENCODING: Encoding = Encoding::Q5_0;
    const OFFSET: u8 = 16;

    #[inline(always)]
    fn factors<I: Integers>(integers: I, rows: impl Blocks, to: &mut Factors<'_>) {
        to.factors[0] = half(integers, rows, 0);
    }

    #[inline(always)]
    fn planes<I: Integers>(integers: I, rows: impl Blocks, to: &mut impl Planes) {
        let mut codes = nibbles(integers, rows, 6);
        with_fifth(integers, gather(integers, rows, 2), &mut codes);
        to.take(0, &codes);
    }
}

/// See [`crate::quant::Encoding::Q5_1`].
pub(in super::super) struct Q5_1;

impl Format for Q5_1 {
    type Codes = Raised<32, 31>;
    const ENCODING: Encoding = Encoding::Q5_1;
    const OFFSET: u8 = 0;

    #[inline(always)]
    fn factors<I: Integers>(integers: I, rows: impl Blocks, to: &mut Factors<'_>) {
        let head = gather(integers, rows, 0);
        to.factors[0] = head.halves();
        to.minimums[0] = head.right(16).halves();
    }

    #[inline(always)]
    fn planes<I: Integers>(integers: I, rows: impl Blocks, to: &mut impl Planes) {
        let mut codes = nibbles(integers, rows, 8);
        with_fifth(integers, gather(integers, rows, 4), &mut codes);
        to.take(0, &codes);
    }
}

/// See [`crate::quant::Encoding::Q8_0`].
pub(in super::super) struct Q8_0;

impl Format for Q8_0 {
    type Codes = Centred<32, 255>;
    const ENCODING: Encoding = Encoding::Q8_0;
    const OFFSET: u8 = 128;

    #[inline(always)]
    fn factors<I: Integers>(integers: I, rows: impl Blocks, to: &mut Factors<'_>) {
        to.factors[0] = half(integers, rows, 0);
    }

    #[inline(always)]
    fn planes<I: Integers>(integers: I, rows: impl Blocks, to: &mut impl Planes) {
        let packed = plane(integers, rows, 2);
        let mut codes = [Words::ZERO; PLANE];
        for s in 0..PLANE {
            // A signed byte plus 128, without a carry.
            codes[s] = packed[s].bytes_xor(0x80).words();
        }
        to.take(0, &codes);
    }
}

/// See [`crate::quant::Encoding::IQ4_NL`].
pub(in super::super) struct Iq4Nl;

impl Format for Iq4Nl {
    type Codes = Centred<32, 255>;
    const ENCODING: Encoding = Encoding::IQ4_NL;
    const OFFSET: u8 = 128;

    #[inline(always)]
    fn factors<I: Integers>(integers: I, rows: impl Blocks, to: &mut Factors<'_>) {
        to.factors[0] = half(integers, rows, 0);
    }

    #[inline(always)]
    fn planes<I: Integers>(integers: I, rows: impl Blocks, to: &mut impl Planes) {
        to.take(0, &levels(integers, rows, 2));
    }
}

/// Sixteen bytes of codes for the uneven levels.
#[inline(always)]
pub(super) fn levels<I: Integers>(integers: I, rows: impl Blocks, at: usize) -> [Words; PLANE] {
    let mut codes = nibbles(integers, rows, at);
    for s in 0..PLANE {
        codes[s] = Lanes::new(integers, codes[s]).look_up(&LEVELS).words();
    }
    codes
}
