//! `Q8_0`: 2 bytes of scale, 32 signed bytes.

use cubecl::prelude::*;

use super::{Piece, number, scale_at, word_at, words};

#[cube]
pub(super) fn q8_0(data: &Array<u32>, at: usize, out: &mut Piece) {
    let block = words(data, at, 34usize);
    out.factors[0] = scale_at(&block, 0usize);
    #[unroll]
    for j in 0..8usize {
        // Flipping the sign bit makes it an offset of 128.
        let q = word_at(&block, comptime!(2 + 4 * j)) ^ 0x8080_8080u32;
        #[unroll]
        for i in 0..4usize {
            let code = (q >> comptime!(8 * i as u32)) & 0xff;
            out.codes[comptime!(4 * j + i)] = number(code, 128u32);
        }
    }
}
