//! Weights of plain f32 or f16.

use cubecl::{
    ir::{ManagedVariable, Scope},
    prelude::*,
};

use super::{MatVec, finish, first_row};
use crate::{
    Format,
    common::{F4, H2, U4},
};

/// Loads of the weight that a thread has under way for each row.
const AHEAD: usize = 4;

#[cube]
fn dot4(a: F4, b: F4) -> f32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3]
}

/// Four f32 bit patterns with one vector of `x`.
#[cube]
fn dot_f32(w: U4, x: F4) -> f32 {
    f32::reinterpret(w[0]) * x[0]
        + f32::reinterpret(w[1]) * x[1]
        + f32::reinterpret(w[2]) * x[2]
        + f32::reinterpret(w[3]) * x[3]
}

/// Two halves of a word as f32, in lanes `first` and `first + 1`.
#[cube]
fn unpack(word: u32, into: &mut F4, #[comptime] first: usize) {
    let pair = H2::reinterpret(word);
    into[first] = f32::cast_from(pair[0]);
    into[comptime!(first + 1)] = f32::cast_from(pair[1]);
}

#[cube]
fn matvec(
    weight: &Array<U4>,
    x: &Array<F4>,
    bias: &Array<f32>,
    params: &Array<u32>,
    out: &mut Array<f32>,
    #[comptime] kernel: MatVec,
) {
    let batch_max = comptime!(kernel.batch as usize);
    let row_count = comptime!(kernel.rows as usize);
    let threads = comptime!(kernel.reduce.threads() as usize);
    // Vectors of `x` that one vector of the weight meets.
    let per = comptime!(if matches!(kernel.format, Format::F16) { 2usize } else { 1 });

    let rows = params[0] as usize;
    let vectors = params[1] as usize / comptime!(4 * per);
    let batch = params[2] as usize;
    let lane = UNIT_POS_X as usize % threads;
    let first = first_row(kernel);

    let mut sums = Array::<f32>::new(comptime!((kernel.rows * kernel.batch) as usize));
    #[unroll]
    for i in 0..comptime!((kernel.rows * kernel.batch) as usize) {
        sums[i] = 0.0f32;
    }
    // Rows behind the end repeat the last one, and are not written.
    let mut starts = Array::<usize>::new(row_count);
    #[unroll]
    for r in 0..row_count {
        starts[r] = min(first + r, rows - 1) * vectors;
    }

    let mut held = Array::<U4>::new(comptime!(AHEAD * kernel.rows as usize));
    let steps = (vectors + threads - 1) / threads;
    let mut step = 0usize.runtime();
    while step < steps {
        #[unroll]
        for a in 0..comptime!(AHEAD) {
            // A place behind the end reads the last one and adds nothing.
            let v = min((step + a) * threads + lane, vectors - 1);
            #[unroll]
            for r in 0..row_count {
                held[comptime!(a * kernel.rows as usize + r)] = weight[starts[r] + v];
            }
        }
        #[unroll]
        for a in 0..comptime!(AHEAD) {
            let place = (step + a) * threads + lane;
            if place < vectors {
                #[unroll]
                for m in 0..batch_max {
                    let base = (min(m, batch - 1) * vectors + place) * per;
                    let x0 = x[base];
                    if comptime!(per == 2) {
                        let x1 = x[base + 1];
                        #[unroll]
                        for r in 0..row_count {
                            let w = held[comptime!(a * kernel.rows as usize + r)];
                            let mut low = F4::empty();
                            let mut high = F4::empty();
                            unpack(w[0], &mut low, 0usize);
                            unpack(w[1], &mut low, 2usize);
                            unpack(w[2], &mut high, 0usize);
                            unpack(w[3], &mut high, 2usize);
                            sums[comptime!(r * kernel.batch as usize + m)] +=
                                dot4(low, x0) + dot4(high, x1);
                        }
                    } else {
                        #[unroll]
                        for r in 0..row_count {
                            let w = held[comptime!(a * kernel.rows as usize + r)];
                            sums[comptime!(r * kernel.batch as usize + m)] += dot_f32(w, x0);
                        }
                    }
                }
            }
        }
        step += comptime!(AHEAD);
    }
    finish(&mut sums, bias, out, first, rows, params, kernel);
}

pub(super) fn expand(scope: &mut Scope, buffers: [ManagedVariable; 5], kernel: MatVec) {
    let [w, x, bias, params, out] = buffers;
    matvec::expand(scope, w.into(), x.into(), bias.into(), params.into(), out.into(), kernel);
}
