//! Decoding against ggml's values, bit for bit.

use half::f16;
use metal_candle::formats::SafetensorsFile;
use metal_candle::quant::{Encoding, dequantize, dequantize_f16};
use serde_json::Value;

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
    // All 26, and everything that the file has of them.
    let described = std::fs::read(fixture("gguf/blocks.json")).unwrap();
    let described: Value = serde_json::from_slice(&described).unwrap();
    let mut expected = Vec::new();
    for (name, entry) in described["types"].as_object().unwrap() {
        for kind in ["quantised", "random"].iter().filter(|kind| entry.get(**kind).is_some()) {
            expected.push(format!("{name}.{kind}"));
        }
    }
    assert_eq!(expected.len(), 2 * 26 - 3, "plain floats have no random blocks");
    compared.sort();
    expected.sort();
    assert_eq!(compared, expected);
}
