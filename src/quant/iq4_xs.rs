//! `IQ4_XS`: blocks of 256 values in 136 bytes, 8 groups of 32;
//! `value = (d * (scale - 32)) * LEVELS[q]`, with the levels of `IQ4_NL`
//! (ggml `block_iq4_xs`, `dequantize_row_iq4_xs`).
//!
//! | bytes | field | holds |
//! | --- | --- | --- |
//! | 0..2 | `d: f16` | what scales are multiples of |
//! | 2..4 | `scales_h: u16` | the high two bits of the scales: bits `2 * g` and the next for group `g` |
//! | 4..8 | `scales_l: [u8; 4]` | the low four bits of the scales, the even group in the low nibble |
//! | 8..136 | `qs: [u8; 128]` | codes of four bits, 16 bytes a group as in `IQ4_NL` |

use half::f16;

use super::iq4_nl::decode_codes;

const VALUES: usize = 256;
const BYTES: usize = 136;
const GROUP: usize = 32;

/// Decodes whole blocks; the caller has checked the lengths.
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (values, _) = out.as_chunks_mut::<VALUES>();
    for (block, values) in blocks.iter().zip(values) {
        let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
        let high = u16::from_le_bytes([block[2], block[3]]);
        let low = &block[4..8];
        let (codes, _) = block[8..].as_chunks::<{ GROUP / 2 }>();
        let (groups, _) = values.as_chunks_mut::<GROUP>();
        for (i, (values, codes)) in groups.iter_mut().zip(codes).enumerate() {
            let low = (low[i / 2] >> (4 * (i % 2))) & 0x0f;
            let high = (high >> (2 * i)) as u8 & 3;
            let scale = d * (f32::from(low | high << 4) - 32.0);
            decode_codes(scale, codes, values);
        }
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // these values are exact
mod tests {
    use super::*;

    #[test]
    fn literal_block() {
        let mut block = [0x88u8; BYTES];
        block[..2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        block[2..4].copy_from_slice(&0b11_00_00_00_00_00_10_00_u16.to_le_bytes());
        block[4] = 0x21; // groups 0 and 1: 1 - 32 and 2 + 32 - 32
        block[7] = 0x30; // groups 6 and 7: 0 - 32 and 3 + 48 - 32
        block[8] = 0xf0;
        block[24] = 0x9f;
        block[135] = 0x07;
        let mut out = [9.0; VALUES];
        decode(&block, &mut out);
        assert_eq!(out[..2], [-15.5 * -127.0, -15.5]);
        assert_eq!(out[16], -15.5 * 113.0);
        assert_eq!(out[32..34], [113.0, 1.0]);
        assert_eq!(out[48], 13.0);
        assert_eq!(out[223..225], [-16.0, 9.5]);
        assert_eq!(out[239], 9.5 * -10.0);
        assert_eq!(out[255], 9.5 * -127.0);
    }
}
