//! The token embedding.

use burn::{
    module::{Module, Param},
    tensor::{DType, Int, Tensor},
};

use super::{LoadError, Weights};
use crate::backend::Backend;

/// One row of `[vocabulary, hidden]` per token.
#[derive(Module, Debug)]
pub struct Embedding<B: Backend> {
    weight: Param<Tensor<B, 2>>,
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
        Ok(Self { weight: weights.param("weight", [vocabulary, hidden])? })
    }

    /// The weight, for an output layer tied to it.
    pub fn weight(&self) -> Param<Tensor<B, 2>> {
        self.weight.clone()
    }

    /// `[tokens]` to `[tokens, hidden]`, in `dtype`.
    pub fn forward(&self, tokens: Tensor<B, 1, Int>, dtype: DType) -> Tensor<B, 2> {
        let rows = B::dense_rows(self.weight.val(), tokens);
        if rows.dtype() == dtype { rows } else { rows.cast(dtype) }
    }
}
