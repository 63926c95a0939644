//! What comes after the products: the norm's factor, what is added, gates, and writing.
//!
//! A thread of a group writes one product, and has read what will be added to it before the weight
//! was read: one thread after all products would wait for each of them, with nothing else to do.

use cubecl::prelude::*;

use super::{Buffers, MatVec, WAITS_FOR_ADD, low_rank};
use crate::{
    common::{group_totals, over_groups},
    swiglu::gated,
    waits::{LOOKS, announced, is_there, never},
};

/// What a thread has before the weight is read.
#[derive(CubeType)]
pub(super) struct Early {
    adapter: low_rank::Early,
    /// What is added to the product of this thread.
    add: f32,
}

/// Which product is whose, and where it lies.
#[derive(CubeType)]
struct Mine {
    /// The row of the weight.
    row: usize,
    /// The row of `x`.
    m: usize,
    /// Whether there is such a product.
    exists: bool,
}

#[cube]
fn mine(io: &Buffers, first: usize, #[comptime] kernel: MatVec) -> Mine {
    let rows = io.params[0] as usize;
    let thread = UNIT_POS_X as usize % comptime!(kernel.reduce.threads() as usize);
    let number = thread % comptime!(kernel.products());
    let r = number / comptime!(kernel.batch as usize);
    let m = number % comptime!(kernel.batch as usize);
    let mut row = first + r;
    let mut exists = row < rows;
    if comptime!(kernel.takes_gates()) {
        let half = io.params[5] as usize;
        let pair = first / 2 + r / 2;
        row = select(half > 0, pair + r % 2 * half, row);
        exists = select(half > 0, pair < half, exists);
    }
    exists = exists && thread < comptime!(kernel.products()) && m < io.params[2] as usize;
    Mine { row, m, exists }
}

/// Where what is added to a product lies.
#[cube]
fn place_of_added(mine: &Mine, io: &Buffers) -> usize {
    let of_each = (io.params[4] as usize + mine.m) * io.params[0] as usize;
    mine.row + select(io.params[3] & 3 == 2, of_each, 0)
}

/// To be called before the weight is read.
#[cube]
pub(super) fn early(io: &Buffers, first: usize, #[comptime] kernel: MatVec) -> Early {
    let adapter = low_rank::early(io, first, kernel);
    let mut add = 0.0f32;
    // 1 for a bias, 2 for one of each.
    if io.params[3] & 3 != 0 {
        let mine = mine(io, first, kernel);
        if mine.exists {
            add = io.add[place_of_added(&mine, io)];
        }
    }
    Early { adapter, add }
}

/// What is added to the product of this thread, which has looked for it before.
#[cube]
fn added(mine: &Mine, early: &Early, io: &Buffers, #[comptime] kernel: MatVec) -> f32 {
    let mut add = early.add;
    if comptime!(kernel.bytes) {
        let waits = io.params[3] & 3 != 0 && io.params[3] & WAITS_FOR_ADD != 0;
        if waits && mine.exists {
            let mut looks = 0u32.runtime();
            while !is_there(add) && looks < LOOKS {
                add = io.add[place_of_added(mine, io)];
                looks += 1;
            }
            add = select(is_there(add), add, never(looks));
        }
    }
    add
}

/// What the products are multiplied with for the norm of `x`: each thread has summed the squares of
/// what it staged.
#[cube]
pub(super) fn norm_factor(sums: &Array<f32>, io: &Buffers, #[comptime] kernel: MatVec) -> f32 {
    let mut factor = 1.0f32;
    if comptime!(kernel.normed) {
        let groups = comptime!(kernel.groups as usize);
        let mut squares = Array::<f32>::new(1usize);
        squares[0] = sums[comptime!(kernel.products())];
        let total = group_totals(&squares, 1usize, groups, kernel.reduce);
        let mean = over_groups(total, groups, kernel.reduce) / f32::cast_from(io.params[1]);
        factor = 1.0f32 / (mean + f32::reinterpret(io.params[6])).sqrt();
    }
    factor
}

/// What the next thread has, for those with an even number.
#[cube]
fn neighbour(value: f32, #[comptime] kernel: MatVec) -> f32 {
    if comptime!(kernel.reduce.plane().is_some()) {
        plane_shuffle_xor(value, 1u32)
    } else {
        let mut shared = SharedMemory::<f32>::new(comptime!(kernel.threads() as usize));
        shared[UNIT_POS_X as usize] = value;
        sync_cube();
        shared[(UNIT_POS_X ^ 1u32) as usize]
    }
}

/// Adds the groups' sums up, does what comes after the products, and writes.
#[cube]
pub(super) fn finish(
    sums: &mut Array<f32>,
    io: &mut Buffers,
    first: usize,
    early: &Early,
    #[comptime] kernel: MatVec,
) {
    let mine = mine(io, first, kernel);
    if comptime!(kernel.low_rank) {
        low_rank::add(sums, io, first, &early.adapter, kernel);
    }
    let factor = norm_factor(sums, io, kernel);
    leave(sums, factor, io, &mine, early, kernel);
}

/// The same for a launch that knows the norm's factor, and has no adapter.
#[cube]
pub(super) fn finish_with(
    sums: &mut Array<f32>,
    factor: f32,
    io: &mut Buffers,
    first: usize,
    early: &Early,
    #[comptime] kernel: MatVec,
) {
    let mine = mine(io, first, kernel);
    leave(sums, factor, io, &mine, early, kernel);
}

#[cube]
fn leave(
    sums: &Array<f32>,
    factor: f32,
    io: &mut Buffers,
    mine: &Mine,
    early: &Early,
    #[comptime] kernel: MatVec,
) {
    let rows = io.params[0] as usize;
    let x_first = io.params[4] as usize;
    let groups = comptime!(kernel.groups as usize);
    let product = group_totals(sums, comptime!(kernel.products()), groups, kernel.reduce);
    let sum = product * factor + added(mine, early, io, kernel);
    if comptime!(kernel.takes_gates()) {
        let half = io.params[5] as usize;
        let up = neighbour(sum, kernel);
        if mine.exists {
            if half == 0 {
                io.out[x_first * rows + mine.row] = announced(sum);
            } else if mine.row < half {
                io.out[x_first * half + mine.row] = announced(gated(sum, up));
            }
        }
    } else if mine.exists {
        io.out[(x_first + mine.m) * rows + mine.row] = announced(sum);
    }
}
