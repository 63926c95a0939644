//! One part of the keys: scores, and what they weigh.
//!
//! A key is read by neighbouring threads, 8 or 16 values each ([`Decode::chunks`]), which also hold as
//! many values of every query row and of its result. Their partial products are added by exchange within
//! a plane, or through shared memory. In a plane every thread is left with some of the sums, makes weights
//! of them, and hands these on: so each is made once.
//!
//! Buffers: q `[batch, len, heads, dim]`; if it turns them ([`Decode::rotary`]), what [`Rotary`] says;
//! keys, values `[batch, kv_heads, capacity, dim]`, padding `[batch]`, `params`; for each row and part
//! its unnormalised vector, and its maximum and sum; if it turns, keys and values again, to be written.
//! One part of all keys is the result: nothing is left to merge.

use cubecl::prelude::*;
use half::f16;

use super::{
    LOWEST, join,
    rotary::{self, Rotary},
    visible,
};
use crate::{
    Needs, Reduce,
    common::{Builder, F4, share_out},
};

/// Threads in a cube, with plane exchange.
const THREADS: u32 = 128;
/// Keys that a thread reads before it uses them.
const AHEAD: usize = 4;

/// The kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decode {
    /// Head dimension: a multiple of 8, at most 256.
    pub dim: u32,
    /// Whether the cache holds f16 instead of f32.
    pub f16: bool,
    /// Query rows that a cube computes.
    pub rows: u32,
    /// How threads exchange. With [`Reduce::Shared`] its number is the threads of a cube.
    pub reduce: Reduce,
    /// Whether queries are turned here, and the newest key and value come from the projections and
    /// are written to the cache. Each sequence then has one new position and others before it, a pair
    /// is one value of each half of a head, and the dimension is a multiple of 16.
    pub rotary: bool,
}

impl Decode {
    /// Whether it is worth generating: with turning, large heads only where it counts most, for every
    /// kernel takes time at each build.
    pub const fn is_made(self) -> bool {
        let fits = self.dim.is_multiple_of(if self.rotary { 16 } else { 8 });
        let counts = self.dim <= 64 || (self.f16 && self.reduce.plane().is_some());
        fits && 8 <= self.dim && self.dim <= 256 && (counts || !self.rotary)
    }

    /// Pieces of 8 values that a thread has of a key: two, with which there are fewer sums and weights to
    /// exchange for each value, where there are registers for them. They are half a head apart.
    pub(super) const fn chunks(self) -> usize {
        let fits = self.dim.is_multiple_of(16) && self.dim > 16 && self.rows <= 4;
        if fits && self.reduce.plane().is_some() { 2 } else { 1 }
    }

    /// Vectors of four values that a thread has of a key.
    pub(super) const fn vectors(self) -> usize {
        2 * self.chunks()
    }

    /// Where a thread's vector `i` lies behind its first one.
    pub(super) const fn place_of(self, i: usize) -> usize {
        i % 2 + i / 2 * (self.dim as usize / 8)
    }

    /// Threads that share a key.
    pub(super) const fn lanes(self) -> u32 {
        (self.dim / (8 * self.chunks() as u32)).next_power_of_two()
    }

    /// Whether some of them have no piece of it.
    const fn has_idle_lanes(self) -> bool {
        self.lanes() * 8 * self.chunks() as u32 != self.dim
    }

    /// Through shared memory every key that is read ahead takes room.
    const fn ahead(self) -> usize {
        if self.reduce.plane().is_some() { AHEAD } else { 1 }
    }

    /// Scores of a step: for each row those of the keys that are read ahead.
    const fn scores(self) -> usize {
        self.rows as usize * self.ahead()
    }

    /// Scores that a thread still adds up after so many exchanges of halves.
    const fn left(self, steps: u32) -> usize {
        let left = self.scores() >> steps;
        if left == 0 { 1 } else { left }
    }

    /// Scores of which a thread makes weights.
    const fn held(self) -> usize {
        if self.reduce.plane().is_some() { self.left(self.lanes().ilog2()) } else { self.scores() }
    }

    /// Neighbouring threads that have the same scores.
    const fn alike(self) -> usize {
        self.lanes() as usize * self.held() / self.scores()
    }

    /// The thread that has the score `i`, of those that share a key. (Without planes everyone has all.)
    const fn holder(self, i: usize) -> u32 {
        (i / self.held() * self.alike()) as u32
    }

    /// Rows whose scores a thread has.
    const fn rows_held(self) -> usize {
        self.held().div_ceil(self.ahead())
    }

    pub(super) const fn threads(self) -> u32 {
        match self.reduce {
            Reduce::Plane(_) => THREADS,
            Reduce::Planes(n, count) => n * count,
            Reduce::Shared(threads) => threads,
        }
    }

    /// Cubes of one launch.
    pub const fn cubes(self, params: &super::Params) -> u32 {
        params.batch
            * params.kv_heads
            * params.rows_per_kv_head().div_ceil(self.rows)
            * params.splits
    }

    pub(crate) fn name(self) -> String {
        let Self { dim, f16, rows, reduce, rotary } = self;
        let rotary = if rotary { "rotary_" } else { "" };
        let ty = if f16 { "f16" } else { "f32" };
        format!("attention_{rotary}decode_d{dim}_{ty}_r{rows}_{}", reduce.name())
    }

    pub(crate) fn needs(self) -> Needs {
        Needs { plane: self.reduce.plane(), f16: self.f16, ..Needs::default() }
    }

    pub(crate) fn define(self) -> KernelDefinition {
        if self.f16 { self.define_as::<f16>() } else { self.define_as::<f32>() }
    }

    fn define_as<C: Float>(self) -> KernelDefinition {
        let mut b = Builder::new();
        let q = b.input::<F4>();
        let turning = self.rotary.then(|| [(); 4].map(|()| b.input::<F4>()));
        let [keys, values] = [(); 2].map(|()| b.input::<Vector<C, Const<4>>>());
        let (padding, params) = (b.input::<u32>(), b.input::<u32>());
        let (vectors, ends) = (b.output::<F4>(), b.output::<f32>());
        let written = self.rotary.then(|| [(); 2].map(|()| b.output::<Vector<C, Const<4>>>()));
        // What there is not is not read, nor written: anything may stand for it.
        let [k, v, cos, sin] = turning.unwrap_or_else(|| [(); 4].map(|()| q.clone()));
        let [new_keys, new_values] = written.unwrap_or_else(|| [keys.clone(), values.clone()]);
        decode::expand::<C>(
            &mut b.inner.scope,
            q.into(),
            rotary::RotaryExpand {
                k: k.into(),
                v: v.into(),
                cos: cos.into(),
                sin: sin.into(),
                keys: new_keys.into(),
                values: new_values.into(),
            },
            keys.into(),
            values.into(),
            padding.into(),
            params.into(),
            vectors.into(),
            ends.into(),
            self,
        );
        b.finish(self.threads(), &self.name())
    }
}

/// Whether a thread has a piece of each key.
#[cube]
pub(super) fn holds(lane: usize, #[comptime] kernel: Decode) -> bool {
    lane < comptime!(kernel.dim as usize / (8 * kernel.chunks()))
}

/// Sums each of `values` (rows by keys ahead) over the threads that share a key. Its first ones are then
/// those that the thread holds: see [`Decode::holder`].
#[cube]
fn lane_sums(values: &mut Array<f32>, shared: &mut SharedMemory<f32>, #[comptime] kernel: Decode) {
    let lanes = comptime!(kernel.lanes());
    if comptime!(kernel.reduce.plane().is_some()) {
        // Halves change places: a thread goes on with half of the values, so that all of them take about
        // as many exchanges as there are, not as many for each step.
        #[unroll]
        for step in 0..comptime!(lanes.ilog2()) {
            let (left, mask) = comptime!((kernel.left(step), lanes >> (step + 1)));
            share_out(values, left, 1usize, mask);
        }
    } else {
        let threads = comptime!(kernel.threads() as usize);
        let thread = UNIT_POS_X as usize;
        let first = (UNIT_POS_X / lanes * lanes) as usize;
        sync_cube();
        #[unroll]
        for r in 0..comptime!(kernel.scores()) {
            shared[comptime!(r * threads) + thread] = values[r];
        }
        sync_cube();
        #[unroll]
        for r in 0..comptime!(kernel.scores()) {
            let mut sum = 0.0f32;
            for lane in 0..comptime!(lanes as usize) {
                sum += shared[comptime!(r * threads) + first + lane];
            }
            values[r] = sum;
        }
    }
}

/// Adds the products of four values, one after the other: as many instructions as there are.
#[cube]
fn add_product(sum: f32, a: F4, b: F4) -> f32 {
    let mut sum = sum;
    #[unroll]
    for i in 0..4usize {
        sum += a[i] * b[i];
    }
    sum
}

/// Makes scores of the first `count` products.
#[cube]
fn cap(scores: &mut Array<f32>, params: &Array<u32>, #[comptime] count: usize) {
    let scale = f32::reinterpret(params[8]);
    let soft_cap = f32::reinterpret(params[9]);
    #[unroll]
    for i in 0..count {
        scores[i] *= scale;
    }
    // Together, so that whoever has no cap jumps over all of it.
    if soft_cap != 0.0f32 {
        #[unroll]
        for i in 0..count {
            scores[i] = soft_cap * (scores[i] / soft_cap).tanh();
        }
    }
}

/// `value` of the thread that has the score `i`, of those that share a key.
#[cube]
fn of_holder(value: f32, #[comptime] i: usize, #[comptime] kernel: Decode) -> f32 {
    match comptime!(kernel.reduce.plane()) {
        Some(threads) => {
            let lanes = comptime!(kernel.lanes());
            let first = UNIT_POS_X % comptime!(threads) / lanes * lanes;
            plane_shuffle(value, first + comptime!(kernel.holder(i)))
        }
        None => value,
    }
}

/// The rows of whose scores a thread makes weights, and what it knows of them.
#[derive(CubeType)]
struct Mine {
    /// The first key that a row sees, and the first one after those.
    first: Array<u32>,
    end: Array<u32>,
    /// The best score so far.
    best: Array<f32>,
    /// The first one of them, of those of the cube.
    row: usize,
    /// Which of the keys ahead its first score is of.
    ahead: usize,
}

#[cube]
fn mine(
    params: &Array<u32>,
    padding: &Array<u32>,
    sequence: usize,
    first_row: usize,
    last_row: usize,
    #[comptime] kernel: Decode,
) -> Mine {
    let rows = comptime!(kernel.rows_held());
    let mut first = Array::<u32>::new(rows);
    let mut end = Array::<u32>::new(rows);
    let mut best = Array::<f32>::new(rows);
    let lane = UNIT_POS_X as usize % comptime!(kernel.lanes() as usize);
    let mut score = 0usize.runtime();
    if comptime!(kernel.reduce.plane().is_some()) {
        score = lane / comptime!(kernel.alike()) * comptime!(kernel.held());
    }
    let mine = score / comptime!(kernel.ahead());
    #[unroll]
    for r in 0..rows {
        let row = min(first_row + mine + r, last_row);
        let mut position = 0usize.runtime();
        if comptime!(!kernel.rotary) {
            position = row / (params[2] as usize / params[3] as usize);
        }
        let seen = visible(params, padding, sequence, position);
        first[r] = seen.0;
        end[r] = seen.1;
        best[r] = LOWEST;
    }
    Mine { first, end, best, row: mine, ahead: score % comptime!(kernel.ahead()) }
}

/// Makes weights of the scores that a thread holds, of keys from `key` on that are `stride` apart.
#[cube]
fn weigh(
    scores: &mut Array<f32>,
    mine: &mut Mine,
    key: usize,
    stride: usize,
    to: usize,
    #[comptime] kernel: Decode,
) {
    let (held, ahead) = comptime!((kernel.held(), kernel.ahead()));
    #[unroll]
    for i in 0..held {
        let r = comptime!(i / ahead);
        let at = key + (mine.ahead + comptime!(i % ahead)) * stride;
        let sees = at < to && at as u32 >= mine.first[r] && (at as u32) < mine.end[r];
        scores[i] = select(sees, scores[i], LOWEST);
        mine.best[r] = max(mine.best[r], scores[i]);
    }
    if comptime!(held < ahead) {
        // The other scores of the row are in the threads beside.
        #[unroll]
        for bit in 0..comptime!((ahead / held).ilog2()) {
            let other = plane_shuffle_xor(mine.best[0], comptime!((kernel.alike() as u32) << bit));
            mine.best[0] = max(mine.best[0], other);
        }
    }
    #[unroll]
    for i in 0..held {
        // A hidden key weighs nothing, also where all are hidden and the best is no score.
        let weight = (scores[i] - mine.best[comptime!(i / ahead)]).exp();
        scores[i] = select(scores[i] > LOWEST, weight, 0.0f32);
    }
}

/// The group of the newest key begins with it, for it is in no cache yet: `scores` are its products.
#[cube]
fn begin<C: Float>(
    held: &mut join::Held,
    mine: &mut Mine,
    scores: &mut Array<f32>,
    newest: &rotary::Newest<C>,
    shared: &mut SharedMemory<f32>,
    params: &Array<u32>,
    has_newest: bool,
    #[comptime] kernel: Decode,
) {
    let rows = comptime!(kernel.rows as usize);
    let vectors = comptime!(kernel.vectors());
    if comptime!(kernel.reduce.plane().is_some()) {
        #[unroll]
        for bit in 0..comptime!(kernel.lanes().ilog2()) {
            share_out(scores, 1usize, rows, comptime!(1u32 << bit));
        }
    } else {
        lane_sums(scores, shared, kernel);
    }
    cap(scores, params, rows);
    if has_newest {
        #[unroll]
        for r in 0..rows {
            held.maximum[r] = scores[r];
            held.sum[r] = 1.0f32;
            #[unroll]
            for i in 0..vectors {
                held.vectors[comptime!(r * vectors + i)] = F4::cast_from(newest.value[i]);
            }
            // Which rows a thread has is not known before it runs.
            #[unroll]
            for h in 0..comptime!(kernel.rows_held()) {
                mine.best[h] = select(mine.row + h == r, scores[r], mine.best[h]);
            }
        }
    }
}

/// The keys that a cube goes through, and where they lie.
#[derive(CubeType)]
pub(super) struct Keys {
    /// Behind the last one of the cube.
    to: usize,
    /// The last one that is in the cache.
    last: usize,
    /// The first place of the head's part of the cache, and that of the oldest key within it.
    base: usize,
    start: usize,
    capacity: usize,
}

/// The first vector of a key, or value, in the cache.
#[cube]
pub(super) fn place(keys: &Keys, key: usize, #[comptime] kernel: Decode) -> usize {
    // There are no more keys than places.
    let at = keys.start + key;
    let slot = at - select(at >= keys.capacity, keys.capacity, 0);
    (keys.base + slot) * comptime!(kernel.dim as usize / 4)
}

/// Reads the keys and values of a step. Keys behind the end are read as the last one is, and not used.
#[cube]
fn read<C: Float>(
    from: &Array<Vector<C, Const<4>>>,
    held: &mut Array<Vector<C, Const<4>>>,
    keys: &Keys,
    first: usize,
    offset: usize,
    #[comptime] kernel: Decode,
) {
    let groups = comptime!((kernel.threads() / kernel.lanes()) as usize);
    let vectors = comptime!(kernel.vectors());
    #[unroll]
    for a in 0..comptime!(kernel.ahead()) {
        let at = place(keys, min(first + a * groups, keys.last), kernel) + offset;
        #[unroll]
        for i in 0..vectors {
            held[comptime!(a * vectors + i)] = from[at + comptime!(kernel.place_of(i))];
        }
    }
}

#[cube]
fn decode<C: Float>(
    q: &Array<F4>,
    io: &mut Rotary<C>,
    keys: &Array<Vector<C, Const<4>>>,
    values: &Array<Vector<C, Const<4>>>,
    padding: &Array<u32>,
    params: &Array<u32>,
    parts: &mut Array<F4>,
    ends: &mut Array<f32>,
    #[comptime] kernel: Decode,
) {
    let rows = comptime!(kernel.rows as usize);
    let lanes = comptime!(kernel.lanes() as usize);
    let groups = comptime!((kernel.threads() / kernel.lanes()) as usize);
    let dim = comptime!(kernel.dim as usize);

    let len = params[1] as usize;
    let heads = params[2] as usize;
    let kv_heads = params[3] as usize;
    let total = params[4] as usize;
    let capacity = params[5] as usize;
    let splits = params[7] as usize;
    let per_kv_head = heads / kv_heads;
    let row_count = len * per_kv_head;
    let chunks = (row_count + comptime!(rows - 1)) / rows;

    let cubes = params[0] as usize * kv_heads * chunks * splits;
    // Cubes behind the end do the last one's work again.
    let cube = min(CUBE_POS, cubes - 1);
    let split = cube % splits;
    let chunk = (cube / splits) % chunks;
    let kv_head = (cube / (splits * chunks)) % kv_heads;
    let sequence = cube / (splits * chunks * kv_heads);

    let thread = UNIT_POS_X as usize;
    let lane = thread % lanes;
    let group = thread / lanes;
    let holds = holds(lane, kernel);
    let offset = select(holds, lane * 2, 0);

    let part = (total + splits - 1) / splits;
    let from = split * part;
    // The newest one is not there yet, if this launch is to write it.
    let held_there = total - comptime!(kernel.rotary as usize);
    let seen = Keys {
        to: min(from + part, held_there),
        last: max(held_there, 1) - 1,
        base: (sequence * kv_heads + kv_head) * capacity,
        start: params[6] as usize,
        capacity,
    };
    let (ahead, vectors) = comptime!((kernel.ahead(), kernel.vectors()));
    let mut k = Array::<Vector<C, Const<4>>>::new(comptime!(ahead * vectors));
    let mut v = Array::<Vector<C, Const<4>>>::new(comptime!(ahead * vectors));
    // The first ones are on their way while queries are.
    read::<C>(keys, &mut k, &seen, from + group, offset, kernel);
    read::<C>(values, &mut v, &seen, from + group, offset, kernel);

    let turn = rotary::turn::<C>(io, params, sequence, offset, kernel);
    let newest = rotary::newest::<C>(io, &turn, sequence * kv_heads + kv_head, offset, kernel);

    // This thread's values of each query row.
    let mut query = Array::<F4>::new(comptime!(rows * vectors));
    #[unroll]
    for r in 0..rows {
        let row = min(chunk * rows + r, row_count - 1);
        let mut position = 0usize.runtime();
        let mut head = kv_head * per_kv_head + row;
        if comptime!(!kernel.rotary) {
            position = row / per_kv_head;
            head = kv_head * per_kv_head + row % per_kv_head;
        }
        let base = ((sequence * len + position) * heads + head) * comptime!(dim / 4);
        let turned = rotary::turned(q, base, offset, &turn, kernel);
        #[unroll]
        for i in 0..vectors {
            let mut value = turned[i];
            if comptime!(kernel.has_idle_lanes()) {
                value *= F4::new(select(holds, 1.0f32, 0.0f32));
            }
            query[comptime!(r * vectors + i)] = value;
        }
    }
    let mut mine = mine(params, padding, sequence, chunk * rows, row_count - 1, kernel);

    let mut shared = SharedMemory::<f32>::new(comptime!(if kernel.reduce.plane().is_some() {
        1
    } else {
        rows * kernel.threads() as usize
    }));
    let mut held = join::empty(kernel);
    // One cube of all that have the newest key's turn writes it, and one group begins with it.
    let has_newest = total > from && total <= from + part && group == 0;
    if comptime!(kernel.rotary) {
        let mut scores = Array::<f32>::new(rows);
        #[unroll]
        for r in 0..rows {
            let mut sum = 0.0f32;
            #[unroll]
            for i in 0..vectors {
                let key = F4::cast_from(newest.key[i]);
                sum = add_product(sum, query[comptime!(r * vectors + i)], key);
            }
            scores[r] = sum;
        }
        begin(&mut held, &mut mine, &mut scores, &newest, &mut shared, params, has_newest, kernel);
        if has_newest && chunk == 0 && holds {
            let at = place(&seen, total - 1, kernel) + offset;
            #[unroll]
            for i in 0..vectors {
                let place = at + comptime!(kernel.place_of(i));
                io.keys[place] = newest.key[i];
                io.values[place] = newest.value[i];
            }
        }
    }
    // As many steps for every thread: they exchange within the loop.
    let stride = comptime!(groups * kernel.ahead());
    let steps = (max(seen.to, from) - from + comptime!(stride - 1)) / stride;
    for step in 0..steps {
        let at = from + step * stride + group;
        let mut scores = Array::<f32>::new(comptime!(kernel.scores()));
        #[unroll]
        for a in 0..ahead {
            let mut sums = Array::<f32>::new(rows);
            #[unroll]
            for r in 0..rows {
                sums[r] = 0.0f32;
            }
            #[unroll]
            for i in 0..vectors {
                let key = F4::cast_from(k[comptime!(a * vectors + i)]);
                #[unroll]
                for r in 0..rows {
                    sums[r] = add_product(sums[r], query[comptime!(r * vectors + i)], key);
                }
            }
            #[unroll]
            for r in 0..rows {
                scores[comptime!(r * ahead + a)] = sums[r];
            }
        }
        // The next ones are on their way while these are weighed.
        if step + 1 < steps {
            read::<C>(keys, &mut k, &seen, at + stride, offset, kernel);
        }
        lane_sums(&mut scores, &mut shared, kernel);
        cap(&mut scores, params, comptime!(kernel.held()));
        weigh(&mut scores, &mut mine, at, groups, seen.to, kernel);
        #[unroll]
        for r in 0..rows {
            // What is held is scaled once for all keys at hand.
            let row = comptime!(r * ahead % kernel.held() / ahead);
            let best = of_holder(mine.best[row], comptime!(r * ahead), kernel);
            join::scale(&mut held, r, best, kernel);
        }
        #[unroll]
        for a in 0..ahead {
            let mut weights = Array::<f32>::new(rows);
            #[unroll]
            for r in 0..rows {
                let i = comptime!(r * ahead + a);
                weights[r] = of_holder(scores[comptime!(i % kernel.held())], i, kernel);
                held.sum[r] += weights[r];
            }
            #[unroll]
            for i in 0..vectors {
                let value = F4::cast_from(v[comptime!(a * vectors + i)]);
                #[unroll]
                for r in 0..rows {
                    held.vectors[comptime!(r * vectors + i)] += value * F4::new(weights[r]);
                }
            }
        }
        if step + 1 < steps {
            read::<C>(values, &mut v, &seen, at + stride, offset, kernel);
        }
    }

    join::join_planes(&mut held, kernel);
    let mut meeting = join::meeting(kernel);
    #[unroll]
    for turn in 0..comptime!(rows / join::rows_at_once(kernel)) {
        let mine = join::join(&held, &mut meeting, params, turn, kernel);
        let row = chunk * rows + mine.row;
        if mine.exists && row < row_count {
            let position = row / per_kv_head;
            let head = kv_head * per_kv_head + row % per_kv_head;
            let place = ((sequence * len + position) * heads + head) * splits + split;
            let mut value = mine.value;
            if splits == 1 {
                // A row that sees no key gives zeros.
                let is_empty = mine.sum == 0.0f32;
                let factor = 1.0f32 / select(is_empty, 1.0f32, mine.sum);
                value *= F4::new(select(is_empty, 0.0f32, factor));
            }
            parts[place * comptime!(dim / 4) + mine.vector] = value;
            if mine.vector == 0 {
                ends[place * 2] = mine.maximum;
                ends[place * 2 + 1] = mine.sum;
            }
        }
    }
}
