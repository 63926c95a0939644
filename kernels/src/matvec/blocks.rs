//! Weights in blocks.

use cubecl::prelude::*;

use super::{MatVec, PADDED, finish, first_row};
use crate::{
    blocks::{PIECE, Piece, decode, empty_piece, run_start},
    common::{Builder, F4},
};

/// Stages columns `from..from + count` of every row of `x`.
#[cube]
fn stage(
    shared: &mut SharedMemory<F4>,
    x: &Array<F4>,
    x_first: usize,
    columns: usize,
    from: usize,
    count: usize,
    batch: usize,
    #[comptime] kernel: MatVec,
) {
    let tile = comptime!(kernel.tile());
    sync_cube();
    #[unroll]
    for m in 0..comptime!(kernel.batch as usize) {
        let base = ((x_first + min(m, batch - 1)) * columns + from) / 4;
        let mut v = UNIT_POS_X as usize;
        while v < count / 4 {
            let place = (v / 8) * comptime!(PADDED / 4) + v % 8;
            shared[comptime!(m * tile / PIECE * PADDED / 4) + place] = x[base + v];
            v += comptime!(kernel.threads() as usize);
        }
    }
    sync_cube();
}

/// What of one row of `x` a piece meets.
#[derive(CubeType)]
struct Part {
    values: Array<F4>,
    /// The sum of each run, for formats with a minimum.
    sums: Array<f32>,
}

#[cube]
fn load(
    shared: &SharedMemory<F4>,
    base: usize,
    piece: usize,
    #[comptime] m: usize,
    #[comptime] kernel: MatVec,
) -> Part {
    let format = comptime!(kernel.format);
    let vectors = comptime!(PIECE / format.runs() / 4);
    let mut values = Array::<F4>::new(comptime!(PIECE / 4));
    let mut sums = Array::<f32>::new(comptime!(format.runs()));
    #[unroll]
    for run in 0..comptime!(format.runs()) {
        let e = base + run_start(piece, run, format);
        let place = comptime!(m * kernel.tile() / PIECE * PADDED / 4)
            + (e / 32) * comptime!(PADDED / 4)
            + (e % 32) / 4;
        #[unroll]
        for j in 0..vectors {
            values[comptime!(run * vectors + j)] = shared[place + j];
        }
        if comptime!(format.has_minimum()) {
            let mut sum = values[comptime!(run * vectors)];
            #[unroll]
            for j in 1..vectors {
                sum += values[comptime!(run * vectors + j)];
            }
            sums[run] = sum[0] + sum[1] + sum[2] + sum[3];
        }
    }
    Part { values, sums }
}

/// The product of a piece and what it meets.
#[cube]
fn dot(decoded: &Piece, part: &mut Part, #[comptime] kernel: MatVec) -> f32 {
    let format = comptime!(kernel.format);
    let vectors = comptime!(PIECE / format.runs() / 4);
    let mut total = 0.0f32;
    #[unroll]
    for run in 0..comptime!(format.runs()) {
        let mut sum = 0.0f32;
        #[unroll]
        for j in 0..vectors {
            let v = part.values[comptime!(run * vectors + j)];
            let i = comptime!(4 * (run * vectors + j));
            sum += decoded.codes[i] * v[0]
                + decoded.codes[comptime!(i + 1)] * v[1]
                + decoded.codes[comptime!(i + 2)] * v[2]
                + decoded.codes[comptime!(i + 3)] * v[3];
        }
        total += decoded.factors[run] * sum;
        if comptime!(format.has_minimum()) {
            total -= decoded.minimums[run] * part.sums[run];
        }
    }
    total
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
    let tile = comptime!(kernel.tile());
    let pieces = comptime!(format.pieces());
    let bytes = comptime!(format.block_bytes());

    let rows = params[0] as usize;
    let columns = params[1] as usize;
    let batch = params[2] as usize;
    let x_first = params[4] as usize;
    let lane = UNIT_POS_X as usize % threads;
    let first = first_row(kernel);

    let mut shared = SharedMemory::<F4>::new(comptime!(
        kernel.tile() * kernel.batch as usize / PIECE * PADDED / 4
    ));
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
        stage(&mut shared, x, x_first, columns, from, count, batch, kernel);
        let mut t = lane;
        while t < count / PIECE {
            // The piece of the row, its block, and its place there.
            let global = from / PIECE + t;
            let block = global / pieces;
            let piece = global % pieces;
            // Within the tile: `x` lies there by value, 32 of them in `PADDED` places.
            let base = block * comptime!(format.block_len()) - from;
            if comptime!(batch_max == 1) {
                // The values of `x` serve every row.
                let mut part = load(&shared, base, piece, 0usize, kernel);
                #[unroll]
                for r in 0..row_count {
                    let mut decoded = empty_piece(format);
                    decode(weight, starts[r] + block * bytes, piece, &mut decoded, format);
                    sums[r] += dot(&decoded, &mut part, kernel);
                }
            } else {
                #[unroll]
                for r in 0..row_count {
                    let mut decoded = empty_piece(format);
                    decode(weight, starts[r] + block * bytes, piece, &mut decoded, format);
                    #[unroll]
                    for m in 0..batch_max {
                        let mut part = load(&shared, base, piece, m, kernel);
                        sums[comptime!(r * kernel.batch as usize + m)] +=
                            dot(&decoded, &mut part, kernel);
                    }
                }
            }
            t += threads;
        }
        from += tile;
    }
    finish(&mut sums, bias, out, first, rows, params, kernel);
}

pub(super) fn expand(b: &mut Builder, kernel: MatVec) {
    let w = b.input::<u32>();
    let (x, bias, params) = (b.input::<F4>(), b.input::<f32>(), b.input::<u32>());
    let out = b.output::<f32>();
    let scope = &mut b.inner.scope;
    matvec::expand(scope, w.into(), x.into(), bias.into(), params.into(), out.into(), kernel);
}
