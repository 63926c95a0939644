//! `IQ2_S`: blocks of 256 values in 82 bytes, 16 groups of 16;
//! `value = (d * (scale + 0.5) / 4) * ±magnitude` (ggml `block_iq2_s`, `dequantize_row_iq2_s`).
//!
//! | bytes | field | holds |
//! | --- | --- | --- |
//! | 0..2 | `d: f16` | what scales are multiples of |
//! | 2..34 | `qs: [u8; 32]` | the low eight bits of a point of the grid for each 8 values |
//! | 34..66 | signs | a bit a value |
//! | 66..74 | `qh: [u8; 8]` | the high two bits of the points, four to a byte, the first lowest |
//! | 74..82 | `scales: [u8; 8]` | 16 scales of four bits, the even group in the low nibble |
//!
//! All products are exact in f32.

use half::f16;

use super::grids::{self, signed};
use super::iq2_xs::group_scales;

const VALUES: usize = 256;
const BYTES: usize = 82;

/// Decodes whole blocks; the caller has checked the lengths.
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (values, _) = out.as_chunks_mut::<VALUES>();
    for (block, values) in blocks.iter().zip(values) {
        let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
        let (low, signs, high) = (&block[2..34], &block[34..66], &block[66..74]);
        let scales = group_scales(d, &block[74..]);
        let (eights, _) = values.as_chunks_mut::<8>();
        for (i, (values, (&low, &signs))) in
            eights.iter_mut().zip(low.iter().zip(signs)).enumerate()
        {
            let high = (high[i / 4] >> (2 * (i % 4))) & 3;
            let point = usize::from(low) | usize::from(high) << 8;
            signed(scales[i / 2], &grids::IQ2_S[point], signs, values);
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
        block[3] = 1; // values 8..16
        block[33] = 0xff; // values 248..256: point 1023, with the bits below
        block[35] = 0b1000_0001;
        block[73] = 0b1100_0000;
        block[74] = 0x21; // groups 0 and 1
        block[81] = 0xf0; // groups 14 and 15
        let mut out = [9.0; VALUES];
        decode(&block, &mut out);
        assert_eq!(out[7..10], [6.0, -32.25, 6.0]); // 2 * 1.5 / 4
        assert_eq!((out[15], out[16]), (-6.0, 10.0));
        assert_eq!((out[247], out[248], out[255]), (62.0, 333.25, 333.25));
    }
}
