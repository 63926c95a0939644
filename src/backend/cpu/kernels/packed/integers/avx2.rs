//! AVX2 with FMA and F16C: products of unsigned with signed bytes, added in pairs to 16 bits.
//!
//! A pair is at most `2 · 127 · code` in magnitude, so [`Codes::GREATEST`] says how many of them add up in 16 bits before
//! they have to be widened: eight with codes of four bits. Codes of eight bits are cut into two of four.

#![allow(clippy::wildcard_imports)] // intrinsics, by the dozen

use super::{BlockRows, Codes, FEATURES, Integers, Kernel, Panel, Rows, Words};
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
/// Rows up to which cutting codes of eight bits in two takes longer than what it saves.
const FEW: usize = 2;
/// Lanes in a vector.
const LANES: usize = FEATURES / V;

/// Words as two vectors.
///
/// # Safety
///
/// The processor has AVX2.
#[inline(always)]
unsafe fn load(words: &Words) -> [__m256i; V] {
    let at = words.0.as_ptr();
    // SAFETY: sixteen words are two vectors; the load is the unaligned one.
    unsafe { [_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(LANES).cast())] }
}

/// Two vectors as words.
///
/// # Safety
///
/// The processor has AVX2.
#[inline(always)]
unsafe fn words(vectors: [__m256i; V]) -> Words {
    let mut words = Words::ZERO;
    let at = words.0.as_mut_ptr();
    // SAFETY: sixteen words are two vectors; the store is the unaligned one.
    unsafe {
        _mm256_storeu_si256(at.cast(), vectors[0]);
        _mm256_storeu_si256(at.add(LANES).cast(), vectors[1]);
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
    fn columns(self, rows: BlockRows<'_>, at: usize) -> [Words; 4] {
        let (bytes, starts) = rows.places(at, 16);
        // SAFETY: see above the impl; sixteen bytes from each start are within `bytes`.
        unsafe {
            let row = |f: usize| _mm_loadu_si128(bytes.as_ptr().add(starts[f]).cast());
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
            words([
                _mm256_setr_epi32(w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]),
                _mm256_setr_epi32(w[8], w[9], w[10], w[11], w[12], w[13], w[14], w[15]),
            ])
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
    fn shift_right(self, a: Words, bits: u32) -> Words {
        // SAFETY: see above the impl.
        unsafe {
            let bits = _mm_cvtsi32_si128(bits.cast_signed());
            let [a, b] = load(&a);
            words([_mm256_srl_epi32(a, bits), _mm256_srl_epi32(b, bits)])
        }
    }

    #[inline(always)]
    fn shift_left(self, a: Words, bits: u32) -> Words {
        // SAFETY: see above the impl.
        unsafe {
            let bits = _mm_cvtsi32_si128(bits.cast_signed());
            let [a, b] = load(&a);
            words([_mm256_sll_epi32(a, bits), _mm256_sll_epi32(b, bits)])
        }
    }

    #[inline(always)]
    fn bytes_and(self, a: Words, mask: u8) -> Words {
        // SAFETY: see above the impl.
        unsafe {
            let mask = _mm256_set1_epi8(mask.cast_signed());
            let [a, b] = load(&a);
            words([_mm256_and_si256(a, mask), _mm256_and_si256(b, mask)])
        }
    }

    #[inline(always)]
    fn bytes_xor(self, a: Words, mask: u8) -> Words {
        // SAFETY: see above the impl.
        unsafe {
            let mask = _mm256_set1_epi8(mask.cast_signed());
            let [a, b] = load(&a);
            words([_mm256_xor_si256(a, mask), _mm256_xor_si256(b, mask)])
        }
    }

    #[inline(always)]
    fn low_byte(self, a: Words) -> Words {
        // SAFETY: see above the impl.
        unsafe {
            let mask = _mm256_set1_epi32(0xff);
            let [a, b] = load(&a);
            words([_mm256_and_si256(a, mask), _mm256_and_si256(b, mask)])
        }
    }

    #[inline(always)]
    fn or(self, a: Words, b: Words) -> Words {
        // SAFETY: see above the impl.
        unsafe {
            let ([a, c], [b, d]) = (load(&a), load(&b));
            words([_mm256_or_si256(a, b), _mm256_or_si256(c, d)])
        }
    }

    #[inline(always)]
    fn numbers(self, a: Words) -> [f32; FEATURES] {
        let mut values = [0.0; FEATURES];
        // SAFETY: see above the impl.
        unsafe {
            let [a, b] = load(&a);
            _mm256_storeu_ps(values.as_mut_ptr(), _mm256_cvtepi32_ps(a));
            _mm256_storeu_ps(values.as_mut_ptr().add(LANES), _mm256_cvtepi32_ps(b));
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
    assert!(panel.codes.len() >= groups * C::STEPS);
    assert!(!C::MINIMUMS || panel.minimums.len() >= groups);
    for r in 0..R {
        assert!(rows.words[r].len() >= groups * C::STEPS);
        assert!(rows.scales[r].len() >= groups && rows.sums[r].len() >= groups);
    }
    // Hidden from the optimiser, which otherwise unrolls the loops over steps and spills what it gathers from all of them.
    let steps = std::hint::black_box(if C::GREATEST > 127 { C::STEPS } else { span::<C>() });
    for g in 0..groups {
        let codes = &raw const panel.codes[g * C::STEPS];
        let mut x = [std::ptr::null(); R];
        for r in 0..R {
            x[r] = &raw const rows.words[r][g * C::STEPS];
        }
        // SAFETY: `C::STEPS` words follow each of the pointers, for the lengths are asserted above, and groups have a
        // whole number of spans.
        unsafe {
            let dots = if C::GREATEST > 127 && R <= FEW {
                signed_dots::<R>(codes, x, steps)
            } else if C::GREATEST > 127 {
                dots_of_bytes::<R>(codes, x, steps)
            } else {
                dots::<C, R>(codes, x, steps)
            };
            let factors = floats(&panel.factors[g]);
            for r in 0..R {
                let scale = _mm256_set1_ps(rows.scales[r][g]);
                let sum = _mm256_set1_ps(rows.sums[r][g]);
                let mut totals = floats(&sums[r]);
                for v in 0..V {
                    let mut dot = _mm256_cvtepi32_ps(dots[r][v]);
                    // Signed codes have no offset: the same integer either way, and exact.
                    if !C::MINIMUMS && (C::GREATEST <= 127 || R > FEW) {
                        dot = _mm256_add_ps(dot, sum);
                    }
                    let factor = _mm256_mul_ps(factors[v], scale);
                    totals[v] = _mm256_fmadd_ps(factor, dot, totals[v]);
                }
                if C::MINIMUMS {
                    let minimums = floats(&panel.minimums[g]);
                    for v in 0..V {
                        totals[v] = _mm256_fmadd_ps(minimums[v], sum, totals[v]);
                    }
                }
                for v in 0..V {
                    _mm256_storeu_ps(sums[r][v * LANES..][..LANES].as_mut_ptr(), totals[v]);
                }
            }
        }
    }
}

/// Steps whose pairs add up without leaving 16 bits: a power of two, so a group is a whole number of them.
const fn span<C: Codes>() -> usize {
    let most = 32767 / (2 * 127 * C::GREATEST as usize);
    let span = if most >= 8 {
        8
    } else if most >= 4 {
        4
    } else {
        2
    };
    if span < C::STEPS { span } else { C::STEPS }
}

/// `Σ code·q` over the values of one group; `steps` is the span.
///
/// # Safety
///
/// The processor has AVX2, and `C::STEPS` words follow each pointer.
#[inline(always)]
unsafe fn dots<C: Codes, const R: usize>(
    codes: *const Words,
    x: [*const u32; R],
    steps: usize,
) -> [[__m256i; V]; R] {
    // SAFETY: the caller's.
    unsafe {
        let zero = _mm256_setzero_si256();
        let ones = _mm256_set1_epi16(1);
        let mut totals = [[zero; V]; R];
        for part in 0..C::STEPS / span::<C>() {
            let start = part * span::<C>();
            let mut sums = [[zero; V]; R];
            for s in start..start + steps {
                let w = load(&*codes.add(s));
                for r in 0..R {
                    let q = _mm256_set1_epi32(x[r].add(s).read().cast_signed());
                    for v in 0..V {
                        sums[r][v] = _mm256_add_epi16(sums[r][v], _mm256_maddubs_epi16(w[v], q));
                    }
                }
            }
            for r in 0..R {
                for v in 0..V {
                    let wide = _mm256_madd_epi16(sums[r][v], ones);
                    totals[r][v] = _mm256_add_epi32(totals[r][v], wide);
                }
            }
        }
        totals
    }
}

/// The same for codes of eight bits and groups of up to eight steps, as two of four bits.
///
/// # Safety
///
/// The processor has AVX2, and `steps` words follow each pointer.
#[inline(always)]
unsafe fn dots_of_bytes<const R: usize>(
    codes: *const Words,
    x: [*const u32; R],
    steps: usize,
) -> [[__m256i; V]; R] {
    // SAFETY: the caller's.
    unsafe {
        let zero = _mm256_setzero_si256();
        let nibble = _mm256_set1_epi8(0x0f);
        let mut totals = [[zero; V]; R];
        // A vector of features at a time: twice as many sums would not fit the registers.
        for v in 0..V {
            let (mut low, mut high) = ([zero; R], [zero; R]);
            for s in 0..steps {
                let w = load(&*codes.add(s))[v];
                let w_low = _mm256_and_si256(w, nibble);
                let w_high = _mm256_and_si256(_mm256_srli_epi16::<4>(w), nibble);
                for r in 0..R {
                    let q = _mm256_set1_epi32(x[r].add(s).read().cast_signed());
                    low[r] = _mm256_add_epi16(low[r], _mm256_maddubs_epi16(w_low, q));
                    high[r] = _mm256_add_epi16(high[r], _mm256_maddubs_epi16(w_high, q));
                }
            }
            for r in 0..R {
                let low = _mm256_madd_epi16(low[r], _mm256_set1_epi16(1));
                let high = _mm256_madd_epi16(high[r], _mm256_set1_epi16(16));
                totals[r][v] = _mm256_add_epi32(low, high);
            }
        }
        totals
    }
}

/// `Σ (code - 128)·q` for codes of eight bits, as the product of a magnitude and of an activation that has its sign.
///
/// # Safety
///
/// The processor has AVX2, and `steps` words follow each pointer.
#[inline(always)]
unsafe fn signed_dots<const R: usize>(
    codes: *const Words,
    x: [*const u32; R],
    steps: usize,
) -> [[__m256i; V]; R] {
    // SAFETY: the caller's.
    unsafe {
        let half = _mm256_set1_epi8(i8::MIN);
        let ones = _mm256_set1_epi16(1);
        let mut totals = [[_mm256_setzero_si256(); V]; R];
        for s in 0..steps {
            let w = load(&*codes.add(s));
            for v in 0..V {
                let signed = _mm256_xor_si256(w[v], half);
                // -128 becomes 128, which is right for an unsigned byte; two products with 127 still fit 16 bits.
                let magnitude = _mm256_abs_epi8(signed);
                for r in 0..R {
                    let q = _mm256_set1_epi32(x[r].add(s).read().cast_signed());
                    let pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(q, signed));
                    let wide = _mm256_madd_epi16(pairs, ones);
                    totals[r][v] = _mm256_add_epi32(totals[r][v], wide);
                }
            }
        }
        totals
    }
}
