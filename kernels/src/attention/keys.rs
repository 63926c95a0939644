//! Where the keys and values of a cube lie in the cache, which is a ring.

use cubecl::prelude::*;

use half::f16;

use super::{decode::Decode, layout::VECTORS};
use crate::common::{F4, U4};

/// The keys that a cube goes through, and where they lie.
#[derive(CubeType)]
pub(super) struct Keys {
    /// Behind the last one of the cube.
    pub(super) to: usize,
    /// The last one that is in the cache.
    pub(super) last: usize,
    /// The first place of the head's part of the cache, and that of the oldest key within it.
    pub(super) base: usize,
    pub(super) start: usize,
    pub(super) capacity: usize,
}

/// Where a key lies in a ring that has no fewer places than keys, whose oldest one lies at `start`.
#[cube]
pub(super) fn slot_of(key: usize, start: usize, capacity: usize) -> usize {
    let at = start + key;
    at - select(at >= capacity, capacity, 0)
}

impl Decode {
    /// Values in 16 bytes of the cache.
    const fn values_of_piece(self) -> usize {
        if self.f16 { 8 } else { 4 }
    }

    /// Pieces of 16 bytes that a thread has of a key.
    pub(super) const fn pieces(self) -> usize {
        4 * VECTORS / self.values_of_piece()
    }
}

/// The first vector of four values of a key, or value, in the cache.
#[cube]
pub(super) fn place(keys: &Keys, key: usize, #[comptime] kernel: Decode) -> usize {
    let slot = slot_of(key, keys.start, keys.capacity);
    (keys.base + slot) * comptime!(kernel.dim as usize / 4)
}

/// Reads the keys and values of a step, 16 bytes at a time. Keys behind the end are read as the last one is,
/// and not used. `offset` is that of the thread's first vector.
#[cube]
pub(super) fn read(
    from: &Array<U4>,
    held: &mut Array<U4>,
    keys: &Keys,
    first: usize,
    offset: usize,
    #[comptime] kernel: Decode,
) {
    let (groups, pieces) = comptime!((kernel.groups(), kernel.pieces()));
    #[unroll]
    for a in 0..comptime!(kernel.ahead()) {
        let vector = place(keys, min(first + a * groups, keys.last), kernel) + offset;
        let at = vector / comptime!(kernel.values_of_piece() / 4);
        #[unroll]
        for i in 0..pieces {
            held[comptime!(a * pieces + i)] = from[at + i];
        }
    }
}

/// Vector `i` of a thread's values of key `a`, of those that were read.
#[cube]
pub(super) fn vector(
    held: &Array<U4>,
    #[comptime] a: usize,
    #[comptime] i: usize,
    #[comptime] kernel: Decode,
) -> F4 {
    let each = comptime!(kernel.values_of_piece() / 4);
    let piece = held[comptime!(a * kernel.pieces() + i / each)];
    let mut values = F4::new(0.0f32);
    if comptime!(kernel.f16) {
        #[unroll]
        for w in 0..2usize {
            let halves = Vector::<f16, Const<2>>::reinterpret(piece[comptime!(i % 2 * 2 + w)]);
            values[comptime!(2 * w)] = f32::cast_from(halves[0]);
            values[comptime!(2 * w + 1)] = f32::cast_from(halves[1]);
        }
    } else {
        #[unroll]
        for n in 0..4usize {
            values[n] = f32::reinterpret(piece[n]);
        }
    }
    values
}
