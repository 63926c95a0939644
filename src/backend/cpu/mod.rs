//! The CPU backend: burn-flex tensors, with this crate's own kernels on their slices.
//!
//! The kernels compute in f32. Other types are converted on the way in and out, except for
//! matrices in f16: those are read as they are, at half the memory traffic, with f32 activations
//! ([`Backend::activation_dtype`]).

mod kernels;
mod kv_cache;
mod packed;
mod slices;

pub use kv_cache::HostKvCache;
pub use packed::CpuPacked;

use burn::tensor::{DType, Tensor};

use super::{
    AttentionOptions, Backend, CacheError, FusedLinear, HostPacked, KvCache, PackError,
    PackedStorage, RopeOrder, RotaryStep, StepShape, ops,
};
use crate::quant::Encoding;
use burn_flex::FlexDevice;
use kernels::{Activations, Added, AttentionShape, KvView, LowRank, PackedMatrix, RopeShape};
use slices::{Floats, Stored, tensor};

/// burn-flex.
pub type Cpu = burn_flex::Flex;

impl Backend for Cpu {
    type Packed = CpuPacked;
    type KvCache = HostKvCache;

    fn activation_dtype(_weights: DType) -> DType {
        DType::F32
    }

    fn gather<T>(_device: &Self::Device, work: impl FnOnce() -> T) -> T {
        kernels::with_crew(work)
    }

    /// The rows of a product in the order of the kernels, or in 8 bits for packed weights, stay
    /// allocated for the next one.
    fn scratch_bytes(step: &StepShape) -> u64 {
        let (rows, depth) = (step.rows, step.hidden.max(step.intermediate).max(step.queries));
        let arranged =
            if step.packed { kernels::quantised_bytes(rows, depth) } else { 4 * rows * depth };
        (4 * step.activations() + arranged) as u64
    }

    fn scaled_dot_product_attention(
        q: Tensor<Self, 4>,
        k: Tensor<Self, 4>,
        v: Tensor<Self, 4>,
        options: &AttentionOptions,
    ) -> Tensor<Self, 4> {
        attention(q, k, v, options, None)
    }

    fn attention_with_lse(
        q: Tensor<Self, 4>,
        k: Tensor<Self, 4>,
        v: Tensor<Self, 4>,
        options: &AttentionOptions,
    ) -> (Tensor<Self, 4>, Tensor<Self, 3>) {
        let [batch, heads, rows, _] = q.dims();
        let mut lse = vec![0.0; batch * heads * rows];
        let out = attention(q, k, v, options, Some(&mut lse));
        (out, tensor(lse, [batch, heads, rows], DType::F32))
    }

    fn dense_linear(
        x: Tensor<Self, 2>,
        weight: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Tensor<Self, 2> {
        let (dtype, [rows, inputs]) = (x.dtype(), x.dims());
        let [outputs, columns] = weight.dims();
        if columns != inputs {
            // The default says what does not fit, as burn does everywhere.
            return ops::linear(x, weight, bias);
        }
        let (x, weight, bias) = (Floats::of(x), Stored::of(weight), bias.map(Floats::of));
        let added = Added::of(bias.as_ref().map(Floats::as_slice));
        let mut out = vec![0.0; rows * outputs];
        kernels::linear(x.as_slice(), rows, weight.weight(), outputs, inputs, added, &mut out);
        tensor(out, [rows, outputs], dtype)
    }

    /// What an adapter adds to one row is a part of the base's product.
    fn fused_linear(
        x: &Tensor<Self, 2>,
        operation: &FusedLinear<'_, Self>,
    ) -> Option<Tensor<Self, 2>> {
        let FusedLinear { weight, norm: None, low_rank: Some([a, b]), bias, .. } = operation else {
            return None;
        };
        let ([rows, inputs], [rank, columns], [outputs, _]) = (x.dims(), a.dims(), b.dims());
        let fits = rows == 1 && columns == inputs && b.dims() == [outputs, rank];
        if !fits || operation.gated || !(1..=kernels::MAX_RANK).contains(&rank) {
            return None;
        }
        let (dtype, x, bias) = (x.dtype(), Floats::of(x.clone()), bias.cloned().map(Floats::of));
        let [a, b] = [*a, *b].map(|factor| Stored::of(factor.clone()));
        let added = Added {
            bias: bias.as_ref().map(Floats::as_slice),
            low_rank: Some(LowRank { rank, a: a.weight(), b: b.weight() }),
        };
        let mut out = vec![0.0; outputs];
        match weight {
            super::Weight::Dense(weight) => {
                if weight.dims() != [outputs, inputs] {
                    return None;
                }
                let weight = Stored::of(weight.clone());
                kernels::linear(x.as_slice(), 1, weight.weight(), outputs, inputs, added, &mut out);
            }
            super::Weight::Packed(weight) => {
                let matrix = weight.matrix().filter(|_| weight.shape() == [outputs, inputs])?;
                let activations = Activations::Quantised;
                kernels::packed_linear(x.as_slice(), 1, &matrix, added, activations, &mut out);
            }
        }
        if let Some(residual) = operation.residual {
            let residual = Floats::of(residual.clone());
            out.iter_mut().zip(residual.as_slice()).for_each(|(out, residual)| *out += residual);
        }
        Some(tensor(out, [1, outputs], dtype))
    }

    /// Half of what a step reads for adapters: beside weights of a few bits, with activations rounded to 8,
    /// the 11 bits of an f16 lose nothing that counts.
    fn low_rank_dtype(weights: DType, is_packed: bool) -> DType {
        if is_packed { DType::F16 } else { weights }
    }

    fn rms_norm(x: Tensor<Self, 2>, weight: Tensor<Self, 1>, epsilon: f64) -> Tensor<Self, 2> {
        let (dtype, shape) = (x.dtype(), x.dims());
        let [rows, dim] = shape;
        let mut out = vec![0.0; rows * dim];
        let (x, weight) = (Floats::of(x), Floats::of(weight));
        kernels::rms_norm(x.as_slice(), weight.as_slice(), epsilon as f32, rows, dim, &mut out);
        tensor(out, shape, dtype)
    }

    fn add_rms_norm(
        x: Tensor<Self, 2>,
        residual: Tensor<Self, 2>,
        weight: Tensor<Self, 1>,
        epsilon: f64,
    ) -> [Tensor<Self, 2>; 2] {
        let (dtype, shape) = (x.dtype(), x.dims());
        let [rows, dim] = shape;
        let (mut sum, mut out) = (vec![0.0; rows * dim], vec![0.0; rows * dim]);
        let (x, residual, weight) = (Floats::of(x), Floats::of(residual), Floats::of(weight));
        kernels::add_rms_norm(
            x.as_slice(),
            residual.as_slice(),
            weight.as_slice(),
            epsilon as f32,
            rows,
            dim,
            &mut sum,
            &mut out,
        );
        [sum, out].map(|values| tensor(values, shape, dtype))
    }

    fn rope(
        x: Tensor<Self, 4>,
        cos: Tensor<Self, 3>,
        sin: Tensor<Self, 3>,
        order: RopeOrder,
    ) -> Tensor<Self, 4> {
        let (dtype, shape) = (x.dtype(), x.dims());
        let [batch, heads, seq, dim] = shape;
        let [tables, _, _] = cos.dims();
        let positions: Vec<usize> = (0..batch)
            .flat_map(|b| (0..seq).map(move |s| if tables == 1 { s } else { b * seq + s }))
            .collect();
        let order = match order {
            RopeOrder::HalfSplit => kernels::RopeOrder::HalfSplit,
            RopeOrder::AdjacentPairs => kernels::RopeOrder::AdjacentPairs,
        };
        let mut values = Floats::of(x).into_vec();
        let (cos, sin) = (Floats::of(cos), Floats::of(sin));
        let rope = RopeShape { batch, heads, seq, dim, rotary_dim: dim };
        kernels::rope(&mut values, rope, cos.as_slice(), sin.as_slice(), &positions, order);
        tensor(values, shape, dtype)
    }

    /// The defaults, with the rows of each head side by side for a prompt: burn-flex would bring them there
    /// value by value.
    fn rotary_attention(
        [q, k, v]: [Tensor<Self, 2>; 3],
        head_dim: usize,
        step: &RotaryStep<Self>,
        cache: Option<&mut HostKvCache>,
    ) -> Result<Tensor<Self, 2>, CacheError> {
        let ([rows, width], dtype) = (q.dims(), q.dtype());
        let split = |x: Tensor<Self, 2>| {
            let heads = x.dims()[1] / head_dim;
            if step.len == 1 {
                return x.reshape([step.batch, heads, 1, head_dim]);
            }
            let x = Floats::of(x);
            let shape = [step.batch, step.len, heads, head_dim];
            let x = kernels::swap_middle(x.as_slice(), shape);
            tensor(x, [step.batch, heads, step.len, head_dim], dtype)
        };
        let rotate = |x| Self::rope(x, step.cos.clone(), step.sin.clone(), step.order);
        let (q, k, v) = (rotate(split(q)), rotate(split(k)), split(v));
        let shape = [step.batch, width / head_dim, step.len, head_dim];
        let out = match cache {
            Some(cache) => {
                cache.append(k, v)?;
                cache.attend(q, &step.options)
            }
            None => Self::scaled_dot_product_attention(q, k, v, &step.options),
        };
        if step.len == 1 {
            return Ok(out.reshape([rows, width]));
        }
        Ok(tensor(kernels::swap_middle(Floats::of(out).as_slice(), shape), [rows, width], dtype))
    }

    fn swiglu(gate: Tensor<Self, 2>, up: Tensor<Self, 2>) -> Tensor<Self, 2> {
        let (dtype, shape) = (gate.dtype(), gate.dims());
        let mut out = vec![0.0; shape[0] * shape[1]];
        kernels::swiglu(Floats::of(gate).as_slice(), Floats::of(up).as_slice(), &mut out);
        tensor(out, shape, dtype)
    }

    fn keeps_packed(encoding: Encoding, [_, columns]: [usize; 2], _device: &FlexDevice) -> bool {
        PackedMatrix::takes(encoding) && columns.is_multiple_of(encoding.block_len())
    }

    fn pack(weight: HostPacked, _device: &Self::Device) -> CpuPacked {
        CpuPacked::new(weight)
    }

    fn packed_rows(
        weight: &CpuPacked,
        ids: &[u32],
        device: &Self::Device,
        dtype: DType,
    ) -> Result<Tensor<Self, 2>, PackError> {
        super::packed::unpack(&weight.rows(ids)?, device, dtype)
    }

    /// With activations in 8 bits, as llama.cpp does it.
    fn packed_linear(
        x: Tensor<Self, 2>,
        weight: &CpuPacked,
        bias: Option<Tensor<Self, 1>>,
    ) -> Result<Tensor<Self, 2>, PackError> {
        let (dtype, [rows, inputs], [outputs, columns]) = (x.dtype(), x.dims(), weight.shape());
        let Some(matrix) = weight.matrix().filter(|_| columns == inputs) else {
            let dense = Self::unpack(weight, &x.device(), dtype)?;
            return Ok(Self::dense_linear(x, dense, bias));
        };
        let (x, bias) = (Floats::of(x), bias.map(Floats::of));
        let added = Added::of(bias.as_ref().map(Floats::as_slice));
        let mut out = vec![0.0; rows * outputs];
        kernels::packed_linear(
            x.as_slice(),
            rows,
            &matrix,
            added,
            Activations::Quantised,
            &mut out,
        );
        Ok(tensor(out, [rows, outputs], dtype))
    }
}

fn attention(
    q: Tensor<Cpu, 4>,
    k: Tensor<Cpu, 4>,
    v: Tensor<Cpu, 4>,
    options: &AttentionOptions,
    lse: Option<&mut [f32]>,
) -> Tensor<Cpu, 4> {
    let [batch, heads, q_len, head_dim] = q.dims();
    let [_, kv_heads, kv_len, _] = k.dims();
    let shape = AttentionShape { batch, heads, kv_heads, q_len, kv_len, head_dim };
    let (k, v) = (Floats::of(k), Floats::of(v));
    let k = KvView::contiguous(k.as_slice(), &shape);
    let v = KvView::contiguous(v.as_slice(), &shape);
    attend(q, k, v, shape, options, lse)
}

/// Attention over keys and values wherever they lie.
fn attend(
    q: Tensor<Cpu, 4>,
    k: KvView<'_>,
    v: KvView<'_>,
    shape: AttentionShape,
    options: &AttentionOptions,
    lse: Option<&mut [f32]>,
) -> Tensor<Cpu, 4> {
    let (dtype, dims) = (q.dtype(), q.dims());
    let mut out = vec![0.0; dims.iter().product()];
    let options = kernels::AttentionOptions {
        scale: options.scale_for(shape.head_dim),
        causal: options.causal,
        window: options.window,
        softcap: options.softcap,
        left_padding: options.left_padding.as_deref(),
    };
    kernels::attention(Floats::of(q).as_slice(), k, v, shape, &options, &mut out, lse);
    tensor(out, dims, dtype)
}
