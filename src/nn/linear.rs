//! The linear layer.

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};

use super::{
    Active, LoadError, Matrix, RmsNorm, SlotKind, Stored, Stream, Weights,
    active::{Around, Base},
};
use crate::backend::{Backend, PackError};

/// `x · Wᵀ + b`, with `W` of `[out, in]` as every checkpoint stores it, and what adapters change in it.
#[derive(Module, Debug)]
pub struct Linear<B: Backend> {
    weight: Matrix<B>,
    bias: Option<Param<Tensor<B, 1>>>,
    slot: usize,
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
        Ok(Self::of(weights, weight, bias, &[("", out_features)]))
    }

    /// Of a weight and bias that are already loaded: those of these layers (name below the path, and
    /// outputs), row under row.
    pub(super) fn of(
        weights: &Weights<'_, B>,
        weight: Matrix<B>,
        bias: Option<Param<Tensor<B, 1>>>,
        layers: &[(&str, usize)],
    ) -> Self {
        Self::at_slot(weights, false, weight, bias, layers)
    }

    /// The layer at this path, with a weight that is already loaded (tied embeddings).
    pub fn tied(weights: &Weights<'_, B>, weight: Matrix<B>) -> Self {
        let [out_features, _] = weight.shape();
        Self::at_slot(weights, true, weight, None, &[("", out_features)])
    }

    fn at_slot(
        weights: &Weights<'_, B>,
        tied: bool,
        weight: Matrix<B>,
        bias: Option<Param<Tensor<B, 1>>>,
        layers: &[(&str, usize)],
    ) -> Self {
        let stored = Stored { matrix: weight.clone(), bias: bias.clone() };
        let slot = weights.add_slots(SlotKind::Linear, tied, stored, layers);
        Self { weight, bias, slot }
    }

    /// With what comes before it and after it, as one operation, where the backend has one for that.
    pub(super) fn fused(
        &self,
        x: &Tensor<B, 2>,
        around: Around<'_, B>,
        adapters: &Active<'_, B>,
    ) -> Option<Tensor<B, 2>> {
        let Self { weight: matrix, bias, slot } = self;
        adapters.fused(Base { slot: *slot, matrix, bias: bias.as_ref() }, x, around)
    }

    /// The same of the stream's norm, and with gates.
    pub(super) fn fused_with_norm(
        &self,
        norm: &RmsNorm<B>,
        stream: &Stream<B>,
        gated: bool,
        adapters: &Active<'_, B>,
    ) -> Option<Tensor<B, 2>> {
        let around = Around { norm: Some(norm), gated, ..Around::NOTHING };
        self.fused(stream.settled()?, around, adapters)
    }

    /// Adds `x · Wᵀ + b` to the stream.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn add_to(
        &self,
        stream: &mut Stream<B>,
        x: Tensor<B, 2>,
        adapters: &Active<'_, B>,
    ) -> Result<(), PackError> {
        let around = Around { residual: stream.settled(), ..Around::NOTHING };
        let fused = around.residual.and_then(|_| self.fused(&x, around, adapters));
        match fused {
            Some(sum) => stream.set(sum),
            None => stream.add(self.forward(x, adapters)?),
        }
        Ok(())
    }

    /// The [`forward`](Self::forward) of the stream's norm.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn of_norm(
        &self,
        norm: &RmsNorm<B>,
        stream: &mut Stream<B>,
        adapters: &Active<'_, B>,
    ) -> Result<Tensor<B, 2>, PackError> {
        match self.fused_with_norm(norm, stream, false, adapters) {
            Some(out) => Ok(out),
            None => self.forward(stream.normed(norm), adapters),
        }
    }

    /// `[rows, in]` to `[rows, out]`.
    ///
    /// # Errors
    /// [`PackError`] where the backend cannot use packed weights.
    pub fn forward(
        &self,
        x: Tensor<B, 2>,
        adapters: &Active<'_, B>,
    ) -> Result<Tensor<B, 2>, PackError> {
        let Self { weight: matrix, bias, slot } = self;
        adapters.product(Base { slot: *slot, matrix, bias: bias.as_ref() }, x)
    }
}
