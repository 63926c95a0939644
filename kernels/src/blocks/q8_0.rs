//! `Q8_0`: 2 bytes of scale, 32 signed bytes.

use cubecl::prelude::*;

use super::{Piece, Read, byte_code, scale_at, word_at};

#[cube]
pub(super) fn q8_0(block: &Read, out: &mut Piece) {
    out.factors[0] = scale_at(block, 0usize);
    #[unroll]
    for j in 0..8usize {
        let q = word_at(block, comptime!(2 + 4 * j));
        #[unroll]
        for i in 0..4usize {
            out.codes[comptime!(4 * j + i)] = byte_code(block, q, i);
        }
    }
}
