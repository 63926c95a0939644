//! What a decode step does before it attends, as a part of that launch: queries are turned as they are
//! read, and the newest key and value, which are not in the cache yet, are written there by one of the
//! cubes, while every one uses what it has turned itself (see [`rope`](crate::rope) for the formula).

use cubecl::prelude::*;

use super::decode::Decode;
use crate::{
    common::F4,
    waits::{LOOKS, are_there, never},
};

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

/// Looks for a vector until it is there; no number, if that takes too long. (All threads of a cube look at
/// least once, and together: see `targets::modules::shared`.)
#[cube]
fn look_for(from: &Array<F4>, at: usize, told: u32) -> f32 {
    let mut there = are_there(from[at]) || told == 0;
    let mut looks = 0u32.runtime();
    while !there && looks < LOOKS {
        there = are_there(from[at]);
        looks += 1;
    }
    select(there, 1.0f32, never(looks))
}

/// Waits for the heads `first..first + rows` of queries, and for a newest key and value, as far as it is
/// told to: a thread for a vector. What it sees is not kept, but 1 is given, or no number, if it did not
/// come.
#[cube]
pub(super) fn wait<C: Float>(
    q: &Array<F4>,
    io: &Rotary<C>,
    params: &Array<u32>,
    first: usize,
    rows: usize,
    head: usize,
    #[comptime] kernel: Decode,
) -> f32 {
    let mut trust = 1.0f32;
    if comptime!(kernel.rotary) {
        if params[13] & comptime!(WAITS_FOR_Q | WAITS_FOR_K | WAITS_FOR_V) != 0 {
            let vectors = comptime!(kernel.dim as usize / 4);
            let threads = comptime!(kernel.threads() as usize);
            // Threads behind the end look for the last one.
            let queries = rows * vectors;
            for step in 0..(queries + comptime!(threads - 1)) / threads {
                let v = min(UNIT_POS_X as usize + step * threads, queries - 1);
                trust *= look_for(q, first * vectors + v, params[13] & WAITS_FOR_Q);
            }
            for step in 0..comptime!(vectors.div_ceil(threads)) {
                let v = min(UNIT_POS_X as usize + step * threads, vectors - 1);
                trust *= look_for(&io.k, head * vectors + v, params[13] & WAITS_FOR_K);
                trust *= look_for(&io.v, head * vectors + v, params[13] & WAITS_FOR_V);
            }
            sync_cube();
        }
    }
    trust
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
        let angles = select(params[13] & 1 != 0, sequence * half, 0) + min(offset, other);
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
