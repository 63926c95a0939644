//! A decoder with a head that classifies whole sequences: `LlamaForSequenceClassification` and its
//! kin in transformers, for every architecture of the registry.

use std::sync::Arc;

use burn::tensor::{DType, Tensor};
use serde_json::Value;

use super::{
    DecoderConfig, LoadOptions, LogitRows, ModelError, TokenBatch, config::Keys, decoder::Decoder,
};
use crate::{
    backend::Backend,
    formats::Checkpoint,
    nn::{Deltas, Linear, Slots},
};

/// A decoder and a linear layer `score` over the hidden state of each sequence's last token.
#[derive(Clone, Debug)]
pub struct SequenceClassifier<B: Backend> {
    decoder: Decoder<B>,
    score: Linear<B>,
    slots: Arc<Slots<B>>,
    labels: Vec<String>,
    padding: Option<u32>,
}

impl<B: Backend> SequenceClassifier<B> {
    /// Loads the classifier of a checkpoint: the decoder's tensors, and `score.weight`.
    ///
    /// # Errors
    /// As [`models::load`](super::load), and [`ModelError::Config`] for labels that are not numbered
    /// from 0.
    pub fn load(
        checkpoint: &Checkpoint,
        options: LoadOptions<'_>,
        device: &B::Device,
    ) -> Result<Self, ModelError> {
        let (value, file) = (checkpoint.config(), checkpoint.config_path());
        let (config, keys) = (DecoderConfig::from_json(value, file)?, Keys::new(value, file));
        let weights = options.weights(checkpoint, device);
        let count = label_count(&keys)?;
        // Before the names are made: the file's shape bounds how many there can be.
        let score = Linear::load(&weights.at("score"), config.hidden, count)?;
        let labels = labels(&keys, count)?;
        let padding = keys.token("pad_token_id").first().copied();
        let decoder = Decoder::load(&weights, config, options.dtype, device)?;
        let slots = Arc::new(weights.take_slots());
        Ok(Self { decoder, score, slots, labels, padding })
    }

    /// What the decoder is made of.
    pub fn config(&self) -> &DecoderConfig {
        self.decoder.config()
    }

    /// Where adapters can step in.
    pub fn slots(&self) -> &Arc<Slots<B>> {
        &self.slots
    }

    /// The names of the classes (`id2label`), `LABEL_0` and so on where the configuration has none.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Logits of each sequence, `[sequences, labels]` in f32. The sequences may be of unequal length.
    ///
    /// A sequence counts up to its last token that is not the configuration's `pad_token_id`, so that
    /// padding on its right changes nothing; of padding alone, the first token counts.
    ///
    /// # Errors
    /// [`ModelError`] when a sequence is empty or has a token outside the vocabulary.
    pub fn classify<S: AsRef<[u32]>>(&self, sequences: &[S]) -> Result<Tensor<B, 2>, ModelError> {
        self.classify_with(sequences, Deltas::NONE)
    }

    /// [`classify`](Self::classify) with adapters.
    ///
    /// # Errors
    /// Also when the adapters are of another model, or chosen for another number of sequences.
    pub fn classify_with<S: AsRef<[u32]>>(
        &self,
        sequences: &[S],
        deltas: Deltas<'_, B>,
    ) -> Result<Tensor<B, 2>, ModelError> {
        let trimmed: Vec<_> = sequences.iter().map(|s| self.trimmed(s.as_ref())).collect();
        let tokens = TokenBatch::new(&trimmed)?;
        let adapters = deltas.over(&self.slots, tokens.batch(), tokens.len())?;
        let rows = LogitRows::Last;
        let logits = self.decoder.forward(&tokens, None, rows, None, &adapters, &self.score)?;
        Ok(if logits.dtype() == DType::F32 { logits } else { logits.cast(DType::F32) })
    }

    /// No token sees a later one: what comes after the last that counts can be left out.
    fn trimmed<'a>(&self, sequence: &'a [u32]) -> &'a [u32] {
        let last = sequence.iter().rposition(|&token| Some(token) != self.padding).unwrap_or(0);
        sequence.get(..=last).unwrap_or_default()
    }
}

/// As many as `id2label` has, or as `num_labels` says: transformers writes neither for two.
fn label_count(keys: &Keys<'_>) -> Result<usize, ModelError> {
    match keys.get("id2label").and_then(Value::as_object) {
        Some(names) => Ok(names.len()),
        None => keys.positive_or("num_labels", 2),
    }
}

fn labels(keys: &Keys<'_>, count: usize) -> Result<Vec<String>, ModelError> {
    let Some(names) = keys.get("id2label") else {
        return Ok((0..count).map(|i| format!("LABEL_{i}")).collect());
    };
    let name = |i: usize| names.get(i.to_string())?.as_str().map(str::to_owned);
    let all: Option<_> = (0..count).map(name).collect();
    all.ok_or_else(|| keys.error("id2label", "names by number, from \"0\" on", &names.to_string()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    #[test]
    fn labels_are_those_of_transformers() {
        let labels = |value| {
            let keys = Keys::new(&value, Path::new("config.json"));
            labels(&keys, label_count(&keys)?)
        };
        assert_eq!(labels(json!({})).unwrap(), ["LABEL_0", "LABEL_1"]);
        assert_eq!(labels(json!({"num_labels": 1})).unwrap(), ["LABEL_0"]);
        assert_eq!(labels(json!({"id2label": {"1": "b", "0": "a"}})).unwrap(), ["a", "b"]);
        for bad in [json!({"1": "b", "2": "c"}), json!(["a", "b"]), json!({"0": 7})] {
            let error = labels(json!({"id2label": bad})).expect_err("bad").to_string();
            assert!(error.contains("id2label: expected names by number"), "{error}");
        }
    }
}
