//! AVX-512 with vector neural network instructions: sixteen dot products of four bytes in one instruction.

#![allow(clippy::wildcard_imports)] // intrinsics, by the dozen

use super::{
    BlockRows, Codes, FEATURES, Group, Integers, Kernel, MOST_GROUPS, Panel, Place, Rows, Whole,
    WholeGroups, Words, avx2::Avx2, vnni_blocks,
};
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

    const IN_PLACE: bool = true;

    #[inline(always)]
    fn add_group<C: Codes>(
        self,
        rows: BlockRows<'_>,
        place: Place,
        x: Group<'_>,
        factors: &[f32; FEATURES],
        minimums: &[f32; FEATURES],
        totals: &mut [f32; FEATURES],
    ) {
        let (at, len) = place.bytes();
        let (bytes, starts) = rows.places(at, len);
        let sums = (factors, minimums, totals);
        // SAFETY: `self` proves that the processor has what these enable, and `len` bytes from each start are within
        // `bytes`.
        unsafe {
            match place {
                Place::Nibbles(_) => add_group::<C, BothNibbles>(bytes, starts, x, sums),
                Place::Low(_) | Place::High(_) => {
                    unreachable!("blocks of 256 are multiplied whole")
                }
                Place::Signed(_) => add_group::<C, SignedBytes>(bytes, starts, x, sums),
            }
        }
    }

    const WHOLE: bool = true;

    #[inline(always)]
    fn add_block<C: Codes>(
        self,
        rows: BlockRows<'_>,
        whole: Whole,
        x: WholeGroups<'_>,
        factors: &[[f32; FEATURES]; MOST_GROUPS],
        minimums: &[[f32; FEATURES]; MOST_GROUPS],
        totals: &mut [f32; FEATURES],
    ) {
        vnni_blocks::add_block::<C>(self, rows, whole, x, (factors, minimums, totals));
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

/// Sixteen bytes of rows `f`, `f + 4`, `f + 8` and `f + 12`.
///
/// # Safety
///
/// The processor has AVX-512 F, and the bytes can be read.
#[inline(always)]
pub(super) unsafe fn four_rows(bytes: *const u8, starts: &[usize; FEATURES], f: usize) -> __m512i {
    // SAFETY: the caller's.
    unsafe {
        let row = |f: usize| _mm_loadu_si128(bytes.add(starts[f]).cast());
        let all = _mm512_castsi128_si512(row(f));
        let all = _mm512_inserti32x4::<1>(all, row(f + 4));
        let all = _mm512_inserti32x4::<2>(all, row(f + 8));
        _mm512_inserti32x4::<3>(all, row(f + 12))
    }
}

/// How the 32 codes of a group lie in memory.
trait Lie {
    /// The first and the last sixteen of four rows, a code in each byte, not signed.
    ///
    /// # Safety
    ///
    /// As [`four_rows`].
    unsafe fn load(bytes: *const u8, starts: &[usize; FEATURES], f: usize) -> [__m512i; 2];
}

/// Sixteen bytes: see [`Place::Nibbles`].
struct BothNibbles;
/// 32 bytes: see [`Place::Signed`].
struct SignedBytes;

/// # Safety
///
/// The processor has AVX-512 BW.
#[inline(always)]
pub(super) unsafe fn low_nibbles(packed: __m512i) -> __m512i {
    // SAFETY: the caller's.
    unsafe { _mm512_and_si512(packed, _mm512_set1_epi8(0x0f)) }
}

/// # Safety
///
/// The processor has AVX-512 BW.
#[inline(always)]
pub(super) unsafe fn high_nibbles(packed: __m512i) -> __m512i {
    // SAFETY: the caller's.
    unsafe { low_nibbles(_mm512_srli_epi16::<4>(packed)) }
}

impl Lie for BothNibbles {
    #[inline(always)]
    unsafe fn load(bytes: *const u8, starts: &[usize; FEATURES], f: usize) -> [__m512i; 2] {
        // SAFETY: the caller's.
        unsafe {
            let packed = four_rows(bytes, starts, f);
            [low_nibbles(packed), high_nibbles(packed)]
        }
    }
}

impl Lie for SignedBytes {
    #[inline(always)]
    unsafe fn load(bytes: *const u8, starts: &[usize; FEATURES], f: usize) -> [__m512i; 2] {
        // SAFETY: the caller's.
        unsafe {
            // A signed byte plus 128, without a carry.
            let half = _mm512_set1_epi8(i8::MIN);
            let second = four_rows(bytes.add(16), starts, f);
            [_mm512_xor_si512(four_rows(bytes, starts, f), half), _mm512_xor_si512(second, half)]
        }
    }
}

/// See [`Integers::add_group`]; the numbers are factors, minimums and totals.
///
/// # Safety
///
/// The bytes that `L` reads from each start can be read.
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512vnni,avx2,fma,f16c")]
#[inline]
unsafe fn add_group<C: Codes, L: Lie>(
    bytes: &[u8],
    starts: &[usize; FEATURES],
    x: Group<'_>,
    numbers: (&[f32; FEATURES], &[f32; FEATURES], &mut [f32; FEATURES]),
) {
    // SAFETY: the caller's; eight words are two times sixteen bytes, and sixteen numbers are a vector.
    unsafe {
        let words = x.words.as_ptr();
        let first = _mm512_broadcast_i32x4(_mm_loadu_si128(words.cast()));
        let last = _mm512_broadcast_i32x4(_mm_loadu_si128(words.add(4).cast()));
        let mut dots = [_mm512_setzero_si512(); 4];
        for f in 0..4 {
            let codes = L::load(bytes.as_ptr(), starts, f);
            dots[f] = _mm512_dpbusd_epi32(dots[f], codes[0], first);
            dots[f] = _mm512_dpbusd_epi32(dots[f], codes[1], last);
        }
        let dots = sums_of_four(dots);
        let (factors, minimums, totals) = numbers;
        let total = _mm512_loadu_ps(totals.as_ptr());
        let total = with_dots::<C>(total, dots, (x.scale, x.sum), (factors, minimums));
        _mm512_storeu_ps(totals.as_mut_ptr(), total);
    }
}

/// The sums of the four words in each 128 bits: word `4 · l + i` is that of part `l` of vector `i`.
///
/// # Safety
///
/// The processor has AVX-512 F.
#[inline(always)]
pub(super) unsafe fn sums_of_four([a, b, c, d]: [__m512i; 4]) -> __m512i {
    // SAFETY: the caller's.
    unsafe {
        let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
    }
}

/// Totals with what [`Integers::multiply`] adds of one group and one row; the numbers of `x` are its scale and sum, those
/// of the weights factors and minimums.
///
/// # Safety
///
/// The processor has AVX-512 F.
#[inline(always)]
pub(super) unsafe fn with_dots<C: Codes>(
    total: __m512,
    dots: __m512i,
    (scale, sum): (f32, f32),
    (factors, minimums): (&[f32; FEATURES], &[f32; FEATURES]),
) -> __m512 {
    // SAFETY: the caller's; sixteen numbers are a vector.
    unsafe {
        let mut dots = _mm512_cvtepi32_ps(dots);
        let sum = _mm512_set1_ps(sum);
        if !C::MINIMUMS {
            dots = _mm512_add_ps(dots, sum);
        }
        let factor = _mm512_mul_ps(_mm512_loadu_ps(factors.as_ptr()), _mm512_set1_ps(scale));
        let total = _mm512_fmadd_ps(factor, dots, total);
        if !C::MINIMUMS {
            return total;
        }
        _mm512_fmadd_ps(_mm512_loadu_ps(minimums.as_ptr()), sum, total)
    }
}
