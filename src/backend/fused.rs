//! A product with what a layer does around it.

use burn::tensor::Tensor;

use super::Backend;

/// A weight `[out, in]`, as a backend keeps it.
#[derive(Debug)]
pub enum Weight<'a, B: Backend> {
    /// One number after the other.
    Dense(Tensor<B, 2>),
    /// Blocks.
    Packed(&'a B::Packed),
}

/// What [`Backend::fused_linear`] computes: `out = norm(x) · (w + b · a)ᵀ + bias + residual`, and then
/// `silu(gate) · up` if it is gated.
#[derive(Debug)]
pub struct FusedLinear<'a, B: Backend> {
    /// `w`, `[out, in]`.
    pub weight: Weight<'a, B>,
    /// The weight `[in]` and epsilon of the [norm](Backend::rms_norm) that `x` goes through first.
    pub norm: Option<(&'a Tensor<B, 1>, f64)>,
    /// What an adapter adds to `w`: `a` of `[r, in]` and `b` of `[out, r]`. For one row.
    pub low_rank: Option<[&'a Tensor<B, 2>; 2]>,
    /// `[out]`.
    pub bias: Option<&'a Tensor<B, 1>>,
    /// `[rows, out]`.
    pub residual: Option<&'a Tensor<B, 2>>,
    /// Whether the first half of the products are gates of the second half: the result is then
    /// `[rows, out / 2]`.
    pub gated: bool,
}
