//! Tokens one after the other: a model, what it has seen, and who chooses the next one.
//!
//! Where nothing but the largest logit counts, a device may choose by itself. It then goes on with the
//! next step while the host still reads the token; a step that turns out not to be wanted is forgotten
//! with the cache.

use burn::tensor::Tensor;

use super::{GenerateError, Sampler};
use crate::{
    backend::{Backend, Chosen},
    models::{BatchError, Cache, CausalLm, LogitRows, TokenBatch},
    nn::Deltas,
};

/// Tokens of a prompt that are run at a time: what lies between the layers takes memory for these,
/// however long the prompt is.
pub(super) const PART: usize = 2048;

/// What the next token comes from.
#[derive(Debug)]
enum Next<B: Backend> {
    /// Tokens that the model has not seen.
    Run(Vec<u32>),
    /// What the device is choosing.
    Chosen(Chosen<B>),
}

/// The tokens that follow a prompt.
#[derive(Debug)]
pub(super) struct Tokens<'m, B: Backend> {
    model: &'m dyn CausalLm<B>,
    cache: Cache<B>,
    sampler: Sampler,
    next: Next<B>,
}

impl<'m, B: Backend> Tokens<'m, B> {
    /// Those after a prompt, in a cache for so many positions.
    pub(super) fn new(
        model: &'m dyn CausalLm<B>,
        prompt: &[u32],
        capacity: usize,
        sampler: Sampler,
    ) -> Self {
        Self::behind(model, model.new_cache(&[0], capacity), prompt, sampler)
    }

    /// For a prompt that goes on with what is in a cache.
    pub(super) fn behind(
        model: &'m dyn CausalLm<B>,
        cache: Cache<B>,
        prompt: &[u32],
        sampler: Sampler,
    ) -> Self {
        Self { model, cache, sampler, next: Next::Run(prompt.to_vec()) }
    }

    /// The next token, after the prompt and all tokens so far (`history`). With `goes_on`, another one is
    /// likely to be wanted.
    pub(super) fn next(&mut self, history: &[u32], goes_on: bool) -> Result<u32, GenerateError> {
        let tokens = match std::mem::replace(&mut self.next, Next::Run(Vec::new())) {
            Next::Chosen(chosen) => return self.read(&chosen, goes_on),
            Next::Run(tokens) => tokens,
        };
        let logits = last_logits(self.model, &tokens, &mut self.cache)?;
        let is_largest = self.sampler.takes_the_largest();
        match is_largest.then(|| B::likeliest(&logits)).flatten() {
            Some(chosen) => self.read(&chosen, goes_on),
            None => self.sample(logits, history, goes_on),
        }
    }

    /// The token that the device has chosen, which goes on meanwhile.
    fn read(&mut self, chosen: &Chosen<B>, goes_on: bool) -> Result<u32, GenerateError> {
        let mut following = None;
        let go_on = || {
            if goes_on {
                following = self.model.choose_next(chosen, &mut self.cache, Deltas::NONE);
            }
        };
        let read = B::read_chosen(chosen, go_on).map_err(GenerateError::Device)?;
        let &(token, logit) = read.first().ok_or(BatchError::Empty { row: 0 })?;
        Sampler::check_largest(token, logit, self.model.config().vocabulary)?;
        self.next = following.map_or_else(|| Next::Run(vec![token]), Next::Chosen);
        Ok(token)
    }

    /// The token that the host chooses; the next step is listed meanwhile.
    fn sample(
        &mut self,
        logits: Tensor<B, 2>,
        history: &[u32],
        goes_on: bool,
    ) -> Result<u32, GenerateError> {
        let look_ahead = || {
            if goes_on {
                self.model.look_ahead(&mut self.cache, Deltas::NONE);
            }
        };
        let logits = B::read_while(logits, look_ahead).map_err(GenerateError::Device)?;
        let token = self.sampler.sample(&logits, history)?;
        self.next = Next::Run(vec![token]);
        Ok(token)
    }
}

/// Runs new tokens, a part at a time: the logits of the last position, `[1, vocabulary]`.
pub(super) fn last_logits<B: Backend>(
    model: &dyn CausalLm<B>,
    tokens: &[u32],
    cache: &mut Cache<B>,
) -> Result<Tensor<B, 2>, GenerateError> {
    let mut last = Err(BatchError::Empty { row: 0 }.into());
    for part in tokens.chunks(PART) {
        let logits = model.forward(&TokenBatch::new(&[part])?, Some(cache), LogitRows::Last)?;
        let [_, rows, vocabulary] = logits.dims();
        last = Ok(logits.reshape([rows, vocabulary]));
    }
    last
}
