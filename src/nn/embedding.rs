//! The token embedding.

use burn::{
    module::Module,
    tensor::{DType, Tensor},
};

use super::{Active, LoadError, Matrix, SlotKind, Stored, Weights, active::Base};
use crate::backend::{Backend, PackError};

/// One row of `[vocabulary, hidden]` per token.
#[derive(Module, Debug)]
pub struct Embedding<B: Backend> {
    weight: Matrix<B>,
    slot: usize,
}

impl<B: Backend> Embedding<B> {
    /// Reads `<path>.weight`.
    ///
    /// # Errors
    /// [`LoadError`] when the tensor is missing or has another shape.
    pub fn load(
        weights: &Weights<'_, B>,
        vocabulary: usize,
        hidden: usize,
    ) -> Result<Self, LoadError> {
        let weight = weights.matrix("weight", [vocabulary, hidden])?;
        let stored = Stored { matrix: weight.clone(), bias: None };
        let slot = weights.add_slots(SlotKind::Embedding, false, stored, &[("", vocabulary)]);
        Ok(Self { weight, slot })
    }

    /// The weight, for an output layer tied to it.
    pub fn weight(&self) -> Matrix<B> {
        self.weight.clone()
    }

    /// The rows of `ids`, `[ids, hidden]` in `dtype`.
    ///
    /// # Errors
    /// [`PackError`] where the backend cannot use packed weights.
    pub fn forward(
        &self,
        ids: &[u32],
        device: &B::Device,
        dtype: DType,
        adapters: &Active<'_, B>,
    ) -> Result<Tensor<B, 2>, PackError> {
        let base = Base { slot: self.slot, matrix: &self.weight, bias: None };
        adapters.rows(base, ids, device, dtype)
    }
}
