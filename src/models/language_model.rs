//! A decoder with an output layer over the vocabulary.

use std::sync::Arc;

use burn::tensor::{DType, Tensor};

use super::{
    Cache, CausalLm, DecoderConfig, LogitRows, ModelError, Pass, TokenBatch, ahead::Runner,
    decoder::Decoder,
};
use crate::{
    backend::{Backend, Chosen},
    nn::{Active, DeltaSet, Deltas, Linear, LoadError, Slots, Weights},
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

    /// The next step of a cache, if it can be listed before its tokens are known.
    fn next_step<'a>(&self, cache: &Cache<B>, deltas: Deltas<'a, B>) -> Option<Step<'a, B>> {
        let batch = cache.batch();
        let tokens = TokenBatch::new(&vec![[0]; batch]).ok().filter(|_| cache.looks_ahead)?;
        let adapters = deltas.over(&self.slots, batch, 1).ok()?;
        adapters.is_part_of_products(batch).then_some(Step { tokens, adapters })
    }

    fn runner(&self, deltas: Deltas<'_, B>) -> Runner {
        Runner { model: self.slots.id(), deltas: deltas.set.map(DeltaSet::id) }
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
        mut cache: Option<&mut Cache<B>>,
        pass: Pass<'_, '_, B>,
    ) -> Result<Tensor<B, 3>, ModelError> {
        let Pass { rows, deltas, observer } = pass;
        let adapters = deltas.over(&self.slots, tokens.batch(), tokens.len())?;
        // One more position for each sequence, and nothing beside the layers that would look into it.
        let is_step = tokens.len() == 1
            && cache.is_some()
            && observer.is_none()
            && adapters.is_part_of_products(tokens.batch());
        if let Some(cache) = cache.as_deref_mut() {
            let is_next = is_step && cache.batch() == tokens.batch() && self.decoder.knows(tokens);
            if is_next && let Some(logits) = cache.run_next(self.runner(deltas), tokens.ids()) {
                return Ok(shaped(logits, tokens.batch()));
            }
            cache.forget_next();
        }
        let logits =
            || self.decoder.forward(tokens, cache, rows, observer, &adapters, &self.output);
        let logits = if is_step { B::gather(self.device(), logits) } else { logits() }?;
        Ok(shaped(logits, tokens.batch()))
    }

    fn look_ahead(&self, cache: &mut Cache<B>, deltas: Deltas<'_, B>) {
        if let Some(step) = self.next_step(cache, deltas) {
            cache.list_next(self.runner(deltas), self.device(), |cache| step.logits(self, cache));
        }
    }

    fn choose_next(
        &self,
        tokens: &Chosen<B>,
        steps: usize,
        cache: &mut Cache<B>,
        deltas: Deltas<'_, B>,
    ) -> Vec<Chosen<B>> {
        let step = self.next_step(cache, deltas).filter(|_| tokens.rows() == cache.batch());
        let Some(step) = step else { return Vec::new() };
        cache.follow(tokens, steps, self.device(), |cache| {
            let logits = step.logits(self, cache).ok()?;
            B::likeliest(&logits)
        })
    }
}

/// One more token of each sequence, whichever it is.
struct Step<'a, B: Backend> {
    tokens: TokenBatch,
    adapters: Active<'a, B>,
}

impl<B: Backend> Step<'_, B> {
    fn logits(
        &self,
        model: &LanguageModel<B>,
        cache: &mut Cache<B>,
    ) -> Result<Tensor<B, 2>, ModelError> {
        let (rows, cache, adapters) = (LogitRows::Last, Some(cache), &self.adapters);
        model.decoder.forward(&self.tokens, cache, rows, None, adapters, &model.output)
    }
}

/// Logits in f32, by sequences.
fn shaped<B: Backend>(logits: Tensor<B, 2>, batch: usize) -> Tensor<B, 3> {
    let [rows, vocabulary] = logits.dims();
    let logits = if logits.dtype() == DType::F32 { logits } else { logits.cast(DType::F32) };
    logits.reshape([batch, rows / batch, vocabulary])
}
