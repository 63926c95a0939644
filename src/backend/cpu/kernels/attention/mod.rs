//! Attention without the matrix of scores: `out = softmax(scale · q · kᵀ + mask) · v`, key block by key block.
//!
//! The online softmax is that of `FlashAttention` (Dao et al. 2022, <https://arxiv.org/abs/2205.14135>): each query keeps
//! the greatest score so far, the sum of exponentials and the weighted sum of values, and rescales the latter two when
//! the greatest score grows. All query heads that share a key head (grouped queries) are computed together, so keys and
//! values are read once for them.
//!
//! Few queries (a decode step) are bound by reading keys and values: [`few_queries`], which also divides the keys among
//! threads. Many queries (a prompt) are bound by arithmetic: [`many_queries`].

mod few_queries;
mod many_queries;
mod mask;

use super::simd::{Isa, Simd, tanh};
use few_queries::few_queries;
use many_queries::many_queries;
use mask::Mask;

/// Up to this many query rows per key head [`few_queries`] is the faster one.
const FEW: usize = 8;
/// The log-sum-exp of a query that sees no key, and where the running maximum starts.
const NOTHING: f32 = -1e30;
/// The score of a hidden key: so far below [`NOTHING`] that its exponential is zero even if every key is hidden.
const HIDDEN: f32 = f32::MIN;

/// The sizes of an [`attention`] call.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Sequences.
    pub batch: usize,
    /// Query heads; a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Queries of each head.
    pub q_len: usize,
    /// Keys of each head.
    pub kv_len: usize,
    /// Values of a query, key or value row.
    pub head_dim: usize,
}

/// Keys or values where they lie, for instance in a cache with spare capacity; rows of `head_dim` contiguous values.
#[derive(Clone, Copy, Debug)]
pub struct KvView<'a> {
    /// The values; the first row of the first head of the first sequence is at the start.
    pub data: &'a [f32],
    /// From one sequence to the next.
    pub batch_stride: usize,
    /// From one head to the next.
    pub head_stride: usize,
    /// From one row to the next.
    pub row_stride: usize,
}

impl<'a> KvView<'a> {
    /// A contiguous `[batch, kv_heads, kv_len, head_dim]`.
    #[must_use]
    pub fn contiguous(data: &'a [f32], shape: &AttentionShape) -> Self {
        let head_stride = shape.kv_len * shape.head_dim;
        Self {
            data,
            batch_stride: shape.kv_heads * head_stride,
            head_stride,
            row_stride: shape.head_dim,
        }
    }

    /// The rows of one head, from its first on.
    fn head(&self, batch: usize, head: usize) -> &'a [f32] {
        &self.data[batch * self.batch_stride + head * self.head_stride..]
    }

    fn covers(&self, shape: &AttentionShape) -> bool {
        let last = (shape.batch - 1) * self.batch_stride
            + (shape.kv_heads - 1) * self.head_stride
            + (shape.kv_len - 1) * self.row_stride;
        self.data.len() >= last + shape.head_dim
    }
}

/// What the queries see, and how scores are formed.
///
/// Query `i` stands at position `kv_len - q_len + i`.
#[derive(Clone, Copy, Debug)]
pub struct AttentionOptions<'a> {
    /// Scores are `scale · q · k`.
    pub scale: f32,
    /// Keys after the query's position are hidden.
    pub causal: bool,
    /// Key `j` is hidden from position `p` when `j + window <= p`.
    pub window: Option<usize>,
    /// Scores become `cap · tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// For each sequence, how many of its first keys are padding, and hidden.
    pub left_padding: Option<&'a [usize]>,
}

/// Attention of `q`, `[batch, heads, q_len, head_dim]`, into `out` of the same shape.
///
/// `lse`, `[batch, heads, q_len]`, receives the natural logarithm of each query's sum of exponentials. A query that sees
/// no key gives zeros, and a log-sum-exp of -1e30.
///
/// # Panics
///
/// If a length does not match its shape, or `heads` is not a multiple of `kv_heads`.
pub fn attention(
    q: &[f32],
    k: KvView<'_>,
    v: KvView<'_>,
    shape: AttentionShape,
    options: &AttentionOptions<'_>,
    out: &mut [f32],
    lse: Option<&mut [f32]>,
) {
    attention_on(Isa::best(), q, k, v, shape, options, out, lse);
}

fn attention_on(
    isa: Isa,
    q: &[f32],
    k: KvView<'_>,
    v: KvView<'_>,
    shape: AttentionShape,
    options: &AttentionOptions<'_>,
    out: &mut [f32],
    mut lse: Option<&mut [f32]>,
) {
    let AttentionShape { batch, heads, kv_heads, q_len, kv_len, head_dim } = shape;
    let rows = batch * heads * q_len;
    assert_eq!(q.len(), rows * head_dim, "attention: length of q");
    assert_eq!(out.len(), rows * head_dim, "attention: length of out");
    assert!(lse.as_ref().is_none_or(|l| l.len() == rows), "attention: length of lse");
    assert!(
        options.left_padding.is_none_or(|p| p.len() == batch),
        "attention: length of left_padding"
    );
    if rows == 0 {
        return;
    }
    assert!(
        kv_heads > 0 && heads.is_multiple_of(kv_heads),
        "attention: heads must be a multiple of kv_heads"
    );
    if kv_len == 0 || head_dim == 0 {
        out.fill(0.0);
        if kv_len == 0
            && let Some(lse) = &mut lse
        {
            lse.fill(NOTHING);
            return;
        }
    }
    if kv_len == 0 {
        return;
    }
    assert!(k.covers(&shape), "attention: length of k");
    assert!(v.covers(&shape), "attention: length of v");
    let call = Call { isa, q, k, v, shape, options };
    if heads / kv_heads * q_len <= FEW {
        few_queries(&call, out, lse);
    } else {
        many_queries(&call, out, lse);
    }
}

/// The arguments of one call, checked.
#[derive(Clone, Copy)]
struct Call<'a> {
    isa: Isa,
    q: &'a [f32],
    k: KvView<'a>,
    v: KvView<'a>,
    shape: AttentionShape,
    options: &'a AttentionOptions<'a>,
}

impl Call<'_> {
    /// Query heads that share a key head.
    fn group(&self) -> usize {
        self.shape.heads / self.shape.kv_heads
    }

    fn mask(&self, batch: usize) -> Mask {
        Mask::new(&self.shape, self.options, batch)
    }
}

/// `cap · tanh(score / cap)`
#[inline(always)]
fn cap<S: Simd>(simd: S, scores: S::V, softcap: f32) -> S::V {
    let softcap = simd.splat(softcap);
    simd.mul(softcap, tanh(simd, simd.div(scores, softcap)))
}

#[cfg(test)]
mod tests;
