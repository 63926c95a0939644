//! Working memory that a thread keeps between calls: a fresh large allocation costs a page fault every 4 KiB.

use std::cell::Cell;

/// Floats in a cache line: buffers start on one, so that no aligned load spans two.
const LINE: usize = 16;

thread_local! {
    static KEPT: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Calls `work` with `len` floats of unspecified contents that start on a cache line.
///
/// Calls may nest; the inner one then has a buffer of its own.
pub(super) fn with_scratch<T>(len: usize, work: impl FnOnce(&mut [f32]) -> T) -> T {
    let mut buffer = KEPT.take();
    if buffer.len() < len + LINE {
        buffer.resize(len + LINE, 0.0);
    }
    let start = buffer.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
    let result = work(&mut buffer[start..start + len]);
    KEPT.set(buffer);
    result
}
