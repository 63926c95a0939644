//! Root-mean-square norm.

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};

use super::{LoadError, Weights};
use crate::backend::Backend;

/// `x / sqrt(mean(x²) + ε) · w` over the last dimension, computed in f32.
#[derive(Module, Debug)]
pub struct RmsNorm<B: Backend> {
    weight: Param<Tensor<B, 1>>,
    epsilon: f64,
}

impl<B: Backend> RmsNorm<B> {
    /// Reads `<path>.weight`.
    ///
    /// # Errors
    /// [`LoadError`] when the tensor is missing or has another shape.
    pub fn load(weights: &Weights<'_, B>, dim: usize, epsilon: f64) -> Result<Self, LoadError> {
        Ok(Self { weight: weights.param("weight", [dim])?, epsilon })
    }

    /// `x + residual` and its norm, each `[rows, dim]`.
    pub fn forward_add(&self, x: Tensor<B, 2>, residual: Tensor<B, 2>) -> [Tensor<B, 2>; 2] {
        B::add_rms_norm(x, residual, self.weight.val(), self.epsilon)
    }

    /// `[rows, dim]` to `[rows, dim]`.
    pub fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        B::rms_norm(x, self.weight.val(), self.epsilon)
    }
}
