//! Grouped-query self-attention with rotary positions.

use burn::{module::Module, tensor::Tensor};

use super::{Linear, LoadError, Weights};
use crate::backend::{AttentionOptions, Backend, CacheError, KvCache, RopeOrder};

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
}

/// What every layer of one forward pass shares: the rotary angles of its positions, and which keys
/// they see.
#[derive(Clone, Debug)]
pub struct Positions<B: Backend> {
    /// Sequences.
    pub batch: usize,
    /// New positions per sequence.
    pub len: usize,
    /// Cosines, `[1 or batch, len, head_dim / 2]`, f32.
    pub cos: Tensor<B, 3>,
    /// Sines, likewise.
    pub sin: Tensor<B, 3>,
    /// Which keys a position sees.
    pub options: AttentionOptions,
}

/// `o(attention(rope(q(x)), rope(k(x)), v(x)))`.
#[derive(Module, Debug)]
pub struct Attention<B: Backend> {
    q: Linear<B>,
    k: Linear<B>,
    v: Linear<B>,
    o: Linear<B>,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl<B: Backend> Attention<B> {
    /// Reads `q_proj`, `k_proj`, `v_proj` and `o_proj` below the path.
    ///
    /// # Errors
    /// [`LoadError`] when a tensor is missing or has another shape.
    pub fn load(weights: &Weights<'_, B>, config: AttentionConfig) -> Result<Self, LoadError> {
        let AttentionConfig { hidden, heads, kv_heads, head_dim } = config;
        Ok(Self {
            q: Linear::load(&weights.at("q_proj"), hidden, heads * head_dim)?,
            k: Linear::load(&weights.at("k_proj"), hidden, kv_heads * head_dim)?,
            v: Linear::load(&weights.at("v_proj"), hidden, kv_heads * head_dim)?,
            o: Linear::load(&weights.at("o_proj"), heads * head_dim, hidden)?,
            heads,
            kv_heads,
            head_dim,
        })
    }

    /// `[batch · len, hidden]` to the same. With a cache, the new keys and values are added to it
    /// and the positions attend to everything that it then holds.
    ///
    /// # Errors
    /// [`CacheError`] when the cache has no room.
    pub fn forward(
        &self,
        x: Tensor<B, 2>,
        positions: &Positions<B>,
        cache: Option<&mut B::KvCache>,
    ) -> Result<Tensor<B, 2>, CacheError> {
        let (batch, len) = (positions.batch, positions.len);
        let split = |x: Tensor<B, 2>, heads: usize| {
            x.reshape([batch, len, heads, self.head_dim]).swap_dims(1, 2)
        };
        let rotate = |x: Tensor<B, 4>| {
            let (cos, sin) = (positions.cos.clone(), positions.sin.clone());
            B::rope(x, cos, sin, RopeOrder::HalfSplit)
        };
        let q = rotate(split(self.q.forward(x.clone()), self.heads));
        let k = rotate(split(self.k.forward(x.clone()), self.kv_heads));
        let v = split(self.v.forward(x), self.kv_heads);
        let out = match cache {
            Some(cache) => {
                cache.append(k, v)?;
                B::attention_cached(q, cache, &positions.options)
            }
            None => B::scaled_dot_product_attention(q, k, v, &positions.options),
        };
        let joined = out.swap_dims(1, 2).reshape([batch * len, self.heads * self.head_dim]);
        Ok(self.o.forward(joined))
    }
}
