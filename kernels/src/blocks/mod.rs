//! GGUF's block formats on a GPU: a thread decodes one *piece* of a block, 32 values, into
//! registers. The formulas are those of `quant` in the library, which names their source.
//!
//! What a thread gets is a [`Piece`]: codes, and for each run the factor and the minimum that make
//! values of them, `factor · code - minimum`. A product can so be made of the codes, and scaled once
//! a run.
//!
//! Reading ([`fetch`]) and decoding ([`decode`]) are apart: a thread has the words of many pieces
//! under way before it takes the first one apart.
//!
//! Codes become floats without a conversion, which GPUs do at a fraction of their other speeds: the
//! bits are set into the mantissa of a power of two. Where they are set high, that power is small,
//! and it need not be subtracted from every code: `Σ (code + lift) · x = Σ code · x + lift · Σ x`, and
//! `Σ x` is the same for every row of a matrix. Such codes come [lifted](Format::lift).
//!
//! A piece is chosen so that it uses every bit of the bytes that it reads. Its values are therefore
//! not always neighbours: they are 1, 2 or 4 *runs* of neighbours, each a multiple of 8.

mod five;
mod iq4;
mod k;
mod q8_0;
mod sections;

use cubecl::prelude::*;
use half::f16;

use crate::common::half_bits;
pub(crate) use iq4::{Levels, share_levels};
pub(crate) use sections::{fetch, section_start};

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

    /// Whether codes choose from levels.
    pub(crate) const fn has_levels(self) -> bool {
        matches!(self, Self::IQ4_NL | Self::IQ4_XS)
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

impl Format {
    /// Bits of a code.
    pub(crate) const fn bits(self) -> u32 {
        match self {
            Self::F32 => 32,
            Self::F16 => 16,
            Self::Q8_0 => 8,
            Self::Q6_K => 6,
            Self::Q5_0 | Self::Q5_1 | Self::Q5_K => 5,
            Self::Q3_K => 3,
            Self::Q2_K => 2,
            Self::Q4_0 | Self::Q4_1 | Self::Q4_K | Self::IQ4_NL | Self::IQ4_XS => 4,
        }
    }

    /// What is added to the code at each place of a decoded piece: small, so that a product of
    /// lifted codes is as good as one of codes. The same for four neighbours.
    pub(crate) const fn lift(self, place: usize) -> u32 {
        let power = match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q4_K if place >= 16 => 8,
            Self::Q2_K => k::two_bits(place / 8),
            Self::F32 | Self::F16 | Self::IQ4_NL | Self::IQ4_XS => return 0,
            _ => self.bits(),
        };
        self.zero() + (1 << power)
    }

    /// The code, from zero on, that stands for zero.
    pub(crate) const fn zero(self) -> u32 {
        match self {
            Self::Q3_K => 4,
            Self::Q4_0 => 8,
            Self::Q5_0 => 16,
            Self::Q6_K => 32,
            Self::Q8_0 => 128,
            _ => 0,
        }
    }

    /// The same of [`byte_codes`].
    pub(crate) const fn zero_of_bytes(self) -> u32 {
        // They are signed already.
        if matches!(self, Self::Q8_0) { 0 } else { self.zero() }
    }

    /// Whether there are kernels that multiply its codes as bytes: for formats whose codes are numbers.
    pub const fn takes_bytes(self) -> bool {
        self.is_packed() && !self.has_levels()
    }

    /// Neighbours that share a factor, in [`byte_codes`].
    pub(crate) const fn byte_run(self) -> usize {
        if self.runs() == 4 { 16 } else { 32 }
    }

    /// Whether codes come lifted.
    pub(crate) const fn is_lifted(self) -> bool {
        self.lift(0) > 0
    }

    /// Whether blocks are read 16 bytes at a time.
    pub(crate) const fn is_wide(self) -> bool {
        matches!(self, Self::Q4_K | Self::Q5_K)
    }

    /// Whether blocks begin at whole words; else they may begin at a half.
    const fn is_aligned(self) -> bool {
        self.block_bytes().is_multiple_of(4)
    }

    /// Neighbouring pieces that can be read together for less: two blocks of `Q4_0` begin at a whole
    /// word if the first one does, and two pieces of `Q4_K` share their scales. Of those that have runs,
    /// two make neighbours as [`byte_codes`] has them.
    pub(crate) const fn most_together(self, bytes: bool) -> usize {
        let gains = matches!(self, Self::Q4_0 | Self::Q4_K) || (bytes && self.runs() > 1);
        if gains { 2 } else { 1 }
    }

    /// Words that are read for so many neighbouring pieces.
    pub(crate) const fn words(self, together: usize) -> usize {
        match self {
            Self::Q4_0 if together == 2 => 9,
            Self::Q4_K => 4 + 4 * together,
            Self::Q5_K => 4 + 8 * together,
            _ => self.words_before(self.section_count(), together),
        }
    }

    /// Words that so many bytes from the beginning of a word or of its upper half on touch.
    const fn words_of(self, bytes: usize) -> usize {
        if self.is_aligned() { bytes / 4 } else { (bytes + 2).div_ceil(4) }
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

/// Words of codes of a piece.
const WORDS: usize = PIECE / 4;

/// A decoded piece.
#[derive(CubeType)]
pub(crate) struct Piece {
    /// The codes, run after run, as numbers around zero where the format has them so, each plus its
    /// [lift](Format::lift).
    pub(crate) codes: Sequence<f32>,
    /// Of each run.
    pub(crate) factors: Sequence<f32>,
    /// Of each run; none where the format has none.
    pub(crate) minimums: Sequence<f32>,
}

/// What runs are multiplied by, and what is taken off.
#[derive(CubeType)]
struct Factors {
    factors: Sequence<f32>,
    /// None where the format has none.
    minimums: Sequence<f32>,
}

/// The code below `2^23` in the low bits of `code`, minus `offset`.
#[cube]
pub(crate) fn number(code: u32, #[comptime] offset: u32) -> f32 {
    f32::reinterpret(code | 0x4b00_0000u32) - f32::new(comptime!(8_388_608.0 + offset as f32))
}

/// `word << left`, or `>>` where that is negative.
#[cube]
fn shifted(word: u32, #[comptime] left: i32) -> u32 {
    if comptime!(left < 0) {
        word >> comptime!((-left) as u32)
    } else if comptime!(left == 0) {
        word
    } else {
        word << comptime!(left as u32)
    }
}

/// The code of `bits` bits from bit `from` of a word on, plus `2^lift`, where `lift` is at least
/// `bits`. The bits are masked and set in one instruction of NVIDIA's if one of the two constants is
/// in a register, which is why it is made of something unknown.
#[cube]
fn field(
    read: &Read,
    word: u32,
    #[comptime] from: u32,
    #[comptime] bits: u32,
    #[comptime] lift: u32,
) -> f32 {
    let one = comptime!(23 - lift);
    let placed = shifted(word, comptime!(one as i32 - from as i32));
    let mask = u32::new(comptime!(((1i64 << bits) - 1) << one));
    let exponent = u32::new(comptime!((127 + lift as i64) << 23));
    f32::reinterpret((placed & mask) | (exponent | read.zero))
}

/// Some bits of a word.
#[derive(Clone, Copy)]
struct Bits {
    /// By how much the word is shifted left (right, if negative) to bring them to their places.
    left: i32,
    /// Their places.
    mask: u32,
}

/// Nibble 0 or 1 of every byte in its low end.
const fn nibbles(which: usize) -> Bits {
    Bits { left: -4 * which as i32, mask: 0x0f0f_0f0f }
}

/// Those bits of a word, at their places.
#[cube]
fn taken(word: u32, #[comptime] bits: Bits) -> u32 {
    let left = comptime!(bits.left);
    shifted(word, left) & u32::new(comptime!(i64::from(bits.mask)))
}

/// Some bits of one word, and some of another.
#[cube]
fn joined(a: u32, b: u32, #[comptime] of_a: Bits, #[comptime] of_b: Bits) -> u32 {
    taken(a, of_a) | taken(b, of_b)
}

/// The low nibble of byte `i` plus 16, or its high nibble plus 256: some of the eight nibbles of a
/// word then share a shift.
#[cube]
fn nibble(read: &Read, word: u32, #[comptime] i: usize, #[comptime] high: bool) -> f32 {
    let (from, lift) = comptime!(if high { (8 * i as u32 + 4, 8u32) } else { (8 * i as u32, 4) });
    field(read, word, from, 4u32, lift)
}

/// Byte `i`, signed, plus 384: its sign bit is flipped with the exponent of 256 being set.
#[cube]
fn byte_code(read: &Read, word: u32, #[comptime] i: usize) -> f32 {
    let left = comptime!(15 - 8 * i as i32);
    let word = shifted(word, left);
    f32::reinterpret((word & 0x007f_8000u32) ^ (0x43c0_0000u32 | read.zero))
}

/// What [`fetch`] read of a piece.
#[derive(CubeType)]
pub(crate) struct Read {
    raw: Sequence<u32>,
    /// Whether the block begins in the upper half of its first word.
    odd: bool,
    /// 0, but not for the compiler.
    zero: u32,
    #[cube(comptime)]
    aligned: bool,
    /// Whether f16 is converted by an instruction.
    #[cube(comptime)]
    halves: bool,
    /// How many pieces were read together.
    #[cube(comptime)]
    together: usize,
    /// Of these, the one that is meant.
    #[cube(comptime)]
    index: usize,
}

/// What [`fetch`] left from the word `first` on of a piece whose block begins at byte `at`.
#[cube]
fn held(
    words: &Sequence<u32>,
    at: usize,
    zero: u32,
    #[comptime] first: usize,
    #[comptime] format: Format,
    #[comptime] together: usize,
    #[comptime] index: usize,
    #[comptime] halves: bool,
) -> Read {
    let mut raw = Sequence::<u32>::new();
    #[unroll]
    for i in 0..comptime!(format.words(together)) {
        raw.push(words[comptime!(first + i)]);
    }
    let aligned = comptime!(format.is_aligned() || format.pieces() < together);
    Read { raw, odd: at % 4 != 0, zero, aligned, halves, together, index }
}

/// The four bytes `byte` (an even number) bytes into what was read.
#[cube]
fn word_at(read: &Read, #[comptime] byte: usize) -> u32 {
    let first = comptime!(byte / 4);
    let whole = comptime!(byte.is_multiple_of(4));
    if comptime!(read.aligned && whole) {
        read.raw[first]
    } else {
        let across = (read.raw[first] >> 16) | (read.raw[comptime!(first + 1)] << 16);
        if comptime!(read.aligned) {
            across
        } else if comptime!(whole) {
            select(read.odd, across, read.raw[first])
        } else {
            select(read.odd, read.raw[comptime!(first + 1)], across)
        }
    }
}

/// The lower or upper f16 of a word.
#[cube]
fn half_of(word: u32, #[comptime] upper: bool, #[comptime] halves: bool) -> f32 {
    if comptime!(halves) {
        f32::cast_from(Vector::<f16, Const<2>>::reinterpret(word)[comptime!(upper as usize)])
    } else if comptime!(upper) {
        half_bits(word >> 16)
    } else {
        half_bits(word & 0xffff)
    }
}

/// The f16 `byte` (an even number) bytes into what was read.
#[cube]
fn scale_at(read: &Read, #[comptime] byte: usize) -> f32 {
    let whole = comptime!(byte.is_multiple_of(4));
    let word = read.raw[comptime!(byte / 4)];
    if comptime!(read.aligned && whole) {
        half_of(word, false, read.halves)
    } else if comptime!(read.aligned) {
        half_of(word, true, read.halves)
    } else if comptime!(whole) {
        half_of(select(read.odd, word >> 16, word), false, read.halves)
    } else {
        let next = read.raw[comptime!((byte + 2) / 4)];
        half_of(select(read.odd, next, word >> 16), false, read.halves)
    }
}

/// Decodes the `index`-th of the pieces from the `piece`-th of the block that begins at byte `at` on,
/// from the words from `first` on that [`fetch`] left. `zero` is 0, if possible in a way that the compiler cannot know.
#[cube]
pub(crate) fn decode(
    words: &Sequence<u32>,
    levels: &Levels,
    at: usize,
    piece: usize,
    zero: u32,
    #[comptime] first: usize,
    #[comptime] format: Format,
    #[comptime] together: usize,
    #[comptime] index: usize,
) -> Piece {
    let read = held(words, at, zero, first, format, together, index, false);
    let Factors { factors, minimums } = factors(&read, piece, format);
    let mut codes = Sequence::<f32>::new();
    match comptime!(format) {
        Format::Q4_0 | Format::Q4_1 | Format::Q4_K =>
        {
            #[unroll]
            for half in 0..2usize {
                #[unroll]
                for k in 0..comptime!(WORDS / 2) {
                    let q = nibble_word(&read, k, format);
                    #[unroll]
                    for i in 0..4usize {
                        codes.push(nibble(&read, q, i, comptime!(half == 1)));
                    }
                }
            }
        }
        Format::Q2_K => k::q2_k_codes(&read, &mut codes),
        Format::Q8_0 => q8_0::codes(&read, &mut codes),
        Format::IQ4_NL => iq4::levels(&read, levels, &mut codes, 2usize),
        Format::IQ4_XS => iq4::levels(&read, levels, &mut codes, 8usize),
        _ => {
            let bits = comptime!(format.bits());
            #[unroll]
            for k in 0..WORDS {
                let word = code_word(&read, piece, k, format);
                #[unroll]
                for i in 0..4usize {
                    codes.push(field(&read, word, comptime!(8 * i as u32), bits, bits));
                }
            }
        }
    }
    Piece { codes, factors, minimums }
}

/// What codes that stay integers are multiplied by, and what is added for each.
#[derive(CubeType)]
pub(crate) struct Factor {
    pub(crate) factor: f32,
    /// Meaningless where the format has none.
    pub(crate) minimum: f32,
}

/// That of the `index`-th [neighbours](Format::byte_run), see [`byte_codes`].
#[cube]
pub(crate) fn byte_factor(
    words: &Sequence<u32>,
    at: usize,
    piece: usize,
    #[comptime] first: usize,
    #[comptime] format: Format,
    #[comptime] together: usize,
    #[comptime] index: usize,
) -> Factor {
    let read = held(words, at, 0u32.runtime(), first, format, together, index, true);
    let of = factors(&read, piece, format);
    let run = comptime!(index % format.runs());
    let minimum = if comptime!(format.has_minimum()) { of.minimums[run] } else { f32::new(0.0) };
    Factor { factor: of.factors[run], minimum }
}

/// As [`decode`], without making floats of codes, and the `index`-th [neighbours](Format::byte_run) that
/// share a factor: of formats with runs two pieces must have been read together, and they are the
/// `index`-th run of both. A signed byte each, in order; [`Format::zero_of_bytes`] stands for zero.
#[cube]
pub(crate) fn byte_codes(
    words: &Sequence<u32>,
    at: usize,
    piece: usize,
    #[comptime] first: usize,
    #[comptime] format: Format,
    #[comptime] together: usize,
    #[comptime] index: usize,
) -> Sequence<u32> {
    let read = held(words, at, 0u32.runtime(), first, format, together, index, true);
    let mut codes = Sequence::<u32>::new();
    #[unroll]
    for k in 0..comptime!(format.byte_run() / 4) {
        let word = match comptime!(format) {
            Format::Q4_0 | Format::Q4_1 => {
                taken(nibble_word(&read, comptime!(k % 4), format), comptime!(nibbles(k / 4)))
            }
            Format::Q4_K => taken(word_at(&read, comptime!(16 + 4 * k)), comptime!(nibbles(index))),
            Format::Q8_0 => word_at(&read, comptime!(2 + 4 * k)),
            Format::Q2_K => k::q2_k(&read, index, k),
            Format::Q3_K => k::q3_k(&read, piece, index, k),
            Format::Q5_K => k::q5_k(&read, piece, index, k),
            Format::Q6_K => k::q6_k(&read, index, k),
            _ => code_word(&read, piece, k, format),
        };
        codes.push(word);
    }
    codes
}

/// The factor and the minimum of each run.
#[cube]
fn factors(read: &Read, piece: usize, #[comptime] format: Format) -> Factors {
    let mut factors = Sequence::<f32>::new();
    let mut minimums = Sequence::<f32>::new();
    match comptime!(format) {
        Format::Q4_0 => factors.push(scale_at(read, comptime!(18 * read.index))),
        Format::Q5_0 | Format::Q8_0 | Format::IQ4_NL => factors.push(scale_at(read, 0usize)),
        Format::Q4_1 | Format::Q5_1 => {
            factors.push(scale_at(read, 0usize));
            minimums.push(0.0f32 - scale_at(read, 2usize));
        }
        Format::Q2_K => k::q2_k_factors(read, piece, &mut factors, &mut minimums),
        Format::Q3_K => k::q3_k_factors(read, piece, &mut factors),
        Format::Q4_K | Format::Q5_K => k::six_bits(read, piece, &mut factors, &mut minimums),
        Format::Q6_K => k::q6_k_factors(read, piece, &mut factors),
        Format::IQ4_XS => factors.push(iq4::iq4_xs_factor(read, piece)),
        _ => comptime!(unreachable!("plain numbers are not decoded")),
    }
    Factors { factors, minimums }
}

/// The `k`-th word of codes, each a byte.
#[cube]
fn code_word(read: &Read, piece: usize, #[comptime] k: usize, #[comptime] format: Format) -> u32 {
    match comptime!(format) {
        Format::Q5_0 => five::code_word(read, k, 2usize),
        Format::Q5_1 => five::code_word(read, k, 4usize),
        Format::Q3_K => k::q3_k(read, piece, comptime!(k / 2), comptime!(k % 2)),
        Format::Q5_K => k::q5_k(read, piece, comptime!(k / 4), comptime!(k % 4)),
        Format::Q6_K => k::q6_k(read, comptime!(k / 2), comptime!(k % 2)),
        _ => comptime!(unreachable!("codes of other formats are taken one by one")),
    }
}

/// The word of the nibbles of codes `4 · k` and on (low) and 16 more (high), of formats of four bits.
#[cube]
fn nibble_word(read: &Read, #[comptime] k: usize, #[comptime] format: Format) -> u32 {
    let first = comptime!(match format {
        Format::Q4_0 => 18 * read.index + 2,
        Format::Q4_1 => 4,
        _ => 16 + 16 * read.index,
    });
    word_at(read, comptime!(first + 4 * k))
}

/// Takes the lifts off.
#[cube]
pub(crate) fn settle(piece: Piece, #[comptime] format: Format) -> Piece {
    if comptime!(format.is_lifted()) {
        let mut codes = Sequence::<f32>::new();
        #[unroll]
        for i in 0..PIECE {
            codes.push(piece.codes[i] - f32::new(comptime!(format.lift(i) as f32)));
        }
        Piece { codes, factors: piece.factors, minimums: piece.minimums }
    } else {
        piece
    }
}
