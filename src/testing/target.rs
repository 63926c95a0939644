//! The backends that tests run on, by name.

use std::{fmt, str::FromStr};

use thiserror::Error;

#[cfg(feature = "cuda")]
use crate::backend::cuda::{self, Cuda};
use crate::{
    backend::{
        Autodiff, Candle, Cpu, Wgpu,
        wgpu::{AdapterError, ShaderLanguage, WgpuAdapter, WgpuDevice},
    },
    device::{DeviceError, DeviceJob},
};

/// What to do on a machine without an adapter.
pub const INSTALL_A_DRIVER: &str =
    "install a driver: apt-get install mesa-vulkan-drivers libvulkan1";

/// The language that the host's graphics API takes without a detour.
const NATIVE: ShaderLanguage =
    if cfg!(target_os = "macos") { ShaderLanguage::Msl } else { ShaderLanguage::SpirV };

/// A backend to test on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// [`Cpu`]: the one that golden files are made with.
    Cpu,
    /// [`Candle`].
    Candle,
    /// [`Wgpu`], kernels compiled to SPIR-V.
    WgpuSpirv,
    /// [`Wgpu`], kernels compiled to WGSL.
    WgpuWgsl,
    /// [`Wgpu`], kernels compiled to MSL.
    WgpuMsl,
    /// CUDA.
    #[cfg(feature = "cuda")]
    Cuda,
    /// [`Cpu`] with gradients.
    AutodiffCpu,
    /// [`Candle`] with gradients.
    AutodiffCandle,
    /// [`Wgpu`] with gradients, in the host's own shader language.
    AutodiffWgpu,
}

/// No backend has this name.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("unknown backend {name:?}: expected one of {}", Target::names())]
pub struct UnknownTarget {
    /// The name.
    pub name: String,
}

impl Target {
    const ALL: &[Self] = &[
        Self::Cpu,
        Self::Candle,
        Self::WgpuSpirv,
        Self::WgpuWgsl,
        Self::WgpuMsl,
        #[cfg(feature = "cuda")]
        Self::Cuda,
        Self::AutodiffCpu,
        Self::AutodiffCandle,
        Self::AutodiffWgpu,
    ];

    /// Every backend that this host's operating system can have, without gradients.
    pub const EVERY: [Self; 4] = [
        Self::Cpu,
        Self::Candle,
        if cfg!(target_os = "macos") { Self::WgpuMsl } else { Self::WgpuSpirv },
        Self::WgpuWgsl,
    ];

    fn names() -> String {
        Self::ALL.iter().map(|target| target.name()).collect::<Vec<_>>().join(", ")
    }

    /// The name in messages and on command lines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Candle => "candle",
            Self::WgpuSpirv => "wgpu-spirv",
            Self::WgpuWgsl => "wgpu-wgsl",
            Self::WgpuMsl => "wgpu-msl",
            #[cfg(feature = "cuda")]
            Self::Cuda => "cuda",
            Self::AutodiffCpu => "autodiff-cpu",
            Self::AutodiffCandle => "autodiff-candle",
            Self::AutodiffWgpu => "autodiff-wgpu",
        }
    }

    /// Runs a job on this backend; where wgpu sees several adapters, on the first that takes the
    /// language. Choices that `tune` saved are left aside, so that a test does not depend on them.
    ///
    /// # Errors
    /// [`DeviceError`] when the machine has no adapter for it, or the driver refuses.
    pub fn run<J: DeviceJob>(self, job: J) -> Result<J::Output, DeviceError> {
        let wgpu = |language| open_wgpu(language).map(|(device, _)| device);
        Ok(match self {
            Self::Cpu => job.run::<Cpu>(&Default::default()),
            Self::Candle => job.run::<Candle>(&Default::default()),
            Self::WgpuSpirv => job.run::<Wgpu>(&wgpu(ShaderLanguage::SpirV)?),
            Self::WgpuWgsl => job.run::<Wgpu>(&wgpu(ShaderLanguage::Wgsl)?),
            Self::WgpuMsl => job.run::<Wgpu>(&wgpu(ShaderLanguage::Msl)?),
            #[cfg(feature = "cuda")]
            Self::Cuda => job.run::<Cuda>(&cuda::open(0)?.0),
            Self::AutodiffCpu => job.run::<Autodiff<Cpu>>(&Default::default()),
            Self::AutodiffCandle => job.run::<Autodiff<Candle>>(&Default::default()),
            Self::AutodiffWgpu => job.run::<Autodiff<Wgpu>>(&wgpu(NATIVE)?),
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Target {
    type Err = UnknownTarget;

    fn from_str(name: &str) -> Result<Self, UnknownTarget> {
        let found = Self::ALL.iter().copied().find(|target| target.name() == name);
        found.ok_or_else(|| UnknownTarget { name: name.to_owned() })
    }
}

/// A device on the first adapter that takes `language`, and what it is, for people.
///
/// # Errors
/// [`AdapterError`] when the machine has none, or the driver refuses.
pub fn open_wgpu(language: ShaderLanguage) -> Result<(WgpuDevice, String), AdapterError> {
    let adapter = WgpuAdapter::find(language, 0)?;
    let device = adapter.open(language)?;
    Ok((device, format!("{} by {}", adapter.describe(), language.name())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for &target in Target::ALL {
            assert_eq!(target.to_string().parse(), Ok(target));
        }
        assert_eq!(format!("{:>6}", Target::Cpu), "   cpu", "a column of names lines up");
        let unknown = "gpu".parse::<Target>().expect_err("no such backend").to_string();
        assert!(unknown.starts_with("unknown backend \"gpu\": expected one of cpu, candle, wgpu-"));
    }
}
