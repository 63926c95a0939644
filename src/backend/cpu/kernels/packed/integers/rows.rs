//! The rows of a panel in memory.

use super::{FEATURES, Integers, Words};

/// Bytes between what is read and what is asked for, of rows side by side; asking for a block's lines at once, instead of
/// one with each line that is read, took a third more time from memory.
const AHEAD: usize = 4096;

/// One block of each of sixteen rows.
pub(in super::super) trait Blocks: Copy {
    /// Sixteen bytes of each row from `at` on, as four words: `columns[k]` has word `k` of every row.
    fn columns<I: Integers>(self, integers: I, at: usize) -> [Words; 4];

    /// Four bytes of each row from `at` on.
    fn gather<I: Integers>(self, integers: I, at: usize) -> Words;

    /// The [lone](super::super::arranged::lone_half) half-precision number of each row, which lies at `at`: in the low
    /// halves of the words.
    fn half<I: Integers>(self, integers: I, at: usize) -> Words;
}

/// Sixteen rows of blocks, one for each feature of a panel.
///
/// One comparison tells that a read is within all of them, for the starts never decrease.
#[derive(Clone, Copy)]
pub(in super::super) struct PanelRows<'a> {
    bytes: &'a [u8],
    starts: [usize; FEATURES],
}

impl<'a> PanelRows<'a> {
    /// The first `used` rows of `stride` bytes. Where they end, the last one stands in for those that would follow.
    pub(in super::super) fn new(bytes: &'a [u8], stride: usize, used: usize) -> Self {
        assert!(used > 0, "a panel without rows");
        let mut starts = [0; FEATURES];
        for f in 1..FEATURES {
            starts[f] = starts[f - 1] + if f < used { stride } else { 0 };
        }
        Self { bytes, starts }
    }

    /// One block of each row, from byte `block` of the row on.
    #[inline(always)]
    pub(in super::super) fn block(&self, block: usize) -> BlockRows<'_> {
        BlockRows { rows: self, block }
    }
}

/// One block of each of sixteen rows that follow each other.
#[derive(Clone, Copy)]
pub(in super::super) struct BlockRows<'a> {
    rows: &'a PanelRows<'a>,
    block: usize,
}

impl Blocks for BlockRows<'_> {
    #[inline(always)]
    fn columns<I: Integers>(self, integers: I, at: usize) -> [Words; 4] {
        integers.columns(self, at)
    }

    #[inline(always)]
    fn gather<I: Integers>(self, integers: I, at: usize) -> Words {
        integers.gather(self, at)
    }

    #[inline(always)]
    fn half<I: Integers>(self, integers: I, at: usize) -> Words {
        // What ends a block is read with what precedes it: nothing may follow.
        match at.checked_sub(2) {
            Some(before) => integers.shift_right(integers.gather(self, before), 16),
            None => integers.gather(self, at),
        }
    }
}

impl BlockRows<'_> {
    /// Where `len` bytes of each row lie, from byte `at` of the block on: within [`Self::bytes`].
    ///
    /// # Panics
    ///
    /// If they do not.
    #[inline(always)]
    pub(super) fn places(&self, at: usize, len: usize) -> (&[u8], &[usize; FEATURES]) {
        let bytes = &self.rows.bytes[self.block + at..];
        assert!(bytes.len() >= len && bytes.len() - len >= self.rows.starts[FEATURES - 1]);
        (bytes, &self.rows.starts)
    }
}

/// One block of each of sixteen rows that lie side by side: see [`super::super::arranged`].
#[derive(Clone, Copy)]
pub(in super::super) struct SideBySide<'a> {
    /// All but the lone half-precision number, the words of all rows one place after the other.
    words: &'a [Words],
    /// Where the first of them lies in a block.
    first: usize,
    /// Those numbers of this block and of its neighbour, and where those of this one are in it.
    halves: &'a Words,
    half: u32,
}

impl<'a> SideBySide<'a> {
    /// Block `number` of a panel of blocks of so many bytes, with a lone half-precision number at `half`.
    #[inline(always)]
    pub(in super::super) fn new(
        panel: &'a [Words],
        number: usize,
        bytes: usize,
        half: Option<usize>,
    ) -> Self {
        let words = bytes / size_of::<u32>();
        let Some(half) = half else {
            let words = &panel[number * words..][..words];
            return Self { words, first: 0, halves: &words[0], half: 0 };
        };
        let pair = &panel[number / 2 * (2 * words + 1)..];
        Self {
            words: &pair[1 + number % 2 * words..][..words],
            first: if half == 0 { 2 } else { 0 },
            halves: &pair[0],
            half: 16 * (number % 2) as u32,
        }
    }

    /// The words at byte `at`; asks for some that are read some time later.
    #[inline(always)]
    fn word<I: Integers>(self, integers: I, at: usize) -> Words {
        let at = at - self.first;
        debug_assert!(at.is_multiple_of(size_of::<u32>()), "a word of its own");
        let word = &self.words[at / size_of::<u32>()];
        integers.prefetch((&raw const *word).cast::<u8>().wrapping_add(AHEAD));
        *word
    }
}

impl Blocks for SideBySide<'_> {
    #[inline(always)]
    fn columns<I: Integers>(self, integers: I, at: usize) -> [Words; 4] {
        [
            self.word(integers, at),
            self.word(integers, at + 4),
            self.word(integers, at + 8),
            self.word(integers, at + 12),
        ]
    }

    #[inline(always)]
    fn gather<I: Integers>(self, integers: I, at: usize) -> Words {
        self.word(integers, at)
    }

    #[inline(always)]
    fn half<I: Integers>(self, integers: I, _at: usize) -> Words {
        integers.prefetch((&raw const *self.halves).cast::<u8>().wrapping_add(AHEAD));
        integers.shift_right(*self.halves, self.half)
    }
}
