//! By matrix units. The planes of a cube stand in 2 rows; each makes half the tile's rows of the
//! result, and a share of its columns.

use cubecl::{
    cmma::{self, Matrix, MatrixIdent, MatrixLayout},
    prelude::*,
};

use super::{MatMul, Way, stage};
use crate::{blocks::PIECE, units};

/// Planes below each other.
const DOWN: usize = 2;
/// Threads of a plane.
const PLANE: usize = 32;

impl MatMul {
    /// Rows, columns and depth of a matrix.
    const fn edge(self) -> usize {
        match self.way {
            Way::Units(units) => units.edge as usize,
            Way::Plain => 1,
        }
    }

    /// Planes beside each other.
    const fn across(self) -> usize {
        self.threads() / PLANE / DOWN
    }

    /// Matrices of the result that a plane makes, below each other and beside each other.
    const fn own(self) -> (usize, usize) {
        let edges = self.size() / self.edge();
        (edges / DOWN, edges / self.across())
    }
}

/// A matrix from shared memory: `edge` rows from `row` on, at column `step * edge` of part `part`.
#[cube]
fn load<E: Float>(
    stage: &SharedMemory<Vector<E, Const<4>>>,
    row: usize,
    #[comptime] step: usize,
    #[comptime] part: usize,
    #[comptime] is_x: bool,
    #[comptime] kernel: MatMul,
) -> Matrix<E> {
    let edge = comptime!(kernel.edge());
    let stride = comptime!(kernel.stride());
    let (ident, layout) = comptime!(if is_x {
        (MatrixIdent::A, MatrixLayout::RowMajor)
    } else {
        (MatrixIdent::B, MatrixLayout::ColMajor)
    });
    let from = row * stride + comptime!(part * kernel.stage() + step * kernel.edge() / 4);
    units::load::<E>(stage, from, stride, ident, layout, edge)
}

#[cube]
pub(crate) fn product<E: Float>(io: &mut stage::Buffers, #[comptime] kernel: MatMul) {
    let edge = comptime!(kernel.edge());
    let (own_x, own) = comptime!(kernel.own());
    let tile = stage::tile(io, kernel);
    let plane = UNIT_POS_X as usize / PLANE;
    let first_x = plane / comptime!(kernel.across()) * comptime!(own_x * edge);
    let first = plane % comptime!(kernel.across()) * comptime!(own * edge);
    let size = comptime!(kernel.stage() * kernel.parts());
    let mut w = SharedMemory::<Vector<E, Const<4>>>::new(size);
    let mut x = SharedMemory::<Vector<E, Const<4>>>::new(size);
    let mut raw = stage::raw(kernel);
    let mut sums = Sequence::<Matrix<f32>>::new();
    #[unroll]
    for _ in 0..comptime!(own_x * own) {
        sums.push(units::zeros(edge));
    }
    let mut ahead = stage::nothing_ahead(kernel);
    stage::begin(io, &tile, &mut ahead, &mut raw, kernel);
    for step in 0..stage::steps(&tile) {
        stage::next::<E>(io, &tile, step, &mut ahead, &mut raw, &mut w, &mut x, kernel);
        #[unroll]
        for k in 0..comptime!(PIECE / edge) {
            let mut columns = Sequence::<Matrix<E>>::new();
            #[unroll]
            for c in 0..comptime!(own * kernel.parts()) {
                let at = first + comptime!(c / kernel.parts() * edge);
                columns.push(load::<E>(&w, at, k, comptime!(c % kernel.parts()), false, kernel));
            }
            #[unroll]
            for r in 0..own_x {
                let at = first_x + comptime!(r * edge);
                let row = load::<E>(&x, at, k, 0usize, true, kernel);
                #[unroll]
                for c in 0..comptime!(own * kernel.parts()) {
                    let sum = sums.index(comptime!(r * own + c / kernel.parts()));
                    cmma::execute::<E, E, f32, f32>(&row, columns.index(c), sum, sum);
                }
                if comptime!(kernel.parts() == 2) {
                    let rest = load::<E>(&x, at, k, 1usize, true, kernel);
                    #[unroll]
                    for c in 0..own {
                        let sum = sums.index(comptime!(r * own + c));
                        cmma::execute::<E, E, f32, f32>(
                            &rest,
                            columns.index(comptime!(c * 2)),
                            sum,
                            sum,
                        );
                    }
                }
            }
        }
    }
    // Nobody but the units knows which thread has which sum: a plane after the other leaves a matrix
    // where all can read it.
    let mut sum = SharedMemory::<f32>::new(comptime!(edge * edge));
    for turn in 0..comptime!(kernel.threads() / PLANE) {
        let turn_x = turn / comptime!(kernel.across()) * comptime!(own_x * edge);
        let turn_w = turn % comptime!(kernel.across()) * comptime!(own * edge);
        #[unroll]
        for i in 0..comptime!(own_x * own) {
            sync_cube();
            if plane == turn {
                let mut to = sum.to_slice_mut();
                let matrix = sums.index(i);
                cmma::store(&mut to, matrix, comptime!(edge as u32), MatrixLayout::RowMajor);
            }
            sync_cube();
            #[unroll]
            for part in 0..comptime!((edge * edge).div_ceil(kernel.threads())) {
                let place = UNIT_POS_X as usize + comptime!(part * kernel.threads());
                if place < comptime!(edge * edge) {
                    let value = sum[place] * f32::new(comptime!(1.0 / kernel.scale()));
                    let x_row = turn_x + comptime!(i / own * edge) + place / edge;
                    let row = turn_w + comptime!(i % own * edge) + place % edge;
                    stage::write(io, &tile, x_row, row, value);
                }
            }
        }
    }
}
