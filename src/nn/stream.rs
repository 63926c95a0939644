//! The residual stream of a decoder.

use burn::tensor::Tensor;

use super::RmsNorm;
use crate::backend::Backend;

/// `[rows, hidden]`: a tensor and, where a layer did not add what it gives by itself, what is still to
/// be added. The next norm does that on its way.
#[derive(Clone, Debug)]
pub struct Stream<B: Backend> {
    x: Tensor<B, 2>,
    add: Option<Tensor<B, 2>>,
}

impl<B: Backend> Stream<B> {
    /// A stream that begins with `x`.
    pub fn new(x: Tensor<B, 2>) -> Self {
        Self { x, add: None }
    }

    /// All that is in it, where nothing is still to be added.
    pub(super) fn settled(&self) -> Option<&Tensor<B, 2>> {
        self.add.is_none().then_some(&self.x)
    }

    /// Sets all that is in it.
    pub(super) fn set(&mut self, x: Tensor<B, 2>) {
        *self = Self::new(x);
    }

    /// Adds to it.
    pub(super) fn add(&mut self, add: Tensor<B, 2>) {
        if let Some(before) = self.add.replace(add) {
            self.x = self.x.clone() + before;
        }
    }

    /// Its norm, after adding what was left to add.
    pub fn normed(&mut self, norm: &RmsNorm<B>) -> Tensor<B, 2> {
        let [x, normed] = norm.forward_after(self.x.clone(), self.add.take());
        self.x = x;
        normed
    }

    /// All that is in it, for looking at.
    pub fn sum(&self) -> Tensor<B, 2> {
        match &self.add {
            Some(add) => self.x.clone() + add.clone(),
            None => self.x.clone(),
        }
    }

    /// The same of some of its rows.
    #[must_use]
    pub fn map(self, rows: impl Fn(Tensor<B, 2>) -> Tensor<B, 2>) -> Self {
        Self { x: rows(self.x), add: self.add.map(rows) }
    }
}
