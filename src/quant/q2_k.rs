//! `Q2_K`: blocks of 256 values in 84 bytes, 16 groups of 16;
//! `value = (d * scale) * q - (dmin * minimum)` (ggml `block_q2_K`, `dequantize_row_q2_K`).
//!
//! | bytes | field | holds |
//! | --- | --- | --- |
//! | 0..16 | `scales: [u8; 16]` | for each group, the scale in the low nibble, the minimum in the high |
//! | 16..80 | `qs: [u8; 64]` | codes of two bits |
//! | 80..82 | `d: f16` | what scales are multiples of |
//! | 82..84 | `dmin: f16` | what minimums are multiples of |
//!
//! The trap: 32 bytes hold 128 values in four planes: value `32 * p + j` of a half lies in bits
//! `2 * p` and `2 * p + 1` of byte `j`. Both products are exact in f32, only the difference rounds.

use half::f16;

const VALUES: usize = 256;
const BYTES: usize = 84;
const GROUP: usize = 16;

/// Decodes whole blocks; the caller has checked the lengths.
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (values, _) = out.as_chunks_mut::<VALUES>();
    for (block, values) in blocks.iter().zip(values) {
        let d = f16::from_le_bytes([block[80], block[81]]).to_f32();
        let dmin = f16::from_le_bytes([block[82], block[83]]).to_f32();
        let (codes, _) = block[16..80].as_chunks::<GROUP>();
        let (groups, _) = values.as_chunks_mut::<GROUP>();
        for (i, (values, &packed)) in groups.iter_mut().zip(&block[..16]).enumerate() {
            let scale = d * f32::from(packed & 0x0f);
            let minimum = dmin * f32::from(packed >> 4);
            let (half, plane, side) = (i / 8, i / 2 % 4, i % 2);
            for (value, &q) in values.iter_mut().zip(&codes[2 * half + side]) {
                *value = scale * f32::from((q >> (2 * plane)) & 3) - minimum;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal_block() {
        let mut block = [0u8; BYTES];
        block[0] = 0x32; // values 0..16
        block[3] = 0x01; // values 48..64
        block[15] = 0x1f; // values 240..256
        block[16] = 0b11;
        block[16 + 31] = 0b10_00;
        block[16 + 63] = 0b01_00_00_00;
        block[80..82].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        block[82..].copy_from_slice(&f16::from_f32(0.25).to_le_bytes());
        let mut out = [9.0; VALUES];
        decode(&block, &mut out);
        assert_eq!(out[..2], [2.25, -0.75]);
        assert_eq!(out[62..65], [0.0, 1.0, 0.0]);
        assert_eq!(out[254..], [-0.25, 7.25]);
    }
}
