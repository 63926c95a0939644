//! Weights by path: the path in the code reads like the path in the file.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use burn::{
    module::{Param, ParamId},
    tensor::{DType, Tensor},
};
use thiserror::Error;

use super::{Matrix, PackedWeight, SlotKind, Slots, Stored};
use crate::{
    backend::{Backend, HostPacked, PackError},
    formats::{Checkpoint, FormatError, RawTensor},
    quant::{self, QuantError},
};

/// Why a weight could not be put on a device.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file does not have it, or not as expected.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Its bytes could not be decoded.
    #[error("{}: tensor {tensor}: {source}", file.display())]
    Decode {
        /// The checkpoint.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong with it.
        source: QuantError,
    },
    /// Its blocks are not those of its shape.
    #[error("{}: tensor {tensor}: {source}", file.display())]
    Pack {
        /// The checkpoint.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong with them.
        source: PackError,
    },
    /// The device cannot bind a tensor of this size.
    #[error(
        "{}: tensor {tensor} takes {bytes} bytes, more than the {limit} that {device} can bind \
         at once", file.display()
    )]
    TooLarge {
        /// The checkpoint.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Bytes on the device.
        bytes: u64,
        /// Bytes that fit.
        limit: u64,
        /// The backend.
        device: String,
    },
}

/// A place in a checkpoint, and where its tensors shall go.
#[derive(Clone)]
pub struct Weights<'a, B: Backend> {
    checkpoint: &'a Checkpoint,
    device: &'a B::Device,
    dtype: DType,
    dequantize: bool,
    path: String,
    on_bytes: Option<&'a (dyn Fn(u64) + Sync)>,
    /// Shared by all places of the checkpoint.
    slots: Arc<Mutex<Slots<B>>>,
}

impl<'a, B: Backend> Weights<'a, B> {
    /// The root of a checkpoint. Matrices are stored as `dtype`; vectors (norms, biases) as f32,
    /// since they weigh nothing and are used in f32.
    pub fn new(checkpoint: &'a Checkpoint, device: &'a B::Device, dtype: DType) -> Self {
        Self {
            checkpoint,
            device,
            dtype,
            dequantize: false,
            path: String::new(),
            on_bytes: None,
            slots: Arc::new(Mutex::new(Slots::new(device.clone(), dtype))),
        }
    }

    /// Calls `report` with the file bytes of each tensor once it is loaded.
    #[must_use]
    pub fn on_bytes(mut self, report: &'a (dyn Fn(u64) + Sync)) -> Self {
        self.on_bytes = Some(report);
        self
    }

    /// Loads packed matrices as dense ones.
    #[must_use]
    pub fn dequantized(mut self, dequantize: bool) -> Self {
        self.dequantize = dequantize;
        self
    }

    /// The slots of all layers that have been loaded from this checkpoint, which are then forgotten
    /// here: to be called once the model is complete.
    pub fn take_slots(&self) -> Slots<B> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut slots, Slots::new(self.device.clone(), self.dtype))
    }

    /// Adds a stored matrix and the layers in it: names below this path (none for the path itself)
    /// and outputs.
    pub(super) fn add_slots(
        &self,
        kind: SlotKind,
        tied: bool,
        stored: Stored<B>,
        layers: &[(&str, usize)],
    ) -> usize {
        let path = |name: &str| if name.is_empty() { self.path.clone() } else { self.name(name) };
        let layers = layers.iter().map(|(name, outputs)| (path(name), *outputs));
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.add(kind, tied, stored, layers)
    }

    /// The place `name` below this one.
    #[must_use]
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        let path = self.name(name);
        Self { path, ..self.clone() }
    }

    fn name(&self, name: impl std::fmt::Display) -> String {
        match self.path.as_str() {
            "" => name.to_string(),
            path => format!("{path}.{name}"),
        }
    }

    /// Whether the checkpoint has a tensor of this name here.
    pub fn contains(&self, name: &str) -> bool {
        self.checkpoint.contains(&self.name(name))
    }

    /// A tensor as f32 on the host.
    ///
    /// # Errors
    /// [`LoadError`] when it is missing or has another shape.
    pub fn host(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        let raw = self.checkpoint.tensor_of_shape(&self.name(name), shape)?;
        let mut values = vec![0.0; shape.iter().product()];
        quant::dequantize(raw.encoding, &raw.bytes, &mut values)
            .map_err(|source| self.decode_error(&raw.name, source))?;
        if let Some(report) = self.on_bytes {
            report(raw.bytes.len() as u64);
        }
        Ok(values)
    }

    /// A matrix on the device: in the blocks of its file where the backend uses those as they are
    /// (unless they shall be [dequantised](Self::dequantized)), dense otherwise.
    ///
    /// # Errors
    /// As [`param`](Self::param), and [`LoadError::Pack`] for blocks that are cut short.
    pub fn matrix(&self, name: &str, shape: [usize; 2]) -> Result<Matrix<B>, LoadError> {
        self.as_matrix(self.checkpoint.tensor_of_shape(&self.name(name), &shape)?, shape)
    }

    /// The weight of the layer `name`, as it is stored.
    pub(super) fn weight_of(&self, name: &str, shape: [usize; 2]) -> Result<RawTensor, LoadError> {
        Ok(self.checkpoint.tensor_of_shape(&self.name(format_args!("{name}.weight")), &shape)?)
    }

    /// Whether a matrix of so many values fits a buffer of the device, whatever its type.
    pub(super) fn fits(&self, values: usize) -> bool {
        values as u64 * self.dtype.size() as u64 <= B::max_tensor_bytes(self.device)
    }

    /// Matrices of one encoding and width as one: their rows one under the other.
    pub(super) fn joined(&self, parts: &[&RawTensor]) -> Result<Matrix<B>, LoadError> {
        let names: Vec<_> = parts.iter().map(|part| part.name.as_str()).collect();
        let shape = [parts.iter().map(|part| part.shape[0]).sum(), parts[0].shape[1]];
        let raw = RawTensor {
            name: names.join(" + "),
            shape: shape.to_vec(),
            encoding: parts[0].encoding,
            bytes: parts.iter().map(|part| &*part.bytes).collect::<Vec<_>>().concat().into(),
        };
        self.as_matrix(raw, shape)
    }

    /// The biases of several layers (name and output features) as one.
    pub(super) fn joined_bias(
        &self,
        layers: &[(&str, usize)],
    ) -> Result<Param<Tensor<B, 1>>, LoadError> {
        if let [(name, features)] = layers {
            return self.param(&format!("{name}.bias"), [*features]);
        }
        let biases = layers.iter().map(|(name, n)| self.host(&format!("{name}.bias"), &[*n]));
        let bias = biases.collect::<Result<Vec<_>, _>>()?.concat();
        let bias = Tensor::from_data(&bias[..], (self.device, DType::F32));
        Ok(Param::initialized(ParamId::new(), bias.set_require_grad(false)))
    }

    pub(super) fn as_matrix(
        &self,
        raw: RawTensor,
        shape: [usize; 2],
    ) -> Result<Matrix<B>, LoadError> {
        if self.dequantize || !B::keeps_packed(raw.encoding, shape, self.device) {
            return Ok(Matrix::Dense(self.dense(raw, shape, B::stored)?));
        }
        let packed = HostPacked::new(raw.bytes.clone(), shape, raw.encoding).map_err(|source| {
            let file = self.checkpoint.path().to_path_buf();
            LoadError::Pack { file, tensor: raw.name, source }
        })?;
        let packed = B::pack(packed, self.device);
        if let Some(report) = self.on_bytes {
            report(raw.bytes.len() as u64);
        }
        Ok(Matrix::Packed(PackedWeight(packed)))
    }

    /// A tensor as a parameter on the device. It asks for no gradient until somebody sets that.
    ///
    /// # Errors
    /// [`LoadError`] when it is missing, has another shape, or does not fit the device.
    pub fn param<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
    ) -> Result<Param<Tensor<B, D>>, LoadError> {
        let raw = self.checkpoint.tensor_of_shape(&self.name(name), &shape)?;
        self.dense(raw, shape, |tensor| tensor)
    }

    fn dense<const D: usize>(
        &self,
        raw: RawTensor,
        shape: [usize; D],
        stored: fn(Tensor<B, D>) -> Tensor<B, D>,
    ) -> Result<Param<Tensor<B, D>>, LoadError> {
        let dtype = if D == 1 { DType::F32 } else { self.dtype };
        let bytes = shape.iter().product::<usize>() as u64 * dtype.size() as u64;
        let limit = B::max_tensor_bytes(self.device);
        if bytes > limit {
            return Err(LoadError::TooLarge {
                file: self.checkpoint.path().to_path_buf(),
                tensor: raw.name,
                bytes,
                limit,
                device: B::name(self.device),
            });
        }
        let data = crate::backend::tensor_data(raw.encoding, &raw.bytes, &shape, dtype)
            .map_err(|source| self.decode_error(&raw.name, source))?;
        // Weights stay for good: in the general pool they would be rounded up to its page sizes.
        let tensor = B::memory_persistent_allocations(self.device, data, |data| {
            stored(Tensor::<B, D>::from_data(data, (self.device, dtype)))
        });
        if let Some(report) = self.on_bytes {
            report(raw.bytes.len() as u64);
        }
        Ok(Param::initialized(ParamId::new(), tensor.set_require_grad(false)))
    }

    fn decode_error(&self, tensor: &str, source: QuantError) -> LoadError {
        LoadError::Decode {
            file: self.checkpoint.path().to_path_buf(),
            tensor: tensor.to_string(),
            source,
        }
    }
}
