//! `IQ2_XXS`: blocks of 256 values in 66 bytes, 8 groups of 32;
//! `value = (d * (scale + 0.5) / 4) * ±magnitude` (ggml `block_iq2_xxs`, `dequantize_row_iq2_xxs`).
//!
//! | bytes | field | holds |
//! | --- | --- | --- |
//! | 0..2 | `d: f16` | what scales are multiples of |
//! | 2..66 | `qs: [u16; 32]` | 8 bytes a group: four points of the grid, then a word |
//!
//! The word has the signs of each point in seven bits, the first point in the lowest, and the scale
//! in the highest four. All products are exact in f32.

use half::f16;

use super::grids::{self, even_signs, signed};

const VALUES: usize = 256;
const BYTES: usize = 66;
const GROUP: usize = 32;

/// Decodes whole blocks; the caller has checked the lengths.
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (values, _) = out.as_chunks_mut::<VALUES>();
    for (block, values) in blocks.iter().zip(values) {
        let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
        let (codes, _) = block[2..].as_chunks::<8>();
        let (groups, _) = values.as_chunks_mut::<GROUP>();
        for (values, &[a, b, c, e, w, x, y, z]) in groups.iter_mut().zip(codes) {
            let word = u32::from_le_bytes([w, x, y, z]);
            let scale = d * (0.5 + (word >> 28) as f32) * 0.25;
            for (i, (values, point)) in values.chunks_exact_mut(8).zip([a, b, c, e]).enumerate() {
                let signs = even_signs((word >> (7 * i)) as u8);
                signed(scale, &grids::IQ2_XXS[usize::from(point)], signs, values);
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
        block[3] = 1; // the second point of group 0: 43 and seven 8
        block[6..10].copy_from_slice(&(0x1000_0000u32 | 0b11 << 7).to_le_bytes());
        block[65] = 0xf0; // the scale of group 7: 15
        block[62] = 0x01; // the signs of its first point: the first and the last
        let mut out = [9.0; VALUES];
        decode(&block, &mut out);
        assert_eq!(out[7..11], [6.0, -32.25, -6.0, 6.0]); // 2 * 1.5 / 4 * 8
        assert_eq!(out[32], 2.0); // 2 * 0.5 / 4 * 8
        assert_eq!((out[224], out[225], out[231]), (-62.0, 62.0, -62.0)); // 2 * 15.5 / 4 * 8
    }
}
