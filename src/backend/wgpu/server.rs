//! Starting cubecl's server on an adapter.
//!
//! cubecl picks the compiler from the graphics API and the adapter's features. A Vulkan adapter
//! therefore always gets SPIR-V and a Metal adapter MSL, unless the server is put together by hand
//! with the features that WGSL can express: that is what [`wgsl_server`] does. Nothing else differs
//! from cubecl's own.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use burn_wgpu::{RuntimeOptions, WgpuDevice, WgpuRuntime, WgpuSetup, init_device};
use cubecl::{
    client::ComputeClient,
    features::{AtomicUsage, Plane, TypeUsage},
    ir::{
        AddressType, DeviceProperties, ElemType, FloatKind, HardwareProperties, IntKind,
        MemoryDeviceProperties, StorageType, Type, UIntKind,
    },
    profile::TimingMethod,
    server::ServerUtilities,
    wgpu::{AutoCompiler, WgpuServer},
};
use cubecl_runtime::{allocator::ContiguousMemoryLayoutPolicy, logging::ServerLogger};
use wgpu::{DeviceType, Features};

#[cfg(not(target_os = "macos"))]
use super::vulkan;
use super::{AdapterError, Opened, ShaderLanguage, WgpuAdapter};
use crate::{
    backend::streams::with_one_stream,
    dispatch::queue::{self, Queue, TASKS_PER_SUBMISSION},
};

/// The API that cubecl's server of a WGSL device takes itself to be on, for that alone decides
/// against MSL. It asks for nothing else.
const API_OF_WGSL: wgpu::Backend = wgpu::Backend::BrowserWebGpu;

/// Device numbers from here on are ours; cubecl's `init_device` counts up from zero.
const FIRST_WGSL_DEVICE: u32 = 0x8000;

static NEXT: AtomicU32 = AtomicU32::new(FIRST_WGSL_DEVICE);

pub(super) fn open(
    adapter: &WgpuAdapter,
    language: ShaderLanguage,
) -> Result<WgpuDevice, AdapterError> {
    let options = RuntimeOptions { tasks_max: TASKS_PER_SUBMISSION, ..RuntimeOptions::default() };
    let Opened { device, queue, leaves_checks_out } = match language {
        ShaderLanguage::Wgsl => request_portable(adapter)?,
        native => request_native(adapter, native)?,
    };
    let setup = WgpuSetup {
        instance: adapter.instance.clone(),
        adapter: adapter.adapter.clone(),
        device,
        queue,
        backend: adapter.info.backend,
    };
    let queue = Queue {
        device: setup.device.clone(),
        queue: setup.queue.clone(),
        compiler: match language {
            #[cfg(not(target_os = "macos"))]
            ShaderLanguage::SpirV => || AutoCompiler::SpirV(Default::default()),
            #[cfg(target_os = "macos")]
            ShaderLanguage::Msl => || AutoCompiler::Msl(Default::default()),
            _ => || AutoCompiler::Wgsl(Default::default()),
        },
        multiplies_bytes: multiplies_bytes(adapter, language),
        begins_in_order: begins_in_order(adapter, language),
        leaves_checks_out,
    };
    let id = with_one_stream(|| {
        if language == ShaderLanguage::Wgsl {
            let id = WgpuDevice::Existing(NEXT.fetch_add(1, Ordering::Relaxed));
            let _client = ComputeClient::<WgpuRuntime>::init(&id, wgsl_server(setup, options));
            id
        } else {
            init_device(setup, options)
        }
    });
    queue::register(id.clone(), queue);
    Ok(id)
}

/// NVIDIA's number at the PCI SIG.
const NVIDIA: u32 = 0x10de;

/// Whether the device begins the cubes of launches in the order of these, also where no barrier is between
/// them: NVIDIA's GPUs do, as far as was seen, and drivers for the CPU run one launch after the other.
/// Nothing says so, and of others nothing is known.
fn begins_in_order(adapter: &WgpuAdapter, language: ShaderLanguage) -> bool {
    let wgpu::AdapterInfo { vendor, device_type, .. } = adapter.info;
    language == ShaderLanguage::SpirV && (vendor == NVIDIA || device_type == wgpu::DeviceType::Cpu)
}

/// Whether there are kernels for the adapter that multiply bytes, and it takes them: Vulkan must since
/// 1.3, Metal has functions for it. (WGSL has them, too, but CubeCL does not.)
fn multiplies_bytes(adapter: &WgpuAdapter, language: ShaderLanguage) -> bool {
    match language {
        #[cfg(not(target_os = "macos"))]
        ShaderLanguage::SpirV => {
            // SAFETY: nothing is done with it.
            let adapter = unsafe { adapter.adapter.as_hal::<wgpu::hal::api::Vulkan>() };
            adapter.is_some_and(|adapter| {
                let properties = adapter.physical_device_capabilities().properties();
                properties.api_version >= ash::vk::API_VERSION_1_3
            })
        }
        ShaderLanguage::Msl => adapter.takes(language),
        _ => false,
    }
}

/// A device with the features that SPIR-V (or MSL) code may use.
#[cfg(not(target_os = "macos"))]
fn request_native(adapter: &WgpuAdapter, language: ShaderLanguage) -> Result<Opened, AdapterError> {
    vulkan::open(&adapter.adapter).map_err(|reason| AdapterError::Language {
        adapter: adapter.describe(),
        language: language.name(),
        reason,
    })
}

#[cfg(target_os = "macos")]
#[allow(clippy::unnecessary_wraps)]
fn request_native(
    adapter: &WgpuAdapter,
    _language: ShaderLanguage,
) -> Result<Opened, AdapterError> {
    let opened = cubecl::wgpu::metal::request_metal_device(&adapter.adapter);
    let (device, queue) = pollster::block_on(opened);
    Ok(Opened { device, queue, leaves_checks_out: false })
}

/// A device with what the WebGPU interface itself offers.
fn request_portable(adapter: &WgpuAdapter) -> Result<Opened, AdapterError> {
    let features = adapter.adapter.features() & portable_features();
    let opened = pollster::block_on(adapter.adapter.request_device(&wgpu::DeviceDescriptor {
        label: None,
        required_features: features,
        required_limits: adapter.adapter.limits(),
        memory_hints: wgpu::MemoryHints::MemoryUsage,
        trace: wgpu::Trace::Off,
        experimental_features: wgpu::ExperimentalFeatures::disabled(),
    }));
    let refused = |error: wgpu::RequestDeviceError| AdapterError::Open {
        adapter: adapter.describe(),
        reason: error.to_string(),
    };
    let (device, queue) = opened.map_err(refused)?;
    Ok(Opened { device, queue, leaves_checks_out: false })
}

fn portable_features() -> Features {
    Features::SHADER_F16
        | Features::SHADER_INT64
        | Features::SUBGROUP
        | Features::TIMESTAMP_QUERY
        | Features::SHADER_FLOAT32_ATOMIC
}

fn wgsl_server(setup: WgpuSetup, options: RuntimeOptions) -> WgpuServer {
    let limits = setup.device.limits();
    let features = setup.device.features();
    let info = setup.adapter.get_info();
    // WebGPU without subgroups reports zeros, but cubecl's reductions read the sizes all the same.
    let plane_size = match (info.subgroup_min_size, info.subgroup_max_size) {
        (0, 0) => (8, 128),
        sizes => sizes,
    };
    let memory = MemoryDeviceProperties {
        max_page_size: limits.max_storage_buffer_binding_size,
        alignment: u64::from(limits.min_uniform_buffer_offset_alignment),
    };
    let max_count = limits.max_compute_workgroups_per_dimension;
    let hardware = HardwareProperties {
        load_width: 128,
        plane_size_min: plane_size.0,
        plane_size_max: plane_size.1,
        // cubecl binds one more buffer of its own.
        max_bindings: limits.max_storage_buffers_per_shader_stage.saturating_sub(1),
        max_shared_memory_size: limits.max_compute_workgroup_storage_size as usize,
        max_cube_count: (max_count, max_count, max_count),
        max_units_per_cube: limits.max_compute_invocations_per_workgroup,
        max_cube_dim: (
            limits.max_compute_workgroup_size_x,
            limits.max_compute_workgroup_size_y,
            limits.max_compute_workgroup_size_z,
        ),
        num_streaming_multiprocessors: None,
        num_tensor_cores: None,
        min_tensor_cores_dim: None,
        num_cpu_cores: None,
        max_vector_size: 4,
    };
    let timing = if features.contains(Features::TIMESTAMP_QUERY) {
        TimingMethod::Device
    } else {
        TimingMethod::System
    };
    let mut properties =
        DeviceProperties::new(Default::default(), memory.clone(), hardware, timing);
    register_types(&mut properties, features);
    if features.contains(Features::SUBGROUP) && info.device_type != DeviceType::Cpu {
        properties.features.plane.insert(Plane::Ops);
    }
    let compilation = cubecl::WgpuCompilationOptions {
        supports_u64: features.contains(Features::SHADER_INT64),
        ..Default::default()
    };
    let allocator = ContiguousMemoryLayoutPolicy::new(memory.alignment as usize);
    WgpuServer::new(
        memory,
        options.memory_config,
        compilation,
        setup.device,
        setup.queue,
        options.tasks_max,
        API_OF_WGSL,
        timing,
        ServerUtilities::new(properties, Arc::new(ServerLogger::default()), API_OF_WGSL, allocator),
    )
}

/// The types that WGSL has, given the device's features.
fn register_types(properties: &mut DeviceProperties, features: Features) {
    properties.register_address_type(AddressType::U32);
    let mut types = vec![
        ElemType::UInt(UIntKind::U32),
        ElemType::Int(IntKind::I32),
        ElemType::Float(FloatKind::F32),
        ElemType::Float(FloatKind::Flex32),
        ElemType::Bool,
    ];
    if features.contains(Features::SHADER_INT64) {
        types.extend([ElemType::Int(IntKind::I64), ElemType::UInt(UIntKind::U64)]);
    }
    if features.contains(Features::SHADER_F16) {
        types.push(ElemType::Float(FloatKind::F16));
    }
    for elem in types {
        properties.register_type_usage(elem, TypeUsage::all());
    }
    let mut atomics = vec![ElemType::Int(IntKind::I32), ElemType::UInt(UIntKind::U32)];
    if features.contains(Features::SHADER_FLOAT32_ATOMIC) {
        atomics.push(ElemType::Float(FloatKind::F32));
    }
    for elem in atomics {
        properties.register_atomic_type_usage(
            Type::new(StorageType::Atomic(elem)),
            AtomicUsage::LoadStore | AtomicUsage::Add,
        );
    }
}
