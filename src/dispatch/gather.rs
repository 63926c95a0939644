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
//!
//! A list may also be made for later, before its tokens are known: see [`ahead`].

use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use cubecl::{
    server::{Binding, ComputeServer, Handle},
    wgpu::{WgpuDevice, WgpuServer},
};
use cubecl_common::{device::Device as _, device_handle::DeviceHandle, stream_id::StreamId};

use super::{
    Entry, LaunchError,
    ahead::{self, Ahead, Later, Recorded},
    client::Client,
    device::is_set,
    encode::{self, Clock, Commands, Encoder, Pipeline},
    fresh::{self, Fresh},
    pipelines::{Pipelines, Sizes, Wanted},
    places::Places,
    pool,
    queue::{self, Queue},
    read_back::{Begun, Kind, Landings, ReadBack},
    task::Task,
    upload::Uploads,
    written::{self, Words, Written},
};

/// Launches after which a list is handed over although it is still open: the GPU begins with them
/// while the host goes on.
const LAUNCHES_AT_ONCE: usize = 32;
/// The same of the first part of a list, which the GPU has nothing to do but wait for. Every part is
/// half as long again as the one before.
const FIRST_LAUNCHES: usize = 8;

/// The environment variable that, set to 1, has no kernel compiled for the sizes of its launches: for
/// comparing.
const ALL_SIZES_VARIABLE: &str = "METAL_CANDLE_ALL_SIZES";

/// A launch on a list.
pub(super) struct Listed {
    pub(super) pipeline: Arc<Pipeline>,
    /// Of the kernel.
    pub(super) name: &'static str,
    pub(super) cubes: [u32; 2],
    pub(super) buffers: Vec<Binding>,
    /// Of each buffer, whether it writes to it.
    #[cfg_attr(target_os = "macos", allow(dead_code))] // wgpu finds that out itself
    pub(super) writes: &'static [bool],
    /// The buffers that it waits for itself.
    #[cfg_attr(target_os = "macos", allow(dead_code))] // nothing waits there
    pub(super) waits: Vec<usize>,
}

/// Launches that are handed over together.
pub(super) struct Part {
    /// What is cleared before them.
    #[cfg_attr(target_os = "macos", allow(dead_code))] // nothing waits there
    pub(super) clear: Option<Binding>,
    /// What is written before them.
    pub(super) written: Option<Words>,
    /// Launches of the list that come before them.
    pub(super) first: usize,
    pub(super) launches: Vec<Listed>,
}

impl Part {
    fn is_empty(&self) -> bool {
        self.clear.is_none() && self.written.is_none() && self.launches.is_empty()
    }
}

/// The list that a thread has open.
struct Open {
    gatherer: Arc<Gatherer>,
    number: u64,
    written: Written,
    launches: Vec<Listed>,
    /// That were handed over.
    handed_over: usize,
    /// That were before the step at hand.
    before: usize,
    fresh: Fresh,
    /// Parameters that it has written.
    params: Vec<(Vec<u32>, Handle)>,
    /// Launches after which it is handed over.
    full: usize,
    /// What it is a part of, if it waits for ids.
    later: Option<Arc<Later>>,
}

impl Open {
    /// Whether the step at hand has some.
    fn has_launches(&self) -> bool {
        self.handed_over > self.before || !self.launches.is_empty()
    }
}

thread_local! {
    static OPEN: RefCell<Option<Open>> = const { RefCell::new(None) };
}

/// Hands over what the current thread has listed so far, if it has a list open. One that waits for ids
/// cannot be: it is given up.
pub fn submit() {
    let given_up = OPEN.with_borrow(|open| {
        let Open { gatherer, later, .. } = open.as_ref()?;
        later.as_ref()?.give_up();
        Some((gatherer.clone(), later.clone()?))
    });
    hand_over();
    if let Some((gatherer, later)) = given_up {
        gatherer.write_given_up(later);
    }
}

/// Whether launches of the current thread's list can wait for what is in a buffer. (In one that was given
/// up nothing runs but what CubeCL launches itself.)
pub(super) fn is_announced(handle: &Handle) -> bool {
    let is_given_up = |open: &Open| open.later.as_ref().is_some_and(|later| later.is_given_up());
    OPEN.with_borrow(|open| {
        open.as_ref().is_some_and(|open| open.fresh.holds(handle) && !is_given_up(open))
    })
}

/// Hands over what the current thread has listed so far, to be submitted or for later.
fn hand_over() {
    let listed = OPEN.with_borrow_mut(|open| {
        let open = open.as_mut()?;
        let part = Part {
            clear: open.fresh.take_to_clear(),
            written: open.written.take(),
            first: open.handed_over,
            launches: std::mem::take(&mut open.launches),
        };
        open.handed_over += part.launches.len();
        (!part.is_empty()).then(|| (open.gatherer.clone(), part, open.later.clone()))
    });
    match listed {
        Some((gatherer, part, None)) => gatherer.hand_over(part),
        Some((gatherer, part, Some(later))) => gatherer.record(part, later),
        None => {}
    }
}

/// Closes the current thread's list, also when listing panics.
struct Close;

impl Drop for Close {
    fn drop(&mut self) {
        hand_over();
        if let Some(open) = OPEN.take() {
            open.gatherer.has_seen.store(true, Ordering::Release);
        }
    }
}

/// Lists launches on one wgpu device.
pub(super) struct Gatherer {
    server: DeviceHandle<WgpuServer>,
    queue: Queue,
    /// Lists so far.
    lists: AtomicU64,
    pipelines: Pipelines,
    /// Whether kernels are compiled for the sizes of their launches, see [`ALL_SIZES_VARIABLE`].
    compiles_for_sizes: bool,
    encoder: Mutex<Encoder>,
    /// Whether a list was closed since the encoder let go of what it had seen.
    has_seen: AtomicBool,
    landings: Landings,
    /// What is read back by a list's own commands lands there.
    landing: Kind,
    uploads: Uploads,
    /// Whether launches may wait for results themselves.
    overlaps: bool,
    /// Why something of what was handed over did not happen.
    lost: OnceLock<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gatherer {
    /// That of a device which this crate opened.
    pub(super) fn new(device: &WgpuDevice) -> Option<Arc<Self>> {
        let queue = queue::of(device)?;
        let encoder = Encoder::new(&queue);
        Some(Arc::new(Self {
            server: DeviceHandle::new(device.to_id()),
            lists: AtomicU64::new(0),
            pipelines: Pipelines::default(),
            compiles_for_sizes: !is_set(ALL_SIZES_VARIABLE),
            overlaps: encoder.overlaps(),
            landing: encoder.landing(),
            encoder: Mutex::new(encoder),
            has_seen: AtomicBool::new(false),
            queue,
            landings: Landings::default(),
            uploads: Uploads::default(),
            lost: OnceLock::new(),
        }))
    }

    /// Runs `work` with a list open on this thread, and hands it over. Within another one, `work` only
    /// runs.
    pub(super) fn gather<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        let _close = self.open(None);
        work()
    }

    /// Runs `work` with a list open on this thread that waits for the ids that it takes. `None` within
    /// another list, or when `work` did more than to list launches on ids.
    pub(super) fn ahead<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> Option<(T, Ahead)> {
        self.list_later(&Later::new(None), work)
    }

    /// Runs `work` with a list open on this thread that takes so many ids from a buffer, and submits it as
    /// a whole. `None` within another list, when `work` gives nothing, or when it did more than to list
    /// launches on ids: nothing is submitted then. Within such a list it is the next step of it, and is
    /// submitted, or not, with all of it.
    pub(super) fn follow<T>(
        self: &Arc<Self>,
        ids: (Handle, usize),
        work: impl FnOnce() -> Option<T>,
    ) -> Option<T> {
        if self.is_open() {
            let later = Self::go_on(ids)?;
            return work().filter(|_| !later.is_given_up());
        }
        let (made, listed) = self.list_later(&Later::new(Some(ids)), work)?;
        made.filter(|_| listed.follow())
    }

    fn list_later<T>(
        self: &Arc<Self>,
        later: &Arc<Later>,
        work: impl FnOnce() -> T,
    ) -> Option<(T, Ahead)> {
        let close = self.open(Some(later.clone()))?;
        later.opened();
        let made = work();
        drop(close);
        let listed = if later.is_given_up() { None } else { Ahead::new(self, later) };
        if listed.is_none() {
            later.give_up();
        }
        Some((made, listed?))
    }

    /// Runs `work` with a list open on this thread, and submits it as a whole: the time that the device takes for
    /// it. `None` within another list, when `work` did more than to list launches, and where the device has no
    /// clock.
    pub(super) fn time(self: &Arc<Self>, work: impl FnOnce()) -> Option<Result<Duration, String>> {
        let clock = Arc::new(Clock::new(&self.queue)?);
        let later = Later::new(None);
        let close = self.open(Some(later.clone()))?;
        later.recorded().commands = Some(Commands::timed(&self.queue, clock.clone()));
        later.opened();
        work();
        drop(close);
        if !Ahead::without_ids(self, &later).follow() {
            return None;
        }
        let submitted = self.server.submit_blocking(|_| ()).map_err(|error| format!("{error:?}"));
        Some(submitted.and_then(|()| clock.read(&self.queue)))
    }

    /// Has another step follow in the open list, which takes so many ids from a buffer, if it is one of those.
    fn go_on(ids: (Handle, usize)) -> Option<Arc<Later>> {
        let later = OPEN.with_borrow(|open| open.as_ref()?.later.clone())?;
        if !later.goes_on(ids) {
            return None;
        }
        // What this step writes comes behind what is listed already.
        hand_over();
        OPEN.with_borrow_mut(|open| {
            let open = open.as_mut()?;
            open.before = open.handed_over;
            open.fresh.follow();
            Some(later)
        })
    }

    /// Opens a list, unless one is open.
    fn open(self: &Arc<Self>, later: Option<Arc<Later>>) -> Option<Close> {
        if OPEN.with_borrow(Option::is_some) {
            return None;
        }
        ahead::settle();
        OPEN.set(Some(Open {
            gatherer: self.clone(),
            number: self.lists.fetch_add(1, Ordering::Relaxed),
            written: Written::default(),
            launches: Vec::new(),
            handed_over: 0,
            before: 0,
            fresh: Fresh::new(self.address()),
            params: Vec::new(),
            full: FIRST_LAUNCHES,
            later,
        }));
        Some(Close)
    }

    /// Where ids will be that an open list waits for.
    pub(super) fn ids(&self, client: &Client, count: usize) -> Option<Handle> {
        let later = OPEN.with_borrow(|open| open.as_ref()?.later.clone())?;
        let made = later.ids(count, || self.buffer(client, count * size_of::<u32>()));
        if made.is_none() {
            later.give_up();
        }
        made
    }

    /// Whether the current thread has a list open for this device.
    pub(super) fn is_open(self: &Arc<Self>) -> bool {
        OPEN.with_borrow(|open| open.as_ref().is_some_and(|open| Arc::ptr_eq(&open.gatherer, self)))
    }

    /// Adds a launch to the open list.
    pub(super) fn list(
        self: &Arc<Self>,
        task: Task,
        entry: &Entry,
        cubes: [u32; 2],
        buffers: &[&Handle],
        waits: Vec<usize>,
        sizes: Option<Sizes<'_>>,
    ) -> Result<(), LaunchError> {
        let pipeline = self.pipeline(task, sizes)?;
        let buffers = buffers.iter().map(|&handle| handle.clone().binding()).collect();
        let (name, writes) = (task.name, entry.writes);
        let launch = Listed { pipeline, name, cubes, buffers, writes, waits };
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
            hand_over();
        }
        Ok(())
    }

    /// A buffer that the open list fills with a few words before the first launch of its step, if that is still
    /// to come and there is room: a launch that is listed already may write what lies there.
    pub(super) fn written(&self, client: &Client, bytes: &[u8]) -> Option<Handle> {
        let block = || self.buffer(client, written::BLOCK_BYTES);
        OPEN.with_borrow_mut(|open| {
            let open = open.as_mut().filter(|open| !open.has_launches())?;
            open.written.add(bytes, block)
        })
    }

    /// The buffer of parameters that the open list has written.
    #[allow(clippy::unused_self)] // whose list is open
    pub(super) fn written_params(&self, words: &[u32]) -> Option<Handle> {
        OPEN.with_borrow(|open| {
            let (_, handle) = open.as_ref()?.params.iter().find(|(written, _)| written == words)?;
            Some(handle.clone())
        })
    }

    /// Has the open list fill a buffer with parameters, which it is asked for afterwards
    /// ([`written_params`](Self::written_params)); `false` when it cannot.
    pub(super) fn write_params(&self, client: &Client, words: &[u32]) -> bool {
        if self.written_params(words).is_some() {
            return true;
        }
        let written = self.written(client, bytemuck::cast_slice(words));
        let known = written.map(|handle| (words.to_vec(), handle));
        OPEN.with_borrow_mut(|open| {
            let params = open.as_mut().map(|open| &mut open.params);
            params.zip(known).map(|(params, known)| params.push(known)).is_some()
        })
    }

    /// A buffer for what an open list computes.
    pub(super) fn buffer(&self, client: &Client, bytes: usize) -> Handle {
        pool::take(self.address(), bytes, client)
    }

    /// The same for a result that others may wait for.
    pub(super) fn announced(&self, client: &Client, bytes: usize) -> Handle {
        let take = |open: &mut Open| open.fresh.take(bytes, client);
        let taken =
            OPEN.with_borrow_mut(|open| open.as_mut().filter(|_| self.overlaps).and_then(take));
        taken.unwrap_or_else(|| self.buffer(client, bytes))
    }

    /// Whether launches of this thread's lists have waited.
    pub(super) fn has_waited(&self) -> bool {
        fresh::is_wanted(self.address())
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Shows the first bytes of a buffer (whole words), once all is done that was launched before. Until
    /// then there is something else to do.
    pub(super) fn read<T>(
        self: &Arc<Self>,
        from: &Handle,
        bytes: usize,
        meanwhile: impl FnOnce(),
        show: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, String> {
        submit();
        let copy = self.read_back(bytes, Kind::Staging)?;
        let (this, from, to) = (self.clone(), from.clone(), copy.clone());
        self.on_server(move |server| {
            if let Err(error) = this.copy(server, from, &to) {
                to.end(Err(error));
            }
        });
        self.server.flush_queue();
        self.finish(&Begun(copy), meanwhile, show)
    }

    /// A copy of so many bytes to the host.
    fn read_back(&self, bytes: usize, kind: Kind) -> Result<Arc<ReadBack>, String> {
        ReadBack::new(&self.landings, &self.queue.device, bytes as u64, kind)
    }

    /// As [`read`](Self::read), to be waited for later ([`finish`](Self::finish)): a part of the list that is
    /// open, if it is one that is made for later.
    pub(super) fn begin_read(&self, from: &Handle, bytes: usize) -> Option<Begun> {
        let later = OPEN.with_borrow(|open| open.as_ref()?.later.clone())?;
        let copy = self.read_back(bytes, self.landing).ok()?;
        later.copy(from.clone(), copy.clone());
        Some(Begun(copy))
    }

    /// Shows what was begun to be read.
    pub(super) fn finish<T>(
        &self,
        begun: &Begun,
        meanwhile: impl FnOnce(),
        show: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, String> {
        meanwhile();
        let awake = || {
            self.server.flush_queue();
            self.lost()
        };
        let shown = begun.0.wait(&self.queue.device, &self.landings, awake, show)?;
        self.lost()?;
        Ok(shown)
    }

    /// On the server's thread: submits a copy.
    fn copy(
        &self,
        server: &mut WgpuServer,
        from: Handle,
        to: &Arc<ReadBack>,
    ) -> Result<(), String> {
        ComputeServer::flush(server, StreamId::current()).map_err(|error| error.to_string())?;
        let place = Places::new(server).find(&from.binding())?;
        let mut commands = Commands::new(&self.queue);
        commands.copy(&place, to)?;
        to.submitted(&self.queue, commands.submit(&self.queue));
        Ok(())
    }

    /// Lets go of buffers that lists have used: before memory is taken for what lasts. They may have been
    /// those of a model, or of a cache, that is gone.
    pub(super) fn forget_seen(self: &Arc<Self>) {
        if !self.has_seen.swap(false, Ordering::AcqRel) {
            return;
        }
        let this = self.clone();
        self.on_server(move |_| lock(&this.encoder).forget_seen());
    }

    /// Writes whole words to a buffer, behind all that was launched before.
    pub(super) fn upload(self: &Arc<Self>, bytes: Bytes, to: Handle) {
        submit();
        let this = self.clone();
        self.on_server(move |server| {
            // What used that memory before comes first.
            flush(server);
            let written = Places::new(server).find(&to.binding()).and_then(|place| {
                this.uploads.write(&this.queue, &bytes, &place.buffer, place.offset)
            });
            if let Err(error) = written {
                tracing::error!(%error, "not uploaded");
            }
        });
        self.server.flush_queue();
    }

    /// Has the server's thread do something. CubeCL only logs it when that panics, as wgpu does where it refuses
    /// something: what was lost then is missed by whoever reads afterwards.
    fn on_server(self: &Arc<Self>, task: impl FnOnce(&mut WgpuServer) + Send + 'static) {
        let this = self.clone();
        self.server.submit(move |server| {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| task(server))) {
                let words = panic.downcast_ref::<String>().map(String::as_str);
                let words = words.or_else(|| panic.downcast_ref::<&str>().copied());
                let words = words.unwrap_or("it panicked").to_owned();
                tracing::error!(words, "the device's thread lost something");
                // The first of them says most.
                let _ = this.lost.set(words);
            }
        });
    }

    /// What the server's thread said when it lost something.
    fn lost(&self) -> Result<(), String> {
        self.lost.get().map_or(Ok(()), |words| Err(format!("the device lost something: {words}")))
    }

    /// The kernel of a launch. It is compiled at its first use; for sizes with which it is launched
    /// often, by the server between two lists.
    fn pipeline(
        self: &Arc<Self>,
        task: Task,
        sizes: Option<Sizes<'_>>,
    ) -> Result<Arc<Pipeline>, LaunchError> {
        let list = OPEN.with_borrow(|open| open.as_ref().map_or(0, |open| open.number));
        let sizes = sizes.filter(|_| self.compiles_for_sizes);
        if let Some(known) = self.pipelines.find(task.name, sizes, list) {
            let (pipeline, wanted) = known?;
            if let Some(wanted) = wanted {
                self.compile_later(task.name, wanted);
            }
            return Ok(pipeline);
        }
        let compiled =
            self.server.submit_blocking(|server| lock(&self.encoder).compile(server, task));
        let compiled = compiled.unwrap_or_else(|error| Err(format!("{error:?}")));
        let compiled = compiled.map_err(|reason| {
            let refusal = LaunchError::Driver { kernel: task.name.into(), reason };
            tracing::warn!(%refusal, "using other operations instead");
            refusal
        });
        self.pipelines.insert(task.name, compiled)
    }

    fn compile_later(self: &Arc<Self>, kernel: &'static str, wanted: Wanted) {
        let this = self.clone();
        self.on_server(move |_| {
            let Wanted { any, params, words } = wanted;
            match any.with_constants(&this.queue, params, &words) {
                Ok(compiled) => {
                    tracing::debug!(kernel, ?words, "compiled for these parameters");
                    this.pipelines.put(kernel, &words, compiled);
                }
                Err(reason) => tracing::warn!(kernel, ?words, reason, "not compiled for them"),
            }
        });
    }

    /// How many kernels were compiled for some sizes.
    pub(super) fn sized_kernels(&self) -> usize {
        self.pipelines.sized()
    }

    fn hand_over(self: &Arc<Self>, part: Part) {
        let this = self.clone();
        self.on_server(move |server| this.encode(server, &part));
        self.server.flush_queue();
    }

    /// Has a part of a list encoded that waits for ids.
    fn record(self: &Arc<Self>, part: Part, later: Arc<Later>) {
        let this = self.clone();
        self.on_server(move |server| {
            flush(server);
            let mut recorded = later.recorded();
            // It may have been told to run already.
            let is_given_up = later.is_given_up();
            if !is_given_up {
                let commands = recorded.commands.get_or_insert_with(|| Commands::new(&this.queue));
                lock(&this.encoder).record(server, &part, commands);
                recorded.launches.extend(part.launches);
            }
            recorded.written.extend(part.written);
            if is_given_up {
                this.write_all(server, &mut recorded.written);
            }
        });
        self.server.flush_queue();
    }

    /// Writes what a list that was given up would have written: launches that CubeCL makes itself go on with
    /// its parameters. (And it does no harm: what comes to lie there is written or computed later still.)
    fn write_given_up(self: &Arc<Self>, later: Arc<Later>) {
        let this = self.clone();
        self.on_server(move |server| this.write_all(server, &mut later.recorded().written));
    }

    /// On the server's thread.
    fn write_all(&self, server: &mut WgpuServer, written: &mut Vec<Words>) {
        for words in written.drain(..) {
            let (to, bytes) = (words.binding(), &words.bytes);
            if let Err(error) = encode::write(&self.queue, server, &to, bytes) {
                tracing::error!(error, "not written");
            }
        }
    }

    /// Submits a list that has waited, with these ids.
    pub(super) fn run(self: &Arc<Self>, later: &Arc<Later>, ids: Option<(Handle, Vec<u8>)>) {
        let (this, later) = (self.clone(), later.clone());
        self.on_server(move |server| {
            flush(server);
            let Recorded { commands, launches, .. } = std::mem::take(&mut *later.recorded());
            let written = ids.map_or(Ok(()), |(to, ids)| {
                encode::write(&this.queue, server, &to.binding(), &ids)
            });
            let mut copies = later.take_copies();
            if let (Ok(()), Some(mut commands)) = (&written, commands) {
                copies.retain(|(from, to)| {
                    let place = Places::new(server).find(&from.clone().binding());
                    let copied = place.and_then(|place| commands.copy(&place, to));
                    copied.map_err(|error| to.end(Err(error))).is_ok()
                });
                let index = commands.submit(&this.queue);
                for (_, to) in copies {
                    to.submitted(&this.queue, index.clone());
                }
                log(server, &launches);
            } else {
                if let Err(error) = written {
                    tracing::error!(%error, "not launched: its ids cannot be written");
                }
                for (_, to) in copies {
                    to.end(Err("it was not launched".into()));
                }
            }
        });
        self.server.flush_queue();
    }

    /// On the server's thread: encodes and submits.
    fn encode(&self, server: &mut WgpuServer, part: &Part) {
        flush(server);
        let mut commands = Commands::new(&self.queue);
        lock(&self.encoder).record(server, part, &mut commands);
        commands.submit(&self.queue);
        log(server, &part.launches);
    }
}

/// Tells who listens what was launched.
fn log(server: &WgpuServer, launches: &[Listed]) {
    let logger = server.logger();
    for launch in launches {
        logger.register_execution(launch.name);
    }
}

/// Submits what the server has gathered by itself.
fn flush(server: &mut WgpuServer) {
    if let Err(error) = ComputeServer::flush(server, StreamId::current()) {
        tracing::error!(%error, "an earlier operation failed");
    }
}

#[cfg(test)]
mod tests {
    use metal_candle_kernels::{Kernel, copy::Copy};

    use super::*;
    use crate::{
        backend::wgpu::ShaderLanguage,
        dispatch::Kernels,
        testing::{INSTALL_A_DRIVER, open_wgpu},
    };

    #[test]
    fn what_is_lost_is_missed_by_who_reads() {
        let opened = open_wgpu(ShaderLanguage::SpirV);
        let (device, _) = opened.unwrap_or_else(|error| panic!("{error}\n{INSTALL_A_DRIVER}"));
        let gatherer = Gatherer::new(&device).expect("this crate opened it");
        let kernels = Kernels::of(&device);
        let three = kernels.upload(bytemuck::cast_slice(&[1u32, 2, 3]));
        let read = || gatherer.read(&three, 12, || (), bytemuck::pod_collect_to_vec::<u8, u32>);
        assert_eq!(read(), Ok(vec![1, 2, 3]));
        gatherer.on_server(|_| panic!("a list was refused"));
        let error = read().expect_err("something was lost");
        assert!(error.contains("a list was refused"), "{error}");
    }

    #[test]
    fn a_list_is_timed() {
        for language in [ShaderLanguage::SpirV, ShaderLanguage::Wgsl] {
            let opened = open_wgpu(language);
            let (device, _) = opened.unwrap_or_else(|error| panic!("{error}\n{INSTALL_A_DRIVER}"));
            let kernels = Kernels::of(&device);
            let copy = Copy { per_thread: 1 };
            let from = kernels.upload(&vec![7; copy.bytes_per_cube()]);
            let to = kernels.empty(copy.bytes_per_cube());
            let launch = || {
                // SAFETY: a cube copies as much as they hold.
                let launched =
                    unsafe { kernels.launch_buffers(Kernel::Copy(copy), 1, &[&from, &to]) };
                launched.expect("a kernel");
            };
            let time = kernels.time_list(launch).expect("it has a clock").expect("a time");
            assert!(time > Duration::ZERO, "{language:?}");
            let read = || kernels.download(to.clone()).expect("read");
            assert_eq!(read(), vec![7; copy.bytes_per_cube()]);
            // More than launches.
            let time = kernels.time_list(|| {
                launch();
                submit();
            });
            assert!(time.is_none(), "{language:?}");
        }
    }
}
