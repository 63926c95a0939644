//! Counts the bytes that this process has allocated, over all threads.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static LARGEST: AtomicUsize = AtomicUsize::new(0);

fn add(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(live, Relaxed);
    LARGEST.fetch_max(bytes, Relaxed);
}

// SAFETY: every call goes to the system's allocator unchanged; counting neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One measurement at a time: tests of this program run side by side.
static MEASURING: Mutex<()> = Mutex::new(());

/// What was allocated since it was made, or last reset. Every test of this program takes one before
/// anything else, measuring or not: nobody else allocates meanwhile.
pub struct Counter {
    before: AtomicUsize,
    _alone: MutexGuard<'static, ()>,
}

impl Counter {
    /// Waits until nobody else has one.
    pub fn alone() -> Self {
        // A test that failed while it measured has spoiled nothing.
        let alone = MEASURING.lock().unwrap_or_else(PoisonError::into_inner);
        let counter = Self { before: AtomicUsize::new(0), _alone: alone };
        counter.reset();
        counter
    }

    /// Begins anew.
    pub fn reset(&self) {
        let live = LIVE.load(Relaxed);
        self.before.store(live, Relaxed);
        PEAK.store(live, Relaxed);
        LARGEST.store(0, Relaxed);
    }

    /// Bytes that live now and did not then.
    pub fn live(&self) -> usize {
        LIVE.load(Relaxed).saturating_sub(self.before.load(Relaxed))
    }

    /// The most of these at any time.
    pub fn peak(&self) -> usize {
        PEAK.load(Relaxed).saturating_sub(self.before.load(Relaxed))
    }

    /// The largest single allocation.
    #[allow(clippy::unused_self)] // only what counts has something to tell
    pub fn largest(&self) -> usize {
        LARGEST.load(Relaxed)
    }
}

#[test]
fn the_counter_counts() {
    let counter = Counter::alone();
    let kept = std::hint::black_box(vec![1u8; 48 << 20]);
    drop(std::hint::black_box(vec![0u8; 80 << 20]));
    // Beside the harness's own few bytes, and what threads of an earlier test's device still free.
    let near = |bytes: usize, want: usize| bytes.abs_diff(want) < 1 << 20;
    assert!(near(counter.live(), kept.len()), "{}", counter.live());
    assert!(near(counter.peak(), 128 << 20), "{}", counter.peak());
    assert!(near(counter.largest(), 80 << 20), "{}", counter.largest());
}
