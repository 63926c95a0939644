//! Weights of plain f32 or f16, read four values at a time. (Words of two halves, taken apart by
//! reinterpretation, would allow wider loads, but naga's WGSL cannot express that.)

use cubecl::prelude::*;

use super::{Buffers, MatVec, ends, first_row, row_starts, zeros};
use crate::common::{F4, dot4};

/// Loads of the weight that a thread has under way for each row.
const AHEAD: usize = 4;

/// Reads vectors of every row, from place `step` of the tile that begins at `from`. A place behind the
/// end reads the last one, and is not used.
#[cube]
fn read<W: Float>(
    weight: &Array<Vector<W, Const<4>>>,
    starts: &Sequence<usize>,
    from: usize,
    step: usize,
    last: usize,
    held: &mut Array<Vector<W, Const<4>>>,
    #[comptime] kernel: MatVec,
) {
    let threads = comptime!(kernel.reduce.threads() as usize);
    let lane = UNIT_POS_X as usize % threads;
    #[unroll]
    for a in 0..comptime!(AHEAD) {
        let v = from + min((step + a) * threads + lane, last);
        #[unroll]
        for r in 0..comptime!(kernel.rows as usize) {
            held[comptime!(a * kernel.rows as usize + r)] = weight[starts[r] + v];
        }
    }
}

#[cube]
fn matvec<W: Float>(
    weight: &Array<Vector<W, Const<4>>>,
    io: &mut Buffers,
    #[comptime] kernel: MatVec,
) {
    let batch_max = comptime!(kernel.batch as usize);
    let row_count = comptime!(kernel.rows as usize);
    let threads = comptime!(kernel.reduce.threads() as usize);

    let vectors = io.params[1] as usize / 4;
    let batch = io.params[2] as usize;
    let x_first = io.params[4] as usize;
    let lane = UNIT_POS_X as usize % threads;
    let first = first_row(io, kernel);
    let early = ends::early(io, first, kernel);

    let mut sums = zeros(kernel);
    let starts = row_starts(first, vectors, io, kernel);
    let mut held = Array::<Vector<W, Const<4>>>::new(comptime!(AHEAD * kernel.rows as usize));
    let steps = (vectors + threads - 1) / threads;
    let mut step = 0usize.runtime();
    while step < steps {
        read::<W>(weight, &starts, 0usize, step, vectors - 1, &mut held, kernel);
        #[unroll]
        for a in 0..comptime!(AHEAD) {
            let place = (step + a) * threads + lane;
            if place < vectors {
                #[unroll]
                for m in 0..batch_max {
                    let part = io.x[(x_first + min(m, batch - 1)) * vectors + place];
                    #[unroll]
                    for r in 0..row_count {
                        let w = F4::cast_from(held[comptime!(a * kernel.rows as usize + r)]);
                        sums[comptime!(r * kernel.batch as usize + m)] += dot4(w, part);
                    }
                }
            }
        }
        step += comptime!(AHEAD);
    }
    ends::finish(&mut sums, io, first, &early, kernel);
}

/// Vectors of `x` in shared memory at a time.
const TILE: usize = 512;

/// One row of `x`, through a norm.
#[cube]
fn normed_matvec<W: Float>(
    weight: &Array<Vector<W, Const<4>>>,
    io: &mut Buffers,
    #[comptime] kernel: MatVec,
) {
    let threads = comptime!(kernel.reduce.threads() as usize);
    let vectors = io.params[1] as usize / 4;
    let x_first = io.params[4] as usize * vectors;
    let lane = UNIT_POS_X as usize % threads;
    let first = first_row(io, kernel);
    let early = ends::early(io, first, kernel);

    let mut sums = zeros(kernel);
    let starts = row_starts(first, vectors, io, kernel);
    let mut held = Array::<Vector<W, Const<4>>>::new(comptime!(AHEAD * kernel.rows as usize));
    let mut shared = SharedMemory::<F4>::new(TILE);
    let mut from = 0usize.runtime();
    while from < vectors {
        let count = min(vectors - from, TILE);
        // The first ones are on their way while `x` is staged.
        read::<W>(weight, &starts, from, 0usize, count - 1, &mut held, kernel);
        sync_cube();
        let mut v = UNIT_POS_X as usize;
        while v < count {
            let value = io.x[x_first + from + v];
            sums[comptime!(kernel.products())] += dot4(value, value);
            shared[v] = value * io.gain[from + v];
            v += comptime!(kernel.threads() as usize);
        }
        sync_cube();
        let steps = (count + threads - 1) / threads;
        let mut step = 0usize.runtime();
        while step < steps {
            #[unroll]
            for a in 0..comptime!(AHEAD) {
                let place = (step + a) * threads + lane;
                if place < count {
                    let part = shared[place];
                    #[unroll]
                    for r in 0..comptime!(kernel.rows as usize) {
                        let w = F4::cast_from(held[comptime!(a * kernel.rows as usize + r)]);
                        sums[r] += dot4(w, part);
                    }
                }
            }
            step += comptime!(AHEAD);
            if step < steps {
                read::<W>(weight, &starts, from, step, count - 1, &mut held, kernel);
            }
        }
        from += TILE;
    }
    ends::finish(&mut sums, io, first, &early, kernel);
}

#[cube]
pub(super) fn product<W: Float>(
    weight: &Array<Vector<W, Const<4>>>,
    io: &mut Buffers,
    #[comptime] kernel: MatVec,
) {
    if comptime!(kernel.normed) {
        normed_matvec::<W>(weight, io, kernel);
    } else {
        matvec::<W>(weight, io, kernel);
    }
}
