//! Sixteen words side by side, one per feature of a panel, each with four bytes of that feature.
//!
//! Loops over sixteen integers become vectors in whatever instruction set the kernel is compiled for.

/// Features in a panel: one cache line of words.
pub(in super::super) const FEATURES: usize = 16;

/// A word of four bytes for each feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(in super::super) struct Words(pub(in super::super) [u32; FEATURES]);

impl Words {
    /// All zero.
    pub(in super::super) const ZERO: Self = Self([0; FEATURES]);

    #[inline(always)]
    fn map(self, f: impl Fn(u32) -> u32) -> Self {
        let mut words = self.0;
        for word in &mut words {
            *word = f(*word);
        }
        Self(words)
    }

    /// Bytes `at..at + 4` of each row.
    #[inline(always)]
    pub(in super::super) fn gather(rows: &[&[u8]; FEATURES], at: usize) -> Self {
        let mut words = [0; FEATURES];
        for f in 0..FEATURES {
            let [a, b, c, d] = rows[f][at..at + 4] else { unreachable!("four bytes") };
            words[f] = u32::from_le_bytes([a, b, c, d]);
        }
        Self(words)
    }

    /// Shifted right by `bits`; bits of one byte reach the one below.
    #[inline(always)]
    pub(in super::super) fn right(self, bits: u32) -> Self {
        self.map(|word| word >> bits)
    }

    /// Shifted left by `bits`; bits of one byte reach the one above.
    #[inline(always)]
    pub(in super::super) fn left(self, bits: u32) -> Self {
        self.map(|word| word << bits)
    }

    /// `mask` of every byte.
    #[inline(always)]
    pub(in super::super) fn bytes_and(self, mask: u8) -> Self {
        self.map(|word| word & u32::from_le_bytes([mask; 4]))
    }

    /// Every byte with the bits of `mask` turned over.
    #[inline(always)]
    pub(in super::super) fn bytes_xor(self, mask: u8) -> Self {
        self.map(|word| word ^ u32::from_le_bytes([mask; 4]))
    }

    /// `self | other`
    #[inline(always)]
    pub(in super::super) fn or(self, other: Self) -> Self {
        let mut words = self.0;
        for f in 0..FEATURES {
            words[f] |= other.0[f];
        }
        Self(words)
    }

    /// The lowest four bits of each word, one in the lowest bit of each byte: bit `i` goes to byte `i`.
    #[inline(always)]
    pub(in super::super) fn spread_bits(self) -> Self {
        // The product has copies of the four bits 7 apart: bit `i` of copy `i` lies at `8 · i`.
        self.map(|word| ((word & 0x0f).wrapping_mul(0x0020_4081)) & 0x0101_0101)
    }

    /// Byte `index` of each word as a number.
    #[inline(always)]
    pub(in super::super) fn byte(self, index: usize) -> [f32; FEATURES] {
        let mut values = [0.0; FEATURES];
        for f in 0..FEATURES {
            values[f] = ((self.0[f] >> (8 * index)) & 0xff).cast_signed() as f32;
        }
        values
    }

    /// Byte `index` of each word as a signed number.
    #[inline(always)]
    pub(in super::super) fn signed_byte(self, index: usize) -> [f32; FEATURES] {
        let mut values = [0.0; FEATURES];
        for f in 0..FEATURES {
            values[f] = ((self.0[f] << (24 - 8 * index)).cast_signed() >> 24) as f32;
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_spread() {
        let words = Words(std::array::from_fn(|i| 0xa0 | i as u32)).spread_bits();
        assert_eq!(words.0[0b1011], 0x0100_0101);
        assert_eq!(words.0[0b0100], 0x0001_0000);
    }

    #[test]
    fn bytes_are_numbers() {
        let words = Words([0x8001_ff7f; FEATURES]);
        assert_eq!([0, 1, 2, 3].map(|i| words.byte(i)[5]), [127.0, 255.0, 1.0, 128.0]);
        assert_eq!([0, 1, 2, 3].map(|i| words.signed_byte(i)[5]), [127.0, -1.0, 1.0, -128.0]);
    }
}
