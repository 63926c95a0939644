//! Decoding against ggml's values, bit for bit.

use half::f16;
use metal_candle::formats::SafetensorsFile;
use metal_candle::quant::{Encoding, dequantize, dequantize_f16};

use super::fixture;

#[test]
fn decodes_every_format_as_ggml_does() {
    let file = SafetensorsFile::open(&fixture("gguf/blocks.safetensors")).unwrap();
    let mut compared = Vec::new();
    for encoding in Encoding::ALL {
        for kind in ["quantised", "random"] {
            let prefix = format!("{}.{kind}", encoding.name());
            let Some(raw) = file.get(&format!("{prefix}.raw")) else {
                continue;
            };
            let expected = file.tensor(&format!("{prefix}.f32")).unwrap();
            let (expected, _) = expected.bytes.as_chunks::<4>();
            let mut values = vec![0.0; expected.len()];
            dequantize(encoding, raw.bytes, &mut values).unwrap();
            for (i, (value, &expected)) in values.iter().zip(expected).enumerate() {
                let expected = f32::from_le_bytes(expected);
                assert_eq!(value.to_bits(), expected.to_bits(), "{prefix}[{i}]");
            }

            let mut halves = vec![f16::ZERO; values.len()];
            dequantize_f16(encoding, raw.bytes, &mut halves).unwrap();
            for (half, value) in halves.iter().zip(&values) {
                assert_eq!(half.to_bits(), f16::from_f32(*value).to_bits(), "{prefix}");
            }
            compared.push(prefix);
        }
    }
    let expected = [
        "F32.quantised",
        "F16.quantised",
        "BF16.quantised",
        "Q8_0.quantised",
        "Q8_0.random",
        "Q4_0.quantised",
        "Q4_0.random",
        "Q4_1.quantised",
        "Q4_1.random",
        "Q5_0.quantised",
        "Q5_0.random",
        "Q5_1.quantised",
        "Q5_1.random",
        "Q2_K.quantised",
        "Q2_K.random",
        "Q3_K.quantised",
        "Q3_K.random",
        "Q4_K.quantised",
        "Q4_K.random",
        "Q5_K.quantised",
        "Q5_K.random",
        "Q6_K.quantised",
        "Q6_K.random",
        "IQ4_NL.quantised",
        "IQ4_NL.random",
        "IQ4_XS.quantised",
        "IQ4_XS.random",
    ];
    assert_eq!(compared, expected);
}
