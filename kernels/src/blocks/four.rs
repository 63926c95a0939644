//! `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`: 16 bytes of nibbles (values 0–15 in the low ones, 16–31 in the
//! high ones), before them a scale, perhaps a minimum, and for 5 bits a word of fifth bits.

use cubecl::prelude::*;

use super::{Piece, Words, number, scale_at, word_at, words};

/// The codes of a block: nibbles `at` bytes into it, fifth bits in `fifth`.
#[cube]
fn codes(
    block: &Words,
    fifth: u32,
    out: &mut Piece,
    #[comptime] at: usize,
    #[comptime] offset: u32,
    #[comptime] five: bool,
) {
    #[unroll]
    for j in 0..4usize {
        let q = word_at(block, comptime!(at + 4 * j));
        #[unroll]
        for i in 0..4usize {
            let e = comptime!(4 * j + i);
            let mut low = (q >> comptime!(8 * i as u32)) & 0xf;
            let mut high = (q >> comptime!(8 * i as u32 + 4)) & 0xf;
            if comptime!(five) {
                low |= ((fifth >> comptime!(e as u32)) & 1) << 4;
                high |= ((fifth >> comptime!(e as u32 + 16)) & 1) << 4;
            }
            out.codes[e] = number(low, offset);
            out.codes[comptime!(e + 16)] = number(high, offset);
        }
    }
}

#[cube]
pub(super) fn q4_0(data: &Array<u32>, at: usize, out: &mut Piece) {
    let block = words(data, at, 18usize);
    codes(&block, 0u32, out, 2usize, 8u32, false);
    out.factors[0] = scale_at(&block, 0usize);
}

#[cube]
pub(super) fn q4_1(data: &Array<u32>, at: usize, out: &mut Piece) {
    let block = words(data, at, 20usize);
    codes(&block, 0u32, out, 4usize, 0u32, false);
    out.factors[0] = scale_at(&block, 0usize);
    out.minimums[0] = 0.0f32 - scale_at(&block, 2usize);
}

#[cube]
pub(super) fn q5_0(data: &Array<u32>, at: usize, out: &mut Piece) {
    let block = words(data, at, 22usize);
    codes(&block, word_at(&block, 2usize), out, 6usize, 16u32, true);
    out.factors[0] = scale_at(&block, 0usize);
}

#[cube]
pub(super) fn q5_1(data: &Array<u32>, at: usize, out: &mut Piece) {
    let block = words(data, at, 24usize);
    codes(&block, word_at(&block, 4usize), out, 8usize, 0u32, true);
    out.factors[0] = scale_at(&block, 0usize);
    out.minimums[0] = 0.0f32 - scale_at(&block, 2usize);
}
