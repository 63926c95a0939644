//! The configuration of a decoder, from Hugging Face's `config.json` or from GGUF metadata in the
//! same shape.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{ModelError, REGISTRY};
use crate::nn::{AttentionConfig, RopeScaling};

/// Layers whose attention sees a part of what came before (Beltagy et al., Longformer, 2020).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlidingWindow {
    /// Positions that a token sees, its own among them.
    pub size: usize,
    /// The first layer that has it, counted from 0. Those before see everything.
    pub first_layer: usize,
}

/// What a decoder is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// `model_type`.
    pub architecture: String,
    /// Tokens in the vocabulary.
    pub vocabulary: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward block.
    pub intermediate: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Head dimension.
    pub head_dim: usize,
    /// ε of the norms.
    pub norm_epsilon: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// How the rotary frequencies are scaled.
    pub rope_scaling: Option<RopeScaling>,
    /// Whether queries, keys and values must have biases. Those of other layers are used where the
    /// checkpoint has them.
    pub qkv_bias: bool,
    /// Where attention does not see everything.
    pub window: Option<SlidingWindow>,
    /// Positions the model was made for.
    pub context: usize,
    /// Whether the output layer is the token embedding.
    pub tied: bool,
    /// Token that begins a text.
    pub bos: Option<u32>,
    /// Tokens that end a text.
    pub eos: Vec<u32>,
}

impl DecoderConfig {
    /// Reads a configuration; `file` is named in errors.
    ///
    /// # Errors
    /// [`ModelError::Architecture`] for a `model_type` that is not in the registry, and
    /// [`ModelError::Config`] naming the key, what was expected and what was found.
    pub fn from_json(value: &Value, file: &Path) -> Result<Self, ModelError> {
        let keys = Keys::new(value, file);
        let architecture = keys.text("model_type")?;
        match REGISTRY.iter().find(|(name, _)| *name == architecture) {
            Some((_, config)) => config(&keys),
            None => Err(ModelError::Architecture {
                file: file.to_path_buf(),
                found: architecture.into(),
                supported: REGISTRY.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// What is written alike for every architecture. No biases and no window.
    pub(super) fn shared(keys: &Keys<'_>) -> Result<Self, ModelError> {
        let hidden = keys.positive("hidden_size")?;
        let heads = keys.positive("num_attention_heads")?;
        let kv_heads = keys.positive_or("num_key_value_heads", heads)?;
        if !heads.is_multiple_of(kv_heads) {
            return Err(keys.error(
                "num_key_value_heads",
                &format!("a divisor of the {heads} attention heads"),
                &kv_heads.to_string(),
            ));
        }
        let head_dim = match keys.get("head_dim") {
            Some(_) => keys.positive("head_dim")?,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => return Err(keys.error("head_dim", "a number", "nothing")),
        };
        if !head_dim.is_multiple_of(2) {
            return Err(keys.error("head_dim", "an even number", &head_dim.to_string()));
        }
        if let Some(act) = keys.get("hidden_act")
            && !matches!(act.as_str(), Some("silu" | "swish"))
        {
            return Err(keys.error("hidden_act", "\"silu\"", &act.to_string()));
        }
        let (rope_theta, rope_scaling) = keys.rope()?;
        Ok(Self {
            architecture: keys.text("model_type")?.into(),
            vocabulary: keys.positive("vocab_size")?,
            hidden,
            intermediate: keys.positive("intermediate_size")?,
            layers: keys.positive("num_hidden_layers")?,
            heads,
            kv_heads,
            head_dim,
            norm_epsilon: keys.number("rms_norm_eps", 1e-6)?,
            rope_theta,
            rope_scaling,
            qkv_bias: false,
            window: None,
            context: keys.positive_or("max_position_embeddings", 2048)?,
            tied: keys.flag("tie_word_embeddings", false)?,
            bos: keys.token("bos_token_id").first().copied(),
            eos: keys.token("eos_token_id"),
        })
    }

    /// The extents of its matrices, rows (outputs) by columns (inputs), each once, as GPUs hold
    /// them: queries, keys and values in one, and gate and up.
    pub fn matrices(&self) -> Vec<[usize; 2]> {
        let (queries, keys) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut all = vec![
            [queries + 2 * keys, self.hidden],
            [self.hidden, queries],
            [2 * self.intermediate, self.hidden],
            [self.hidden, self.intermediate],
            [self.vocabulary, self.hidden],
        ];
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The extent of its attention layers.
    pub fn attention(&self) -> AttentionConfig {
        let &Self { hidden, heads, kv_heads, head_dim, qkv_bias, .. } = self;
        AttentionConfig { hidden, heads, kv_heads, head_dim, qkv_bias }
    }
}

/// Typed look-ups whose errors name the file and the key.
pub(super) struct Keys<'a> {
    /// The document.
    pub(super) value: &'a Value,
    file: &'a Path,
}

impl<'a> Keys<'a> {
    pub(super) fn new(value: &'a Value, file: &'a Path) -> Self {
        Self { value, file }
    }

    /// What a key says; null is as good as nothing.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.value.get(key).filter(|v| !v.is_null())
    }

    pub(super) fn error(&self, key: &str, expected: &str, found: &str) -> ModelError {
        ModelError::Config {
            file: PathBuf::from(self.file),
            key: key.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    fn text(&self, key: &str) -> Result<&str, ModelError> {
        let value = self.get(key);
        value.and_then(Value::as_str).ok_or_else(|| {
            self.error(key, "a string", &value.map_or("nothing".into(), Value::to_string))
        })
    }

    pub(super) fn positive(&self, key: &str) -> Result<usize, ModelError> {
        let value = self.get(key);
        value
            .and_then(Value::as_u64)
            .filter(|n| (1..=1 << 32).contains(n))
            .map(|n| n as usize)
            .ok_or_else(|| {
                let found = value.map_or("nothing".into(), Value::to_string);
                self.error(key, "a positive whole number", &found)
            })
    }

    pub(super) fn positive_or(&self, key: &str, default: usize) -> Result<usize, ModelError> {
        if self.get(key).is_some() { self.positive(key) } else { Ok(default) }
    }

    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        match self.get(key) {
            None => Ok(default),
            Some(&Value::Bool(flag)) => Ok(flag),
            Some(other) => Err(self.error(key, "true or false", &other.to_string())),
        }
    }

    fn number(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value
                .as_f64()
                .filter(|n| n.is_finite() && *n > 0.0)
                .ok_or_else(|| self.error(key, "a positive number", &value.to_string())),
        }
    }

    /// A token id, or a list of them.
    pub(super) fn token(&self, key: &str) -> Vec<u32> {
        let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        match self.get(key) {
            Some(Value::Array(ids)) => ids.iter().filter_map(id).collect(),
            Some(value) => id(value).into_iter().collect(),
            None => Vec::new(),
        }
    }

    /// Both spellings: `rope_parameters` holds everything; before it, `rope_theta` stood alone and
    /// `rope_scaling` held the rest.
    fn rope(&self) -> Result<(f32, Option<RopeScaling>), ModelError> {
        let (place, scaling) = match self.get("rope_parameters") {
            Some(parameters) => ("rope_parameters", Some(parameters)),
            None => ("rope_scaling", self.get("rope_scaling")),
        };
        let inner = Keys::new(scaling.unwrap_or(&Value::Null), self.file);
        let theta = match inner.get("rope_theta") {
            Some(_) => inner.number("rope_theta", 0.0)?,
            None => self.number("rope_theta", 10_000.0)?,
        };
        let kind = inner.get("rope_type").or_else(|| inner.get("type"));
        let number = |key: &str| -> Result<f32, ModelError> {
            match inner.get(key) {
                Some(_) => Ok(inner.number(key, 0.0)? as f32),
                None => Err(self.error(&format!("{place}.{key}"), "a positive number", "nothing")),
            }
        };
        let scaling = match kind.map(|k| k.as_str().unwrap_or("")) {
            None | Some("default" | "none") => None,
            Some("linear") => Some(RopeScaling::Linear { factor: number("factor")? }),
            Some("llama3") => Some(RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                original_context: number("original_max_position_embeddings")? as usize,
            }),
            Some(_) => {
                return Err(self.error(
                    &format!("{place}.rope_type"),
                    "\"default\", \"linear\" or \"llama3\"",
                    &kind.map_or(String::new(), Value::to_string),
                ));
            }
        };
        Ok((theta as f32, scaling))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn base() -> Value {
        json!({"model_type": "llama", "hidden_size": 64, "intermediate_size": 160,
               "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 512})
    }

    fn with(extra: &Value) -> Result<DecoderConfig, ModelError> {
        let mut value = base();
        for (k, v) in extra.as_object().expect("object") {
            value[k] = v.clone();
        }
        DecoderConfig::from_json(&value, Path::new("config.json"))
    }

    #[test]
    fn both_spellings_of_rope_agree() {
        let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
        let mut parameters = scaling.clone();
        parameters["rope_theta"] = json!(500_000.0);
        let old = with(&json!({"rope_theta": 500_000.0, "rope_scaling": scaling})).unwrap();
        let new = with(&json!({"rope_parameters": parameters})).unwrap();
        assert_eq!(old, new);
        assert!(matches!(old.rope_scaling, Some(RopeScaling::Llama3 { original_context: 64, .. })));
    }

    #[test]
    fn defaults_are_those_of_hugging_face() {
        let config = with(&json!({"eos_token_id": [1, 2], "rope_scaling": null})).unwrap();
        assert_eq!((config.kv_heads, config.head_dim, config.eos), (4, 16, vec![1, 2]));
        assert_eq!((config.rope_theta, config.rope_scaling, config.tied), (10_000.0, None, false));
    }

    #[test]
    fn errors_name_key_expected_and_found() {
        for (extra, words) in [
            (json!({"hidden_size": -3}), "hidden_size: expected a positive whole number, found -3"),
            (json!({"num_key_value_heads": 3}), "a divisor of the 4 attention heads, found 3"),
            (json!({"hidden_act": "gelu"}), "hidden_act: expected \"silu\", found \"gelu\""),
            (json!({"tie_word_embeddings": 1}), "tie_word_embeddings: expected true or false"),
            (json!({"model_type": "lama"}), "architecture \"lama\" is not supported"),
            (json!({"rope_scaling": {"type": "yarn"}}), "rope_scaling.rope_type: expected"),
            (json!({"rope_scaling": {"type": "linear"}}), "rope_scaling.factor: expected"),
        ] {
            let error = with(&extra).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("config.json"), "{error}");
        }
    }
}
