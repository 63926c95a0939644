//! `IQ2_XS`: blocks of 256 values in 74 bytes, 16 groups of 16;
//! `value = (d * (scale + 0.5) / 4) * ±magnitude` (ggml `block_iq2_xs`, `dequantize_row_iq2_xs`).
//!
//! | bytes | field | holds |
//! | --- | --- | --- |
//! | 0..2 | `d: f16` | what scales are multiples of |
//! | 2..66 | `qs: [u16; 32]` | 8 values each: a point of the grid in nine bits, signs in seven |
//! | 66..74 | `scales: [u8; 8]` | 16 scales of four bits, the even group in the low nibble |
//!
//! All products are exact in f32.

use half::f16;

use super::grids::{self, even_signs, signed};

const VALUES: usize = 256;
const BYTES: usize = 74;

/// Decodes whole blocks; the caller has checked the lengths.
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (values, _) = out.as_chunks_mut::<VALUES>();
    for (block, values) in blocks.iter().zip(values) {
        let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
        let (codes, _) = block[2..66].as_chunks::<2>();
        let scales = group_scales(d, &block[66..]);
        let (eights, _) = values.as_chunks_mut::<8>();
        for (i, (values, &code)) in eights.iter_mut().zip(codes).enumerate() {
            let code = u16::from_le_bytes(code);
            let signs = even_signs((code >> 9) as u8);
            signed(scales[i / 2], &grids::IQ2_XS[usize::from(code & 0x1ff)], signs, values);
        }
    }
}

/// What the 16 groups of a block of `IQ2_XS` or `IQ2_S` are multiplied with.
pub(super) fn group_scales(d: f32, packed: &[u8]) -> [f32; 16] {
    std::array::from_fn(|i| {
        let scale = (packed[i / 2] >> (4 * (i % 2))) & 0x0f;
        d * (0.5 + f32::from(scale)) * 0.25
    })
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // these values are exact
mod tests {
    use super::*;

    #[test]
    fn literal_block() {
        let mut block = [0u8; BYTES];
        block[..2].copy_from_slice(&f16::from_f32(2.0).to_le_bytes());
        block[4..6].copy_from_slice(&(1u16 | 0b10 << 9).to_le_bytes()); // values 8..16
        block[64..66].copy_from_slice(&511u16.to_le_bytes()); // values 248..256: 43
        block[66] = 0x21; // groups 0 and 1
        block[73] = 0xf0; // groups 14 and 15
        let mut out = [9.0; VALUES];
        decode(&block, &mut out);
        assert_eq!(out[7..11], [6.0, 32.25, -6.0, 6.0]); // 2 * 1.5 / 4
        assert_eq!((out[15], out[16]), (-6.0, 10.0));
        assert_eq!((out[239], out[240], out[255]), (2.0, 62.0, 333.25));
    }
}
