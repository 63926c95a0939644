//! Launches that are listed first and then encoded together, for the work of one step.
//!
//! CubeCL's server takes the host 10 to 17 µs for each launch, more than a large GPU takes to run
//! most of them. Here a launch only adds a line to a list ([`Kernels::gather`](super::Kernels::gather)).
//! The list goes to the server as *one* task of its queue: there it is encoded into one command buffer,
//! with bind groups that are kept from step to step, and submitted ([`encode`](super::encode)).
//!
//! Order: what was asked of the server before the list is closed, by burn's operations or by uploads, is
//! submitted before the list, and what is asked afterwards comes behind it. So an operation of burn's
//! *while a list is open* would overtake the launches that it depends on. Whoever falls back to one
//! calls [`submit`] first, and a list is only open while the layers of a model run on a few rows, which
//! use none; `tests/decode_step.rs` counts them.
//!
//! Memory: buffers made meanwhile come from pools of their own ([`pool`]).

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use cubecl::{
    server::{Binding, ComputeServer, Handle},
    wgpu::{WgpuDevice, WgpuServer},
};
use cubecl_common::{device::Device as _, device_handle::DeviceHandle, stream_id::StreamId};

use super::{
    LaunchError,
    client::Client,
    encode::{Encoder, Pipeline},
    pool,
    queue::{self, Queue},
    read_back::{ReadBack, Staging},
    task::Task,
    upload::Uploads,
};

/// Launches after which a list is handed over although it is still open: the GPU begins with them
/// while the host goes on.
const LAUNCHES_AT_ONCE: usize = 32;
/// The same of the first part of a list, which the GPU has nothing to do but wait for. Every part is
/// half as long again as the one before.
const FIRST_LAUNCHES: usize = 8;

/// A launch on a list.
pub(super) struct Listed {
    pub(super) pipeline: Arc<Pipeline>,
    /// Of the kernel.
    pub(super) name: &'static str,
    pub(super) cubes: [u32; 2],
    pub(super) buffers: Vec<Binding>,
}

/// The list that a thread has open.
struct Open {
    gatherer: Arc<Gatherer>,
    launches: Vec<Listed>,
    /// Launches after which it is handed over.
    full: usize,
}

thread_local! {
    static OPEN: RefCell<Option<Open>> = const { RefCell::new(None) };
}

/// Hands over what the current thread has listed so far, if it has a list open.
pub fn submit() {
    let listed = OPEN.with_borrow_mut(|open| {
        let open = open.as_mut()?;
        Some((open.gatherer.clone(), std::mem::take(&mut open.launches)))
    });
    if let Some((gatherer, launches)) = listed {
        gatherer.hand_over(launches);
    }
}

/// Lists launches on one wgpu device.
pub(super) struct Gatherer {
    server: DeviceHandle<WgpuServer>,
    queue: Queue,
    pipelines: Mutex<HashMap<&'static str, Result<Arc<Pipeline>, LaunchError>>>,
    encoder: Mutex<Encoder>,
    staging: Staging,
    uploads: Uploads,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gatherer {
    /// That of a device which this crate opened.
    pub(super) fn new(device: &WgpuDevice) -> Option<Arc<Self>> {
        let queue = queue::of(device)?;
        Some(Arc::new(Self {
            server: DeviceHandle::new(device.to_id()),
            pipelines: Mutex::default(),
            encoder: Mutex::new(Encoder::new(&queue)),
            queue,
            staging: Staging::default(),
            uploads: Uploads::default(),
        }))
    }

    /// Runs `work` with a list open on this thread, and hands it over. Within another one, `work` only
    /// runs.
    pub(super) fn gather<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        /// Closes the list, also when `work` panics.
        struct Close;
        impl Drop for Close {
            fn drop(&mut self) {
                submit();
                OPEN.set(None);
            }
        }
        let is_first = OPEN.with_borrow_mut(|open| {
            let is_first = open.is_none();
            open.get_or_insert_with(|| Open {
                gatherer: self.clone(),
                launches: Vec::new(),
                full: FIRST_LAUNCHES,
            });
            is_first
        });
        let _close = is_first.then_some(Close);
        work()
    }

    /// Whether the current thread has a list open for this device.
    pub(super) fn is_open(self: &Arc<Self>) -> bool {
        OPEN.with_borrow(|open| open.as_ref().is_some_and(|open| Arc::ptr_eq(&open.gatherer, self)))
    }

    /// Adds a launch to the open list.
    pub(super) fn list(
        &self,
        task: Task,
        cubes: [u32; 2],
        buffers: &[&Handle],
    ) -> Result<(), LaunchError> {
        let pipeline = self.pipeline(task)?;
        let buffers = buffers.iter().map(|&handle| handle.clone().binding()).collect();
        let launch = Listed { pipeline, name: task.name, cubes, buffers };
        let is_full = OPEN.with_borrow_mut(|open| {
            let Some(open) = open else { return false };
            open.launches.push(launch);
            let is_full = open.launches.len() >= open.full;
            if is_full {
                open.full = (open.full + open.full / 2).min(LAUNCHES_AT_ONCE);
            }
            is_full
        });
        if is_full {
            submit();
        }
        Ok(())
    }

    /// A buffer for what an open list computes.
    pub(super) fn buffer(&self, client: &Client, bytes: usize) -> Handle {
        pool::take(std::ptr::from_ref(self).addr(), bytes, client)
    }

    /// Shows the first bytes of a buffer (whole words), once all is done that was launched before.
    pub(super) fn read<T>(
        self: &Arc<Self>,
        from: Handle,
        bytes: usize,
        show: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, String> {
        submit();
        let (bytes, device) = (bytes as u64, &self.queue.device);
        let copy = Arc::new(ReadBack::new(self.staging.take(device, bytes), bytes));
        let (this, to) = (self.clone(), copy.clone());
        self.server.submit(move |server| {
            if let Err(error) = this.copy(server, from, &to) {
                to.end(Err(error));
            }
        });
        self.server.flush_queue();
        copy.wait(device, &self.staging, || self.server.flush_queue(), show)
    }

    /// On the server's thread: submits a copy.
    fn copy(
        &self,
        server: &mut WgpuServer,
        from: Handle,
        to: &Arc<ReadBack>,
    ) -> Result<(), String> {
        ComputeServer::flush(server, StreamId::current()).map_err(|error| error.to_string())?;
        let found = ComputeServer::get_resource(server, from.binding(), StreamId::current());
        let found = found.map_err(|error| error.to_string())?;
        let place = found.resource();
        if place.size < to.bytes {
            return Err(format!("{} bytes of a buffer of {}", to.bytes, place.size));
        }
        let mut encoder = self.queue.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&place.buffer, place.offset, &to.staging, 0, to.bytes);
        self.queue.queue.submit([encoder.finish()]);
        to.map();
        Ok(())
    }

    /// Writes whole words to a buffer, behind all that was launched before.
    pub(super) fn upload(self: &Arc<Self>, bytes: Bytes, to: Handle) {
        submit();
        let this = self.clone();
        self.server.submit(move |server| {
            // What used that memory before comes first.
            flush(server);
            let found = ComputeServer::get_resource(server, to.binding(), StreamId::current());
            let written = found.map_err(|error| error.to_string()).and_then(|found| {
                let place = found.resource();
                this.uploads.write(&this.queue, &bytes, &place.buffer, place.offset)
            });
            if let Err(error) = written {
                tracing::error!(%error, "not uploaded");
            }
        });
        self.server.flush_queue();
    }

    /// Compiles a kernel at its first use.
    fn pipeline(&self, task: Task) -> Result<Arc<Pipeline>, LaunchError> {
        if let Some(known) = lock(&self.pipelines).get(task.name) {
            return known.clone();
        }
        let compiled =
            self.server.submit_blocking(|server| lock(&self.encoder).compile(server, task));
        let compiled = compiled.unwrap_or_else(|error| Err(format!("{error:?}")));
        let compiled = compiled.map(Arc::new).map_err(|reason| {
            let refusal = LaunchError::Driver { kernel: task.name.into(), reason };
            tracing::warn!(%refusal, "using other operations instead");
            refusal
        });
        lock(&self.pipelines).insert(task.name, compiled.clone());
        compiled
    }

    fn hand_over(self: &Arc<Self>, launches: Vec<Listed>) {
        if launches.is_empty() {
            return;
        }
        let this = self.clone();
        self.server.submit(move |server| this.encode(server, &launches));
        self.server.flush_queue();
    }

    /// On the server's thread: encodes and submits.
    fn encode(&self, server: &mut WgpuServer, launches: &[Listed]) {
        flush(server);
        lock(&self.encoder).submit(server, launches);
        let logger = server.logger();
        for launch in launches {
            logger.register_execution(launch.name);
        }
    }
}

/// Submits what the server has gathered by itself.
fn flush(server: &mut WgpuServer) {
    if let Err(error) = ComputeServer::flush(server, StreamId::current()) {
        tracing::error!(%error, "an earlier operation failed");
    }
}
