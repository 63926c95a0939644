//! Buffers for what open lists compute, one pool for each thread and device.
//!
//! Steps take the same ones in the same order, so that bind groups are found again, and launches need
//! not ask CubeCL for memory. A buffer that nobody holds is given to a later launch at once, even if
//! the one that writes it is still on the list: the GPU runs a thread's launches in order. Those of
//! several threads it may run in turns, which is why they share no pool.

use std::{cell::RefCell, collections::HashMap, ops::Range};

use cubecl::server::Handle;

use super::client::Client;

/// Sizes of buffers, and where pieces of them begin, are multiples of it.
pub(super) const ALIGNMENT: usize = 256;
/// Bytes of a pool's buffers at the most.
const POOL_BYTES: usize = 256 << 20;

thread_local! {
    /// By the device's address; devices live as long as the program.
    static POOLS: RefCell<HashMap<usize, Pool>> = RefCell::default();
}

/// A buffer from the current thread's pool for the device at an address.
pub(super) fn take(device: usize, bytes: usize, client: &Client) -> Handle {
    POOLS.with_borrow_mut(|pools| pools.entry(device).or_default().take(bytes, client))
}

/// A piece of a buffer of so many bytes.
pub(super) fn piece(buffer: Handle, bytes: usize, Range { start, end }: Range<usize>) -> Handle {
    buffer.offset_start(start as u64).offset_end((bytes - end) as u64)
}

/// Buffers by their size.
#[derive(Default)]
struct Pool {
    buffers: HashMap<usize, Vec<Handle>>,
    bytes: usize,
}

impl Pool {
    fn take(&mut self, bytes: usize, client: &Client) -> Handle {
        let bytes = bytes.next_multiple_of(ALIGNMENT);
        let of_size = self.buffers.entry(bytes).or_default();
        // Free are those that only the pool holds: then it could change them.
        if let Some(free) = of_size.iter().find(|handle| handle.can_mut()) {
            return free.clone();
        }
        let handle = client.empty(bytes);
        if self.bytes + bytes > POOL_BYTES {
            // Sizes of other times; what is in use lives on.
            self.buffers.clear();
            self.bytes = 0;
        }
        self.bytes += bytes;
        self.buffers.entry(bytes).or_default().push(handle.clone());
        handle
    }
}
