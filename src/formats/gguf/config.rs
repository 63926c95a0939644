//! A configuration in Hugging Face's shape from GGUF metadata, so that models read one kind.
//!
//! Source of the keys: ggml's `docs/gguf.md` and llama.cpp's `llama-arch.cpp`; source of the field
//! names: transformers' `LlamaConfig` and its kin. Keys begin with the architecture's name.
//!
//! What a GGUF file cannot say: Llama 3's frequency bands, which the converter has already turned
//! into the tensor `rope_freqs.weight` (so `rope_scaling` is null there), and whether a `llama`
//! file was a Mistral model (`sliding_window` is passed on where the file has it).

use serde_json::{Map, Number, Value, json};

use super::{GgufArray, GgufFile, GgufMetadata, GgufValue};
use crate::formats::{FormatError, Result};

/// The configuration of the model in `file`.
pub(in crate::formats) fn hugging_face_config(file: &GgufFile) -> Result<Value> {
    let keys = Keys { metadata: file.metadata(), architecture: file.architecture()? };
    let hidden = keys.size("embedding_length")?;
    let heads = keys.size("attention.head_count")?;
    let kv_heads = keys.optional_size("attention.head_count_kv")?.unwrap_or(heads);
    if !heads.is_multiple_of(kv_heads) {
        return Err(keys.bad("attention.head_count_kv", format!("a divisor of {heads} heads")));
    }
    let head_dim = match keys.optional_size("attention.key_length")? {
        Some(head_dim) => head_dim,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            return Err(
                keys.bad("attention.head_count", format!("a divisor of the width {hidden}"))
            );
        }
    };
    // No architecture read here rotates a part of its heads only: a file that does is another model.
    if let Some(rotated) = keys.optional_size("rope.dimension_count")?
        && rotated != head_dim
    {
        return Err(keys.bad("rope.dimension_count", format!("the head size {head_dim}")));
    }

    let mut config = Map::new();
    let mut set = |name: &str, value: Value| config.insert(name.to_owned(), value);
    set("model_type", keys.architecture.into());
    set("hidden_act", "silu".into());
    set("hidden_size", hidden.into());
    set("intermediate_size", keys.size("feed_forward_length")?.into());
    set("num_hidden_layers", keys.size("block_count")?.into());
    set("num_attention_heads", heads.into());
    set("num_key_value_heads", kv_heads.into());
    set("head_dim", head_dim.into());
    set("vocab_size", vocab_size(file, &keys)?);
    set("max_position_embeddings", keys.size("context_length")?.into());
    set("rms_norm_eps", keys.float("attention.layer_norm_rms_epsilon")?);
    set("rope_theta", keys.optional_float("rope.freq_base")?.unwrap_or(json!(10000.0)));
    set("rope_scaling", rope_scaling(&keys)?);
    set("tie_word_embeddings", file.get("output.weight").is_none().into());
    set("attention_bias", file.get("blk.0.attn_q.bias").is_some().into());
    set("mlp_bias", file.get("blk.0.ffn_up.bias").is_some().into());
    if let Some(window) = keys.optional_size("attention.sliding_window")? {
        set("sliding_window", window.into());
    }
    for (field, key) in [
        ("bos_token_id", "tokenizer.ggml.bos_token_id"),
        ("eos_token_id", "tokenizer.ggml.eos_token_id"),
        ("pad_token_id", "tokenizer.ggml.padding_token_id"),
    ] {
        set(field, file.metadata().u32(key)?.into());
    }
    Ok(config.into())
}

fn vocab_size(file: &GgufFile, keys: &Keys<'_>) -> Result<Value> {
    if let Some(size) = keys.optional_size("vocab_size")? {
        return Ok(size.into());
    }
    match file.get("token_embd.weight").map(super::GgufTensor::shape) {
        Some(&[rows, _]) => Ok(rows.into()),
        _ => keys.require("vocab_size", "a positive whole number, or token_embd.weight", None),
    }
}

fn rope_scaling(keys: &Keys<'_>) -> Result<Value> {
    let kind = keys.metadata.str(&keys.full("rope.scaling.type"))?;
    let mut factor = keys.optional_float("rope.scaling.factor")?;
    if factor.is_none() {
        // The key before August 2023; it always meant linear scaling.
        factor = keys.optional_float("rope.scale_linear")?;
    }
    let kind = match (kind, &factor) {
        (Some("none"), _) | (None, None) => return Ok(Value::Null),
        (Some(kind), _) => kind,
        (None, Some(_)) => "linear",
    };
    let mut scaling = Map::new();
    scaling.insert("rope_type".to_owned(), kind.into());
    scaling.insert("type".to_owned(), kind.into());
    if kind == "linear" || kind == "yarn" {
        let factor = keys.require("rope.scaling.factor", "a float", factor.clone())?;
        scaling.insert("factor".to_owned(), factor);
    } else if let Some(factor) = factor {
        scaling.insert("factor".to_owned(), factor);
    }
    if let Some(length) = keys.optional_size("rope.scaling.original_context_length")? {
        scaling.insert("original_max_position_embeddings".to_owned(), length.into());
    }
    for (field, key) in [
        ("attention_factor", "rope.scaling.attn_factor"),
        ("beta_fast", "rope.scaling.yarn_beta_fast"),
        ("beta_slow", "rope.scaling.yarn_beta_slow"),
    ] {
        if let Some(value) = keys.optional_float(key)? {
            scaling.insert(field.to_owned(), value);
        }
    }
    Ok(scaling.into())
}

/// The metadata below one architecture's prefix.
struct Keys<'a> {
    metadata: &'a GgufMetadata,
    architecture: &'a str,
}

impl Keys<'_> {
    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn bad(&self, key: &str, expected: String) -> FormatError {
        self.metadata.bad(&self.full(key), expected)
    }

    fn require<T>(&self, key: &str, expected: &'static str, found: Option<T>) -> Result<T> {
        self.metadata.require(&self.full(key), expected, found)
    }

    /// A positive number; an array with one number per layer counts if they are all the same.
    fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        let full = self.full(key);
        let number = match self.metadata.get(&full) {
            None => return Ok(None),
            Some(GgufValue::Array(array)) => uniform(array),
            Some(value) => value.as_integer(),
        };
        number
            .and_then(|number| u32::try_from(number).ok())
            .and_then(|number| usize::try_from(number).ok())
            .filter(|&number| number > 0)
            .map(Some)
            .ok_or_else(|| self.metadata.bad(&full, "one positive whole number".to_owned()))
    }

    fn size(&self, key: &str) -> Result<usize> {
        self.require(key, "a positive whole number", self.optional_size(key)?)
    }

    /// The float as the shortest decimal that means it: `1e-5`, not `9.999999747378752e-6`, so that
    /// the value is the one that `config.json` had.
    fn optional_float(&self, key: &str) -> Result<Option<Value>> {
        let full = self.full(key);
        let Some(value) = self.metadata.f32(&full)? else {
            return Ok(None);
        };
        let shortest = value.to_string().parse().ok().and_then(Number::from_f64);
        match shortest {
            Some(number) => Ok(Some(number.into())),
            None => Err(self.metadata.bad(&full, "a finite float".to_owned())),
        }
    }

    fn float(&self, key: &str) -> Result<Value> {
        self.require(key, "a float", self.optional_float(key)?)
    }
}

fn uniform(array: &GgufArray) -> Option<i128> {
    let numbers = array.as_integers()?;
    let (first, rest) = numbers.split_first()?;
    rest.iter().all(|number| number == first).then_some(*first)
}
