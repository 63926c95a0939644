//! burn's cube backend with this crate's kernels, over any runtime of CubeCL that they are generated
//! for ([`Gpu`]): wgpu, and CUDA with the feature `cuda`.
//!
//! burn's `fusion` and `autotune` features are off, deliberately: `fusion` changes the tensor type
//! underneath this trait, and `autotune` costs seconds at the first product of each shape.

mod attention;
mod kv_cache;
mod ops;
mod packed;
mod parked;
mod tensors;

use std::sync::Arc;

use burn::tensor::{DType, Tensor, TensorData};
use burn_cubecl::{CubeBackend, CubeRuntime};
pub use kv_cache::CubeKvCache;
pub use packed::{CubePacked, DeviceBlocks};

use super::{
    Ahead, AttentionOptions, Backend, CacheError, Chosen, FusedLinear, HostPacked, PackError,
    Parked, RotaryStep, StepShape,
};
use crate::{
    dispatch::{Kernels, gather},
    quant::Encoding,
};

/// A runtime that this crate's kernels run on.
pub trait Gpu: CubeRuntime {
    /// The kernels on one of its devices.
    fn kernels(device: &Self::CubeDevice) -> Arc<Kernels>;
}

/// burn's cube backend. Booleans take 32 bits, because WGSL can address nothing smaller.
pub type Cube<R> = CubeBackend<R, f32, i32, u32>;

impl<R: Gpu> Backend for Cube<R> {
    type Packed = CubePacked<R>;
    type KvCache = CubeKvCache<R>;

    /// Matrices in f16 are read as they are; everything between them is f32, which costs nothing
    /// beside the matrices and rounds nothing.
    fn activation_dtype(_weights: DType) -> DType {
        DType::F32
    }

    fn dense_linear(
        x: Tensor<Self, 2>,
        weight: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Tensor<Self, 2> {
        if let Some(out) = ops::few_dense_rows(&x, &weight, &ops::Around::bias(bias.as_ref())) {
            return out;
        }
        ops::by_reference("dense_linear", "many rows, other types, or columns out of step");
        let [rows, columns] = x.dims();
        if x.dtype() == DType::F32
            && weight.dtype() == DType::F16
            && rows > ops::FEW_ROWS
            && columns.is_multiple_of(4)
        {
            // For many rows burn's product wants one type: the smaller one, which matrix units
            // take. The result is rounded to f16 on the way.
            let out = super::ops::linear(x.cast(DType::F16), weight, None).cast(DType::F32);
            return super::ops::add_bias(out, bias);
        }
        super::ops::linear(x, weight, bias)
    }

    /// CUDA's rows may begin at multiples of some hundred bytes, and our kernels read them without
    /// gaps: once, not at each product.
    fn stored(matrix: Tensor<Self, 2>) -> Tensor<Self, 2> {
        tensors::tensor(tensors::contiguous(matrix))
    }

    fn dense_rows(weight: Tensor<Self, 2>, ids: &[u32], dtype: DType) -> Tensor<Self, 2> {
        ops::dense_rows(&weight, ids, dtype).unwrap_or_else(|| {
            ops::by_reference("dense_rows", "it gives f32, four columns at a time");
            super::ops::dense_rows(weight, ids, dtype)
        })
    }

    fn rms_norm(x: Tensor<Self, 2>, weight: Tensor<Self, 1>, epsilon: f64) -> Tensor<Self, 2> {
        if let Some([_, out]) = ops::rms_norm(&x, None, &weight, epsilon) {
            return out;
        }
        ops::by_reference("rms_norm", "it takes f32");
        super::ops::rms_norm(x, weight, epsilon)
    }

    fn add_rms_norm(
        x: Tensor<Self, 2>,
        residual: Tensor<Self, 2>,
        weight: Tensor<Self, 1>,
        epsilon: f64,
    ) -> [Tensor<Self, 2>; 2] {
        if let Some(both) = ops::rms_norm(&x, Some(&residual), &weight, epsilon) {
            return both;
        }
        ops::by_reference("add_rms_norm", "it takes f32");
        let sum = x + residual;
        [sum.clone(), Self::rms_norm(sum, weight, epsilon)]
    }

    fn swiglu(gate: Tensor<Self, 2>, up: Tensor<Self, 2>) -> Tensor<Self, 2> {
        ops::swiglu(&gate, &up).unwrap_or_else(|| {
            ops::by_reference("swiglu", "it takes f32, four columns at a time");
            super::ops::swiglu(gate, up)
        })
    }

    fn attention_with_lse(
        q: Tensor<Self, 4>,
        k: Tensor<Self, 4>,
        v: Tensor<Self, 4>,
        options: &AttentionOptions,
    ) -> (Tensor<Self, 4>, Tensor<Self, 3>) {
        attention::with_lse(&q, &k, &v, options).unwrap_or_else(|| {
            ops::by_reference("attention", "head dimensions must be multiples of 16, at most 256");
            super::attention::forward(&q, &k, &v, options)
        })
    }

    fn rotary_attention(
        projections: [Tensor<Self, 2>; 3],
        head_dim: usize,
        step: &RotaryStep<Self>,
        cache: Option<&mut CubeKvCache<R>>,
    ) -> Result<Tensor<Self, 2>, CacheError> {
        let Some(cache) = cache else {
            ops::by_reference("rotary_attention", "there is no cache");
            return super::ops::rotary_attention(projections, head_dim, step, None);
        };
        match cache.rotary_attention(projections, step) {
            Ok(out) => out,
            Err(projections) => {
                ops::by_reference("rotary_attention", "it takes f32 and even head dimensions");
                super::ops::rotary_attention(projections, head_dim, step, Some(cache))
            }
        }
    }

    fn fused_linear(
        x: &Tensor<Self, 2>,
        operation: &FusedLinear<'_, Self>,
    ) -> Option<Tensor<Self, 2>> {
        ops::fused_linear(x, operation)
    }

    fn columns(x: Tensor<Self, 2>, widths: &[usize]) -> Vec<Tensor<Self, 2>> {
        match tensors::parts(x, widths) {
            Ok(parts) => parts,
            Err(x) => {
                // burn may copy them.
                gather::submit();
                super::ops::columns(&x, widths)
            }
        }
    }

    fn step_values(values: Vec<f32>, device: &R::Device) -> Tensor<Self, 1> {
        let handle = R::kernels(device).passing(bytemuck::cast_slice(&values));
        tensors::floats(device, [values.len()], handle)
    }

    fn gather<T>(device: &R::Device, work: impl FnOnce() -> T) -> T {
        R::kernels(device).gather(work)
    }

    fn ahead<T>(device: &R::Device, work: impl FnOnce() -> T) -> Option<(T, Ahead)> {
        let (made, listed) = R::kernels(device).ahead(work)?;
        Some((made, Ahead::new(move |ids| listed.run(ids))))
    }

    fn likeliest(logits: &Tensor<Self, 2>) -> Option<Chosen<Self>> {
        ops::likeliest(logits)
    }

    fn follow<T>(
        device: &R::Device,
        tokens: &Chosen<Self>,
        work: impl FnOnce() -> Option<T>,
    ) -> Option<T> {
        let words = tokens.words().into_primitive();
        R::kernels(device).follow(&words.handle, tokens.rows(), work)
    }

    fn read_chosen(
        tokens: &Chosen<Self>,
        meanwhile: impl FnOnce(),
    ) -> Result<Vec<(u32, f32)>, String> {
        let (words, count) = (tokens.words().into_primitive(), 2 * tokens.rows());
        let kernels = R::kernels(&words.device);
        let words = match tokens.begun() {
            Some(begun) => kernels.finish_read(&begun, meanwhile),
            None => kernels.values(words.handle, count, meanwhile),
        }?;
        Ok(Chosen::<Self>::pairs(&words))
    }

    fn read_while<const D: usize>(
        tensor: Tensor<Self, D>,
        meanwhile: impl FnOnce(),
    ) -> Result<Vec<f32>, String> {
        let tensor = tensors::contiguous(tensor.cast(DType::F32));
        let count = tensor.meta.num_elements();
        R::kernels(&tensor.device).values(tensor.handle, count, meanwhile)
    }

    fn joins_linears() -> bool {
        true
    }

    /// Linear layers of one input are one matrix: what they give is there as a whole and in parts.
    /// CubeCL's pools have pages for each class of sizes, and hold more than what lives at once. How
    /// much more was measured on an H100 after prompts of 512 to 8,192 tokens (1B and 8B, f16 and
    /// `Q4_0`): with these factors all of it was within 5 % of what they held.
    fn scratch_bytes(step: &StepShape) -> u64 {
        let joined = step.rows * (step.queries + 2 * step.kv).max(2 * step.intermediate);
        let lives = (4 * (step.activations() + joined)) as u64;
        if step.packed { lives * 11 / 5 } else { lives * 2 }
    }

    fn park(tensors: Vec<TensorData>, _device: &R::Device) -> Arc<dyn Parked<Self>> {
        parked::park(&tensors)
    }

    fn keeps_packed(encoding: Encoding, [rows, columns]: [usize; 2], device: &R::Device) -> bool {
        let row = packed::format_of(encoding, columns).and_then(|_| encoding.bytes_for(columns));
        row.is_some_and(|row| (rows * row) as u64 <= Self::max_tensor_bytes(device))
    }

    fn pack(weight: HostPacked, device: &R::Device) -> CubePacked<R> {
        CubePacked::new(weight, device)
    }

    fn packed_linear(
        x: Tensor<Self, 2>,
        weight: &CubePacked<R>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Result<Tensor<Self, 2>, PackError> {
        packed::linear(x, weight, bias)
    }

    fn unpack(
        weight: &CubePacked<R>,
        device: &R::Device,
        dtype: DType,
    ) -> Result<Tensor<Self, 2>, PackError> {
        packed::unpack(weight, device, dtype)
    }

    fn packed_rows(
        weight: &CubePacked<R>,
        ids: &[u32],
        device: &R::Device,
        dtype: DType,
    ) -> Result<Tensor<Self, 2>, PackError> {
        packed::rows(weight, ids, device, dtype)
    }

    fn max_tensor_bytes(device: &R::Device) -> u64 {
        R::client(device).properties().memory.max_page_size
    }
}
