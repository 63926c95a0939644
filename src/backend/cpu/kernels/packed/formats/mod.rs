//! The block formats, sixteen features at a time.
//!
//! The layouts are those of [`crate::quant`] (one file each, with the traps), but nothing is decoded value by value: the
//! bytes of sixteen rows are transposed into words that hold the same four bytes of every row, and masks and shifts on
//! those unpack codes, scales and minimums alike. Codes are unsigned; a format of signed values has an offset.

mod large;
mod small;

use super::activations::{Sums, WORD};
use super::integers::{Blocks, FEATURES, Integers, Lanes, Words};
use crate::quant::Encoding;

pub(super) use large::{Iq4Xs, Q2K, Q3K, Q4K, Q5K, Q6K};
pub(super) use small::{Iq4Nl, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};

/// A block format: `value = factor · code + minimum`, or `factor · (code - offset)`.
pub(super) trait Format: 'static {
    /// What its products have to know.
    type Codes: Codes;
    /// What files call it.
    const ENCODING: Encoding;
    /// Values in a block.
    const VALUES: usize = Self::ENCODING.block_len();
    /// Bytes in a block.
    const BYTES: usize = Self::ENCODING.block_bytes();
    /// The code that stands for zero, in a format without minimums.
    const OFFSET: u8;

    /// What the sum of a group's activations is multiplied with.
    fn sums() -> Sums {
        if Self::Codes::MINIMUMS { Sums::Scale } else { Sums::Offset(Self::OFFSET) }
    }

    /// What the codes of a block count, and its minimums; implementations are `#[inline(always)]`.
    fn factors<I: Integers>(integers: I, rows: impl Blocks, to: &mut Factors<'_>);

    /// Hands over all codes of a block, from the first to the last, which is the order of their sums; implementations are
    /// `#[inline(always)]`.
    fn planes<I: Integers>(integers: I, rows: impl Blocks, to: &mut impl Planes);
}

/// Unpacked codes, whatever format they come from.
pub(super) trait Codes: 'static {
    /// Values with one factor.
    const GROUP: usize;
    /// Words in a group.
    const STEPS: usize = Self::GROUP / WORD;
    /// The greatest code.
    const GREATEST: u8;
    /// Whether a group has a minimum of its own.
    const MINIMUMS: bool;
}

/// Groups of `GROUP` codes up to `GREATEST`, of formats without minimums.
pub(super) struct Centred<const GROUP: usize, const GREATEST: u8>;

impl<const GROUP: usize, const GREATEST: u8> Codes for Centred<GROUP, GREATEST> {
    const GROUP: usize = GROUP;
    const GREATEST: u8 = GREATEST;
    const MINIMUMS: bool = false;
}

/// Groups of `GROUP` codes up to `GREATEST`, with minimums.
pub(super) struct Raised<const GROUP: usize, const GREATEST: u8>;

impl<const GROUP: usize, const GREATEST: u8> Codes for Raised<GROUP, GREATEST> {
    const GROUP: usize = GROUP;
    const GREATEST: u8 = GREATEST;
    const MINIMUMS: bool = true;
}

/// Where the factors and minimums of a block of sixteen features go: as [`super::integers::Panel`].
pub(super) struct Factors<'a> {
    /// `VALUES / GROUP`
    pub(super) factors: &'a mut [[f32; FEATURES]],
    /// As many; untouched in a format without minimums.
    pub(super) minimums: &'a mut [[f32; FEATURES]],
}

/// Words in 32 values.
pub(super) const PLANE: usize = 8;

/// What takes the codes of a block, 32 values at a time.
pub(super) trait Planes {
    /// Takes those of words `at` to `at + 8` of a feature.
    fn take(&mut self, at: usize, codes: &[Words; PLANE]);
}

/// Into memory.
impl Planes for &mut [Words] {
    #[inline(always)]
    fn take(&mut self, at: usize, codes: &[Words; PLANE]) {
        self[at..at + PLANE].copy_from_slice(codes);
    }
}

/// What the codes of `IQ4_NL` and `IQ4_XS` stand for (ggml `kvalues_iq4nl`), plus 128.
const LEVELS: [u8; 16] = {
    let levels: [i16; 16] =
        [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
    let mut table = [0; 16];
    let mut i = 0;
    while i < 16 {
        table[i] = (levels[i] + 128) as u8;
        i += 1;
    }
    table
};

/// Four bytes of each row.
#[inline(always)]
fn gather<I: Integers>(integers: I, rows: impl Blocks, at: usize) -> Lanes<I> {
    Lanes::new(integers, rows.gather(integers, at))
}

/// The half-precision number of each row at `at`.
#[inline(always)]
fn half<I: Integers>(integers: I, rows: impl Blocks, at: usize) -> [f32; FEATURES] {
    Lanes::new(integers, rows.half(integers, at)).halves()
}

/// Sixteen bytes of each row as four words.
#[inline(always)]
fn columns<I: Integers>(integers: I, rows: impl Blocks, at: usize) -> [Lanes<I>; 4] {
    let [a, b, c, d] = rows.columns(integers, at);
    [
        Lanes::new(integers, a),
        Lanes::new(integers, b),
        Lanes::new(integers, c),
        Lanes::new(integers, d),
    ]
}

/// Thirty-two bytes of each row as eight words.
#[inline(always)]
fn plane<I: Integers>(integers: I, rows: impl Blocks, at: usize) -> [Lanes<I>; 8] {
    let [a, b, c, d] = columns(integers, rows, at);
    let [e, f, g, h] = columns(integers, rows, at + 16);
    [a, b, c, d, e, f, g, h]
}

#[inline(always)]
fn product(a: &[f32; FEATURES], b: &[f32; FEATURES]) -> [f32; FEATURES] {
    let mut values = *a;
    for f in 0..FEATURES {
        values[f] *= b[f];
    }
    values
}

#[inline(always)]
fn negated(a: &[f32; FEATURES]) -> [f32; FEATURES] {
    let mut values = *a;
    for value in &mut values {
        *value = -*value;
    }
    values
}
