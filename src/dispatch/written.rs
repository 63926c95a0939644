//! What only one list needs and the host knows: sizes, cosines and sines. All of a step lies side by side
//! and is written at once, for each transfer takes a GPU 3 µs; and past CubeCL's server, which waits for
//! the GPU after each 64 of them.

use cubecl::server::{Binding, Handle};

use super::pool::{self, ALIGNMENT};

/// Bytes of a block: for all steps of a list, so that each finds its words where that step of the last list
/// had them.
pub(super) const BLOCK_BYTES: usize = 64 << 10;

/// What an open list writes before its next launch.
#[derive(Default)]
pub(super) struct Written {
    block: Option<Handle>,
    /// Bytes of the block that were taken before.
    taken: usize,
    bytes: Vec<u8>,
}

/// Words for a piece of a block.
pub(super) struct Words {
    pub(super) block: Binding,
    /// Where they begin there.
    pub(super) from: usize,
    pub(super) bytes: Vec<u8>,
}

impl Words {
    /// The piece.
    pub(super) fn binding(&self) -> Binding {
        let end = BLOCK_BYTES - self.from - self.bytes.len();
        let (offset_start, offset_end) = (Some(self.from as u64), Some(end as u64));
        Binding { offset_start, offset_end, ..self.block.clone() }
    }
}

impl Written {
    /// Some whole words more, if there is room for them; `make` makes a block.
    pub(super) fn add(&mut self, bytes: &[u8], make: impl FnOnce() -> Handle) -> Option<Handle> {
        let from = self.bytes.len().next_multiple_of(ALIGNMENT);
        let end = from + bytes.len().next_multiple_of(ALIGNMENT);
        if bytes.is_empty() || self.taken + end > BLOCK_BYTES {
            return None;
        }
        let block = self.block.get_or_insert_with(make).clone();
        self.bytes.resize(from, 0);
        self.bytes.extend(bytes);
        Some(pool::piece(block, BLOCK_BYTES, self.taken + from..self.taken + end))
    }

    /// All since the last time.
    pub(super) fn take(&mut self) -> Option<Words> {
        let block = self.block.as_ref().filter(|_| !self.bytes.is_empty())?.clone().binding();
        let (from, bytes) = (self.taken, std::mem::take(&mut self.bytes));
        self.taken += bytes.len().next_multiple_of(ALIGNMENT);
        Some(Words { block, from, bytes })
    }
}
