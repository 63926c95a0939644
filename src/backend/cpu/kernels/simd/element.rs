//! The types that weights are stored in, read as vectors of `f32`.

use super::Simd;
use half::f16;

/// A stored number that loads as `f32`.
pub(in super::super) trait Element: Copy + Send + Sync + 'static {
    /// The first [`Simd::LANES`] values of `from`.
    fn load<S: Simd>(simd: S, from: &[Self]) -> S::V;
    /// At most [`Simd::LANES`] values, then zeros.
    fn load_partial<S: Simd>(simd: S, from: &[Self]) -> S::V;
}

impl Element for f32 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[Self]) -> S::V {
        simd.load(from)
    }

    #[inline(always)]
    fn load_partial<S: Simd>(simd: S, from: &[Self]) -> S::V {
        simd.load_partial(from)
    }
}

impl Element for f16 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[Self]) -> S::V {
        simd.load_f16(from)
    }

    #[inline(always)]
    fn load_partial<S: Simd>(simd: S, from: &[Self]) -> S::V {
        simd.load_f16_partial(from)
    }
}
