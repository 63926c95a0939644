//! GGUF's block formats on a GPU: a thread decodes one *piece* of a block, 32 values, into
//! registers. The formulas are those of `quant` in the library, which names their source.
//!
//! What a thread gets is a [`Piece`]: codes, and for each run the factor and the minimum that make
//! values of them, `factor · code - minimum`. A product can so be made of the codes, and scaled once
//! a run.
//!
//! A piece is chosen so that it uses every bit of the bytes that it reads. Its values are therefore
//! not always neighbours: they are 1, 2 or 4 *runs* of neighbours, each a multiple of 8.

mod four;
mod iq4;
mod k;
mod q8_0;

use cubecl::prelude::*;

use crate::common::half_bits;

/// How a matrix is stored.
#[allow(non_camel_case_types)] // the names that GGUF gives them
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Plain numbers.
    F32,
    /// Plain halves.
    F16,
    /// 32 values: a scale and signed 4-bit codes.
    Q4_0,
    /// 32 values: a scale, a minimum and 4-bit codes.
    Q4_1,
    /// 32 values: a scale and signed 5-bit codes.
    Q5_0,
    /// 32 values: a scale, a minimum and 5-bit codes.
    Q5_1,
    /// 32 values: a scale and bytes.
    Q8_0,
    /// 256 values, 2-bit codes, 16 scales and minimums.
    Q2_K,
    /// 256 values, 3-bit codes, 16 scales.
    Q3_K,
    /// 256 values, 4-bit codes, 8 scales and minimums.
    Q4_K,
    /// 256 values, 5-bit codes, 8 scales and minimums.
    Q5_K,
    /// 256 values, 6-bit codes, 16 scales.
    Q6_K,
    /// 32 values: a scale and 4-bit codes into a table.
    IQ4_NL,
    /// 256 values, 4-bit codes into a table, 8 scales.
    IQ4_XS,
}

/// Values in a piece of a block.
pub(crate) const PIECE: usize = 32;

impl Format {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::F32,
        Self::F16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::IQ4_NL,
        Self::IQ4_XS,
    ];

    /// Whether it comes in blocks.
    pub const fn is_packed(self) -> bool {
        !matches!(self, Self::F32 | Self::F16)
    }

    /// As names of kernels have it.
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// Values in a block.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::IQ4_NL => 32,
            _ => 256,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
            Self::Q4_0 | Self::IQ4_NL => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2_K => 84,
            Self::Q3_K => 110,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
            Self::IQ4_XS => 136,
        }
    }

    /// Pieces of a block.
    pub(crate) const fn pieces(self) -> usize {
        self.block_len() / PIECE
    }

    /// Whether runs have a minimum.
    pub(crate) const fn has_minimum(self) -> bool {
        matches!(self, Self::Q4_1 | Self::Q5_1 | Self::Q2_K | Self::Q4_K | Self::Q5_K)
    }

    /// Runs of a piece.
    pub(crate) const fn runs(self) -> usize {
        match self {
            Self::Q4_K | Self::Q5_K => 2,
            Self::Q2_K | Self::Q3_K | Self::Q6_K => 4,
            _ => 1,
        }
    }
}

/// Where in its block the `run`-th run of a piece begins.
#[cube]
pub(crate) fn run_start(piece: usize, #[comptime] run: usize, #[comptime] format: Format) -> usize {
    match comptime!(format.runs()) {
        1 => piece * 32,
        2 => (piece / 2) * 64 + (piece % 2) * 16 + comptime!(run * 32),
        _ => (piece / 4) * 128 + (piece % 4) * 8 + comptime!(run * 32),
    }
}

/// A decoded piece.
#[derive(CubeType)]
pub(crate) struct Piece {
    /// The codes, run after run, as numbers around zero where the format has them so.
    pub(crate) codes: Array<f32>,
    /// Of each run.
    pub(crate) factors: Array<f32>,
    /// Of each run; meaningless where the format has none.
    pub(crate) minimums: Array<f32>,
}

/// The code below `2^23` in the low bits of `code`, minus `offset`. Set into the mantissa of 2^23 it
/// is a float already: GPUs convert integers at a fraction of their other speeds.
#[cube]
pub(crate) fn number(code: u32, #[comptime] offset: u32) -> f32 {
    f32::reinterpret(code | 0x4b00_0000u32) - f32::new(comptime!(8_388_608.0 + offset as f32))
}

/// Words of memory from an even position on.
#[derive(CubeType)]
pub(crate) struct Words {
    raw: Array<u32>,
    odd: bool,
}

/// Reads what `bytes` bytes from an even position on take.
#[cube]
pub(crate) fn words(data: &Array<u32>, at: usize, #[comptime] bytes: usize) -> Words {
    // At an odd half word there are two bytes before, else perhaps two behind.
    let count = comptime!((bytes + 2).div_ceil(4));
    let mut raw = Array::<u32>::new(count);
    #[unroll]
    for i in 0..count {
        raw[i] = data[at / 4 + i];
    }
    Words { raw, odd: at % 4 != 0 }
}

/// The four bytes `byte` (an even number) bytes after the position of `words`.
#[cube]
pub(crate) fn word_at(words: &Words, #[comptime] byte: usize) -> u32 {
    let first = comptime!(byte / 4);
    let across = (words.raw[first] >> 16) | (words.raw[comptime!(first + 1)] << 16);
    if comptime!(byte.is_multiple_of(4)) {
        select(words.odd, across, words.raw[first])
    } else {
        select(words.odd, words.raw[comptime!(first + 1)], across)
    }
}

/// The f16 `byte` (an even number) bytes after the position of `words`.
#[cube]
pub(crate) fn scale_at(words: &Words, #[comptime] byte: usize) -> f32 {
    let low = words.raw[comptime!(byte / 4)] & 0xffff;
    let high = words.raw[comptime!(byte / 4)] >> 16;
    if comptime!(byte.is_multiple_of(4)) {
        half_bits(select(words.odd, high, low))
    } else {
        let next = words.raw[comptime!((byte + 2) / 4)] & 0xffff;
        half_bits(select(words.odd, next, high))
    }
}

/// The two bytes at an even position.
#[cube]
pub(crate) fn half_word(data: &Array<u32>, byte: usize) -> u32 {
    (data[byte / 4] >> ((byte as u32 % 4) * 8)) & 0xffff
}

/// The byte at any position.
#[cube]
pub(crate) fn byte(data: &Array<u32>, byte: usize) -> u32 {
    (data[byte / 4] >> ((byte as u32 % 4) * 8)) & 0xff
}

/// The four bytes at an even position.
#[cube]
pub(crate) fn word(data: &Array<u32>, byte: usize, #[comptime] aligned: bool) -> u32 {
    if comptime!(aligned) {
        data[byte / 4]
    } else {
        let odd = byte % 4 != 0;
        let low = data[byte / 4];
        // An even position has no use for the next word, which may lie behind the end.
        let high = data[byte / 4 + usize::cast_from(odd)];
        select(odd, (low >> 16) | (high << 16), low)
    }
}

/// The f16 at an even position.
#[cube]
pub(crate) fn scale(data: &Array<u32>, byte: usize) -> f32 {
    half_bits(half_word(data, byte))
}

/// Room for a piece.
#[cube]
pub(crate) fn empty_piece(#[comptime] format: Format) -> Piece {
    Piece {
        codes: Array::<f32>::new(PIECE),
        factors: Array::<f32>::new(comptime!(format.runs())),
        minimums: Array::<f32>::new(comptime!(format.runs())),
    }
}

/// Decodes the `piece`-th piece of the block that begins at byte `at` (an even number).
#[cube]
pub(crate) fn decode(
    data: &Array<u32>,
    at: usize,
    piece: usize,
    out: &mut Piece,
    #[comptime] format: Format,
) {
    match comptime!(format) {
        Format::Q4_0 => four::q4_0(data, at, out),
        Format::Q4_1 => four::q4_1(data, at, out),
        Format::Q5_0 => four::q5_0(data, at, out),
        Format::Q5_1 => four::q5_1(data, at, out),
        Format::Q8_0 => q8_0::q8_0(data, at, out),
        Format::Q2_K => k::q2_k(data, at, piece, out),
        Format::Q3_K => k::q3_k(data, at, piece, out),
        Format::Q4_K => k::q4_k(data, at, piece, out),
        Format::Q5_K => k::q5_k(data, at, piece, out),
        Format::Q6_K => k::q6_k(data, at, piece, out),
        Format::IQ4_NL => iq4::iq4_nl(data, at, out),
        Format::IQ4_XS => iq4::iq4_xs(data, at, piece, out),
        _ => comptime!(unreachable!("plain numbers are not decoded")),
    }
}
