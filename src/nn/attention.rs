//! Grouped-query self-attention with rotary positions.

use burn::module::Module;

use super::{Active, LayerError, Linear, Linears, LoadError, RmsNorm, Stream, Weights};
use crate::backend::{Backend, RotaryStep};

/// The extent of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionConfig {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Head dimension.
    pub head_dim: usize,
    /// Whether queries, keys and values must have biases; those that a checkpoint has are used
    /// anyway.
    pub qkv_bias: bool,
}

/// `o(attention(rope(q(x)), rope(k(x)), v(x)))`.
#[derive(Module, Debug)]
pub struct Attention<B: Backend> {
    qkv: Linears<B>,
    o: Linear<B>,
    head_dim: usize,
}

impl<B: Backend> Attention<B> {
    /// Reads `q_proj`, `k_proj`, `v_proj` and `o_proj` below the path.
    ///
    /// # Errors
    /// [`LoadError`] when a tensor is missing or has another shape.
    pub fn load(weights: &Weights<'_, B>, config: AttentionConfig) -> Result<Self, LoadError> {
        let AttentionConfig { hidden, heads, kv_heads, head_dim, qkv_bias } = config;
        Ok(Self {
            qkv: Linears::load(
                weights,
                hidden,
                &[
                    ("q_proj", heads * head_dim),
                    ("k_proj", kv_heads * head_dim),
                    ("v_proj", kv_heads * head_dim),
                ],
                qkv_bias,
            )?,
            o: Linear::load(&weights.at("o_proj"), heads * head_dim, hidden)?,
            head_dim,
        })
    }

    /// Adds to the stream, `[batch · len, hidden]`, what the layer makes of its norm. With a cache, the
    /// new keys and values are added to it and the positions attend to everything that it then holds.
    ///
    /// # Errors
    /// [`LayerError`] when the cache has no room, or the backend cannot use packed weights.
    pub fn forward(
        &self,
        norm: &RmsNorm<B>,
        stream: &mut Stream<B>,
        step: &RotaryStep<B>,
        cache: Option<&mut B::KvCache>,
        adapters: &Active<'_, B>,
    ) -> Result<(), LayerError> {
        let projections = self.qkv.of_norm(norm, stream, adapters)?;
        let out = B::rotary_attention(projections, self.head_dim, step, cache)?;
        Ok(self.o.add_to(stream, out, adapters)?)
    }
}
