//! A configuration as GGUF metadata, as llama.cpp's `convert_hf_to_gguf.py` writes it: the reverse of
//! what `formats` makes of such metadata.

use super::DecoderConfig;
use crate::{
    formats::gguf::{self, GgufValue},
    nn::{RopeFrequencies, RopeScaling},
};

impl DecoderConfig {
    /// The architecture and its keys, without what belongs to a tokenizer.
    pub fn to_gguf(&self) -> Vec<(String, GgufValue)> {
        let architecture = gguf::architecture(&self.architecture);
        let mut all =
            vec![("general.architecture".to_owned(), GgufValue::String(architecture.to_owned()))];
        let mut set = |key: &str, value| all.push((format!("{architecture}.{key}"), value));
        for (key, size) in [
            ("block_count", self.layers),
            ("context_length", self.context),
            ("embedding_length", self.hidden),
            ("feed_forward_length", self.intermediate),
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.kv_heads),
            ("attention.key_length", self.head_dim),
            ("attention.value_length", self.head_dim),
            ("rope.dimension_count", self.head_dim),
            ("vocab_size", self.vocabulary),
        ] {
            set(key, GgufValue::U32(size as u32));
        }
        let epsilon = self.norm_epsilon as f32;
        set("attention.layer_norm_rms_epsilon", GgufValue::F32(epsilon));
        set("rope.freq_base", GgufValue::F32(self.rope_theta));
        if let Some(RopeScaling::Linear { factor }) = self.rope_scaling {
            set("rope.scaling.type", GgufValue::String("linear".to_owned()));
            set("rope.scaling.factor", GgufValue::F32(factor));
        }
        all
    }

    /// What `rope_freqs.weight` holds: the divisor of each rotary frequency, where the scaling is one
    /// that metadata cannot express.
    pub fn rope_factors(&self) -> Option<Vec<f32>> {
        let scaling = match &self.rope_scaling {
            None | Some(RopeScaling::Linear { .. }) => return None,
            scaling => scaling.as_ref(),
        };
        let frequencies = |scaling| RopeFrequencies::new(self.head_dim, self.rope_theta, scaling);
        let (plain, scaled) = (frequencies(None), frequencies(scaling));
        Some(plain.as_slice().iter().zip(scaled.as_slice()).map(|(p, s)| p / s).collect())
    }
}
