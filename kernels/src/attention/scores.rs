//! Scores, and the weights that they become: what keys weigh, with the best score so far as the zero.

use cubecl::prelude::*;

use super::{LOWEST, decode::Decode, layout::holds, visible};
use crate::common::{F4, keep, share_out, take};

/// Sums each of `values` (rows by keys ahead) over the threads that share a key. Its first ones are then
/// those that the thread holds: see [`Decode::holder`].
#[cube]
pub(super) fn lane_sums(
    values: &mut Array<f32>,
    shared: &mut SharedMemory<f32>,
    #[comptime] kernel: Decode,
) {
    let lanes = comptime!(kernel.lanes());
    if comptime!(kernel.reduce.plane().is_some()) {
        // Halves change places: a thread goes on with half of the values, so that all of them take about
        // as many exchanges as there are, not as many for each step.
        let steps = comptime!(lanes.ilog2());
        let mut sums = Sequence::<Sequence<f32>>::new();
        sums.push(take(values, kernel.scores()));
        #[unroll]
        for step in 0..steps {
            let (left, mask) = comptime!((kernel.left(step), lanes >> (step + 1)));
            sums.push(share_out(sums.index(comptime!(step as usize)), left, 1usize, mask));
        }
        keep(sums.index(comptime!(steps as usize)), values);
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

/// Takes back the products of a thread that has no piece of a key.
#[cube]
pub(super) fn leave_idle(
    sums: &mut Array<f32>,
    lane: usize,
    #[comptime] count: usize,
    #[comptime] kernel: Decode,
) {
    if comptime!(kernel.has_idle_lanes()) {
        let factor = select(holds(lane, kernel), 1.0f32, 0.0f32);
        #[unroll]
        for i in 0..count {
            sums[i] *= factor;
        }
    }
}

/// Adds the products of four values, one after the other: as many instructions as there are.
#[cube]
pub(super) fn add_product(sum: f32, a: F4, b: F4) -> f32 {
    let mut sum = sum;
    #[unroll]
    for i in 0..4usize {
        sum += a[i] * b[i];
    }
    sum
}

/// Makes scores of the first `count` products.
#[cube]
pub(super) fn cap(scores: &mut Array<f32>, params: &Array<u32>, #[comptime] count: usize) {
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
pub(super) fn of_holder(value: f32, #[comptime] i: usize, #[comptime] kernel: Decode) -> f32 {
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
pub(super) struct Mine {
    /// The first key that a row sees, and the first one after those.
    first: Sequence<u32>,
    end: Sequence<u32>,
    /// The best score so far.
    pub(super) best: Array<f32>,
    /// The first one of them, of those of the cube.
    pub(super) row: usize,
    /// Which of the keys ahead its first score is of.
    ahead: usize,
}

/// The position of a row of a key/value head, which has `per_kv_head` of each.
#[cube]
pub(super) fn position_of(row: usize, per_kv_head: usize, #[comptime] kernel: Decode) -> usize {
    // Where queries are turned there is one position.
    let mut position = 0usize.runtime();
    if comptime!(!kernel.rotary) {
        position = row / per_kv_head;
    }
    position
}

#[cube]
pub(super) fn mine(
    params: &Array<u32>,
    padding: &Array<u32>,
    sequence: usize,
    per_kv_head: usize,
    first_row: usize,
    last_row: usize,
    #[comptime] kernel: Decode,
) -> Mine {
    let rows = comptime!(kernel.rows_held());
    let mut first = Sequence::<u32>::new();
    let mut end = Sequence::<u32>::new();
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
        let position = position_of(row, per_kv_head, kernel);
        let seen = visible(params, padding, sequence, position);
        first.push(seen.0);
        end.push(seen.1);
        best[r] = LOWEST;
    }
    Mine { first, end, best, row: mine, ahead: score % comptime!(kernel.ahead()) }
}

/// Makes weights of the scores that a thread holds, of keys from `key` on that are `stride` apart.
#[cube]
pub(super) fn weigh(
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
