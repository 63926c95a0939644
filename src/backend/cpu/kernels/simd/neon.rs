//! Advanced SIMD of 64-bit Arm (NEON): four lanes, 32 registers.

#![allow(clippy::wildcard_imports)] // intrinsics, by the dozen

use super::{Kernel, Simd};
use half::f16;
use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

/// Proof that the processor has NEON; only [`Neon::detect`] makes one.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Neon(());

const LANES: usize = 4;

impl Neon {
    /// The proof; every 64-bit Arm processor that runs a common operating system has it.
    pub(super) fn detect() -> Option<Self> {
        is_aarch64_feature_detected!("neon").then_some(Self(()))
    }
}

#[target_feature(enable = "neon")]
fn run_enabled<K: Kernel>(simd: Neon, kernel: K) -> K::Output {
    kernel.run(simd)
}

// SAFETY, for every block below: `self` proves that the processor has these instructions, and each pointer comes from a
// slice or array whose length is asserted or visible right there.
impl Simd for Neon {
    type V = float32x4_t;
    const LANES: usize = LANES;
    const PANEL: usize = 4;

    #[inline(always)]
    fn splat(self, value: f32) -> float32x4_t {
        // SAFETY: see above the impl.
        unsafe { vdupq_n_f32(value) }
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> float32x4_t {
        assert!(from.len() >= LANES);
        // SAFETY: see above the impl.
        unsafe { vld1q_f32(from.as_ptr()) }
    }

    #[inline(always)]
    fn load_partial(self, from: &[f32]) -> float32x4_t {
        let mut padded = [0.0; LANES];
        let count = from.len().min(LANES);
        padded[..count].copy_from_slice(&from[..count]);
        self.load(&padded)
    }

    // The intrinsics on half-precision vectors need a newer compiler; the instruction is part of the base set.
    #[inline(always)]
    fn load_f16(self, from: &[f16]) -> float32x4_t {
        assert!(from.len() >= LANES);
        // SAFETY: see above the impl; `f16` is a transparent u16, and the instruction touches registers only.
        unsafe {
            let halves: uint16x4_t = vld1_u16(from.as_ptr().cast());
            let wide: float32x4_t;
            asm!(
                "fcvtl {wide:v}.4s, {halves:v}.4h",
                wide = out(vreg) wide,
                halves = in(vreg) halves,
                options(pure, nomem, nostack, preserves_flags)
            );
            wide
        }
    }

    #[inline(always)]
    fn store(self, value: float32x4_t, to: &mut [f32]) {
        assert!(to.len() >= LANES);
        // SAFETY: see above the impl.
        unsafe { vst1q_f32(to.as_mut_ptr(), value) }
    }

    #[inline(always)]
    fn store_partial(self, value: float32x4_t, to: &mut [f32]) {
        let mut padded = [0.0; LANES];
        self.store(value, &mut padded);
        let count = to.len().min(LANES);
        to[..count].copy_from_slice(&padded[..count]);
    }

    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see above the impl.
        unsafe { vaddq_f32(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see above the impl.
        unsafe { vsubq_f32(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see above the impl.
        unsafe { vmulq_f32(a, b) }
    }

    #[inline(always)]
    fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see above the impl.
        unsafe { vdivq_f32(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: see above the impl.
        unsafe { vfmaq_f32(c, a, b) }
    }

    // The plain maximum and minimum of Arm give not-a-number if either side is one, which serves the callers as well.
    #[inline(always)]
    fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see above the impl.
        unsafe { vmaxq_f32(a, b) }
    }

    #[inline(always)]
    fn min(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see above the impl.
        unsafe { vminq_f32(a, b) }
    }

    #[inline(always)]
    fn select_le(
        self,
        a: float32x4_t,
        b: float32x4_t,
        yes: float32x4_t,
        no: float32x4_t,
    ) -> float32x4_t {
        // SAFETY: see above the impl.
        unsafe { vbslq_f32(vcleq_f32(a, b), yes, no) }
    }

    #[inline(always)]
    fn round(self, a: float32x4_t) -> float32x4_t {
        // SAFETY: see above the impl.
        unsafe { vrndnq_f32(a) }
    }

    #[inline(always)]
    fn scale_pow2(self, a: float32x4_t, n: float32x4_t) -> float32x4_t {
        // SAFETY: see above the impl.
        unsafe {
            let exponent = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
            vmulq_f32(a, vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent)))
        }
    }

    #[inline(always)]
    fn reduce_add(self, a: float32x4_t) -> f32 {
        // SAFETY: see above the impl.
        unsafe { vaddvq_f32(a) }
    }

    #[inline(always)]
    fn reduce_max(self, a: float32x4_t) -> f32 {
        // SAFETY: see above the impl.
        unsafe { vmaxvq_f32(a) }
    }

    #[inline(always)]
    fn transpose(self, from: &[f32], from_stride: usize, to: &mut [f32], to_stride: usize) {
        assert!(from.len() >= (LANES - 1) * from_stride + LANES);
        assert!(to.len() >= (LANES - 1) * to_stride + LANES);
        // SAFETY: see above the impl; the last row read or written ends within the asserted length.
        unsafe {
            let row = |r: usize| from.as_ptr().add(r * from_stride);
            let (r0, r1) = (vld1q_f32(row(0)), vld1q_f32(row(1)));
            let (r2, r3) = (vld1q_f32(row(2)), vld1q_f32(row(3)));
            let even = vreinterpretq_f64_f32(vtrn1q_f32(r0, r1));
            let odd = vreinterpretq_f64_f32(vtrn2q_f32(r0, r1));
            let even2 = vreinterpretq_f64_f32(vtrn1q_f32(r2, r3));
            let odd2 = vreinterpretq_f64_f32(vtrn2q_f32(r2, r3));
            let to = to.as_mut_ptr();
            vst1q_f32(to, vreinterpretq_f32_f64(vtrn1q_f64(even, even2)));
            vst1q_f32(to.add(to_stride), vreinterpretq_f32_f64(vtrn1q_f64(odd, odd2)));
            vst1q_f32(to.add(2 * to_stride), vreinterpretq_f32_f64(vtrn2q_f64(even, even2)));
            vst1q_f32(to.add(3 * to_stride), vreinterpretq_f32_f64(vtrn2q_f64(odd, odd2)));
        }
    }

    // There is no stable prefetch intrinsic; Apple's and Arm's cores follow several streams by themselves.
    #[inline(always)]
    fn prefetch<T>(self, _address: *const T) {}

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: `self` proves that the processor has what `run_enabled` enables.
        unsafe { run_enabled(self, kernel) }
    }
}
