//! `Q6_K`: blocks of 256 values in 210 bytes, 16 groups of 16; `value = (d * scale) * (q - 32)`
//! (ggml `block_q6_K`, `dequantize_row_q6_K`).
//!
//! | bytes | field | holds |
//! | --- | --- | --- |
//! | 0..128 | `ql: [u8; 128]` | the low four bits |
//! | 128..192 | `qh: [u8; 64]` | the high two bits |
//! | 192..208 | `scales: [i8; 16]` | the scales of the groups |
//! | 208..210 | `d: f16` | what scales are multiples of |
//!
//! The trap: each half of 128 values has 64 bytes of `ql` and 32 of `qh`, and four planes of 32
//! values. Value `j` of plane `p` has its low bits in byte `32 * (p % 2) + j` (planes 0 and 1 in the
//! low nibbles, 2 and 3 in the high ones), and its high bits in bits `2 * p` and the next of byte `j`.
//! Both products are exact in f32.

use half::f16;

const VALUES: usize = 256;
const BYTES: usize = 210;
const GROUP: usize = 16;

/// Decodes whole blocks; the caller has checked the lengths.
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (values, _) = out.as_chunks_mut::<VALUES>();
    for (block, values) in blocks.iter().zip(values) {
        let d = f16::from_le_bytes([block[208], block[209]]).to_f32();
        let (low, _) = block[..128].as_chunks::<GROUP>();
        let (high, _) = block[128..192].as_chunks::<GROUP>();
        let (groups, _) = values.as_chunks_mut::<GROUP>();
        for (i, (values, scale)) in groups.iter_mut().zip(&block[192..208]).enumerate() {
            let scale = d * f32::from(scale.cast_signed());
            let (half, plane, side) = (i / 8, i / 2 % 4, i % 2);
            let low = &low[4 * half + 2 * (plane % 2) + side];
            let high = &high[2 * half + side];
            for (value, (&low, &high)) in values.iter_mut().zip(low.iter().zip(high)) {
                let q = ((low >> (4 * (plane / 2))) & 0x0f) | ((high >> (2 * plane)) & 3) << 4;
                *value = scale * (f32::from(q) - 32.0);
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
        block[0] = 0x51; // values 0 and 64
        block[63] = 0x20; // values 63 and 127
        block[127] = 0xf0; // values 191 and 255
        block[128] = 0b10; // value 0
        block[128 + 63] = 0b11_00_00_00; // value 255
        block[192] = 2; // values 0..16
        block[192 + 4] = 0xff; // values 64..80: -1
        block[192 + 7] = 1; // values 112..128
        block[192 + 15] = 0x80; // values 240..256: -128
        block[208..].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        let mut out = [9.0; VALUES];
        decode(&block, &mut out);
        assert_eq!(out[..2], [1.0, -32.0]);
        assert_eq!(out[64..66], [13.5, 16.0]);
        assert_eq!(out[126..128], [-16.0, -15.0]);
        assert_eq!(out[254..], [2048.0, -1984.0]);
    }
}
