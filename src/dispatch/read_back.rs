//! Reading a buffer back with as little waiting as there can be.
//!
//! CubeCL's way wakes two threads one after the other, which takes a few hundred microseconds; a step
//! of a small model takes a large GPU about a millisecond. Here the thread that wants the values asks
//! the device itself, and the copies go to staging buffers that are kept.
//!
//! Meanwhile it keeps the server's thread awake: that one sleeps for 150 µs at a time once it has had
//! nothing to do for a while, and the next step would have to wait for it.

use std::{
    hint::spin_loop,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use wgpu::{
    Buffer, BufferAsyncError, BufferDescriptor, BufferUsages, Device, MapMode, PollType,
    SubmissionIndex,
};

/// How long a thread asks the device again and again before it goes to sleep.
const BUSY: Duration = Duration::from_millis(2);
/// How often it says that it is still there.
const AWAKE: Duration = Duration::from_micros(20);
/// Staging buffers that are kept.
const KEPT: usize = 4;

/// Staging buffers that nobody uses.
#[derive(Debug, Default)]
pub(super) struct Staging(Mutex<Vec<Buffer>>);

impl Staging {
    /// One for so many bytes.
    pub(super) fn take(&self, device: &Device, bytes: u64) -> Buffer {
        let size = bytes.next_power_of_two().max(4);
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match free.iter().position(|buffer| buffer.size() == size) {
            Some(i) => free.swap_remove(i),
            None => device.create_buffer(&BufferDescriptor {
                label: None,
                size,
                usage: BufferUsages::MAP_READ | BufferUsages::COPY_DST,
                mapped_at_creation: false,
            }),
        }
    }

    fn give_back(&self, buffer: Buffer) {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() == KEPT {
            free.remove(0);
        }
        free.push(buffer);
    }
}

/// A copy that was asked for, and not waited for: see [`Kernels::begin_read`](super::Kernels::begin_read).
#[derive(Debug)]
pub struct Begun(pub(super) Arc<ReadBack>);

/// A copy on its way to the host.
#[derive(Debug)]
pub(super) struct ReadBack {
    pub(super) staging: Buffer,
    pub(super) bytes: u64,
    /// Where the copy is among all that was handed to the device, once it is; it is then to be mapped.
    submitted: OnceLock<SubmissionIndex>,
    /// What became of it.
    outcome: Mutex<Option<Result<(), String>>>,
    is_over: AtomicBool,
}

impl ReadBack {
    pub(super) fn new(staging: Buffer, bytes: u64) -> Self {
        let (submitted, outcome) = (OnceLock::new(), Mutex::default());
        Self { staging, bytes, submitted, outcome, is_over: AtomicBool::new(false) }
    }

    /// Says that the copy was submitted.
    pub(super) fn map(self: &Arc<Self>, index: SubmissionIndex) {
        let this = self.clone();
        let mapped = move |result: Result<(), BufferAsyncError>| {
            this.end(result.map_err(|error| error.to_string()));
        };
        self.staging.slice(..self.bytes).map_async(MapMode::Read, mapped);
        // Nobody else sets it.
        let _ = self.submitted.set(index);
    }

    /// Says what became of it.
    pub(super) fn end(&self, outcome: Result<(), String>) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        self.is_over.store(true, Ordering::Release);
    }

    /// Waits for the copy, calling `awake` now and then, and shows it.
    pub(super) fn wait<T>(
        &self,
        device: &Device,
        kept: &Staging,
        awake: impl Fn(),
        show: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, String> {
        let start = Instant::now();
        let mut called = start;
        while !self.is_over.load(Ordering::Acquire) {
            let now = Instant::now();
            let is_busy = now - start < BUSY;
            let poll = match self.submitted.get() {
                Some(_) if is_busy => PollType::Poll,
                // Not for what was submitted behind it: that may be the next step.
                Some(index) => {
                    PollType::Wait { submission_index: Some(index.clone()), timeout: None }
                }
                None if is_busy => {
                    spin_loop();
                    continue;
                }
                None => {
                    std::thread::sleep(AWAKE);
                    continue;
                }
            };
            device.poll(poll).map_err(|error| error.to_string())?;
            if now - called > AWAKE {
                awake();
                called = now;
            }
        }
        let outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
        outcome.unwrap_or_else(|| Err("it was read before".into()))?;
        let shown = show(&self.staging.slice(..self.bytes).get_mapped_range());
        self.staging.unmap();
        kept.give_back(self.staging.clone());
        Ok(shown)
    }
}
