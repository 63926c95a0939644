//! Integer products, one implementation per instruction set.
//!
//! The scheme is that of [`super::super::simd`]: a value of an instruction set's type is the proof that the processor has
//! it, a [`Kernel`] is written once and compiled for each, and everything below [`Kernel::run`] is inlined.

mod scalar;
mod words;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod vnni;

#[cfg(target_arch = "x86_64")]
use avx2::Avx2;
#[cfg(target_arch = "aarch64")]
use neon::Neon;
#[cfg(target_arch = "x86_64")]
use vnni::Vnni;

use super::formats::Codes;
use scalar::Scalar;
use std::sync::OnceLock;

pub(super) use words::{FEATURES, Words};

/// A depth slice of sixteen features, unpacked; see [`Integers::multiply`].
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    /// Four codes of each feature, for one depth after the other: [`Codes::STEPS`] for a group.
    pub(super) codes: &'a [Words],
    /// What a code counts, for each group.
    pub(super) factors: &'a [[f32; FEATURES]],
    /// What every value of a group has besides; nothing if the format has none.
    pub(super) minimums: &'a [[f32; FEATURES]],
}

/// The same depth slice of `R` rows of activations: see [`super::activations::Quantised`].
#[derive(Clone, Copy)]
pub(super) struct Rows<'a, const R: usize> {
    pub(super) words: [&'a [u32]; R],
    pub(super) scales: [&'a [f32]; R],
    pub(super) sums: [&'a [f32]; R],
}

/// What the kernels need of an instruction set.
pub(super) trait Integers: Copy + Send + Sync + 'static {
    /// The most rows that [`Integers::multiply`] keeps in registers.
    const ROWS: usize;

    /// Sixteen bytes of each row from `at` on, as four words: `columns[k]` has word `k` of every row.
    fn columns(self, rows: &[&[u8]; FEATURES], at: usize) -> [Words; 4];

    /// The half-precision numbers in the low halves of the words.
    fn halves(self, words: Words) -> [f32; FEATURES];

    /// Replaces every byte, which is below 16, by that entry of the table.
    fn look_up(self, table: &[u8; 16], words: Words) -> Words;

    /// For each group in turn, with `dot = Σ code·q` over its values:
    ///
    /// - `sums[r] += factor · scale · dot + minimum · sum` if the format has minimums,
    /// - `sums[r] += factor · scale · (dot + sum)` otherwise,
    ///
    /// where `scale` and `sum` are those of the row's group.
    fn multiply<C: Codes, const R: usize>(
        self,
        panel: Panel<'_>,
        rows: Rows<'_, R>,
        sums: &mut [[f32; FEATURES]; R],
    );

    /// Runs `kernel` compiled for this instruction set.
    fn run<K: Kernel>(self, kernel: K);
}

/// A computation written once for every instruction set.
pub(super) trait Kernel {
    /// The computation; implementations are `#[inline(always)]`.
    fn run<I: Integers>(self, integers: I);
}

/// An instruction set that this processor has.
#[derive(Clone, Copy, Debug)]
pub(super) enum Instructions {
    /// Plain Rust.
    Scalar(Scalar),
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// AVX-512 with its vector neural network instructions.
    #[cfg(target_arch = "x86_64")]
    Vnni(Vnni),
    /// Advanced SIMD of 64-bit Arm with its dot products.
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
}

impl Instructions {
    /// Every one that this processor has, the best one last.
    pub(super) fn available() -> Vec<Self> {
        let mut found = vec![Self::Scalar(Scalar)];
        #[cfg(target_arch = "x86_64")]
        {
            found.extend(Avx2::detect().map(Self::Avx2));
            found.extend(Vnni::detect().map(Self::Vnni));
        }
        #[cfg(target_arch = "aarch64")]
        found.extend(Neon::detect().map(Self::Neon));
        found
    }

    /// The best one of this processor, looked up once.
    pub(super) fn best() -> Self {
        static BEST: OnceLock<Instructions> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().pop().unwrap_or(Self::Scalar(Scalar)))
    }

    /// Runs `kernel` compiled for this instruction set.
    pub(super) fn run<K: Kernel>(self, kernel: K) {
        match self {
            Self::Scalar(integers) => integers.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(integers) => integers.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::Vnni(integers) => integers.run(kernel),
            #[cfg(target_arch = "aarch64")]
            Self::Neon(integers) => integers.run(kernel),
        }
    }
}
