//! AVX2 with FMA and F16C: products of unsigned with signed bytes, added in pairs to 16 bits.
//!
//! A pair is at most `2 · 127 · code` in magnitude, so [`Codes::GREATEST`] says how many of them add up in 16 bits before
//! they have to be widened: eight with codes of four bits. Codes of eight bits are cut into two of four.

#![allow(clippy::wildcard_imports)] // intrinsics, by the dozen

use super::{Codes, FEATURES, Integers, Kernel, Panel, Rows, Words};
use std::arch::is_x86_feature_detected;
use std::arch::x86_64::*;

/// Proof that the processor has AVX2, FMA and F16C; only [`Avx2::detect`] makes one.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Avx2(());

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
fn run_enabled<K: Kernel>(integers: Avx2, kernel: K) {
    kernel.run(integers);
}

/// Vectors in a panel.
const V: usize = 2;
/// Lanes in a vector.
const LANES: usize = FEATURES / V;

/// Words as two vectors.
///
/// # Safety
///
/// The processor has AVX2.
#[inline(always)]
unsafe fn load(words: &Words) -> [__m256i; V] {
    let at = words.0.as_ptr().cast::<__m256i>();
    // SAFETY: sixteen words are two vectors; the load is the unaligned one.
    unsafe { [_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))] }
}

/// Two vectors as words.
///
/// # Safety
///
/// The processor has AVX2.
#[inline(always)]
unsafe fn words(vectors: [__m256i; V]) -> Words {
    let mut words = Words::ZERO;
    let at = words.0.as_mut_ptr().cast::<__m256i>();
    // SAFETY: sixteen words are two vectors; the store is the unaligned one.
    unsafe {
        _mm256_storeu_si256(at, vectors[0]);
        _mm256_storeu_si256(at.add(1), vectors[1]);
    }
    words
}

/// Sixteen numbers as two vectors.
///
/// # Safety
///
/// The processor has AVX2.
#[inline(always)]
unsafe fn floats(values: &[f32; FEATURES]) -> [__m256; V] {
    let at = values.as_ptr();
    // SAFETY: sixteen numbers are two vectors; the load is the unaligned one.
    unsafe { [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(LANES))] }
}

// SAFETY, for every block below: `self` proves that the processor has these instructions, and each pointer comes from a
// slice or array whose length is asserted or visible right there. Loads and stores are the unaligned ones.
impl Integers for Avx2 {
    const ROWS: usize = 4;

    /// Rows four apart share a vector, so that a transposition within 128 bits leaves eight rows in order.
    #[inline(always)]
    fn columns(self, rows: &[&[u8]; FEATURES], at: usize) -> [Words; 4] {
        // SAFETY: see above the impl; the slice taken of each row has sixteen bytes.
        unsafe {
            let row = |f: usize| _mm_loadu_si128(rows[f][at..at + 16].as_ptr().cast());
            let mut columns = [[_mm256_setzero_si256(); V]; 4];
            for v in 0..V {
                let first = LANES * v;
                let mut pairs = [_mm256_setzero_si256(); 4];
                for i in 0..4 {
                    let low = _mm256_castsi128_si256(row(first + i));
                    pairs[i] = _mm256_inserti128_si256::<1>(low, row(first + i + 4));
                }
                let low01 = _mm256_unpacklo_epi32(pairs[0], pairs[1]);
                let high01 = _mm256_unpackhi_epi32(pairs[0], pairs[1]);
                let low23 = _mm256_unpacklo_epi32(pairs[2], pairs[3]);
                let high23 = _mm256_unpackhi_epi32(pairs[2], pairs[3]);
                columns[0][v] = _mm256_unpacklo_epi64(low01, low23);
                columns[1][v] = _mm256_unpackhi_epi64(low01, low23);
                columns[2][v] = _mm256_unpacklo_epi64(high01, high23);
                columns[3][v] = _mm256_unpackhi_epi64(high01, high23);
            }
            [words(columns[0]), words(columns[1]), words(columns[2]), words(columns[3])]
        }
    }

    #[inline(always)]
    fn halves(self, words: Words) -> [f32; FEATURES] {
        let mut values = [0.0; FEATURES];
        // SAFETY: see above the impl.
        unsafe {
            let [a, b] = load(&words);
            let low = _mm256_set1_epi32(0xffff);
            // Packing works within 128 bits, and leaves the middle quarters in the wrong order.
            let packed = _mm256_packus_epi32(_mm256_and_si256(a, low), _mm256_and_si256(b, low));
            let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(packed);
            let first = _mm256_cvtph_ps(_mm256_castsi256_si128(packed));
            let second = _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(packed));
            _mm256_storeu_ps(values.as_mut_ptr(), first);
            _mm256_storeu_ps(values.as_mut_ptr().add(LANES), second);
        }
        values
    }

    #[inline(always)]
    fn look_up(self, table: &[u8; 16], codes: Words) -> Words {
        // SAFETY: see above the impl.
        unsafe {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            let [a, b] = load(&codes);
            words([_mm256_shuffle_epi8(table, a), _mm256_shuffle_epi8(table, b)])
        }
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
    fn run<K: Kernel>(self, kernel: K) {
        // SAFETY: `self` proves that the processor has what `run_enabled` enables.
        unsafe { run_enabled(self, kernel) }
    }
}

/// See [`Integers::multiply`]. A function of its own, so that formats with the same codes share it.
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply<C: Codes, const R: usize>(
    panel: Panel<'_>,
    rows: Rows<'_, R>,
    sums: &mut [[f32; FEATURES]; R],
) {
    let groups = panel.factors.len();
    let codes = &panel.codes[..groups * C::STEPS];
    let x: [&[u32]; R] = std::array::from_fn(|r| &rows.words[r][..groups * C::STEPS]);
    let scales: [&[f32]; R] = std::array::from_fn(|r| &rows.scales[r][..groups]);
    let row_sums: [&[f32]; R] = std::array::from_fn(|r| &rows.sums[r][..groups]);
    let minimums = if C::MINIMUMS { &panel.minimums[..groups] } else { &[] };
    // SAFETY: each pointer comes from an array or slice whose length is visible; loads and stores are the unaligned ones.
    unsafe {
        let mut totals = [[_mm256_setzero_ps(); V]; R];
        for r in 0..R {
            totals[r] = floats(&sums[r]);
        }
        for g in 0..groups {
            let at = g * C::STEPS;
            let codes = &codes[at..at + C::STEPS];
            let mut steps: [&[u32]; R] = [&[]; R];
            for r in 0..R {
                steps[r] = &x[r][at..at + C::STEPS];
            }
            let dots = dots::<C, R>(codes, steps);
            let factors = floats(&panel.factors[g]);
            for r in 0..R {
                let scale = _mm256_set1_ps(scales[r][g]);
                let sum = _mm256_set1_ps(row_sums[r][g]);
                for v in 0..V {
                    let mut dot = _mm256_cvtepi32_ps(dots[r][v]);
                    if !C::MINIMUMS {
                        dot = _mm256_add_ps(dot, sum);
                    }
                    let factor = _mm256_mul_ps(factors[v], scale);
                    totals[r][v] = _mm256_fmadd_ps(factor, dot, totals[r][v]);
                }
                if C::MINIMUMS {
                    let minimums = floats(&minimums[g]);
                    for v in 0..V {
                        totals[r][v] = _mm256_fmadd_ps(minimums[v], sum, totals[r][v]);
                    }
                }
            }
        }
        for r in 0..R {
            for v in 0..V {
                _mm256_storeu_ps(sums[r][v * LANES..][..LANES].as_mut_ptr(), totals[r][v]);
            }
        }
    }
}

/// `Σ code·q` over the values of one group.
///
/// # Safety
///
/// The processor has AVX2.
#[inline(always)]
unsafe fn dots<C: Codes, const R: usize>(codes: &[Words], x: [&[u32]; R]) -> [[__m256i; V]; R] {
    // SAFETY: the caller's.
    unsafe {
        let zero = _mm256_setzero_si256();
        let ones = _mm256_set1_epi16(1);
        if C::GREATEST > 127 {
            let sixteens = _mm256_set1_epi16(16);
            let nibble = _mm256_set1_epi8(0x0f);
            let mut totals = [[zero; V]; R];
            // A vector of features at a time: twice as many sums would not fit the registers.
            for v in 0..V {
                let (mut low, mut high) = ([zero; R], [zero; R]);
                for s in 0..C::STEPS {
                    let w = load(&codes[s])[v];
                    let w_low = _mm256_and_si256(w, nibble);
                    let w_high = _mm256_and_si256(_mm256_srli_epi16::<4>(w), nibble);
                    for r in 0..R {
                        let q = _mm256_set1_epi32(x[r][s].cast_signed());
                        low[r] = _mm256_add_epi16(low[r], _mm256_maddubs_epi16(w_low, q));
                        high[r] = _mm256_add_epi16(high[r], _mm256_maddubs_epi16(w_high, q));
                    }
                }
                for r in 0..R {
                    let low = _mm256_madd_epi16(low[r], ones);
                    totals[r][v] = _mm256_add_epi32(low, _mm256_madd_epi16(high[r], sixteens));
                }
            }
            return totals;
        }
        // Pairs that add up without leaving 16 bits.
        let span = (32767 / (2 * 127 * C::GREATEST as usize)).min(C::STEPS);
        let mut totals = [[zero; V]; R];
        let mut start = 0;
        while start < C::STEPS {
            let end = C::STEPS.min(start + span);
            let mut part = [[zero; V]; R];
            for s in start..end {
                let w = load(&codes[s]);
                for r in 0..R {
                    let q = _mm256_set1_epi32(x[r][s].cast_signed());
                    for v in 0..V {
                        part[r][v] = _mm256_add_epi16(part[r][v], _mm256_maddubs_epi16(w[v], q));
                    }
                }
            }
            for r in 0..R {
                for v in 0..V {
                    let wide = _mm256_madd_epi16(part[r][v], ones);
                    totals[r][v] = _mm256_add_epi32(totals[r][v], wide);
                }
            }
            start = end;
        }
        totals
    }
}
