//! Lists past wgpu's own encoder, on Vulkan: a launch is a pipeline, a bind group, a dispatch and a
//! barrier in Vulkan's command buffer, which takes the host a few hundred nanoseconds. wgpu needs some
//! microseconds for it, more than a large GPU takes to run it, so that lists had to be submitted in
//! many parts, whose ends the GPU waits 30 µs for.
//!
//! wgpu hands out its own objects for this (`as_hal`), and knows nothing of what is done with them:
//!
//! - Barriers: what was submitted before a list is waited for, and what comes behind it waits for the
//!   list, whatever buffers either of them uses, and so does the host for what is copied to it
//!   ([`mapped`](super::mapped)). In between, each launch waits for the one before, or, if the device
//!   [begins cubes in order](Queue::begins_in_order), for results by itself ([`hazards`](super::hazards)).
//! - Zeros: wgpu clears what it has not seen anybody write, at its next use. So a new place is shown to
//!   it first ([`Encoder::show`]): it is cleared then, if ever.
//! - Lifetimes: bind groups keep their buffers, and are only dropped when the GPU is done with what was submitted.

use std::{ffi::CString, sync::Arc};

use ash::vk::{self, AccessFlags as Access, PipelineStageFlags as Stages};
use cubecl::{
    prelude::CompiledKernel,
    server::Binding,
    wgpu::{AutoCompiler, AutoRepresentation, WgpuServer},
};
use metal_candle_kernels::targets;
use rustc_hash::FxHashSet;
use wgpu::{
    BindGroupLayoutEntry, BindingType, BufferBindingType, BufferSize, ShaderStages,
    hal::{self, CommandEncoder as _, Device as _, api::Vulkan, vulkan},
};

use super::{
    Commands,
    hazards::{Barriers, Launch, Since},
    mapped::{Mapped, Outbox},
};
use crate::dispatch::{
    device::is_set,
    gather::{Listed, Part},
    groups::Groups,
    places::{Place, Places},
    queue::Queue,
    read_back::{Landing, ReadBack},
    task::Task,
    written::BLOCK_BYTES,
};

/// The environment variable that, set to 1, has the driver check every access of a buffer: for comparing.
const CHECKS_VARIABLE: &str = "METAL_CANDLE_CHECKS";

/// The environment variable that, set to 1, has a barrier before every launch: for comparing.
const BARRIERS_VARIABLE: &str = "METAL_CANDLE_BARRIERS";

/// A compiled kernel. It is never destroyed: devices, and their pipelines, live as long as the program.
pub(in crate::dispatch) struct Pipeline {
    compiled: vk::Pipeline,
    layouts: Arc<Layouts>,
    /// What it was compiled from.
    module: Arc<Module>,
}

/// How buffers are bound to a kernel: as wgpu has it, which binds them, and the same of our own, which a pipeline
/// is made with. (They are compatible, for they are defined alike.)
struct Layouts {
    pipeline: vulkan::PipelineLayout,
    group: vulkan::BindGroupLayout,
    raw: vk::PipelineLayout,
}

struct Module {
    /// Of its entry point.
    name: String,
    words: Vec<u32>,
    /// Whether the driver is to check what its launches read and write, if it does.
    is_checked: bool,
}

impl Pipeline {
    /// The same kernel for launches with these words of its parameters.
    pub(super) fn with_constants(
        &self,
        queue: &Queue,
        params: u32,
        words: &[(u32, u32)],
    ) -> Result<Self, String> {
        let made = targets::with_constants(&self.module.words, params, words);
        let made = made.ok_or("it has no parameters")?;
        let (layouts, module) = (self.layouts.clone(), self.module.clone());
        // SAFETY: the device is alive, and the module is what it took, with constants in it.
        let compiled = unsafe {
            let device = queue.device.as_hal::<Vulkan>().ok_or("the device is gone")?;
            compiled(&device, &layouts, &module, &made, queue)
        }?;
        Ok(Self { compiled, layouts, module })
    }
}

/// A bind group, whose buffers live as long as it is known ([`Groups`]).
pub(super) struct Group {
    device: wgpu::Device,
    set: Option<vulkan::BindGroup>,
    places: Vec<Place>,
}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: it is the device that made it, and the GPU is done with what used it ([`Groups::next_list`]).
        unsafe {
            if let (Some(device), Some(group)) = (self.device.as_hal::<Vulkan>(), self.set.take()) {
                device.destroy_bind_group(group);
            }
        }
    }
}

/// Encodes for one device.
pub(in crate::dispatch) struct Encoder {
    queue: Queue,
    groups: Groups<Group>,
    /// Does nothing with one buffer.
    idle: wgpu::ComputePipeline,
    /// What wgpu knows to be initialised.
    shown: FxHashSet<Place>,
    /// Those of it that lists are given in pieces.
    regions: Vec<Place>,
    /// Whether launches may wait for results themselves.
    overlaps: bool,
    barriers: Barriers<Place>,
    /// For what lists write.
    outbox: Outbox,
}

/// A launch with its bind group.
type Bound<'a> = (&'a Listed, Arc<Group>);

/// What of a command buffer wgpu does not know.
#[derive(Default)]
pub(super) struct Recorded {
    /// That is used.
    groups: Vec<Arc<Group>>,
    /// What has come since the last barrier, if something was recorded.
    since: Option<Since>,
    /// What is copied from.
    outbox: Vec<Arc<Mapped>>,
    /// What is copied to the host behind all launches.
    copies: Vec<(Place, Arc<ReadBack>)>,
}

impl Recorded {
    pub(super) fn copy(&mut self, from: Place, to: Arc<ReadBack>) {
        self.copies.push((from, to));
    }

    /// Copies what is to be copied, and has all that comes behind wait for what was recorded.
    pub(super) fn end(&mut self, queue: &Queue, encoder: &mut wgpu::CommandEncoder) {
        if self.since.take().is_none() && self.copies.is_empty() {
            return;
        }
        // SAFETY: the encoder is used for nothing else; who waits for a copy keeps it until it is over.
        let ended = unsafe {
            queue.device.as_hal::<Vulkan>().and_then(|device| {
                encoder.as_hal_mut::<Vulkan, _, _>(|encoder| {
                    end(device.raw_device(), encoder?, &self.copies);
                    Some(())
                })
            })
        };
        if ended.is_none() {
            tracing::error!("not ended: the device is gone");
        }
    }

    /// Keeps what the commands copy from, which were just submitted, until the device has done so.
    pub(super) fn hold(&mut self, queue: &Queue) {
        let outbox = std::mem::take(&mut self.outbox);
        if !outbox.is_empty() {
            queue.queue.on_submitted_work_done(move || drop(outbox));
        }
    }
}

/// Commands, and memory, that a barrier is about.
type Uses = (Stages, Access);

const WRITES: Uses = (Stages::COMPUTE_SHADER, Access::SHADER_WRITE);
const USES: Uses = (
    Stages::COMPUTE_SHADER,
    Access::from_raw(Access::SHADER_READ.as_raw() | Access::SHADER_WRITE.as_raw()),
);
/// All that was written so far.
const BEFORE: Uses = (Stages::ALL_COMMANDS, Access::MEMORY_WRITE);
const COPIES: Uses = (Stages::TRANSFER, Access::TRANSFER_READ);
const COPIED: Uses = (Stages::TRANSFER, Access::TRANSFER_WRITE);
/// All that comes, on the host, too.
const BEHIND: Uses = (
    Stages::from_raw(Stages::ALL_COMMANDS.as_raw() | Stages::HOST.as_raw()),
    Access::from_raw(Access::MEMORY_READ.as_raw() | Access::MEMORY_WRITE.as_raw()),
);

/// # Safety
/// The command buffer must be the device's, and being recorded.
unsafe fn barrier(
    (device, buffer): (&ash::Device, vk::CommandBuffer),
    (stages, access): Uses,
    (next, next_access): Uses,
) {
    let memory = vk::MemoryBarrier::default().src_access_mask(access).dst_access_mask(next_access);
    let flags = vk::DependencyFlags::empty();
    // SAFETY: as the caller says.
    unsafe { device.cmd_pipeline_barrier(buffer, stages, next, flags, &[memory], &[], &[]) }
}

impl Encoder {
    /// For a device of Vulkan's that takes SPIR-V.
    pub(super) fn new(queue: &Queue) -> Option<Self> {
        // SAFETY: nothing is done with it.
        let is_vulkan = unsafe { queue.device.as_hal::<Vulkan>() }.is_some();
        let takes_spirv = matches!((queue.compiler)(), AutoCompiler::SpirV(_));
        let overlaps = queue.begins_in_order && !is_set(BARRIERS_VARIABLE);
        (is_vulkan && takes_spirv).then(|| Self {
            overlaps,
            barriers: Barriers::new(overlaps),
            queue: queue.clone(),
            groups: Groups::default(),
            idle: idle(&queue.device),
            shown: FxHashSet::default(),
            regions: Vec::new(),
            outbox: Outbox::default(),
        })
    }

    pub(super) fn compile(&self, server: &WgpuServer, task: Task) -> Result<Pipeline, String> {
        let CompiledKernel { entrypoint_name, repr, .. } =
            super::compile(&self.queue, server, task)?;
        let Some(AutoRepresentation::SpirV(kernel)) = repr else {
            return Err("it was not compiled to SPIR-V".into());
        };
        let module = Module {
            name: entrypoint_name,
            words: kernel.assembled_module,
            is_checked: task.kernel.reads_by_ids() || is_set(CHECKS_VARIABLE),
        };
        // SAFETY: the device is alive, and makes and takes these objects.
        unsafe {
            let device = self.queue.device.as_hal::<Vulkan>().ok_or("the device is gone")?;
            let layouts = layouts(&device, kernel.bindings.len())?;
            let compiled = compiled(&device, &layouts, &module, &module.words, &self.queue)?;
            Ok(Pipeline { compiled, layouts: Arc::new(layouts), module: Arc::new(module) })
        }
    }

    /// Lets go of buffers that it has seen.
    pub(super) fn forget_seen(&mut self) {
        self.groups.forget_seen();
        self.barriers.forget();
    }

    pub(super) fn overlaps(&self) -> bool {
        self.overlaps
    }

    pub(super) fn record(&mut self, server: &mut WgpuServer, part: &Part, commands: &mut Commands) {
        let Part { clear, written, first, launches } = part;
        let clear = clear.as_ref().and_then(|binding| find(server, binding));
        let written = written.as_ref().and_then(|words| {
            let place = find(server, &words.block)?;
            let from = self.outbox.take(&self.queue.device, &words.bytes, BLOCK_BYTES);
            let from = from.inspect_err(|error| tracing::error!(error, "not written")).ok()?;
            let (at, bytes) = (words.from as u64, BufferSize::new(words.bytes.len() as u64)?);
            Some(Written { place, at, from, bytes })
        });
        let Self { queue, groups, shown, regions, barriers, .. } = self;
        if *first == 0
            && let Some(old) = groups.next_list()
        {
            if !old.is_empty() {
                barriers.forget();
            }
            // What comes to be used is shown again.
            let old = (old, std::mem::take(shown), std::mem::take(regions));
            queue.queue.on_submitted_work_done(move || drop(old));
        }
        // What lists are given in pieces is shown as a whole, before any piece of it.
        let wholes = clear.iter().chain(written.as_ref().map(|written| &written.place));
        let mut fresh: Vec<_> = wholes.filter(|&place| !shown.contains(place)).cloned().collect();
        regions.extend(fresh.iter().cloned());
        let bound = groups.of_launches(server, *first, launches, |launch, places| {
            let is_known = |place: &Place| {
                shown.contains(place) || regions.iter().any(|region| region.holds(place))
            };
            fresh.extend(places.iter().filter(|&place| !is_known(place)).cloned());
            bind(&queue.device, launch.pipeline.vulkan(), places)
        });
        self.show(fresh);
        // SAFETY: the encoder is used for nothing else; bind groups live as long as the commands, and then
        // until the device has been waited for.
        let barriers = &mut self.barriers;
        let recorded = unsafe {
            self.queue.device.as_hal::<Vulkan>().and_then(|device| {
                let since = &mut commands.past.since;
                commands.encoder.as_hal_mut::<Vulkan, _, _>(|encoder| {
                    let (device, encoder) = (device.raw_device(), encoder?);
                    if begin(device, encoder, clear.as_ref(), written.as_ref(), since.is_none()) {
                        *since = Some(barriers.nothing());
                    }
                    let since = since.get_or_insert_with(|| barriers.nothing());
                    record(device, encoder, &bound, barriers, since);
                    Some(())
                })
            })
        };
        if recorded.is_none() {
            tracing::error!(launches = bound.len(), "not launched: the device is gone");
        }
        commands.past.groups.extend(bound.into_iter().map(|(_, group)| group));
        commands.past.outbox.extend(written.map(|written| written.from));
    }

    /// Has wgpu initialise places, unless they are.
    fn show(&mut self, places: Vec<Place>) {
        if places.is_empty() {
            return;
        }
        let device = &self.queue.device;
        let mut encoder = device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&self.idle);
            for place in places {
                let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
                    label: None,
                    layout: &self.idle.get_bind_group_layout(0),
                    entries: &[place.entry(0)],
                });
                pass.set_bind_group(0, &group, &[]);
                pass.dispatch_workgroups(1, 1, 1);
                self.shown.insert(place);
            }
        }
        self.queue.queue.submit([encoder.finish()]);
    }
}

/// What is copied to a place before launches.
struct Written {
    /// The block that it is a piece of.
    place: Place,
    /// Where it begins there.
    at: u64,
    from: Arc<Mapped>,
    bytes: BufferSize,
}

/// Where a buffer of a list is that is not bound as such.
fn find(server: &mut WgpuServer, binding: &Binding) -> Option<Place> {
    let place = Places::new(server).find(binding);
    place.inspect_err(|error| tracing::error!(error, "neither cleared nor written")).ok()
}

fn storage(binding: u32) -> BindGroupLayoutEntry {
    BindGroupLayoutEntry {
        binding,
        visibility: ShaderStages::COMPUTE,
        ty: BindingType::Buffer {
            // Pieces of one buffer may be read and written.
            ty: BufferBindingType::Storage { read_only: false },
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    }
}

/// A kernel of wgpu's own that does nothing with a buffer.
fn idle(device: &wgpu::Device) -> wgpu::ComputePipeline {
    let group_layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: None,
        entries: &[storage(0)],
    });
    let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: None,
        bind_group_layouts: &[Some(&group_layout)],
        immediate_size: 0,
    });
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl("@compute @workgroup_size(1) fn main() {}".into()),
    });
    device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: Some(&layout),
        module: &module,
        entry_point: Some("main"),
        compilation_options: Default::default(),
        cache: None,
    })
}

/// # Safety
/// The device must be alive.
unsafe fn layouts(device: &vulkan::Device, buffers: usize) -> Result<Layouts, String> {
    let entries: Vec<_> = (0..).take(buffers).map(storage).collect();
    // SAFETY: all objects are the device's own.
    unsafe {
        let group = device
            .create_bind_group_layout(&hal::BindGroupLayoutDescriptor {
                label: None,
                flags: hal::BindGroupLayoutFlags::empty(),
                entries: &entries,
            })
            .map_err(|error| error.to_string())?;
        let pipeline = device
            .create_pipeline_layout(&hal::PipelineLayoutDescriptor {
                label: None,
                flags: hal::PipelineLayoutFlags::empty(),
                bind_group_layouts: &[Some(&group)],
                immediate_size: 0,
            })
            .map_err(|error| error.to_string())?;
        let raw = raw_layout(device.raw_device(), buffers).map_err(|error| error.to_string())?;
        Ok(Layouts { pipeline, group, raw })
    }
}

/// # Safety
/// The device must be alive.
unsafe fn raw_layout(
    device: &ash::Device,
    buffers: usize,
) -> ash::prelude::VkResult<vk::PipelineLayout> {
    let binding = |i| {
        vk::DescriptorSetLayoutBinding::default()
            .binding(i)
            .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
            .descriptor_count(1)
            .stage_flags(vk::ShaderStageFlags::COMPUTE)
    };
    let bindings: Vec<_> = (0..).take(buffers).map(binding).collect();
    let group = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
    // SAFETY: as the caller says. They are never destroyed: the device lives as long as the program.
    unsafe {
        let groups = [device.create_descriptor_set_layout(&group, None)?];
        let layout = vk::PipelineLayoutCreateInfo::default().set_layouts(&groups);
        device.create_pipeline_layout(&layout, None)
    }
}

/// Compiles a module, or what was made of it. Where a pipeline may say so, the driver does not check what its
/// launches read and write: kernels see to that themselves, by their parameters, and a launch's buffers are as these
/// say ([`Kernels::launch`](crate::dispatch::Kernels::launch)). Where they do not is found by running them with
/// checked buffers (`tests/msl.rs`).
///
/// # Safety
/// The words must be valid SPIR-V whose buffers are as the layouts have them.
unsafe fn compiled(
    device: &vulkan::Device,
    layouts: &Layouts,
    module: &Module,
    words: &[u32],
    queue: &Queue,
) -> Result<vk::Pipeline, String> {
    use vk::{
        PipelineRobustnessBufferBehaviorEXT as Buffers,
        PipelineRobustnessImageBehaviorEXT as Images,
    };
    let name = CString::new(&*module.name).map_err(|error| error.to_string())?;
    let device = device.raw_device();
    let mut unchecked = vk::PipelineRobustnessCreateInfoEXT::default()
        .storage_buffers(Buffers::DISABLED)
        .uniform_buffers(Buffers::DISABLED)
        .vertex_inputs(Buffers::DISABLED)
        .images(Images::DISABLED);
    // SAFETY: all objects are the device's own.
    unsafe {
        let code = vk::ShaderModuleCreateInfo::default().code(words);
        let code = device.create_shader_module(&code, None).map_err(|error| error.to_string())?;
        let stage = vk::PipelineShaderStageCreateInfo::default()
            .stage(vk::ShaderStageFlags::COMPUTE)
            .module(code)
            .name(&name);
        let mut info = vk::ComputePipelineCreateInfo::default().stage(stage).layout(layouts.raw);
        if queue.leaves_checks_out && !module.is_checked {
            info = info.push_next(&mut unchecked);
        }
        let made = device.create_compute_pipelines(vk::PipelineCache::null(), &[info], None);
        device.destroy_shader_module(code, None);
        let made = made.map_err(|(_, error)| error.to_string())?;
        made.first().copied().ok_or_else(|| "no pipeline was made".into())
    }
}

fn bind(device: &wgpu::Device, pipeline: &Pipeline, places: &[Place]) -> Result<Group, String> {
    // SAFETY: a wgpu buffer's inner one stays where it is until it is destroyed, which nobody does before
    // the last handle is gone, and `places` has handles. (The locks of several `as_hal` cannot be held
    // at once.)
    let buffers: Option<Vec<&vulkan::Buffer>> = places
        .iter()
        .map(|place| unsafe { Some(&*std::ptr::from_ref(&*place.buffer.as_hal::<Vulkan>()?)) })
        .collect();
    let buffers = buffers.ok_or("a buffer is gone")?;
    let buffers: Vec<_> = buffers
        .into_iter()
        .zip(places)
        .map(|(buffer, place)| {
            hal::BufferBinding::new_unchecked(buffer, place.offset, place.size())
        })
        .collect();
    let entries: Vec<_> = (0..)
        .take(buffers.len())
        .map(|i| hal::BindGroupEntry { binding: i, resource_index: i, count: 1 })
        .collect();
    // SAFETY: all objects are the device's own, and the buffers are alive.
    let group = unsafe {
        let device = device.as_hal::<Vulkan>().ok_or("the device is gone")?;
        device.create_bind_group(&hal::BindGroupDescriptor {
            label: None,
            layout: &pipeline.layouts.group,
            buffers: &buffers,
            samplers: &[],
            textures: &[],
            entries: &entries,
            acceleration_structures: &[],
            external_textures: &[],
        })
    };
    let group = group.map_err(|error| error.to_string())?;
    Ok(Group { device: device.clone(), set: Some(group), places: places.to_vec() })
}

/// Has a part wait for what is cleared and written before it, and the first one of a list for all that was
/// submitted before: whether there was something to wait for.
///
/// # Safety
/// As [`record`].
unsafe fn begin(
    device: &ash::Device,
    encoder: &mut vulkan::CommandEncoder,
    clear: Option<&Place>,
    written: Option<&Written>,
    is_first: bool,
) -> bool {
    let fills = clear.is_some() || written.is_some();
    if !fills && !is_first {
        return false;
    }
    // SAFETY: as the caller says; buffers are alive, for their places are.
    unsafe {
        let commands = (device, encoder.raw_handle());
        if fills {
            barrier(commands, BEFORE, COPIED);
        }
        if let Some(place) = clear
            && let Some(buffer) = place.buffer.as_hal::<Vulkan>()
        {
            encoder.clear_buffer(&buffer, place.range());
        }
        if let Some(Written { place, at, from, bytes }) = written
            && let (Some(from), Some(to)) = (from.buffer(), place.buffer.as_hal::<Vulkan>())
        {
            copy(encoder, (from, 0), (&to, place.offset + at), *bytes);
        }
        barrier(commands, BEFORE, USES);
    }
    true
}

/// Copies between places of buffers.
///
/// # Safety
/// As [`record`].
unsafe fn copy(
    encoder: &mut vulkan::CommandEncoder,
    (from, src_offset): (&vulkan::Buffer, u64),
    (to, dst_offset): (&vulkan::Buffer, u64),
    size: BufferSize,
) {
    let copy = hal::BufferCopy { src_offset, dst_offset, size };
    // SAFETY: as the caller says.
    unsafe { encoder.copy_buffer_to_buffer(from, to, std::iter::once(copy)) };
}

/// # Safety
/// As [`record`]; what is copied to must live as long.
unsafe fn end(
    device: &ash::Device,
    encoder: &mut vulkan::CommandEncoder,
    copies: &[(Place, Arc<ReadBack>)],
) {
    // SAFETY: as the caller says; buffers are alive, for their places are.
    unsafe {
        let commands = (device, encoder.raw_handle());
        barrier(commands, WRITES, if copies.is_empty() { BEHIND } else { COPIES });
        for (place, to) in copies {
            if let (Landing::Mapped(memory), Some(size)) = (to.landing(), BufferSize::new(to.bytes))
                && let (Some(from), Some(to)) = (place.buffer.as_hal::<Vulkan>(), memory.buffer())
            {
                copy(encoder, (&from, place.offset), (to, 0), size);
            }
        }
        if !copies.is_empty() {
            barrier(commands, COPIED, BEHIND);
        }
    }
}

/// # Safety
/// The encoder must be the device's, and everything bound must live until the commands have ended.
unsafe fn record(
    device: &ash::Device,
    encoder: &mut vulkan::CommandEncoder,
    bound: &[Bound<'_>],
    barriers: &mut Barriers<Place>,
    since: &mut Since,
) {
    // SAFETY: as the caller says.
    unsafe {
        let commands = (device, encoder.raw_handle());
        encoder.begin_compute_pass(&hal::ComputePassDescriptor {
            label: None,
            timestamp_writes: None,
        });
        for (launch, bound) in bound {
            let Group { set: Some(group), places, .. } = &**bound else { continue };
            let pipeline = launch.pipeline.vulkan();
            let (writes, waits) = (launch.writes, &*launch.waits);
            let of = Launch { places, writes, waits, group: Arc::as_ptr(bound).addr() };
            let (is_needed, then) = barriers.next(*since, of);
            if is_needed {
                barrier(commands, WRITES, USES);
            }
            *since = then;
            let (device, commands) = commands;
            device.cmd_bind_pipeline(commands, vk::PipelineBindPoint::COMPUTE, pipeline.compiled);
            encoder.set_bind_group(&pipeline.layouts.pipeline, 0, group, &[]);
            encoder.dispatch([launch.cubes[0], launch.cubes[1], 1]);
        }
        encoder.end_compute_pass();
    }
}
