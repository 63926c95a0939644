//! `IQ1_S`: blocks of 256 values in 50 bytes, 8 groups of 32;
//! `value = (d * (2 * scale + 1)) * (point ± 1/8)` (ggml `block_iq1_s`, `dequantize_row_iq1_s`).
//!
//! | bytes | field | holds |
//! | --- | --- | --- |
//! | 0..2 | `d: f16` | what scales are multiples of |
//! | 2..34 | `qs: [u8; 32]` | the low eight bits of a point of the grid for each 8 values |
//! | 34..50 | `qh: [u16; 8]` | for each group, from the lowest bit: the high three bits of its four points, the scale in three bits, and whether 1/8 is subtracted |
//!
//! The points are of -1, 0 and 1. All products are exact in f32.

use half::f16;

use super::grids;

const VALUES: usize = 256;
const BYTES: usize = 50;

/// Decodes whole blocks; the caller has checked the lengths.
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (values, _) = out.as_chunks_mut::<VALUES>();
    for (block, values) in blocks.iter().zip(values) {
        let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
        let (words, _) = block[34..].as_chunks::<2>();
        let (eights, _) = values.as_chunks_mut::<8>();
        for (i, (values, &low)) in eights.iter_mut().zip(&block[2..34]).enumerate() {
            let word = u16::from_le_bytes(words[i / 4]);
            let scale = d * f32::from(2 * ((word >> 12) & 7) + 1);
            let point = usize::from(low) | usize::from((word >> (3 * (i % 4))) & 7) << 8;
            shifted(scale, point, word & 0x8000 != 0, values);
        }
    }
}

/// `scale * (point + 1/8)`, or `- 1/8`.
#[inline]
pub(super) fn shifted(scale: f32, point: usize, down: bool, values: &mut [f32; 8]) {
    // The table's values are one more than the point's.
    let shift = if down { -1.125 } else { -0.875 };
    for (value, &point) in values.iter_mut().zip(&grids::IQ1[point]) {
        *value = scale * (f32::from(point) + shift);
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
        block[3] = 1; // values 8..16: 1 and seven -1
        block[33] = 0xff; // values 248..256, with the bits below: 1
        block[34..36].copy_from_slice(&(0x8000u16 | 1 << 12).to_le_bytes());
        block[48..].copy_from_slice(&(7u16 << 12 | 7 << 9).to_le_bytes());
        let mut out = [9.0; VALUES];
        decode(&block, &mut out);
        assert_eq!(out[7..10], [-6.75, 5.25, -6.75]); // 2 * 3 * (±1 - 1/8)
        assert_eq!(out[32], -1.75); // 2 * (-1 + 1/8)
        assert_eq!((out[247], out[248], out[255]), (-26.25, 33.75, 33.75));
    }
}
