//! Which bytes of a block a piece is made of, and how they are read.

use cubecl::prelude::*;

use super::Format;
use crate::common::U4;

/// Bytes of a block that lie beside each other and belong to one of its pieces.
#[derive(Clone, Copy)]
struct Section {
    /// Where it begins for the first piece.
    start: usize,
    /// How much later for the second half of a block's pieces, four of eight.
    per_half: usize,
    /// How much later from a piece to the next one of its half.
    per_piece: usize,
    bytes: usize,
}

impl Section {
    const fn new(start: usize, per_half: usize, per_piece: usize, bytes: usize) -> Self {
        Self { start, per_half, per_piece, bytes }
    }

    /// All of a block that is one piece.
    const fn whole(format: Format) -> Self {
        Self::new(0, 0, 0, format.block_bytes())
    }
}

impl Format {
    /// What [`super::decode`] needs of a piece, in the order in which it expects it. (Of the wide formats,
    /// which are read by vectors: nothing.)
    const fn sections(self) -> &'static [Section] {
        const Q4: &[Section] = &[Section::whole(Format::Q4_0)];
        const Q4_1: &[Section] = &[Section::whole(Format::Q4_1)];
        const Q5_0: &[Section] = &[Section::whole(Format::Q5_0)];
        const Q5_1: &[Section] = &[Section::whole(Format::Q5_1)];
        const Q8_0: &[Section] = &[Section::whole(Format::Q8_0)];
        const Q2_K: &[Section] =
            &[Section::new(0, 8, 0, 8), Section::new(16, 32, 8, 8), Section::new(80, 0, 0, 4)];
        const Q3_K: &[Section] = &[
            Section::new(0, 0, 8, 8),
            Section::new(32, 32, 8, 8),
            Section::new(96, 0, 0, 12),
            Section::new(108, 0, 0, 2),
        ];
        const Q6_K: &[Section] = &[
            Section::new(0, 64, 8, 8),
            Section::new(32, 64, 8, 8),
            Section::new(128, 32, 8, 8),
            Section::new(192, 8, 0, 8),
            Section::new(208, 0, 0, 2),
        ];
        const IQ4_XS: &[Section] = &[Section::new(0, 0, 0, 8), Section::new(8, 64, 16, 16)];
        match self {
            Self::Q4_0 | Self::IQ4_NL => Q4,
            Self::Q4_1 => Q4_1,
            Self::Q5_0 => Q5_0,
            Self::Q5_1 => Q5_1,
            Self::Q8_0 => Q8_0,
            Self::Q2_K => Q2_K,
            Self::Q3_K => Q3_K,
            Self::Q6_K => Q6_K,
            Self::IQ4_XS => IQ4_XS,
            Self::F32 | Self::F16 | Self::Q4_K | Self::Q5_K => &[],
        }
    }

    /// How many sections a piece has.
    pub(crate) const fn section_count(self) -> usize {
        self.sections().len()
    }

    /// Words that are read of a section for so many neighbouring pieces: what differs between them lies
    /// beside each other.
    pub(crate) const fn section_words(self, section: usize, together: usize) -> usize {
        let section = &self.sections()[section];
        let differs = section.per_piece > 0;
        self.words_of(if differs { together * section.bytes } else { section.bytes })
    }

    /// Words that are read of the sections before one.
    pub(crate) const fn words_before(self, section: usize, together: usize) -> usize {
        let (mut words, mut i) = (0, 0);
        while i < section {
            words += self.section_words(i, together);
            i += 1;
        }
        words
    }
}

/// At which byte a section of the `piece`-th piece begins, if its block does at byte `at`.
#[cube]
pub(crate) fn section_start(
    at: usize,
    piece: usize,
    #[comptime] section: usize,
    #[comptime] format: Format,
) -> usize {
    let section = comptime!(format.sections()[section]);
    let mut start = at + comptime!(section.start);
    if comptime!(section.per_half > 0) {
        start += piece / 4 * comptime!(section.per_half);
    }
    if comptime!(section.per_piece > 0) {
        start += piece % 4 * comptime!(section.per_piece);
    }
    start
}

/// Reads the `piece`-th piece of the block that begins at byte `at` (an even number), and those behind it
/// if there are several `together`: its words come behind those that are there. `data` and `wide` are the
/// same matrix; the second is used if `is_wide`.
#[cube]
pub(crate) fn fetch(
    data: &Array<u32>,
    wide: &Array<U4>,
    at: usize,
    piece: usize,
    into: &mut Sequence<u32>,
    #[comptime] format: Format,
    #[comptime] together: usize,
    #[comptime] is_wide: bool,
) {
    match comptime!(format) {
        Format::Q4_K => {
            wide_section(data, wide, at, into, is_wide);
            #[unroll]
            for i in 0..together {
                let codes = at + 16 + (piece + i) * 16;
                wide_section(data, wide, codes, into, is_wide);
            }
        }
        Format::Q5_K => {
            wide_section(data, wide, at, into, is_wide);
            #[unroll]
            for i in 0..together {
                let codes = at + 48 + (piece + i) * 16;
                wide_section(data, wide, codes, into, is_wide);
            }
            #[unroll]
            for i in 0..together {
                let fifths = at + 16 + ((piece + i) % 2) * 16;
                wide_section(data, wide, fifths, into, is_wide);
            }
        }
        _ => {
            if comptime!(format.pieces() < together) {
                // Whole blocks that follow each other.
                #[unroll]
                for i in 0..comptime!(format.words(together)) {
                    into.push(data[at / 4 + i]);
                }
            } else {
                #[unroll]
                for section in 0..comptime!(format.section_count()) {
                    let start = section_start(at, piece, section, format);
                    #[unroll]
                    for i in 0..comptime!(format.section_words(section, together)) {
                        into.push(data[start / 4 + i]);
                    }
                }
            }
        }
    }
}

/// Reads 16 bytes from byte `at` on.
#[cube]
fn wide_section(
    data: &Array<u32>,
    wide: &Array<U4>,
    at: usize,
    into: &mut Sequence<u32>,
    #[comptime] is_wide: bool,
) {
    if comptime!(is_wide) {
        let four = wide[at / 16];
        #[unroll]
        for i in 0..4usize {
            into.push(four[i]);
        }
    } else {
        #[unroll]
        for i in 0..4usize {
            into.push(data[at / 4 + i]);
        }
    }
}
