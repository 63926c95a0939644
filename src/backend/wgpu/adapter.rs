//! Finding adapters and opening devices on them, with errors instead of cubecl's panics.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use burn_wgpu::WgpuDevice;
use thiserror::Error;
use wgpu::{Adapter, AdapterInfo, Backend as Api, Backends, DeviceType, Instance};

use super::{ShaderLanguage, server};

/// Why no wgpu device could be had.
#[derive(Debug, Error)]
pub enum AdapterError {
    /// No adapter of the kind asked for.
    #[error(
        "no {wanted} adapter found (wgpu sees: {seen}); on Linux a GPU needs its Vulkan driver and \
         the loader `libvulkan1`, and `mesa-vulkan-drivers` has a software driver"
    )]
    NotFound {
        /// What was asked for.
        wanted: String,
        /// What there is.
        seen: String,
    },
    /// The adapter cannot take the language.
    #[error("{adapter} cannot run {language}: {reason}")]
    Language {
        /// Name of the adapter.
        adapter: String,
        /// Name of the language.
        language: &'static str,
        /// Why not.
        reason: String,
    },
    /// The driver would not open the device.
    #[error("{adapter} could not be opened: {reason}")]
    Open {
        /// Name of the adapter.
        adapter: String,
        /// The driver's words.
        reason: String,
    },
}

/// An adapter that wgpu can drive.
#[derive(Clone, Debug)]
pub struct WgpuAdapter {
    pub(super) instance: Instance,
    pub(super) adapter: Adapter,
    pub(super) info: AdapterInfo,
}

/// Where adapters are looked for. A Mac may have Vulkan as well, as a layer over Metal: that would
/// be the same GPU once more, for SPIR-V, which a Mac's build has no compiler for.
const APIS: Backends = if cfg!(target_os = "macos") { Backends::METAL } else { Backends::PRIMARY };

/// All adapters of Vulkan, Metal, DX12 and browser WebGPU: real GPUs first, software last.
pub fn adapters() -> Vec<WgpuAdapter> {
    let instance = Instance::new(wgpu::InstanceDescriptor {
        backends: APIS,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let mut found: Vec<_> = pollster::block_on(instance.enumerate_adapters(APIS))
        .into_iter()
        .map(|adapter| {
            let info = adapter.get_info();
            WgpuAdapter { instance: instance.clone(), adapter, info }
        })
        .collect();
    found.sort_by_key(|adapter| match adapter.info.device_type {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    });
    found
}

/// The adapters' names, for messages.
pub(super) fn list(adapters: &[WgpuAdapter]) -> String {
    if adapters.is_empty() {
        return "none".into();
    }
    adapters.iter().map(WgpuAdapter::describe).collect::<Vec<_>>().join("; ")
}

impl WgpuAdapter {
    /// The `index`-th adapter whose API takes `language`.
    ///
    /// # Errors
    /// [`AdapterError::NotFound`], listing what there is.
    pub fn find(language: ShaderLanguage, index: usize) -> Result<Self, AdapterError> {
        let all = adapters();
        let seen = list(&all);
        all.into_iter().filter(|a| a.takes(language)).nth(index).ok_or_else(|| {
            AdapterError::NotFound {
                wanted: match index {
                    0 => language.name().to_string(),
                    n => format!("{} (number {n})", language.name()),
                },
                seen,
            }
        })
    }

    /// Name as the driver gives it.
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// Name, graphics API and driver on one line.
    pub fn describe(&self) -> String {
        let AdapterInfo { name, backend, driver, driver_info, .. } = &self.info;
        let driver = [driver.as_str(), driver_info.as_str()].join(" ");
        format!("{name} ({backend:?}, {})", driver.trim())
    }

    /// Whether this is a driver that computes on the CPU.
    pub fn is_software(&self) -> bool {
        self.info.device_type == DeviceType::Cpu
    }

    /// Whether the adapter's API takes a language at all.
    pub fn takes(&self, language: ShaderLanguage) -> bool {
        match language {
            ShaderLanguage::Wgsl => true,
            ShaderLanguage::SpirV => self.info.backend == Api::Vulkan,
            ShaderLanguage::Msl => self.info.backend == Api::Metal,
        }
    }

    /// The language that reaches the driver without a detour.
    pub fn native_language(&self) -> ShaderLanguage {
        match self.info.backend {
            Api::Vulkan => ShaderLanguage::SpirV,
            Api::Metal => ShaderLanguage::Msl,
            _ => ShaderLanguage::Wgsl,
        }
    }

    /// A device on this adapter whose kernels are compiled to `language`. Opening the same adapter
    /// and language again gives the same device.
    ///
    /// # Errors
    /// [`AdapterError`] when the adapter cannot take the language or the driver refuses.
    pub fn open(&self, language: ShaderLanguage) -> Result<WgpuDevice, AdapterError> {
        static OPEN: Mutex<Option<HashMap<(String, ShaderLanguage), WgpuDevice>>> =
            Mutex::new(None);
        let key = (
            format!("{} {} {}", self.describe(), self.info.device, self.info.device_pci_bus_id),
            language,
        );
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let open = open.get_or_insert_default();
        if let Some(device) = open.get(&key) {
            return Ok(device.clone());
        }
        if !self.takes(language) {
            return Err(AdapterError::Language {
                adapter: self.describe(),
                language: language.name(),
                reason: "its graphics API takes another language".into(),
            });
        }
        let device = server::open(self, language)?;
        tracing::info!(adapter = %self.describe(), language = language.name(), "opened");
        open.insert(key, device.clone());
        Ok(device)
    }
}
