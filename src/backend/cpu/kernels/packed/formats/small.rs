//! The formats with blocks of 32 values: one group each.

use super::super::integers::{BlockRows, Integers, Lanes, Words};
use super::{Block, Centred, Format, LEVELS, Place, Raised, columns, gather, plane};
use crate::quant::Encoding;

/// Nibbles of sixteen bytes: the low ones are the first half of the block, the high ones the second.
#[inline(always)]
fn nibbles<I: Integers>(integers: I, rows: BlockRows<'_>, at: usize, to: &mut [Words]) {
    let packed = columns(integers, rows, at);
    let (first, second) = to[..8].split_at_mut(4);
    for s in 0..4 {
        first[s] = packed[s].bytes_and(0x0f).words();
        second[s] = packed[s].right(4).bytes_and(0x0f).words();
    }
}

/// Adds the fifth bits, of which bit `i` belongs to value `i`.
#[inline(always)]
fn fifth_bits<I: Integers>(integers: I, bits: Lanes<I>, to: &mut [Words]) {
    for (s, word) in to[..8].iter_mut().enumerate() {
        let fifth = bits.right(4 * s as u32).spread_bits().left(4);
        *word = Lanes::new(integers, *word).or(fifth).words();
    }
}

/// See [`crate::quant::Encoding::Q4_0`].
pub(in super::super) struct Q4_0;

impl Format for Q4_0 {
    type Codes = Centred<32, 15>;
    const VALUES: usize = 32;
    const BYTES: usize = Encoding::Q4_0.block_bytes();
    const OFFSET: u8 = 8;
    const PLACES: &'static [Place] = &[Place::Nibbles(2)];

    #[inline(always)]
    fn unpack<I: Integers>(integers: I, rows: BlockRows<'_>, to: &mut Block<'_>) {
        Self::factors(integers, rows, to);
        nibbles(integers, rows, 2, to.codes);
    }

    #[inline(always)]
    fn factors<I: Integers>(integers: I, rows: BlockRows<'_>, to: &mut Block<'_>) {
        to.factors[0] = gather(integers, rows, 0).halves();
    }
}

/// See [`crate::quant::Encoding::Q4_1`].
pub(in super::super) struct Q4_1;

impl Format for Q4_1 {
    type Codes = Raised<32, 15>;
    const VALUES: usize = 32;
    const BYTES: usize = Encoding::Q4_1.block_bytes();
    const OFFSET: u8 = 0;
    const PLACES: &'static [Place] = &[Place::Nibbles(4)];

    #[inline(always)]
    fn unpack<I: Integers>(integers: I, rows: BlockRows<'_>, to: &mut Block<'_>) {
        Self::factors(integers, rows, to);
        nibbles(integers, rows, 4, to.codes);
    }

    #[inline(always)]
    fn factors<I: Integers>(integers: I, rows: BlockRows<'_>, to: &mut Block<'_>) {
        let head = gather(integers, rows, 0);
        to.factors[0] = head.halves();
        to.minimums[0] = head.right(16).halves();
    }
}

/// See [`crate::quant::Encoding::Q5_0`].
pub(in super::super) struct Q5_0;

impl Format for Q5_0 {
    type Codes = Centred<32, 31>;
    const VALUES: usize = 32;
    const BYTES: usize = Encoding::Q5_0.block_bytes();
    const OFFSET: u8 = 16;

    #[inline(always)]
    fn unpack<I: Integers>(integers: I, rows: BlockRows<'_>, to: &mut Block<'_>) {
        to.factors[0] = gather(integers, rows, 0).halves();
        nibbles(integers, rows, 6, to.codes);
        fifth_bits(integers, gather(integers, rows, 2), to.codes);
    }
}

/// See [`crate::quant::Encoding::Q5_1`].
pub(in super::super) struct Q5_1;

impl Format for Q5_1 {
    type Codes = Raised<32, 31>;
    const VALUES: usize = 32;
    const BYTES: usize = Encoding::Q5_1.block_bytes();
    const OFFSET: u8 = 0;

    #[inline(always)]
    fn unpack<I: Integers>(integers: I, rows: BlockRows<'_>, to: &mut Block<'_>) {
        let head = gather(integers, rows, 0);
        to.factors[0] = head.halves();
        to.minimums[0] = head.right(16).halves();
        nibbles(integers, rows, 8, to.codes);
        fifth_bits(integers, gather(integers, rows, 4), to.codes);
    }
}

/// See [`crate::quant::Encoding::Q8_0`].
pub(in super::super) struct Q8_0;

impl Format for Q8_0 {
    type Codes = Centred<32, 255>;
    const VALUES: usize = 32;
    const BYTES: usize = Encoding::Q8_0.block_bytes();
    const OFFSET: u8 = 128;
    const PLACES: &'static [Place] = &[Place::Signed(2)];

    #[inline(always)]
    fn unpack<I: Integers>(integers: I, rows: BlockRows<'_>, to: &mut Block<'_>) {
        Self::factors(integers, rows, to);
        let codes = plane(integers, rows, 2);
        for s in 0..8 {
            // A signed byte plus 128, without a carry.
            to.codes[s] = codes[s].bytes_xor(0x80).words();
        }
    }

    #[inline(always)]
    fn factors<I: Integers>(integers: I, rows: BlockRows<'_>, to: &mut Block<'_>) {
        to.factors[0] = gather(integers, rows, 0).halves();
    }
}

/// See [`crate::quant::Encoding::IQ4_NL`].
pub(in super::super) struct Iq4Nl;

impl Format for Iq4Nl {
    type Codes = Centred<32, 255>;
    const VALUES: usize = 32;
    const BYTES: usize = Encoding::IQ4_NL.block_bytes();
    const OFFSET: u8 = 128;

    #[inline(always)]
    fn unpack<I: Integers>(integers: I, rows: BlockRows<'_>, to: &mut Block<'_>) {
        to.factors[0] = gather(integers, rows, 0).halves();
        levels(integers, rows, 2, to.codes);
    }
}

/// Sixteen bytes of codes for the uneven levels.
#[inline(always)]
pub(super) fn levels<I: Integers>(integers: I, rows: BlockRows<'_>, at: usize, to: &mut [Words]) {
    nibbles(integers, rows, at, to);
    for word in &mut to[..8] {
        *word = Lanes::new(integers, *word).look_up(&LEVELS).words();
    }
}
