//! Block-quantised weights on the host, and the defaults that dequantise them.

use std::any::Any;

use burn::tensor::{DType, Tensor, TensorData};
use bytes::Bytes;
use half::f16;
use thiserror::Error;

use super::Backend;
use crate::quant::{self, Encoding, QuantError};

/// Why packed weights could not be made or used.
#[derive(Debug, Error)]
pub enum PackError {
    /// The bytes do not hold the shape.
    #[error(
        "packed weight [{rows}, {columns}] as {encoding} needs {expected} bytes, found {found}"
    )]
    Size {
        /// Output features.
        rows: usize,
        /// Input features.
        columns: usize,
        /// Name of the encoding.
        encoding: &'static str,
        /// Bytes that the shape takes; 0 when a row is no whole number of blocks.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// A row outside the weight.
    #[error("row {row} of a packed weight with {rows} rows")]
    RowOutOfRange {
        /// The row asked for.
        row: u32,
        /// Rows there are.
        rows: usize,
    },
    /// The blocks could not be dequantised.
    #[error(transparent)]
    Quant(#[from] QuantError),
    /// A backend has no way to do it.
    #[error("{operation} is not supported on {backend}: {reason}")]
    Unsupported {
        /// What was asked.
        operation: &'static str,
        /// Of whom.
        backend: String,
        /// Why not.
        reason: String,
    },
}

/// What every backend's packed storage can do.
pub trait PackedStorage: Any + Clone + Send + Sync + std::fmt::Debug {
    /// Shape of the weight, `[out, in]`.
    fn shape(&self) -> [usize; 2];

    /// How its values are stored.
    fn encoding(&self) -> Encoding;

    /// The blocks on the host: shared when they are there already, read back otherwise.
    ///
    /// # Errors
    /// [`PackError::Unsupported`] where they cannot be read back.
    fn to_host(&self) -> Result<HostPacked, PackError>;
}

/// A weight `[out, in]` as a file stores it: rows of blocks, in shared host memory or in a mapped
/// file.
#[derive(Clone, Debug)]
pub struct HostPacked {
    bytes: Bytes,
    shape: [usize; 2],
    encoding: Encoding,
}

impl HostPacked {
    /// Wraps the blocks of a `[out, in]` weight.
    ///
    /// # Errors
    /// [`PackError::Size`] when the bytes do not hold exactly that shape.
    pub fn new(
        bytes: impl Into<Bytes>,
        shape: [usize; 2],
        encoding: Encoding,
    ) -> Result<Self, PackError> {
        let bytes = bytes.into();
        let expected =
            encoding.bytes_for(shape[1]).and_then(|row| row.checked_mul(shape[0])).unwrap_or(0);
        if expected != bytes.len() {
            return Err(PackError::Size {
                rows: shape[0],
                columns: shape[1],
                encoding: encoding.name(),
                expected,
                found: bytes.len(),
            });
        }
        Ok(Self { bytes, shape, encoding })
    }

    /// The blocks, row after row.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The blocks of one row.
    fn row(&self, row: usize) -> &[u8] {
        let len = self.bytes.len() / self.shape[0].max(1);
        &self.bytes[row * len..(row + 1) * len]
    }

    /// These rows as a weight of their own.
    pub(super) fn rows(&self, ids: &[u32]) -> Result<Self, PackError> {
        let [rows, columns] = self.shape;
        check_rows(ids, rows)?;
        let mut bytes = Vec::with_capacity(ids.len() * self.row(0).len());
        for &id in ids {
            bytes.extend_from_slice(self.row(id as usize));
        }
        Self::new(bytes, [ids.len(), columns], self.encoding)
    }
}

impl PackedStorage for HostPacked {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }

    fn encoding(&self) -> Encoding {
        self.encoding
    }

    fn to_host(&self) -> Result<HostPacked, PackError> {
        Ok(self.clone())
    }
}

/// Values of `encoding` as tensor data of `dtype` (f16 stays f16, everything else goes through f32).
///
/// # Errors
/// [`QuantError`] when the bytes do not hold that many elements.
pub(crate) fn tensor_data(
    encoding: Encoding,
    bytes: &[u8],
    shape: &[usize],
    dtype: DType,
) -> Result<TensorData, QuantError> {
    let elements = shape.iter().product();
    if dtype == DType::F16 {
        let mut values = vec![f16::ZERO; elements];
        quant::dequantize_f16(encoding, bytes, &mut values)?;
        Ok(TensorData::new(values, shape.to_vec()))
    } else {
        let mut values = vec![0.0f32; elements];
        quant::dequantize(encoding, bytes, &mut values)?;
        Ok(TensorData::new(values, shape.to_vec()))
    }
}

pub(super) fn unpack<B: Backend>(
    weight: &HostPacked,
    device: &B::Device,
    dtype: DType,
) -> Result<Tensor<B, 2>, PackError> {
    let data = tensor_data(weight.encoding, &weight.bytes, &weight.shape, dtype)?;
    Ok(Tensor::from_data(data, (device, dtype)))
}

pub(super) fn rows<B: Backend>(
    weight: &HostPacked,
    ids: &[u32],
    device: &B::Device,
    dtype: DType,
) -> Result<Tensor<B, 2>, PackError> {
    unpack(&weight.rows(ids)?, device, dtype)
}

/// Whether a weight has these rows.
pub(super) fn check_rows(ids: &[u32], rows: usize) -> Result<(), PackError> {
    match ids.iter().find(|&&id| id as usize >= rows) {
        Some(&row) => Err(PackError::RowOutOfRange { row, rows }),
        None => Ok(()),
    }
}
