//! `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`: 16 bytes of nibbles (values 0–15 in the low ones, 16–31 in the
//! high ones), before them a scale, perhaps a minimum, and for 5 bits a word of fifth bits.

use cubecl::prelude::*;

use super::{Piece, Read, nibble, number, scale_at, word_at};

/// The nibbles `at` bytes into a block, lifted.
#[cube]
fn nibbles(block: &Read, out: &mut Piece, #[comptime] at: usize) {
    #[unroll]
    for j in 0..4usize {
        let q = word_at(block, comptime!(at + 4 * j));
        #[unroll]
        for i in 0..4usize {
            let e = comptime!(4 * j + i);
            out.codes[e] = nibble(block, q, i, false);
            out.codes[comptime!(e + 16)] = nibble(block, q, i, true);
        }
    }
}

/// Codes of five bits: nibbles `at` bytes into the block, fifth bits in `fifth`.
#[cube]
fn fives(
    block: &Read,
    fifth: u32,
    out: &mut Piece,
    #[comptime] at: usize,
    #[comptime] offset: u32,
) {
    #[unroll]
    for j in 0..4usize {
        let q = word_at(block, comptime!(at + 4 * j));
        #[unroll]
        for i in 0..4usize {
            let e = comptime!(4 * j + i);
            let low = (q >> comptime!(8 * i as u32)) & 0xf;
            let high = (q >> comptime!(8 * i as u32 + 4)) & 0xf;
            let low = low | (((fifth >> comptime!(e as u32)) & 1) << 4);
            let high = high | (((fifth >> comptime!(e as u32 + 16)) & 1) << 4);
            out.codes[e] = number(low, offset);
            out.codes[comptime!(e + 16)] = number(high, offset);
        }
    }
}

#[cube]
pub(super) fn q4_0(block: &Read, out: &mut Piece) {
    let start = comptime!(18 * block.index);
    nibbles(block, out, comptime!(start + 2));
    out.factors[0] = scale_at(block, start);
}

#[cube]
pub(super) fn q4_1(block: &Read, out: &mut Piece) {
    nibbles(block, out, 4usize);
    out.factors[0] = scale_at(block, 0usize);
    out.minimums[0] = 0.0f32 - scale_at(block, 2usize);
}

#[cube]
pub(super) fn q5_0(block: &Read, out: &mut Piece) {
    fives(block, word_at(block, 2usize), out, 6usize, 16u32);
    out.factors[0] = scale_at(block, 0usize);
}

#[cube]
pub(super) fn q5_1(block: &Read, out: &mut Piece) {
    fives(block, word_at(block, 4usize), out, 8usize, 0u32);
    out.factors[0] = scale_at(block, 0usize);
    out.minimums[0] = 0.0f32 - scale_at(block, 2usize);
}
