//! Attention in plain burn operations: the default of every backend, and the words that the
//! options are spelt in.

use burn::tensor::{Bool, DType, Int, Tensor, TensorData};

use super::Backend;

/// The score of a hidden key, and the log-sum-exp of a row that sees none. Finite, because GPU
/// compilers with fast maths may assume that infinities do not occur.
pub const NOTHING_VISIBLE: f32 = -1.0e30;

/// How many query rows [`backward`] holds scores for at a time.
const BACKWARD_ROWS: usize = 128;

/// Which keys a query row sees, and how scores are made.
///
/// With `T` keys and `S` query rows, row `i` stands at position `T - S + i`: the query rows are the
/// newest ones.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AttentionOptions {
    /// Factor on `q · k`; `1 / sqrt(D)` when absent.
    pub scale: Option<f32>,
    /// A row sees no key after its own position.
    pub causal: bool,
    /// A row sees the last `window` positions up to and including its own.
    pub window: Option<usize>,
    /// Scores become `cap · tanh(score / cap)`, after scaling.
    pub softcap: Option<f32>,
    /// For each batch row, how many keys at the front are padding and hidden.
    pub left_padding: Option<Vec<usize>>,
}

impl AttentionOptions {
    /// Causal attention with the default scale: what a decoder uses.
    pub fn causal() -> Self {
        Self { causal: true, ..Self::default() }
    }

    /// The factor on `q · k` for a head dimension.
    pub fn scale_for(&self, head_dim: usize) -> f32 {
        self.scale.unwrap_or_else(|| 1.0 / (head_dim as f32).sqrt())
    }

    /// Whether every one of `keys` keys is visible to each of `rows` rows.
    fn all_visible(&self, rows: usize, keys: usize) -> bool {
        (!self.causal || rows == 1)
            && self.window.is_none_or(|window| window >= keys)
            && self.left_padding.as_ref().is_none_or(|padding| padding.iter().all(|&p| p == 0))
    }

    /// True where a key is hidden, `[1 or B, 1, rows, keys]`, for query rows that begin at `first`
    /// of `total` query rows.
    fn hidden<B: Backend>(
        &self,
        first: usize,
        rows: usize,
        total: usize,
        keys: usize,
        device: &B::Device,
    ) -> Option<Tensor<B, 4, Bool>> {
        if self.all_visible(total, keys) {
            return None;
        }
        let offset = keys as i64 - total as i64 + first as i64;
        let position = Tensor::<B, 1, Int>::arange(offset..offset + rows as i64, device)
            .reshape([1, 1, rows as i32, 1])
            .expand([1, 1, rows as i32, keys as i32]);
        let key = Tensor::<B, 1, Int>::arange(0..keys as i64, device)
            .reshape([1, 1, 1, keys as i32])
            .expand([1, 1, rows as i32, keys as i32]);
        let mut hidden: Option<Tensor<B, 4, Bool>> = None;
        let mut add = |mask: Tensor<B, 4, Bool>| {
            hidden = Some(match hidden.take() {
                Some(before) => {
                    let [a, _, _, _] = before.dims();
                    let [b, _, _, _] = mask.dims();
                    let shape = [a.max(b) as i32, 1, rows as i32, keys as i32];
                    before.expand(shape).bool_or(mask.expand(shape))
                }
                None => mask,
            });
        };
        if self.causal {
            add(key.clone().greater(position.clone()));
        }
        if let Some(window) = self.window {
            add((key.clone() + window as i64).lower_equal(position));
        }
        if let Some(padding) = &self.left_padding {
            let batch = padding.len();
            let padding: Vec<i64> = padding.iter().map(|&p| p as i64).collect();
            let shape = [batch as i32, 1, rows as i32, keys as i32];
            let limit = Tensor::<B, 1, Int>::from_data(TensorData::new(padding, [batch]), device)
                .reshape([batch as i32, 1, 1, 1])
                .expand(shape);
            add(key.expand(shape).lower(limit));
        }
        hidden
    }
}

/// Probabilities before normalisation, their row sums and the row maxima, all f32.
pub(super) struct Softmax<B: Backend> {
    /// `exp(score - max)`, zero where hidden: `[B, H, S, T]`.
    pub weights: Tensor<B, 4>,
    /// `[B, H, S, 1]`, at least a tiny positive number.
    pub sum: Tensor<B, 4>,
    /// `[B, H, S, 1]`.
    pub max: Tensor<B, 4>,
}

/// `q · kᵀ` without repeating the keys of grouped heads: the query heads of one key/value head are
/// consecutive, so they are rows of the same product. Gives `[B, H, S, T]` in f32.
pub(super) fn scores<B: Backend>(q: &Tensor<B, 4>, k: &Tensor<B, 4>) -> Tensor<B, 4> {
    let [batch, heads, rows, dim] = q.dims();
    let [_, kv_heads, keys, _] = k.dims();
    let grouped = q.clone().reshape([batch, kv_heads, heads / kv_heads * rows, dim]);
    grouped
        .cast(DType::F32)
        .matmul(k.clone().cast(DType::F32).swap_dims(2, 3))
        .reshape([batch, heads, rows, keys])
}

/// `weights · v` with the same grouping as [`scores`]; `weights` is `[B, H, S, T]`, f32.
pub(super) fn weighted_values<B: Backend>(
    weights: &Tensor<B, 4>,
    v: &Tensor<B, 4>,
) -> Tensor<B, 4> {
    let [batch, heads, rows, keys] = weights.dims();
    let [_, kv_heads, _, dim] = v.dims();
    weights
        .clone()
        .reshape([batch, kv_heads, heads / kv_heads * rows, keys])
        .matmul(v.clone().cast(DType::F32))
        .reshape([batch, heads, rows, dim])
}

fn capped<B: Backend>(scores: Tensor<B, 4>, softcap: Option<f32>) -> Tensor<B, 4> {
    match softcap {
        Some(cap) => scores.div_scalar(cap).tanh().mul_scalar(cap),
        None => scores,
    }
}

/// Scales, caps and masks raw scores, then takes their exponentials.
pub(super) fn softmax<B: Backend>(
    raw: Tensor<B, 4>,
    head_dim: usize,
    options: &AttentionOptions,
) -> Softmax<B> {
    let [_, _, rows, keys] = raw.dims();
    let device = raw.device();
    let scores = capped(raw.mul_scalar(options.scale_for(head_dim)), options.softcap);
    let Some(hidden) = options.hidden::<B>(0, rows, rows, keys, &device) else {
        let max = scores.clone().max_dim(3);
        let weights = (scores - max.clone()).exp();
        let sum = weights.clone().sum_dim(3);
        return Softmax { weights, sum, max };
    };
    let hidden = hidden.expand(scores.dims().map(|d| d as i32));
    let scores = scores.mask_fill(hidden.clone(), NOTHING_VISIBLE);
    let max = scores.clone().max_dim(3);
    let weights = (scores - max.clone()).exp().mask_fill(hidden, 0.0);
    let sum = weights.clone().sum_dim(3).clamp_min(f32::MIN_POSITIVE);
    Softmax { weights, sum, max }
}

pub(super) fn forward<B: Backend>(
    q: &Tensor<B, 4>,
    k: &Tensor<B, 4>,
    v: &Tensor<B, 4>,
    options: &AttentionOptions,
) -> (Tensor<B, 4>, Tensor<B, 3>) {
    let (dtype, [batch, heads, rows, dim]) = (q.dtype(), q.dims());
    let Softmax { weights, sum, max } = softmax(scores(q, k), dim, options);
    let out = weighted_values(&weights, v) / sum.clone();
    let lse = (max + sum.log()).reshape([batch, heads, rows]);
    (out.cast(dtype), lse)
}

pub(super) fn backward<B: Backend>(
    q: &Tensor<B, 4>,
    k: &Tensor<B, 4>,
    v: &Tensor<B, 4>,
    out: Tensor<B, 4>,
    lse: Tensor<B, 3>,
    grad: &Tensor<B, 4>,
    options: &AttentionOptions,
) -> [Tensor<B, 4>; 3] {
    let (dtype, [batch, heads, rows, dim]) = (q.dtype(), q.dims());
    let [_, kv_heads, keys, _] = k.dims();
    let group = heads / kv_heads;
    let device = q.device();
    let scale = options.scale_for(dim);

    let (k, v) = (k.clone().cast(DType::F32), v.clone().cast(DType::F32));
    let grad = grad.clone().cast(DType::F32);
    // D in the paper: the row sums of out · grad.
    let delta = (out.cast(DType::F32) * grad.clone()).sum_dim(3);
    let lse = lse.reshape([batch, heads, rows, 1]);

    let mut dq = Vec::new();
    let mut dk = Tensor::<B, 4>::zeros([batch, kv_heads, keys, dim], (&device, DType::F32));
    let mut dv = dk.clone();
    for first in (0..rows).step_by(BACKWARD_ROWS) {
        let n = BACKWARD_ROWS.min(rows - first);
        let block = |t: &Tensor<B, 4>| t.clone().narrow(2, first, n);
        let (q, grad) = (block(q).cast(DType::F32), block(&grad));
        let raw = scores(&q, &k).mul_scalar(scale);
        let capped = capped(raw, options.softcap);
        let mut p = (capped.clone() - block(&lse)).exp();
        if let Some(hidden) = options.hidden::<B>(first, n, rows, keys, &device) {
            p = p.mask_fill(hidden.expand([batch, heads, n, keys].map(|d| d as i32)), 0.0);
        }
        let dp = scores(&grad, &v);
        let mut ds = p.clone() * (dp - block(&delta));
        if let Some(cap) = options.softcap {
            // d/dx cap·tanh(x/cap) = 1 - tanh²
            let tanh = capped.div_scalar(cap);
            ds = ds * (tanh.clone() * tanh).neg().add_scalar(1.0);
        }
        dq.push(weighted_values(&ds, &k).mul_scalar(scale));
        let grouped = |t: Tensor<B, 4>, last: usize| t.reshape([batch, kv_heads, group * n, last]);
        dk = dk + grouped(ds, keys).swap_dims(2, 3).matmul(grouped(q, dim)).mul_scalar(scale);
        dv = dv + grouped(p, keys).swap_dims(2, 3).matmul(grouped(grad, dim));
    }
    [Tensor::cat(dq, 2), dk, dv].map(|t| t.cast(dtype))
}
