//! `IQ4_NL`: blocks of 32 values in 18 bytes; `value = d * LEVELS[q]`
//! (ggml `block_iq4_nl`, `dequantize_row_iq4_nl`, `kvalues_iq4nl`).
//!
//! | bytes | field | holds |
//! | --- | --- | --- |
//! | 0..2 | `d: f16` | the scale |
//! | 2..18 | `qs: [u8; 16]` | codes of four bits, two values a byte as in `Q4_0` |

use half::f16;

const VALUES: usize = 32;
const BYTES: usize = 18;

/// What the sixteen codes of `IQ4_NL` and `IQ4_XS` stand for: dense around 0, sparse far from it.
const LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Decodes whole blocks; the caller has checked the lengths.
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (values, _) = out.as_chunks_mut::<VALUES>();
    for (block, values) in blocks.iter().zip(values) {
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        decode_codes(scale, &block[2..], values);
    }
}

/// Decodes 16 bytes of codes.
pub(super) fn decode_codes(scale: f32, codes: &[u8], values: &mut [f32; VALUES]) {
    let (low, high) = values.split_at_mut(VALUES / 2);
    for ((low, high), &q) in low.iter_mut().zip(high).zip(codes) {
        *low = scale * f32::from(LEVELS[usize::from(q & 0x0f)]);
        *high = scale * f32::from(LEVELS[usize::from(q >> 4)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal_block() {
        let mut block = [0x88u8; BYTES];
        block[..2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        block[2] = 0xf0;
        block[17] = 0x17;
        let mut out = [9.0; VALUES];
        decode(&block, &mut out);
        assert_eq!(out[..2], [-63.5, 0.5]);
        assert_eq!(out[15..18], [-5.0, 56.5, 0.5]);
        assert_eq!(out[31].to_bits(), (-52.0f32).to_bits());
    }
}
