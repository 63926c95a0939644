//! The K formats: 256 values a block.
//!
//! `Q2_K`, `Q3_K` and `Q6_K` hold two halves of 128 values, each of four runs of 32 that share
//! their bytes; a piece is the same 8 places of the four. `Q4_K` and `Q5_K` hold four groups of 64,
//! each of two runs of 32 that share theirs; a piece is the same 16 places of the two.

use cubecl::prelude::*;

use super::{Bits, Read, field, joined, nibbles, number, scale_at, word_at};

/// The bits of `mask` from bit `shift` of byte `i` on.
#[cube]
fn bits(q: u32, #[comptime] i: usize, #[comptime] shift: usize, #[comptime] mask: u32) -> u32 {
    (q >> comptime!((8 * i + shift) as u32)) & mask
}

/// Bytes from one section to the next where both have those of the places of a piece, 8 of each, and two
/// to spare.
const fn section_bytes(together: usize) -> usize {
    8 * together + 4
}

/// The byte of a scale of `run`: of 8 bytes that were read, those of the lower or upper 16 places.
#[cube]
fn scale_byte(read: &Read, piece: usize, #[comptime] at: usize, #[comptime] run: usize) -> u32 {
    let upper = (piece as u32 % 4) / 2 * 8;
    let word = word_at(read, comptime!(at + 4 * (run / 2)));
    (word >> (upper + comptime!(16 * (run as u32 % 2)))) & 0xff
}

/// The power of two that codes of `Q2_K` are lifted by: runs next to each other share a shift.
pub(super) const fn two_bits(run: usize) -> u32 {
    6 - 2 * (run as u32 % 2)
}

/// 84 bytes: 16 scales (low nibble) and minimums (high), 64 bytes of codes, d, dmin.
/// Read: the 8 scales of the half, 8 bytes of codes for each piece, d and dmin.
#[cube]
pub(super) fn q2_k_factors(
    read: &Read,
    piece: usize,
    factors: &mut Sequence<f32>,
    minimums: &mut Sequence<f32>,
) {
    let d = scale_at(read, comptime!(8 + 8 * read.together));
    let dmin = scale_at(read, comptime!(10 + 8 * read.together));
    #[unroll]
    for run in 0..4usize {
        let s = scale_byte(read, piece, 0usize, run);
        factors.push(d * number(s & 0xf, 0u32));
        minimums.push(dmin * number(s >> 4, 0u32));
    }
}

/// The `j`-th word of codes of a run.
#[cube]
pub(super) fn q2_k(read: &Read, #[comptime] run: usize, #[comptime] j: usize) -> u32 {
    (word_at(read, comptime!(8 + 4 * j)) >> comptime!(2 * run as u32)) & 0x0303_0303
}

#[cube]
pub(super) fn q2_k_codes(read: &Read, codes: &mut Sequence<f32>) {
    #[unroll]
    for run in 0..4usize {
        #[unroll]
        for j in 0..2usize {
            let q = word_at(read, comptime!(8 + 4 * j));
            #[unroll]
            for i in 0..4usize {
                let (from, lift) = comptime!(((8 * i + 2 * run) as u32, two_bits(run)));
                codes.push(field(read, q, from, 2u32, lift));
            }
        }
    }
}

/// 110 bytes: 32 bytes of third bits, 64 of codes, 16 scales of 6 bits in 12 bytes, d.
/// Read, each with two bytes to spare: 8 bytes of third bits for each piece, 8 of codes, the scales, d.
#[cube]
pub(super) fn q3_k_factors(read: &Read, piece: usize, factors: &mut Sequence<f32>) {
    let half = piece as u32 / 4;
    let upper = (piece as u32 % 4) / 2 * 8;
    let scales = comptime!(2 * section_bytes(read.together));
    let d = scale_at(read, comptime!(scales + 16));
    #[unroll]
    for run in 0..4usize {
        let low = (scale_byte(read, piece, scales, run) >> (half * 4)) & 0xf;
        let byte =
            word_at(read, comptime!(scales + 8)) >> (upper + comptime!(16 * (run as u32 % 2)));
        let high = (byte >> (half * 4 + comptime!(run as u32 / 2 * 2))) & 3;
        factors.push(d * number(low | (high << 4), 32u32));
    }
}

/// The `j`-th word of codes of a run.
#[cube]
pub(super) fn q3_k(read: &Read, piece: usize, #[comptime] run: usize, #[comptime] j: usize) -> u32 {
    let q = word_at(read, comptime!(section_bytes(read.together) + 4 * j));
    let third = word_at(read, comptime!(4 * j)) >> (piece as u32 / 4 * 4);
    let pair = comptime!(Bits { left: -2 * run as i32, mask: 0x0303_0303 });
    joined(q, third, pair, comptime!(Bits { left: 2 - run as i32, mask: 0x0404_0404 }))
}

/// 176 bytes: as `Q4_K`, with 32 bytes of fifth bits before the nibbles.
/// Read: what comes before both, 16 bytes of nibbles for each piece, 16 of fifth bits.
#[cube]
pub(super) fn q5_k(read: &Read, piece: usize, #[comptime] run: usize, #[comptime] j: usize) -> u32 {
    let q = word_at(read, comptime!(16 + 4 * j));
    let fifths = comptime!(16 + 16 * read.together);
    let fifth = word_at(read, comptime!(fifths + 4 * j)) >> (piece as u32 / 2 * 2);
    let one = comptime!(Bits { left: 4 - run as i32, mask: 0x1010_1010 });
    joined(q, fifth, comptime!(nibbles(run)), one)
}

/// Factors and minimums of the two runs of a piece of `Q4_K` (144 bytes: d, dmin, 8 scales and
/// minimums of 6 bits in 12 bytes, 128 bytes of nibbles; read: what comes before the nibbles, 16 bytes
/// of these for each piece) or `Q5_K`. Of the 12 bytes, the first four hold the scales of the runs 0 to
/// 3 and the next four their minimums, 6 bits each. The low four bits of both for the runs 4 to 7 are
/// in the last four, their high bits in the first eight. Two neighbouring runs are taken at once.
#[cube]
pub(super) fn six_bits(
    read: &Read,
    piece: usize,
    out_factors: &mut Sequence<f32>,
    out_minimums: &mut Sequence<f32>,
) {
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
        out_factors.push(d * number(bits(factors, run, 0usize, 63u32), 0u32));
        out_minimums.push(dmin * number(bits(minimums, run, 0usize, 63u32), 0u32));
    }
}

/// 210 bytes: 128 bytes of nibbles, 64 of two more bits each, 16 signed scales, d.
/// Read, each with two bytes to spare: 8 bytes of nibbles for each piece, those that are 32 behind them,
/// 8 of the other bits, the 8 scales of the half, d.
#[cube]
pub(super) fn q6_k_factors(read: &Read, piece: usize, factors: &mut Sequence<f32>) {
    let scales = comptime!(3 * section_bytes(read.together));
    let d = scale_at(read, comptime!(scales + 12));
    #[unroll]
    for run in 0..4usize {
        let s = scale_byte(read, piece, scales, run);
        factors.push(d * number(s ^ 0x80u32, 128u32));
    }
}

/// The `j`-th word of codes of a run.
#[cube]
pub(super) fn q6_k(read: &Read, #[comptime] run: usize, #[comptime] j: usize) -> u32 {
    // Runs 0 and 2 share one byte for a value, 1 and 3 another.
    let section = comptime!(section_bytes(read.together));
    let low = word_at(read, comptime!(section * (run % 2) + 4 * j));
    let high = word_at(read, comptime!(2 * section + 4 * j));
    let two = comptime!(Bits { left: 4 - 2 * run as i32, mask: 0x3030_3030 });
    joined(low, high, comptime!(nibbles(run / 2)), two)
}
