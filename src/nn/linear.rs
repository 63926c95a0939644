//! The linear layer.

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};

use super::{LoadError, Matrix, Weights};
use crate::backend::{Backend, PackError};

/// `x · Wᵀ + b`, with `W` of `[out, in]` as every checkpoint stores it.
#[derive(Module, Debug)]
pub struct Linear<B: Backend> {
    weight: Matrix<B>,
    bias: Option<Param<Tensor<B, 1>>>,
}

impl<B: Backend> Linear<B> {
    /// Reads `<path>.weight`, and `<path>.bias` where the checkpoint has one.
    ///
    /// # Errors
    /// [`LoadError`] when a tensor is missing or has another shape.
    pub fn load(
        weights: &Weights<'_, B>,
        in_features: usize,
        out_features: usize,
    ) -> Result<Self, LoadError> {
        let weight = weights.matrix("weight", [out_features, in_features])?;
        let bias = if weights.contains("bias") {
            Some(weights.param("bias", [out_features])?)
        } else {
            None
        };
        Ok(Self { weight, bias })
    }

    /// Of a weight and bias that are already loaded.
    pub(super) fn of(weight: Matrix<B>, bias: Option<Param<Tensor<B, 1>>>) -> Self {
        Self { weight, bias }
    }

    /// A layer that shares a weight which is already loaded (tied embeddings).
    pub fn tied(weight: Matrix<B>) -> Self {
        Self { weight, bias: None }
    }

    /// `[rows, in]` to `[rows, out]`.
    ///
    /// # Errors
    /// [`PackError`] where the backend cannot use packed weights.
    pub fn forward(&self, x: Tensor<B, 2>) -> Result<Tensor<B, 2>, PackError> {
        self.weight.product(x, self.bias.as_ref().map(Param::val))
    }
}
