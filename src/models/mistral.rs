//! Mistral (Jiang et al., 2023, <https://arxiv.org/abs/2310.06825>): a sliding window in every layer,
//! where the configuration has one. Its GGUF files are those of a Llama, without the window.

use serde_json::Value;

use super::{
    DecoderConfig, ModelError,
    config::{Keys, SlidingWindow},
};

/// The window of transformers' `MistralConfig` where `config.json` does not speak of it. A null
/// there means none.
const WINDOW: usize = 4096;

/// `MistralConfig` of transformers.
pub(super) fn config(keys: &Keys<'_>) -> Result<DecoderConfig, ModelError> {
    let size = match keys.value.get("sliding_window") {
        Some(Value::Null) => None,
        _ => Some(keys.positive_or("sliding_window", WINDOW)?),
    };
    let window = size.map(|size| SlidingWindow { size, first_layer: 0 });
    Ok(DecoderConfig { window, ..DecoderConfig::shared(keys)? })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_window_that_is_not_spoken_of_is_the_default() {
        let mut value = json!({"model_type": "mistral", "hidden_size": 64, "vocab_size": 512,
            "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4});
        let window = |value: &Value| {
            DecoderConfig::from_json(value, Path::new("config.json")).expect("valid").window
        };
        let of = |size| Some(SlidingWindow { size, first_layer: 0 });
        assert_eq!(window(&value), of(4096));
        value["sliding_window"] = json!(16);
        assert_eq!(window(&value), of(16));
        value["sliding_window"] = json!(null);
        assert_eq!(window(&value), None);
    }
}
