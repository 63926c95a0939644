//! Any format to f32 or f16: checks lengths, splits the work over threads, picks the format's loop.

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::{
    Encoding, QuantError, float, iq1_m, iq1_s, iq2_s, iq2_xs, iq2_xxs, iq3_s, iq3_xxs, iq4_nl,
    iq4_xs, mxfp4, nvfp4, q2_k, q3_k, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0, tq1_0, tq2_0,
};

/// Values a thread decodes at a time: a multiple of every block, small enough to stay in cache.
const TASK: usize = 16 * 1024;
/// Values held in f32 on the way to f16; a multiple of every block.
const STAGE: usize = 256;

/// Decodes `bytes` to f32, bit-equal to ggml.
///
/// `bytes` may lie at any address. Large slices are shared among rayon's threads.
///
/// # Errors
/// [`QuantError`] when `out` is not whole blocks or `bytes` has not exactly the bytes for it.
pub fn dequantize(encoding: Encoding, bytes: &[u8], out: &mut [f32]) -> Result<(), QuantError> {
    check(encoding, bytes, out.len())?;
    split(encoding, bytes, out, |bytes, out| {
        to_f32(encoding, bytes, out);
    });
    Ok(())
}

/// Decodes `bytes` to f16: f16 passes through bit for bit, other values are rounded from f32.
///
/// Never holds more than a few hundred values in f32. Values beyond f16's range become infinite.
///
/// # Errors
/// As [`dequantize`].
pub fn dequantize_f16(encoding: Encoding, bytes: &[u8], out: &mut [f16]) -> Result<(), QuantError> {
    check(encoding, bytes, out.len())?;
    split(encoding, bytes, out, |bytes, out| {
        to_f16(encoding, bytes, out);
    });
    Ok(())
}

fn check(encoding: Encoding, bytes: &[u8], elements: usize) -> Result<(), QuantError> {
    let expected =
        encoding.bytes_for(elements).ok_or(QuantError::PartialBlock { encoding, elements })?;
    if bytes.len() == expected {
        Ok(())
    } else {
        Err(QuantError::Length { encoding, elements, expected, found: bytes.len() })
    }
}

fn split<T: Send>(
    encoding: Encoding,
    bytes: &[u8],
    out: &mut [T],
    decode: impl Fn(&[u8], &mut [T]) + Sync,
) {
    if out.len() <= 2 * TASK {
        decode(bytes, out);
        return;
    }
    let task_bytes = TASK / encoding.block_len() * encoding.block_bytes();
    out.par_chunks_mut(TASK)
        .zip(bytes.par_chunks(task_bytes))
        .for_each(|(out, bytes)| decode(bytes, out));
}

fn to_f32(encoding: Encoding, bytes: &[u8], out: &mut [f32]) {
    match encoding {
        Encoding::F32 => float::decode_f32(bytes, out),
        Encoding::F16 => float::decode_f16(bytes, out),
        Encoding::BF16 => float::decode_bf16(bytes, out),
        Encoding::Q8_0 => q8_0::decode(bytes, out),
        Encoding::Q4_0 => q4_0::decode(bytes, out),
        Encoding::Q4_1 => q4_1::decode(bytes, out),
        Encoding::Q5_0 => q5_0::decode(bytes, out),
        Encoding::Q5_1 => q5_1::decode(bytes, out),
        Encoding::Q2_K => q2_k::decode(bytes, out),
        Encoding::Q3_K => q3_k::decode(bytes, out),
        Encoding::Q4_K => q4_k::decode(bytes, out),
        Encoding::Q5_K => q5_k::decode(bytes, out),
        Encoding::Q6_K => q6_k::decode(bytes, out),
        Encoding::IQ4_NL => iq4_nl::decode(bytes, out),
        Encoding::IQ4_XS => iq4_xs::decode(bytes, out),
        Encoding::IQ2_XXS => iq2_xxs::decode(bytes, out),
        Encoding::IQ2_XS => iq2_xs::decode(bytes, out),
        Encoding::IQ2_S => iq2_s::decode(bytes, out),
        Encoding::IQ3_XXS => iq3_xxs::decode(bytes, out),
        Encoding::IQ3_S => iq3_s::decode(bytes, out),
        Encoding::IQ1_S => iq1_s::decode(bytes, out),
        Encoding::IQ1_M => iq1_m::decode(bytes, out),
        Encoding::TQ1_0 => tq1_0::decode(bytes, out),
        Encoding::TQ2_0 => tq2_0::decode(bytes, out),
        Encoding::MXFP4 => mxfp4::decode(bytes, out),
        Encoding::NVFP4 => nvfp4::decode(bytes, out),
    }
}

fn to_f16(encoding: Encoding, bytes: &[u8], out: &mut [f16]) {
    if encoding == Encoding::F16 {
        return float::copy_f16(bytes, out);
    }
    let stage_bytes = STAGE / encoding.block_len() * encoding.block_bytes();
    let mut stage = [0.0f32; STAGE];
    for (bytes, out) in bytes.chunks(stage_bytes).zip(out.chunks_mut(STAGE)) {
        let stage = &mut stage[..out.len()];
        to_f32(encoding, bytes, stage);
        out.convert_from_f32_slice(stage);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deterministic bytes whose f16 scales are finite, so that values compare as numbers.
    fn stored(encoding: Encoding, elements: usize) -> Vec<u8> {
        let bytes = encoding.bytes_for(elements).expect("whole blocks");
        (0..bytes).map(|i| (i * 37 % 59).to_le_bytes()[0]).collect()
    }

    #[test]
    fn lengths_are_checked() {
        assert_eq!(
            dequantize(Encoding::Q4_0, &[0; 18], &mut [0.0; 31]),
            Err(QuantError::PartialBlock { encoding: Encoding::Q4_0, elements: 31 })
        );
        let error = dequantize(Encoding::Q8_0, &[0; 33], &mut [0.0; 32]).unwrap_err();
        assert_eq!(error.to_string(), "Q8_0: expected 34 bytes for 32 values, found 33");
        assert!(dequantize_f16(Encoding::F32, &[0; 9], &mut [f16::ZERO; 2]).is_err());
        assert!(dequantize(Encoding::F32, &[], &mut []).is_ok());
    }

    #[test]
    fn every_block_format_refuses_odd_lengths() {
        for encoding in Encoding::ALL.into_iter().filter(|encoding| encoding.is_packed()) {
            let (len, block) = (encoding.block_len(), encoding.block_bytes());
            let bytes = vec![0; 2 * block + 1];
            let mut out = vec![0.0; 2 * len + 1];
            let mut decode = |found: usize, elements: usize| {
                dequantize(encoding, &bytes[..found], &mut out[..elements])
            };
            for elements in [1, len - 1, len + 1, 2 * len + 1] {
                let error = Err(QuantError::PartialBlock { encoding, elements });
                assert_eq!(decode(2 * block, elements), error);
            }
            for (found, elements) in
                [(0, len), (1, len), (block - 1, len), (block + 1, len), (block, 2 * len), (1, 0)]
            {
                let expected = elements / len * block;
                let error = Err(QuantError::Length { encoding, elements, expected, found });
                assert_eq!(decode(found, elements), error);
            }
            assert_eq!(decode(2 * block, 2 * len), Ok(()));
        }
    }

    #[test]
    fn threads_give_what_one_thread_gives() {
        let elements = 5 * TASK + 768;
        for encoding in Encoding::ALL {
            let bytes = stored(encoding, elements);
            let (mut one, mut many) = (vec![0.0; elements], vec![0.0; elements]);
            to_f32(encoding, &bytes, &mut one);
            dequantize(encoding, &bytes, &mut many).unwrap();
            let same = one.iter().zip(&many).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{encoding}");
        }
    }

    #[test]
    fn f16_is_the_rounded_f32() {
        let elements = 3 * TASK + 256;
        for encoding in Encoding::ALL {
            let bytes = stored(encoding, elements);
            let mut wide = vec![0.0; elements];
            let mut half = vec![f16::ZERO; elements];
            dequantize(encoding, &bytes, &mut wide).unwrap();
            dequantize_f16(encoding, &bytes, &mut half).unwrap();
            let same = wide.iter().zip(&half).all(|(a, b)| f16::from_f32(*a) == *b);
            assert!(same, "{encoding}");
        }
    }

    #[test]
    fn f16_passes_through_bit_for_bit() {
        let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let mut out = vec![f16::ZERO; 1 << 16];
        dequantize_f16(Encoding::F16, &all, &mut out).unwrap();
        assert!(out.iter().zip(0..=u16::MAX).all(|(value, bits)| value.to_bits() == bits));
    }
}
