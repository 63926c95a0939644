//! Choosing a device, once, at the edge: a `match` here picks the backend's type, and everything
//! below is generic.

use std::{str::FromStr, sync::Arc};

use burn::tensor::{DType, backend::Backend as _};
use thiserror::Error;

#[cfg(feature = "cuda")]
use crate::backend::cuda::{self, Cuda, CudaDevice, CudaError};
use crate::{
    backend::{
        Backend, Candle, Cpu, Wgpu,
        wgpu::{AdapterError, ShaderLanguage, WgpuAdapter, WgpuDevice, adapters},
    },
    dispatch::{Choices, Kernels, queue, tune},
    memory,
};

/// Why a device could not be had.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// The name means nothing.
    #[error(
        "unknown device {0:?}: expected auto, cpu, candle, wgpu, vulkan, metal or cuda, with an \
         optional number as in vulkan:1"
    )]
    Unknown(String),
    /// This build or host cannot have it.
    #[error("device {device} is not available: {reason}")]
    Unavailable {
        /// The device asked for.
        device: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// wgpu has no such adapter.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// The machine has no such CUDA device.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// The device cannot compute in the type asked for.
    #[error("{device} cannot compute in {dtype}; use --dtype f32")]
    Dtype {
        /// The device.
        device: String,
        /// The type.
        dtype: &'static str,
    },
}

/// What the user asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first real GPU, else the CPU.
    Auto,
    /// This crate's CPU backend.
    Cpu,
    /// candle on the CPU.
    Candle,
    /// The n-th adapter through wgpu's portable path (WGSL).
    Wgpu(usize),
    /// The n-th Vulkan adapter (SPIR-V).
    Vulkan(usize),
    /// The n-th Metal adapter (MSL).
    Metal(usize),
    /// The n-th CUDA device.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::Unknown(text.to_string());
        let (name, index) = match text.split_once(':') {
            None => (text, None),
            Some((name, index)) => (name, Some(index.parse().map_err(|_| unknown())?)),
        };
        match (name, index) {
            ("auto", None) => Ok(Self::Auto),
            ("cpu", None) => Ok(Self::Cpu),
            ("candle", None) => Ok(Self::Candle),
            ("wgpu", n) => Ok(Self::Wgpu(n.unwrap_or(0))),
            ("vulkan", n) => Ok(Self::Vulkan(n.unwrap_or(0))),
            ("metal", n) => Ok(Self::Metal(n.unwrap_or(0))),
            ("cuda", n) => Ok(Self::Cuda(n.unwrap_or(0))),
            _ => Err(unknown()),
        }
    }
}

/// A device that is open.
#[derive(Clone, Debug)]
pub enum Device {
    /// This crate's CPU backend.
    Cpu,
    /// candle on the CPU.
    Candle,
    /// A wgpu adapter.
    Wgpu {
        /// The device, with its shader language.
        device: WgpuDevice,
        /// Adapter and language, for people.
        description: String,
        /// Whether the driver computes on the CPU.
        software: bool,
    },
    /// A CUDA device.
    #[cfg(feature = "cuda")]
    Cuda {
        /// The device.
        device: CudaDevice,
        /// Its name, for people.
        description: String,
    },
}

/// Takes what `tune` found on this device before, if it was ever run.
fn use_choices(kernels: &Kernels, description: &str) {
    let Some(path) = tune::default_path(description).filter(|path| path.exists()) else { return };
    match Choices::load(&path) {
        Ok(choices) => *kernels.choices() = choices,
        Err(error) => tracing::warn!(%error, "going on without the choices of an earlier tuning"),
    }
}

/// Work that runs on whichever backend a [`Device`] belongs to.
pub trait DeviceJob {
    /// What comes of it.
    type Output;

    /// Does it.
    fn run<B: Backend>(self, device: &B::Device) -> Self::Output;
}

impl Device {
    /// The device that `auto` stands for, and why.
    pub fn auto() -> (Self, String) {
        let found = adapters();
        let Some(adapter) = found.iter().find(|adapter| !adapter.is_software()) else {
            let why = match found.first() {
                None => "wgpu found no GPU".to_string(),
                Some(software) => format!("wgpu found only a software driver, {}", software.name()),
            };
            return (Self::Cpu, why);
        };
        match Self::on(adapter, adapter.native_language()) {
            Ok(device) => (device, "the first GPU that wgpu found".into()),
            Err(error) => (Self::Cpu, error.to_string()),
        }
    }

    /// Opens what was asked for; the text says why, where there was a choice.
    ///
    /// # Errors
    /// [`DeviceError`] when there is no such device.
    pub fn open(choice: DeviceChoice) -> Result<(Self, String), DeviceError> {
        let asked = String::from("as asked");
        let with = |language, index| -> Result<Self, DeviceError> {
            Ok(Self::on(&WgpuAdapter::find(language, index)?, language)?)
        };
        Ok(match choice {
            DeviceChoice::Auto => Self::auto(),
            DeviceChoice::Cpu => (Self::Cpu, asked),
            DeviceChoice::Candle => (Self::Candle, asked),
            DeviceChoice::Wgpu(index) => (with(ShaderLanguage::Wgsl, index)?, asked),
            DeviceChoice::Vulkan(index) => (with(ShaderLanguage::SpirV, index)?, asked),
            DeviceChoice::Metal(index) => {
                if !cfg!(target_os = "macos") {
                    return Err(DeviceError::Unavailable {
                        device: "metal",
                        reason: "Metal exists on Apple systems only",
                    });
                }
                (with(ShaderLanguage::Msl, index)?, asked)
            }
            DeviceChoice::Cuda(index) => (Self::cuda(index)?, asked),
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda(index: usize) -> Result<Self, DeviceError> {
        let (device, name) = cuda::open(index)?;
        let description = format!("{name} by CUDA");
        use_choices(&Kernels::of_cuda(&device), &description);
        Ok(Self::Cuda { device, description })
    }

    #[cfg(not(feature = "cuda"))]
    fn cuda(_index: usize) -> Result<Self, DeviceError> {
        Err(DeviceError::Unavailable {
            device: "cuda",
            reason: "this build has no CUDA: build with --features cuda; an NVIDIA GPU also works as \
                     vulkan",
        })
    }

    fn on(adapter: &WgpuAdapter, language: ShaderLanguage) -> Result<Self, AdapterError> {
        let device = adapter.open(language)?;
        let description = format!("{} by {}", adapter.describe(), language.name());
        use_choices(&Kernels::of(&device), &description);
        Ok(Self::Wgpu { device, description, software: adapter.is_software() })
    }

    /// Backend and hardware, for people.
    pub fn describe(&self) -> String {
        match self {
            Self::Cpu => format!("cpu ({} threads)", rayon::current_num_threads()),
            Self::Candle => "candle (CPU)".into(),
            Self::Wgpu { description, .. } => description.clone(),
            #[cfg(feature = "cuda")]
            Self::Cuda { description, .. } => description.clone(),
        }
    }

    /// The type that matrices are stored in when the user leaves it open: f16 on a GPU that has it,
    /// f32 elsewhere.
    pub fn default_dtype(&self) -> DType {
        match self {
            Self::Wgpu { device, software: false, .. }
                if Wgpu::supports_dtype(device, DType::F16) =>
            {
                DType::F16
            }
            #[cfg(feature = "cuda")]
            Self::Cuda { .. } => DType::F16,
            _ => DType::F32,
        }
    }

    /// Whether matrices can be stored in a type.
    ///
    /// # Errors
    /// [`DeviceError::Dtype`] when they cannot.
    pub fn check_dtype(&self, dtype: DType) -> Result<(), DeviceError> {
        match self {
            Self::Wgpu { device, .. } if !Wgpu::supports_dtype(device, dtype) => {
                Err(DeviceError::Dtype { device: self.describe(), dtype: dtype.name() })
            }
            #[cfg(feature = "cuda")]
            Self::Cuda { device, .. } if !Cuda::supports_dtype(device, dtype) => {
                Err(DeviceError::Dtype { device: self.describe(), dtype: dtype.name() })
            }
            _ => Ok(()),
        }
    }

    /// Memory that is held on the device, in bytes; `None` where that is the host's.
    pub fn memory_bytes(&self) -> Option<u64> {
        self.kernels()?.memory_bytes()
    }

    /// Memory that a model can have on the device, in bytes: what the host has available for what
    /// computes on the CPU, what is left of it for GPUs through Vulkan, and all there is for CUDA. Others do not
    /// say, so that it is `None`.
    pub fn available_bytes(&self) -> Option<u64> {
        match self {
            Self::Cpu | Self::Candle | Self::Wgpu { software: true, .. } => {
                memory::available_host_bytes()
            }
            Self::Wgpu { device, .. } => queue::memory_left(device),
            #[cfg(feature = "cuda")]
            Self::Cuda { device, .. } => cuda::memory_bytes(device),
        }
    }

    /// The kernels of a GPU.
    pub fn kernels(&self) -> Option<Arc<Kernels>> {
        match self {
            Self::Cpu | Self::Candle => None,
            Self::Wgpu { device, .. } => Some(Kernels::of(device)),
            #[cfg(feature = "cuda")]
            Self::Cuda { device, .. } => Some(Kernels::of_cuda(device)),
        }
    }

    /// Runs a job on the backend that this device belongs to.
    pub fn dispatch<J: DeviceJob>(&self, job: J) -> J::Output {
        match self {
            Self::Cpu => job.run::<Cpu>(&burn_flex::FlexDevice),
            #[allow(deprecated)]
            Self::Candle => job.run::<Candle>(&burn_candle::CandleDevice::Cpu),
            Self::Wgpu { device, .. } => job.run::<Wgpu>(device),
            #[cfg(feature = "cuda")]
            Self::Cuda { device, .. } => job.run::<Cuda>(device),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read_from_text() {
        let parse = |text: &str| text.parse::<DeviceChoice>();
        assert_eq!(parse("auto").unwrap(), DeviceChoice::Auto);
        assert_eq!(parse("vulkan:1").unwrap(), DeviceChoice::Vulkan(1));
        assert_eq!(parse("wgpu").unwrap(), DeviceChoice::Wgpu(0));
        for wrong in ["", "gpu", "cpu:1", "vulkan:", "vulkan:x", "metal:-1"] {
            assert!(parse(wrong).unwrap_err().to_string().contains(wrong));
        }
    }
}
