//! What every thread of a cube needs of the newest positions, in shared memory: the cube's query rows, and,
//! where the launch turns them, the newest key and value.
//!
//! A thread has pairs of vectors, one of each half of a head, for these are turned together. So each is
//! read, waited for and turned once in a cube, and takes no registers while keys go by.

use cubecl::prelude::*;

use super::{
    decode::Decode,
    keys::{Keys, place},
    rotary::{Rotary, WAITS_FOR_K, WAITS_FOR_Q, WAITS_FOR_V, angles_of, turn},
    scores::position_of,
};
use crate::{
    common::F4,
    waits::{LOOKS, are_there, never},
};

impl Decode {
    /// Vectors of a head.
    const fn vectors_of_head(self) -> usize {
        self.dim as usize / 4
    }

    /// Pairs of them.
    pub(super) const fn pairs_of_head(self) -> usize {
        self.vectors_of_head() / 2
    }

    /// Pairs of query rows that a thread has. Of the newest key and value it has one at most: there are
    /// fewer than threads.
    const fn pairs(self) -> usize {
        (self.rows as usize * self.pairs_of_head()).div_ceil(self.threads() as usize)
    }
}

/// The rows of a cube, among those of a key/value head.
#[derive(CubeType)]
pub(super) struct Rows {
    pub(super) sequence: usize,
    pub(super) kv_head: usize,
    /// The first one.
    pub(super) first: usize,
    /// The last one that there is.
    pub(super) last: usize,
    /// Whether the cube has the newest key's turn.
    pub(super) has_newest: bool,
    /// Whether it is the one to write it to the cache.
    pub(super) writes_newest: bool,
}

/// By vectors: the query rows, the newest key, as the cache holds it, and the newest value.
#[derive(CubeType)]
pub(super) struct Staged {
    all: SharedMemory<F4>,
}

/// Vector `at` of a query row.
#[cube]
pub(super) fn query(staged: &Staged, row: usize, at: usize, #[comptime] kernel: Decode) -> F4 {
    staged.all[row * comptime!(kernel.vectors_of_head()) + at]
}

/// Vector `at` of the newest key.
#[cube]
pub(super) fn newest_key(staged: &Staged, at: usize, #[comptime] kernel: Decode) -> F4 {
    query(staged, comptime!(kernel.rows as usize), at, kernel)
}

/// Vector `at` of the newest value.
#[cube]
pub(super) fn newest_value(staged: &Staged, at: usize, #[comptime] kernel: Decode) -> F4 {
    query(staged, comptime!(kernel.rows as usize + 1), at, kernel)
}

/// What a thread has seen of queries, of the newest key and of the newest value: two vectors for each pair.
#[derive(CubeType)]
struct Seen {
    q: Array<F4>,
    k: Array<F4>,
    v: Array<F4>,
}

/// Reads the pair whose first vector lies at `at`.
#[cube]
fn see_pair(
    into: &mut Array<F4>,
    #[comptime] pair: usize,
    from: &Array<F4>,
    at: usize,
    #[comptime] kernel: Decode,
) {
    into[comptime!(2 * pair)] = from[at];
    into[comptime!(2 * pair + 1)] = from[at + comptime!(kernel.pairs_of_head())];
}

/// Reads the pairs of queries that lie at `places`, and that of the newest key and value at `newest`.
#[cube]
fn see<C: Float>(
    seen: &mut Seen,
    q: &Array<F4>,
    io: &Rotary<C>,
    places: &Sequence<usize>,
    newest: usize,
    #[comptime] kernel: Decode,
) {
    #[unroll]
    for n in 0..comptime!(kernel.pairs()) {
        see_pair(&mut seen.q, n, q, places[n], kernel);
    }
    if comptime!(kernel.rotary) {
        see_pair(&mut seen.k, 0usize, &io.k, newest, kernel);
        see_pair(&mut seen.v, 0usize, &io.v, newest, kernel);
    }
}

/// Whether all of that was there which is to be waited for.
#[cube]
fn all_there(seen: &Seen, told: u32, #[comptime] kernel: Decode) -> bool {
    let mut q = true.runtime();
    #[unroll]
    for i in 0..comptime!(2 * kernel.pairs()) {
        q = q && are_there(seen.q[i]);
    }
    let k = are_there(seen.k[0]) && are_there(seen.k[1]);
    let v = are_there(seen.v[0]) && are_there(seen.v[1]);
    (q || told & WAITS_FOR_Q == 0)
        && (k || told & WAITS_FOR_K == 0)
        && (v || told & WAITS_FOR_V == 0)
}

/// Looks again until all is there; no number, if that takes too long.
#[cube]
fn look<C: Float>(
    seen: &mut Seen,
    q: &Array<F4>,
    io: &Rotary<C>,
    places: &Sequence<usize>,
    newest: usize,
    told: u32,
    #[comptime] kernel: Decode,
) {
    let mut looks = 0u32.runtime();
    while !all_there(seen, told, kernel) && looks < LOOKS {
        see::<C>(seen, q, io, places, newest, kernel);
        looks += 1;
    }
    if looks == LOOKS {
        seen.q[0] = F4::new(never(looks));
        seen.k[0] = F4::new(never(looks));
        seen.v[0] = F4::new(never(looks));
    }
}

/// Reads queries and the newest key and value, waits for them as far as the launch is told to, turns what is
/// to be turned, and leaves it to all threads of the cube.
#[cube]
pub(super) fn stage<C: Float>(
    q: &Array<F4>,
    io: &mut Rotary<C>,
    params: &Array<u32>,
    rows: &Rows,
    keys: &Keys,
    #[comptime] kernel: Decode,
) -> Staged {
    let (half, pairs) = comptime!((kernel.pairs_of_head(), kernel.pairs()));
    let row_count = comptime!(kernel.rows as usize);
    let thread = UNIT_POS_X as usize;
    let heads = params[2] as usize;
    let kv_heads = params[3] as usize;
    let per_kv_head = heads / kv_heads;

    let mut places = Sequence::<usize>::new();
    #[unroll]
    for n in 0..pairs {
        let pair = thread + comptime!(n * kernel.threads() as usize);
        // Threads behind the end read the last row once more.
        let row = min(rows.first + min(pair / half, row_count - 1), rows.last);
        let position = position_of(row, per_kv_head, kernel);
        let head = (rows.sequence * params[1] as usize + position) * heads
            + rows.kv_head * per_kv_head
            + (row - position * per_kv_head);
        places.push(head * comptime!(kernel.vectors_of_head()) + pair % half);
    }
    let newest = (rows.sequence * kv_heads + rows.kv_head) * comptime!(kernel.vectors_of_head())
        + thread % half;
    let mut seen = Seen {
        q: Array::<F4>::new(comptime!(2 * pairs)),
        k: Array::<F4>::new(2usize),
        v: Array::<F4>::new(2usize),
    };
    see::<C>(&mut seen, q, io, &places, newest, kernel);
    // Angles come while others are waited for. Those of the newest key are those of a thread's first pair.
    let mut cos = Sequence::<F4>::new();
    let mut sin = Sequence::<F4>::new();
    if comptime!(kernel.rotary) {
        let first = angles_of(params, rows.sequence, kernel);
        #[unroll]
        for n in 0..pairs {
            let i = first + (thread + comptime!(n * kernel.threads() as usize)) % half;
            cos.push(io.cos[i]);
            sin.push(io.sin[i]);
        }
        let of_newest = comptime!(WAITS_FOR_K | WAITS_FOR_V);
        let told = params[13] & (WAITS_FOR_Q | select(rows.has_newest, of_newest, 0u32));
        // Of threads that have nothing, none looks.
        if told != 0 && thread < comptime!(kernel.rows as usize * half) {
            look::<C>(&mut seen, q, io, &places, newest, told, kernel);
        }
    }

    let of_newest = comptime!(if kernel.rotary { 2 } else { 0 });
    let mut all = SharedMemory::<F4>::new(comptime!(
        (kernel.rows as usize + of_newest) * kernel.vectors_of_head()
    ));
    #[unroll]
    for n in 0..pairs {
        let pair = thread + comptime!(n * kernel.threads() as usize);
        let (row, i) = (pair / half, pair % half);
        if comptime!(kernel.rotary) {
            turn(&mut seen.q, n, cos[n], sin[n]);
        }
        if row < row_count {
            let at = row * comptime!(kernel.vectors_of_head()) + i;
            all[at] = seen.q[comptime!(2 * n)];
            all[at + half] = seen.q[comptime!(2 * n + 1)];
        }
    }
    if comptime!(kernel.rotary) {
        let i = thread % half;
        turn(&mut seen.k, 0usize, cos[0], sin[0]);
        if thread < half {
            let at = comptime!(kernel.rows as usize * kernel.vectors_of_head()) + i;
            let there = place(keys, params[4] as usize - 1, kernel) + i;
            #[unroll]
            for n in 0..2usize {
                let key = Vector::<C, Const<4>>::cast_from(seen.k[n]);
                let value = Vector::<C, Const<4>>::cast_from(seen.v[n]);
                all[at + n * half] = F4::cast_from(key);
                all[at + comptime!(n * half + kernel.vectors_of_head())] = F4::cast_from(value);
                if rows.writes_newest {
                    io.keys[there + n * half] = key;
                    io.values[there + n * half] = value;
                }
            }
        }
    }
    sync_cube();
    Staged { all }
}
