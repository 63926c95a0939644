//! `IQ3_S`: blocks of 256 values in 110 bytes, 8 groups of 32;
//! `value = (d * (2 * scale + 1)) * ±magnitude` (ggml `block_iq3_s`, `dequantize_row_iq3_s`).
//!
//! | bytes | field | holds |
//! | --- | --- | --- |
//! | 0..2 | `d: f16` | what scales are multiples of |
//! | 2..66 | `qs: [u8; 64]` | the low eight bits of a point of the grid for each 4 values |
//! | 66..74 | `qh: [u8; 8]` | the ninth bits of the points, a byte a group, the first lowest |
//! | 74..106 | `signs: [u8; 32]` | a bit a value |
//! | 106..110 | `scales: [u8; 4]` | 8 scales of four bits, the even group in the low nibble |
//!
//! All products are exact in f32.

use half::f16;

use super::grids::{self, signed};

const VALUES: usize = 256;
const BYTES: usize = 110;
const GROUP: usize = 32;

/// Decodes whole blocks; the caller has checked the lengths.
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (values, _) = out.as_chunks_mut::<VALUES>();
    for (block, values) in blocks.iter().zip(values) {
        let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
        let (low, _) = block[2..66].as_chunks::<8>();
        let (signs, _) = block[74..106].as_chunks::<4>();
        let (groups, _) = values.as_chunks_mut::<GROUP>();
        for (g, (values, (low, signs))) in groups.iter_mut().zip(low.iter().zip(signs)).enumerate()
        {
            let (high, scale) = (block[66 + g], (block[106 + g / 2] >> (4 * (g % 2))) & 0x0f);
            let scale = d * f32::from(2 * scale + 1);
            for (i, (values, &low)) in values.chunks_exact_mut(4).zip(low).enumerate() {
                let point = usize::from(low) | usize::from((high >> i) & 1) << 8;
                signed(scale, &grids::IQ3_S[point], signs[i / 2] >> (4 * (i % 2)), values);
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
        let mut block = [0u8; BYTES];
        block[..2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        block[3] = 1; // values 4..8: 3, 1, 1, 1
        block[65] = 0xff; // values 252..256, with the bit below: 1, 1, 15, 15
        block[73] = 0b1000_0000;
        block[74] = 0b0001_0000; // value 4
        block[105] = 0b1000_0000; // value 255
        block[106] = 0x01; // group 0
        block[109] = 0xf0; // group 7
        let mut out = [9.0; VALUES];
        decode(&block, &mut out);
        assert_eq!(out[3..6], [1.5, -4.5, 1.5]);
        assert_eq!(out[32], 0.5);
        assert_eq!(out[251..], [15.5, 15.5, 15.5, 232.5, -232.5]);
    }
}
