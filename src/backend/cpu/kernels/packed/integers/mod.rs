//! Integer products, one implementation per instruction set.
//!
//! The scheme is that of [`super::super::simd`]: a value of an instruction set's type is the proof that the processor has
//! it, a [`Kernel`] is written once and compiled for each, and everything below [`Kernel::run`] is inlined.

mod rows;
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

pub(super) use rows::{BlockRows, Blocks, PanelRows, SideBySide};
pub(super) use words::{FEATURES, Lanes, Words};

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

/// The most groups that a block has.
pub(super) const MOST_GROUPS: usize = 16;

/// What the kernels need of an instruction set.
pub(super) trait Integers: Copy + Send + Sync + 'static {
    /// The most rows that [`Integers::multiply`] keeps in registers.
    const ROWS: usize;

    /// Sixteen bytes of each row from `at` on, as four words: `columns[k]` has word `k` of every row.
    fn columns(self, rows: BlockRows<'_>, at: usize) -> [Words; 4];

    /// Four bytes of each row from `at` on.
    fn gather(self, rows: BlockRows<'_>, at: usize) -> Words;

    /// Asks for the cache line at `address`, which need not be valid; does nothing where there is no such instruction. For
    /// second-level cache: two panels ahead of one of wide rows would push each other out of the first.
    #[inline(always)]
    fn prefetch(self, _address: *const u8) {}

    /// The half-precision numbers in the low halves of the words.
    fn halves(self, words: Words) -> [f32; FEATURES];

    /// Replaces every byte, which is below 16, by that entry of the table.
    fn look_up(self, table: &[u8; 16], words: Words) -> Words;

    /// Every word shifted right.
    #[inline(always)]
    fn shift_right(self, words: Words, bits: u32) -> Words {
        words.map(|word| word >> bits)
    }

    /// Every word shifted left.
    #[inline(always)]
    fn shift_left(self, words: Words, bits: u32) -> Words {
        words.map(|word| word << bits)
    }

    /// `mask` of every byte.
    #[inline(always)]
    fn bytes_and(self, words: Words, mask: u8) -> Words {
        words.map(|word| word & u32::from_le_bytes([mask; 4]))
    }

    /// Every byte with the bits of `mask` turned over.
    #[inline(always)]
    fn bytes_xor(self, words: Words, mask: u8) -> Words {
        words.map(|word| word ^ u32::from_le_bytes([mask; 4]))
    }

    /// The lowest byte of every word.
    #[inline(always)]
    fn low_byte(self, words: Words) -> Words {
        words.map(|word| word & 0xff)
    }

    /// Byte `index` of every word, alone in the lowest place.
    #[inline(always)]
    fn byte(self, words: Words, index: u32) -> Words {
        self.low_byte(self.shift_right(words, 8 * index))
    }

    /// `a | b`
    #[inline(always)]
    fn or(self, a: Words, b: Words) -> Words {
        let mut words = a.0;
        for f in 0..FEATURES {
            words[f] |= b.0[f];
        }
        Words(words)
    }

    /// Words below 2³¹ as numbers.
    #[inline(always)]
    fn numbers(self, words: Words) -> [f32; FEATURES] {
        let mut values = [0.0; FEATURES];
        for f in 0..FEATURES {
            values[f] = words.0[f].cast_signed() as f32;
        }
        values
    }

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

    /// The same for a group or two and few rows: compiled where it is called, for codes that are in registers there.
    #[inline(always)]
    fn multiply_here<C: Codes, const R: usize>(
        self,
        panel: Panel<'_>,
        rows: Rows<'_, R>,
        sums: &mut [[f32; FEATURES]; R],
    ) {
        self.multiply::<C, R>(panel, rows, sums);
    }

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
