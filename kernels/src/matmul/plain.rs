//! By plain f32 arithmetic. The threads of a cube stand in 8 rows of 16; a thread makes 8 rows of
//! the result by 4 columns.

use cubecl::prelude::*;

use super::{FOURS, MatMul, stage};
use crate::common::{F4, dot4};

/// Threads beside each other: they share rows of `x`.
const ACROSS: usize = 16;
/// Rows of the result that a thread makes.
const OWN_X: usize = 8;
/// Columns of the result that a thread makes.
const OWN: usize = 4;

#[cube]
pub(crate) fn product(io: &mut stage::Buffers, #[comptime] kernel: MatMul) {
    let tile = stage::tile(io, kernel);
    let stride = comptime!(kernel.stride());
    let across = UNIT_POS_X as usize % ACROSS;
    let down = UNIT_POS_X as usize / ACROSS * OWN_X;
    let mut w = SharedMemory::<F4>::new(comptime!(kernel.stage()));
    let mut x = SharedMemory::<F4>::new(comptime!(kernel.stage()));
    let mut raw = stage::raw(kernel);
    let mut sums = Array::<f32>::new(comptime!(OWN_X * OWN));
    #[unroll]
    for i in 0..comptime!(OWN_X * OWN) {
        sums[i] = 0.0f32;
    }
    let mut ahead = stage::nothing_ahead(kernel);
    stage::begin(io, &tile, &mut ahead, &mut raw, kernel);
    for step in 0..stage::steps(&tile) {
        stage::next::<f32>(io, &tile, step, &mut ahead, &mut raw, &mut w, &mut x, kernel);
        for four in 0..FOURS {
            let mut column = Array::<F4>::new(OWN);
            #[unroll]
            for c in 0..OWN {
                column[c] = w[(across + comptime!(c * ACROSS)) * stride + four];
            }
            #[unroll]
            for r in 0..OWN_X {
                let row = x[(down + r) * stride + four];
                #[unroll]
                for c in 0..OWN {
                    sums[comptime!(r * OWN + c)] += dot4(row, column[c]);
                }
            }
        }
    }
    #[unroll]
    for r in 0..OWN_X {
        #[unroll]
        for c in 0..OWN {
            let column = across + comptime!(c * ACROSS);
            stage::write(io, &tile, down + r, column, sums[comptime!(r * OWN + c)]);
        }
    }
}
