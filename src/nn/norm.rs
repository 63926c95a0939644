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

    /// The weight and epsilon, for who computes it.
    pub(super) fn parts(&self) -> (&Tensor<B, 1>, f64) {
        (&self.weight, self.epsilon)
    }

    /// The stream after `add` has been added to it, and its norm: `[rows, dim]` each.
    pub fn forward_after(&self, x: Tensor<B, 2>, add: Option<Tensor<B, 2>>) -> [Tensor<B, 2>; 2] {
        match add {
            Some(add) => B::add_rms_norm(x, add, self.weight.val(), self.epsilon),
            None => [x.clone(), self.forward(x)],
        }
    }

    /// `[rows, dim]` to `[rows, dim]`.
    pub fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        B::rms_norm(x, self.weight.val(), self.epsilon)
    }
}
