//! One part of the keys: scores, and what they weigh.
//!
//! A key is read by `dim / 8` neighbouring threads (rounded up to a power of two), 8 values each,
//! which also hold their 8 values of every query row and of its result. Their partial products are
//! added by exchange within a plane, or through shared memory.
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

    /// Threads that share a key.
    pub(super) const fn lanes(self) -> u32 {
        (self.dim / 8).next_power_of_two()
    }

    /// Through shared memory every key that is read ahead takes room.
    const fn ahead(self) -> usize {
        if self.reduce.plane().is_some() { AHEAD } else { 1 }
    }

    /// Scores that a thread still adds up after so many exchanges of halves.
    const fn left(self, steps: u32) -> usize {
        let left = (self.rows as usize * self.ahead()) >> steps;
        if left == 0 { 1 } else { left }
    }

    pub(super) const fn threads(self) -> u32 {
        match self.reduce {
            Reduce::Plane(_) | Reduce::Planes(..) => THREADS,
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

/// Sums each of `values` (rows by keys ahead) over the threads that share a key: every one of these
/// has all sums after it.
#[cube]
fn lane_sums(values: &mut Array<f32>, shared: &mut SharedMemory<f32>, #[comptime] kernel: Decode) {
    let count = comptime!(kernel.rows as usize * kernel.ahead());
    let lanes = comptime!(kernel.lanes());
    if comptime!(kernel.reduce.plane().is_some()) {
        // Halves change places: a thread goes on with half of the values, so that `count` of them
        // take about as many exchanges, not `count` for each step.
        #[unroll]
        for step in 0..comptime!(lanes.ilog2()) {
            let (left, mask) = comptime!((kernel.left(step), lanes >> (step + 1)));
            share_out(values, left, 1usize, mask);
        }
        // The value `i` lies `i % held` in the lane whose upper bits are `i / held`.
        let held = comptime!(kernel.left(lanes.ilog2()));
        let mut sums = Array::<f32>::new(held);
        #[unroll]
        for i in 0..held {
            sums[i] = values[i];
        }
        let first = UNIT_POS_X % comptime!(kernel.reduce.threads()) / lanes * lanes;
        #[unroll]
        for i in 0..count {
            let holder = comptime!((i / held) as u32 * lanes / (count / held) as u32);
            values[i] = plane_shuffle(sums[comptime!(i % held)], first + holder);
        }
    } else {
        let threads = comptime!(kernel.threads() as usize);
        let thread = UNIT_POS_X as usize;
        let first = (UNIT_POS_X / lanes * lanes) as usize;
        sync_cube();
        #[unroll]
        for r in 0..count {
            shared[comptime!(r * threads) + thread] = values[r];
        }
        sync_cube();
        #[unroll]
        for r in 0..count {
            let mut sum = 0.0f32;
            for lane in 0..comptime!(lanes as usize) {
                sum += shared[comptime!(r * threads) + first + lane];
            }
            values[r] = sum;
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
    #[unroll]
    for a in 0..comptime!(kernel.ahead()) {
        let at = place(keys, min(first + a * groups, keys.last), kernel) + offset;
        held[comptime!(2 * a)] = from[at];
        held[comptime!(2 * a + 1)] = from[at + 1];
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
    let scale = f32::reinterpret(params[8]);
    let soft_cap = f32::reinterpret(params[9]);
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
    let holds = lane * 8 < dim;
    let offset = select(holds, lane * 2, 0);

    let part = (total + splits - 1) / splits;
    let from = split * part;
    let mut last = total - 1;
    if comptime!(kernel.rotary) {
        // The newest one is not there yet: this launch writes it.
        last = max(last, 1) - 1;
    }
    let seen = Keys {
        to: min(from + part, total),
        last,
        base: (sequence * kv_heads + kv_head) * capacity,
        start: params[6] as usize,
        capacity,
    };
    let ahead = comptime!(kernel.ahead());
    let mut k = Array::<Vector<C, Const<4>>>::new(comptime!(2 * kernel.ahead()));
    let mut v = Array::<Vector<C, Const<4>>>::new(comptime!(2 * kernel.ahead()));
    // The first ones are on their way while queries are.
    read::<C>(keys, &mut k, &seen, from + group, offset, kernel);
    read::<C>(values, &mut v, &seen, from + group, offset, kernel);

    let turn = rotary::turn::<C>(io, params, sequence, offset, kernel);
    let newest = rotary::newest::<C>(io, &turn, sequence * kv_heads + kv_head, offset, kernel);

    // This thread's 8 values of each query row, and which keys the row sees.
    let mut query = Array::<F4>::new(comptime!(2 * rows));
    let mut first = Array::<u32>::new(rows);
    let mut end = Array::<u32>::new(rows);
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
        let factor = F4::new(select(holds, scale, 0.0f32));
        let turned = rotary::turned(q, base, offset, &turn, kernel);
        query[comptime!(2 * r)] = turned[0] * factor;
        query[comptime!(2 * r + 1)] = turned[1] * factor;
        let seen = visible(params, padding, sequence, position);
        first[r] = seen.0;
        end[r] = seen.1;
    }

    let mut shared = SharedMemory::<f32>::new(comptime!(if kernel.reduce.plane().is_some() {
        1
    } else {
        rows * kernel.threads() as usize
    }));
    let mut held = join::empty(kernel);
    // As many steps for every thread: they exchange within the loop.
    let steps =
        (part + comptime!(groups * kernel.ahead() - 1)) / comptime!(groups * kernel.ahead());
    for step in 0..steps {
        if step > 0 {
            let at = from + step * comptime!(groups * kernel.ahead()) + group;
            read::<C>(keys, &mut k, &seen, at, offset, kernel);
            read::<C>(values, &mut v, &seen, at, offset, kernel);
        }
        if comptime!(kernel.rotary) {
            #[unroll]
            for a in 0..ahead {
                if from + (step * ahead + a) * groups + group == total - 1 {
                    #[unroll]
                    for i in 0..2usize {
                        k[comptime!(2 * a + i)] = newest.key[i];
                        v[comptime!(2 * a + i)] = newest.value[i];
                    }
                }
            }
        }
        let mut scores = Array::<f32>::new(comptime!(rows * kernel.ahead()));
        #[unroll]
        for a in 0..ahead {
            let k0 = F4::cast_from(k[comptime!(2 * a)]);
            let k1 = F4::cast_from(k[comptime!(2 * a + 1)]);
            #[unroll]
            for r in 0..rows {
                let p = query[comptime!(2 * r)] * k0 + query[comptime!(2 * r + 1)] * k1;
                scores[comptime!(r * kernel.ahead() + a)] = p[0] + p[1] + p[2] + p[3];
            }
        }
        lane_sums(&mut scores, &mut shared, kernel);
        // Together, so that whoever has no cap jumps over all of it.
        if soft_cap != 0.0f32 {
            #[unroll]
            for i in 0..comptime!(rows * kernel.ahead()) {
                scores[i] = soft_cap * (scores[i] / soft_cap).tanh();
            }
        }
        #[unroll]
        for r in 0..rows {
            // The best of the keys at hand, so that what is held is scaled once for all of them.
            let mut best = held.maximum[r];
            #[unroll]
            for a in 0..ahead {
                let i = comptime!(r * kernel.ahead() + a);
                let key = from + (step * ahead + a) * groups + group;
                let sees = key < seen.to && key as u32 >= first[r] && (key as u32) < end[r];
                scores[i] = select(sees, scores[i], LOWEST);
                best = max(best, scores[i]);
            }
            join::scale(&mut held, r, best);
            let mut low = held.low[r];
            let mut high = held.high[r];
            #[unroll]
            for a in 0..ahead {
                let score = scores[comptime!(r * kernel.ahead() + a)];
                // A hidden key weighs nothing, also where all are hidden and `best` is no score.
                let weight = select(score > LOWEST, (score - best).exp(), 0.0f32);
                held.sum[r] += weight;
                low += F4::cast_from(v[comptime!(2 * a)]) * F4::new(weight);
                high += F4::cast_from(v[comptime!(2 * a + 1)]) * F4::new(weight);
            }
            held.low[r] = low;
            held.high[r] = high;
        }
    }

    if comptime!(kernel.rotary) {
        // One cube of all that see the newest key writes it.
        if chunk == 0 && total > from && total <= seen.to && group == 0 && holds {
            let at = place(&seen, total - 1, kernel) + offset;
            #[unroll]
            for i in 0..2usize {
                io.keys[at + i] = newest.key[i];
                io.values[at + i] = newest.value[i];
            }
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
