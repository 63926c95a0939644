//! Buffers that nothing else of a list has written: those of results for which launches wait themselves
//! ([`Wait`](metal_candle_kernels::Wait)), so that no barrier is needed in between.
//!
//! A list has a region for them, which is cleared before its first launch and handed out piece by
//! piece, never the same one twice. It is as large as the last lists needed: the first one has none,
//! and takes buffers of its thread's [`pool`](super::pool), which nobody waits for.

use std::{cell::RefCell, collections::HashMap};

use cubecl::server::{Binding, Handle};

use super::{
    client::Client,
    places::address,
    pool::{self, ALIGNMENT},
};

/// Bytes of a region at most.
const REGION_BYTES: usize = 64 << 20;
/// Bytes of a buffer at most: those of many parts of keys, for which clearing would take longer than a
/// barrier, are larger.
const BUFFER_BYTES: usize = 1 << 20;
/// Regions that are kept: lists take them in turns.
const KEPT: usize = 3;
/// Steps that a region has room for: in a list that does not fit nothing waits, and lists become longer.
const ROOM: usize = 4;
/// How many times as large as what a list needs a region is not kept: a list may have several steps, or one.
const FAR_TOO_LARGE: usize = 32;
/// Regions are of whole ones of these, so that a few bytes more do not need another one.
const STEP: usize = 1 << 20;

/// The regions of a thread on a device.
#[derive(Default)]
struct Regions {
    /// Bytes that the next list will need.
    wanted: usize,
    /// Of that size or larger. Those of which somebody holds a piece are not free.
    all: Vec<(Handle, usize)>,
}

thread_local! {
    /// By the device's address; devices live as long as the program.
    static REGIONS: RefCell<HashMap<usize, Regions>> = RefCell::default();
}

impl Regions {
    fn take(&mut self, client: &Client) -> Option<(Handle, usize)> {
        if self.wanted == 0 {
            return None;
        }
        self.all.retain(|(_, bytes)| *bytes == self.wanted);
        if let Some(free) = self.all.iter().find(|(handle, _)| handle.can_mut()) {
            return Some(free.clone());
        }
        let made = (client.empty(self.wanted), self.wanted);
        if self.all.len() == KEPT {
            self.all.remove(0);
        }
        self.all.push(made.clone());
        Some(made)
    }
}

/// The region of an open list.
pub(super) struct Fresh {
    device: usize,
    region: Option<(Handle, usize)>,
    /// What is to be cleared before the launches that come.
    to_clear: Option<Binding>,
    /// Whether the list has asked for a buffer.
    is_begun: bool,
    /// Bytes that the list would have needed so far.
    needed: usize,
    /// Its steps so far.
    steps: usize,
}

impl Fresh {
    /// Of a list for the device at an address.
    pub(super) fn new(device: usize) -> Self {
        Self { device, region: None, to_clear: None, is_begun: false, needed: 0, steps: 1 }
    }

    /// Another step follows in the list.
    pub(super) fn follow(&mut self) {
        self.steps += 1;
    }

    /// A buffer, if there is room.
    pub(super) fn take(&mut self, bytes: usize, client: &Client) -> Option<Handle> {
        let needed = bytes.next_multiple_of(ALIGNMENT);
        if needed > BUFFER_BYTES || self.needed + needed > REGION_BYTES {
            return None;
        }
        if !self.is_begun {
            self.is_begun = true;
            self.region = REGIONS
                .with_borrow_mut(|regions| regions.entry(self.device).or_default().take(client));
            self.to_clear = self.region.as_ref().map(|(handle, _)| handle.clone().binding());
        }
        let from = self.needed;
        self.needed += needed;
        let (handle, bytes) = self.region.as_ref().filter(|(_, bytes)| self.needed <= *bytes)?;
        Some(pool::piece(handle.clone(), *bytes, from..self.needed))
    }

    /// Whether a buffer is one of them, or a part of one.
    pub(super) fn holds(&self, handle: &Handle) -> bool {
        let memory = |handle: &Handle| address(&handle.clone().binding().memory);
        self.region.as_ref().is_some_and(|(region, _)| memory(region) == memory(handle))
    }

    /// What is to be cleared before the launches that come: once.
    pub(super) fn take_to_clear(&mut self) -> Option<Binding> {
        self.to_clear.take()
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        let needed = self.needed;
        let room = needed.div_ceil(self.steps) * ROOM.max(self.steps);
        REGIONS.with_borrow_mut(|regions| {
            let regions = regions.entry(self.device).or_default();
            // One that is far too large is cleared each time.
            if needed > regions.wanted || needed < regions.wanted / FAR_TOO_LARGE {
                regions.wanted = room.min(REGION_BYTES).next_multiple_of(STEP);
            }
        });
    }
}

/// Whether lists of the current thread for a device have had something to wait for.
pub(super) fn is_wanted(device: usize) -> bool {
    REGIONS.with_borrow(|regions| regions.get(&device).is_some_and(|of| of.wanted > 0))
}
