//! Sixteen words side by side, one per feature of a panel, each with four bytes of that feature.

use super::Integers;
use bytemuck::Zeroable;

/// Features in a panel: one cache line of words.
pub(in super::super) const FEATURES: usize = 16;

/// A word of four bytes for each feature, in memory: a line of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Zeroable)]
#[repr(C, align(64))]
pub(in super::super) struct Words(pub(in super::super) [u32; FEATURES]);

impl Words {
    /// All zero.
    pub(in super::super) const ZERO: Self = Self([0; FEATURES]);

    /// `f` of each word.
    #[inline(always)]
    pub(super) fn map(self, f: impl Fn(u32) -> u32) -> Self {
        let mut words = self.0;
        for word in &mut words {
            *word = f(*word);
        }
        Self(words)
    }
}

/// [`Words`] to compute with, in the vectors of an instruction set.
#[derive(Clone, Copy)]
pub(in super::super) struct Lanes<I> {
    integers: I,
    words: Words,
}

impl<I: Integers> Lanes<I> {
    /// From memory.
    #[inline(always)]
    pub(in super::super) fn new(integers: I, words: Words) -> Self {
        Self { integers, words }
    }

    /// To memory.
    #[inline(always)]
    pub(in super::super) fn words(self) -> Words {
        self.words
    }

    /// Shifted right by `bits`; bits of one byte reach the one below.
    #[inline(always)]
    pub(in super::super) fn right(self, bits: u32) -> Self {
        Self { words: self.integers.shift_right(self.words, bits), ..self }
    }

    /// Shifted left by `bits`; bits of one byte reach the one above.
    #[inline(always)]
    pub(in super::super) fn left(self, bits: u32) -> Self {
        Self { words: self.integers.shift_left(self.words, bits), ..self }
    }

    /// `mask` of every byte.
    #[inline(always)]
    pub(in super::super) fn bytes_and(self, mask: u8) -> Self {
        Self { words: self.integers.bytes_and(self.words, mask), ..self }
    }

    /// Every byte with the bits of `mask` turned over.
    #[inline(always)]
    pub(in super::super) fn bytes_xor(self, mask: u8) -> Self {
        Self { words: self.integers.bytes_xor(self.words, mask), ..self }
    }

    /// `self | other`
    #[inline(always)]
    pub(in super::super) fn or(self, other: Self) -> Self {
        Self { words: self.integers.or(self.words, other.words), ..self }
    }

    /// The lowest four bits of each word, one in the lowest bit of each byte: bit `i` goes to byte `i`.
    #[inline(always)]
    pub(in super::super) fn spread_bits(self) -> Self {
        let low = self.bytes_and(0x0f);
        // Four copies of the bits, 7 apart: bit `i` of copy `i` lies at `8 · i`. What lies above the lowest byte of `low`
        // only reaches bits that the mask takes away, or the next bytes' lowest bits: so it has to be cleared first.
        let low = Self { words: self.integers.low_byte(low.words), ..self };
        let copies = low.or(low.left(7)).or(low.left(14)).or(low.left(21));
        copies.bytes_and(1)
    }

    /// Every byte, which is below 16, replaced by that entry of the table.
    #[inline(always)]
    pub(in super::super) fn look_up(self, table: &[u8; 16]) -> Self {
        Self { words: self.integers.look_up(table, self.words), ..self }
    }

    /// The half-precision numbers in the low halves.
    #[inline(always)]
    pub(in super::super) fn halves(self) -> [f32; FEATURES] {
        self.integers.halves(self.words)
    }

    /// Byte `index` of each word as a number.
    #[inline(always)]
    pub(in super::super) fn byte(self, index: u32) -> [f32; FEATURES] {
        self.integers.numbers(self.integers.byte(self.words, index))
    }

    /// Byte `index` of each word as a signed number.
    #[inline(always)]
    pub(in super::super) fn signed_byte(self, index: u32) -> [f32; FEATURES] {
        let mut values = self.bytes_xor(0x80).byte(index);
        for value in &mut values {
            *value -= 128.0;
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Instructions, Kernel};
    use super::*;

    struct Check;

    impl Kernel for Check {
        #[inline(always)]
        fn run<I: Integers>(self, integers: I) {
            let lanes = |f: &dyn Fn(u32) -> u32| {
                Lanes::new(integers, Words(std::array::from_fn(|i| f(i as u32))))
            };
            let spread = lanes(&|i| 0xa5a5_a5a0 | i).spread_bits().words();
            for (i, word) in spread.0.into_iter().enumerate() {
                let want = (0..4).map(|bit| (i as u32 >> bit & 1) << (8 * bit)).sum::<u32>();
                assert_eq!(word, want);
            }
            let numbers = lanes(&|i| 0x8001_ff7f ^ i);
            assert_eq!([0, 1, 2, 3].map(|b| numbers.byte(b)[0]), [127.0, 255.0, 1.0, 128.0]);
            assert_eq!([0, 1, 2, 3].map(|b| numbers.signed_byte(b)[0]), [127.0, -1.0, 1.0, -128.0]);
            assert_eq!(numbers.byte(0)[15], 112.0);
            assert_eq!(numbers.right(9).left(3).words().0[2], (0x8001_ff7d >> 9) << 3);
            let table = std::array::from_fn(|i| 200 - i as u8);
            let found = lanes(&|i| i << 8 | 0x0f00_0000).look_up(&table).words().0[7];
            assert_eq!(found, u32::from_be_bytes([185, 200, 193, 200]));
            let halves = lanes(&|i| 0x7c00_3c00 | i).halves();
            assert_eq!(halves[4], 1.0 + 4.0 / 1024.0);
        }
    }

    #[test]
    fn operations_agree_with_their_definitions() {
        for instructions in Instructions::available() {
            instructions.run(Check);
        }
    }
}
