//! What an adapter adds to the product of one row (Hu et al., LoRA, 2021), in the launch of that
//! product: `out[r] += Σ_j b[r, j] · h[j]` with `h = a · x`.
//!
//! Launches of their own for `a` and `b` would cost far more than reading them. So the first cubes
//! of the launch compute a value of `h` each and leave it in a *cell*, while the others read the
//! weight. These take `h` from the cells when they come to it. Nothing says that the first cubes run
//! first, or at the same time: a thread that finds a cell empty for too long computes the value
//! itself, in the same order of operations, so that the result is the same.
//!
//! A cell holds the bits of its value and is empty at 0 (a value of zero is left as -0), so that
//! whoever sees it sees all of it. Launches take turns between two halves of the cells: each clears
//! the half that the next one will use.

use cubecl::prelude::*;

use super::{Buffers, MatVec, row_at};
use crate::common::{F4, half_bits};

/// The largest rank of a launch; also the cells in each half.
pub const MAX_RANK: u32 = 256;
/// Looks at an empty cell before its value is computed again: some hundred microseconds.
const LOOKS: u32 = 1024;
/// Vectors of a row of `a` that a thread has under way.
const AHEAD: usize = 4;

/// The adapter of one launch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LowRank {
    /// Rows of `a`, columns of `b`, of all layers of the matrix and all adapters together: see
    /// [`LowRank::fits`].
    pub rank: u32,
    /// Whether `a` and `b` are f16, instead of f32.
    pub f16: bool,
    /// Which half of the cells it is the turn of.
    pub second_half: bool,
}

impl LowRank {
    /// Bytes of the cells, which are zero before the first launch.
    pub const CELL_BYTES: usize = 2 * MAX_RANK as usize * size_of::<u32>();

    /// Whether kernels take a `b` of `[rows, rank]`: they read whole words.
    pub const fn fits(rank: usize, rows: usize, f16: bool) -> bool {
        0 < rank && rank <= MAX_RANK as usize && (!f16 || (rows * rank).is_multiple_of(2))
    }

    pub(super) fn words(self) -> [u32; 3] {
        [self.rank, u32::from(self.f16), u32::from(self.second_half) * MAX_RANK]
    }
}

/// The cubes that make `h`.
#[cube]
pub(super) fn rank(io: &Buffers) -> usize {
    io.params[7] as usize
}

/// The product of four values of `a` in `held` and four of `x`.
#[cube]
fn dot(held: &Array<u32>, x: F4, #[comptime] at: usize, #[comptime] f16: bool) -> f32 {
    let mut sum = 0.0f32;
    #[unroll]
    for i in 0..4usize {
        let value = if comptime!(f16) {
            half_bits(held[comptime!(at + i / 2)] >> comptime!(i as u32 % 2 * 16))
        } else {
            f32::reinterpret(held[comptime!(at + i)])
        };
        sum += value * x[i];
    }
    sum
}

/// What one thread of a cube adds to a value of `h`.
#[cube]
fn part(
    io: &Buffers,
    row: usize,
    thread: usize,
    #[comptime] f16: bool,
    #[comptime] ahead: usize,
    #[comptime] kernel: MatVec,
) -> f32 {
    let threads = comptime!(kernel.threads() as usize);
    let each = comptime!(if f16 { 2usize } else { 4usize });
    let vectors = io.params[1] as usize / 4;
    let x_first = io.params[4] as usize * vectors;
    let mut held = Array::<u32>::new(comptime!(ahead * each));
    let mut seen = Array::<F4>::new(ahead);
    let mut sum = 0.0f32;
    let mut v = thread;
    while v < vectors {
        #[unroll]
        for i in 0..ahead {
            let place = min(v + i * threads, vectors - 1);
            #[unroll]
            for w in 0..each {
                held[comptime!(i * each + w)] = io.a[(row * vectors + place) * each + w];
            }
            let mut value = io.x[x_first + place];
            if comptime!(kernel.normed) {
                value *= io.gain[place];
            }
            seen[i] = value;
        }
        #[unroll]
        for i in 0..ahead {
            if v + i * threads < vectors {
                sum += dot(&held, seen[i], comptime!(i * each), f16);
            }
        }
        v += comptime!(ahead * threads);
    }
    sum
}

/// [`part`] of either type.
#[cube]
fn any_part(
    io: &Buffers,
    row: usize,
    thread: usize,
    #[comptime] ahead: usize,
    #[comptime] kernel: MatVec,
) -> f32 {
    if io.params[8] == 1 {
        part(io, row, thread, true, ahead, kernel)
    } else {
        part(io, row, thread, false, ahead, kernel)
    }
}

/// Sums of a cube's threads that are made at the same time.
const SUMS: usize = 8;

/// The work of the cubes that make `h`, which end there; nothing in the others.
#[cube]
pub(super) fn first_cubes(io: &Buffers, #[comptime] kernel: MatVec) {
    if comptime!(kernel.low_rank) {
        if CUBE_POS < rank(io) {
            leave(io, kernel);
            terminate!();
        }
    }
}

/// One value of `h`, by all threads of a cube.
#[cube]
fn leave(io: &Buffers, #[comptime] kernel: MatVec) {
    let threads = comptime!(kernel.threads() as usize);
    let thread = UNIT_POS_X as usize;
    let row = CUBE_POS;
    let mine = io.params[9] as usize;
    let mut parts = SharedMemory::<f32>::new(threads);
    let mut sums = SharedMemory::<f32>::new(SUMS);
    parts[thread] = any_part(io, row, thread, AHEAD, kernel);
    if row == 0 {
        let others = comptime!(MAX_RANK as usize) - mine;
        let mut cell = thread;
        while cell < comptime!(MAX_RANK as usize) {
            io.cells[others + cell].store(0u32);
            cell += threads;
        }
    }
    sync_cube();
    if thread < SUMS {
        let mut sum = 0.0f32;
        #[unroll]
        for i in 0..comptime!(threads / SUMS) {
            sum += parts[thread + i * SUMS];
        }
        sums[thread] = sum;
    }
    sync_cube();
    if thread == 0 {
        let mut sum = 0.0f32;
        #[unroll]
        for i in 0..SUMS {
            sum += sums[i];
        }
        let bits = u32::reinterpret(sum);
        io.cells[mine + row].store(select(bits == 0, 0x8000_0000u32, bits));
    }
}

/// One value of `h`, for one thread, which has looked into its cell before.
#[cube]
fn take(io: &Buffers, row: usize, seen: u32, #[comptime] kernel: MatVec) -> f32 {
    let cell = io.params[9] as usize + row;
    let mut bits = seen;
    let mut looks = 0u32.runtime();
    while bits == 0 && looks < LOOKS {
        bits = io.cells[cell].load();
        looks += 1;
    }
    let mut value = f32::reinterpret(bits);
    if bits == 0 {
        value = 0.0f32;
        for i in 0..SUMS {
            let mut sum = 0.0f32;
            let mut thread = i;
            while thread < comptime!(kernel.threads() as usize) {
                sum += any_part(io, row, thread, 1usize, kernel);
                thread += SUMS;
            }
            value += sum;
        }
    }
    value
}

/// The word of `b` with its value `i`.
#[cube]
fn word_of_b(io: &Buffers, i: usize) -> u32 {
    io.b[i >> io.params[8] as usize]
}

/// Value `i` of `b`, in its word.
#[cube]
fn value_of_b(io: &Buffers, word: u32, i: usize) -> f32 {
    if io.params[8] == 1 { half_bits(word >> (i as u32 % 2 * 16)) } else { f32::reinterpret(word) }
}

/// What a thread reads of the adapter before it reads the weight: that is there when the weight is
/// read, and `h` too, in most cubes of a large matrix.
#[derive(CubeType)]
pub(super) struct Early {
    /// One, if there is an adapter.
    cells: Sequence<u32>,
    /// A word for each row of the group.
    b: Sequence<u32>,
}

#[cube]
pub(super) fn early(io: &Buffers, first_row: usize, #[comptime] kernel: MatVec) -> Early {
    let mut cells = Sequence::<u32>::new();
    let mut b = Sequence::<u32>::new();
    if comptime!(kernel.low_rank) {
        let rank = rank(io);
        // Threads behind the end read the last one, and do not use it.
        let j = min(UNIT_POS_X as usize % comptime!(kernel.reduce.threads() as usize), rank - 1);
        cells.push(io.cells[io.params[9] as usize + j].load());
        #[unroll]
        for r in 0..comptime!(kernel.rows as usize) {
            b.push(word_of_b(io, row_at(first_row, io, r, kernel) * rank + j));
        }
    }
    Early { cells, b }
}

/// Adds what the adapter gives to each row of a group: a thread's part of it to that thread's sum.
#[cube]
pub(super) fn add(
    sums: &mut Array<f32>,
    io: &Buffers,
    first_row: usize,
    early: &Early,
    #[comptime] kernel: MatVec,
) {
    let rank = rank(io);
    let threads = comptime!(kernel.reduce.threads() as usize);
    let mut j = UNIT_POS_X as usize % threads;
    if j < rank {
        let h = take(io, j, *early.cells.index(0usize), kernel);
        #[unroll]
        for r in 0..comptime!(kernel.rows as usize) {
            let i = row_at(first_row, io, r, kernel) * rank + j;
            sums[r] += value_of_b(io, *early.b.index(r), i) * h;
        }
    }
    j += threads;
    while j < rank {
        let h = take(io, j, 0u32, kernel);
        #[unroll]
        for r in 0..comptime!(kernel.rows as usize) {
            let i = row_at(first_row, io, r, kernel) * rank + j;
            sums[r] += value_of_b(io, word_of_b(io, i), i) * h;
        }
        j += threads;
    }
}
