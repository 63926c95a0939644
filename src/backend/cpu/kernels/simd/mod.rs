//! Vectors of `f32`, one implementation per instruction set.
//!
//! A kernel is written once, as a [`Kernel`] that is generic over [`Simd`]; [`Isa::run`] picks the instruction set
//! found at run time and compiles the kernel for it. The scheme is that of the `pulp` crate: a value of an
//! instruction set's type is the proof that the processor has it, so the vector operations are safe to call.
//!
//! The trap: an operation becomes one instruction only when it is inlined into the function that enables the
//! instruction set. So [`Kernel::run`] and everything that touches a vector below it is `#[inline(always)]`, and no
//! vector operation sits in a closure.

mod element;
mod math;
mod scalar;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

#[cfg(target_arch = "x86_64")]
use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
use avx512::Avx512;
#[cfg(target_arch = "aarch64")]
use neon::Neon;

use half::f16;
use scalar::Scalar;
use std::sync::OnceLock;

pub(super) use element::Element;
pub(super) use math::{exp, silu, tanh};

/// The most lanes that any implementation has: the side of a stack buffer that fits all of them.
pub(super) const MAX_LANES: usize = 16;

/// Operations on vectors of [`Simd::LANES`] `f32` values.
///
/// A load or store of a slice asserts that the slice is long enough; with slices of a visible length the compiler
/// removes the check.
pub(super) trait Simd: Copy + Send + Sync + 'static {
    /// One vector.
    type V: Copy;
    /// Values in a vector.
    const LANES: usize;
    /// Vectors of `x` that the register-blocked kernel keeps side by side: 4 with 32 registers, 2 with 16.
    const PANEL: usize;

    /// All lanes `value`.
    fn splat(self, value: f32) -> Self::V;
    /// The first `LANES` values.
    fn load(self, from: &[f32]) -> Self::V;
    /// At most `LANES` values, then zeros.
    fn load_partial(self, from: &[f32]) -> Self::V;
    /// The first `LANES` half-precision values.
    fn load_f16(self, from: &[f16]) -> Self::V;
    /// At most `LANES` half-precision values, then zeros.
    #[inline(always)]
    fn load_f16_partial(self, from: &[f16]) -> Self::V {
        let mut padded = [f16::ZERO; MAX_LANES];
        padded[..from.len()].copy_from_slice(from);
        self.load_f16(&padded)
    }
    /// Writes the first `LANES` values.
    fn store(self, value: Self::V, to: &mut [f32]);
    /// Writes as many lanes as `to` holds, at most `LANES`.
    fn store_partial(self, value: Self::V, to: &mut [f32]);
    /// `a + b`
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, fused where the instruction set can.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The greater; `b` where either is not a number.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` where either is not a number.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `if a <= b { yes } else { no }`, lane by lane.
    fn select_le(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// To the nearest integer, ties to even.
    fn round(self, a: Self::V) -> Self::V;
    /// `a * 2^n` for integral `n` in -126..=127.
    fn scale_pow2(self, a: Self::V, n: Self::V) -> Self::V;
    /// The sum of the lanes.
    fn reduce_add(self, a: Self::V) -> f32;
    /// The sum of the lanes of each of the first `LANES` vectors, as the lanes of one.
    #[inline(always)]
    fn reduce_each(self, vectors: &[Self::V; MAX_LANES]) -> Self::V {
        let mut sums = [0.0; MAX_LANES];
        for i in 0..Self::LANES {
            sums[i] = self.reduce_add(vectors[i]);
        }
        self.load(&sums)
    }
    /// The greatest lane.
    fn reduce_max(self, a: Self::V) -> f32;
    /// Transposes a square of `LANES` × `LANES` values: `to[c * to_stride + r] = from[r * from_stride + c]`.
    fn transpose(self, from: &[f32], from_stride: usize, to: &mut [f32], to_stride: usize);
    /// Asks for the cache line at `address`, which need not be valid; does nothing where there is no such instruction.
    fn prefetch<T>(self, address: *const T);
    /// Runs `kernel` compiled for this instruction set.
    fn run<K: Kernel>(self, kernel: K) -> K::Output;
}

/// A computation written once for every instruction set.
pub(super) trait Kernel {
    /// What it returns.
    type Output;
    /// The computation; implementations are `#[inline(always)]` (see the module's documentation).
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// An instruction set that this processor has.
#[derive(Clone, Copy, Debug)]
pub(super) enum Isa {
    /// Plain Rust, eight lanes at a time.
    Scalar(Scalar),
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// AVX-512 F, VL, DQ and BW.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// Advanced SIMD of 64-bit Arm.
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
}

impl Isa {
    /// Every instruction set that this processor has, the best one last.
    pub(super) fn available() -> Vec<Self> {
        let mut found = vec![Self::Scalar(Scalar)];
        #[cfg(target_arch = "x86_64")]
        {
            found.extend(Avx2::detect().map(Self::Avx2));
            found.extend(Avx512::detect().map(Self::Avx512));
        }
        #[cfg(target_arch = "aarch64")]
        found.extend(Neon::detect().map(Self::Neon));
        found
    }

    /// The best instruction set of this processor, looked up once.
    pub(super) fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().pop().unwrap_or(Self::Scalar(Scalar)))
    }

    /// Runs `kernel` compiled for this instruction set.
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            Self::Scalar(simd) => simd.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd) => simd.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(simd) => simd.run(kernel),
            #[cfg(target_arch = "aarch64")]
            Self::Neon(simd) => simd.run(kernel),
        }
    }

    /// Values in a vector.
    pub(super) fn lanes(self) -> usize {
        match self {
            Self::Scalar(_) => Scalar::LANES,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => Avx2::LANES,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => Avx512::LANES,
            #[cfg(target_arch = "aarch64")]
            Self::Neon(_) => Neon::LANES,
        }
    }

    /// Values in a full panel: [`Simd::PANEL`] vectors.
    pub(super) fn panel_lanes(self) -> usize {
        match self {
            Self::Scalar(_) => Scalar::PANEL * Scalar::LANES,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => Avx2::PANEL * Avx2::LANES,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => Avx512::PANEL * Avx512::LANES,
            #[cfg(target_arch = "aarch64")]
            Self::Neon(_) => Neon::PANEL * Neon::LANES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Roundtrip;

    impl Kernel for Roundtrip {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            let lanes = S::LANES;
            let values: Vec<f32> = (0..(lanes * (lanes + 3)) as u16).map(f32::from).collect();
            let mut to = vec![0.0; lanes * lanes];
            simd.transpose(&values, lanes + 3, &mut to, lanes);
            for row in 0..lanes {
                for column in 0..lanes {
                    assert_eq!(to[column * lanes + row], values[row * (lanes + 3) + column]);
                }
            }
            for len in 0..=lanes {
                let mut out = vec![-1.0; lanes];
                let v = simd.load_partial(&values[1..=len]);
                simd.store(v, &mut out);
                for (i, got) in out.iter().enumerate() {
                    assert_eq!(*got, if i < len { values[1 + i] } else { 0.0 });
                }
                let mut out = vec![-1.0; lanes + 1];
                simd.store_partial(simd.splat(2.0), &mut out[..len]);
                assert!(
                    out.iter().enumerate().all(|(i, &v)| v == if i < len { 2.0 } else { -1.0 })
                );
            }
            let halves: Vec<f16> =
                (0..lanes).map(|i| f16::from_f32(i as f32 * 0.37 - 1.0)).collect();
            for len in 0..=lanes {
                let mut out = vec![-1.0; lanes];
                simd.store(simd.load_f16_partial(&halves[..len]), &mut out);
                for (i, got) in out.iter().enumerate() {
                    assert_eq!(*got, if i < len { halves[i].to_f32() } else { 0.0 });
                }
            }
            let mut out = vec![0.0; lanes];
            simd.store(simd.load_f16(&halves), &mut out);
            assert!(out.iter().zip(&halves).all(|(o, h)| *o == h.to_f32()));
            let v = simd.load(&values[3..]);
            assert_eq!(simd.reduce_add(v), values[3..3 + lanes].iter().sum::<f32>());
            assert_eq!(simd.reduce_max(v), values[2 + lanes]);
            let mut rows = [v; MAX_LANES];
            for i in 0..lanes {
                rows[i] = simd.load(&values[3 * i..]);
            }
            let mut sums = vec![0.0; lanes];
            simd.store(simd.reduce_each(&rows), &mut sums);
            for i in 0..lanes {
                assert_eq!(sums[i], values[3 * i..][..lanes].iter().sum::<f32>());
            }
            simd.store(simd.scale_pow2(v, simd.splat(-2.0)), &mut out);
            assert_eq!(out[1], values[4] * 0.25);
            simd.store(
                simd.select_le(v, simd.splat(4.0), simd.splat(1.0), simd.round(simd.splat(2.5))),
                &mut out,
            );
            assert_eq!(out[..3], [1.0, 1.0, 2.0]);
        }
    }

    #[test]
    fn vector_operations_agree_with_plain_loops() {
        for isa in Isa::available() {
            isa.run(Roundtrip);
        }
    }
}
