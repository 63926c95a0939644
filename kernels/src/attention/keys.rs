//! Where the keys and values of a cube lie in the cache, which is a ring.

use cubecl::prelude::*;

use super::decode::Decode;

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

/// The first vector of a key, or value, in the cache.
#[cube]
pub(super) fn place(keys: &Keys, key: usize, #[comptime] kernel: Decode) -> usize {
    let slot = slot_of(key, keys.start, keys.capacity);
    (keys.base + slot) * comptime!(kernel.dim as usize / 4)
}

/// Reads the keys and values of a step. Keys behind the end are read as the last one is, and not used.
#[cube]
pub(super) fn read<C: Float>(
    from: &Array<Vector<C, Const<4>>>,
    held: &mut Array<Vector<C, Const<4>>>,
    keys: &Keys,
    first: usize,
    offset: usize,
    #[comptime] kernel: Decode,
) {
    let (groups, vectors) = comptime!((kernel.groups(), kernel.vectors()));
    #[unroll]
    for a in 0..comptime!(kernel.ahead()) {
        let at = place(keys, min(first + a * groups, keys.last), kernel) + offset;
        #[unroll]
        for i in 0..vectors {
            held[comptime!(a * vectors + i)] = from[at + comptime!(kernel.place_of(i))];
        }
    }
}
