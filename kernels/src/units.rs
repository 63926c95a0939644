//! What kernels by matrix units share: square matrices, as many rows as columns as products are deep.

use cubecl::{
    cmma::{self, Matrix, MatrixIdent, MatrixLayout},
    prelude::*,
};

/// A matrix that is loaded next.
#[cube]
pub(crate) fn matrix<E: Float>(
    #[comptime] ident: MatrixIdent,
    #[comptime] layout: MatrixLayout,
    #[comptime] edge: usize,
) -> Matrix<E> {
    // SAFETY: callers load it before they read it.
    unsafe { Matrix::<E>::uninitialized(ident, edge, edge, edge, layout) }
}

/// A matrix from shared memory: rows of it that are `stride` vectors apart, from vector `from` on.
#[cube]
pub(crate) fn load<E: Float>(
    memory: &SharedMemory<Vector<E, Const<4>>>,
    from: usize,
    #[comptime] stride: usize,
    #[comptime] ident: MatrixIdent,
    #[comptime] layout: MatrixLayout,
    #[comptime] edge: usize,
) -> Matrix<E> {
    let matrix = matrix::<E>(ident, layout, edge);
    let slice = memory.slice(from, from + comptime!(edge * stride));
    cmma::load(&matrix, &slice, comptime!(stride as u32 * 4));
    matrix
}

/// A matrix of zeros that products are added to.
#[cube]
pub(crate) fn zeros(#[comptime] edge: usize) -> Matrix<f32> {
    let (ident, layout) = comptime!((MatrixIdent::Accumulator, MatrixLayout::Undefined));
    Matrix::<f32>::from_value(ident, edge, edge, edge, layout, 0.0f32)
}
