//! The K formats: 256 values a block.
//!
//! `Q2_K`, `Q3_K` and `Q6_K` hold two halves of 128 values, each of four runs of 32 that share
//! their bytes; a piece is the same 8 places of the four. `Q4_K` and `Q5_K` hold four groups of 64,
//! each of two runs of 32 that share theirs; a piece is the same 16 places of the two.

use cubecl::prelude::*;

use super::{Piece, byte, number, scale, word};
use crate::common::half_bits;

/// `(code >> shift) & mask` of 8 bytes, as words.
#[cube]
fn bits(q: u32, #[comptime] i: usize, #[comptime] shift: usize, #[comptime] mask: u32) -> u32 {
    (q >> comptime!((8 * i + shift) as u32)) & mask
}

/// 84 bytes: 16 scales (low nibble) and minimums (high), 64 bytes of codes, d, dmin.
#[cube]
pub(super) fn q2_k(data: &Array<u32>, at: usize, piece: usize, out: &mut Piece) {
    let half = piece / 4;
    let place = (piece % 4) * 8;
    let d = scale(data, at + 80);
    let dmin = scale(data, at + 82);
    #[unroll]
    for run in 0..4usize {
        let s = byte(data, at + half * 8 + comptime!(run * 2) + place / 16);
        out.factors[run] = d * number(s & 0xf, 0u32);
        out.minimums[run] = dmin * number(s >> 4, 0u32);
        #[unroll]
        for j in 0..2usize {
            let q = word(data, at + 16 + half * 32 + place + comptime!(4 * j), true);
            #[unroll]
            for i in 0..4usize {
                out.codes[comptime!(run * 8 + j * 4 + i)] =
                    number(bits(q, i, comptime!(2 * run), 3u32), 0u32);
            }
        }
    }
}

/// 110 bytes: 32 bytes of third bits, 64 of codes, 16 scales of 6 bits in 12 bytes, d.
#[cube]
pub(super) fn q3_k(data: &Array<u32>, at: usize, piece: usize, out: &mut Piece) {
    let half = piece / 4;
    let place = (piece % 4) * 8;
    let d = scale(data, at + 108);
    #[unroll]
    for run in 0..4usize {
        let s = half * 8 + comptime!(run * 2) + place / 16;
        let low = (byte(data, at + 96 + s % 8) >> ((s as u32 / 8) * 4)) & 0xf;
        let high = (byte(data, at + 104 + s % 4) >> ((s as u32 / 4) * 2)) & 3;
        out.factors[run] = d * number(low | (high << 4), 32u32);
        #[unroll]
        for j in 0..2usize {
            let q = word(data, at + 32 + half * 32 + place + comptime!(4 * j), false);
            let third = word(data, at + place + comptime!(4 * j), false)
                >> (half as u32 * 4 + comptime!(run as u32));
            #[unroll]
            for i in 0..4usize {
                let code =
                    bits(q, i, comptime!(2 * run), 3u32) | (bits(third, i, 0usize, 1u32) << 2);
                out.codes[comptime!(run * 8 + j * 4 + i)] = number(code, 4u32);
            }
        }
    }
}

/// The 6-bit scale of run `j` of 8, from the words of its 12 bytes.
#[cube]
fn scale_6(a: u32, c: u32, j: u32) -> u32 {
    let shift = (j % 4) * 8;
    let direct = (a >> shift) & 63;
    let split = ((c >> shift) & 0xf) | (((a >> shift) & 0xc0) >> 2);
    select(j < 4, direct, split)
}

/// The 6-bit minimum of run `j` of 8, from the words of its 12 bytes.
#[cube]
fn minimum_6(b: u32, c: u32, j: u32) -> u32 {
    let shift = (j % 4) * 8;
    let direct = (b >> shift) & 63;
    let split = ((c >> (shift + 4)) & 0xf) | (((b >> shift) & 0xc0) >> 2);
    select(j < 4, direct, split)
}

/// 144 bytes: d, dmin, 8 scales and minimums of 6 bits in 12 bytes, 128 bytes of nibbles.
#[cube]
pub(super) fn q4_k(data: &Array<u32>, at: usize, piece: usize, out: &mut Piece) {
    four_or_five(data, at, piece, out, false);
}

/// 176 bytes: as `Q4_K`, with 32 bytes of fifth bits before the nibbles.
#[cube]
pub(super) fn q5_k(data: &Array<u32>, at: usize, piece: usize, out: &mut Piece) {
    four_or_five(data, at, piece, out, true);
}

#[cube]
fn four_or_five(
    data: &Array<u32>,
    at: usize,
    piece: usize,
    out: &mut Piece,
    #[comptime] five: bool,
) {
    let group = piece / 2;
    let place = (piece % 2) * 16;
    let ends = data[at / 4];
    let (a, b, c) = (data[at / 4 + 1], data[at / 4 + 2], data[at / 4 + 3]);
    let d = half_bits(ends & 0xffff);
    let dmin = half_bits(ends >> 16);
    let codes = at + comptime!(if five { 48usize } else { 16usize }) + group * 32 + place;
    #[unroll]
    for run in 0..2usize {
        let s = group as u32 * 2 + comptime!(run as u32);
        out.factors[run] = d * number(scale_6(a, c, s), 0u32);
        out.minimums[run] = dmin * number(minimum_6(b, c, s), 0u32);
        #[unroll]
        for j in 0..4usize {
            let q = word(data, codes + comptime!(4 * j), true);
            let mut fifth = 0u32;
            if comptime!(five) {
                fifth = word(data, at + 16 + place + comptime!(4 * j), true) >> s;
            }
            #[unroll]
            for i in 0..4usize {
                let mut code = bits(q, i, comptime!(4 * run), 15u32);
                if comptime!(five) {
                    code |= bits(fifth, i, 0usize, 1u32) << 4;
                }
                out.codes[comptime!(run * 16 + j * 4 + i)] = number(code, 0u32);
            }
        }
    }
}

/// 210 bytes: 128 bytes of nibbles, 64 of two more bits each, 16 signed scales, d.
#[cube]
pub(super) fn q6_k(data: &Array<u32>, at: usize, piece: usize, out: &mut Piece) {
    let half = piece / 4;
    let place = (piece % 4) * 8;
    let d = scale(data, at + 208);
    #[unroll]
    for run in 0..4usize {
        let s = byte(data, at + 192 + half * 8 + comptime!(run * 2) + place / 16);
        out.factors[run] = d * number(s ^ 0x80u32, 128u32);
        #[unroll]
        for j in 0..2usize {
            // Runs 0 and 2 share one byte for a value, 1 and 3 another.
            let low = word(data, at + half * 64 + comptime!((run % 2) * 32 + 4 * j) + place, false);
            let high = word(data, at + 128 + half * 32 + place + comptime!(4 * j), false);
            #[unroll]
            for i in 0..4usize {
                let code = bits(low, i, comptime!((run / 2) * 4), 15u32)
                    | (bits(high, i, comptime!(2 * run), 3u32) << 4);
                out.codes[comptime!(run * 8 + j * 4 + i)] = number(code, 32u32);
            }
        }
    }
}
