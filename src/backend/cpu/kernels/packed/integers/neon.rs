//! Advanced SIMD of 64-bit Arm with its dot products: four sums of four signed products in one instruction.
//!
//! Codes up to 127 are signed bytes as they are. Greater ones lose 128, and their sums of activations, which stand for that
//! offset, are left out.

#![allow(clippy::wildcard_imports)] // intrinsics, by the dozen

use super::{BlockRows, Codes, FEATURES, Integers, Kernel, Panel, Rows, Words};
use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

/// Proof that the processor has NEON and its dot products; only [`Neon::detect`] makes one.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Neon(());

impl Neon {
    /// The proof: Apple's processors have both, Arm's since the Cortex-A76.
    pub(super) fn detect() -> Option<Self> {
        let has = is_aarch64_feature_detected!("neon") && is_aarch64_feature_detected!("dotprod");
        has.then_some(Self(()))
    }
}

#[target_feature(enable = "neon,dotprod")]
fn run_enabled<K: Kernel>(integers: Neon, kernel: K) {
    kernel.run(integers);
}

/// Vectors in a panel.
const V: usize = 4;
/// Lanes in a vector.
const LANES: usize = FEATURES / V;

/// `sums + Σ w·q` for each four bytes; the intrinsic needs a newer compiler.
///
/// # Safety
///
/// The processor has the dot products.
#[inline(always)]
unsafe fn dot(sums: int32x4_t, w: int8x16_t, q: int8x16_t) -> int32x4_t {
    let mut sums = sums;
    // SAFETY: the caller's; the instruction touches registers only.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {sums:v}.4s, {w:v}.16b, {q:v}.16b",
            sums = inout(vreg) sums,
            w = in(vreg) w,
            q = in(vreg) q,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}

// SAFETY, for every block below: `self` proves that the processor has these instructions, and each pointer comes from a
// slice or array whose length is asserted or visible right there.
impl Integers for Neon {
    const ROWS: usize = 4;

    #[inline(always)]
    fn columns(self, rows: BlockRows<'_>, at: usize) -> [Words; 4] {
        let (bytes, starts) = rows.places(at, 16);
        let mut columns = [Words::ZERO; 4];
        for v in 0..V {
            let first = LANES * v;
            // SAFETY: see above the impl; sixteen bytes from each start are within `bytes`, and four words follow `first`.
            unsafe {
                let a = vreinterpretq_u32_u8(vld1q_u8(bytes.as_ptr().add(starts[first])));
                let b = vreinterpretq_u32_u8(vld1q_u8(bytes.as_ptr().add(starts[first + 1])));
                let c = vreinterpretq_u32_u8(vld1q_u8(bytes.as_ptr().add(starts[first + 2])));
                let d = vreinterpretq_u32_u8(vld1q_u8(bytes.as_ptr().add(starts[first + 3])));
                let (even, odd) = (vtrn1q_u32(a, b), vtrn2q_u32(a, b));
                let (even2, odd2) = (vtrn1q_u32(c, d), vtrn2q_u32(c, d));
                let (even, odd) = (vreinterpretq_u64_u32(even), vreinterpretq_u64_u32(odd));
                let (even2, odd2) = (vreinterpretq_u64_u32(even2), vreinterpretq_u64_u32(odd2));
                let words = [
                    vtrn1q_u64(even, even2),
                    vtrn1q_u64(odd, odd2),
                    vtrn2q_u64(even, even2),
                    vtrn2q_u64(odd, odd2),
                ];
                for k in 0..4 {
                    let to = columns[k].0[first..first + LANES].as_mut_ptr();
                    vst1q_u32(to, vreinterpretq_u32_u64(words[k]));
                }
            }
        }
        columns
    }

    #[inline(always)]
    fn gather(self, rows: BlockRows<'_>, at: usize) -> Words {
        let (bytes, starts) = rows.places(at, 4);
        let mut words = Words::ZERO;
        for f in 0..FEATURES {
            // SAFETY: four bytes from each start are within `bytes`.
            let word = unsafe { bytes.as_ptr().add(starts[f]).cast::<u32>().read_unaligned() };
            words.0[f] = u32::from_le(word);
        }
        words
    }

    #[inline(always)]
    fn halves(self, words: Words) -> [f32; FEATURES] {
        let mut values = [0.0; FEATURES];
        for v in 0..V {
            let (from, to) = (&words.0[LANES * v..][..LANES], &mut values[LANES * v..][..LANES]);
            // SAFETY: see above the impl; the conversion touches registers only.
            unsafe {
                let halves: uint16x4_t = vmovn_u32(vld1q_u32(from.as_ptr()));
                let wide: float32x4_t;
                asm!(
                    "fcvtl {wide:v}.4s, {halves:v}.4h",
                    wide = out(vreg) wide,
                    halves = in(vreg) halves,
                    options(pure, nomem, nostack, preserves_flags)
                );
                vst1q_f32(to.as_mut_ptr(), wide);
            }
        }
        values
    }

    #[inline(always)]
    fn look_up(self, table: &[u8; 16], words: Words) -> Words {
        let mut found = Words::ZERO;
        for v in 0..V {
            let (from, to) = (&words.0[LANES * v..][..LANES], &mut found.0[LANES * v..][..LANES]);
            // SAFETY: see above the impl.
            unsafe {
                let codes = vreinterpretq_u8_u32(vld1q_u32(from.as_ptr()));
                let levels = vqtbl1q_u8(vld1q_u8(table.as_ptr()), codes);
                vst1q_u32(to.as_mut_ptr(), vreinterpretq_u32_u8(levels));
            }
        }
        found
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
#[target_feature(enable = "neon,dotprod")]
fn multiply<C: Codes, const R: usize>(
    panel: Panel<'_>,
    rows: Rows<'_, R>,
    sums: &mut [[f32; FEATURES]; R],
) {
    let signed = C::GREATEST > 127;
    let turn = if signed { 0x80 } else { 0 };
    for (g, factors) in panel.factors.iter().enumerate() {
        let steps = g * C::STEPS..(g + 1) * C::STEPS;
        // SAFETY: each pointer comes from a slice or array of a visible length.
        unsafe {
            let mut dots = [[vdupq_n_s32(0); V]; R];
            for s in steps {
                let words = panel.codes[s].0;
                for v in 0..V {
                    let w = vld1q_u32(words[LANES * v..][..LANES].as_ptr());
                    let w = veorq_u8(vreinterpretq_u8_u32(w), vdupq_n_u8(turn));
                    for r in 0..R {
                        let q = vreinterpretq_s8_u32(vdupq_n_u32(rows.words[r][s]));
                        dots[r][v] = dot(dots[r][v], vreinterpretq_s8_u8(w), q);
                    }
                }
            }
            for r in 0..R {
                let (scale, sum) = (rows.scales[r][g], rows.sums[r][g]);
                for v in 0..V {
                    let to = &mut sums[r][LANES * v..][..LANES];
                    let mut total = vld1q_f32(to.as_ptr());
                    let mut dot = vcvtq_f32_s32(dots[r][v]);
                    if !C::MINIMUMS && !signed {
                        dot = vaddq_f32(dot, vdupq_n_f32(sum));
                    }
                    let factor = vld1q_f32(factors[LANES * v..][..LANES].as_ptr());
                    total = vfmaq_f32(total, vmulq_n_f32(factor, scale), dot);
                    if C::MINIMUMS {
                        let minimum = vld1q_f32(panel.minimums[g][LANES * v..][..LANES].as_ptr());
                        total = vfmaq_n_f32(total, minimum, sum);
                    }
                    vst1q_f32(to.as_mut_ptr(), total);
                }
            }
        }
    }
}
