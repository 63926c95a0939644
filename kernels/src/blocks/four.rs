//! `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`: 16 bytes of nibbles (values 0–15 in the low ones, 16–31 in the
//! high ones), before them a scale, perhaps a minimum, and for 5 bits a word of fifth bits.

use cubecl::prelude::*;

use super::{scale, word};

/// The codes of a block: nibbles at byte `at`, fifth bits in `fifth`.
#[cube]
fn codes(
    data: &Array<u32>,
    at: usize,
    fifth: u32,
    values: &mut Array<f32>,
    #[comptime] five: bool,
    #[comptime] aligned: bool,
) {
    #[unroll]
    for j in 0..4usize {
        let q = word(data, at + comptime!(4 * j), aligned);
        #[unroll]
        for i in 0..4usize {
            let e = comptime!(4 * j + i);
            let mut low = (q >> comptime!(8 * i as u32)) & 0xf;
            let mut high = (q >> comptime!(8 * i as u32 + 4)) & 0xf;
            if comptime!(five) {
                low |= ((fifth >> comptime!(e as u32)) & 1) << 4;
                high |= ((fifth >> comptime!(e as u32 + 16)) & 1) << 4;
            }
            values[e] = f32::cast_from(low);
            values[comptime!(e + 16)] = f32::cast_from(high);
        }
    }
}

#[cube]
fn scale_all(values: &mut Array<f32>, offset: f32, d: f32, minimum: f32) {
    #[unroll]
    for i in 0..32usize {
        values[i] = (values[i] - offset) * d + minimum;
    }
}

#[cube]
pub(super) fn q4_0(data: &Array<u32>, at: usize, values: &mut Array<f32>) {
    codes(data, at + 2, 0u32, values, false, false);
    scale_all(values, 8.0f32, scale(data, at), 0.0f32);
}

#[cube]
pub(super) fn q4_1(data: &Array<u32>, at: usize, values: &mut Array<f32>) {
    codes(data, at + 4, 0u32, values, false, true);
    scale_all(values, 0.0f32, scale(data, at), scale(data, at + 2));
}

#[cube]
pub(super) fn q5_0(data: &Array<u32>, at: usize, values: &mut Array<f32>) {
    codes(data, at + 6, word(data, at + 2, false), values, true, false);
    scale_all(values, 16.0f32, scale(data, at), 0.0f32);
}

#[cube]
pub(super) fn q5_1(data: &Array<u32>, at: usize, values: &mut Array<f32>) {
    codes(data, at + 8, word(data, at + 4, true), values, true, true);
    scale_all(values, 0.0f32, scale(data, at), scale(data, at + 2));
}
