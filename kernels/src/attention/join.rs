//! The groups of a cube saw different keys: their results joined.
//!
//! Within a plane by exchanging halves: a group of threads goes on with a share of the rows, so that
//! each plane leaves one result in shared memory, where all of them are added up. Without plane
//! operations every group leaves one there.

use cubecl::prelude::*;

use super::{
    LOWEST,
    decode::Decode,
    layout::{VECTORS, holds},
};
use crate::common::{F4, share_out};

/// What a thread has found for its rows: its values of the unnormalised result, maximum and sum.
#[derive(CubeType)]
pub(super) struct Held {
    pub(super) maximum: Array<f32>,
    pub(super) sum: Array<f32>,
    /// By row, as many as [`VECTORS`] says.
    pub(super) vectors: Array<F4>,
}

#[cube]
pub(super) fn empty(#[comptime] kernel: Decode) -> Held {
    let rows = comptime!(kernel.rows as usize);
    let mut maximum = Array::<f32>::new(rows);
    let mut sum = Array::<f32>::new(rows);
    let mut vectors = Array::<F4>::new(comptime!(rows * VECTORS));
    #[unroll]
    for r in 0..rows {
        maximum[r] = LOWEST;
        sum[r] = 0.0f32;
    }
    #[unroll]
    for i in 0..comptime!(rows * VECTORS) {
        vectors[i] = F4::new(0.0f32);
    }
    Held { maximum, sum, vectors }
}

/// Takes `best` for the maximum of a row.
#[cube]
pub(super) fn scale(held: &mut Held, #[comptime] row: usize, best: f32) {
    let keep = (held.maximum[row] - best).exp();
    held.maximum[row] = best;
    held.sum[row] *= keep;
    #[unroll]
    for i in 0..VECTORS {
        held.vectors[comptime!(row * VECTORS + i)] *= F4::new(keep);
    }
}

/// Values of a row that threads exchange: its sum, and those of its vectors.
const EACH: usize = 1 + 4 * VECTORS;

impl Decode {
    /// Groups of a plane; one, where threads exchange through shared memory.
    const fn groups_in_step(self) -> u32 {
        match self.reduce.plane() {
            Some(threads) => threads / self.lanes(),
            None => 1,
        }
    }

    /// Results that meet in shared memory.
    const fn meeting(self) -> u32 {
        self.groups() as u32 / self.groups_in_step()
    }

    /// Rows that a group is left with after exchanging.
    const fn rows_left(self) -> u32 {
        let left = self.rows / self.groups_in_step();
        if left == 0 { 1 } else { left }
    }
}

/// Bytes of shared memory at most that results of planes meet in.
const MEETING: u32 = 16 << 10;

/// Rows that are joined at a time: a vector for each thread.
pub(super) const fn rows_at_once(kernel: Decode) -> usize {
    let fit = kernel.threads() / (kernel.dim / 4);
    let room = match kernel.reduce.plane() {
        Some(_) => MEETING / (kernel.meeting() * kernel.dim * 4),
        // Every group leaves a result: more rows would take shared memory that other cubes need.
        None => 2,
    };
    let fit = if fit < room { fit } else { room };
    let fit = if fit == 0 { 1 } else { 1 << fit.ilog2() };
    if fit < kernel.rows { fit as usize } else { kernel.rows as usize }
}

/// A vector of the joined result of a row, for the thread that writes it.
#[derive(CubeType)]
pub(super) struct Joined {
    /// The row, of those of the cube.
    pub(super) row: usize,
    pub(super) vector: usize,
    pub(super) exists: bool,
    pub(super) value: F4,
    pub(super) maximum: f32,
    pub(super) sum: f32,
}

/// Joins the groups of a plane. Its group `g` is left with the rows from `g · rows / groups` on.
#[cube]
pub(super) fn join_planes(held: &mut Held, #[comptime] kernel: Decode) {
    let rows = comptime!(kernel.rows as usize);
    let groups = comptime!(kernel.groups_in_step());
    if comptime!(groups > 1) {
        let mut values = Sequence::<f32>::new();
        #[unroll]
        for r in 0..rows {
            let mut best = held.maximum[r];
            #[unroll]
            for bit in 0..comptime!(groups.ilog2()) {
                best = max(best, plane_shuffle_xor(best, comptime!(kernel.lanes() << bit)));
            }
            scale(held, r, best);
            values.push(held.sum[r]);
            #[unroll]
            for i in 0..comptime!(4 * VECTORS) {
                values.push(held.vectors[comptime!(r * VECTORS + i / 4)][comptime!(i % 4)]);
            }
        }
        let steps = comptime!(groups.ilog2());
        let mut shared = Sequence::<Sequence<f32>>::new();
        shared.push(values);
        #[unroll]
        for step in 0..steps {
            let left = comptime!(if rows >> step == 0 { 1 } else { rows >> step });
            let mask = comptime!((kernel.lanes() * groups) >> (step + 1));
            shared.push(share_out(shared.index(comptime!(step as usize)), left, EACH, mask));
        }
        let values = shared.index(comptime!(steps as usize));
        #[unroll]
        for r in 0..comptime!(kernel.rows_left() as usize) {
            held.sum[r] = values[comptime!(r * EACH)];
            #[unroll]
            for v in 0..VECTORS {
                let mut vector = F4::new(0.0f32);
                #[unroll]
                for i in 0..4usize {
                    vector[i] = values[comptime!(r * EACH + 1 + 4 * v + i)];
                }
                held.vectors[comptime!(r * VECTORS + v)] = vector;
            }
        }
    }
}

/// Where what planes, or groups, have found comes together.
#[derive(CubeType)]
pub(super) struct Meeting {
    vectors: SharedMemory<F4>,
    maxima: SharedMemory<f32>,
    sums: SharedMemory<f32>,
}

#[cube]
pub(super) fn meeting(#[comptime] kernel: Decode) -> Meeting {
    let rows = comptime!(kernel.meeting() as usize * rows_at_once(kernel));
    Meeting {
        vectors: SharedMemory::<F4>::new(comptime!(rows * kernel.dim as usize / 4)),
        maxima: SharedMemory::<f32>::new(rows),
        sums: SharedMemory::<f32>::new(rows),
    }
}

/// Joins what the planes, or groups, of a cube have found for the rows of one turn.
#[cube]
pub(super) fn join(
    held: &Held,
    meeting: &mut Meeting,
    params: &Array<u32>,
    #[comptime] turn: usize,
    #[comptime] kernel: Decode,
) -> Joined {
    let at_once = comptime!(rows_at_once(kernel));
    let vectors_of_row = comptime!(kernel.dim as usize / 4);
    let lanes = comptime!(kernel.lanes() as usize);
    let in_step = comptime!(kernel.groups_in_step() as usize);

    let thread = UNIT_POS_X as usize;
    let lane = thread % lanes;
    let group = thread / lanes % in_step;
    let party = thread / comptime!(lanes * in_step);
    // Of groups with the same row one leaves it.
    let sharing = comptime!((kernel.groups_in_step() / kernel.rows).max(1) as usize);
    let leaves = group % sharing == 0;
    if comptime!(turn > 0) {
        // The rows before have been read.
        sync_cube();
    }
    #[unroll]
    for i in 0..comptime!(kernel.rows_left() as usize) {
        let row = group * comptime!(kernel.rows as usize) / in_step + i;
        if leaves && row >= comptime!(turn * at_once) && row < comptime!((turn + 1) * at_once) {
            let at = party * at_once + row % at_once;
            if holds(lane, kernel) {
                let first = at * vectors_of_row + lane * 2;
                #[unroll]
                for v in 0..VECTORS {
                    meeting.vectors[first + v] = held.vectors[comptime!(i * VECTORS + v)];
                }
            }
            if lane == 0 {
                meeting.sums[at] = held.sum[i];
            }
        }
    }
    // The same for all groups of a plane.
    if group == 0 && lane == 0 {
        #[unroll]
        for i in 0..at_once {
            meeting.maxima[party * at_once + i] = held.maximum[comptime!(turn * at_once + i)];
        }
    }
    sync_cube();
    let i = thread / vectors_of_row;
    let vector = thread % vectors_of_row;
    let exists = i < at_once;
    let mut value = F4::new(0.0f32);
    let mut maximum = f32::new(LOWEST);
    let mut sum = 0.0f32;
    if exists {
        // As many as there are, but not for the compiler, which would unroll the loops over them: each
        // launch comes there once, and would wait for instructions.
        let all = comptime!(kernel.meeting() as usize) + (params[4] >> 31) as usize;
        for party in 0..all {
            maximum = max(maximum, meeting.maxima[party * at_once + i]);
        }
        for party in 0..all {
            let at = party * at_once + i;
            let weight = (meeting.maxima[at] - maximum).exp();
            sum += meeting.sums[at] * weight;
            value += meeting.vectors[at * vectors_of_row + vector] * F4::new(weight);
        }
    }
    Joined { row: i + comptime!(turn * at_once), vector, exists, value, maximum, sum }
}
