//! `TQ2_0`: blocks of 256 values in 66 bytes; `value = d * (q - 1)`
//! (ggml `block_tq2_0`, `dequantize_row_tq2_0`).
//!
//! | bytes | field | holds |
//! | --- | --- | --- |
//! | 0..64 | `qs: [u8; 64]` | codes of two bits, in planes as in `Q2_K` |
//! | 64..66 | `d: f16` | the scale |

use half::f16;

const VALUES: usize = 256;
const BYTES: usize = 66;
/// Values in a plane.
const PLANE: usize = 32;

/// Decodes whole blocks; the caller has checked the lengths.
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (values, _) = out.as_chunks_mut::<VALUES>();
    for (block, values) in blocks.iter().zip(values) {
        let d = f16::from_le_bytes([block[64], block[65]]).to_f32();
        let (codes, _) = block[..64].as_chunks::<PLANE>();
        let (planes, _) = values.as_chunks_mut::<PLANE>();
        for (i, values) in planes.iter_mut().enumerate() {
            for (value, &q) in values.iter_mut().zip(&codes[i / 4]) {
                *value = (f32::from((q >> (2 * (i % 4))) & 3) - 1.0) * d;
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
        let mut block = [0b01_01_01_01u8; BYTES];
        block[0] = 0b00_01_10_00; // values 0, 32, 64, 96
        block[63] = 0b11_01_01_01; // value 255: a code that no quantiser writes
        block[64..].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        let mut out = [9.0; VALUES];
        decode(&block, &mut out);
        assert_eq!([0, 32, 64, 96].map(|i| out[i]), [-0.5, 0.5, 0.0, -0.5]);
        assert_eq!((out[127], out[128], out[255]), (0.0, 0.0, 1.0));
    }
}
