//! `MXFP4`: blocks of 32 values in 17 bytes, `{ e: u8, qs: [u8; 16] }`;
//! `value = 2^(e - 127) * e2m1` (OCP Microscaling Formats 1.0; ggml `block_mxfp4`,
//! `dequantize_row_mxfp4`).
//!
//! The traps: byte `j` holds value `j` in its low nibble and value `j + 16` in its high one; the
//! levels are kept as twice the numbers of the standard, which are whole, and the scale as half.
//! There is no minus zero.

const VALUES: usize = 32;
const BYTES: usize = 17;
/// Twice what the codes stand for (`E2M1`: a sign, two bits of exponent, one of mantissa).
const LEVELS: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Decodes whole blocks; the caller has checked the lengths.
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (values, _) = out.as_chunks_mut::<VALUES>();
    for (block, values) in blocks.iter().zip(values) {
        decode_codes(half_scale(block[0]), &block[1..], values);
    }
}

/// `scale` times twice the level of each code: those in the low nibbles, then those in the high ones.
pub(super) fn decode_codes(scale: f32, codes: &[u8], values: &mut [f32]) {
    let (low, high) = values.split_at_mut(codes.len());
    for ((low, high), &q) in low.iter_mut().zip(high).zip(codes) {
        *low = scale * f32::from(LEVELS[usize::from(q & 0x0f)]);
        *high = scale * f32::from(LEVELS[usize::from(q >> 4)]);
    }
}

/// `2^(e - 128)`.
fn half_scale(e: u8) -> f32 {
    f32::from_bits(match e {
        // Too small for a normal number.
        0 | 1 => 0x0020_0000 << e,
        _ => u32::from(e - 1) << 23,
    })
}

/// Writes the power of two that is nearest to `scale` (which decoded codes are multiplied with) into
/// a block.
pub(super) fn set_scale(block: &mut [u8], scale: f32) {
    block[0] = (scale.log2().round() + 128.0).clamp(0.0, 254.0) as u8;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal_block() {
        let mut block = [0x80u8; BYTES];
        block[0] = 128; // twice the standard's numbers
        block[1] = 0x71;
        block[16] = 0xf6;
        let mut out = [9.0; VALUES];
        decode(&block, &mut out);
        assert_eq!((out[0], out[16]), (1.0, 12.0));
        assert_eq!((out[15], out[31]), (8.0, -12.0));
        assert_eq!([out[1].to_bits(), out[17].to_bits()], [0, 0]);
    }

    #[test]
    fn scales_are_powers_of_two() {
        let [a, b, c, one, large] = [0, 1, 2, 128, 254].map(half_scale);
        assert_eq!(
            (4.0 * a, 2.0 * b, c),
            (f32::MIN_POSITIVE, f32::MIN_POSITIVE, f32::MIN_POSITIVE)
        );
        assert_eq!((one, large), (1.0, 2f32.powi(126)));
        let mut block = [0; BYTES];
        for (scale, nearest) in [(1.0, 1.0), (0.3, 0.25), (3.0, 4.0), (1.0 / 1024.0, 1.0 / 1024.0)]
        {
            set_scale(&mut block, scale);
            assert_eq!(half_scale(block[0]).to_bits(), f32::to_bits(nearest));
        }
    }
}
