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

#[cfg(not(target_os = "macos"))]
use super::encode::{Mapped, Way};
use super::queue::Queue;

/// How long a thread asks the device again and again before it goes to sleep.
const BUSY: Duration = Duration::from_millis(2);
/// How often it says that it is still there.
const AWAKE: Duration = Duration::from_micros(20);
/// Places for copies that are kept: two lists of a few steps are on their way at a time.
const KEPT: usize = 16;

/// Where a copy is to be found on the host.
#[derive(Debug)]
pub(super) enum Landing {
    /// It is mapped once the copy is over.
    Staging(Buffer),
    /// For copies by a list's own commands, past wgpu.
    #[cfg(not(target_os = "macos"))]
    Mapped(Mapped),
}

impl Landing {
    /// A new one for so many bytes.
    #[cfg_attr(target_os = "macos", allow(clippy::unnecessary_wraps))] // wgpu's own ones never fail
    fn new(device: &Device, bytes: u64, kind: Kind) -> Result<Self, String> {
        match kind {
            Kind::Staging => Ok(Self::Staging(device.create_buffer(&BufferDescriptor {
                label: None,
                size: bytes,
                usage: BufferUsages::MAP_READ | BufferUsages::COPY_DST,
                mapped_at_creation: false,
            }))),
            #[cfg(not(target_os = "macos"))]
            Kind::Mapped => Mapped::new(device, bytes as usize, Way::ToHost).map(Self::Mapped),
        }
    }

    fn is(&self, bytes: u64, kind: Kind) -> bool {
        match (self, kind) {
            (Self::Staging(buffer), Kind::Staging) => buffer.size() == bytes,
            #[cfg(not(target_os = "macos"))]
            (Self::Mapped(memory), Kind::Mapped) => memory.bytes() as u64 == bytes,
            #[cfg(not(target_os = "macos"))]
            _ => false,
        }
    }

    /// Shows its first bytes, which are there.
    fn show<T>(&self, bytes: u64, show: impl FnOnce(&[u8]) -> T) -> T {
        match self {
            Self::Staging(buffer) => {
                let shown = show(&buffer.slice(..bytes).get_mapped_range());
                buffer.unmap();
                shown
            }
            #[cfg(not(target_os = "macos"))]
            Self::Mapped(memory) => show(&memory.read()[..bytes as usize]),
        }
    }
}

/// A kind of [`Landing`].
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Staging,
    #[cfg(not(target_os = "macos"))]
    Mapped,
}

/// Places that nobody uses.
#[derive(Debug, Default)]
pub(super) struct Landings(Mutex<Vec<Arc<Landing>>>);

impl Landings {
    /// One for so many bytes.
    fn take(&self, device: &Device, bytes: u64, kind: Kind) -> Result<Arc<Landing>, String> {
        let size = bytes.next_power_of_two().max(4);
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match free.iter().position(|landing| landing.is(size, kind)) {
            Some(i) => Ok(free.swap_remove(i)),
            None => Landing::new(device, size, kind).map(Arc::new),
        }
    }

    fn give_back(&self, landing: Arc<Landing>) {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() == KEPT {
            free.remove(0);
        }
        free.push(landing);
    }
}

/// A copy that was asked for, and not waited for: see [`Kernels::begin_read`](super::Kernels::begin_read).
#[derive(Debug)]
pub struct Begun(pub(super) Arc<ReadBack>);

/// A copy on its way to the host.
#[derive(Debug)]
pub(super) struct ReadBack {
    landing: Arc<Landing>,
    pub(super) bytes: u64,
    /// Where the copy is among all that was handed to the device, once it is.
    submitted: OnceLock<SubmissionIndex>,
    /// What became of it.
    outcome: Mutex<Option<Result<(), String>>>,
    is_over: AtomicBool,
}

impl ReadBack {
    /// A copy of so many bytes, and where it goes.
    pub(super) fn new(
        landings: &Landings,
        device: &Device,
        bytes: u64,
        kind: Kind,
    ) -> Result<Arc<Self>, String> {
        let landing = landings.take(device, bytes, kind)?;
        let (submitted, outcome) = (OnceLock::new(), Mutex::default());
        Ok(Arc::new(Self { landing, bytes, submitted, outcome, is_over: AtomicBool::new(false) }))
    }

    pub(super) fn landing(&self) -> &Landing {
        &self.landing
    }

    /// Says that the copy was just submitted.
    #[cfg_attr(target_os = "macos", allow(unused_variables))] // buffers are mapped without it
    pub(super) fn submitted(self: &Arc<Self>, queue: &Queue, index: SubmissionIndex) {
        let this = self.clone();
        match self.landing() {
            Landing::Staging(buffer) => {
                let mapped = move |result: Result<(), BufferAsyncError>| {
                    this.end(result.map_err(|error| error.to_string()));
                };
                buffer.slice(..self.bytes).map_async(MapMode::Read, mapped);
            }
            #[cfg(not(target_os = "macos"))]
            Landing::Mapped(_) => queue.queue.on_submitted_work_done(move || this.end(Ok(()))),
        }
        // Nobody else sets it.
        let _ = self.submitted.set(index);
    }

    /// Says what became of it.
    pub(super) fn end(&self, outcome: Result<(), String>) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        self.is_over.store(true, Ordering::Release);
    }

    /// Waits for the copy, calling `awake` now and then, which may say that it will not come, and shows it.
    pub(super) fn wait<T>(
        &self,
        device: &Device,
        kept: &Landings,
        awake: impl Fn() -> Result<(), String>,
        show: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, String> {
        let start = Instant::now();
        let mut called = start;
        while !self.is_over.load(Ordering::Acquire) {
            let now = Instant::now();
            let is_busy = now - start < BUSY;
            let poll = match self.submitted.get() {
                Some(_) if is_busy => Some(PollType::Poll),
                // Not for what was submitted behind it: that may be the next step.
                Some(index) => {
                    Some(PollType::Wait { submission_index: Some(index.clone()), timeout: None })
                }
                None if is_busy => {
                    spin_loop();
                    None
                }
                None => {
                    std::thread::sleep(AWAKE);
                    None
                }
            };
            if let Some(poll) = poll {
                device.poll(poll).map_err(|error| error.to_string())?;
            }
            if now - called > AWAKE {
                awake()?;
                called = now;
            }
        }
        let outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
        outcome.unwrap_or_else(|| Err("it was read before".into()))?;
        let shown = self.landing.show(self.bytes, show);
        kept.give_back(self.landing.clone());
        Ok(shown)
    }
}
