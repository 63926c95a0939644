//! The operations that have kernels. Each gives its arguments back where no kernel takes them.

use burn::tensor::{DType, Int, Tensor};
use burn_cubecl::tensor::CubeTensor;
use cubecl::server::Handle;
use metal_candle_kernels::{
    Format, Kernel, largest, matmul,
    matvec::{self, Add, LowRank},
    norm, rows, swiglu,
};

use super::{Cube, Gpu, tensors};
use crate::{
    backend::{Chosen, FusedLinear, Weight},
    dispatch::{choose, gather},
};

/// Rows of `x` up to which a product is made by the matrix-vector kernels.
pub(super) const FEW_ROWS: usize = 64;
/// Rows that one launch takes.
const ROWS_AT_ONCE: usize = 8;
/// Values of a row that launches wait for at most.
const MOST_WAITED_FOR: usize = 1 << 16;

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

/// What is done around a product: see [`FusedLinear`].
#[derive(Debug)]
pub(super) struct Around<'a, R: Gpu> {
    norm: Option<(&'a Tensor<Cube<R>, 1>, f64)>,
    low_rank: Option<[&'a Tensor<Cube<R>, 2>; 2]>,
    bias: Option<&'a Tensor<Cube<R>, 1>>,
    residual: Option<&'a Tensor<Cube<R>, 2>>,
    gated: bool,
}

impl<'a, R: Gpu> Around<'a, R> {
    pub(super) fn bias(bias: Option<&'a Tensor<Cube<R>, 1>>) -> Self {
        Self { norm: None, low_rank: None, bias, residual: None, gated: false }
    }

    /// Whether kernels take it around a product of so many rows.
    fn fits(&self, batch: usize, rows: usize, columns: usize) -> bool {
        let &Self { norm, low_rank, bias, residual, gated } = self;
        bias.is_none_or(is_f32)
            && residual.is_none_or(|residual| is_f32(residual) && residual.dims() == [batch, rows])
            && norm.is_none_or(|(gain, _)| is_f32(gain) && gain.dims() == [columns] && batch == 1)
            // One of them is added.
            && (bias.is_none() || residual.is_none())
            && (!gated || (norm.is_some() && rows.is_multiple_of(2)))
            && low_rank.is_none_or(|[a, b]| {
                let ([rank, seen], dtype) = (a.dims(), a.dtype());
                seen == columns
                    && b.dims() == [rows, rank]
                    && b.dtype() == dtype
                    && plain_format(dtype).is_some()
                    && batch == 1
            })
    }

    /// The gain of the norm, what is added, and the adapter.
    fn buffers(&self) -> Buffers<R> {
        let bias = self.bias.map(|bias| tensors::contiguous(bias.clone()));
        let residual = self.residual.map(|residual| tensors::contiguous(residual.clone()));
        Buffers {
            gain: self.norm.map(|(gain, _)| tensors::contiguous(gain.clone())),
            added: bias.or(residual),
            low_rank: self
                .low_rank
                .map(|pair| pair.map(|factor| tensors::contiguous(factor.clone()))),
        }
    }
}

/// Buffers of what is around a product.
struct Buffers<R: Gpu> {
    gain: Option<CubeTensor<R>>,
    added: Option<CubeTensor<R>>,
    low_rank: Option<[CubeTensor<R>; 2]>,
}

/// [`Backend::fused_linear`](crate::backend::Backend::fused_linear).
pub(super) fn fused_linear<R: Gpu>(
    x: &Tensor<Cube<R>, 2>,
    operation: &FusedLinear<'_, Cube<R>>,
) -> Option<Tensor<Cube<R>, 2>> {
    let &FusedLinear { ref weight, norm, low_rank, bias, residual, gated } = operation;
    // Of more rows every launch would make the norm again.
    if x.dims()[0] > ROWS_AT_ONCE {
        return None;
    }
    let around = Around { norm, low_rank, bias, residual, gated };
    match weight {
        Weight::Dense(weight) => few_dense_rows(x, weight, &around),
        Weight::Packed(weight) => weight.few_rows(x, &around),
    }
}

/// The product of a few rows of f32 and a plain matrix.
pub(super) fn few_dense_rows<R: Gpu>(
    x: &Tensor<Cube<R>, 2>,
    weight: &Tensor<Cube<R>, 2>,
    around: &Around<'_, R>,
) -> Option<Tensor<Cube<R>, 2>> {
    let (format, [rows, columns]) = (plain_format(weight.dtype())?, weight.dims());
    if x.dims()[1] != columns {
        return None;
    }
    let weight = tensors::contiguous(weight.clone());
    few_rows(x, &Matrix { format, handle: &weight.handle, rows, columns }, around)
}

/// The product of a few rows of f32, with what is around it.
pub(super) fn few_rows<R: Gpu>(
    x: &Tensor<Cube<R>, 2>,
    matrix: &Matrix<'_>,
    around: &Around<'_, R>,
) -> Option<Tensor<Cube<R>, 2>> {
    let &Matrix { format, handle, rows, columns } = matrix;
    let &Around { norm, low_rank, bias, residual, gated } = around;
    let [batch, _] = x.dims();
    if !is_f32(x)
        || !around.fits(batch, rows, columns)
        || !(1..=FEW_ROWS).contains(&batch)
        || rows == 0
        || columns == 0
        || !columns.is_multiple_of(matvec::MatVec::columns_multiple(format))
    {
        return None;
    }
    let adapter = low_rank.map(|[a, _]| LowRank {
        rank: a.dims()[0] as u32,
        f16: a.dtype() == DType::F16,
        second_half: false,
    });
    if let (Some(LowRank { rank, f16, .. }), Some(low_rank)) = (adapter, low_rank)
        && !LowRank::fits(rank as usize, rows, f16)
    {
        return beside(x, matrix, around, low_rank);
    }
    let device = x.device();
    let kernels = R::kernels(&device);
    let params = |first: usize, low_rank| matvec::Params {
        rows: rows as u32,
        columns: columns as u32,
        batch: (batch - first).min(ROWS_AT_ONCE) as u32,
        first: first as u32,
        add: match (bias, residual) {
            (Some(_), _) => Add::Bias,
            (_, Some(_)) => Add::Each,
            _ => Add::Nothing,
        },
        norm: norm.map(|(_, epsilon)| epsilon as f32),
        gated,
        low_rank,
    };
    let x = tensors::contiguous(x.clone());
    let Buffers { gain, added, low_rank } = around.buffers();
    // Nothing to add is not read.
    let add = added.as_ref().map_or(&x.handle, |added| &added.handle);
    let width = if gated { rows / 2 } else { rows };
    // Logits are many, and kept by who asked for them; of more rows nobody waits.
    let is_waited_for = batch == 1 && width <= MOST_WAITED_FOR;
    let make = if is_waited_for { tensors::announced } else { tensors::empty };
    let out = make(&kernels, batch * width);
    let mut inputs = vec![handle, &x.handle];
    inputs.extend(gain.as_ref().map(|gain| &gain.handle));
    inputs.push(add);
    inputs.extend(low_rank.iter().flatten().map(|tensor| &tensor.handle));
    let launch = |params: &matvec::Params, outputs: &[&Handle]| {
        let kernel = choose::matvec(&kernels, format, params);
        let (cubes, kernel) = (kernel.cubes(params), Kernel::MatVec(kernel));
        // SAFETY: the sizes are those of the tensors, which are contiguous.
        unsafe { kernels.launch(kernel, cubes, &inputs, params.words(), outputs) }
    };
    match adapter {
        Some(adapter) => kernels.with_cells(|cells, second_half| {
            launch(&params(0, Some(LowRank { second_half, ..adapter })), &[cells, &out])
        }),
        None => (0..batch)
            .step_by(ROWS_AT_ONCE)
            .try_for_each(|first| launch(&params(first, None), &[&out])),
    }
    .ok()?;
    Some(tensors::floats(&device, [batch, width], out))
}

/// The product of many rows of f32 with blocks.
pub(super) fn many_rows<R: Gpu>(
    x: &Tensor<Cube<R>, 2>,
    matrix: &Matrix<'_>,
    bias: Option<&Tensor<Cube<R>, 1>>,
) -> Option<Tensor<Cube<R>, 2>> {
    let &Matrix { format, handle, rows, columns } = matrix;
    let [batch, _] = x.dims();
    if !is_f32(x) || !bias.is_none_or(is_f32) || rows * columns == 0 {
        return None;
    }
    let device = x.device();
    let kernels = R::kernels(&device);
    let params = matmul::Params {
        rows: rows as u32,
        columns: columns as u32,
        batch: batch as u32,
        bias: bias.is_some(),
    };
    let kernel = choose::matmul(&kernels, format, &params);
    let (cubes, kernel) = (kernel.cubes(&params), Kernel::MatMul(kernel));
    let x = tensors::contiguous(x.clone());
    let bias = bias.map(|bias| tensors::contiguous(bias.clone()));
    // Nothing to add is not read.
    let add = bias.as_ref().map_or(&x.handle, |bias| &bias.handle);
    let out = tensors::empty(&kernels, batch * rows);
    let inputs = [handle, &x.handle, add];
    // SAFETY: the sizes are those of the tensors, which are contiguous.
    unsafe { kernels.launch(kernel, cubes, &inputs, params.words(), &[&out]) }.ok()?;
    Some(tensors::floats(&device, [batch, rows], out))
}

/// With an adapter that does not fit the launch, as products of its own: what it adds to a single row
/// is what a bias is.
fn beside<R: Gpu>(
    x: &Tensor<Cube<R>, 2>,
    matrix: &Matrix<'_>,
    around: &Around<'_, R>,
    [a, b]: [&Tensor<Cube<R>, 2>; 2],
) -> Option<Tensor<Cube<R>, 2>> {
    let &Around { norm, bias, residual, gated, .. } = around;
    let first = Around { norm, ..Around::bias(None) };
    let second = Around { residual, ..Around::bias(bias) };
    let low = few_dense_rows(&few_dense_rows(x, a, &first)?, b, &second)?.reshape([-1]);
    few_rows(x, matrix, &Around { norm, gated, ..Around::bias(Some(&low)) })
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

/// Rows of a plain matrix, in f32.
pub(super) fn dense_rows<R: Gpu>(
    weight: &Tensor<Cube<R>, 2>,
    ids: &[u32],
    dtype: DType,
) -> Option<Tensor<Cube<R>, 2>> {
    let [source_rows, columns] = weight.dims();
    let f16 = match weight.dtype() {
        DType::F16 => true,
        DType::F32 => false,
        _ => return None,
    };
    if dtype != DType::F32 || ids.is_empty() || columns == 0 || !columns.is_multiple_of(4) {
        return None;
    }
    let device = weight.device();
    let kernels = R::kernels(&device);
    let params = rows::Params {
        rows: ids.len() as u32,
        columns: columns as u32,
        source_rows: source_rows as u32,
    };
    let weight = tensors::contiguous(weight.clone());
    let (named, out) = (kernels.ids(ids), tensors::empty(&kernels, ids.len() * columns));
    // SAFETY: the sizes are those of the tensors, which are contiguous.
    unsafe {
        kernels.launch(
            Kernel::Rows(rows::Rows { f16 }),
            rows::Rows::cubes(&params),
            &[&weight.handle, &named],
            params.words(),
            &[&out],
        )
    }
    .ok()?;
    Some(tensors::floats(&device, [ids.len(), columns], out))
}

/// [`Backend::likeliest`](crate::backend::Backend::likeliest).
pub(super) fn likeliest<R: Gpu>(logits: &Tensor<Cube<R>, 2>) -> Option<Chosen<Cube<R>>> {
    let [rows, columns] = logits.dims();
    if !is_f32(logits) || rows == 0 || columns == 0 {
        return None;
    }
    let (device, x) = (logits.device(), tensors::contiguous(logits.clone()));
    let kernels = R::kernels(&device);
    let launch = |x: &Handle, params: largest::Params| {
        let (cubes, words) = (params.cubes(), params.words());
        let out = kernels.empty(2 * cubes as usize * size_of::<u32>());
        // SAFETY: the sizes are those of the tensor, which is contiguous, or of what its pieces have left.
        unsafe { kernels.launch(Kernel::Largest, cubes, &[x], words, &[&out]) }.ok()?;
        Some(out)
    };
    let params = largest::Params { rows: rows as u32, columns: columns as u32, joins: false };
    let mut out = launch(&x.handle, params)?;
    if let Some(join) = params.join() {
        out = launch(&out, join)?;
    }
    let begun = kernels.begin_read::<u32>(&out, 2 * rows);
    let words = tensors::over::<R>(&device, &[2, rows], out, DType::I32);
    Some(Chosen::new(Tensor::<_, 2, Int>::from_primitive(words), begun))
}
