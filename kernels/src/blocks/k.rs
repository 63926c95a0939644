//! The K formats: 256 values a block.
//!
//! `Q2_K`, `Q3_K` and `Q6_K` hold two halves of 128 values, each of four runs of 32 that share
//! their bytes; a piece is the same 8 places of the four. `Q4_K` and `Q5_K` hold four groups of 64,
//! each of two runs of 32 that share theirs; a piece is the same 16 places of the two.

use cubecl::prelude::*;

use super::{Piece, Read, nibble, number, scale_at, word_at};

/// The bits of `mask` from bit `shift` of byte `i` on.
#[cube]
fn bits(q: u32, #[comptime] i: usize, #[comptime] shift: usize, #[comptime] mask: u32) -> u32 {
    (q >> comptime!((8 * i + shift) as u32)) & mask
}

/// The byte of a scale of `run`: of 8 bytes that were read, those of the lower or upper 16 places.
#[cube]
fn scale_byte(read: &Read, piece: usize, #[comptime] at: usize, #[comptime] run: usize) -> u32 {
    let upper = (piece as u32 % 4) / 2 * 8;
    let word = word_at(read, comptime!(at + 4 * (run / 2)));
    (word >> (upper + comptime!(16 * (run as u32 % 2)))) & 0xff
}

/// 84 bytes: 16 scales (low nibble) and minimums (high), 64 bytes of codes, d, dmin.
/// Read: the 8 scales of the half, 8 bytes of codes, d and dmin.
#[cube]
pub(super) fn q2_k(read: &Read, piece: usize, out: &mut Piece) {
    let d = scale_at(read, 16usize);
    let dmin = scale_at(read, 18usize);
    #[unroll]
    for run in 0..4usize {
        let s = scale_byte(read, piece, 0usize, run);
        out.factors[run] = d * number(s & 0xf, 0u32);
        out.minimums[run] = dmin * number(s >> 4, 0u32);
        #[unroll]
        for j in 0..2usize {
            let q = word_at(read, comptime!(8 + 4 * j));
            #[unroll]
            for i in 0..4usize {
                out.codes[comptime!(run * 8 + j * 4 + i)] =
                    number(bits(q, i, comptime!(2 * run), 3u32), 0u32);
            }
        }
    }
}

/// 110 bytes: 32 bytes of third bits, 64 of codes, 16 scales of 6 bits in 12 bytes, d.
/// Read, each with two bytes to spare: 8 bytes of third bits, 8 of codes, the scales, d.
#[cube]
pub(super) fn q3_k(read: &Read, piece: usize, out: &mut Piece) {
    let half = piece as u32 / 4;
    let upper = (piece as u32 % 4) / 2 * 8;
    let d = scale_at(read, 40usize);
    #[unroll]
    for run in 0..4usize {
        let low = (scale_byte(read, piece, 24usize, run) >> (half * 4)) & 0xf;
        let byte = word_at(read, 32usize) >> (upper + comptime!(16 * (run as u32 % 2)));
        let high = (byte >> (half * 4 + comptime!(run as u32 / 2 * 2))) & 3;
        out.factors[run] = d * number(low | (high << 4), 32u32);
        #[unroll]
        for j in 0..2usize {
            let q = word_at(read, comptime!(12 + 4 * j));
            let third = word_at(read, comptime!(4 * j)) >> (half * 4 + comptime!(run as u32));
            #[unroll]
            for i in 0..4usize {
                let code =
                    bits(q, i, comptime!(2 * run), 3u32) | (bits(third, i, 0usize, 1u32) << 2);
                out.codes[comptime!(run * 8 + j * 4 + i)] = number(code, 4u32);
            }
        }
    }
}

/// 144 bytes: d, dmin, 8 scales and minimums of 6 bits in 12 bytes, 128 bytes of nibbles.
/// Read: what comes before the nibbles, 16 bytes of these for each piece.
#[cube]
pub(super) fn q4_k(read: &Read, piece: usize, out: &mut Piece) {
    scales(read, piece, out);
    #[unroll]
    for run in 0..2usize {
        #[unroll]
        for j in 0..4usize {
            let q = word_at(read, comptime!(16 + 16 * read.index + 4 * j));
            #[unroll]
            for i in 0..4usize {
                out.codes[comptime!(run * 16 + j * 4 + i)] =
                    nibble(read, q, i, comptime!(run == 1));
            }
        }
    }
}

/// 176 bytes: as `Q4_K`, with 32 bytes of fifth bits before the nibbles.
/// Read: what comes before both, 16 bytes of nibbles, 16 of fifth bits.
#[cube]
pub(super) fn q5_k(read: &Read, piece: usize, out: &mut Piece) {
    scales(read, piece, out);
    #[unroll]
    for run in 0..2usize {
        let s = piece as u32 / 2 * 2 + comptime!(run as u32);
        #[unroll]
        for j in 0..4usize {
            let q = word_at(read, comptime!(16 + 4 * j));
            let fifth = word_at(read, comptime!(32 + 4 * j)) >> s;
            #[unroll]
            for i in 0..4usize {
                let code =
                    bits(q, i, comptime!(4 * run), 15u32) | (bits(fifth, i, 0usize, 1u32) << 4);
                out.codes[comptime!(run * 16 + j * 4 + i)] = number(code, 0u32);
            }
        }
    }
}

/// Factors and minimums of the two runs of a piece of `Q4_K` or `Q5_K`. Of the 12 bytes, the first
/// four hold the scales of the runs 0 to 3 and the next four their minimums, 6 bits each. The low
/// four bits of both for the runs 4 to 7 are in the last four, their high bits in the first eight.
/// Two neighbouring runs are taken at once.
#[cube]
fn scales(read: &Read, piece: usize, out: &mut Piece) {
    let group = piece as u32 / 2;
    let shift = (group % 2) * 16;
    let a = word_at(read, 4usize) >> shift;
    let b = word_at(read, 8usize) >> shift;
    let c = word_at(read, 12usize) >> shift;
    let upper = group >= 2;
    let factors = select(upper, (c & 0x0f0f) | ((a >> 2) & 0x3030), a & 0x3f3f);
    let minimums = select(upper, ((c >> 4) & 0x0f0f) | ((b >> 2) & 0x3030), b & 0x3f3f);
    let (d, dmin) = (scale_at(read, 0usize), scale_at(read, 2usize));
    #[unroll]
    for run in 0..2usize {
        out.factors[run] = d * number(bits(factors, run, 0usize, 63u32), 0u32);
        out.minimums[run] = dmin * number(bits(minimums, run, 0usize, 63u32), 0u32);
    }
}

/// 210 bytes: 128 bytes of nibbles, 64 of two more bits each, 16 signed scales, d.
/// Read, each with two bytes to spare: 8 bytes of nibbles, the 8 that are 32 behind them, 8 of the
/// other bits, the 8 scales of the half, d.
#[cube]
pub(super) fn q6_k(read: &Read, piece: usize, out: &mut Piece) {
    let d = scale_at(read, 48usize);
    #[unroll]
    for run in 0..4usize {
        let s = scale_byte(read, piece, 36usize, run);
        out.factors[run] = d * number(s ^ 0x80u32, 128u32);
        #[unroll]
        for j in 0..2usize {
            // Runs 0 and 2 share one byte for a value, 1 and 3 another.
            let low = word_at(read, comptime!(12 * (run % 2) + 4 * j));
            let high = word_at(read, comptime!(24 + 4 * j));
            #[unroll]
            for i in 0..4usize {
                let code = bits(low, i, comptime!((run / 2) * 4), 15u32)
                    | (bits(high, i, comptime!(2 * run), 3u32) << 4);
                out.codes[comptime!(run * 8 + j * 4 + i)] = number(code, 32u32);
            }
        }
    }
}
