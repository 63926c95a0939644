//! What a decode step does before it attends, as a part of that launch: queries are turned as they are
//! read, and the newest key and value, which are not in the cache yet, are written there by one of the
//! cubes, while every one uses what it has turned itself (see [`rope`](crate::rope) for the formula).

use cubecl::prelude::*;

use super::decode::Decode;
use crate::common::F4;

/// What is turned, by what, and where the newest key and value go. The caches are those that are read:
/// but for the place of the newest key, which is not.
#[derive(CubeType)]
pub(super) struct Rotary<C: Float> {
    /// `[batch, kv_heads · dim]`.
    pub(super) k: Array<F4>,
    /// As `k`.
    pub(super) v: Array<F4>,
    /// `[1 or batch, dim / 2]`.
    pub(super) cos: Array<F4>,
    /// As `cos`.
    pub(super) sin: Array<F4>,
    pub(super) keys: Array<Vector<C, Const<4>>>,
    pub(super) values: Array<Vector<C, Const<4>>>,
}

/// Bits of the parameter that says whose angles there are: what is to be waited for.
pub(super) const WAITS_FOR_Q: u32 = 1 << 1;
pub(super) const WAITS_FOR_K: u32 = 1 << 2;
pub(super) const WAITS_FOR_V: u32 = 1 << 3;

/// Where the angles of a sequence begin.
#[cube]
pub(super) fn angles_of(params: &Array<u32>, sequence: usize, #[comptime] kernel: Decode) -> usize {
    select(params[13] & 1 != 0, sequence * comptime!(kernel.pairs_of_head()), 0)
}

/// Turns a pair of vectors, one of each half of a head.
#[cube]
pub(super) fn turn(held: &mut Array<F4>, #[comptime] pair: usize, cos: F4, sin: F4) {
    let (first, second) = (held[comptime!(2 * pair)], held[comptime!(2 * pair + 1)]);
    held[comptime!(2 * pair)] = first * cos - second * sin;
    held[comptime!(2 * pair + 1)] = second * cos + first * sin;
}
