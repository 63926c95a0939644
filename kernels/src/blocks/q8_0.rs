//! `Q8_0`: 2 bytes of scale, 32 signed bytes.

use cubecl::prelude::*;

use super::{scale, word};

#[cube]
pub(super) fn q8_0(data: &Array<u32>, at: usize, values: &mut Array<f32>) {
    let d = scale(data, at);
    #[unroll]
    for j in 0..8usize {
        // Flipping the sign bit makes it an offset of 128.
        let q = word(data, at + comptime!(2 + 4 * j), false) ^ 0x8080_8080u32;
        #[unroll]
        for i in 0..4usize {
            let code = (q >> comptime!(8 * i as u32)) & 0xff;
            values[comptime!(4 * j + i)] = d * (f32::cast_from(code) - 128.0f32);
        }
    }
}
