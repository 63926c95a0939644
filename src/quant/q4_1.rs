//! `Q4_1`: blocks of 32 values, `{ d: f16, m: f16, qs: [u8; 16] }`; `value = d * q + m`
//! (ggml `block_q4_1`, `dequantize_row_q4_1`).
//!
//! Nibbles lie as in `Q4_0`. `d * q` is exact in f32 (11 + 4 bits), so a fused multiply-add gives the
//! same value as a product and a sum.

use half::f16;

const VALUES: usize = 32;
const BYTES: usize = 20;

/// Decodes whole blocks; the caller has checked the lengths.
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (values, _) = out.as_chunks_mut::<VALUES>();
    for (block, values) in blocks.iter().zip(values) {
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        let minimum = f16::from_le_bytes([block[2], block[3]]).to_f32();
        let (low, high) = values.split_at_mut(VALUES / 2);
        for ((low, high), &q) in low.iter_mut().zip(high).zip(&block[4..]) {
            *low = f32::from(q & 0x0f) * scale + minimum;
            *high = f32::from(q >> 4) * scale + minimum;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal_block() {
        let mut block = [0u8; BYTES];
        block[..2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        block[2..4].copy_from_slice(&f16::from_f32(-1.0).to_le_bytes());
        block[4] = 0xf2;
        let mut out = [9.0; VALUES];
        decode(&block, &mut out);
        assert_eq!(out[..2], [0.0, -1.0]);
        assert_eq!(out[16..18], [6.5, -1.0]);
    }
}
