//! The rows of a panel in memory.

use super::{FEATURES, Integers};
use std::ops::Range;

/// Bytes in a cache line.
const LINE: usize = 64;

/// Sixteen rows of blocks, one for each feature of a panel.
///
/// One comparison tells that a read is within all of them, for the starts never decrease.
#[derive(Clone, Copy)]
pub(in super::super) struct PanelRows<'a> {
    bytes: &'a [u8],
    starts: [usize; FEATURES],
    /// Where the next panel begins, if there is one.
    next: *const u8,
}

impl<'a> PanelRows<'a> {
    /// The first `used` rows of `stride` bytes. Where they end, the last one stands in for those that would follow.
    pub(in super::super) fn new(bytes: &'a [u8], stride: usize, used: usize) -> Self {
        assert!(used > 0, "a panel without rows");
        let mut starts = [0; FEATURES];
        for f in 1..FEATURES {
            starts[f] = starts[f - 1] + if f < used { stride } else { 0 };
        }
        Self { bytes, starts, next: bytes.as_ptr().wrapping_add(used * stride) }
    }

    /// One block of each row, from byte `block` of the row on.
    #[inline(always)]
    pub(in super::super) fn block(&self, block: usize) -> BlockRows<'_> {
        BlockRows { rows: self, block }
    }
}

/// One block of each of sixteen rows.
#[derive(Clone, Copy)]
pub(in super::super) struct BlockRows<'a> {
    rows: &'a PanelRows<'a>,
    block: usize,
}

impl BlockRows<'_> {
    /// Asks for a part of the panel after the next one. What lies as far from its start as the blocks before this one take
    /// in all rows is as long as this block in all rows; of that, this range of bytes. The processor cannot guess the order
    /// in which the rows are read, but memory likes its own.
    #[inline(always)]
    pub(in super::super) fn prefetch<I: Integers>(&self, integers: I, bytes: Range<usize>) {
        let ahead = self.rows.next.wrapping_add(FEATURES * (self.rows.starts[1] + self.block));
        for line in bytes.start.div_ceil(LINE)..bytes.end.div_ceil(LINE) {
            integers.prefetch(ahead.wrapping_add(LINE * line));
        }
    }

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
