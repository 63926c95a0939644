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

/// How a thread turns its values: none of it, where nothing is turned.
#[derive(CubeType)]
pub(super) struct Turn {
    cos: Array<F4>,
    /// Negative where a thread's values are those of the first half of a head, and of that half only.
    sin: Array<F4>,
    /// The vector of the other half that is turned with the thread's first one.
    other: usize,
}

#[cube]
pub(super) fn turn<C: Float>(
    io: &Rotary<C>,
    params: &Array<u32>,
    sequence: usize,
    offset: usize,
    #[comptime] kernel: Decode,
) -> Turn {
    let mut cos = Array::<F4>::new(2usize);
    let mut sin = Array::<F4>::new(2usize);
    let mut other = offset;
    if comptime!(kernel.rotary) {
        let half = comptime!(kernel.dim as usize / 8);
        let mut sign = F4::new(1.0f32);
        if comptime!(kernel.chunks() == 1) {
            let is_first = offset < half;
            other = select(is_first, offset + half, offset - half);
            sign = F4::new(select(is_first, -1.0f32, 1.0f32));
        }
        let angles = select(params[13] != 0, sequence * half, 0) + min(offset, other);
        #[unroll]
        for i in 0..2usize {
            cos[i] = io.cos[angles + i];
            sin[i] = io.sin[angles + i] * sign;
        }
    }
    Turn { cos, sin, other }
}

/// The values of a thread of the head that begins at vector `base`, turned if that is to be done here.
#[cube]
pub(super) fn turned(
    from: &Array<F4>,
    base: usize,
    offset: usize,
    turn: &Turn,
    #[comptime] kernel: Decode,
) -> Array<F4> {
    let vectors = comptime!(kernel.vectors());
    let mut values = Array::<F4>::new(vectors);
    #[unroll]
    for i in 0..vectors {
        values[i] = from[base + offset + comptime!(kernel.place_of(i))];
    }
    if comptime!(kernel.rotary) {
        #[unroll]
        for i in 0..2usize {
            let value = values[i];
            if comptime!(kernel.chunks() == 1) {
                let other = from[base + turn.other + i];
                values[i] = value * turn.cos[i] + other * turn.sin[i];
            } else {
                // A thread has both halves.
                let other = values[comptime!(i + 2)];
                values[i] = value * turn.cos[i] - other * turn.sin[i];
                values[comptime!(i + 2)] = other * turn.cos[i] + value * turn.sin[i];
            }
        }
    }
    values
}

/// A thread's values of the newest key and value, as the cache holds them.
#[derive(CubeType)]
pub(super) struct Newest<C: Float> {
    pub(super) key: Array<Vector<C, Const<4>>>,
    pub(super) value: Array<Vector<C, Const<4>>>,
}

#[cube]
pub(super) fn newest<C: Float>(
    io: &Rotary<C>,
    turn: &Turn,
    head: usize,
    offset: usize,
    #[comptime] kernel: Decode,
) -> Newest<C> {
    let vectors = comptime!(kernel.vectors());
    let mut key = Array::<Vector<C, Const<4>>>::new(vectors);
    let mut value = Array::<Vector<C, Const<4>>>::new(vectors);
    if comptime!(kernel.rotary) {
        let base = head * comptime!(kernel.dim as usize / 4);
        let turned = turned(&io.k, base, offset, turn, kernel);
        #[unroll]
        for i in 0..vectors {
            key[i] = Vector::cast_from(turned[i]);
            value[i] = Vector::cast_from(io.v[base + offset + comptime!(kernel.place_of(i))]);
        }
    }
    Newest::<C> { key, value }
}
