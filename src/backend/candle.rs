//! candle on the CPU: everything runs on it by the defaults, so that it is an oracle of its own.

// burn means to drop its candle backend; until then it is the one independent implementation
// that runs the same models, see DESIGN.
#![allow(deprecated)]

use super::{Backend, HostPacked, TensorKvCache};

/// burn's candle backend with f32 as its default type.
pub type Candle = burn_candle::Candle<f32, i64>;

impl Backend for Candle {
    type Packed = HostPacked;
    type KvCache = TensorKvCache<Self>;

    fn pack(weight: HostPacked, _device: &Self::Device) -> HostPacked {
        weight
    }
}
