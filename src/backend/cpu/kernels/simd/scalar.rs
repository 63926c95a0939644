//! Plain Rust, for processors without a path of their own: eight lanes, which compilers turn into vectors well.

use super::{Kernel, Simd};
use half::f16;

/// Needs nothing.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Scalar;

const LANES: usize = 8;

type V = [f32; LANES];

#[inline(always)]
fn zip(a: V, b: V, f: impl Fn(f32, f32) -> f32) -> V {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Scalar {
    type V = V;
    const LANES: usize = LANES;
    const PANEL: usize = 2;

    #[inline(always)]
    fn splat(self, value: f32) -> V {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> V {
        let from = &from[..LANES];
        std::array::from_fn(|i| from[i])
    }

    #[inline(always)]
    fn load_partial(self, from: &[f32]) -> V {
        std::array::from_fn(|i| from.get(i).copied().unwrap_or(0.0))
    }

    #[inline(always)]
    fn load_f16(self, from: &[f16]) -> V {
        let from = &from[..LANES];
        std::array::from_fn(|i| from[i].to_f32())
    }

    #[inline(always)]
    fn store(self, value: V, to: &mut [f32]) {
        to[..LANES].copy_from_slice(&value);
    }

    #[inline(always)]
    fn store_partial(self, value: V, to: &mut [f32]) {
        for (to, value) in to.iter_mut().zip(value) {
            *to = value;
        }
    }

    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a / b)
    }

    // Not `mul_add`: without a fused instruction that is a call into the C library.
    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn select_le(self, a: V, b: V, yes: V, no: V) -> V {
        std::array::from_fn(|i| if a[i] <= b[i] { yes[i] } else { no[i] })
    }

    // Adding and taking away 1.5 · 2²³ leaves the nearest integer, for |a| < 2²².
    #[inline(always)]
    fn round(self, a: V) -> V {
        const MAGIC: f32 = 12_582_912.0;
        a.map(|a| (a + MAGIC) - MAGIC)
    }

    #[inline(always)]
    fn scale_pow2(self, a: V, n: V) -> V {
        zip(a, n, |a, n| a * f32::from_bits((n as i32 + 127).cast_unsigned() << 23))
    }

    #[inline(always)]
    fn reduce_add(self, a: V) -> f32 {
        ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))
    }

    #[inline(always)]
    fn reduce_max(self, a: V) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    fn transpose(self, from: &[f32], from_stride: usize, to: &mut [f32], to_stride: usize) {
        for row in 0..LANES {
            let from = &from[row * from_stride..][..LANES];
            for (column, value) in from.iter().enumerate() {
                to[column * to_stride + row] = *value;
            }
        }
    }

    #[inline(always)]
    fn prefetch<T>(self, _address: *const T) {}

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }
}
