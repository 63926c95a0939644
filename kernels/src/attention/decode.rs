//! One part of the keys: scores, and what they weigh.
//!
//! A key is read by neighbouring threads, 8 values each, 16 bytes at a time: with loads of 8 all takes a fifth
//! longer on an H200. They meet the query rows, which lie in shared memory ([`stage`]); of each row's result a
//! thread holds as many values. The partial products are added by exchange within a plane, or through shared
//! memory. In a plane every thread is left with some of the sums, makes weights of them, and hands these on: so
//! each is made once.
//!
//! Threads could have twice as many values of half as many keys, and exchange less. But what they hold of
//! results takes twice the registers then, so that half as many threads lie on a processor; those read keys while
//! others wait for queries.
//!
//! Buffers: q `[batch, len, heads, dim]`; if it turns them ([`Decode::rotary`]), what [`Rotary`] says;
//! keys, values `[batch, kv_heads, capacity, dim]`, padding `[batch]`, `params`; for each row and part
//! its unnormalised vector, and its maximum and sum; if it turns, keys and values again, to be written.
//! One part of all keys is the result: nothing is left to merge.

use cubecl::prelude::*;
use half::f16;

use super::{
    join,
    keys::{Keys, read, vector},
    layout::{VECTORS, offset},
    rotary::{self, Rotary},
    scores::{Mine, add_product, cap, lane_sums, leave_idle, mine, of_holder, weigh},
    staged::{Rows, Staged, newest_key, newest_value, query, stage},
};
use crate::{
    Needs, Reduce, Wait,
    common::{Builder, F4, U4, keep, share_out, take},
    waits::{announced, announced4},
};

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

    /// For queries, and the newest key and value, by bits beside [`super::Params::angles_per_sequence`].
    pub(crate) const fn waits(self) -> &'static [Wait] {
        const ALL: [Wait; 3] = [
            Wait { buffer: 0, word: 13, bit: rotary::WAITS_FOR_Q },
            Wait { buffer: 1, word: 13, bit: rotary::WAITS_FOR_K },
            Wait { buffer: 2, word: 13, bit: rotary::WAITS_FOR_V },
        ];
        if self.rotary { &ALL } else { &[] }
    }

    /// The place of the vectors, which are the result of a single part. Their ends are behind them.
    pub(crate) fn announces(self) -> usize {
        5 + 4 * usize::from(self.rotary)
    }

    pub(crate) fn define(self) -> KernelDefinition {
        if self.f16 { self.define_as::<f16>() } else { self.define_as::<f32>() }
    }

    fn define_as<C: Float>(self) -> KernelDefinition {
        let mut b = Builder::new();
        let q = b.input::<F4>();
        let turning = self.rotary.then(|| [(); 4].map(|()| b.input::<F4>()));
        let [keys, values] = [(); 2].map(|()| b.input::<U4>());
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

/// The group of the newest key begins with it, for it is in no cache yet.
#[cube]
fn begin(
    held: &mut join::Held,
    mine: &mut Mine,
    staged: &Staged,
    lane: usize,
    shared: &mut SharedMemory<f32>,
    params: &Array<u32>,
    begins: bool,
    #[comptime] kernel: Decode,
) {
    let rows = comptime!(kernel.rows as usize);
    let offset = offset(lane, kernel);
    let mut scores = Array::<f32>::new(rows);
    #[unroll]
    for r in 0..rows {
        let mut sum = 0.0f32;
        #[unroll]
        for i in 0..VECTORS {
            let at = offset + i;
            let key = newest_key(staged, at, kernel);
            sum = add_product(sum, query(staged, r, at, kernel), key);
        }
        scores[r] = sum;
    }
    leave_idle(&mut scores, lane, rows, kernel);
    if comptime!(kernel.reduce.plane().is_some()) {
        let steps = comptime!(kernel.lanes().ilog2());
        let mut sums = Sequence::<Sequence<f32>>::new();
        sums.push(take(&scores, rows));
        #[unroll]
        for bit in 0..steps {
            let mask = comptime!(1u32 << bit);
            sums.push(share_out(sums.index(comptime!(bit as usize)), 1usize, rows, mask));
        }
        keep(sums.index(comptime!(steps as usize)), &mut scores);
    } else {
        lane_sums(&mut scores, shared, kernel);
    }
    cap(&mut scores, params, rows);
    if begins {
        #[unroll]
        for r in 0..rows {
            held.maximum[r] = scores[r];
            held.sum[r] = 1.0f32;
            #[unroll]
            for i in 0..VECTORS {
                let at = offset + i;
                held.vectors[comptime!(r * VECTORS + i)] = newest_value(staged, at, kernel);
            }
            // Which rows a thread has is not known before it runs.
            #[unroll]
            for h in 0..comptime!(kernel.rows_held()) {
                mine.best[h] = select(mine.row + h == r, scores[r], mine.best[h]);
            }
        }
    }
}

#[cube]
fn decode<C: Float>(
    q: &Array<F4>,
    io: &mut Rotary<C>,
    keys: &Array<U4>,
    values: &Array<U4>,
    padding: &Array<u32>,
    params: &Array<u32>,
    parts: &mut Array<F4>,
    ends: &mut Array<f32>,
    #[comptime] kernel: Decode,
) {
    let rows = comptime!(kernel.rows as usize);
    let lanes = comptime!(kernel.lanes() as usize);
    let groups = comptime!(kernel.groups());
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
    let offset = offset(lane, kernel);

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
    let ahead = comptime!(kernel.ahead());
    let mut k = Array::<U4>::new(comptime!(ahead * kernel.pieces()));
    let mut v = Array::<U4>::new(comptime!(ahead * kernel.pieces()));
    // The first ones are on their way while queries are.
    read(keys, &mut k, &seen, from + group, offset, kernel);
    read(values, &mut v, &seen, from + group, offset, kernel);

    // One cube of all that have the newest key's turn writes it, and one group begins with it.
    let has_newest = comptime!(kernel.rotary) && total > from && total <= from + part;
    let of_cube = Rows {
        sequence,
        kv_head,
        first: chunk * rows,
        last: row_count - 1,
        has_newest,
        writes_newest: has_newest && chunk == 0,
    };
    let staged = stage::<C>(q, io, params, &of_cube, &seen, kernel);
    let mut mine =
        mine(params, padding, sequence, per_kv_head, chunk * rows, row_count - 1, kernel);

    let mut shared = SharedMemory::<f32>::new(comptime!(if kernel.reduce.plane().is_some() {
        1
    } else {
        rows * kernel.threads() as usize
    }));
    let mut held = join::empty(kernel);
    if comptime!(kernel.rotary) {
        let begins = has_newest && group == 0;
        if comptime!(kernel.reduce.plane().is_some()) {
            if has_newest {
                begin(&mut held, &mut mine, &staged, lane, &mut shared, params, begins, kernel);
            }
        } else {
            // Threads meet there: as many times in every cube.
            begin(&mut held, &mut mine, &staged, lane, &mut shared, params, begins, kernel);
        }
    }
    // As many steps for every thread: they exchange within the loop.
    let stride = comptime!(groups * kernel.ahead());
    let steps = (max(seen.to, from) - from + comptime!(stride - 1)) / stride;
    for step in 0..steps {
        let at = from + step * stride + group;
        let mut scores = Array::<f32>::new(comptime!(kernel.scores()));
        #[unroll]
        for i in 0..comptime!(kernel.scores()) {
            scores[i] = 0.0f32;
        }
        #[unroll]
        for i in 0..VECTORS {
            let at = offset + i;
            let mut queries = Sequence::<F4>::new();
            #[unroll]
            for r in 0..rows {
                queries.push(query(&staged, r, at, kernel));
            }
            #[unroll]
            for a in 0..ahead {
                let key = vector(&k, a, i, kernel);
                #[unroll]
                for r in 0..rows {
                    let score = comptime!(r * ahead + a);
                    scores[score] = add_product(scores[score], queries[r], key);
                }
            }
        }
        leave_idle(&mut scores, lane, comptime!(kernel.scores()), kernel);
        // The next ones are on their way while these are weighed.
        if step + 1 < steps {
            read(keys, &mut k, &seen, at + stride, offset, kernel);
        }
        lane_sums(&mut scores, &mut shared, kernel);
        cap(&mut scores, params, comptime!(kernel.held()));
        weigh(&mut scores, &mut mine, at, groups, seen.to, kernel);
        #[unroll]
        for r in 0..rows {
            // What is held is scaled once for all keys at hand.
            let row = comptime!(r * ahead % kernel.held() / ahead);
            let best = of_holder(mine.best[row], comptime!(r * ahead), kernel);
            join::scale(&mut held, r, best);
        }
        #[unroll]
        for a in 0..ahead {
            let mut weights = Sequence::<f32>::new();
            #[unroll]
            for r in 0..rows {
                let i = comptime!(r * ahead + a);
                let weight = of_holder(scores[comptime!(i % kernel.held())], i, kernel);
                held.sum[r] += weight;
                weights.push(weight);
            }
            #[unroll]
            for i in 0..VECTORS {
                let value = vector(&v, a, i, kernel);
                #[unroll]
                for r in 0..rows {
                    held.vectors[comptime!(r * VECTORS + i)] += value * F4::new(weights[r]);
                }
            }
        }
        if step + 1 < steps {
            read(values, &mut v, &seen, at + stride, offset, kernel);
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
            parts[place * comptime!(dim / 4) + mine.vector] = announced4(value);
            if mine.vector == 0 {
                ends[place * 2] = announced(mine.maximum);
                ends[place * 2 + 1] = announced(mine.sum);
            }
        }
    }
}
