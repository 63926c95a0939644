//! Uploads of many bytes, through staging buffers that are kept: making one anew costs more than
//! filling it, for the system gives out its memory page by page.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use wgpu::{Buffer, BufferDescriptor, BufferUsages, MapMode, PollType};

use super::queue::Queue;

/// Bytes of a staging buffer, which one thread fills.
const PART: usize = 2 << 20;
/// Staging buffers that are kept; more bytes than they hold are uploaded in turns.
const MOST: usize = 16;

/// Staging buffers.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    /// Those that are mapped: the device is done with them.
    ready: Arc<Mutex<Vec<Buffer>>>,
    made: Arc<AtomicUsize>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Uploads {
    /// Writes whole words to a buffer, behind what was submitted before. The threads are none of a pool
    /// that others wait in: these may be waiting for this very upload.
    pub(super) fn write(
        &self,
        queue: &Queue,
        bytes: &[u8],
        to: &Buffer,
        offset: u64,
    ) -> Result<(), String> {
        let mut offset = offset;
        for turn in bytes.chunks(MOST * PART) {
            let parts = turn.chunks(PART).map(|part| Ok((part, self.staging(queue)?)));
            let parts = parts.collect::<Result<Vec<_>, String>>()?;
            let threads = thread::available_parallelism().map_or(1, usize::from).min(parts.len());
            thread::scope(|scope| {
                let fill = |first| {
                    for (part, buffer) in parts.iter().skip(first).step_by(threads) {
                        let slice = buffer.slice(..part.len() as u64);
                        slice.get_mapped_range_mut().copy_from_slice(part);
                    }
                };
                (1..threads).for_each(|first| drop(scope.spawn(move || fill(first))));
                fill(0);
            });
            let mut encoder = queue.device.create_command_encoder(&Default::default());
            for (part, buffer) in &parts {
                buffer.unmap();
                encoder.copy_buffer_to_buffer(buffer, 0, to, offset, part.len() as u64);
                offset += part.len() as u64;
            }
            queue.queue.submit([encoder.finish()]);
            for (_, buffer) in &parts {
                self.map(buffer);
            }
        }
        Ok(())
    }

    /// A staging buffer that is mapped.
    fn staging(&self, queue: &Queue) -> Result<Buffer, String> {
        loop {
            if let Some(buffer) = lock(&self.ready).pop() {
                return Ok(buffer);
            }
            if self.made.load(Ordering::Acquire) < MOST {
                self.made.fetch_add(1, Ordering::AcqRel);
                return Ok(queue.device.create_buffer(&BufferDescriptor {
                    label: None,
                    size: PART as u64,
                    usage: BufferUsages::MAP_WRITE | BufferUsages::COPY_SRC,
                    mapped_at_creation: true,
                }));
            }
            let waited = queue.device.poll(PollType::wait_indefinitely());
            waited.map_err(|error| error.to_string())?;
        }
    }

    /// Asks for a buffer back once the device is done with it.
    fn map(&self, buffer: &Buffer) {
        let (ready, made, same) = (self.ready.clone(), self.made.clone(), buffer.clone());
        buffer.slice(..).map_async(MapMode::Write, move |mapped| {
            if mapped.is_ok() {
                lock(&ready).push(same);
            } else {
                made.fetch_sub(1, Ordering::AcqRel);
            }
        });
    }
}
