//! `Q5_0`: blocks of 32 values in 22 bytes; `value = d * (q - 16)`
//! (ggml `block_q5_0`, `dequantize_row_q5_0`).
//!
//! | bytes | field | holds |
//! | --- | --- | --- |
//! | 0..2 | `d: f16` | the scale |
//! | 2..6 | `qh: u32` | the fifth bits: bit `i` belongs to value `i` |
//! | 6..22 | `qs: [u8; 16]` | the low four bits, two values a byte as in `Q4_0` |

use half::f16;

const VALUES: usize = 32;
const BYTES: usize = 22;

/// Decodes whole blocks; the caller has checked the lengths.
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (values, _) = out.as_chunks_mut::<VALUES>();
    for (block, values) in blocks.iter().zip(values) {
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        let codes = five_bits([block[2], block[3], block[4], block[5]], &block[6..]);
        for (value, q) in values.iter_mut().zip(codes) {
            *value = (f32::from(q) - 16.0) * scale;
        }
    }
}

/// The codes 0 to 31 of a block of `Q5_0` or `Q5_1`, in the order of the values.
pub(super) fn five_bits(high: [u8; 4], nibbles: &[u8]) -> [u8; VALUES] {
    let high = u32::from_le_bytes(high);
    let mut codes = [0; VALUES];
    let (first, second) = codes.split_at_mut(VALUES / 2);
    for (i, ((first, second), &q)) in first.iter_mut().zip(second).zip(nibbles).enumerate() {
        *first = (q & 0x0f) | ((high >> i) as u8 & 1) << 4;
        *second = (q >> 4) | ((high >> (i + 16)) as u8 & 1) << 4;
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal_block() {
        let mut block = [0u8; BYTES];
        block[..2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        block[2..6].copy_from_slice(&(1u32 | 1 << 15 | 1 << 16 | 1 << 31).to_le_bytes());
        block[6] = 0x21;
        block[21] = 0xf0;
        let mut out = [9.0; VALUES];
        decode(&block, &mut out);
        assert_eq!(out[..2], [0.5, -8.0]);
        assert_eq!(out[14..18], [-8.0, 0.0, 1.0, -8.0]);
        assert_eq!(out[30..], [-8.0, 7.5]);
    }
}
