//! The token embedding.

use burn::{
    module::Module,
    tensor::{DType, Tensor},
};

use super::{LoadError, Matrix, Weights};
use crate::backend::{Backend, PackError};

/// One row of `[vocabulary, hidden]` per token.
#[derive(Module, Debug)]
pub struct Embedding<B: Backend> {
    weight: Matrix<B>,
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
        Ok(Self { weight: weights.matrix("weight", [vocabulary, hidden])? })
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
    ) -> Result<Tensor<B, 2>, PackError> {
        self.weight.rows(ids, device, dtype)
    }
}
