//! Between burn's tensors and the buffers that kernels take.

use std::{ops::Range, sync::Arc};

use burn::tensor::{DType, Shape, Tensor, TensorPrimitive};
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::{
    server::Handle,
    zspace::{Strides, metadata::Metadata},
};

use super::{Cube, Gpu};
use crate::dispatch::{Kernels, gather};

/// A tensor whose values lie one after the other.
pub(super) fn contiguous<R: Gpu, const D: usize>(tensor: Tensor<Cube<R>, D>) -> CubeTensor<R> {
    let tensor = tensor.into_primitive().tensor();
    if tensor.is_contiguous() {
        return tensor;
    }
    // burn copies it.
    gather::submit();
    into_contiguous(tensor)
}

/// A tensor over a buffer, row by row.
pub(super) fn over<R: Gpu>(
    device: &R::Device,
    shape: &[usize],
    handle: Handle,
    dtype: DType,
) -> CubeTensor<R> {
    let client = R::client(device);
    CubeTensor::new_contiguous(client, device.clone(), Shape::from(shape), handle, dtype)
}

/// The first `len` positions of a buffer of `[batch, heads, capacity, dim]`, where they lie.
pub(super) fn positions<R: Gpu>(
    device: &R::Device,
    [batch, heads, capacity, dim]: [usize; 4],
    len: usize,
    handle: Handle,
    dtype: DType,
) -> Tensor<Cube<R>, 4> {
    let shape = Shape::from([batch, heads, len, dim]);
    let strides = Strides::new(&[heads * capacity * dim, capacity * dim, dim, 1]);
    let metadata = Metadata::new(shape, strides);
    tensor(CubeTensor::new(R::client(device), handle, metadata, device.clone(), dtype))
}

/// So many columns of a row for each width, where they lie; the tensor again where there are several rows, or
/// a part would begin where no buffer may.
pub(super) fn parts<R: Gpu>(
    x: Tensor<Cube<R>, 2>,
    widths: &[usize],
) -> Result<Vec<Tensor<Cube<R>, 2>>, Tensor<Cube<R>, 2>> {
    let [rows, width] = x.dims();
    if rows != 1 {
        return Err(x);
    }
    let x = contiguous(x);
    let (bytes, alignment) = (x.dtype.size(), x.client.properties().memory.alignment as usize);
    if widths.iter().any(|n| !(n * bytes).is_multiple_of(alignment)) {
        return Err(tensor(x));
    }
    let mut start = 0;
    let of = |&n: &usize| {
        let place = start..start + n * bytes;
        start = place.end;
        piece(&x.device, &[1, n], (&x.handle, width * bytes), place, x.dtype)
    };
    Ok(widths.iter().map(of).collect())
}

/// A tensor over some bytes of a buffer of so many, row by row.
pub(super) fn piece<R: Gpu, const D: usize>(
    device: &R::Device,
    shape: &[usize],
    (buffer, bytes): (&Handle, usize),
    Range { start, end }: Range<usize>,
    dtype: DType,
) -> Tensor<Cube<R>, D> {
    let part = buffer.clone().offset_start(start as u64).offset_end((bytes - end) as u64);
    tensor(over(device, shape, part, dtype))
}

/// The tensor around burn's own.
pub(super) fn tensor<R: Gpu, const D: usize>(tensor: CubeTensor<R>) -> Tensor<Cube<R>, D> {
    Tensor::from_primitive(TensorPrimitive::Float(tensor))
}

/// A tensor of f32 over a buffer.
pub(super) fn floats<R: Gpu, const D: usize>(
    device: &R::Device,
    shape: [usize; D],
    handle: Handle,
) -> Tensor<Cube<R>, D> {
    tensor(over(device, &shape, handle, DType::F32))
}

/// Memory for so many f32.
pub(super) fn empty(kernels: &Arc<Kernels>, floats: usize) -> Handle {
    kernels.empty(floats * size_of::<f32>())
}

/// The same for what a kernel makes that [announces](metal_candle_kernels::Kernel::announces) its results.
pub(super) fn announced(kernels: &Arc<Kernels>, floats: usize) -> Handle {
    kernels.announced(floats * size_of::<f32>())
}
