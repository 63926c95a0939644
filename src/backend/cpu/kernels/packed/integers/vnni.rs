//! AVX-512 with vector neural network instructions: sixteen dot products of four bytes in one instruction.

#![allow(clippy::wildcard_imports)] // intrinsics, by the dozen

use super::{BlockRows, Codes, FEATURES, Integers, Kernel, Panel, Rows, Words, avx2::Avx2};
use std::arch::is_x86_feature_detected;
use std::arch::x86_64::*;

/// Proof that the processor has AVX-512 F, VL, DQ, BW and VNNI, and what [`Avx2`] has; only [`Vnni::detect`] makes one.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Vnni(());

impl Vnni {
    /// The proof, if the processor and the operating system support it.
    pub(super) fn detect() -> Option<Self> {
        let has = Avx2::detect().is_some()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vnni");
        has.then_some(Self(()))
    }
}

#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512vnni,avx2,fma,f16c")]
fn run_enabled<K: Kernel>(integers: Vnni, kernel: K) {
    kernel.run(integers);
}

/// The words as a vector.
///
/// # Safety
///
/// The processor has AVX-512 F.
#[inline(always)]
unsafe fn load(words: &Words) -> __m512i {
    // SAFETY: sixteen words are one vector; the load is the unaligned one.
    unsafe { _mm512_loadu_si512(words.0.as_ptr().cast()) }
}

/// A vector as words.
///
/// # Safety
///
/// The processor has AVX-512 F.
#[inline(always)]
unsafe fn words(vector: __m512i) -> Words {
    let mut words = Words::ZERO;
    // SAFETY: sixteen words are one vector; the store is the unaligned one.
    unsafe { _mm512_storeu_si512(words.0.as_mut_ptr().cast(), vector) }
    words
}

// SAFETY, for every block below: `self` proves that the processor has these instructions, and each pointer comes from a
// slice or array whose length is asserted or visible right there. Loads and stores are the unaligned ones.
impl Integers for Vnni {
    const ROWS: usize = 8;

    /// Rows four apart share a vector, so that a transposition within 128 bits leaves the rows in order.
    #[inline(always)]
    fn columns(self, rows: BlockRows<'_>, at: usize) -> [Words; 4] {
        let (bytes, starts) = rows.places(at, 16);
        // SAFETY: see above the impl; sixteen bytes from each start are within `bytes`.
        unsafe {
            let row = |f: usize| _mm_loadu_si128(bytes.as_ptr().add(starts[f]).cast());
            let mut fours = [_mm512_setzero_si512(); 4];
            for i in 0..4 {
                let all = _mm512_castsi128_si512(row(i));
                let all = _mm512_inserti32x4::<1>(all, row(i + 4));
                let all = _mm512_inserti32x4::<2>(all, row(i + 8));
                fours[i] = _mm512_inserti32x4::<3>(all, row(i + 12));
            }
            let low01 = _mm512_unpacklo_epi32(fours[0], fours[1]);
            let high01 = _mm512_unpackhi_epi32(fours[0], fours[1]);
            let low23 = _mm512_unpacklo_epi32(fours[2], fours[3]);
            let high23 = _mm512_unpackhi_epi32(fours[2], fours[3]);
            [
                words(_mm512_unpacklo_epi64(low01, low23)),
                words(_mm512_unpackhi_epi64(low01, low23)),
                words(_mm512_unpacklo_epi64(high01, high23)),
                words(_mm512_unpackhi_epi64(high01, high23)),
            ]
        }
    }

    #[inline(always)]
    fn gather(self, rows: BlockRows<'_>, at: usize) -> Words {
        let (bytes, starts) = rows.places(at, 4);
        let mut w = [0; FEATURES];
        for f in 0..FEATURES {
            // SAFETY: four bytes from each start are within `bytes`; the processor is a little-endian one.
            w[f] = unsafe { bytes.as_ptr().add(starts[f]).cast::<i32>().read_unaligned() };
        }
        // Put together in registers: sixteen small stores would hold up the load of all of them.
        // SAFETY: see above the impl.
        unsafe {
            words(_mm512_setr_epi32(
                w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8], w[9], w[10], w[11], w[12],
                w[13], w[14], w[15],
            ))
        }
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        // SAFETY: a prefetch reads nothing that a program can see and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
    }

    #[inline(always)]
    fn halves(self, words: Words) -> [f32; FEATURES] {
        let mut values = [0.0; FEATURES];
        // SAFETY: see above the impl.
        unsafe {
            let wide = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(load(&words)));
            _mm512_storeu_ps(values.as_mut_ptr(), wide);
        }
        values
    }

    #[inline(always)]
    fn look_up(self, table: &[u8; 16], codes: Words) -> Words {
        // SAFETY: see above the impl.
        unsafe {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            words(_mm512_shuffle_epi8(table, load(&codes)))
        }
    }

    #[inline(always)]
    fn shift_right(self, a: Words, bits: u32) -> Words {
        // SAFETY: see above the impl.
        unsafe {
            let bits = _mm_cvtsi32_si128(bits.cast_signed());
            words(_mm512_srl_epi32(load(&a), bits))
        }
    }

    #[inline(always)]
    fn shift_left(self, a: Words, bits: u32) -> Words {
        // SAFETY: see above the impl.
        unsafe {
            let bits = _mm_cvtsi32_si128(bits.cast_signed());
            words(_mm512_sll_epi32(load(&a), bits))
        }
    }

    #[inline(always)]
    fn bytes_and(self, a: Words, mask: u8) -> Words {
        // SAFETY: see above the impl.
        unsafe {
            let mask = _mm512_set1_epi8(mask.cast_signed());
            words(_mm512_and_si512(load(&a), mask))
        }
    }

    #[inline(always)]
    fn bytes_xor(self, a: Words, mask: u8) -> Words {
        // SAFETY: see above the impl.
        unsafe {
            let mask = _mm512_set1_epi8(mask.cast_signed());
            words(_mm512_xor_si512(load(&a), mask))
        }
    }

    #[inline(always)]
    fn low_byte(self, a: Words) -> Words {
        // SAFETY: see above the impl.
        unsafe {
            let mask = _mm512_set1_epi32(0xff);
            words(_mm512_and_si512(load(&a), mask))
        }
    }

    /// One instruction instead of two.
    #[inline(always)]
    fn byte(self, a: Words, index: u32) -> Words {
        // SAFETY: see above the impl.
        unsafe {
            // A place with its highest bit set gives zero.
            let first = _mm512_set4_epi32(
                0x8080_800cu32.cast_signed(),
                0x8080_8008u32.cast_signed(),
                0x8080_8004u32.cast_signed(),
                0x8080_8000u32.cast_signed(),
            );
            let places = _mm512_add_epi32(first, _mm512_set1_epi32(index.cast_signed()));
            words(_mm512_shuffle_epi8(load(&a), places))
        }
    }

    #[inline(always)]
    fn or(self, a: Words, b: Words) -> Words {
        // SAFETY: see above the impl.
        unsafe { words(_mm512_or_si512(load(&a), load(&b))) }
    }

    #[inline(always)]
    fn numbers(self, a: Words) -> [f32; FEATURES] {
        let mut values = [0.0; FEATURES];
        // SAFETY: see above the impl.
        unsafe {
            _mm512_storeu_ps(values.as_mut_ptr(), _mm512_cvtepi32_ps(load(&a)));
        }
        values
    }

    #[inline(always)]
    fn multiply<C: Codes, const R: usize>(
        self,
        panel: Panel<'_>,
        rows: Rows<'_, R>,
        sums: &mut [[f32; FEATURES]; R],
    ) {
        // SAFETY: `self` proves that the processor has what `multiply` enables.
        unsafe { multiply::<C, R>(panel, rows, sums) }
    }

    #[inline(always)]
    fn multiply_here<C: Codes, const R: usize>(
        self,
        panel: Panel<'_>,
        rows: Rows<'_, R>,
        sums: &mut [[f32; FEATURES]; R],
    ) {
        // SAFETY: `self` proves that the processor has these instructions.
        unsafe { multiply_here::<C, R>(panel, rows, sums) }
    }

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        // SAFETY: `self` proves that the processor has what `run_enabled` enables.
        unsafe { run_enabled(self, kernel) }
    }
}

/// See [`Integers::multiply`]. A function of its own, so that formats with the same codes share it.
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512vnni,avx2,fma,f16c")]
fn multiply<C: Codes, const R: usize>(
    panel: Panel<'_>,
    rows: Rows<'_, R>,
    sums: &mut [[f32; FEATURES]; R],
) {
    // SAFETY: the processor has what this function enables.
    unsafe { multiply_here::<C, R>(panel, rows, sums) }
}

/// # Safety
///
/// The processor has AVX-512 F and VNNI.
#[inline(always)]
unsafe fn multiply_here<C: Codes, const R: usize>(
    panel: Panel<'_>,
    rows: Rows<'_, R>,
    sums: &mut [[f32; FEATURES]; R],
) {
    let groups = panel.factors.len();
    let codes = &panel.codes[..groups * C::STEPS];
    let Rows { words: mut x, mut scales, sums: mut row_sums } = rows;
    for r in 0..R {
        x[r] = &x[r][..groups * C::STEPS];
        scales[r] = &scales[r][..groups];
        row_sums[r] = &row_sums[r][..groups];
    }
    let minimums = if C::MINIMUMS { &panel.minimums[..groups] } else { &[] };
    // SAFETY: each pointer comes from an array or slice whose length is visible; loads and stores are the unaligned ones.
    unsafe {
        let mut totals = [_mm512_setzero_ps(); R];
        for r in 0..R {
            totals[r] = _mm512_loadu_ps(sums[r].as_ptr());
        }
        for g in 0..groups {
            let at = g * C::STEPS;
            let codes = &codes[at..at + C::STEPS];
            let mut steps: [&[u32]; R] = [&[]; R];
            for r in 0..R {
                steps[r] = &x[r][at..at + C::STEPS];
            }
            let mut dots = [_mm512_setzero_si512(); R];
            for s in 0..C::STEPS {
                let w = load(&codes[s]);
                for r in 0..R {
                    let q = _mm512_set1_epi32(steps[r][s].cast_signed());
                    dots[r] = _mm512_dpbusd_epi32(dots[r], w, q);
                }
            }
            let factors = _mm512_loadu_ps(panel.factors[g].as_ptr());
            for r in 0..R {
                let sum = _mm512_set1_ps(row_sums[r][g]);
                let mut dot = _mm512_cvtepi32_ps(dots[r]);
                if !C::MINIMUMS {
                    dot = _mm512_add_ps(dot, sum);
                }
                let factor = _mm512_mul_ps(factors, _mm512_set1_ps(scales[r][g]));
                totals[r] = _mm512_fmadd_ps(factor, dot, totals[r]);
                if C::MINIMUMS {
                    let minimums = _mm512_loadu_ps(minimums[g].as_ptr());
                    totals[r] = _mm512_fmadd_ps(minimums, sum, totals[r]);
                }
            }
        }
        for r in 0..R {
            _mm512_storeu_ps(sums[r].as_mut_ptr(), totals[r]);
        }
    }
}
