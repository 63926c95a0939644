//! The tensor-backend trait that models and layers are written against.
//!
//! [`Backend`] is burn's [`burn::tensor::backend::Backend`] plus the fused operations a language
//! model spends its time in. Every operation has a default in plain burn operations, so a new
//! backend is usable after a few lines and can then override what it does better:
//!
//! ```
//! use metal_candle::backend::{Backend, HostPacked, TensorKvCache};
//! # fn assert_backend<B: Backend>() {}
//! // `impl Backend for MyBackend { type Packed = HostPacked; type KvCache = TensorKvCache<Self>;
//! //                               fn pack(w: HostPacked, _: &Self::Device) -> HostPacked { w } }`
//! assert_backend::<metal_candle::backend::Cpu>();
//! assert_backend::<metal_candle::backend::Candle>();
//! assert_backend::<metal_candle::backend::Wgpu>();
//! ```
//!
//! | implementation | what it is |
//! |---|---|
//! | [`Cpu`] | burn-flex with this crate's SIMD kernels |
//! | [`Candle`] | candle on the CPU: the second oracle |
//! | [`Wgpu`] | burn's cube backend ([`Cube`]) over wgpu; each device takes SPIR-V or WGSL ([`wgpu::ShaderLanguage`]) |
//! | `Cuda` | the same over CUDA, with the feature `cuda` |
//! | [`Autodiff<B>`](Autodiff) | any of them with gradients |

mod ahead;
mod attention;
mod autodiff;
mod candle;
mod chosen;
pub mod cpu;
pub mod cube;
#[cfg(feature = "cuda")]
pub mod cuda;
mod fused;
mod kv_cache;
mod ops;
mod packed;
mod parked;
mod scratch;
mod streams;
pub mod wgpu;

pub use ahead::Ahead;
pub use attention::{AttentionOptions, NOTHING_VISIBLE};
pub use autodiff::AutodiffKvCache;
pub use burn_autodiff::Autodiff;
pub use candle::Candle;
pub use chosen::Chosen;
pub use cpu::Cpu;
pub use cube::Cube;
#[cfg(feature = "cuda")]
pub use cuda::Cuda;
pub use fused::{FusedLinear, Weight};
pub use kv_cache::{CacheError, KvCache, KvCacheShape, TensorKvCache};
pub(crate) use ops::add_bias;
pub use ops::{RopeOrder, RotaryStep};
pub(crate) use packed::tensor_data;
pub use packed::{HostPacked, PackError, PackedStorage};
pub use parked::Parked;
pub use scratch::StepShape;
pub use wgpu::Wgpu;

use std::sync::Arc;

use burn::tensor::{DType, Tensor, TensorData};

use crate::quant::Encoding;

/// burn's backend trait, plus the fused operations of a language model.
///
/// Shapes are row-major. `B` is batch, `H` query heads, `K` key/value heads (`H` is a multiple of
/// `K`), `S` query rows, `T` keys, `D` the head dimension.
pub trait Backend: burn::tensor::backend::Backend {
    /// Block-quantised weights, as this backend keeps them.
    type Packed: PackedStorage;

    /// Mutable storage for the keys and values of one layer. burn tensors are functional; a cache
    /// that rebuilds itself each step would write its whole content for every token.
    type KvCache: KvCache<Self>;

    /// The largest tensor, in bytes, that a device can bind to a kernel.
    fn max_tensor_bytes(_device: &Self::Device) -> u64 {
        u64::MAX
    }

    /// The type of activations when matrices are stored as `weights`.
    fn activation_dtype(weights: DType) -> DType {
        weights
    }

    /// The type of an adapter's low-rank matrices beside a matrix that is packed or stored as `weights`.
    fn low_rank_dtype(weights: DType, _is_packed: bool) -> DType {
        weights
    }

    /// The type of cached keys and values when matrices are stored as `weights`.
    fn cache_dtype(weights: DType) -> DType {
        weights
    }

    /// Bytes that a forward pass takes at most, besides weights and cache: what a prediction of
    /// memory counts on. The default is that of attention which materialises its scores.
    fn scratch_bytes(step: &StepShape) -> u64 {
        4 * (step.activations() + step.scores()) as u64
    }

    /// Scaled dot-product attention (Vaswani et al., 2017). burn has an `attention` of its own with
    /// fewer options, hence the long name.
    ///
    /// # Shapes
    /// - `q`: `[B, H, S, D]`; `k`, `v`: `[B, K, T, D]`
    /// - output: `[B, H, S, D]`, in the type of `q`
    fn scaled_dot_product_attention(
        q: Tensor<Self, 4>,
        k: Tensor<Self, 4>,
        v: Tensor<Self, 4>,
        options: &AttentionOptions,
    ) -> Tensor<Self, 4> {
        Self::attention_with_lse(q, k, v, options).0
    }

    /// [`scaled_dot_product_attention`](Self::scaled_dot_product_attention), together with the log-sum-exp of each row's scores (natural
    /// logarithm, f32, `[B, H, S]`): what [`attention_backward`](Self::attention_backward) recomputes
    /// the probabilities from. A row that sees no key gives zeros and [`NOTHING_VISIBLE`].
    fn attention_with_lse(
        q: Tensor<Self, 4>,
        k: Tensor<Self, 4>,
        v: Tensor<Self, 4>,
        options: &AttentionOptions,
    ) -> (Tensor<Self, 4>, Tensor<Self, 3>) {
        attention::forward(&q, &k, &v, options)
    }

    /// Gradients of attention with respect to `q`, `k` and `v`, recomputed from the log-sum-exp
    /// (Dao et al., `FlashAttention`, 2022, algorithm 4). The scores exist for one block of query
    /// rows at a time, never as `S × T`.
    fn attention_backward(
        q: Tensor<Self, 4>,
        k: Tensor<Self, 4>,
        v: Tensor<Self, 4>,
        out: Tensor<Self, 4>,
        lse: Tensor<Self, 3>,
        grad: Tensor<Self, 4>,
        options: &AttentionOptions,
    ) -> [Tensor<Self, 4>; 3] {
        attention::backward(&q, &k, &v, out, lse, &grad, options)
    }

    /// Attention of the newest `S` positions over everything that the cache holds: the cache
    /// already contains the keys and values of the query rows. Output as
    /// [`scaled_dot_product_attention`](Self::scaled_dot_product_attention).
    fn attention_cached(
        q: Tensor<Self, 4>,
        cache: &Self::KvCache,
        options: &AttentionOptions,
    ) -> Tensor<Self, 4> {
        cache.attend(q, options)
    }

    /// Self-attention of one layer, from its projections to what its output projection takes: the
    /// queries and keys turned by their positions, keys and values added to the cache (if there is
    /// one), and attention over everything that it then holds.
    ///
    /// # Shapes
    /// - `[q, k, v]`: `[B · S, H · D]`, `[B · S, K · D]` twice, row by row of each sequence
    /// - output: as `q`
    ///
    /// # Errors
    /// [`CacheError`] when the cache has no room; it is then as it was.
    fn rotary_attention(
        projections: [Tensor<Self, 2>; 3],
        head_dim: usize,
        step: &RotaryStep<Self>,
        cache: Option<&mut Self::KvCache>,
    ) -> Result<Tensor<Self, 2>, CacheError> {
        ops::rotary_attention(projections, head_dim, step, cache)
    }

    /// `x · wᵀ + bias`, with `x: [rows, in]`, `weight: [out, in]`, `bias: [out]`; f32 accumulation,
    /// output in the type of `x`. The weight may be stored in a smaller type than `x`.
    fn dense_linear(
        x: Tensor<Self, 2>,
        weight: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Tensor<Self, 2> {
        ops::linear(x, weight, bias)
    }

    /// A matrix that was just loaded, laid out as [`dense_linear`](Self::dense_linear) likes it.
    fn stored(matrix: Tensor<Self, 2>) -> Tensor<Self, 2> {
        matrix
    }

    /// Rows `ids` of `weight: [vocabulary, dim]`, as `[ids, dim]` in `dtype`. The ids are below
    /// `vocabulary`.
    fn dense_rows(weight: Tensor<Self, 2>, ids: &[u32], dtype: DType) -> Tensor<Self, 2> {
        ops::dense_rows(weight, ids, dtype)
    }

    /// Root-mean-square norm over the last dimension, computed in f32 (Zhang & Sennrich, 2019):
    /// `x / sqrt(mean(x²) + epsilon) · weight`, with `x: [rows, dim]`, `weight: [dim]`.
    fn rms_norm(x: Tensor<Self, 2>, weight: Tensor<Self, 1>, epsilon: f64) -> Tensor<Self, 2> {
        ops::rms_norm(x, weight, epsilon)
    }

    /// `x + residual`, and its [`rms_norm`](Self::rms_norm): `[rows, dim]` each.
    fn add_rms_norm(
        x: Tensor<Self, 2>,
        residual: Tensor<Self, 2>,
        weight: Tensor<Self, 1>,
        epsilon: f64,
    ) -> [Tensor<Self, 2>; 2] {
        let sum = x + residual;
        [sum.clone(), Self::rms_norm(sum, weight, epsilon)]
    }

    /// Rotary position embedding (Su et al., `RoFormer`, 2021), computed in f32.
    ///
    /// # Shapes
    /// - `x`: `[B, H, S, D]`; `cos`, `sin`: `[1 or B, S, D / 2]`, f32
    fn rope(
        x: Tensor<Self, 4>,
        cos: Tensor<Self, 3>,
        sin: Tensor<Self, 3>,
        order: RopeOrder,
    ) -> Tensor<Self, 4> {
        ops::rope(x, cos, sin, order)
    }

    /// `silu(gate) · up` (Shazeer, 2020), element by element.
    fn swiglu(gate: Tensor<Self, 2>, up: Tensor<Self, 2>) -> Tensor<Self, 2> {
        ops::swiglu(gate, up)
    }

    /// A product with what a layer does around it, as one operation: worth having where a launch costs
    /// more than what it computes. `None` where the backend, or the shape, has no such operation, and
    /// nothing was done: the caller then takes the steps one by one.
    fn fused_linear(
        _x: &Tensor<Self, 2>,
        _operation: &FusedLinear<'_, Self>,
    ) -> Option<Tensor<Self, 2>> {
        None
    }

    /// So many columns of `x`, `[rows, all of them]`, for each width.
    fn columns(x: Tensor<Self, 2>, widths: &[usize]) -> Vec<Tensor<Self, 2>> {
        ops::columns(&x, widths)
    }

    /// Values from the host that only the step at hand needs, `[values]` in f32. A backend that
    /// [gathers](Self::gather) a step has them uploaded with it.
    fn step_values(values: Vec<f32>, device: &Self::Device) -> Tensor<Self, 1> {
        let len = values.len();
        Tensor::from_data(TensorData::new(values, [len]), (device, DType::F32))
    }

    /// Runs the forward pass of a step, so that a backend can hand all that it launches to the device
    /// as a whole. What `work` computes may meet only operations of this trait before `gather` returns:
    /// a backend need not keep the order between these and others of burn's on the same tensors.
    fn gather<T>(_device: &Self::Device, work: impl FnOnce() -> T) -> T {
        work()
    }

    /// As [`gather`](Self::gather), of a step whose tokens are not known yet, so that a device that is
    /// busy with the step before can go on at once when they are: `work` computes with any ids, and what
    /// it gives holds its values when the launches have been run with the true ones. `None` where
    /// nothing can be listed for later; `work` may have run by then.
    fn ahead<T>(_device: &Self::Device, _work: impl FnOnce() -> T) -> Option<(T, Ahead)> {
        None
    }

    /// The token with the largest logit in each row of `[rows, vocabulary]` (of equal ones the lowest; NaN
    /// is larger than all numbers), left on the device so that it can go on with it. `None` where the host
    /// chooses as well.
    fn likeliest(_logits: &Tensor<Self, 2>) -> Option<Chosen<Self>> {
        None
    }

    /// As [`gather`](Self::gather), of a step whose tokens the device has chosen and the host need not know
    /// yet: `work` computes with any ids, and what it gives holds its values for the true ones. `None`
    /// where a device cannot go on by itself, or when `work` gives nothing; `work` may have run by then, but
    /// nothing of it was launched. Called by `work` itself, for what it has the device choose, it adds the step
    /// behind; where one gives nothing, `work` must give nothing either.
    fn follow<T>(
        _device: &Self::Device,
        _tokens: &Chosen<Self>,
        _work: impl FnOnce() -> Option<T>,
    ) -> Option<T> {
        None
    }

    /// Each token that was chosen, and its logit; `meanwhile` runs while the device chooses.
    ///
    /// # Errors
    /// The device's words.
    fn read_chosen(
        tokens: &Chosen<Self>,
        meanwhile: impl FnOnce(),
    ) -> Result<Vec<(u32, f32)>, String> {
        meanwhile();
        let data = tokens.words().try_into_data().map_err(|error| error.to_string())?;
        let words: Vec<u32> = data.iter::<i64>().map(|word| word as u32).collect();
        Ok(Chosen::<Self>::pairs(&words))
    }

    /// The values of a tensor, row by row, on the host.
    ///
    /// # Errors
    /// The device's words.
    fn read<const D: usize>(tensor: Tensor<Self, D>) -> Result<Vec<f32>, String> {
        Self::read_while(tensor, || ())
    }

    /// [`read`](Self::read), with something to do while the device computes them.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn read_while<const D: usize>(
        tensor: Tensor<Self, D>,
        meanwhile: impl FnOnce(),
    ) -> Result<Vec<f32>, String> {
        meanwhile();
        let data = tensor.cast(DType::F32).try_into_data().map_err(|error| error.to_string())?;
        data.into_vec().map_err(|error| format!("{error:?}"))
    }

    /// Whether linear layers of one input are best stored as one matrix: where a launch costs more
    /// than what it computes for a single row.
    fn joins_linears() -> bool {
        false
    }

    /// Puts tensors of two dimensions where they wait in host memory until they are needed on the device
    /// again, all at once.
    fn park(tensors: Vec<TensorData>, _device: &Self::Device) -> Arc<dyn Parked<Self>> {
        parked::one_by_one(tensors)
    }

    /// Whether weights of this format and shape `[out, in]` are best left packed: used as they are by
    /// [`packed_linear`](Self::packed_linear), instead of being dequantised when they are loaded.
    fn keeps_packed(_encoding: Encoding, _shape: [usize; 2], _device: &Self::Device) -> bool {
        false
    }

    /// Takes packed blocks into this backend's own storage.
    fn pack(weight: HostPacked, device: &Self::Device) -> Self::Packed;

    /// `x · wᵀ + bias` with `x: [rows, in]`, a packed `w` of `[out, in]` and `bias: [out]`.
    ///
    /// # Errors
    /// [`PackError::Unsupported`] where a backend has no way to compute it.
    fn packed_linear(
        x: Tensor<Self, 2>,
        weight: &Self::Packed,
        bias: Option<Tensor<Self, 1>>,
    ) -> Result<Tensor<Self, 2>, PackError> {
        let dense = Self::unpack(weight, &x.device(), x.dtype())?;
        Ok(Self::dense_linear(x, dense, bias))
    }

    /// Gradient of [`packed_linear`](Self::packed_linear) with respect to `x`: `grad · w`. The
    /// packed weight has none.
    ///
    /// # Errors
    /// As [`packed_linear`](Self::packed_linear).
    fn packed_linear_backward(
        grad: Tensor<Self, 2>,
        weight: &Self::Packed,
    ) -> Result<Tensor<Self, 2>, PackError> {
        let dense = Self::unpack(weight, &grad.device(), grad.dtype())?;
        Ok(grad.matmul(dense))
    }

    /// The whole weight, dequantised: `[out, in]` in `dtype`.
    ///
    /// # Errors
    /// As [`packed_linear`](Self::packed_linear).
    fn unpack(
        weight: &Self::Packed,
        device: &Self::Device,
        dtype: DType,
    ) -> Result<Tensor<Self, 2>, PackError> {
        packed::unpack(&weight.to_host()?, device, dtype)
    }

    /// Rows `ids` of a packed weight, dequantised: `[ids, in]` in `dtype`. The ids are host data,
    /// as a token embedding has them.
    ///
    /// # Errors
    /// As [`packed_linear`](Self::packed_linear), and [`PackError::RowOutOfRange`].
    fn packed_rows(
        weight: &Self::Packed,
        ids: &[u32],
        device: &Self::Device,
        dtype: DType,
    ) -> Result<Tensor<Self, 2>, PackError> {
        packed::rows(&weight.to_host()?, ids, device, dtype)
    }
}

/// A [`Backend`] with gradients whose inner backend is one too.
pub trait AutodiffBackend:
    Backend + burn::tensor::backend::AutodiffBackend<InnerBackend: Backend>
{
}

impl<B> AutodiffBackend for B where
    B: Backend + burn::tensor::backend::AutodiffBackend<InnerBackend: Backend>
{
}
