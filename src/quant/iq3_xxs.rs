//! `IQ3_XXS`: blocks of 256 values in 98 bytes, 8 groups of 32;
//! `value = (d * (scale + 0.5) / 2) * ±magnitude` (ggml `block_iq3_xxs`, `dequantize_row_iq3_xxs`).
//!
//! | bytes | field | holds |
//! | --- | --- | --- |
//! | 0..2 | `d: f16` | what scales are multiples of |
//! | 2..66 | `qs: [u8; 64]` | a point of the grid for each 4 values |
//! | 66..98 | `[u32; 8]` | for each group, signs and the scale as in `IQ2_XXS` |
//!
//! All products are exact in f32.

use half::f16;

use super::grids::{self, even_signs, signed};

const VALUES: usize = 256;
const BYTES: usize = 98;
const GROUP: usize = 32;

/// Decodes whole blocks; the caller has checked the lengths.
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (values, _) = out.as_chunks_mut::<VALUES>();
    for (block, values) in blocks.iter().zip(values) {
        let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
        let (points, _) = block[2..66].as_chunks::<8>();
        let (words, _) = block[66..].as_chunks::<4>();
        let (groups, _) = values.as_chunks_mut::<GROUP>();
        for (values, (points, &word)) in groups.iter_mut().zip(points.iter().zip(words)) {
            let word = u32::from_le_bytes(word);
            let scale = d * (0.5 + (word >> 28) as f32) * 0.5;
            for (i, (values, &point)) in values.chunks_exact_mut(4).zip(points).enumerate() {
                let signs = even_signs((word >> (7 * (i / 2))) as u8) >> (4 * (i % 2));
                signed(scale, &grids::IQ3_XXS[usize::from(point)], signs, values);
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
        block[..2].copy_from_slice(&f16::from_f32(2.0).to_le_bytes());
        block[3] = 1; // values 4..8: 20 and three 4
        block[65] = 0xff; // values 252..256: 4, 28, 52, 62
        block[66..70].copy_from_slice(&(0x1000_0000u32 | 0b001_0000).to_le_bytes());
        block[94..].copy_from_slice(&(0xf000_0000u32 | 0b100_0000 << 21).to_le_bytes());
        let mut out = [9.0; VALUES];
        decode(&block, &mut out);
        assert_eq!(out[3..8], [6.0, -30.0, 6.0, 6.0, -6.0]); // 2 * 1.5 / 2
        assert_eq!(out[32], 2.0);
        assert_eq!(out[252..], [62.0, 434.0, -806.0, -961.0]); // 2 * 15.5 / 2
    }
}
