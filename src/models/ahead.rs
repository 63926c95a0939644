//! The next step of a cache, listed (or launched) while a device is busy with the one before.

use burn::tensor::Tensor;

use super::Cache;
use crate::backend::{Ahead, Backend, Chosen};

/// A step that only waits for its tokens.
#[derive(Debug)]
pub(super) struct NextStep<B: Backend> {
    ahead: Ahead,
    /// What it will give, `[sequences, vocabulary]`.
    logits: Tensor<B, 2>,
    by: Runner,
    /// What the layers' caches count as written by it.
    pub(super) bytes: u64,
}

/// What runs a step: a loaded model, and what adapters change in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Runner {
    pub(super) model: u64,
    pub(super) deltas: Option<u64>,
}

impl<B: Backend> Cache<B> {
    /// Lists the next step as `work` does it; where the backend cannot, it is not asked again. Until it
    /// is run, the cache is as it was.
    pub(super) fn list_next<E>(
        &mut self,
        by: Runner,
        device: &B::Device,
        work: impl FnOnce(&mut Self) -> Result<Tensor<B, 2>, E>,
    ) {
        let listed = self.one_more(|cache| {
            let (logits, ahead) = B::ahead(device, || work(cache))?;
            Some((logits.ok()?, ahead))
        });
        if let Some(((logits, ahead), bytes)) = listed {
            self.next = Some(NextStep { ahead, logits, by, bytes });
        }
    }

    /// Runs so many steps (or as many as there is room for) as `work` does each, with the tokens that the device
    /// has chosen, and then with those that it chooses; where it cannot, it is not asked again, and the cache is as
    /// it was.
    pub(super) fn follow(
        &mut self,
        tokens: &Chosen<B>,
        steps: usize,
        device: &B::Device,
        work: impl Fn(&mut Self) -> Option<Chosen<B>>,
    ) -> Vec<Chosen<B>> {
        let steps = steps.min(self.capacity() - self.len());
        if steps == 0 {
            return Vec::new();
        }
        let made = self.one_more(|cache| {
            B::follow(device, tokens, || {
                let mut made = vec![work(cache)?];
                while made.len() < steps {
                    let next = B::follow(device, made.last()?, || work(cache))?;
                    made.push(next);
                }
                Some(made)
            })
        });
        made.map_or_else(Vec::new, |(made, _)| made)
    }

    /// What `step` makes of one more position (or several), if there is room for it, and what the layers' caches
    /// count as written by it. Where it makes nothing, the cache is as it was, and is not asked again.
    fn one_more<T>(&mut self, step: impl FnOnce(&mut Self) -> Option<T>) -> Option<(T, u64)> {
        self.forget_next();
        if self.len() == self.capacity() {
            return None;
        }
        let (len, written) = (self.len(), self.bytes_written());
        let made = step(self);
        let bytes = self.bytes_written() - written;
        if made.is_none() {
            self.looks_ahead = false;
            self.take_back(len, bytes);
        }
        Some((made?, bytes))
    }

    /// Runs the next step with these tokens, if it was listed for whom it is run by now.
    pub(super) fn run_next(&mut self, by: Runner, ids: &[u32]) -> Option<Tensor<B, 2>> {
        let len = self.len();
        let NextStep { ahead, logits, by: listed_by, bytes } = self.next.take()?;
        if listed_by == by && ahead.run(ids) {
            return Some(logits);
        }
        self.take_back(len, bytes);
        None
    }

    /// Forgets the next step, if there is one.
    pub(super) fn forget_next(&mut self) {
        let len = self.len();
        if let Some(next) = self.next.take() {
            self.take_back(len, next.bytes);
        }
    }
}
