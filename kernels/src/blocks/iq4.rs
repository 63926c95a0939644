//! `IQ4_NL` and `IQ4_XS`: nibbles that choose one of 16 levels. `IQ4_NL` has one scale for 32
//! values; `IQ4_XS` has one for 256, and 6 bits for each 32 (4 in `scales_l`, 2 in `scales_h`).

use cubecl::prelude::*;

use super::{Piece, byte, half_word, number, scale, word};

/// The levels -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113, each plus
/// 128, four to a word.
#[cube]
fn level(code: u32) -> f32 {
    let a = select(code < 4, 0x3f2d_1801u32, 0x766a_5d4fu32);
    let b = select(code < 12, 0xa699_8d81u32, 0xf1d9_c5b5u32);
    let four = select(code < 8, a, b);
    number((four >> ((code & 3) * 8)) & 0xff, 128u32)
}

/// The levels of 16 bytes of nibbles at byte `at`.
#[cube]
fn levels(data: &Array<u32>, at: usize, out: &mut Piece, #[comptime] aligned: bool) {
    #[unroll]
    for j in 0..4usize {
        let q = word(data, at + comptime!(4 * j), aligned);
        #[unroll]
        for i in 0..4usize {
            let e = comptime!(4 * j + i);
            out.codes[e] = level((q >> comptime!(8 * i as u32)) & 0xf);
            out.codes[comptime!(e + 16)] = level((q >> comptime!(8 * i as u32 + 4)) & 0xf);
        }
    }
}

#[cube]
pub(super) fn iq4_nl(data: &Array<u32>, at: usize, out: &mut Piece) {
    levels(data, at + 2, out, false);
    out.factors[0] = scale(data, at);
}

#[cube]
pub(super) fn iq4_xs(data: &Array<u32>, at: usize, piece: usize, out: &mut Piece) {
    let p = piece as u32;
    let low = (byte(data, at + 4 + piece / 2) >> (4 * (p % 2))) & 0xf;
    let high = (half_word(data, at + 2) >> (2 * p)) & 3;
    out.factors[0] = scale(data, at) * number(low | (high << 4), 32u32);
    levels(data, at + 8 + piece * 16, out, true);
}
