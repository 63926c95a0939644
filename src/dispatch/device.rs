//! Kernels on one device.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
#[cfg(feature = "cuda")]
use cubecl::cuda::{CudaDevice, CudaRuntime};
use cubecl::{
    CubeCount, Runtime,
    features::{MmaConfig, Plane},
    ir::{DeviceProperties, ElemType, FloatKind, StorageType},
    server::{Handle, KernelArguments, MetadataBindingInfo},
    wgpu::{WgpuDevice, WgpuRuntime},
};
use metal_candle_kernels::{Kernel, MatrixUnits, Needs, Wait};
use rustc_hash::FxHashMap;
use thiserror::Error;

use super::{
    Ahead, Begun, Choices, Entry,
    client::{Client, with_client},
    find,
    gather::{self, Gatherer},
    pipelines::Sizes,
    queue,
    task::Task,
    trace::JIT,
};

/// Uploaded parameters that are kept; a decode step adds a few.
const KEPT_PARAMS: usize = 4096;
/// Parameters of single steps that are kept: the memory of those before them is given to new ones, so
/// that a step has the same buffers as one shortly before it, and finds its bind groups.
const PASSING_PARAMS: usize = 8;
/// The environment variable that, set to 1, has every kernel expanded at run time: for comparing.
pub const JIT_VARIABLE: &str = "METAL_CANDLE_JIT";
/// The environment variable that, set to 1, has nothing listed before its tokens are known: for comparing.
const NOT_AHEAD_VARIABLE: &str = "METAL_CANDLE_NO_LOOK_AHEAD";
/// Cubes in one dimension that every API allows.
const MAX_CUBES: u32 = 65_535;

/// Why a kernel was not launched.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LaunchError {
    /// The device lacks something.
    #[error("kernel {kernel} needs {needs}, which this device does not have")]
    Needs {
        /// The kernel.
        kernel: String,
        /// What it needs.
        needs: String,
    },
    /// The driver does not take it.
    #[error("kernel {kernel} was refused: {reason}")]
    Driver {
        /// The kernel.
        kernel: String,
        /// What the driver, or the compiler on the way to it, said.
        reason: String,
    },
}

/// The kernels on one device.
#[allow(clippy::struct_excessive_bools)] // facts that have nothing to do with each other
pub struct Kernels {
    client: Client,
    plane: Option<u32>,
    f16: bool,
    /// Those of [`MatrixUnits`] that it has.
    units: Vec<MatrixUnits>,
    /// See [`Needs::bytes`].
    bytes: bool,
    max_threads: u32,
    max_shared: usize,
    /// Whether to leave the pregenerated texts alone, see [`JIT_VARIABLE`].
    expand: bool,
    params: Mutex<FxHashMap<Vec<u32>, Handle>>,
    /// Those that one step has and no other, the newest last.
    passing: Mutex<VecDeque<(Vec<u32>, Handle)>>,
    choices: Mutex<Choices>,
    resolved: Mutex<FxHashMap<Kernel, Result<Task, LaunchError>>>,
    /// Where launches can be listed.
    gatherer: Option<Arc<Gatherer>>,
    /// Whether lists may wait for their tokens, see [`NOT_AHEAD_VARIABLE`].
    looks_ahead: bool,
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("Kernels");
        out.field("plane", &self.plane).field("f16", &self.f16).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether an environment variable is 1.
pub(super) fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| value == "1")
}

fn properties(client: &Client) -> &DeviceProperties {
    with_client!(client, client => client.properties())
}

/// The matrix units that kernels may use.
fn units(properties: &DeviceProperties) -> Vec<MatrixUnits> {
    let float = |kind| StorageType::from(ElemType::Float(kind));
    let has = |MatrixUnits { edge, halves }: &MatrixUnits| {
        let ty = float(if *halves { FloatKind::F16 } else { FloatKind::F32 });
        let (a_type, b_type, cd_type) = (ty, ty, float(FloatKind::F32));
        let (m, n, k) = (*edge, *edge, *edge);
        properties.features.matmul.cmma.contains(&MmaConfig { a_type, b_type, cd_type, m, n, k })
    };
    MatrixUnits::ALL.into_iter().filter(has).collect()
}

/// A device of any runtime.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Place {
    Wgpu(WgpuDevice),
    #[cfg(feature = "cuda")]
    Cuda(CudaDevice),
}

impl Place {
    fn client(&self) -> Client {
        match self {
            Self::Wgpu(device) => Client::Wgpu(WgpuRuntime::client(device)),
            #[cfg(feature = "cuda")]
            Self::Cuda(device) => Client::Cuda(CudaRuntime::client(device)),
        }
    }

    fn gatherer(&self) -> Option<Arc<Gatherer>> {
        match self {
            Self::Wgpu(device) => Gatherer::new(device),
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => None,
        }
    }

    /// Whether kernels may multiply bytes.
    fn multiplies_bytes(&self) -> bool {
        match self {
            Self::Wgpu(device) => queue::of(device).is_some_and(|queue| queue.multiplies_bytes),
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => true,
        }
    }
}

impl Kernels {
    /// Those of an open wgpu device.
    pub fn of(device: &WgpuDevice) -> Arc<Self> {
        Self::at(Place::Wgpu(device.clone()))
    }

    /// Those of a CUDA device, which must exist.
    #[cfg(feature = "cuda")]
    pub fn of_cuda(device: &CudaDevice) -> Arc<Self> {
        Self::at(Place::Cuda(device.clone()))
    }

    fn at(place: Place) -> Arc<Self> {
        static ALL: Mutex<Option<HashMap<Place, Arc<Kernels>>>> = Mutex::new(None);
        let mut all = lock(&ALL);
        let all = all.get_or_insert_default();
        if let Some(kernels) = all.get(&place) {
            return kernels.clone();
        }
        let bytes = place.multiplies_bytes();
        let kernels = Arc::new(Self::new(place.client(), place.gatherer(), bytes));
        all.insert(place, kernels.clone());
        kernels
    }

    fn new(client: Client, gatherer: Option<Arc<Gatherer>>, bytes: bool) -> Self {
        let properties = properties(&client);
        let hardware = &properties.hardware;
        let has_planes = properties.features.plane.contains(Plane::Ops);
        let expand = is_set(JIT_VARIABLE);
        Self {
            plane: (has_planes && hardware.plane_size_min == hardware.plane_size_max)
                .then_some(hardware.plane_size_min),
            f16: properties.supports_type(ElemType::Float(FloatKind::F16)),
            units: units(properties),
            max_threads: hardware.max_units_per_cube,
            max_shared: hardware.max_shared_memory_size,
            // What stands for products of bytes in a kernel is put in at build time.
            bytes: bytes && !expand,
            expand,
            looks_ahead: !is_set(NOT_AHEAD_VARIABLE),
            params: Mutex::default(),
            passing: Mutex::default(),
            choices: Mutex::default(),
            resolved: Mutex::default(),
            gatherer,
            client,
        }
    }

    /// The number of threads that run in step, where it is fixed and they can exchange values.
    pub fn plane(&self) -> Option<u32> {
        self.plane
    }

    /// What is known of the device, by name.
    pub fn facts(&self) -> BTreeMap<&'static str, String> {
        let properties = properties(&self.client);
        let (hardware, memory) = (&properties.hardware, &properties.memory);
        let (min, max) = (hardware.plane_size_min, hardware.plane_size_max);
        let units: Vec<_> = self.units.iter().map(ToString::to_string).collect();
        let exchange = if self.plane.is_some() { "used" } else { "not used" };
        BTreeMap::from([
            ("f16", self.f16.to_string()),
            ("largest buffer", format!("{} MiB", memory.max_page_size >> 20)),
            ("matrix units", if units.is_empty() { "none".into() } else { units.join(", ") }),
            ("plane", format!("{min} to {max}, {exchange}")),
            ("shared memory", format!("{} KiB", self.max_shared >> 10)),
            ("threads in a cube", self.max_threads.to_string()),
            ("timing", format!("{:?}", properties.timing_method)),
        ])
    }

    /// Whether there is arithmetic on f16.
    pub fn f16(&self) -> bool {
        self.f16
    }

    /// The matrix units that kernels can use here.
    pub fn units(&self) -> &[MatrixUnits] {
        &self.units
    }

    /// Whether the device meets a kernel's needs.
    pub fn meets(&self, needs: &Needs) -> bool {
        needs.plane.is_none_or(|plane| self.plane == Some(plane))
            && (self.f16 || !needs.f16)
            && needs.units.is_none_or(|units| self.units.contains(&units))
            && (self.bytes || !needs.bytes)
    }

    /// Memory that CubeCL holds on the device, in bytes.
    pub fn memory_bytes(&self) -> Option<u64> {
        with_client!(&self.client, client => Some(client.memory_usage().ok()?.bytes_reserved))
    }

    /// Lists what `work` launches, and hands it over as a whole: see [`gather`](super::gather). `work`
    /// must not use burn's operations on what it launches without [`submit`](super::gather::submit).
    pub fn gather<T>(&self, work: impl FnOnce() -> T) -> T {
        match &self.gatherer {
            Some(gatherer) => gatherer.gather(work),
            None => work(),
        }
    }

    /// Lists what `work` launches, and encodes it, to be submitted when the ids are known that `work` takes
    /// from [`ids`](Self::ids): see [`ahead`](super::ahead). `None` where nothing can be listed, or when
    /// `work` did more than that.
    pub fn ahead<T>(&self, work: impl FnOnce() -> T) -> Option<(T, Ahead)> {
        self.gatherer.as_ref().filter(|_| self.looks_ahead)?.ahead(work)
    }

    /// Lists what `work` launches, which takes so many ids from [`ids`](Self::ids), and submits it as a
    /// whole: the ids are those that the device finds in a buffer then. `None` where nothing can be listed,
    /// when `work` gives nothing, or when it did more than that.
    pub fn follow<T>(
        &self,
        ids: &Handle,
        count: usize,
        work: impl FnOnce() -> Option<T>,
    ) -> Option<T> {
        let gatherer = self.gatherer.as_ref().filter(|_| self.looks_ahead)?;
        gatherer.follow((ids.clone(), count), work)
    }

    /// Whether launches of the current thread are listed just now.
    pub(super) fn is_listing(&self) -> bool {
        self.list().is_some()
    }

    /// Where launches of the current thread are listed just now.
    fn list(&self) -> Option<&Arc<Gatherer>> {
        self.gatherer.as_ref().filter(|gatherer| gatherer.is_open())
    }

    /// Memory for `bytes` bytes that are kept for longer than a step, not initialised.
    pub fn lasting(&self, bytes: usize) -> Handle {
        if let Some(gatherer) = &self.gatherer {
            gatherer.forget_seen();
        }
        self.client.empty(bytes)
    }

    /// Memory for `bytes` bytes (or a few more), not initialised.
    pub fn empty(&self, bytes: usize) -> Handle {
        match self.list() {
            Some(list) => list.buffer(&self.client, bytes),
            None => self.client.empty(bytes),
        }
    }

    /// The same for what a kernel makes that [announces](Kernel::announces) its results.
    pub fn announced(&self, bytes: usize) -> Handle {
        match self.list() {
            Some(list) => list.announced(&self.client, bytes),
            None => self.client.empty(bytes),
        }
    }

    /// Uploads bytes.
    pub fn upload(&self, bytes: &[u8]) -> Handle {
        with_client!(&self.client, client => client.create_from_slice(bytes))
    }

    /// A buffer with these ids; in a list that is made for others, with those that it will be run with.
    pub fn ids(&self, ids: &[u32]) -> Handle {
        let later = self.list().and_then(|list| list.ids(&self.client, ids.len()));
        later.unwrap_or_else(|| self.upload(bytemuck::cast_slice(ids)))
    }

    /// Uploads whole words that only the step at hand needs.
    pub fn passing(&self, bytes: &[u8]) -> Handle {
        let written = self.list().and_then(|list| list.written(&self.client, bytes));
        written.unwrap_or_else(|| self.upload(bytes))
    }

    /// Uploads many bytes as fast as it goes.
    pub fn upload_at_once(&self, bytes: &Bytes) -> Handle {
        match &self.gatherer {
            Some(gatherer) if !bytes.is_empty() && bytes.len().is_multiple_of(4) => {
                let handle = self.lasting(bytes.len());
                gatherer.upload(bytes.clone(), handle.clone());
                handle
            }
            _ => self.upload(bytes),
        }
    }

    /// Reads a buffer back.
    ///
    /// # Errors
    /// The device's words.
    pub fn download(&self, handle: Handle) -> Result<Vec<u8>, String> {
        gather::submit();
        let bytes = with_client!(&self.client, client => client.read_one(handle))
            .map_err(|error| error.to_string())?;
        Ok(bytes.to_vec())
    }

    /// Has the first values of a buffer read back by the list that is open, when it is one that is made for
    /// later ([`follow`](Self::follow)): without a submission of its own.
    pub fn begin_read<T>(&self, handle: &Handle, count: usize) -> Option<Begun> {
        self.list()?.begin_read(handle, count * size_of::<T>())
    }

    /// What was begun to be read, once; `meanwhile` runs while the device computes it.
    ///
    /// # Errors
    /// The device's words.
    pub fn finish_read<T: bytemuck::Pod>(
        &self,
        begun: &Begun,
        meanwhile: impl FnOnce(),
    ) -> Result<Vec<T>, String> {
        let gatherer = self.gatherer.as_ref().ok_or("nothing was begun to be read here")?;
        gatherer.finish(begun, meanwhile, bytemuck::pod_collect_to_vec)
    }

    /// The first values of a buffer; `meanwhile` runs while the device computes them.
    ///
    /// # Errors
    /// The device's words.
    pub fn values<T: bytemuck::Pod>(
        &self,
        handle: Handle,
        count: usize,
        meanwhile: impl FnOnce(),
    ) -> Result<Vec<T>, String> {
        match &self.gatherer {
            Some(gatherer) if count > 0 => gatherer.read(
                &handle,
                count * size_of::<T>(),
                meanwhile,
                bytemuck::pod_collect_to_vec,
            ),
            _ => {
                meanwhile();
                let bytes = self.download(handle)?;
                let mut values: Vec<T> = bytemuck::pod_collect_to_vec(&bytes);
                values.truncate(count);
                Ok(values)
            }
        }
    }

    /// The buffer that holds these parameters: uploaded the first time, shared from then on.
    /// An upload ends the submission that is being gathered, so what a step needs is best asked for
    /// before its first launch.
    pub fn params(&self, words: &[u32]) -> Handle {
        if let Some(written) = self.list().and_then(|list| list.written_params(words)) {
            return written;
        }
        if let Some((_, handle)) = lock(&self.passing).iter().find(|(held, _)| *held == words) {
            return handle.clone();
        }
        let mut params = lock(&self.params);
        if let Some(handle) = params.get(words) {
            return handle.clone();
        }
        if params.len() >= KEPT_PARAMS {
            params.clear();
        }
        let handle = self.upload(bytemuck::cast_slice(words));
        params.insert(words.to_vec(), handle.clone());
        handle
    }

    /// Uploads parameters that [`Kernels::params`] will be asked for in the next step, and hardly ever
    /// again.
    pub fn passing_params(&self, words: Vec<u32>) {
        if self.list().is_some_and(|list| list.write_params(&self.client, &words)) {
            return;
        }
        let mut passing = lock(&self.passing);
        if passing.iter().any(|(held, _)| *held == words) {
            return;
        }
        if passing.len() >= PASSING_PARAMS {
            passing.pop_front();
        }
        let handle = self.upload(bytemuck::cast_slice(&words));
        passing.push_back((words, handle));
    }

    /// Launches a kernel: `inputs`, the parameters and `outputs` in the kernel's order.
    ///
    /// # Errors
    /// [`LaunchError`]; what the driver refuses is noticed at a kernel's first launch.
    ///
    /// # Safety
    /// The buffers must be as large as the parameters say.
    pub unsafe fn launch(
        &self,
        kernel: Kernel,
        cubes: u32,
        inputs: &[&Handle],
        params: Vec<u32>,
        outputs: &[&Handle],
    ) -> Result<(), LaunchError> {
        let mut words = params;
        let waits = self.tell_to_wait(kernel, inputs, &mut words);
        let params = self.params(&words);
        let buffers: Vec<&Handle> =
            inputs.iter().copied().chain([&params]).chain(outputs.iter().copied()).collect();
        let (params, words) = (inputs.len(), &*words);
        let sizes = kernel.passing().map(|passing| Sizes { params, words, passing });
        // SAFETY: the caller's.
        unsafe { self.launch_told(kernel, cubes, &buffers, waits, sizes) }
    }

    /// Has a kernel wait for those of its inputs that others of the open list announce: which these are.
    fn tell_to_wait(&self, kernel: Kernel, inputs: &[&Handle], words: &mut [u32]) -> Vec<usize> {
        if !self.is_listing() {
            return Vec::new();
        }
        let is_announced = |wait: &&Wait| gather::is_announced(inputs[wait.buffer]);
        let told = kernel.waits().iter().filter(is_announced);
        told.map(|wait| {
            words[wait.word] |= wait.bit;
            wait.buffer
        })
        .collect()
    }

    /// Parameters of a kernel as [`launch`](Self::launch) will have them, as far as that is known: it waits
    /// for all that it can, if launches of this thread have waited for something.
    pub fn likely_params(&self, kernel: Kernel, mut words: Vec<u32>) -> Vec<u32> {
        if self.gatherer.as_ref().is_some_and(|gatherer| gatherer.has_waited()) {
            kernel.waits().iter().for_each(|wait| words[wait.word] |= wait.bit);
        }
        words
    }

    /// As [`Kernels::launch`], with all buffers in the kernel's order.
    ///
    /// # Errors
    /// As [`Kernels::launch`].
    ///
    /// # Safety
    /// As [`Kernels::launch`].
    pub unsafe fn launch_buffers(
        &self,
        kernel: Kernel,
        cubes: u32,
        buffers: &[&Handle],
    ) -> Result<(), LaunchError> {
        // SAFETY: the caller's.
        unsafe { self.launch_told(kernel, cubes, buffers, Vec::new(), None) }
    }

    /// As [`Kernels::launch_buffers`], of a kernel whose parameters have it wait for some of them, and may
    /// be known.
    ///
    /// # Safety
    /// As [`Kernels::launch`].
    unsafe fn launch_told(
        &self,
        kernel: Kernel,
        cubes: u32,
        buffers: &[&Handle],
        waits: Vec<usize>,
        sizes: Option<Sizes<'_>>,
    ) -> Result<(), LaunchError> {
        if cubes == 0 {
            return Ok(());
        }
        let known = lock(&self.resolved).get(&kernel).cloned();
        let is_new = known.is_none();
        let task = match known {
            Some(task) => task?,
            None => self.resolve(kernel)?,
        };
        let [x, y] = if cubes <= MAX_CUBES {
            [cubes, 1]
        } else {
            // A few cubes too many: every kernel looks whether its place exists.
            [MAX_CUBES, cubes.div_ceil(MAX_CUBES)]
        };
        if let Some(list) = self.list() {
            if let Some(entry) = task.entry {
                lock(&self.resolved).entry(kernel).or_insert(Ok(task));
                return list.list(task, entry, [x, y], buffers, waits, sizes);
            }
            // CubeCL's server expands it, and launches it itself.
            gather::submit();
        }
        let arguments = KernelArguments::new()
            .with_buffers(buffers.iter().map(|&handle| handle.clone().binding()).collect())
            .with_info(MetadataBindingInfo::default());
        let count = CubeCount::Static(x, y, 1);
        let launch = || {
            // SAFETY: every index is checked against the parameters, and the caller vouches for those.
            with_client!(&self.client, client => unsafe {
                client.launch_unchecked(Box::new(task), count, arguments);
            });
        };
        if is_new {
            return self.launch_first(kernel, task, launch);
        }
        launch();
        Ok(())
    }

    /// The time that the device spends on what `work` launches.
    pub(super) fn profile(&self, work: impl FnOnce() + Send) -> Result<Duration, String> {
        let ((), time) = with_client!(&self.client, client => client.profile(work, "tune"))
            .map_err(|error| format!("{error:?}"))?;
        Ok(cubecl::future::block_on(time.resolve()).duration())
    }

    /// The time that the device takes for what `work` lists, which is submitted as a whole; `None` where nothing
    /// can be listed, where the device has no clock, or when `work` did more than that.
    pub(super) fn time_list(&self, work: impl FnOnce()) -> Option<Result<Duration, String>> {
        self.gatherer.as_ref()?.time(work)
    }

    /// How many kernels were compiled for sizes that lists launch them with again and again.
    pub fn sized_kernels(&self) -> usize {
        self.gatherer.as_ref().map_or(0, |gatherer| gatherer.sized_kernels())
    }

    /// Waits for everything that was launched.
    pub fn sync(&self) {
        gather::submit();
        let waited = with_client!(&self.client, client => cubecl::future::block_on(client.sync()));
        if let Err(error) = waited {
            tracing::warn!(%error, "waiting for the device");
        }
    }

    /// What tuning chose, see [`super::tune`].
    pub fn choices(&self) -> MutexGuard<'_, Choices> {
        lock(&self.choices)
    }

    /// A kernel's first launch, and whether it went well. CubeCL keeps errors to itself until it is asked, and
    /// those of all threads together: none of them comes in between.
    fn launch_first(
        &self,
        kernel: Kernel,
        task: Task,
        launch: impl FnOnce() + Send,
    ) -> Result<(), LaunchError> {
        let launched = with_client!(&self.client, client => client.exclusive(|| {
            if let Err(error) = client.flush() {
                tracing::error!(%error, "an earlier operation failed");
            }
            launch();
            client.flush()
        }));
        let outcome = launched.and_then(|flushed| flushed).map(|()| task).map_err(|error| {
            let refusal = LaunchError::Driver { kernel: kernel.name(), reason: error.to_string() };
            tracing::warn!(%refusal, "using other operations instead");
            refusal
        });
        lock(&self.resolved).insert(kernel, outcome.clone());
        outcome.map(|_| ())
    }

    /// Finds the code of a kernel.
    fn resolve(&self, kernel: Kernel) -> Result<Task, LaunchError> {
        let name = kernel.name();
        let needs = kernel.needs();
        if !self.meets(&needs) {
            return Err(LaunchError::Needs { kernel: name, needs: format!("{needs:?}") });
        }
        let entry = find(&name).filter(|entry| self.fits(entry) && !self.expand);
        if entry.is_none() {
            tracing::info!(kernel = %name, "not generated at build time: expanding it now");
        }
        let threads = entry.map_or_else(
            || {
                let dim = kernel.define().cube_dim;
                [dim.x, dim.y, dim.z]
            },
            |entry| entry.cube_dim,
        );
        let name = entry.map_or_else(
            // Once for each kernel of a process.
            || &*Box::leak(format!("{JIT}{name}").into_boxed_str()),
            |entry| entry.name,
        );
        Ok(Task { kernel, name, entry, threads })
    }

    fn fits(&self, entry: &Entry) -> bool {
        entry.cube_dim.iter().product::<u32>() <= self.max_threads
            && entry.shared_bytes <= self.max_shared
    }
}
