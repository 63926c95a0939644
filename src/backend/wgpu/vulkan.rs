//! Opening a Vulkan device as CubeCL's SPIR-V needs it.
//!
//! CubeCL would do so itself (`request_vulkan_device`). But drivers check every access of a buffer on its device,
//! for wgpu asks them to, and no pipeline can say that it needs no checks
//! ([`VK_EXT_pipeline_robustness`](https://docs.vulkan.org/refpages/latest/refpages/source/VK_EXT_pipeline_robustness.html)).
//! So a device is opened here with what CubeCL asks for (cubecl-wgpu 0.10: what it finds on the adapter is what it
//! takes the device to have) and with that extension.

use std::ffi::{CStr, c_void};

use ash::vk::{self, Bool32, StructureType};
use tracel_ash::vk as newer;
use wgpu::{
    Features, MemoryHints,
    hal::{api::Vulkan, vulkan},
};

use super::Opened;

/// What is asked for, in the order of [`kinds`].
const MEMORY_MODEL: usize = 0;
const DEVICE_ADDRESS: usize = 1;
const INDEX_64: usize = 2;
const PIPELINE_ROBUSTNESS: usize = 3;

/// A structure of features that Vulkan may have.
struct Kind {
    ty: newer::StructureType,
    flags: usize,
    /// The version that it is a part of, and the extension before that.
    since: u32,
    extension: &'static CStr,
}

const fn kind<T: newer::TaggedStructure<'static>>(since: u32, extension: &'static CStr) -> Kind {
    let flags = (size_of::<T>() - size_of::<[usize; 2]>()) / size_of::<Bool32>();
    Kind { ty: T::STRUCTURE_TYPE, flags, since, extension }
}

/// Of all versions so far none has it.
const NEVER: u32 = u32::MAX;

macro_rules! kinds {
    ($($ty:ident, $since:expr, $extension:ident;)*) => {
        vec![$(kind::<newer::$ty>($since, newer::$extension)),*]
    };
}

#[rustfmt::skip] // a table
fn kinds() -> Vec<Kind> {
    kinds! {
        PhysicalDeviceVulkanMemoryModelFeatures, newer::API_VERSION_1_2, KHR_VULKAN_MEMORY_MODEL_NAME;
        PhysicalDeviceBufferDeviceAddressFeatures, newer::API_VERSION_1_2, KHR_BUFFER_DEVICE_ADDRESS_NAME;
        PhysicalDeviceShader64BitIndexingFeaturesEXT, NEVER, EXT_SHADER_64BIT_INDEXING_NAME;
        PhysicalDevicePipelineRobustnessFeatures, NEVER, EXT_PIPELINE_ROBUSTNESS_NAME;
        PhysicalDeviceShaderAtomicInt64Features, newer::API_VERSION_1_2, KHR_SHADER_ATOMIC_INT64_NAME;
        PhysicalDeviceShaderFloat16Int8Features, newer::API_VERSION_1_2, KHR_SHADER_FLOAT16_INT8_NAME;
        PhysicalDevice16BitStorageFeatures, newer::API_VERSION_1_1, KHR_16BIT_STORAGE_NAME;
        PhysicalDevice8BitStorageFeatures, newer::API_VERSION_1_2, KHR_8BIT_STORAGE_NAME;
        PhysicalDeviceShaderSubgroupExtendedTypesFeatures, newer::API_VERSION_1_2, KHR_SHADER_SUBGROUP_EXTENDED_TYPES_NAME;
        PhysicalDeviceUniformBufferStandardLayoutFeatures, newer::API_VERSION_1_2, KHR_UNIFORM_BUFFER_STANDARD_LAYOUT_NAME;
        PhysicalDeviceCooperativeMatrixFeaturesKHR, NEVER, KHR_COOPERATIVE_MATRIX_NAME;
        PhysicalDeviceShaderAtomicFloatFeaturesEXT, NEVER, EXT_SHADER_ATOMIC_FLOAT_NAME;
        PhysicalDeviceShaderAtomicFloat2FeaturesEXT, NEVER, EXT_SHADER_ATOMIC_FLOAT2_NAME;
        PhysicalDeviceShaderFloatControls2FeaturesKHR, NEVER, KHR_SHADER_FLOAT_CONTROLS2_NAME;
        PhysicalDeviceShaderBfloat16FeaturesKHR, NEVER, KHR_SHADER_BFLOAT16_NAME;
        PhysicalDeviceShaderFloat8FeaturesEXT, NEVER, EXT_SHADER_FLOAT8_NAME;
        PhysicalDeviceWorkgroupMemoryExplicitLayoutFeaturesKHR, NEVER, KHR_WORKGROUP_MEMORY_EXPLICIT_LAYOUT_NAME;
        PhysicalDeviceShaderUniformBufferUnsizedArrayFeaturesEXT, NEVER, EXT_SHADER_UNIFORM_BUFFER_UNSIZED_ARRAY_NAME;
        PhysicalDeviceMaintenance8FeaturesKHR, NEVER, KHR_MAINTENANCE8_NAME;
        PhysicalDeviceMaintenance9FeaturesKHR, NEVER, KHR_MAINTENANCE9_NAME;
        PhysicalDeviceShaderAtomicFloat16VectorFeaturesNV, NEVER, NV_SHADER_ATOMIC_FLOAT16_VECTOR_NAME;
    }
}

/// Flags of a structure at most.
const MOST_FLAGS: usize = 32;

/// Any of these structures: a type, a pointer to the next one, and flags. Who knows the type reads and writes as
/// many of these as it has.
#[repr(C)]
struct Block {
    ty: StructureType,
    next: *mut c_void,
    flags: [Bool32; MOST_FLAGS],
}

impl Block {
    fn of(kind: &Kind) -> Option<Self> {
        let ty = StructureType::from_raw(kind.ty.as_raw());
        let fits = kind.flags <= MOST_FLAGS;
        fits.then_some(Self { ty, next: std::ptr::null_mut(), flags: [vk::FALSE; MOST_FLAGS] })
    }
}

/// The features to ask an adapter for: a block for each kind, `None` where the adapter does not know it; and the
/// extensions that these take.
fn asked_for(
    adapter: &vulkan::Adapter,
    kinds: &[Kind],
) -> (Vec<Option<Block>>, Vec<&'static CStr>) {
    let capabilities = adapter.physical_device_capabilities();
    let version = capabilities.properties().api_version;
    let mut extensions = Vec::new();
    let blocks = kinds.iter().map(|kind| {
        if version < kind.since {
            if !capabilities.supports_extension(kind.extension) {
                return None;
            }
            extensions.push(kind.extension);
        }
        Block::of(kind)
    });
    let blocks = blocks.collect();
    (blocks, extensions)
}

/// Puts blocks before what a structure is followed by; into those that are there already, their flags. What the
/// structure is followed by then.
///
/// # Safety
/// What follows the structure must be Vulkan's, and writable. The blocks must stay where they are as long as they
/// are looked at.
unsafe fn chain(
    mut first: *mut c_void,
    kinds: &[Kind],
    blocks: &mut [Option<Block>],
) -> *mut c_void {
    for (kind, block) in kinds.iter().zip(blocks) {
        let Some(block) = block else { continue };
        let mut at = first.cast::<Block>();
        // SAFETY: all of Vulkan's structures begin with a type and a pointer, and one of this type has so many
        // flags behind them.
        unsafe {
            while !at.is_null() && (*at).ty != block.ty {
                at = (*at).next.cast();
            }
            if at.is_null() {
                block.next = first;
                first = std::ptr::from_mut(block).cast();
            } else {
                let flags = (&raw mut (*at).flags).cast::<Bool32>();
                for (i, flag) in block.flags.iter().enumerate().take(kind.flags) {
                    *flags.add(i) |= flag;
                }
            }
        }
    }
    first
}

/// Opens an adapter of Vulkan's.
///
/// # Errors
/// What is missing, or the driver's words.
pub(super) fn open(adapter: &wgpu::Adapter) -> Result<Opened, String> {
    const MISSING: &str = "the driver lacks Vulkan features that the compiler needs (the Vulkan memory model, buffer \
                           device addresses); `--device wgpu` uses WGSL instead";
    let wanted = adapter.features().difference(Features::MAPPABLE_PRIMARY_BUFFERS);
    let mut limits = adapter.limits();
    // SAFETY: the adapter lives as long as the guard, and is not destroyed.
    let hal = unsafe { adapter.as_hal::<Vulkan>() }.ok_or("it is not Vulkan's")?;
    let instance = hal.shared_instance();
    let has_queries = instance.instance_api_version() >= vk::API_VERSION_1_1
        || instance.extensions().contains(&vk::KHR_GET_PHYSICAL_DEVICE_PROPERTIES2_NAME);
    if !has_queries {
        return Err(MISSING.into());
    }

    let kinds = kinds();
    let (mut blocks, mut extensions) = asked_for(&hal, &kinds);
    let mut core = vk::PhysicalDeviceFeatures2::default();
    // SAFETY: the blocks are structures of the types that they say, and live longer than the query.
    unsafe {
        core.p_next = chain(std::ptr::null_mut(), &kinds, &mut blocks);
        let raw = instance.raw_instance();
        raw.get_physical_device_features2(hal.raw_physical_device(), &mut core);
    }
    let has = |kind: usize, flag: usize| {
        blocks[kind].as_ref().is_some_and(|block| block.flags[flag] == vk::TRUE)
    };
    if !has(MEMORY_MODEL, 0) || !has(MEMORY_MODEL, 1) || !has(DEVICE_ADDRESS, 0) {
        return Err(MISSING.into());
    }
    if has(INDEX_64, 0) {
        limits.max_storage_buffer_binding_size = u64::MAX;
    }
    let leaves_checks_out = has(PIPELINE_ROBUSTNESS, 0);

    let of_wgpu = hal.required_device_extensions(wanted);
    let mut features = hal.physical_device_features(&of_wgpu, wanted);
    extensions.retain(|name| !of_wgpu.contains(name));
    extensions.extend(&of_wgpu);
    let names: Vec<_> = extensions.iter().map(|name| name.as_ptr()).collect();
    let family = 0;
    let queues =
        [vk::DeviceQueueCreateInfo::default().queue_family_index(family).queue_priorities(&[1.0])];
    let info =
        vk::DeviceCreateInfo::default().queue_create_infos(&queues).enabled_extension_names(&names);
    let mut info = features.add_to_device_create(info).enabled_features(&core.features);
    // CubeCL makes buffers in large pieces itself.
    let memory_hints = MemoryHints::MemoryUsage;
    // SAFETY: what follows `info` belongs to `features`, which nothing else uses meanwhile; all features and
    // extensions are the adapter's own; the device is wgpu's from here on.
    let device = unsafe {
        info.p_next = chain(info.p_next.cast_mut(), &kinds, &mut blocks);
        let raw = instance
            .raw_instance()
            .create_device(hal.raw_physical_device(), &info, None)
            .map_err(|error| error.to_string())?;
        hal.device_from_raw(raw, None, &of_wgpu, wanted, &limits, &memory_hints, family, 0)
            .map_err(|error| error.to_string())?
    };
    let descriptor = wgpu::DeviceDescriptor {
        label: None,
        required_features: wanted,
        required_limits: limits,
        memory_hints,
        trace: wgpu::Trace::Off,
        // SAFETY: for modules that wgpu does not look into, of which CubeCL makes all.
        experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
    };
    // SAFETY: it was opened on this adapter, with these features.
    let opened = unsafe { adapter.create_device_from_hal::<Vulkan>(device, &descriptor) };
    let (device, queue) = opened.map_err(|error| error.to_string())?;
    Ok(Opened { device, queue, leaves_checks_out })
}
