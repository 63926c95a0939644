//! Whole blocks of 256 codes where they lie, with AVX-512 and vector neural network instructions.
//!
//! Row by row: a vector holds 64 codes that follow each other, and its product with as many of `x` has the sums of four
//! in each word. These are added up to the sixteen sums of 16 values that a block has; those of sixteen rows are
//! transposed, and the rest is what [`super::Integers::multiply`] does.
//!
//! `Q4_K`, whose groups of 32 codes are no more than two parts of 16, four rows at a time: a vector holds 16 codes of
//! each, and a group's sums of sixteen rows need no transposing. A quarter fewer instructions.

#![allow(clippy::wildcard_imports)] // intrinsics, by the dozen

use super::{
    BlockRows, Codes, FEATURES, MOST_GROUPS, Vnni, Whole, WholeGroups,
    vnni::{four_rows, high_nibbles, low_nibbles, sums_of_four, with_dots},
};
use crate::quant::Encoding;
use std::arch::x86_64::*;

/// Codes in a vector.
const VECTOR: usize = 64;
/// Vectors in a block.
const VECTORS: usize = 4;

/// The factors and minimums of each group, and the totals.
type Numbers<'a> = (
    &'a [[f32; FEATURES]; MOST_GROUPS],
    &'a [[f32; FEATURES]; MOST_GROUPS],
    &'a mut [f32; FEATURES],
);

/// How the codes of a format lie.
trait Lie {
    /// Bytes in a block.
    const BYTES: usize;

    /// All codes of a block, one in each byte.
    ///
    /// # Safety
    ///
    /// The processor has AVX-512 BW, and the block's bytes can be read.
    unsafe fn load(block: *const u8) -> [__m512i; VECTORS];
}

/// The same 32 bytes twice, shifted right by `low` bits and by `high` bits; what comes from other bytes is to be masked.
///
/// # Safety
///
/// The processor has AVX-512 BW, and 32 bytes can be read.
#[inline(always)]
unsafe fn twice(bytes: *const u8, low: i16, high: i16) -> __m512i {
    // SAFETY: the caller's.
    unsafe {
        let both = _mm512_broadcast_i64x4(_mm256_loadu_si256(bytes.cast()));
        let by = _mm512_inserti64x4::<1>(
            _mm512_castsi256_si512(_mm256_set1_epi16(low)),
            _mm256_set1_epi16(high),
        );
        _mm512_srlv_epi16(both, by)
    }
}

/// # Safety
///
/// The processor has AVX-512 BW.
#[inline(always)]
unsafe fn masked(bytes: __m512i, mask: i8) -> __m512i {
    // SAFETY: the caller's.
    unsafe { _mm512_and_si512(bytes, _mm512_set1_epi8(mask)) }
}

struct Q2K;
struct Q3K;
struct Q4K;
struct Q5K;
struct Q6K;

impl Lie for Q2K {
    const BYTES: usize = Encoding::Q2_K.block_bytes();

    #[inline(always)]
    unsafe fn load(block: *const u8) -> [__m512i; VECTORS] {
        // SAFETY: the caller's.
        unsafe {
            [
                masked(twice(block.add(16), 0, 2), 3),
                masked(twice(block.add(16), 4, 6), 3),
                masked(twice(block.add(48), 0, 2), 3),
                masked(twice(block.add(48), 4, 6), 3),
            ]
        }
    }
}

impl Lie for Q3K {
    const BYTES: usize = Encoding::Q3_K.block_bytes();

    #[inline(always)]
    unsafe fn load(block: *const u8) -> [__m512i; VECTORS] {
        // SAFETY: the caller's.
        unsafe {
            let low = Q2K::load(block.add(16));
            let mut codes = low;
            for i in 0..VECTORS {
                let third = masked(twice(block, 2 * i as i16, 2 * i as i16 + 1), 1);
                codes[i] = _mm512_or_si512(low[i], _mm512_slli_epi16::<2>(third));
            }
            codes
        }
    }
}

impl Lie for Q4K {
    const BYTES: usize = Encoding::Q4_K.block_bytes();

    #[inline(always)]
    unsafe fn load(block: *const u8) -> [__m512i; VECTORS] {
        // SAFETY: the caller's.
        unsafe {
            let mut codes = [_mm512_setzero_si512(); VECTORS];
            for i in 0..VECTORS {
                codes[i] = masked(twice(block.add(16 + 32 * i), 0, 4), 0x0f);
            }
            codes
        }
    }
}

impl Lie for Q5K {
    const BYTES: usize = Encoding::Q5_K.block_bytes();

    #[inline(always)]
    unsafe fn load(block: *const u8) -> [__m512i; VECTORS] {
        // SAFETY: the caller's.
        unsafe {
            let low = Q4K::load(block.add(32));
            let mut codes = low;
            for i in 0..VECTORS {
                let fifth = masked(twice(block.add(16), 2 * i as i16, 2 * i as i16 + 1), 1);
                codes[i] = _mm512_or_si512(low[i], _mm512_slli_epi16::<4>(fifth));
            }
            codes
        }
    }
}

impl Lie for Q6K {
    const BYTES: usize = Encoding::Q6_K.block_bytes();

    #[inline(always)]
    unsafe fn load(block: *const u8) -> [__m512i; VECTORS] {
        // SAFETY: the caller's.
        unsafe {
            let mut codes = [_mm512_setzero_si512(); VECTORS];
            for half in 0..2 {
                let low = _mm512_loadu_si512(block.add(64 * half).cast());
                let nibbles = [masked(low, 0x0f), masked(_mm512_srli_epi16::<4>(low), 0x0f)];
                for n in 0..2 {
                    let by = 4 * n as i16;
                    let high = masked(twice(block.add(128 + 32 * half), by, by + 2), 3);
                    let high = _mm512_slli_epi16::<4>(high);
                    codes[2 * half + n] = _mm512_or_si512(nibbles[n], high);
                }
            }
            codes
        }
    }
}

/// See [`super::Integers::add_block`].
#[inline(always)]
pub(super) fn add_block<C: Codes>(
    integers: Vnni,
    rows: BlockRows<'_>,
    whole: Whole,
    x: WholeGroups<'_>,
    numbers: Numbers<'_>,
) {
    // SAFETY: `integers` proves that the processor has what these enable.
    unsafe {
        match whole {
            Whole::Q2K => add::<C, Q2K>(integers, rows, x, numbers),
            Whole::Q3K => add::<C, Q3K>(integers, rows, x, numbers),
            Whole::Q4K => add_nibbles::<C>(integers, rows, x, numbers),
            Whole::Q5K => add::<C, Q5K>(integers, rows, x, numbers),
            Whole::Q6K => add::<C, Q6K>(integers, rows, x, numbers),
        }
    }
}

#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512vnni,avx2,fma,f16c")]
#[inline]
fn add<C: Codes, L: Lie>(
    integers: Vnni,
    rows: BlockRows<'_>,
    x: WholeGroups<'_>,
    numbers: Numbers<'_>,
) {
    let (factors, minimums, totals) = numbers;
    let groups = VECTOR * VECTORS / C::GROUP;
    let (scales, row_sums) = (&x.scales[..groups], &x.sums[..groups]);
    let (bytes, starts) = rows.places(0, L::BYTES);
    // SAFETY: a block from each start is within `bytes`; 64 words are four vectors, and sixteen numbers are one.
    unsafe {
        let mut q = [_mm512_setzero_si512(); VECTORS];
        for i in 0..VECTORS {
            q[i] = _mm512_loadu_si512(x.words.as_ptr().add(i * VECTOR / 4).cast());
        }
        let mut sums = [_mm512_setzero_si512(); FEATURES];
        for f in 0..FEATURES {
            rows.prefetch(integers, f * L::BYTES..(f + 1) * L::BYTES);
            let codes = L::load(bytes.as_ptr().add(starts[f]));
            let mut dots = [_mm512_setzero_si512(); VECTORS];
            for i in 0..VECTORS {
                dots[i] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), codes[i], q[i]);
            }
            sums[f] = sums_of_four(dots);
        }
        let sums = transposed(sums);
        let mut total = _mm512_loadu_ps(totals.as_ptr());
        for g in 0..groups {
            // Word `4 · l + i` of a row's sums is that of the sixteen values in part `l` of vector `i`.
            let dots = if C::GROUP == 16 {
                sums[4 * (g % 4) + g / 4]
            } else {
                let at = 8 * (g % 2) + g / 2;
                _mm512_add_epi32(sums[at], sums[at + 4])
            };
            let of_x = (scales[g], row_sums[g]);
            total = with_dots::<C>(total, dots, of_x, (&factors[g], &minimums[g]));
        }
        _mm512_storeu_ps(totals.as_mut_ptr(), total);
    }
}

/// As [`add`], for `Q4_K`, four rows at a time.
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512vnni,avx2,fma,f16c")]
#[inline]
fn add_nibbles<C: Codes>(
    integers: Vnni,
    rows: BlockRows<'_>,
    x: WholeGroups<'_>,
    numbers: Numbers<'_>,
) {
    let (factors, minimums, totals) = numbers;
    let (scales, row_sums) = (&x.scales[..2 * VECTORS], &x.sums[..2 * VECTORS]);
    let (bytes, starts) = rows.places(0, Q4K::BYTES);
    // SAFETY: a block from each start is within `bytes`; sixteen words of `x` are four times 16 bytes, and sixteen numbers
    // are one vector.
    unsafe {
        let mut total = _mm512_loadu_ps(totals.as_ptr());
        for pair in 0..VECTORS {
            let mut q = [_mm512_setzero_si512(); 4];
            for i in 0..4 {
                let words = x.words.as_ptr().add(pair * VECTOR / 4 + 4 * i);
                q[i] = _mm512_broadcast_i32x4(_mm_loadu_si128(words.cast()));
            }
            let (mut low, mut high) = ([_mm512_setzero_si512(); 4], [_mm512_setzero_si512(); 4]);
            for f in 0..4 {
                let part = 4 * pair + f;
                rows.prefetch(integers, part * Q4K::BYTES..(part + 1) * Q4K::BYTES);
                for half in 0..2 {
                    let at = bytes.as_ptr().add(16 + 32 * pair + 16 * half);
                    let packed = four_rows(at, starts, f);
                    low[f] = _mm512_dpbusd_epi32(low[f], low_nibbles(packed), q[half]);
                    high[f] = _mm512_dpbusd_epi32(high[f], high_nibbles(packed), q[2 + half]);
                }
            }
            for (g, dots) in [(2 * pair, low), (2 * pair + 1, high)] {
                let of_x = (scales[g], row_sums[g]);
                let of_w = (&factors[g], &minimums[g]);
                total = with_dots::<C>(total, sums_of_four(dots), of_x, of_w);
            }
        }
        _mm512_storeu_ps(totals.as_mut_ptr(), total);
    }
}

/// Rows as columns: pairs and fours within 128 bits, then the parts of 128 bits.
///
/// # Safety
///
/// The processor has AVX-512 F.
#[inline(always)]
unsafe fn transposed(rows: [__m512i; 16]) -> [__m512i; 16] {
    // SAFETY: the caller's.
    unsafe {
        let mut quads = [_mm512_setzero_si512(); 16];
        for group in 0..4 {
            let [a, b] = [rows[4 * group], rows[4 * group + 1]];
            let [c, d] = [rows[4 * group + 2], rows[4 * group + 3]];
            let [low, high] = [_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b)];
            let [low2, high2] = [_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d)];
            quads[group] = _mm512_unpacklo_epi64(low, low2);
            quads[4 + group] = _mm512_unpackhi_epi64(low, low2);
            quads[8 + group] = _mm512_unpacklo_epi64(high, high2);
            quads[12 + group] = _mm512_unpackhi_epi64(high, high2);
        }
        let mut columns = quads;
        for c in 0..4 {
            let [a, b] = [quads[4 * c], quads[4 * c + 1]];
            let [d, e] = [quads[4 * c + 2], quads[4 * c + 3]];
            let [even, even2] =
                [_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(d, e)];
            let [odd, odd2] =
                [_mm512_shuffle_i32x4::<0xdd>(a, b), _mm512_shuffle_i32x4::<0xdd>(d, e)];
            columns[c] = _mm512_shuffle_i32x4::<0x88>(even, even2);
            columns[4 + c] = _mm512_shuffle_i32x4::<0x88>(odd, odd2);
            columns[8 + c] = _mm512_shuffle_i32x4::<0xdd>(even, even2);
            columns[12 + c] = _mm512_shuffle_i32x4::<0xdd>(odd, odd2);
        }
        columns
    }
}
