//! Plain little-endian floats: f32, f16 and bf16.
//!
//! Bytes come from files and may lie at any address, so values are read with `from_le_bytes`
//! (which compiles to vector loads) and converted a stack buffer at a time; `half` uses the
//! processor's f16 conversion where it has one.

use super::Encoding;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

const CHUNK: usize = 256;

/// Decodes f32 values; the caller has checked the lengths.
pub(super) fn decode_f32(bytes: &[u8], out: &mut [f32]) {
    let (words, _) = bytes.as_chunks::<4>();
    for (value, &word) in out.iter_mut().zip(words) {
        *value = f32::from_le_bytes(word);
    }
}

/// Decodes f16 values to f32; the caller has checked the lengths.
pub(super) fn decode_f16(bytes: &[u8], out: &mut [f32]) {
    let mut buffer = [f16::ZERO; CHUNK];
    for (bytes, out) in bytes.chunks(2 * CHUNK).zip(out.chunks_mut(CHUNK)) {
        let buffer = &mut buffer[..out.len()];
        copy_f16(bytes, buffer);
        buffer.convert_to_f32_slice(out);
    }
}

/// Decodes bf16 values to f32; the caller has checked the lengths.
pub(super) fn decode_bf16(bytes: &[u8], out: &mut [f32]) {
    let (words, _) = bytes.as_chunks::<2>();
    for (value, &word) in out.iter_mut().zip(words) {
        // Not `bf16::to_f32`: that branches on NaN, and ggml keeps a NaN's bits.
        *value = f32::from_bits(u32::from(bf16::from_le_bytes(word).to_bits()) << 16);
    }
}

/// Copies f16 values bit for bit; the caller has checked the lengths.
pub(super) fn copy_f16(bytes: &[u8], out: &mut [f16]) {
    let (words, _) = bytes.as_chunks::<2>();
    for (value, &word) in out.iter_mut().zip(words) {
        *value = f16::from_le_bytes(word);
    }
}

/// The stored bytes of `values`, rounded to nearest even; `None` for formats of blocks.
pub fn encode_floats(encoding: Encoding, values: &[f32]) -> Option<Vec<u8>> {
    let values = values.iter();
    Some(match encoding {
        Encoding::F32 => values.flat_map(|v| v.to_le_bytes()).collect(),
        Encoding::F16 => values.flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        Encoding::BF16 => values.flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal_values_at_an_odd_address() {
        let bytes = [0xaau8, 0x00, 0x00, 0x80, 0x3f, 0x00, 0x00, 0x00, 0xc0];
        let mut out = [0.0; 2];
        decode_f32(&bytes[1..], &mut out);
        assert_eq!(out[..], [1.0, -2.0]);

        let bytes = [0xaau8, 0x00, 0x3c, 0x01, 0x00, 0xff, 0x7b];
        let mut out = [0.0; 3];
        decode_f16(&bytes[1..], &mut out);
        assert_eq!(out[..], [1.0, 2.0f32.powi(-24), 65504.0]);

        let bytes = [0xaau8, 0x80, 0x3f, 0x49, 0xc0];
        let mut out = [0.0; 2];
        decode_bf16(&bytes[1..], &mut out);
        assert_eq!(out[..], [1.0, -3.140_625]);
    }

    #[test]
    fn f16_is_converted_past_one_chunk() {
        let values: Vec<f16> = (0..600u16).map(|i| f16::from_f32(f32::from(i))).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let mut out = vec![0.0; 600];
        decode_f16(&bytes, &mut out);
        assert!(values.iter().zip(&out).all(|(a, b)| a.to_f32().to_bits() == b.to_bits()));
    }
    #[test]
    fn what_is_encoded_decodes_to_the_nearest() {
        let values = [0.0f32, -1.5, 1.0 / 3.0, 65504.0, f32::NEG_INFINITY];
        for (encoding, third) in [
            (Encoding::F32, 1.0 / 3.0),
            (Encoding::F16, 0.333_251_95),
            (Encoding::BF16, 0.333_984_38),
        ] {
            let bytes = encode_floats(encoding, &values).unwrap();
            let mut out = [0.0; 5];
            crate::quant::dequantize(encoding, &bytes, &mut out).unwrap();
            let bits = |values: [f32; 4]| values.map(f32::to_bits);
            let want = [0.0, -1.5, third, f32::NEG_INFINITY];
            assert_eq!(bits([out[0], out[1], out[2], out[4]]), bits(want));
        }
        assert_eq!(encode_floats(Encoding::Q8_0, &[0.0; 32]), None);
    }
}
