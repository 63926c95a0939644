//! The program's allocator on Linux: mimalloc for what is small, glibc's for what is large.
//!
//! glibc gives large pieces back to the system when they are freed, and the system clears every page that it gives out
//! again: half of the time that a prompt of a small model takes. It keeps them where it is asked to. mimalloc is faster for
//! what a step takes (a seventh of a small model's), but holds more of what was freed than models are meant to take.

use std::alloc::{GlobalAlloc, Layout, System};

use mimalloc::MiMalloc;

/// Bytes from which a piece is large.
const LARGE: usize = 256 << 10;

/// See the module.
struct BySize;

#[global_allocator]
static ALLOCATOR: BySize = BySize;

// SAFETY: both allocators keep to the contract, and a piece's size says which of them it is from.
unsafe impl GlobalAlloc for BySize {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        unsafe { if layout.size() < LARGE { MiMalloc.alloc(layout) } else { System.alloc(layout) } }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        unsafe {
            if layout.size() < LARGE {
                MiMalloc.alloc_zeroed(layout)
            } else {
                System.alloc_zeroed(layout)
            }
        }
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        // SAFETY: the caller's; it was allocated by the same rule.
        unsafe {
            if layout.size() < LARGE {
                MiMalloc.dealloc(piece, layout);
            } else {
                System.dealloc(piece, layout);
            }
        }
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's; `size` is within the limits of a layout.
        unsafe {
            match (layout.size() < LARGE, size < LARGE) {
                (true, true) => MiMalloc.realloc(piece, layout, size),
                (false, false) => System.realloc(piece, layout, size),
                _ => {
                    let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
                    if !new.is_null() {
                        new.copy_from_nonoverlapping(piece, layout.size().min(size));
                        self.dealloc(piece, layout);
                    }
                    new
                }
            }
        }
    }
}

/// Has glibc keep what is freed for the next step.
pub(crate) fn keep_large_pieces() {
    /// The greatest threshold that there is; pieces above it stay the system's.
    const FROM_SYSTEM: libc::c_int = 32 << 20;
    /// Free bytes at the end of its memory.
    const KEPT: libc::c_int = 256 << 20;
    // SAFETY: numbers that the allocator takes, or else says that it does not.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, FROM_SYSTEM);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn pieces_grow_and_shrink_across_the_boundary() {
        let mut bytes: Vec<u8> = Vec::new();
        for size in [10, super::LARGE - 1, super::LARGE, 5 * super::LARGE, 100, 2 * super::LARGE] {
            bytes.truncate(size);
            bytes.shrink_to_fit();
            let old = bytes.len();
            bytes.reserve_exact(size - old);
            bytes.extend((old..size).map(|i| (i % 251) as u8));
            assert!(bytes.iter().enumerate().all(|(i, byte)| usize::from(*byte) == i % 251));
        }
        assert!(vec![0u8; 3 * super::LARGE].iter().all(|byte| *byte == 0));
    }
}
