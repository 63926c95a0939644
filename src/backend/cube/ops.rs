//! The operations that have kernels. Each gives its arguments back where no kernel takes them.

use burn::tensor::{DType, Tensor};
use cubecl::server::Handle;
use metal_candle_kernels::{Format, Kernel, matvec, norm, swiglu};

use super::{Cube, Gpu, tensors};
use crate::dispatch::{choose, gather};

/// Rows of `x` up to which a product is made by the matrix-vector kernels.
pub(super) const FEW_ROWS: usize = 64;
/// Rows that one launch takes.
const ROWS_AT_ONCE: usize = 8;

/// Says that no kernel takes an operation, and why. burn's take it, behind all that was launched.
pub(super) fn by_reference(operation: &'static str, why: &'static str) {
    gather::submit();
    tracing::debug!(operation, why, "no kernel takes it: using burn's operations");
}

fn is_f32<R: Gpu, const D: usize>(tensor: &Tensor<Cube<R>, D>) -> bool {
    tensor.dtype() == DType::F32
}

/// How a plain matrix is stored, if kernels read it.
fn plain_format(dtype: DType) -> Option<Format> {
    match dtype {
        DType::F32 => Some(Format::F32),
        DType::F16 => Some(Format::F16),
        _ => None,
    }
}

/// A matrix `[rows, columns]` in a buffer.
#[derive(Debug)]
pub(super) struct Matrix<'a> {
    pub(super) format: Format,
    pub(super) handle: &'a Handle,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// `x · wᵀ + bias` for a few rows of f32 and a plain matrix.
pub(super) fn few_dense_rows<R: Gpu>(
    x: &Tensor<Cube<R>, 2>,
    weight: &Tensor<Cube<R>, 2>,
    bias: Option<&Tensor<Cube<R>, 1>>,
) -> Option<Tensor<Cube<R>, 2>> {
    let (format, [rows, columns]) = (plain_format(weight.dtype())?, weight.dims());
    if x.dims()[1] != columns {
        return None;
    }
    let weight = tensors::contiguous(weight.clone());
    few_rows(x, &Matrix { format, handle: &weight.handle, rows, columns }, bias)
}

/// `x · wᵀ + bias` for a few rows of f32.
pub(super) fn few_rows<R: Gpu>(
    x: &Tensor<Cube<R>, 2>,
    matrix: &Matrix<'_>,
    bias: Option<&Tensor<Cube<R>, 1>>,
) -> Option<Tensor<Cube<R>, 2>> {
    let &Matrix { format, handle, rows, columns } = matrix;
    let [batch, _] = x.dims();
    if !is_f32(x)
        || bias.is_some_and(|bias| !is_f32(bias))
        || !(1..=FEW_ROWS).contains(&batch)
        || rows == 0
        || columns == 0
        || !columns.is_multiple_of(matvec::MatVec::columns_multiple(format))
    {
        return None;
    }
    let device = x.device();
    let kernels = R::kernels(&device);
    let x = tensors::contiguous(x.clone());
    let has_bias = bias.is_some();
    let bias = bias.map(|bias| tensors::contiguous(bias.clone()));
    let bias = bias.as_ref().map_or(&x.handle, |bias| &bias.handle);
    let out = tensors::empty(&kernels, batch * rows);
    for first in (0..batch).step_by(ROWS_AT_ONCE) {
        let params = matvec::Params {
            rows: rows as u32,
            columns: columns as u32,
            batch: (batch - first).min(ROWS_AT_ONCE) as u32,
            first: first as u32,
            bias: has_bias,
        };
        let kernel = choose::matvec(&kernels, format, &params);
        // SAFETY: the sizes are those of the tensors, which are contiguous.
        unsafe {
            kernels.launch(
                Kernel::MatVec(kernel),
                kernel.cubes(params.rows),
                &[handle, &x.handle, bias],
                params.words(),
                &[&out],
            )
        }
        .ok()?;
    }
    Some(tensors::floats(&device, [batch, rows], out))
}

/// The norm of `x` (plus a residual), and that sum.
pub(super) fn rms_norm<R: Gpu>(
    x: &Tensor<Cube<R>, 2>,
    residual: Option<&Tensor<Cube<R>, 2>>,
    weight: &Tensor<Cube<R>, 1>,
    epsilon: f64,
) -> Option<[Tensor<Cube<R>, 2>; 2]> {
    let [rows, columns] = x.dims();
    if !is_f32(x) || !is_f32(weight) || residual.is_some_and(|r| !is_f32(r)) || rows * columns == 0
    {
        return None;
    }
    let device = x.device();
    let kernels = R::kernels(&device);
    let kernel = choose::rms_norm(&kernels, residual.is_some());
    let params =
        norm::Params { rows: rows as u32, columns: columns as u32, epsilon: epsilon as f32 };
    let weight = tensors::contiguous(weight.clone());
    let out = tensors::empty(&kernels, rows * columns);
    let x_in = tensors::contiguous(x.clone());
    let launch = |inputs: &[_], outputs: &[_]| {
        // SAFETY: the sizes are those of the tensors, which are contiguous.
        unsafe {
            kernels.launch(Kernel::RmsNorm(kernel), params.rows, inputs, params.words(), outputs)
        }
    };
    let sum = if let Some(residual) = residual {
        let residual = tensors::contiguous(residual.clone());
        let sum = tensors::empty(&kernels, rows * columns);
        launch(&[&x_in.handle, &residual.handle, &weight.handle], &[&sum, &out]).ok()?;
        tensors::floats(&device, [rows, columns], sum)
    } else {
        launch(&[&x_in.handle, &weight.handle], &[&out]).ok()?;
        x.clone()
    };
    Some([sum, tensors::floats(&device, [rows, columns], out)])
}

/// `silu(gate) · up`.
pub(super) fn swiglu<R: Gpu>(
    gate: &Tensor<Cube<R>, 2>,
    up: &Tensor<Cube<R>, 2>,
) -> Option<Tensor<Cube<R>, 2>> {
    let [rows, columns] = gate.dims();
    if !is_f32(gate) || !is_f32(up) || !columns.is_multiple_of(4) || rows * columns == 0 {
        return None;
    }
    let device = gate.device();
    let kernels = R::kernels(&device);
    let params = swiglu::Params { rows: rows as u32, columns: columns as u32 };
    let (gate, up) = (tensors::contiguous(gate.clone()), tensors::contiguous(up.clone()));
    let out = tensors::empty(&kernels, rows * columns);
    // SAFETY: the sizes are those of the tensors, which are contiguous.
    unsafe {
        kernels.launch(
            Kernel::SwiGlu(swiglu::SwiGlu { joined: false }),
            swiglu::SwiGlu::cubes(&params),
            &[&gate.handle, &up.handle],
            params.words(),
            &[&out],
        )
    }
    .ok()?;
    Some(tensors::floats(&device, [rows, columns], out))
}
