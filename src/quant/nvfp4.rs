//! `NVFP4`: blocks of 64 values in 36 bytes, 4 groups of 16;
//! `value = scale * e2m1` (NVIDIA's format; ggml `block_nvfp4`, `dequantize_row_nvfp4`).
//!
//! | bytes | field | holds |
//! | --- | --- | --- |
//! | 0..4 | `d: [u8; 4]` | the scales of the groups: four bits of exponent, three of mantissa |
//! | 4..36 | `qs: [u8; 32]` | codes of four bits, 8 bytes a group |
//!
//! The traps: byte `j` of a group holds value `j` in its low nibble and value `j + 8` in its high
//! one. Levels and scales are kept doubled and halved as in `MXFP4`. The top bit of a scale means
//! nothing, and the code 0x7f is 0, not a NaN.

use super::mxfp4::decode_codes;

const VALUES: usize = 64;
const BYTES: usize = 36;
const GROUP: usize = 16;

/// Decodes whole blocks; the caller has checked the lengths.
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (values, _) = out.as_chunks_mut::<VALUES>();
    for (block, values) in blocks.iter().zip(values) {
        let (scales, codes) = block.split_at(4);
        let (codes, _) = codes.as_chunks::<{ GROUP / 2 }>();
        let (groups, _) = values.as_chunks_mut::<GROUP>();
        for (values, (&scale, codes)) in groups.iter_mut().zip(scales.iter().zip(codes)) {
            decode_codes(half_scale(scale), codes, values);
        }
    }
}

/// Half of what the scale `code` stands for (unsigned `E4M3` with a bias of 7).
fn half_scale(code: u8) -> f32 {
    if code == 0x7f {
        return 0.0;
    }
    let (exponent, mantissa) = (code >> 3 & 0x0f, code & 7);
    match exponent {
        // 2^-9 for each step, halved.
        0 => f32::from(mantissa) / 1024.0,
        _ => f32::from(8 + mantissa) / 8.0 * f32::from_bits((u32::from(exponent) + 119) << 23),
    }
}

/// Writes the number that is nearest to `scale` (which decoded codes are multiplied with) as the
/// scales of a block.
pub(super) fn set_scale(block: &mut [u8], scale: f32) {
    let distance = |&code: &u8| (half_scale(code) - scale).abs();
    let nearest = (0..0x7f).min_by(|a, b| distance(a).total_cmp(&distance(b)));
    block[..4].fill(nearest.unwrap_or(0));
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // these values are exact
mod tests {
    use super::*;

    #[test]
    fn literal_block() {
        let mut block = [0x80u8; BYTES];
        block[..4].copy_from_slice(&[0x40, 0x3c, 0x7f, 0x01]); // 2, 1.5, 0, 2^-9
        block[4] = 0x71; // values 0 and 8
        block[19] = 0xf6; // values 23 and 31
        block[20] = 0x11; // values 32 and 40
        block[35] = 0x17; // values 55 and 63
        let mut out = [9.0; VALUES];
        decode(&block, &mut out);
        assert_eq!((out[0], out[1], out[8]), (1.0, 0.0, 12.0));
        assert_eq!((out[23], out[31]), (6.0, -9.0));
        assert_eq!((out[32], out[40]), (0.0, 0.0));
        assert_eq!((out[55], out[63]), (12.0 / 1024.0, 1.0 / 1024.0));
    }

    #[test]
    fn the_nearest_scale_is_taken() {
        let mut block = [0xff; BYTES];
        for (scale, nearest) in
            [(1.0, 1.0), (1.05, 1.0), (1e9, 224.0), (1.0 / 1024.0, 1.0 / 1024.0)]
        {
            set_scale(&mut block, scale);
            assert_eq!(block[..4].iter().map(|&code| half_scale(code)).sum::<f32>(), 4.0 * nearest);
        }
        assert_eq!(block[4], 0xff);
    }
}
