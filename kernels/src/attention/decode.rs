//! One part of the keys: scores, and what they weigh.
//!
//! A key is read by `dim / 8` neighbouring threads (rounded up to a power of two), 8 values each,
//! which also hold their 8 values of every query row and of its result. Their partial products are
//! added by exchange within a plane, or through shared memory.
//!
//! Buffers: q `[batch, len, heads, dim]`, keys, values `[batch, kv_heads, capacity, dim]`, padding
//! `[batch]`, `params`; for each row and part its unnormalised vector, and its maximum and sum. One
//! part of all keys is the result: nothing is left to merge.

use cubecl::prelude::*;
use half::f16;

use super::{LOWEST, visible};
use crate::{
    Needs, Reduce,
    common::{Builder, F4},
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
}

impl Decode {
    /// Threads that share a key.
    const fn lanes(self) -> u32 {
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

    /// Rows whose results are joined at a time.
    const fn joined(self) -> usize {
        let fit = (self.threads() / (self.dim / 4)) as usize;
        // More would take shared memory that other cubes need.
        let fit = if fit >= 2 { 2 } else { 1 };
        if fit < self.rows as usize { fit } else { self.rows as usize }
    }

    const fn threads(self) -> u32 {
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
        let Self { dim, f16, rows, reduce } = self;
        let ty = if f16 { "f16" } else { "f32" };
        format!("attention_decode_d{dim}_{ty}_r{rows}_{}", reduce.name())
    }

    pub(crate) fn needs(self) -> Needs {
        Needs { plane: self.reduce.plane(), f16: self.f16, units: None }
    }

    pub(crate) fn define(self) -> KernelDefinition {
        if self.f16 { self.define_as::<f16>() } else { self.define_as::<f32>() }
    }

    fn define_as<C: Float>(self) -> KernelDefinition {
        let mut b = Builder::new();
        let q = b.input::<F4>();
        let [keys, values] = [(); 2].map(|()| b.input::<Vector<C, Const<4>>>());
        let (padding, params) = (b.input::<u32>(), b.input::<u32>());
        let (vectors, ends) = (b.output::<F4>(), b.output::<f32>());
        decode::expand::<C>(
            &mut b.inner.scope,
            q.into(),
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
        let lane = UNIT_POS_X % lanes;
        #[unroll]
        for step in 0..comptime!(lanes.ilog2()) {
            let mask = comptime!(lanes >> (step + 1));
            let left = comptime!(kernel.left(step));
            if comptime!(left > 1) {
                let upper = (lane & mask) != 0u32;
                #[unroll]
                for i in 0..comptime!(left / 2) {
                    let (low, high) = (values[i], values[comptime!(left / 2 + i)]);
                    let other = plane_shuffle_xor(select(upper, low, high), mask);
                    values[i] = select(upper, high, low) + other;
                }
            } else {
                values[0usize] += plane_shuffle_xor(values[0usize], mask);
            }
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

#[cube]
fn decode<C: Float>(
    q: &Array<F4>,
    keys: &Array<Vector<C, Const<4>>>,
    values: &Array<Vector<C, Const<4>>>,
    padding: &Array<u32>,
    params: &Array<u32>,
    parts: &mut Array<F4>,
    ends: &mut Array<f32>,
    #[comptime] kernel: Decode,
) {
    let rows = comptime!(kernel.rows as usize);
    let threads = comptime!(kernel.threads() as usize);
    let lanes = comptime!(kernel.lanes() as usize);
    let groups = comptime!(threads / lanes);
    let dim = comptime!(kernel.dim as usize);

    let len = params[1] as usize;
    let heads = params[2] as usize;
    let kv_heads = params[3] as usize;
    let total = params[4];
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

    // This thread's 8 values of each query row, and which keys the row sees.
    let mut query = Array::<F4>::new(comptime!(2 * rows));
    let mut first = Array::<u32>::new(rows);
    let mut last = Array::<u32>::new(rows);
    #[unroll]
    for r in 0..rows {
        let row = min(chunk * rows + r, row_count - 1);
        let position = row / per_kv_head;
        let head = kv_head * per_kv_head + row % per_kv_head;
        let base = ((sequence * len + position) * heads + head) * comptime!(dim / 4) + offset;
        let factor = F4::new(select(holds, scale, 0.0f32));
        query[comptime!(2 * r)] = q[base] * factor;
        query[comptime!(2 * r + 1)] = q[base + 1] * factor;
        let seen = visible(params, padding, sequence, position);
        first[r] = seen.0;
        last[r] = seen.1;
    }

    let mut shared = SharedMemory::<f32>::new(comptime!(if kernel.reduce.plane().is_some() {
        1
    } else {
        rows * threads
    }));
    let mut maximum = Array::<f32>::new(rows);
    let mut sum = Array::<f32>::new(rows);
    let mut acc = Array::<F4>::new(comptime!(2 * rows));
    #[unroll]
    for r in 0..rows {
        maximum[r] = LOWEST;
        sum[r] = 0.0f32;
        acc[comptime!(2 * r)] = F4::new(0.0f32);
        acc[comptime!(2 * r + 1)] = F4::new(0.0f32);
    }

    let part = (total as usize + splits - 1) / splits;
    let from = split * part;
    let to = min(from + part, total as usize);
    let base = (sequence * kv_heads + kv_head) * capacity;
    let start = params[6] as usize;
    // As many steps for every thread: they exchange within the loop.
    let ahead = comptime!(kernel.ahead());
    let steps =
        (part + comptime!(groups * kernel.ahead() - 1)) / comptime!(groups * kernel.ahead());
    for step in 0..steps {
        let mut k = Array::<Vector<C, Const<4>>>::new(comptime!(2 * kernel.ahead()));
        let mut v = Array::<Vector<C, Const<4>>>::new(comptime!(2 * kernel.ahead()));
        #[unroll]
        for a in 0..ahead {
            let key = from + (step * ahead + a) * groups + group;
            // There are no more keys than places.
            let place = start + min(key, total as usize - 1);
            let slot = place - select(place >= capacity, capacity, 0);
            let place = (base + slot) * comptime!(dim / 4) + offset;
            k[comptime!(2 * a)] = keys[place];
            k[comptime!(2 * a + 1)] = keys[place + 1];
            v[comptime!(2 * a)] = values[place];
            v[comptime!(2 * a + 1)] = values[place + 1];
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
            let mut best = maximum[r];
            #[unroll]
            for a in 0..ahead {
                let i = comptime!(r * kernel.ahead() + a);
                let key = from + (step * ahead + a) * groups + group;
                let sees = key < to && key as u32 >= first[r] && (key as u32) < last[r];
                scores[i] = select(sees, scores[i], LOWEST);
                best = max(best, scores[i]);
            }
            let keep = (maximum[r] - best).exp();
            let mut total_weight = sum[r] * keep;
            let mut low = acc[comptime!(2 * r)] * F4::new(keep);
            let mut high = acc[comptime!(2 * r + 1)] * F4::new(keep);
            #[unroll]
            for a in 0..ahead {
                let score = scores[comptime!(r * kernel.ahead() + a)];
                // A hidden key weighs nothing, also where all are hidden and `best` is no score.
                let weight = select(score > LOWEST, (score - best).exp(), 0.0f32);
                total_weight += weight;
                low += F4::cast_from(v[comptime!(2 * a)]) * F4::new(weight);
                high += F4::cast_from(v[comptime!(2 * a + 1)]) * F4::new(weight);
            }
            maximum[r] = best;
            sum[r] = total_weight;
            acc[comptime!(2 * r)] = low;
            acc[comptime!(2 * r + 1)] = high;
        }
    }

    // The groups of a cube saw different keys: join them, a few rows at a time.
    let joined = comptime!(kernel.joined());
    // As many as there are, but not for the compiler, which would unroll the loops over them: each
    // launch comes there once, and would wait for instructions.
    let all_groups = groups + (params[4] >> 31) as usize;
    let mut vectors = SharedMemory::<F4>::new(comptime!(kernel.joined() * 2 * threads));
    let mut maxima = SharedMemory::<f32>::new(comptime!(kernel.joined() * groups));
    let mut sums = SharedMemory::<f32>::new(comptime!(kernel.joined() * groups));
    #[unroll]
    for turn in 0..comptime!(rows / kernel.joined()) {
        if comptime!(turn > 0) {
            // The rows before have been read.
            sync_cube();
        }
        #[unroll]
        for i in 0..joined {
            let r = comptime!(turn * kernel.joined() + i);
            vectors[comptime!(i * 2 * threads) + thread * 2] = acc[comptime!(2 * r)];
            vectors[comptime!(i * 2 * threads) + thread * 2 + 1] = acc[comptime!(2 * r + 1)];
            if lane == 0 {
                maxima[comptime!(i * groups) + group] = maximum[r];
                sums[comptime!(i * groups) + group] = sum[r];
            }
        }
        sync_cube();
        // A vector of a row for each thread.
        let i = thread / comptime!(dim / 4);
        let vector = thread % comptime!(dim / 4);
        let row = chunk * rows + comptime!(turn * kernel.joined()) + i;
        if i < joined && row < row_count {
            let position = row / per_kv_head;
            let head = kv_head * per_kv_head + row % per_kv_head;
            let place = ((sequence * len + position) * heads + head) * splits + split;
            let mut best = f32::new(LOWEST);
            for g in 0..all_groups {
                best = max(best, maxima[i * groups + g]);
            }
            let mut value = F4::new(0.0f32);
            let mut total_weight = 0.0f32;
            for g in 0..all_groups {
                let weight = (maxima[i * groups + g] - best).exp();
                total_weight += sums[i * groups + g] * weight;
                let from = i * comptime!(2 * threads) + g * comptime!(2 * lanes) + vector;
                value += vectors[from] * F4::new(weight);
            }
            if splits == 1 {
                // A row that sees no key gives zeros.
                let is_empty = total_weight == 0.0f32;
                let factor = 1.0f32 / select(is_empty, 1.0f32, total_weight);
                value *= F4::new(select(is_empty, 0.0f32, factor));
            }
            parts[place * comptime!(dim / 4) + vector] = value;
            if vector == 0 {
                ends[place * 2] = best;
                ends[place * 2 + 1] = total_weight;
            }
        }
    }
}
