//! Tokens one after the other: a model, what it has seen, and who chooses the next one.
//!
//! Where nothing but the largest logit counts, a device may choose by itself. It then goes on with the
//! next step while the host still reads the token; a step that turns out not to be wanted is forgotten
//! with the cache. Where steps are short, several are handed over together ([`Pace`]).

use std::collections::VecDeque;

use burn::tensor::Tensor;

use super::{GenerateError, Sampler, pace::Pace};
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
    /// What the device is choosing, by one list of steps or two.
    Chosen(VecDeque<Chosen<B>>),
}

/// The tokens that follow a prompt.
#[derive(Debug)]
pub(super) struct Tokens<'m, B: Backend> {
    model: &'m dyn CausalLm<B>,
    cache: Cache<B>,
    sampler: Sampler,
    next: Next<B>,
    pace: Pace,
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
        let (next, pace) = (Next::Run(prompt.to_vec()), Pace::default());
        Self { model, cache, sampler, next, pace }
    }

    /// The next token, after the prompt and all tokens so far (`history`), behind which so many more are likely
    /// to be wanted.
    pub(super) fn next(&mut self, history: &[u32], more: usize) -> Result<u32, GenerateError> {
        let tokens = match std::mem::replace(&mut self.next, Next::Run(Vec::new())) {
            Next::Chosen(chosen) => return self.read(chosen, more),
            Next::Run(tokens) => tokens,
        };
        let logits = last_logits(self.model, &tokens, &mut self.cache)?;
        let is_largest = self.sampler.takes_the_largest();
        match is_largest.then(|| B::likeliest(&logits)).flatten() {
            Some(chosen) => {
                self.pace = Pace::default();
                self.read(VecDeque::from([chosen]), more)
            }
            None => self.sample(logits, history, more > 0),
        }
    }

    /// The first of the tokens that the device is choosing, which goes on meanwhile.
    fn read(&mut self, mut chosen: VecDeque<Chosen<B>>, more: usize) -> Result<u32, GenerateError> {
        let first = chosen.pop_front().ok_or(BatchError::Empty { row: 0 })?;
        let steps = self.pace.steps(chosen.len(), more);
        let go_on = || {
            if steps > 0 {
                let last = chosen.back().unwrap_or(&first);
                let next = self.model.choose_next(last, steps, &mut self.cache, Deltas::NONE);
                self.pace.handed_over(next.len());
                chosen.extend(next);
            }
        };
        let read = B::read_chosen(&first, go_on).map_err(GenerateError::Device)?;
        self.pace.read();
        let &(token, logit) = read.first().ok_or(BatchError::Empty { row: 0 })?;
        Sampler::check_largest(token, logit, self.model.config().vocabulary)?;
        self.next = if chosen.is_empty() { Next::Run(vec![token]) } else { Next::Chosen(chosen) };
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
