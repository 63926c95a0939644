//! Qwen2 and Qwen2.5 (Yang et al., 2024, <https://arxiv.org/abs/2407.10671>): queries, keys and
//! values have biases, and the last layers may have a sliding window.

use serde_json::Value;

use super::{
    DecoderConfig, ModelError,
    config::{Keys, SlidingWindow},
};

/// `max_window_layers` where the configuration does not say.
const MAX_WINDOW_LAYERS: u64 = 28;

/// `Qwen2Config` of transformers.
pub(super) fn config(keys: &Keys<'_>) -> Result<DecoderConfig, ModelError> {
    let shared = DecoderConfig::shared(keys)?;
    let window = window(keys, shared.layers)?;
    Ok(DecoderConfig { qkv_bias: true, window, ..shared })
}

/// `layer_types` speaks for each layer; before it, `max_window_layers` said where the windows begin.
fn window(keys: &Keys<'_>, layers: usize) -> Result<Option<SlidingWindow>, ModelError> {
    if !keys.flag("use_sliding_window", false)? {
        return Ok(None);
    }
    let size = keys.positive("sliding_window")?;
    let first_layer = match keys.get("layer_types") {
        None => max_window_layers(keys)?,
        Some(types) => first_sliding(types, layers).ok_or_else(|| {
            let expected = format!("{layers} times full_attention, then sliding_attention");
            keys.error("layer_types", &expected, &types.to_string())
        })?,
    };
    Ok(Some(SlidingWindow { size, first_layer }))
}

fn max_window_layers(keys: &Keys<'_>) -> Result<usize, ModelError> {
    let key = "max_window_layers";
    let found = keys.get(key);
    let layers = found.map_or(Some(MAX_WINDOW_LAYERS), Value::as_u64);
    layers.and_then(|layers| usize::try_from(layers).ok()).ok_or_else(|| {
        keys.error(key, "a whole number", &found.map_or(String::new(), Value::to_string))
    })
}

/// The first layer with a window, if every one after it has it too.
fn first_sliding(types: &Value, layers: usize) -> Option<usize> {
    let types = types.as_array().filter(|types| types.len() == layers)?;
    let first = types.iter().take_while(|kind| **kind == "full_attention").count();
    types[first..].iter().all(|kind| *kind == "sliding_attention").then_some(first)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    fn window_of(extra: &Value) -> Result<Option<SlidingWindow>, String> {
        let mut value = json!({"model_type": "qwen2", "hidden_size": 64, "intermediate_size": 160,
            "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 512,
            "sliding_window": 16, "max_window_layers": 2});
        for (key, extra) in extra.as_object().expect("object") {
            value[key] = extra.clone();
        }
        let config = DecoderConfig::from_json(&value, Path::new("config.json"));
        config.map(|config| config.window).map_err(|error| error.to_string())
    }

    #[test]
    fn windows_begin_where_the_configuration_says() {
        let begins = |first_layer| Ok(Some(SlidingWindow { size: 16, first_layer }));
        let (full, sliding) = ("full_attention", "sliding_attention");
        for (extra, want) in [
            (json!({}), Ok(None)),
            (json!({"use_sliding_window": false, "layer_types": [full, full, full]}), Ok(None)),
            (json!({"use_sliding_window": true}), begins(2)),
            (json!({"use_sliding_window": true, "max_window_layers": 0}), begins(0)),
            (
                json!({"use_sliding_window": true, "layer_types": [full, sliding, sliding]}),
                begins(1),
            ),
            (json!({"use_sliding_window": true, "layer_types": [full, full, full]}), begins(3)),
        ] {
            assert_eq!(window_of(&extra), want, "{extra}");
        }
    }

    #[test]
    fn unclear_windows_are_refused() {
        let (full, sliding) = ("full_attention", "sliding_attention");
        for (extra, words) in [
            (json!({"sliding_window": null}), "sliding_window: expected a positive whole number"),
            (json!({"max_window_layers": -1}), "max_window_layers: expected a whole number"),
            (
                json!({"layer_types": [sliding, full, full]}),
                "layer_types: expected 3 times full_attention",
            ),
            (
                json!({"layer_types": [full, sliding]}),
                "layer_types: expected 3 times full_attention",
            ),
            (json!({"layer_types": "full"}), "layer_types: expected 3 times full_attention"),
        ] {
            let mut extra = extra;
            extra["use_sliding_window"] = json!(true);
            let error = window_of(&extra).expect_err("unclear");
            assert!(error.contains(words), "{error}");
        }
    }
}
