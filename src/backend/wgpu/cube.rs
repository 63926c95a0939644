//! Between burn's tensors and the buffers that kernels take.

use std::sync::Arc;

use burn::tensor::{DType, Shape, Tensor, TensorPrimitive};
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::{
    Runtime,
    server::Handle,
    wgpu::WgpuRuntime,
    zspace::{Strides, metadata::Metadata},
};

use super::{Wgpu, WgpuDevice};
use crate::dispatch::Kernels;

/// A tensor whose values lie one after the other.
pub(super) fn contiguous<const D: usize>(tensor: Tensor<Wgpu, D>) -> CubeTensor<WgpuRuntime> {
    into_contiguous(tensor.into_primitive().tensor())
}

/// A tensor over a buffer, row by row.
pub(super) fn over(
    device: &WgpuDevice,
    shape: &[usize],
    handle: Handle,
    dtype: DType,
) -> CubeTensor<WgpuRuntime> {
    let client = WgpuRuntime::client(device);
    CubeTensor::new_contiguous(client, device.clone(), Shape::from(shape), handle, dtype)
}

/// The first `len` positions of a buffer of `[batch, heads, capacity, dim]`, where they lie.
pub(super) fn positions(
    device: &WgpuDevice,
    [batch, heads, capacity, dim]: [usize; 4],
    len: usize,
    handle: Handle,
    dtype: DType,
) -> Tensor<Wgpu, 4> {
    let shape = Shape::from([batch, heads, len, dim]);
    let strides = Strides::new(&[heads * capacity * dim, capacity * dim, dim, 1]);
    let tensor = CubeTensor::new(
        WgpuRuntime::client(device),
        handle,
        Metadata::new(shape, strides),
        device.clone(),
        dtype,
    );
    Tensor::from_primitive(TensorPrimitive::Float(tensor))
}

/// A tensor of f32 over a buffer.
pub(super) fn floats<const D: usize>(
    device: &WgpuDevice,
    shape: [usize; D],
    handle: Handle,
) -> Tensor<Wgpu, D> {
    Tensor::from_primitive(TensorPrimitive::Float(over(device, &shape, handle, DType::F32)))
}

/// Memory for so many f32.
pub(super) fn empty(kernels: &Arc<Kernels>, floats: usize) -> Handle {
    kernels.empty(floats * size_of::<f32>())
}
