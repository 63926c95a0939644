//! `Q8_0`: blocks of 32 values, `{ d: f16, qs: [i8; 32] }`; `value = d * q`
//! (ggml `block_q8_0`, `dequantize_row_q8_0`).

use half::f16;

const VALUES: usize = 32;
const BYTES: usize = 34;

/// Decodes whole blocks; the caller has checked the lengths.
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (values, _) = out.as_chunks_mut::<VALUES>();
    for (block, values) in blocks.iter().zip(values) {
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        for (value, &q) in values.iter_mut().zip(&block[2..]) {
            *value = f32::from(q.cast_signed()) * scale;
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
        block[2] = 1;
        block[3] = 0xff; // -1
        block[4] = 0x80; // -128
        block[33] = 127;
        let mut out = [9.0; VALUES];
        decode(&block, &mut out);
        assert_eq!(out[..4], [0.5, -0.5, -64.0, 0.0]);
        assert_eq!(out[31].to_bits(), 63.5f32.to_bits());
    }
}
