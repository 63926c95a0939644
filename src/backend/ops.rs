//! The defaults of the smaller operations, in plain burn operations.

use burn::tensor::{DType, Int, Tensor, activation};

use super::{AttentionOptions, Backend, CacheError, KvCache};

/// Which elements of a head form the pairs that rotary embedding turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopeOrder {
    /// `(i, i + D/2)`: Hugging Face's layout, and GPT-NeoX's.
    HalfSplit,
    /// `(2i, 2i + 1)`: Meta's original layout, and llama.cpp's for GGUF files of arch `llama`.
    AdjacentPairs,
}

/// The positions that one step adds: what every layer's attention shares.
#[derive(Clone, Debug)]
pub struct RotaryStep<B: Backend> {
    /// Sequences.
    pub batch: usize,
    /// New positions of each.
    pub len: usize,
    /// Cosines, `[1 or batch, len, head_dim / 2]`, f32.
    pub cos: Tensor<B, 3>,
    /// Sines, likewise.
    pub sin: Tensor<B, 3>,
    /// Which elements of a head turn together.
    pub order: RopeOrder,
    /// Which keys a position sees.
    pub options: AttentionOptions,
}

/// Rotation, cache and attention one after the other.
pub(super) fn rotary_attention<B: Backend>(
    [q, k, v]: [Tensor<B, 2>; 3],
    head_dim: usize,
    step: &RotaryStep<B>,
    cache: Option<&mut B::KvCache>,
) -> Result<Tensor<B, 2>, CacheError> {
    let (batch, len) = (step.batch, step.len);
    let [rows, width] = q.dims();
    let split = |x: Tensor<B, 2>| {
        let heads = x.dims()[1] / head_dim;
        x.reshape([batch, len, heads, head_dim]).swap_dims(1, 2)
    };
    let rotate = |x| B::rope(x, step.cos.clone(), step.sin.clone(), step.order);
    let (q, k, v) = (rotate(split(q)), rotate(split(k)), split(v));
    let out = match cache {
        Some(cache) => {
            cache.append(k, v)?;
            B::attention_cached(q, cache, &step.options)
        }
        None => B::scaled_dot_product_attention(q, k, v, &step.options),
    };
    Ok(out.swap_dims(1, 2).reshape([rows, width]))
}

pub(super) fn linear<B: Backend>(
    x: Tensor<B, 2>,
    weight: Tensor<B, 2>,
    bias: Option<Tensor<B, 1>>,
) -> Tensor<B, 2> {
    let weight = if weight.dtype() == x.dtype() { weight } else { weight.cast(x.dtype()) };
    let out = x.matmul(weight.transpose());
    add_bias(out, bias)
}

/// The bias in the type of the product.
pub(crate) fn add_bias<B: Backend>(out: Tensor<B, 2>, bias: Option<Tensor<B, 1>>) -> Tensor<B, 2> {
    match bias {
        Some(bias) => {
            let bias = bias.cast(out.dtype());
            out + bias.unsqueeze()
        }
        None => out,
    }
}

pub(super) fn rms_norm<B: Backend>(
    x: Tensor<B, 2>,
    weight: Tensor<B, 1>,
    epsilon: f64,
) -> Tensor<B, 2> {
    let dtype = x.dtype();
    let x = x.cast(DType::F32);
    let rms = (x.clone() * x.clone()).mean_dim(1).add_scalar(epsilon).sqrt();
    ((x / rms) * weight.cast(DType::F32).unsqueeze()).cast(dtype)
}

pub(super) fn rope<B: Backend>(
    x: Tensor<B, 4>,
    cos: Tensor<B, 3>,
    sin: Tensor<B, 3>,
    order: RopeOrder,
) -> Tensor<B, 4> {
    let [batch, heads, rows, dim] = x.dims();
    let (dtype, half) = (x.dtype(), dim / 2);
    let x = x.cast(DType::F32);
    match order {
        RopeOrder::HalfSplit => {
            let (cos, sin) = (cos.unsqueeze_dim::<4>(1), sin.unsqueeze_dim::<4>(1));
            let first = x.clone().narrow(3, 0, half);
            let second = x.narrow(3, half, half);
            let low = first.clone() * cos.clone() - second.clone() * sin.clone();
            let high = second * cos + first * sin;
            Tensor::cat(vec![low, high], 3)
        }
        RopeOrder::AdjacentPairs => {
            let x = x.reshape([batch, heads, rows, half, 2]);
            let cos = cos.unsqueeze_dim::<4>(1).unsqueeze_dim::<5>(4);
            let sin = sin.unsqueeze_dim::<4>(1).unsqueeze_dim::<5>(4);
            let first = x.clone().narrow(4, 0, 1);
            let second = x.narrow(4, 1, 1);
            let low = first.clone() * cos.clone() - second.clone() * sin.clone();
            let high = second * cos + first * sin;
            Tensor::cat(vec![low, high], 4).reshape([batch, heads, rows, dim])
        }
    }
    .cast(dtype)
}

pub(super) fn swiglu<B: Backend>(gate: Tensor<B, 2>, up: Tensor<B, 2>) -> Tensor<B, 2> {
    let dtype = gate.dtype();
    (activation::silu(gate.cast(DType::F32)) * up.cast(DType::F32)).cast(dtype)
}

/// [`Backend::dense_rows`].
pub(super) fn dense_rows<B: Backend>(
    weight: Tensor<B, 2>,
    ids: &[u32],
    dtype: DType,
) -> Tensor<B, 2> {
    let rows = if let [id] = ids {
        // A row is a part of the matrix, where it lies.
        weight.narrow(0, *id as usize, 1)
    } else {
        let ids: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
        let ids = Tensor::<B, 1, Int>::from_data(&ids[..], &weight.device());
        weight.select(0, ids)
    };
    if rows.dtype() == dtype { rows } else { rows.cast(dtype) }
}

pub(super) fn columns<B: Backend>(x: &Tensor<B, 2>, widths: &[usize]) -> Vec<Tensor<B, 2>> {
    let [rows, width] = x.dims();
    let mut first = 0;
    let of = |&n: &usize| {
        let from = first;
        first += n;
        if rows == 1 {
            // Of a vector a part is contiguous, so that nothing is copied.
            x.clone().reshape([width]).narrow(0, from, n).reshape([1, n])
        } else {
            x.clone().narrow(1, from, n)
        }
    };
    widths.iter().map(of).collect()
}
