//! Block-quantised weights on a GPU. Rows of `x` meet the blocks as they are: a few of them in the
//! matrix-vector kernels, many in the tiled kernels.

use std::sync::Arc;

use burn::tensor::{DType, Tensor, backend::Backend as _};
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
        if x.dims()[0] <= ops::FEW_ROWS {
            return ops::few_rows(x, &self.matrix(), &ops::Around::bias(bias));
        }
        ops::many_rows(x, &self.matrix(), bias)
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
        let floats = rows * columns;
        let out = if ids.is_some() && !f16 {
            tensors::announced(&self.kernels, floats)
        } else {
            self.kernels.empty(floats * dtype.size())
        };
        let ids = ids.map(|ids| self.kernels.ids(ids));
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
        Some(tensors::tensor(tensor))
    }
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
