//! `Q3_K`: blocks of 256 values in 110 bytes, 16 groups of 16;
//! `value = (d * (scale - 32)) * (q - 4)` (ggml `block_q3_K`, `dequantize_row_q3_K`).
//!
//! | bytes | field | holds |
//! | --- | --- | --- |
//! | 0..32 | `hmask: [u8; 32]` | the third bits: bit `i / 32` of byte `i % 32` belongs to value `i` |
//! | 32..96 | `qs: [u8; 64]` | the low two bits, in planes as in `Q2_K` |
//! | 96..108 | `scales: [u8; 12]` | 16 scales of six bits |
//! | 108..110 | `d: f16` | what scales are multiples of |
//!
//! The trap: of scale `i`, the low four bits are a nibble of `scales[i % 8]` (the low nibble for the
//! first eight), and the high two are bits `2 * (i / 4)` and the next of `scales[8 + i % 4]`.

use half::f16;

const VALUES: usize = 256;
const BYTES: usize = 110;
const GROUP: usize = 16;

/// Decodes whole blocks; the caller has checked the lengths.
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (values, _) = out.as_chunks_mut::<VALUES>();
    for (block, values) in blocks.iter().zip(values) {
        let d = f16::from_le_bytes([block[108], block[109]]).to_f32();
        let (high, _) = block[..32].as_chunks::<GROUP>();
        let (codes, _) = block[32..96].as_chunks::<GROUP>();
        let (groups, _) = values.as_chunks_mut::<GROUP>();
        for (i, (values, scale)) in groups.iter_mut().zip(scales(&block[96..108])).enumerate() {
            let scale = d * (f32::from(scale) - 32.0);
            let (half, plane, side) = (i / 8, i / 2 % 4, i % 2);
            let codes = high[side].iter().zip(&codes[2 * half + side]);
            for (value, (&high, &low)) in values.iter_mut().zip(codes) {
                let q = ((low >> (2 * plane)) & 3) | ((high >> (i / 2)) & 1) << 2;
                *value = scale * (f32::from(q) - 4.0);
            }
        }
    }
}

/// The scales 0 to 63 of the groups.
fn scales(packed: &[u8]) -> [u8; 16] {
    std::array::from_fn(|i| {
        let low = (packed[i % 8] >> (4 * (i / 8))) & 0x0f;
        let high = (packed[8 + i % 4] >> (2 * (i / 4))) & 3;
        low | high << 4
    })
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // these values are exact
mod tests {
    use super::*;

    #[test]
    fn scales_of_six_bits() {
        let packed = [0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe, 0xe4, 0xe4, 0xe4, 0x1b];
        assert_eq!(scales(&packed), [0, 2, 4, 54, 24, 26, 28, 46, 33, 35, 37, 23, 57, 59, 61, 15]);
    }

    #[test]
    fn literal_block() {
        let mut block = [0u8; BYTES];
        block[0] = 0b0000_0001; // the third bit of value 0
        block[31] = 0b1000_0000; // and of value 255
        block[32] = 0b11;
        block[32 + 63] = 0b10_00_00_00;
        block[96] = 0x03; // the scale of values 0..16: 3 - 32
        block[103] = 0x50; // the scale of values 240..256: 5 + 48 - 32
        block[107] = 0b11_00_00_00;
        block[108..].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        let mut out = [9.0; VALUES];
        decode(&block, &mut out);
        assert_eq!(out[..2], [-14.5 * 3.0, -14.5 * -4.0]);
        assert_eq!(out[16], -16.0 * -4.0);
        assert_eq!(out[254..], [10.5 * -4.0, 10.5 * 2.0]);
    }
}
