//! `Q4_K`: blocks of 256 values in 144 bytes, 8 groups of 32;
//! `value = (d * scale) * q - (dmin * minimum)` (ggml `block_q4_K`, `dequantize_row_q4_K`).
//!
//! | bytes | field | holds |
//! | --- | --- | --- |
//! | 0..2 | `d: f16` | what scales are multiples of |
//! | 2..4 | `dmin: f16` | what minimums are multiples of |
//! | 4..16 | `scales: [u8; 12]` | 8 scales and 8 minimums of six bits |
//! | 16..144 | `qs: [u8; 128]` | codes of four bits |
//!
//! The traps: 32 bytes hold two groups, the first in the low nibbles, the second in the high ones.
//! Groups 0 to 3 have their scales in the low six bits of `scales[0..4]` and their minimums in those
//! of `scales[4..8]`. Groups 4 to 7 have the low four bits in `scales[8..12]` (scale in the low
//! nibble, minimum in the high) and the high two in the bits that groups 0 to 3 left over.

use half::f16;

const VALUES: usize = 256;
const BYTES: usize = 144;
const GROUP: usize = 32;

/// Decodes whole blocks; the caller has checked the lengths.
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (values, _) = out.as_chunks_mut::<VALUES>();
    for (block, values) in blocks.iter().zip(values) {
        let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
        let dmin = f16::from_le_bytes([block[2], block[3]]).to_f32();
        let scales = scales_and_minimums(&block[4..16]);
        let (codes, _) = block[16..].as_chunks::<GROUP>();
        let (groups, _) = values.as_chunks_mut::<GROUP>();
        for (i, (values, (scale, minimum))) in groups.iter_mut().zip(scales).enumerate() {
            let scale = d * f32::from(scale);
            let minimum = dmin * f32::from(minimum);
            for (value, &q) in values.iter_mut().zip(&codes[i / 2]) {
                *value = scale * f32::from((q >> (4 * (i % 2))) & 0x0f) - minimum;
            }
        }
    }
}

/// Scale and minimum, each 0 to 63, of the groups of a block of `Q4_K` or `Q5_K`.
pub(super) fn scales_and_minimums(packed: &[u8]) -> [(u8, u8); 8] {
    std::array::from_fn(|i| {
        if i < 4 {
            (packed[i] & 0x3f, packed[i + 4] & 0x3f)
        } else {
            let scale = (packed[i + 4] & 0x0f) | (packed[i - 4] >> 6) << 4;
            let minimum = (packed[i + 4] >> 4) | (packed[i] >> 6) << 4;
            (scale, minimum)
        }
    })
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // these values are exact
mod tests {
    use super::*;

    #[test]
    fn scales_of_six_bits() {
        let packed = [0x01, 0x42, 0x83, 0xff, 0x05, 0x46, 0x87, 0xc8, 0x21, 0x43, 0x65, 0x87];
        assert_eq!(
            scales_and_minimums(&packed),
            [(1, 5), (2, 6), (3, 7), (63, 8), (1, 2), (19, 20), (37, 38), (55, 56)]
        );
    }

    #[test]
    fn literal_block() {
        let mut block = [0u8; BYTES];
        block[..2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        block[2..4].copy_from_slice(&f16::from_f32(0.25).to_le_bytes());
        block[4] = 3; // group 0
        block[8] = 4;
        block[15] = 0x21; // group 7
        block[16] = 0xf2;
        block[143] = 0x90;
        let mut out = [9.0; VALUES];
        decode(&block, &mut out);
        assert_eq!(out[..2], [2.0, -1.0]);
        assert_eq!(out[32], 0.0);
        assert_eq!(out[254..], [-0.5, 4.0]);
    }
}
