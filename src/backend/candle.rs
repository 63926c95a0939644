//! candle on the CPU: everything runs on it by the defaults, so that it is an oracle of its own.

// burn means to drop its candle backend; until then it is the one independent implementation
// that runs the same models, on kernels that this crate had no hand in.
#![allow(deprecated)]

use burn::tensor::{DType, Tensor};

use super::{Backend, HostPacked, PackError, TensorKvCache, ops};

/// burn's candle backend with f32 as its default type.
pub type Candle = burn_candle::Candle<f32, i64>;

/// candle's f16 products on the CPU accumulate in f16 where its instructions do, and lose two
/// digits over a few hundred terms. The trait promises f32 accumulation, so products are made in f32.
impl Backend for Candle {
    type Packed = HostPacked;
    type KvCache = TensorKvCache<Self>;

    fn activation_dtype(_weights: DType) -> DType {
        DType::F32
    }

    fn dense_linear(
        x: Tensor<Self, 2>,
        weight: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Tensor<Self, 2> {
        let dtype = x.dtype();
        ops::linear(x.cast(DType::F32), weight, bias).cast(dtype)
    }

    fn pack(weight: HostPacked, _device: &Self::Device) -> HostPacked {
        weight
    }

    fn packed_linear_backward(
        grad: Tensor<Self, 2>,
        weight: &Self::Packed,
    ) -> Result<Tensor<Self, 2>, PackError> {
        let dense = Self::unpack(weight, &grad.device(), DType::F32)?;
        let dtype = grad.dtype();
        Ok(grad.cast(DType::F32).matmul(dense).cast(dtype))
    }
}
