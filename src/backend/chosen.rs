//! Tokens that a device has chosen, and that it can go on with before the host has seen them.

use std::sync::{Mutex, PoisonError};

use burn::tensor::{Int, Tensor};

use super::Backend;
use crate::dispatch::Begun;

/// The token with the largest logit for each row, still on the device: see [`Backend::likeliest`].
#[derive(Debug)]
pub struct Chosen<B: Backend> {
    words: Tensor<B, 2, Int>,
    begun: Mutex<Option<Begun>>,
}

impl<B: Backend> Chosen<B> {
    /// Ids, and behind them the bits of their logits (`[2, rows]`), and how they are read if that was begun.
    pub(super) fn new(words: Tensor<B, 2, Int>, begun: Option<Begun>) -> Self {
        Self { words, begun: Mutex::new(begun) }
    }

    /// At the first time, what was begun.
    pub(super) fn begun(&self) -> Option<Begun> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn words(&self) -> Tensor<B, 2, Int> {
        self.words.clone()
    }

    /// Tokens.
    pub fn rows(&self) -> usize {
        self.words.dims()[1]
    }

    /// Each token with its logit, of the words as they are on the host.
    pub(super) fn pairs(words: &[u32]) -> Vec<(u32, f32)> {
        let (ids, logits) = words.split_at(words.len() / 2);
        ids.iter().zip(logits).map(|(id, bits)| (*id, f32::from_bits(*bits))).collect()
    }
}
