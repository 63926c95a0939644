//! The rows of a panel in memory.

use super::{FEATURES, Integers};

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

impl PanelRows<'_> {
    /// Asks for the part of the panel after the next one that is as far from its start as all blocks before byte `block` of
    /// each row take, `len` bytes a row: the processor cannot guess the order in which the rows are read, but memory likes its
    /// own.
    #[inline(always)]
    pub(in super::super) fn prefetch<I: Integers>(&self, integers: I, block: usize, len: usize) {
        let ahead = self.ahead(block);
        for line in (0..FEATURES * len).step_by(LINE) {
            integers.prefetch(ahead.wrapping_add(line));
        }
    }

    #[inline(always)]
    fn ahead(&self, block: usize) -> *const u8 {
        self.next.wrapping_add(FEATURES * (self.starts[1] + block))
    }
}

/// One block of each of sixteen rows.
#[derive(Clone, Copy)]
pub(in super::super) struct BlockRows<'a> {
    rows: &'a PanelRows<'a>,
    block: usize,
}

impl BlockRows<'_> {
    /// [`PanelRows::prefetch`] in as many parts as there are rows: this is that of row `f`.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // x86 alone multiplies blocks whole
    pub(super) fn prefetch<I: Integers>(&self, integers: I, f: usize, len: usize) {
        let ahead = self.rows.ahead(self.block);
        for line in (f * len).div_ceil(LINE)..((f + 1) * len).div_ceil(LINE) {
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
