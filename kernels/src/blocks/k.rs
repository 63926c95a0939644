//! The K formats: 256 values a block.
//!
//! `Q2_K`, `Q3_K` and `Q6_K` hold two halves of 128 values, each of four runs of 32 that share
//! their bytes; a piece is the same 8 places of the four. `Q4_K` and `Q5_K` hold four groups of 64,
//! each of two runs of 32 that share theirs; a piece is the same 16 places of the two.

use cubecl::prelude::*;

use super::{byte, scale, word};

/// `(code >> shift) & mask` of 8 bytes, as words.
#[cube]
fn bits(q: u32, #[comptime] i: usize, #[comptime] shift: usize, #[comptime] mask: u32) -> u32 {
    (q >> comptime!((8 * i + shift) as u32)) & mask
}

/// 84 bytes: 16 scales (low nibble) and minimums (high), 64 bytes of codes, d, dmin.
#[cube]
pub(super) fn q2_k(data: &Array<u32>, at: usize, piece: usize, values: &mut Array<f32>) {
    let half = piece / 4;
    let place = (piece % 4) * 8;
    let d = scale(data, at + 80);
    let dmin = scale(data, at + 82);
    #[unroll]
    for run in 0..4usize {
        let s = byte(data, at + half * 8 + comptime!(run * 2) + place / 16);
        let factor = d * f32::cast_from(s & 0xf);
        let minimum = dmin * f32::cast_from(s >> 4);
        #[unroll]
        for j in 0..2usize {
            let q = word(data, at + 16 + half * 32 + place + comptime!(4 * j), true);
            #[unroll]
            for i in 0..4usize {
                values[comptime!(run * 8 + j * 4 + i)] =
                    factor * f32::cast_from(bits(q, i, comptime!(2 * run), 3u32)) - minimum;
            }
        }
    }
}

/// 110 bytes: 32 bytes of third bits, 64 of codes, 16 scales of 6 bits in 12 bytes, d.
#[cube]
pub(super) fn q3_k(data: &Array<u32>, at: usize, piece: usize, values: &mut Array<f32>) {
    let half = piece / 4;
    let place = (piece % 4) * 8;
    let d = scale(data, at + 108);
    #[unroll]
    for run in 0..4usize {
        let s = half * 8 + comptime!(run * 2) + place / 16;
        let low = (byte(data, at + 96 + s % 8) >> ((s as u32 / 8) * 4)) & 0xf;
        let high = (byte(data, at + 104 + s % 4) >> ((s as u32 / 4) * 2)) & 3;
        let factor = d * (f32::cast_from(low | (high << 4)) - 32.0f32);
        #[unroll]
        for j in 0..2usize {
            let q = word(data, at + 32 + half * 32 + place + comptime!(4 * j), false);
            let third = word(data, at + place + comptime!(4 * j), false)
                >> (half as u32 * 4 + comptime!(run as u32));
            #[unroll]
            for i in 0..4usize {
                let code =
                    bits(q, i, comptime!(2 * run), 3u32) | (bits(third, i, 0usize, 1u32) << 2);
                values[comptime!(run * 8 + j * 4 + i)] = factor * (f32::cast_from(code) - 4.0f32);
            }
        }
    }
}

/// The 6-bit scale of run `j` of 8, from the 12 bytes at `at`.
#[cube]
fn scale_6(data: &Array<u32>, at: usize, j: usize) -> u32 {
    let direct = byte(data, at + j % 4 + (j / 4) * 8);
    let top = byte(data, at + j % 4);
    select(j < 4, direct & 63, (direct & 0xf) | ((top >> 6) << 4))
}

/// The 6-bit minimum of run `j` of 8, from the 12 bytes at `at`.
#[cube]
fn minimum_6(data: &Array<u32>, at: usize, j: usize) -> u32 {
    let direct = byte(data, at + 4 + j);
    let top = byte(data, at + j % 4 + 4);
    select(j < 4, direct & 63, (direct >> 4) | ((top >> 6) << 4))
}

/// 144 bytes: d, dmin, 8 scales and minimums of 6 bits in 12 bytes, 128 bytes of nibbles.
#[cube]
pub(super) fn q4_k(data: &Array<u32>, at: usize, piece: usize, values: &mut Array<f32>) {
    four_or_five(data, at, piece, values, false);
}

/// 176 bytes: as `Q4_K`, with 32 bytes of fifth bits before the nibbles.
#[cube]
pub(super) fn q5_k(data: &Array<u32>, at: usize, piece: usize, values: &mut Array<f32>) {
    four_or_five(data, at, piece, values, true);
}

#[cube]
fn four_or_five(
    data: &Array<u32>,
    at: usize,
    piece: usize,
    values: &mut Array<f32>,
    #[comptime] five: bool,
) {
    let group = piece / 2;
    let place = (piece % 2) * 16;
    let d = scale(data, at);
    let dmin = scale(data, at + 2);
    let codes = at + comptime!(if five { 48usize } else { 16usize }) + group * 32 + place;
    #[unroll]
    for run in 0..2usize {
        let s = group * 2 + run;
        let factor = d * f32::cast_from(scale_6(data, at + 4, s));
        let minimum = dmin * f32::cast_from(minimum_6(data, at + 4, s));
        #[unroll]
        for j in 0..4usize {
            let q = word(data, codes + comptime!(4 * j), true);
            let mut fifth = 0u32;
            if comptime!(five) {
                fifth = word(data, at + 16 + place + comptime!(4 * j), true) >> (s as u32);
            }
            #[unroll]
            for i in 0..4usize {
                let mut code = bits(q, i, comptime!(4 * run), 15u32);
                if comptime!(five) {
                    code |= bits(fifth, i, 0usize, 1u32) << 4;
                }
                values[comptime!(run * 16 + j * 4 + i)] = factor * f32::cast_from(code) - minimum;
            }
        }
    }
}

/// 210 bytes: 128 bytes of nibbles, 64 of two more bits each, 16 signed scales, d.
#[cube]
pub(super) fn q6_k(data: &Array<u32>, at: usize, piece: usize, values: &mut Array<f32>) {
    let half = piece / 4;
    let place = (piece % 4) * 8;
    let d = scale(data, at + 208);
    #[unroll]
    for run in 0..4usize {
        let s = byte(data, at + 192 + half * 8 + comptime!(run * 2) + place / 16);
        let factor = d * (f32::cast_from(s ^ 0x80u32) - 128.0f32);
        #[unroll]
        for j in 0..2usize {
            // Runs 0 and 2 share one byte for a value, 1 and 3 another.
            let low = word(data, at + half * 64 + comptime!((run % 2) * 32 + 4 * j) + place, false);
            let high = word(data, at + 128 + half * 32 + place + comptime!(4 * j), false);
            #[unroll]
            for i in 0..4usize {
                let code = bits(low, i, comptime!((run / 2) * 4), 15u32)
                    | (bits(high, i, comptime!(2 * run), 3u32) << 4);
                values[comptime!(run * 8 + j * 4 + i)] = factor * (f32::cast_from(code) - 32.0f32);
            }
        }
    }
}
