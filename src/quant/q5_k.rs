//! `Q5_K`: blocks of 256 values in 176 bytes, 8 groups of 32;
//! `value = (d * scale) * q - (dmin * minimum)` (ggml `block_q5_K`, `dequantize_row_q5_K`).
//!
//! | bytes | field | holds |
//! | --- | --- | --- |
//! | 0..2 | `d: f16` | what scales are multiples of |
//! | 2..4 | `dmin: f16` | what minimums are multiples of |
//! | 4..16 | `scales: [u8; 12]` | 8 scales and 8 minimums of six bits, as in `Q4_K` |
//! | 16..48 | `qh: [u8; 32]` | the fifth bits: bit `g` of byte `j` belongs to value `j` of group `g` |
//! | 48..176 | `qs: [u8; 128]` | the low four bits, as in `Q4_K` |

use half::f16;

use super::q4_k::scales_and_minimums;

const VALUES: usize = 256;
const BYTES: usize = 176;
const GROUP: usize = 32;

/// Decodes whole blocks; the caller has checked the lengths.
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (values, _) = out.as_chunks_mut::<VALUES>();
    for (block, values) in blocks.iter().zip(values) {
        let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
        let dmin = f16::from_le_bytes([block[2], block[3]]).to_f32();
        let scales = scales_and_minimums(&block[4..16]);
        let high = &block[16..48];
        let (codes, _) = block[48..].as_chunks::<GROUP>();
        let (groups, _) = values.as_chunks_mut::<GROUP>();
        for (i, (values, (scale, minimum))) in groups.iter_mut().zip(scales).enumerate() {
            let scale = d * f32::from(scale);
            let minimum = dmin * f32::from(minimum);
            for (value, (&low, &high)) in values.iter_mut().zip(codes[i / 2].iter().zip(high)) {
                let q = ((low >> (4 * (i % 2))) & 0x0f) | ((high >> i) & 1) << 4;
                *value = scale * f32::from(q) - minimum;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // these values are exact
mod tests {
    use super::*;

    #[test]
    fn literal_block() {
        let mut block = [0u8; BYTES];
        block[..2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        block[2..4].copy_from_slice(&f16::from_f32(0.25).to_le_bytes());
        block[4] = 3; // group 0
        block[8] = 4;
        block[15] = 0x21; // group 7
        block[16] = 0b0000_0001;
        block[47] = 0b1000_0000;
        block[48] = 0xf2;
        block[175] = 0x90;
        let mut out = [9.0; VALUES];
        decode(&block, &mut out);
        assert_eq!(out[..2], [26.0, -1.0]);
        assert_eq!(out[32], 0.0);
        assert_eq!(out[254..], [-0.5, 12.0]);
    }
}
