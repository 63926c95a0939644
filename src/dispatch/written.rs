//! What only one list needs and the host knows: sizes, cosines and sines. All of a list lies side by side
//! and is written at once, for each transfer takes a GPU 3 µs; and past CubeCL's server, which waits for
//! the GPU after each 64 of them.

use cubecl::server::{Binding, Handle};

use super::pool::{self, ALIGNMENT};

/// Bytes of a block.
pub(super) const BLOCK_BYTES: usize = 16 << 10;

/// What an open list writes before its next launch.
#[derive(Default)]
pub(super) struct Written {
    block: Option<Handle>,
    bytes: Vec<u8>,
}

impl Written {
    /// Some whole words more, if there is room for them; `make` makes a block.
    pub(super) fn add(&mut self, bytes: &[u8], make: impl FnOnce() -> Handle) -> Option<Handle> {
        let from = self.bytes.len().next_multiple_of(ALIGNMENT);
        let to = from + bytes.len().next_multiple_of(ALIGNMENT);
        if bytes.is_empty() || to > BLOCK_BYTES {
            return None;
        }
        let block = self.block.get_or_insert_with(make).clone();
        self.bytes.resize(from, 0);
        self.bytes.extend(bytes);
        Some(pool::piece(block, BLOCK_BYTES, from..to))
    }

    /// All so far: what comes has another block.
    pub(super) fn take(&mut self) -> Option<(Binding, Vec<u8>)> {
        let block = self.block.take()?;
        Some((block.binding(), std::mem::take(&mut self.bytes)))
    }
}
