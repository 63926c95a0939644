//! `Q8_0`: 2 bytes of scale, 32 signed bytes.

use cubecl::prelude::*;

use super::{Read, byte_code, word_at};

#[cube]
pub(super) fn codes(block: &Read, codes: &mut Sequence<f32>) {
    #[unroll]
    for j in 0..8usize {
        let q = word_at(block, comptime!(2 + 4 * j));
        #[unroll]
        for i in 0..4usize {
            codes.push(byte_code(block, q, i));
        }
    }
}
