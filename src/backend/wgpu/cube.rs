//! Between burn's tensors and the buffers that kernels take.

use std::sync::Arc;

use burn::tensor::{DType, Shape, Tensor, TensorPrimitive};
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::{Runtime, server::Handle, wgpu::WgpuRuntime};

use super::{Wgpu, WgpuDevice};
use crate::dispatch::Kernels;

/// A tensor whose values lie one after the other.
pub(super) fn contiguous<const D: usize>(tensor: Tensor<Wgpu, D>) -> CubeTensor<WgpuRuntime> {
    into_contiguous(tensor.into_primitive().tensor())
}

/// A tensor of f32 over a buffer.
pub(super) fn floats<const D: usize>(
    device: &WgpuDevice,
    shape: [usize; D],
    handle: Handle,
) -> Tensor<Wgpu, D> {
    let client = WgpuRuntime::client(device);
    let tensor =
        CubeTensor::new_contiguous(client, device.clone(), Shape::from(shape), handle, DType::F32);
    Tensor::from_primitive(TensorPrimitive::Float(tensor))
}

/// Memory for so many f32.
pub(super) fn empty(kernels: &Arc<Kernels>, floats: usize) -> Handle {
    kernels.empty(floats * size_of::<f32>())
}
