//! AVX2 with FMA and F16C: eight lanes, 16 registers.

#![allow(clippy::wildcard_imports)] // intrinsics, by the dozen

use super::{Kernel, Simd};
use half::f16;
use std::arch::is_x86_feature_detected;
use std::arch::x86_64::*;

/// Proof that the processor has AVX2, FMA and F16C; only [`Avx2::detect`] makes one.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Avx2(());

const LANES: usize = 8;

impl Avx2 {
    /// The proof, if the processor and the operating system support it.
    pub(super) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has.then_some(Self(()))
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn run_enabled<K: Kernel>(simd: Avx2, kernel: K) -> K::Output {
    kernel.run(simd)
}

/// All bits set in the lowest `count` of eight lanes.
///
/// # Safety
///
/// The processor has AVX2.
#[inline(always)]
unsafe fn first(count: usize) -> __m256i {
    const BITS: [i32; 2 * LANES] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    let window = &BITS[LANES - count.min(LANES)..][..LANES];
    // SAFETY: the window has eight values.
    unsafe { _mm256_loadu_si256(window.as_ptr().cast()) }
}

// SAFETY, for every block below: `self` proves that the processor has these instructions, and each pointer comes from a
// slice whose length is asserted, or masked to, right there. Loads and stores are the unaligned ones.
impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = LANES;
    const PANEL: usize = 2;

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> __m256 {
        assert!(from.len() >= LANES);
        // SAFETY: see above the impl.
        unsafe { _mm256_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn load_partial(self, from: &[f32]) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_maskload_ps(from.as_ptr(), first(from.len())) }
    }

    #[inline(always)]
    fn load_f16(self, from: &[f16]) -> __m256 {
        assert!(from.len() >= LANES);
        // SAFETY: see above the impl; `f16` is a transparent u16.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn store(self, value: __m256, to: &mut [f32]) {
        assert!(to.len() >= LANES);
        // SAFETY: see above the impl.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), value) }
    }

    #[inline(always)]
    fn store_partial(self, value: __m256, to: &mut [f32]) {
        // SAFETY: see above the impl.
        unsafe { _mm256_maskstore_ps(to.as_mut_ptr(), first(to.len()), value) }
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_div_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_min_ps(a, b) }
    }

    #[inline(always)]
    fn select_le(self, a: __m256, b: __m256, yes: __m256, no: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LE_OQ>(a, b)) }
    }

    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }

    #[inline(always)]
    fn scale_pow2(self, a: __m256, n: __m256) -> __m256 {
        // SAFETY: see above the impl.
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        }
    }

    #[inline(always)]
    fn reduce_add(self, a: __m256) -> f32 {
        // SAFETY: see above the impl.
        unsafe {
            let half = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
            _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)))
        }
    }

    #[inline(always)]
    fn reduce_max(self, a: __m256) -> f32 {
        // SAFETY: see above the impl.
        unsafe {
            let half = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let quarter = _mm_max_ps(half, _mm_movehl_ps(half, half));
            _mm_cvtss_f32(_mm_max_ss(quarter, _mm_movehdup_ps(quarter)))
        }
    }

    /// Pairs of rows, then fours within 128 bits, then the 128-bit halves.
    #[inline(always)]
    fn transpose(self, from: &[f32], from_stride: usize, to: &mut [f32], to_stride: usize) {
        assert!(from.len() >= (LANES - 1) * from_stride + LANES);
        assert!(to.len() >= (LANES - 1) * to_stride + LANES);
        // SAFETY: see above the impl; the last row read or written ends within the asserted length.
        unsafe {
            let mut quads = [_mm256_setzero_ps(); LANES];
            for group in 0..2 {
                let row = |r: usize| from.as_ptr().add((group * 4 + r) * from_stride);
                let (r0, r1) = (_mm256_loadu_ps(row(0)), _mm256_loadu_ps(row(1)));
                let (r2, r3) = (_mm256_loadu_ps(row(2)), _mm256_loadu_ps(row(3)));
                let low = _mm256_castps_pd(_mm256_unpacklo_ps(r0, r1));
                let high = _mm256_castps_pd(_mm256_unpackhi_ps(r0, r1));
                let low2 = _mm256_castps_pd(_mm256_unpacklo_ps(r2, r3));
                let high2 = _mm256_castps_pd(_mm256_unpackhi_ps(r2, r3));
                quads[group] = _mm256_castpd_ps(_mm256_unpacklo_pd(low, low2));
                quads[2 + group] = _mm256_castpd_ps(_mm256_unpackhi_pd(low, low2));
                quads[4 + group] = _mm256_castpd_ps(_mm256_unpacklo_pd(high, high2));
                quads[6 + group] = _mm256_castpd_ps(_mm256_unpackhi_pd(high, high2));
            }
            for column in 0..4 {
                let (a, b) = (quads[column * 2], quads[column * 2 + 1]);
                let to = to.as_mut_ptr().add(column * to_stride);
                _mm256_storeu_ps(to, _mm256_permute2f128_ps::<0x20>(a, b));
                _mm256_storeu_ps(to.add(4 * to_stride), _mm256_permute2f128_ps::<0x31>(a, b));
            }
        }
    }

    #[inline(always)]
    fn prefetch<T>(self, address: *const T) {
        // SAFETY: a prefetch reads nothing that a program can see and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: `self` proves that the processor has what `run_enabled` enables.
        unsafe { run_enabled(self, kernel) }
    }
}
