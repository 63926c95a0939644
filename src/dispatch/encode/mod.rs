//! Turning a list of launches into one command buffer. There are two ways: through wgpu's own encoder,
//! which every API has, and past it on Vulkan.

mod clock;
#[cfg(not(target_os = "macos"))]
mod hazards;
#[cfg(not(target_os = "macos"))]
mod mapped;
mod tracked;
#[cfg(not(target_os = "macos"))]
mod vulkan;

use std::sync::Arc;

use cubecl::{
    CubeTask, ExecutionMode,
    prelude::CompiledKernel,
    server::Binding,
    wgpu::{AutoCompiler, WgpuServer},
};
use metal_candle_kernels::targets;

#[cfg(not(target_os = "macos"))]
use super::device;
use super::{
    gather::Part,
    places::{Place, Places},
    queue::Queue,
    read_back::{Kind, Landing, ReadBack},
    task::Task,
};
pub(super) use clock::Clock;
#[cfg(not(target_os = "macos"))]
pub(super) use mapped::{Mapped, Way};

/// How kernels that CubeCL's server is handed are compiled and run: every index is checked by them.
const MODE: ExecutionMode = ExecutionMode::Unchecked;

/// The environment variable that, set to 1, has lists go through wgpu's own encoder on every API: for
/// comparing.
#[cfg(not(target_os = "macos"))]
const TRACKED_VARIABLE: &str = "METAL_CANDLE_WGPU_ENCODER";

/// Launches on their way to the device.
pub(super) struct Commands {
    encoder: wgpu::CommandEncoder,
    /// What of them lies past wgpu's encoder.
    #[cfg(not(target_os = "macos"))]
    past: vulkan::Recorded,
    /// What times them.
    clock: Option<Arc<Clock>>,
}

impl Commands {
    /// None so far.
    pub(super) fn new(queue: &Queue) -> Self {
        Self {
            encoder: queue.device.create_command_encoder(&Default::default()),
            #[cfg(not(target_os = "macos"))]
            past: vulkan::Recorded::default(),
            clock: None,
        }
    }

    /// None so far, and how long they take will be known.
    pub(super) fn timed(queue: &Queue, clock: Arc<Clock>) -> Self {
        Self { clock: Some(clock), ..Self::new(queue) }
    }

    /// Has the beginning of a place copied to the host behind them.
    pub(super) fn copy(&mut self, from: &Place, to: &Arc<ReadBack>) -> Result<(), String> {
        if from.bytes() < to.bytes {
            return Err(format!("{} bytes of a buffer of {}", to.bytes, from.bytes()));
        }
        match to.landing() {
            Landing::Staging(buffer) => {
                let (from, at) = (&from.buffer, from.offset);
                self.encoder.copy_buffer_to_buffer(from, at, buffer, 0, to.bytes);
            }
            #[cfg(not(target_os = "macos"))]
            Landing::Mapped(_) => self.past.copy(from.clone(), to.clone()),
        }
        Ok(())
    }

    /// Submits them. The bind groups that they use are known to their encoder, which drops none before the
    /// device is done with it.
    #[cfg_attr(target_os = "macos", allow(unused_mut))] // nothing lies past it there
    pub(super) fn submit(mut self, queue: &Queue) -> wgpu::SubmissionIndex {
        #[cfg(not(target_os = "macos"))]
        self.past.end(queue, &mut self.encoder);
        let commands = self.encoder.finish();
        let index = match self.clock {
            None => queue.queue.submit([commands]),
            Some(clock) => queue.queue.submit(clock.around(commands, queue)),
        };
        #[cfg(not(target_os = "macos"))]
        self.past.hold(queue);
        index
    }
}

/// A compiled kernel in the form that the device's encoder takes.
pub(super) enum Pipeline {
    Tracked(wgpu::ComputePipeline),
    #[cfg(not(target_os = "macos"))]
    Vulkan(vulkan::Pipeline),
}

// A device has one encoder, and so one kind of pipeline.
impl Pipeline {
    /// Whether it can be compiled for some words of its parameters.
    pub(super) fn takes_constants(&self) -> bool {
        match self {
            Self::Tracked(_) => false,
            #[cfg(not(target_os = "macos"))]
            Self::Vulkan(_) => true,
        }
    }

    /// The same kernel compiled for launches with these words, each with its place, in the buffer `params`.
    #[cfg_attr(target_os = "macos", allow(unused_variables))] // there is no other kind
    pub(super) fn with_constants(
        &self,
        queue: &Queue,
        params: u32,
        words: &[(u32, u32)],
    ) -> Result<Self, String> {
        match self {
            Self::Tracked(_) => Err("it takes no constants".into()),
            #[cfg(not(target_os = "macos"))]
            Self::Vulkan(pipeline) => {
                pipeline.with_constants(queue, params, words).map(Self::Vulkan)
            }
        }
    }

    fn tracked(&self) -> &wgpu::ComputePipeline {
        match self {
            Self::Tracked(pipeline) => pipeline,
            #[cfg(not(target_os = "macos"))]
            Self::Vulkan(_) => unreachable!("a pipeline of the other encoder"),
        }
    }

    #[cfg(not(target_os = "macos"))]
    fn vulkan(&self) -> &vulkan::Pipeline {
        match self {
            Self::Vulkan(pipeline) => pipeline,
            Self::Tracked(_) => unreachable!("a pipeline of the other encoder"),
        }
    }
}

/// Encodes for one device. It is used on the server's thread alone.
pub(super) enum Encoder {
    Tracked(tracked::Encoder),
    #[cfg(not(target_os = "macos"))]
    Vulkan(Box<vulkan::Encoder>),
}

impl Encoder {
    /// The fastest one that a device has.
    pub(super) fn new(queue: &Queue) -> Self {
        #[cfg(not(target_os = "macos"))]
        if !device::is_set(TRACKED_VARIABLE)
            && let Some(encoder) = vulkan::Encoder::new(queue)
        {
            return Self::Vulkan(Box::new(encoder));
        }
        Self::Tracked(tracked::Encoder::new(queue))
    }

    /// The pipeline of a pregenerated kernel.
    pub(super) fn compile(&self, server: &mut WgpuServer, task: Task) -> Result<Pipeline, String> {
        match self {
            Self::Tracked(encoder) => encoder.compile(server, task).map(Pipeline::Tracked),
            #[cfg(not(target_os = "macos"))]
            Self::Vulkan(encoder) => encoder.compile(server, task).map(Pipeline::Vulkan),
        }
    }

    /// Whether launches may wait for results themselves: it leaves out barriers then.
    pub(super) fn overlaps(&self) -> bool {
        match self {
            Self::Tracked(_) => false,
            #[cfg(not(target_os = "macos"))]
            Self::Vulkan(encoder) => encoder.overlaps(),
        }
    }

    /// What is read back by a list's own commands lands there.
    pub(super) fn landing(&self) -> Kind {
        match self {
            Self::Tracked(_) => Kind::Staging,
            #[cfg(not(target_os = "macos"))]
            Self::Vulkan(_) => Kind::Mapped,
        }
    }

    /// Lets go of buffers that it has seen.
    pub(super) fn forget_seen(&mut self) {
        match self {
            Self::Tracked(encoder) => encoder.groups.forget_seen(),
            #[cfg(not(target_os = "macos"))]
            Self::Vulkan(encoder) => encoder.forget_seen(),
        }
    }

    /// Encodes a part of a list, and what is written before it.
    pub(super) fn record(&mut self, server: &mut WgpuServer, part: &Part, commands: &mut Commands) {
        match self {
            Self::Tracked(encoder) => encoder.record(server, part, commands),
            #[cfg(not(target_os = "macos"))]
            Self::Vulkan(encoder) => encoder.record(server, part, commands),
        }
    }
}

/// On the server's thread: writes whole words to a buffer. wgpu does so when something is submitted next,
/// behind all that was.
pub(super) fn write(
    queue: &Queue,
    server: &mut WgpuServer,
    to: &Binding,
    bytes: &[u8],
) -> Result<(), String> {
    let place = Places::new(server).find(to)?;
    queue.queue.write_buffer(&place.buffer, place.offset, bytes);
    Ok(())
}

/// A kernel in the device's language.
fn compile(
    queue: &Queue,
    server: &WgpuServer,
    task: Task,
) -> Result<CompiledKernel<AutoCompiler>, String> {
    task.compile(&mut (queue.compiler)(), &server.compilation_options, MODE, targets::ADDRESS)
        .map_err(|error| error.to_string())
}
