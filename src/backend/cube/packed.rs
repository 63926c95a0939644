//! Block-quantised weights on a GPU. A few rows of `x` meet the blocks as they are, in the
//! matrix-vector kernels. For many rows the blocks are dequantised a part at a time: never as a
//! whole.

use std::sync::Arc;

use burn::tensor::{DType, Tensor, TensorPrimitive, backend::Backend as _};
use cubecl::server::Handle;
use metal_candle_kernels::{
    Format, Kernel,
    dequantise::{self, Dequantise},
    matvec::MatVec,
};

use super::{Cube, Gpu, ops, tensors};
use crate::{
    backend::{Backend, HostPacked, PackError, PackedStorage, packed},
    dispatch::Kernels,
    quant::Encoding,
};

/// Values that are dequantised at a time for a product of many rows.
const PART: usize = 1 << 21;

/// A packed weight as this backend holds it.
#[derive(Clone, Debug)]
pub enum CubePacked<R: Gpu> {
    /// On the device.
    Device(DeviceBlocks<R>),
    /// On the host: a format that kernels do not read. Using it uploads it each time.
    Host(HostPacked),
}

/// Blocks in a buffer.
#[derive(Clone)]
pub struct DeviceBlocks<R: Gpu> {
    kernels: Arc<Kernels>,
    device: R::Device,
    handle: Handle,
    bytes: usize,
    shape: [usize; 2],
    encoding: Encoding,
    format: Format,
}

impl<R: Gpu> std::fmt::Debug for DeviceBlocks<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [rows, columns] = self.shape;
        write!(f, "{} [{rows}, {columns}] on {:?}", self.encoding.name(), self.device)
    }
}

/// The kernels' format for an encoding, where they read rows of so many values.
pub(super) fn format_of(encoding: Encoding, columns: usize) -> Option<Format> {
    let name = encoding.name();
    Format::ALL.into_iter().find(|format| {
        format.is_packed()
            && format!("{format:?}") == name
            && columns > 0
            && columns.is_multiple_of(MatVec::columns_multiple(*format))
    })
}

impl<R: Gpu> PackedStorage for CubePacked<R> {
    fn shape(&self) -> [usize; 2] {
        match self {
            Self::Device(blocks) => blocks.shape,
            Self::Host(host) => host.shape(),
        }
    }

    fn encoding(&self) -> Encoding {
        match self {
            Self::Device(blocks) => blocks.encoding,
            Self::Host(host) => host.encoding(),
        }
    }

    fn to_host(&self) -> Result<HostPacked, PackError> {
        match self {
            Self::Device(blocks) => blocks.to_host(),
            Self::Host(host) => Ok(host.clone()),
        }
    }
}

impl<R: Gpu> CubePacked<R> {
    pub(super) fn new(weight: HostPacked, device: &R::Device) -> Self {
        let (shape, encoding) = (weight.shape(), weight.encoding());
        let Some(format) = format_of(encoding, shape[1]).filter(|_| shape[0] > 0) else {
            return Self::Host(weight);
        };
        let kernels = R::kernels(device);
        // Weights stay for good: in the general pool they would be rounded up to its page sizes.
        let handle = Cube::<R>::memory_persistent_allocations(device, weight.bytes(), |bytes| {
            // Kernels read whole words.
            if bytes.len().is_multiple_of(4) {
                return kernels.upload(bytes);
            }
            let mut words = bytes.to_vec();
            words.resize(bytes.len().next_multiple_of(4), 0);
            kernels.upload(&words)
        });
        let (device, bytes) = (device.clone(), weight.bytes().len());
        Self::Device(DeviceBlocks { kernels, device, handle, bytes, shape, encoding, format })
    }

    /// `x · wᵀ`; `None` where no kernel takes it.
    pub(super) fn product(&self, x: &Tensor<Cube<R>, 2>) -> Option<Tensor<Cube<R>, 2>> {
        match self {
            Self::Device(blocks) if x.dims()[1] == blocks.shape[1] => blocks.product(x),
            _ => None,
        }
    }

    /// Rows of the weight, or all of them; `None` where no kernel takes it.
    pub(super) fn rows(&self, ids: Option<&[u32]>, dtype: DType) -> Option<Tensor<Cube<R>, 2>> {
        match self {
            Self::Device(blocks) => blocks.rows(ids, dtype),
            Self::Host(_) => None,
        }
    }
}

impl<R: Gpu> DeviceBlocks<R> {
    fn to_host(&self) -> Result<HostPacked, PackError> {
        let bytes = self.kernels.download(self.handle.clone());
        let mut bytes = bytes.map_err(|reason| PackError::Unsupported {
            operation: "reading packed weights back",
            backend: Cube::<R>::name(&self.device),
            reason,
        })?;
        bytes.truncate(self.bytes);
        HostPacked::new(bytes, self.shape, self.encoding)
    }

    fn product(&self, x: &Tensor<Cube<R>, 2>) -> Option<Tensor<Cube<R>, 2>> {
        let [rows, columns] = self.shape;
        if x.dims()[0] <= ops::FEW_ROWS {
            let matrix = ops::Matrix { format: self.format, handle: &self.handle, rows, columns };
            return ops::few_rows(x, &matrix, None);
        }
        // As dense matrices in f16 meet many rows, where there is f16.
        let dtype = if self.kernels.f16() { DType::F16 } else { DType::F32 };
        let x_in = x.clone().cast(dtype);
        let part = (PART / columns).max(1);
        let parts = (0..rows as u32).step_by(part).map(|first| {
            let ids: Vec<u32> = (first..(first + part as u32).min(rows as u32)).collect();
            let weight = self.rows(Some(&ids), dtype)?;
            Some(x_in.clone().matmul(weight.transpose()))
        });
        let parts: Option<Vec<_>> = parts.collect();
        Some(Tensor::cat(parts?, 1).cast(x.dtype()))
    }

    fn rows(&self, ids: Option<&[u32]>, dtype: DType) -> Option<Tensor<Cube<R>, 2>> {
        let [source_rows, columns] = self.shape;
        let rows = ids.map_or(source_rows, <[u32]>::len);
        if !matches!(dtype, DType::F32 | DType::F16) || rows == 0 {
            return None;
        }
        let f16 = dtype == DType::F16;
        let kernel = Dequantise { format: self.format, gather: ids.is_some(), f16 };
        let params = dequantise::Params {
            rows: rows as u32,
            columns: columns as u32,
            source_rows: source_rows as u32,
        };
        let out = self.kernels.empty(rows * columns * dtype.size());
        let ids = ids.map(|ids| self.kernels.upload(bytemuck::cast_slice(ids)));
        let inputs: Vec<&Handle> = std::iter::once(&self.handle).chain(&ids).collect();
        // SAFETY: the buffers have the extents that the parameters state.
        unsafe {
            self.kernels.launch(
                Kernel::Dequantise(kernel),
                Dequantise::cubes(&params),
                &inputs,
                params.words(),
                &[&out],
            )
        }
        .ok()?;
        let tensor = tensors::over(&self.device, &[rows, columns], out, dtype);
        Some(Tensor::from_primitive(TensorPrimitive::Float(tensor)))
    }
}

/// [`Backend::packed_linear`].
pub(super) fn linear<R: Gpu>(
    x: Tensor<Cube<R>, 2>,
    weight: &CubePacked<R>,
) -> Result<Tensor<Cube<R>, 2>, PackError> {
    if let Some(out) = weight.product(&x) {
        return Ok(out);
    }
    ops::by_reference("packed_linear", "it takes f32 and the formats that kernels read");
    let dense = Cube::<R>::unpack(weight, &x.device(), x.dtype())?;
    Ok(Cube::<R>::dense_linear(x, dense, None))
}

/// [`Backend::unpack`].
pub(super) fn unpack<R: Gpu>(
    weight: &CubePacked<R>,
    device: &R::Device,
    dtype: DType,
) -> Result<Tensor<Cube<R>, 2>, PackError> {
    match weight.rows(None, dtype) {
        Some(dense) => Ok(dense),
        None => packed::unpack(&weight.to_host()?, device, dtype),
    }
}

/// [`Backend::packed_rows`].
pub(super) fn rows<R: Gpu>(
    weight: &CubePacked<R>,
    ids: &[u32],
    device: &R::Device,
    dtype: DType,
) -> Result<Tensor<Cube<R>, 2>, PackError> {
    let rows = weight.shape()[0];
    if let Some(&row) = ids.iter().find(|&&id| id as usize >= rows) {
        return Err(PackError::RowOutOfRange { row, rows });
    }
    match weight.rows(Some(ids), dtype) {
        Some(found) => Ok(found),
        None => packed::rows(&weight.to_host()?, ids, device, dtype),
    }
}
