//! `Q4_0`: blocks of 32 values, `{ d: f16, qs: [u8; 16] }`; `value = d * (q - 8)`
//! (ggml `block_q4_0`, `dequantize_row_q4_0`).
//!
//! The trap: byte `j` holds value `j` in its low nibble and value `j + 16` in its high one.

use half::f16;

const VALUES: usize = 32;
const BYTES: usize = 18;

/// Decodes whole blocks; the caller has checked the lengths.
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (values, _) = out.as_chunks_mut::<VALUES>();
    for (block, values) in blocks.iter().zip(values) {
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        let (low, high) = values.split_at_mut(VALUES / 2);
        for ((low, high), &q) in low.iter_mut().zip(high).zip(&block[2..]) {
            *low = (f32::from(q & 0x0f) - 8.0) * scale;
            *high = (f32::from(q >> 4) - 8.0) * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal_block() {
        let mut block = [0x88u8; BYTES];
        block[..2].copy_from_slice(&f16::from_f32(0.25).to_le_bytes());
        block[2] = 0xf0;
        block[17] = 0x19;
        let mut out = [9.0; VALUES];
        decode(&block, &mut out);
        assert_eq!(out[..2], [-2.0, 0.0]);
        assert_eq!(out[15..18], [0.25, 1.75, 0.0]);
        assert_eq!(out[31].to_bits(), (-1.75f32).to_bits());
    }
}
