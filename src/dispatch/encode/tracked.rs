//! Lists through wgpu's own encoder, which checks every command and sets the barriers.

use cubecl::{server::KernelArguments, wgpu::WgpuServer};
use cubecl_common::future::block_on;
use wgpu::{BindGroup, BufferDescriptor, BufferUsages, ComputePipeline};

use super::{Commands, MODE};
use crate::dispatch::{
    gather::Part,
    groups::Groups,
    places::{Place, Places},
    queue::Queue,
    task::Task,
    written::Words,
};

/// Encodes for one device.
pub(in crate::dispatch) struct Encoder {
    queue: Queue,
    pub(super) groups: Groups<BindGroup>,
}

impl Encoder {
    pub(super) fn new(queue: &Queue) -> Self {
        Self { queue: queue.clone(), groups: Groups::default() }
    }

    pub(super) fn compile(
        &self,
        server: &mut WgpuServer,
        task: Task,
    ) -> Result<ComputePipeline, String> {
        let compiled = super::compile(&self.queue, server, task)?;
        let scope = self.queue.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let name = &compiled.entrypoint_name;
        let repr = || compiled.repr.as_ref().map(|repr| repr.as_ref());
        let module = server.create_module(name, repr(), &compiled.source, MODE);
        let pipeline = module
            .map(|module| server.create_pipeline(name, repr(), module, &KernelArguments::new()));
        match block_on(scope.pop()) {
            Some(error) => Err(error.to_string()),
            None => pipeline
                .map(|pipeline| ComputePipeline::clone(&pipeline))
                .map_err(|error| error.to_string()),
        }
    }

    pub(super) fn record(&mut self, server: &mut WgpuServer, part: &Part, commands: &mut Commands) {
        // Nothing here waits for anything, so that nothing has to be cleared.
        let Part { written, first, launches, .. } = part;
        if let Some(words) = written
            && let Err(error) = self.write(server, words, commands)
        {
            tracing::error!(error, "not written");
        }
        if *first == 0 {
            self.groups.next_list();
        }
        let device = &self.queue.device;
        let bound = self.groups.of_launches(server, *first, launches, |launch, places| {
            Ok(bind(device, launch.pipeline.tracked(), places))
        });
        let mut pass = commands.encoder.begin_compute_pass(&Default::default());
        for (launch, group) in &bound {
            pass.set_pipeline(launch.pipeline.tracked());
            pass.set_bind_group(0, &**group, &[]);
            pass.dispatch_workgroups(launch.cubes[0], launch.cubes[1], 1);
        }
    }
}

impl Encoder {
    /// Writes whole words behind the commands so far. (The queue would write them before all of these.)
    fn write(
        &self,
        server: &mut WgpuServer,
        words: &Words,
        commands: &mut Commands,
    ) -> Result<(), String> {
        let (to, bytes) = (Places::new(server).find(&words.binding())?, &words.bytes);
        let size = bytes.len() as u64;
        let from = self.queue.device.create_buffer(&BufferDescriptor {
            label: None,
            size,
            usage: BufferUsages::COPY_SRC,
            mapped_at_creation: true,
        });
        from.slice(..).get_mapped_range_mut().copy_from_slice(bytes);
        from.unmap();
        commands.encoder.copy_buffer_to_buffer(&from, 0, &to.buffer, to.offset, size);
        Ok(())
    }
}

fn bind(device: &wgpu::Device, pipeline: &ComputePipeline, places: &[Place]) -> BindGroup {
    let entries: Vec<_> = (0..).zip(places).map(|(binding, place)| place.entry(binding)).collect();
    device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &entries,
    })
}
