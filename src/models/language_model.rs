//! A decoder with an output layer over the vocabulary.

use std::sync::Arc;

use burn::tensor::{DType, Tensor};

use super::{Cache, CausalLm, DecoderConfig, ModelError, Pass, TokenBatch, decoder::Decoder};
use crate::{
    backend::Backend,
    nn::{Linear, LoadError, Slots, Weights},
};

/// A decoder and `lm_head`.
#[derive(Clone, Debug)]
pub(super) struct LanguageModel<B: Backend> {
    decoder: Decoder<B>,
    output: Linear<B>,
    slots: Arc<Slots<B>>,
}

impl<B: Backend> LanguageModel<B> {
    /// Reads the tensors of a checkpoint.
    pub(super) fn load(
        weights: &Weights<'_, B>,
        config: DecoderConfig,
        dtype: DType,
        device: &B::Device,
    ) -> Result<Self, LoadError> {
        let decoder = Decoder::load(weights, config, dtype, device)?;
        let (config, head) = (decoder.config(), weights.at("lm_head"));
        let output = if config.tied {
            decoder.tied_output(&head)
        } else {
            Linear::load(&head, config.hidden, config.vocabulary)?
        };
        Ok(Self { decoder, output, slots: Arc::new(weights.take_slots()) })
    }
}

impl<B: Backend> CausalLm<B> for LanguageModel<B> {
    fn config(&self) -> &DecoderConfig {
        self.decoder.config()
    }

    fn device(&self) -> &B::Device {
        self.decoder.device()
    }

    fn dtype(&self) -> DType {
        self.decoder.dtype()
    }

    fn slots(&self) -> &Arc<Slots<B>> {
        &self.slots
    }

    fn run(
        &self,
        tokens: &TokenBatch,
        cache: Option<&mut Cache<B>>,
        pass: Pass<'_, '_, B>,
    ) -> Result<Tensor<B, 3>, ModelError> {
        let Pass { rows, deltas, observer } = pass;
        let adapters = deltas.over(&self.slots, tokens.batch(), tokens.len())?;
        // One more position for each sequence, and nothing beside the layers that would look into it.
        let is_step = tokens.len() == 1
            && cache.is_some()
            && observer.is_none()
            && adapters.is_part_of_products(tokens.batch());
        let logits = || -> Result<_, ModelError> {
            let normed = self.decoder.forward(tokens, cache, rows, observer, &adapters)?;
            Ok(self.output.forward(normed, &adapters)?)
        };
        let logits = if is_step { B::gather(self.device(), logits) } else { logits() }?;
        let [rows, vocabulary] = logits.dims();
        let logits = if logits.dtype() == DType::F32 { logits } else { logits.cast(DType::F32) };
        Ok(logits.reshape([tokens.batch(), rows / tokens.batch(), vocabulary]))
    }
}
