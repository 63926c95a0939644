//! Weights in blocks.

use cubecl::{
    ir::{ManagedVariable, Scope},
    prelude::*,
};

use super::{MatVec, PADDED, TILE, finish, first_row};
use crate::{
    blocks::{PIECE, decode, run_start},
    common::F4,
};

/// Stages columns `from..from + count` of every row of `x`.
#[cube]
fn stage(
    shared: &mut SharedMemory<F4>,
    x: &Array<F4>,
    columns: usize,
    from: usize,
    count: usize,
    batch: usize,
    #[comptime] kernel: MatVec,
) {
    let tile = comptime!(TILE / kernel.batch as usize);
    sync_cube();
    #[unroll]
    for m in 0..comptime!(kernel.batch as usize) {
        let base = (min(m, batch - 1) * columns + from) / 4;
        let mut v = UNIT_POS_X as usize;
        while v < count / 4 {
            let place = (v / 8) * comptime!(PADDED / 4) + v % 8;
            shared[comptime!(m * tile / PIECE * PADDED / 4) + place] = x[base + v];
            v += comptime!(kernel.threads() as usize);
        }
    }
    sync_cube();
}

#[cube]
fn matvec(
    weight: &Array<u32>,
    x: &Array<F4>,
    bias: &Array<f32>,
    params: &Array<u32>,
    out: &mut Array<f32>,
    #[comptime] kernel: MatVec,
) {
    let format = comptime!(kernel.format);
    let batch_max = comptime!(kernel.batch as usize);
    let row_count = comptime!(kernel.rows as usize);
    let threads = comptime!(kernel.reduce.threads() as usize);
    let tile = comptime!(TILE / kernel.batch as usize);
    let pieces = comptime!(format.pieces());
    let bytes = comptime!(format.block_bytes());
    let run_len = comptime!(PIECE / format.runs());

    let rows = params[0] as usize;
    let columns = params[1] as usize;
    let batch = params[2] as usize;
    let lane = UNIT_POS_X as usize % threads;
    let first = first_row(kernel);

    let mut shared = SharedMemory::<F4>::new(comptime!(TILE / PIECE * PADDED / 4));
    let mut sums = Array::<f32>::new(comptime!((kernel.rows * kernel.batch) as usize));
    #[unroll]
    for i in 0..comptime!((kernel.rows * kernel.batch) as usize) {
        sums[i] = 0.0f32;
    }
    // Rows behind the end repeat the last one, and are not written.
    let row_bytes = columns / comptime!(format.block_len()) * bytes;
    let mut starts = Array::<usize>::new(row_count);
    #[unroll]
    for r in 0..row_count {
        starts[r] = min(first + r, rows - 1) * row_bytes;
    }

    let mut from = 0usize.runtime();
    while from < columns {
        let count = min(columns - from, tile);
        stage(&mut shared, x, columns, from, count, batch, kernel);
        let mut t = lane;
        while t < count / PIECE {
            // The piece of the row, its block, and its place there.
            let global = from / PIECE + t;
            let block = global / pieces;
            let piece = global % pieces;
            #[unroll]
            for r in 0..row_count {
                let mut values = Array::<f32>::new(PIECE);
                decode(weight, starts[r] + block * bytes, piece, &mut values, format);
                #[unroll]
                for m in 0..batch_max {
                    let mut sum = 0.0f32;
                    #[unroll]
                    for run in 0..comptime!(format.runs()) {
                        // Within the tile: `x` lies there by value, 32 of them in `PADDED` places.
                        let e = (block * comptime!(format.block_len()) - from)
                            + run_start(piece, run, format);
                        let base = comptime!(m * tile / PIECE * PADDED / 4)
                            + (e / 32) * comptime!(PADDED / 4)
                            + (e % 32) / 4;
                        #[unroll]
                        for j in 0..comptime!(run_len / 4) {
                            let v = shared[base + j];
                            let i = comptime!(run * run_len + 4 * j);
                            sum += values[i] * v[0]
                                + values[comptime!(i + 1)] * v[1]
                                + values[comptime!(i + 2)] * v[2]
                                + values[comptime!(i + 3)] * v[3];
                        }
                    }
                    sums[comptime!(r * kernel.batch as usize + m)] += sum;
                }
            }
            t += threads;
        }
        from += tile;
    }
    finish(&mut sums, bias, out, first, rows, params, kernel);
}

pub(super) fn expand(scope: &mut Scope, buffers: [ManagedVariable; 5], kernel: MatVec) {
    let [w, x, bias, params, out] = buffers;
    matvec::expand(scope, w.into(), x.into(), bias.into(), params.into(), out.into(), kernel);
}
