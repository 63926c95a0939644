//! `TQ1_0`: blocks of 256 values in 54 bytes; `value = d * (q - 1)` with `q` of 0, 1 or 2
//! (ggml `block_tq1_0`, `dequantize_row_tq1_0`).
//!
//! | bytes | field | holds |
//! | --- | --- | --- |
//! | 0..48 | `qs: [u8; 48]` | five ternary digits a byte |
//! | 48..52 | `qh: [u8; 4]` | four ternary digits a byte |
//! | 52..54 | `d: f16` | the scale |
//!
//! The traps: a byte is the fraction `digits / 243` in 256ths, so that a digit is the carry of a
//! multiplication by three; digit `n` of a run of bytes belongs to plane `n` of its values. The runs
//! are the first 32 bytes (160 values), the next 16 (80 values) and the last four (16 values).

use half::f16;

const VALUES: usize = 256;
const BYTES: usize = 54;
/// Powers of three: what brings digit `n` to the front.
const POWERS: [u8; 5] = [1, 3, 9, 27, 81];

/// Decodes whole blocks; the caller has checked the lengths.
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let (values, _) = out.as_chunks_mut::<VALUES>();
    for (block, values) in blocks.iter().zip(values) {
        let d = f16::from_le_bytes([block[52], block[53]]).to_f32();
        let (first, rest) = values.split_at_mut(160);
        let (second, third) = rest.split_at_mut(80);
        for (codes, values) in
            [(&block[..32], first), (&block[32..48], second), (&block[48..52], third)]
        {
            for (values, power) in values.chunks_exact_mut(codes.len()).zip(POWERS) {
                for (value, &code) in values.iter_mut().zip(codes) {
                    let digit = (u16::from(code.wrapping_mul(power)) * 3) >> 8;
                    *value = (f32::from(digit) - 1.0) * d;
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // these values are exact
mod tests {
    use super::*;

    /// The byte whose first digits are these.
    fn byte(digits: [u16; 5]) -> u8 {
        let number = digits.iter().fold(0, |number, digit| 3 * number + digit);
        ((number * 256).div_ceil(243)) as u8
    }

    #[test]
    fn literal_block() {
        let mut block = [byte([1; 5]); BYTES];
        block[0] = byte([0, 1, 2, 0, 2]);
        block[47] = byte([2, 1, 1, 1, 0]);
        block[51] = byte([2, 1, 0, 2, 0]);
        block[52..].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        let mut out = [9.0; VALUES];
        decode(&block, &mut out);
        assert_eq!([0, 32, 64, 96, 128].map(|i| out[i]), [-0.5, 0.0, 0.5, -0.5, 0.5]);
        assert_eq!([175, 191, 239].map(|i| out[i]), [0.5, 0.0, -0.5]);
        assert_eq!([243, 247, 251, 255].map(|i| out[i]), [0.5, 0.0, -0.5, 0.5]);
        assert_eq!(out.iter().filter(|value| **value == 0.0).count(), VALUES - 9);
    }
}
