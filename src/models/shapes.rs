//! The configurations of well-known models, for timing them with random weights
//! ([`Checkpoint::random`](crate::formats::Checkpoint::random)).

use serde_json::{Value, json};

/// The names that [`shape`] knows.
pub const SHAPES: [&str; 4] = ["smollm2-135m", "llama-3.2-1b", "llama-3.2-3b", "llama-3-8b"];

/// A configuration in Hugging Face's shape, of what decides about speed: widths, heads, layers and
/// the vocabulary, as in each model's published `config.json`.
pub fn shape(name: &str) -> Option<Value> {
    let llama = |hidden, intermediate, layers, heads, kv_heads| {
        json!({
            "model_type": "llama", "hidden_size": hidden, "intermediate_size": intermediate,
            "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": kv_heads, "vocab_size": 128_256, "tie_word_embeddings": true,
            "max_position_embeddings": 131_072, "rope_theta": 500_000.0, "rms_norm_eps": 1e-5,
        })
    };
    let mut config = match name {
        "smollm2-135m" => llama(576, 1536, 30, 9, 3),
        "llama-3.2-1b" => llama(2048, 8192, 16, 32, 8),
        "llama-3.2-3b" => llama(3072, 8192, 28, 24, 8),
        "llama-3-8b" => llama(4096, 14_336, 32, 32, 8),
        _ => return None,
    };
    let differs = match name {
        "smollm2-135m" => json!({"vocab_size": 49_152, "max_position_embeddings": 8192,
                                 "rope_theta": 100_000.0}),
        "llama-3-8b" => json!({"tie_word_embeddings": false}),
        _ => json!({}),
    };
    if let (Some(config), Value::Object(differs)) = (config.as_object_mut(), differs) {
        config.extend(differs);
    }
    Some(config)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::models::DecoderConfig;

    #[test]
    fn every_shape_is_a_configuration() {
        for name in SHAPES {
            let config = shape(name).expect("a shape");
            let config = DecoderConfig::from_json(&config, Path::new(name)).expect("valid");
            assert_eq!(config.hidden, config.heads * config.head_dim, "{name}");
        }
        assert!(shape("llama-9").is_none());
    }
}
