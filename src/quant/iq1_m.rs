//! `IQ1_M`: blocks of 256 values in 56 bytes, 16 groups of 16;
//! `value = (d * (2 * scale + 1)) * (point ± 1/8)` (ggml `block_iq1_m`, `dequantize_row_iq1_m`).
//!
//! | bytes | field | holds |
//! | --- | --- | --- |
//! | 0..32 | `qs: [u8; 32]` | the low eight bits of a point of the grid for each 8 values |
//! | 32..48 | `qh: [u8; 16]` | a nibble for each 8 values, the first low: the high three bits of the point, and whether 1/8 is subtracted |
//! | 48..56 | `scales: [u16; 4]` | four scales of three bits each, the first lowest |
//!
//! The trap: `d` is an f16 in four parts, the highest nibbles of the four `scales`, the lowest part
//! first. The points are those of `IQ1_S`. All products are exact in f32.

use half::f16;

use super::iq1_s::shifted;

const VALUES: usize = 256;
const BYTES: usize = 56;
const SCALES: usize = 48;

/// Decodes whole blocks; the caller has checked the lengths.
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (values, _) = out.as_chunks_mut::<VALUES>();
    for (block, values) in blocks.iter().zip(values) {
        let words: [u16; 4] = std::array::from_fn(|i| {
            u16::from_le_bytes([block[SCALES + 2 * i], block[SCALES + 2 * i + 1]])
        });
        let d = words.iter().rev().fold(0, |d, word| d << 4 | word >> 12);
        let d = f16::from_bits(d).to_f32();
        let (eights, _) = values.as_chunks_mut::<8>();
        for (i, (values, &low)) in eights.iter_mut().zip(&block[..32]).enumerate() {
            let scale = (words[i / 8] >> (3 * (i / 2 % 4))) & 7;
            let high = block[32 + i / 2] >> (4 * (i % 2));
            let point = usize::from(low) | usize::from(high & 7) << 8;
            shifted(d * f32::from(2 * scale + 1), point, high & 8 != 0, values);
        }
    }
}

/// Writes `d` into a block.
pub(super) fn set_scale(block: &mut [u8], d: f16) {
    for i in 0..4 {
        let byte = &mut block[SCALES + 2 * i + 1];
        *byte = (*byte & 0x0f) | ((d.to_bits() >> (4 * i)) as u8) << 4;
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // these values are exact
mod tests {
    use super::*;

    #[test]
    fn literal_block() {
        let mut block = [0u8; BYTES];
        block[1] = 1; // values 8..16: 1 and seven -1
        block[31] = 0xff; // values 248..256, with the bits below: 1
        block[32] = 0x80;
        block[47] = 0x70;
        block[48] = 1; // the scale of values 0..16
        block[55] = 7 << 1; // and of values 240..256
        set_scale(&mut block, f16::from_f32(2.0));
        let mut out = [9.0; VALUES];
        decode(&block, &mut out);
        assert_eq!(out[7..10], [-5.25, 5.25, -6.75]); // 2 * 3 * (±1 ± 1/8)
        assert_eq!(out[16], -1.75); // 2 * (-1 + 1/8)
        assert_eq!((out[247], out[248], out[255]), (-26.25, 33.75, 33.75));
    }

    #[test]
    fn the_scale_is_spread_over_four_words() {
        let mut block = [0xffu8; BYTES];
        set_scale(&mut block, f16::from_bits(0x1234));
        assert_eq!(block[SCALES..], [0xff, 0x4f, 0xff, 0x3f, 0xff, 0x2f, 0xff, 0x1f]);
    }
}
