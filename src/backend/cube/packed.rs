//! Block-quantised weights on a GPU. A few rows of `x` meet the blocks as they are, in the
//! matrix-vector kernels. For many rows the blocks are dequantised a part at a time: never as a
//! whole.

use std::{ops::Range, sync::Arc};

use burn::tensor::{DType, Tensor, TensorPrimitive, backend::Backend as _};
use cubecl::server::Handle;
use metal_candle_kernels::{
    Format, Kernel,
    dequantise::{self, Dequantise},
    matvec::MatVec,
};

use super::{Cube, Gpu, ops, tensors};
use crate::{
    backend::{Backend, HostPacked, PackError, PackedStorage, add_bias, packed},
    dispatch::{Kernels, gather},
    quant::Encoding,
};

/// Values that are dequantised at a time for a product of many rows, at most: enough output features
/// to fill the processors of a large GPU with tiles.
const PART: usize = 1 << 25;
/// So many rows take a multiple of 256 bytes in every format, which is where buffers may be bound.
const ALIGNED_ROWS: usize = 128;

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

    /// `x · wᵀ + bias`; `None` where no kernel takes it.
    pub(super) fn product(
        &self,
        x: &Tensor<Cube<R>, 2>,
        bias: Option<&Tensor<Cube<R>, 1>>,
    ) -> Option<Tensor<Cube<R>, 2>> {
        match self {
            Self::Device(blocks) if x.dims()[1] == blocks.shape[1] => blocks.product(x, bias),
            _ => None,
        }
    }

    /// The product of a few rows with what is around it; `None` where no kernel takes it.
    pub(super) fn few_rows(
        &self,
        x: &Tensor<Cube<R>, 2>,
        around: &ops::Around<'_, R>,
    ) -> Option<Tensor<Cube<R>, 2>> {
        match self {
            Self::Device(blocks) if x.dims()[1] == blocks.shape[1] => {
                ops::few_rows(x, &blocks.matrix(), around)
            }
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

    fn matrix(&self) -> ops::Matrix<'_> {
        let [rows, columns] = self.shape;
        ops::Matrix { format: self.format, handle: &self.handle, rows, columns }
    }

    fn product(
        &self,
        x: &Tensor<Cube<R>, 2>,
        bias: Option<&Tensor<Cube<R>, 1>>,
    ) -> Option<Tensor<Cube<R>, 2>> {
        let [rows, columns] = self.shape;
        if x.dims()[0] <= ops::FEW_ROWS {
            return ops::few_rows(x, &self.matrix(), &ops::Around::bias(bias));
        }
        gather::submit();
        // As dense matrices in f16 meet many rows, where there is f16.
        let dtype = if self.kernels.f16() { DType::F16 } else { DType::F32 };
        let x_in = x.clone().cast(dtype);
        let parts = parts(rows, columns).map(|range| {
            let weight = self.part(range, dtype)?;
            Some(x_in.clone().matmul(weight.transpose()))
        });
        let parts: Option<Vec<_>> = parts.collect();
        Some(add_bias(Tensor::cat(parts?, 1).cast(x.dtype()), bias.cloned()))
    }

    /// Some of the rows, dequantised.
    fn part(&self, range: Range<usize>, dtype: DType) -> Option<Tensor<Cube<R>, 2>> {
        let [rows, columns] = self.shape;
        if !range.start.is_multiple_of(ALIGNED_ROWS) {
            let ids: Vec<u32> = (range.start as u32..range.end as u32).collect();
            return self.rows(Some(&ids), dtype);
        }
        let row_bytes = self.bytes / rows;
        let handle = self.handle.clone().offset_start((range.start * row_bytes) as u64);
        let bytes = range.len() * row_bytes;
        let part = Self { handle, bytes, shape: [range.len(), columns], ..self.clone() };
        part.rows(None, dtype)
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

/// The rows of a matrix, a part at a time: never all of them.
fn parts(rows: usize, columns: usize) -> impl Iterator<Item = Range<usize>> {
    let fit = (PART / columns).min(rows.div_ceil(2));
    let part = if fit < ALIGNED_ROWS { fit.max(1) } else { fit / ALIGNED_ROWS * ALIGNED_ROWS };
    (0..rows).step_by(part).map(move |first| first..(first + part).min(rows))
}

/// Values of the largest part.
pub(super) fn largest_part(rows: usize, columns: usize) -> usize {
    parts(rows, columns).next().map_or(0, |part| part.len() * columns)
}

/// [`Backend::packed_linear`].
pub(super) fn linear<R: Gpu>(
    x: Tensor<Cube<R>, 2>,
    weight: &CubePacked<R>,
    bias: Option<Tensor<Cube<R>, 1>>,
) -> Result<Tensor<Cube<R>, 2>, PackError> {
    if let Some(out) = weight.product(&x, bias.as_ref()) {
        return Ok(out);
    }
    ops::by_reference("packed_linear", "it takes f32 and the formats that kernels read");
    let dense = Cube::<R>::unpack(weight, &x.device(), x.dtype())?;
    Ok(Cube::<R>::dense_linear(x, dense, bias))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_is_the_whole() {
        for (rows, columns) in [(2, 32), (3, 256), (255, 2048), (4096, 64), (128_256, 2048)] {
            let all: Vec<_> = parts(rows, columns).collect();
            assert!(all.iter().all(|part| part.len() < rows && part.len() * columns <= PART));
            let next: Vec<_> = all.iter().skip(1).map(|part| part.start).chain([rows]).collect();
            assert_eq!(all.iter().map(|part| part.end).collect::<Vec<_>>(), next);
        }
    }
}
