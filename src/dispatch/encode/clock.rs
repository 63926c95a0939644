//! How long a device takes for a list.

use std::time::Duration;

use wgpu::{
    Buffer, BufferDescriptor, BufferUsages, CommandBuffer, ComputePassDescriptor,
    ComputePassTimestampWrites, Features, MapMode, PollType, QUERY_SIZE, QuerySet,
    QuerySetDescriptor, QueryType,
};

use crate::dispatch::queue::Queue;

/// When a list begins, and when it has ended.
const TIMES: u32 = 2;
const BYTES: u64 = TIMES as u64 * QUERY_SIZE as u64;

/// Times by the device's own clock, of one list.
pub(in crate::dispatch) struct Clock {
    queries: QuerySet,
    resolved: Buffer,
    landed: Buffer,
}

impl Clock {
    /// `None` where the device has none.
    pub(in crate::dispatch) fn new(queue: &Queue) -> Option<Self> {
        let device = &queue.device;
        if !device.features().contains(Features::TIMESTAMP_QUERY) {
            return None;
        }
        let buffer = |usage| {
            device.create_buffer(&BufferDescriptor {
                label: None,
                size: BYTES,
                usage,
                mapped_at_creation: false,
            })
        };
        Some(Self {
            queries: device.create_query_set(&QuerySetDescriptor {
                label: None,
                ty: QueryType::Timestamp,
                count: TIMES,
            }),
            resolved: buffer(BufferUsages::QUERY_RESOLVE | BufferUsages::COPY_SRC),
            landed: buffer(BufferUsages::MAP_READ | BufferUsages::COPY_DST),
        })
    }

    /// A list with what comes before and behind it, to be submitted together.
    pub(super) fn around(&self, list: CommandBuffer, queue: &Queue) -> [CommandBuffer; 3] {
        let encoder = || queue.device.create_command_encoder(&Default::default());
        let (mut before, mut behind) = (encoder(), encoder());
        for (time, encoder) in [&mut before, &mut behind].into_iter().enumerate() {
            // It does nothing: who has timestamps at all has them of passes.
            drop(encoder.begin_compute_pass(&ComputePassDescriptor {
                label: None,
                timestamp_writes: Some(ComputePassTimestampWrites {
                    query_set: &self.queries,
                    beginning_of_pass_write_index: Some(time as u32),
                    end_of_pass_write_index: None,
                }),
            }));
        }
        behind.resolve_query_set(&self.queries, 0..TIMES, &self.resolved, 0);
        behind.copy_buffer_to_buffer(&self.resolved, 0, &self.landed, 0, BYTES);
        [before.finish(), list, behind.finish()]
    }

    /// Waits for the list, which was submitted, and says how long it took.
    pub(in crate::dispatch) fn read(&self, queue: &Queue) -> Result<Duration, String> {
        let (say, said) = std::sync::mpsc::channel();
        self.landed.slice(..).map_async(MapMode::Read, move |outcome| {
            // Who waits is gone only if the device is.
            let _ = say.send(outcome);
        });
        queue.device.poll(PollType::wait_indefinitely()).map_err(|error| error.to_string())?;
        let mapped = said.recv().map_err(|error| error.to_string())?;
        mapped.map_err(|error| error.to_string())?;
        let times: Vec<u64> =
            bytemuck::pod_collect_to_vec(&self.landed.slice(..).get_mapped_range());
        self.landed.unmap();
        let ticks = times[1].checked_sub(times[0]).ok_or("the device's clock went back")?;
        let period = f64::from(queue.queue.get_timestamp_period());
        Ok(Duration::from_secs_f64(ticks as f64 * period * 1e-9))
    }
}
