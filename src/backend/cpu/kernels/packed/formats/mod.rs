//! The block formats, sixteen features at a time.
//!
//! The layouts are those of [`crate::quant`] (one file each, with the traps), but nothing is decoded value by value: the
//! bytes of sixteen rows are transposed into words that hold the same four bytes of every row, and masks and shifts on
//! those unpack codes, scales and minimums alike. Codes are unsigned; a format of signed values has an offset.

mod large;
mod small;

use super::activations::{Sums, WORD};
use super::integers::{BlockRows, FEATURES, Integers, Lanes, Words};

pub(super) use large::{Iq4Xs, Q2K, Q3K, Q4K, Q5K, Q6K};
pub(super) use small::{Iq4Nl, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};

/// A block format: `value = factor · code + minimum`, or `factor · (code - offset)`.
pub(super) trait Format: 'static {
    /// What its products have to know.
    type Codes: Codes;
    /// Values in a block.
    const VALUES: usize;
    /// Bytes in a block.
    const BYTES: usize;
    /// The code that stands for zero, in a format without minimums.
    const OFFSET: u8;

    /// Where each group's codes lie in a block, in a format of groups of 32 values whose codes can be multiplied there.
    const PLACES: &'static [Place] = &[];

    /// How the codes lie in a block, in a format of 256 whose blocks can be multiplied as they are.
    const WHOLE: Option<Whole> = None;

    /// What the sum of a group's activations is multiplied with.
    fn sums() -> Sums {
        if Self::Codes::MINIMUMS { Sums::Scale } else { Sums::Offset(Self::OFFSET) }
    }

    /// Unpacks one block of sixteen features; implementations are `#[inline(always)]`.
    fn unpack<I: Integers>(integers: I, rows: BlockRows<'_>, to: &mut Block<'_>);

    /// The factors and minimums alone, in a format with [`Format::PLACES`] or [`Format::WHOLE`].
    #[inline(always)]
    fn factors<I: Integers>(_integers: I, _rows: BlockRows<'_>, _to: &mut Block<'_>) {
        unreachable!("asked of formats that are multiplied where they lie only");
    }
}

/// Where the 32 codes of a group lie in a block: bytes from its start, and what of them.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // x86 alone multiplies codes in place
pub(super) enum Place {
    /// Sixteen bytes: the low nibbles of all, then the high ones.
    Nibbles(usize),
    /// The low nibbles of 32 bytes.
    Low(usize),
    /// The high nibbles of 32 bytes.
    High(usize),
    /// 32 signed bytes: codes less the format's offset.
    Signed(usize),
}

#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // as above
impl Place {
    /// Where the bytes begin, and how many there are.
    pub(super) const fn bytes(self) -> (usize, usize) {
        match self {
            Self::Nibbles(at) => (at, 16),
            Self::Low(at) | Self::High(at) | Self::Signed(at) => (at, 32),
        }
    }
}

/// How 256 codes lie in a block. A code's bits are spread over up to two parts of it, which hold those of 32 or 64 values
/// side by side, one lot above the other.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // as above
pub(super) enum Whole {
    /// Two bits of 4 × 32 values in 32 bytes from byte 16 on, and so on.
    Q2K,
    /// Two bits from byte 32 on as in `Q2K`, the third ones of 8 × 32 values in the first 32 bytes.
    Q3K,
    /// Four bits of 2 × 32 values in 32 bytes from byte 16 on, and so on.
    Q4K,
    /// Four bits from byte 48 on as in `Q4K`, the fifth ones of 8 × 32 values in the 32 bytes before.
    Q5K,
    /// Four bits of 2 × 64 values in the first 64 bytes, and so on; two more of 4 × 32 values from byte 128 on, and so on.
    Q6K,
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

/// Where a block of sixteen features goes: as [`super::integers::Panel`].
pub(super) struct Block<'a> {
    /// `VALUES / 4`
    pub(super) codes: &'a mut [Words],
    /// `VALUES / GROUP`
    pub(super) factors: &'a mut [[f32; FEATURES]],
    /// As many, or none.
    pub(super) minimums: &'a mut [[f32; FEATURES]],
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
fn gather<I: Integers>(integers: I, rows: BlockRows<'_>, at: usize) -> Lanes<I> {
    Lanes::new(integers, integers.gather(rows, at))
}

/// Sixteen bytes of each row as four words.
#[inline(always)]
fn columns<I: Integers>(integers: I, rows: BlockRows<'_>, at: usize) -> [Lanes<I>; 4] {
    let [a, b, c, d] = integers.columns(rows, at);
    [
        Lanes::new(integers, a),
        Lanes::new(integers, b),
        Lanes::new(integers, c),
        Lanes::new(integers, d),
    ]
}

/// Thirty-two bytes of each row as eight words.
#[inline(always)]
fn plane<I: Integers>(integers: I, rows: BlockRows<'_>, at: usize) -> [Lanes<I>; 8] {
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
