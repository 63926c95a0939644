//! AVX-512: sixteen lanes, 32 registers.

#![allow(clippy::wildcard_imports)] // intrinsics, by the dozen

use super::{Kernel, Simd};
use half::f16;
use std::arch::is_x86_feature_detected;
use std::arch::x86_64::*;

/// Proof that the processor has AVX-512 F, VL, DQ and BW; only [`Avx512::detect`] makes one.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Avx512(());

const LANES: usize = 16;

impl Avx512 {
    /// The proof, if the processor and the operating system support it.
    pub(super) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has.then_some(Self(()))
    }
}

#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c")]
fn run_enabled<K: Kernel>(simd: Avx512, kernel: K) -> K::Output {
    kernel.run(simd)
}

/// The lowest `count` of sixteen lanes.
#[inline(always)]
fn first(count: usize) -> __mmask16 {
    ((1u32 << count.min(LANES)) - 1) as __mmask16
}

// SAFETY, for every block below: `self` proves that the processor has these instructions, and each pointer comes from a
// slice whose length is asserted, or masked to, right there. Loads and stores are the unaligned ones.
impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = LANES;
    const PANEL: usize = 4;

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> __m512 {
        assert!(from.len() >= LANES);
        // SAFETY: see above the impl.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn load_partial(self, from: &[f32]) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_maskz_loadu_ps(first(from.len()), from.as_ptr()) }
    }

    #[inline(always)]
    fn load_f16(self, from: &[f16]) -> __m512 {
        assert!(from.len() >= LANES);
        // SAFETY: see above the impl; `f16` is a transparent u16.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_f16_partial(self, from: &[f16]) -> __m512 {
        assert!(from.len() <= LANES);
        let mask = ((1u32 << from.len()) - 1) as u16;
        // SAFETY: see above the impl; lanes outside the mask are not read, and `f16` is a transparent u16.
        unsafe { _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn store(self, value: __m512, to: &mut [f32]) {
        assert!(to.len() >= LANES);
        // SAFETY: see above the impl.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), value) }
    }

    #[inline(always)]
    fn store_partial(self, value: __m512, to: &mut [f32]) {
        // SAFETY: see above the impl.
        unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), first(to.len()), value) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    fn select_le(self, a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LE_OQ>(a, b), no, yes) }
    }

    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }

    #[inline(always)]
    fn scale_pow2(self, a: __m512, n: __m512) -> __m512 {
        // SAFETY: see above the impl.
        unsafe { _mm512_scalef_ps(a, n) }
    }

    #[inline(always)]
    fn reduce_add(self, a: __m512) -> f32 {
        // SAFETY: see above the impl.
        unsafe { _mm512_reduce_add_ps(a) }
    }

    /// Pairs of vectors within 128 bits, pairs of those, then across the four parts.
    #[inline(always)]
    fn reduce_each(self, v: &[__m512; LANES]) -> __m512 {
        // SAFETY: see above the impl.
        unsafe {
            let mut quads = [_mm512_setzero_ps(); 4];
            for i in 0..4 {
                let [a, b, c, d] = [v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]];
                let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
                let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
                let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
                let low = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
                let high = _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
                quads[i] = _mm512_add_ps(low, high);
            }
            let [a, b, c, d] = quads;
            let even = _mm512_shuffle_f32x4::<0x88>(a, b);
            let ab = _mm512_add_ps(even, _mm512_shuffle_f32x4::<0xdd>(a, b));
            let even = _mm512_shuffle_f32x4::<0x88>(c, d);
            let cd = _mm512_add_ps(even, _mm512_shuffle_f32x4::<0xdd>(c, d));
            let even = _mm512_shuffle_f32x4::<0x88>(ab, cd);
            _mm512_add_ps(even, _mm512_shuffle_f32x4::<0xdd>(ab, cd))
        }
    }

    #[inline(always)]
    fn reduce_max(self, a: __m512) -> f32 {
        // SAFETY: see above the impl.
        unsafe { _mm512_reduce_max_ps(a) }
    }

    /// Pairs of rows, then fours within 128 bits, then a 4 × 4 transpose of 128-bit parts.
    #[inline(always)]
    fn transpose(self, from: &[f32], from_stride: usize, to: &mut [f32], to_stride: usize) {
        assert!(from.len() >= (LANES - 1) * from_stride + LANES);
        assert!(to.len() >= (LANES - 1) * to_stride + LANES);
        // SAFETY: see above the impl; the last row read or written ends within the asserted length.
        unsafe {
            let mut quads = [_mm512_setzero_ps(); LANES];
            for group in 0..4 {
                let row = |r: usize| from.as_ptr().add((group * 4 + r) * from_stride);
                let (r0, r1) = (_mm512_loadu_ps(row(0)), _mm512_loadu_ps(row(1)));
                let (r2, r3) = (_mm512_loadu_ps(row(2)), _mm512_loadu_ps(row(3)));
                let low = _mm512_castps_pd(_mm512_unpacklo_ps(r0, r1));
                let high = _mm512_castps_pd(_mm512_unpackhi_ps(r0, r1));
                let low2 = _mm512_castps_pd(_mm512_unpacklo_ps(r2, r3));
                let high2 = _mm512_castps_pd(_mm512_unpackhi_ps(r2, r3));
                quads[group] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, low2));
                quads[4 + group] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, low2));
                quads[8 + group] = _mm512_castpd_ps(_mm512_unpacklo_pd(high, high2));
                quads[12 + group] = _mm512_castpd_ps(_mm512_unpackhi_pd(high, high2));
            }
            for column in 0..4 {
                let q = &quads[column * 4..][..4];
                let even = _mm512_shuffle_f32x4::<0x88>(q[0], q[1]);
                let even2 = _mm512_shuffle_f32x4::<0x88>(q[2], q[3]);
                let odd = _mm512_shuffle_f32x4::<0xdd>(q[0], q[1]);
                let odd2 = _mm512_shuffle_f32x4::<0xdd>(q[2], q[3]);
                let to = to.as_mut_ptr().add(column * to_stride);
                _mm512_storeu_ps(to, _mm512_shuffle_f32x4::<0x88>(even, even2));
                _mm512_storeu_ps(to.add(4 * to_stride), _mm512_shuffle_f32x4::<0x88>(odd, odd2));
                _mm512_storeu_ps(to.add(8 * to_stride), _mm512_shuffle_f32x4::<0xdd>(even, even2));
                _mm512_storeu_ps(to.add(12 * to_stride), _mm512_shuffle_f32x4::<0xdd>(odd, odd2));
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
