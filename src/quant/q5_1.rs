//! `Q5_1`: blocks of 32 values in 24 bytes; `value = d * q + m`
//! (ggml `block_q5_1`, `dequantize_row_q5_1`).
//!
//! | bytes | field | holds |
//! | --- | --- | --- |
//! | 0..2 | `d: f16` | the scale |
//! | 2..4 | `m: f16` | the minimum |
//! | 4..8 | `qh: u32` | the fifth bits: bit `i` belongs to value `i` |
//! | 8..24 | `qs: [u8; 16]` | the low four bits, two values a byte as in `Q4_0` |
//!
//! `d * q` is exact in f32 (11 + 5 bits), so a fused multiply-add gives the same value.

use half::f16;

use super::q5_0::five_bits;

const VALUES: usize = 32;
const BYTES: usize = 24;

/// Decodes whole blocks; the caller has checked the lengths.
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (values, _) = out.as_chunks_mut::<VALUES>();
    for (block, values) in blocks.iter().zip(values) {
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        let minimum = f16::from_le_bytes([block[2], block[3]]).to_f32();
        let codes = five_bits([block[4], block[5], block[6], block[7]], &block[8..]);
        for (value, q) in values.iter_mut().zip(codes) {
            *value = f32::from(q) * scale + minimum;
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
        block[4..8].copy_from_slice(&(1u32 << 1 | 1 << 16).to_le_bytes());
        block[8] = 0xf2;
        let mut out = [9.0; VALUES];
        decode(&block, &mut out);
        assert_eq!(out[..3], [0.0, 7.0, -1.0]);
        assert_eq!(out[16..18], [14.5, -1.0]);
    }
}
