//! Between burn's tensors and the buffers that kernels take.

use std::sync::Arc;

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
    let tensor = CubeTensor::new(
        R::client(device),
        handle,
        Metadata::new(shape, strides),
        device.clone(),
        dtype,
    );
    Tensor::from_primitive(TensorPrimitive::Float(tensor))
}

/// A tensor of f32 over a buffer.
pub(super) fn floats<R: Gpu, const D: usize>(
    device: &R::Device,
    shape: [usize; D],
    handle: Handle,
) -> Tensor<Cube<R>, D> {
    Tensor::from_primitive(TensorPrimitive::Float(over(device, &shape, handle, DType::F32)))
}

/// Memory for so many f32.
pub(super) fn empty(kernels: &Arc<Kernels>, floats: usize) -> Handle {
    kernels.empty(floats * size_of::<f32>())
}

/// The same for what a kernel makes that [announces](metal_candle_kernels::Kernel::announces) its results.
pub(super) fn announced(kernels: &Arc<Kernels>, floats: usize) -> Handle {
    kernels.announced(floats * size_of::<f32>())
}
