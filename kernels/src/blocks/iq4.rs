//! `IQ4_NL` and `IQ4_XS`: nibbles that choose one of 16 levels. `IQ4_NL` has one scale for 32
//! values; `IQ4_XS` has one for 256, and 6 bits for each 32 (4 in `scales_l`, 2 in `scales_h`).

use cubecl::prelude::*;

use super::{Format, Read, number, scale_at, word_at};

/// What codes choose from, of formats with levels: choosing by arithmetic takes a dozen instructions, a
/// load three.
#[derive(CubeType)]
pub(crate) struct Levels {
    /// One, if there are levels.
    tables: Sequence<SharedMemory<f32>>,
}

/// Puts the levels of a format into shared memory. Every thread of a cube, of 16 or more, calls it once,
/// before a barrier; behind that they are there.
#[cube]
pub(crate) fn share_levels(#[comptime] format: Format) -> Levels {
    let mut tables = Sequence::<SharedMemory<f32>>::new();
    if comptime!(format.has_levels()) {
        let mut table = SharedMemory::<f32>::new(16usize);
        if UNIT_POS_X < 16 {
            table[UNIT_POS_X as usize] = level(UNIT_POS_X);
        }
        tables.push(table);
    }
    Levels { tables }
}

/// The levels -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113, each plus
/// 128, four to a word.
#[cube]
fn level(code: u32) -> f32 {
    let a = select(code < 4, 0x3f2d_1801u32, 0x766a_5d4fu32);
    let b = select(code < 12, 0xa699_8d81u32, 0xf1d9_c5b5u32);
    let four = select(code < 8, a, b);
    number((four >> ((code & 3) * 8)) & 0xff, 128u32)
}

/// The levels of 16 bytes of nibbles, `at` bytes into what was read.
#[cube]
pub(super) fn levels(
    read: &Read,
    levels: &Levels,
    codes: &mut Sequence<f32>,
    #[comptime] at: usize,
) {
    let table = levels.tables.index(0usize);
    #[unroll]
    for half in 0..2usize {
        #[unroll]
        for j in 0..4usize {
            let q = word_at(read, comptime!(at + 4 * j));
            #[unroll]
            for i in 0..4usize {
                let shift = comptime!((8 * i + 4 * half) as u32);
                codes.push(table[((q >> shift) & 0xf) as usize]);
            }
        }
    }
}

/// Read: d and `scales_h`, `scales_l`, the 16 bytes of the piece.
#[cube]
pub(super) fn iq4_xs_factor(read: &Read, piece: usize) -> f32 {
    let p = piece as u32;
    let low = (word_at(read, 4usize) >> (4 * p)) & 0xf;
    let high = (word_at(read, 0usize) >> (16 + 2 * p)) & 3;
    scale_at(read, 0usize) * number(low | (high << 4), 32u32)
}
