//! `Q5_0` and `Q5_1`: a scale, perhaps a minimum, a word of fifth bits, 16 bytes of nibbles (values
//! 0–15 in the low ones, 16–31 in the high ones).

use cubecl::prelude::*;

use super::{Bits, Read, joined, nibbles, word_at};

/// The `k`-th word of codes; the fifth bits lie `at` bytes into the block.
#[cube]
pub(super) fn code_word(block: &Read, #[comptime] k: usize, #[comptime] at: usize) -> u32 {
    let q = word_at(block, comptime!(at + 4 + 4 * (k % 4)));
    // Copies of four bits, 7 apart: bit `i` lies at bit 4 of byte `i`.
    let four = (word_at(block, at) >> comptime!(4 * k as u32)) & 0xf;
    let four = four * u32::new(comptime!((1 << 4) | (1 << 11) | (1 << 18) | (1 << 25)));
    let places = comptime!(Bits { left: 0, mask: 0x1010_1010 });
    joined(q, four, comptime!(nibbles(k / 4)), places)
}
