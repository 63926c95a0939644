//! Timing the variants of a family on a device, and remembering which was the fastest.
//!
//! Times are the device's own where it has timestamps. A shape is measured over several copies of
//! its data, so that no cache holds them from one launch to the next. Products are launched one behind the other
//! with barriers between them; attention, of which a step has two launches for each layer, as steps have it
//! (`attention`).

mod attention;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use cubecl::server::Handle;
use metal_candle_kernels::{Format, Kernel, attention::Params, copy, matvec, table};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Kernels, LaunchError, queue::TASKS_PER_SUBMISSION};
pub use attention::fewest_parts;

/// Data that a measurement goes through before it meets the same bytes again.
const WORKING_SET: usize = 256 << 20;
/// How long a device works before it is timed.
const WARM_UP: Duration = Duration::from_millis(150);
/// The same after it has had nothing to do for a while, as when data for a shape is made or a model is loaded:
/// an H200 then takes three times as long for everything, for 400 ms.
pub const FIRST_WARM_UP: Duration = Duration::from_millis(800);
/// Bytes that the ceiling is measured with.
const COPIED: usize = 512 << 20;

/// Launches in a sample at most: one submission. CubeCL's timestamps are those of the first submission of
/// what is timed, so that launches of a second one would seem to take no time.
pub const MOST_REPEATS: usize = TASKS_PER_SUBMISSION;

/// Why a measurement failed.
#[derive(Debug, Error)]
pub enum TuneError {
    /// A kernel could not be launched.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The device could not time it.
    #[error("timing on the device: {0}")]
    Timing(String),
    /// A file of choices could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// One variant at one shape.
#[derive(Clone, Debug, Serialize)]
pub struct Timing {
    /// The kernel's name.
    pub kernel: String,
    /// Seconds of one launch, or of the two of attention: the median.
    pub seconds: f64,
    /// Bytes that it must read and write.
    pub bytes: u64,
}

impl Timing {
    /// Bytes per second.
    pub fn bandwidth(&self) -> f64 {
        self.bytes as f64 / self.seconds
    }
}

/// What was found to be the fastest: shape class to kernel name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choices {
    /// By [`matvec_class`].
    #[serde(default)]
    pub matvec: BTreeMap<String, String>,
    /// Into how many parts the keys are split, by [`attention_class`].
    #[serde(default)]
    pub attention: BTreeMap<String, u32>,
}

/// The shapes that share a choice: whether there is a norm, format, rows of `x`, rows and columns of
/// the matrix.
pub fn matvec_class(format: Format, params: &matvec::Params) -> String {
    let batch = params.batch.next_power_of_two();
    let norm = if params.norm.is_some() { "norm " } else { "" };
    format!("{norm}{} b{batch} {}x{}", format.name(), params.rows, params.columns)
}

/// The shapes that share a choice: head dimension and type of the cache, heads, sequences, query
/// rows, and the keys to the next power of two.
pub fn attention_class(dim: u32, f16: bool, params: &Params) -> String {
    let Params { batch, len, heads, kv_heads, keys, .. } = params;
    let (ty, keys) = (if f16 { "f16" } else { "f32" }, keys.next_power_of_two());
    format!("d{dim} {ty} {heads}/{kv_heads} b{batch} x{len} {keys}")
}

impl Choices {
    /// Whether nothing was chosen.
    pub fn is_empty(&self) -> bool {
        self.matvec.is_empty() && self.attention.is_empty()
    }

    /// Reads a file that [`Choices::save`] wrote.
    ///
    /// # Errors
    /// [`TuneError::File`].
    pub fn load(path: &Path) -> Result<Self, TuneError> {
        let failed = |source| TuneError::File { path: path.into(), source };
        let text = std::fs::read(path).map_err(failed)?;
        serde_json::from_slice(&text).map_err(|error| failed(error.into()))
    }

    /// Writes a file, with its folder.
    ///
    /// # Errors
    /// [`TuneError::File`].
    pub fn save(&self, path: &Path) -> Result<(), TuneError> {
        let failed = |source| TuneError::File { path: path.into(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let text = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
        std::fs::write(path, text).map_err(failed)
    }
}

/// Where a device's choices are kept: `METAL_CANDLE_TUNING` if it is set (`none` for nowhere), else a
/// file of the user's cache folder, named after the device with its driver and this crate's version.
pub fn default_path(device: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("METAL_CANDLE_TUNING") {
        return Some(PathBuf::from(path)).filter(|path| path.as_os_str() != "none");
    }
    let cache = match std::env::var_os("XDG_CACHE_HOME") {
        Some(path) if !path.is_empty() => PathBuf::from(path),
        _ => std::env::home_dir()?.join(".cache"),
    };
    let name: String =
        device.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let file = format!("{name}-{}.json", env!("CARGO_PKG_VERSION"));
    Some(cache.join("metal-candle/tuning").join(file))
}

/// Runs measurements on one device.
#[derive(Debug)]
pub struct Tuner<'a> {
    kernels: &'a Kernels,
    repeats: usize,
}

impl<'a> Tuner<'a> {
    /// On these kernels' device. `repeats` launches make one sample: at most [`MOST_REPEATS`].
    pub fn new(kernels: &'a Kernels, repeats: usize) -> Self {
        Self { kernels, repeats: repeats.clamp(1, MOST_REPEATS) }
    }

    /// Keeps the device busy until its clocks have risen: an idle GPU runs at a fraction of them.
    fn warm_up(
        &self,
        is_first: bool,
        launch: &(impl Fn(usize) -> Result<(), LaunchError> + Send + Sync),
    ) -> Result<(), TuneError> {
        let start = Instant::now();
        let mut i = 0;
        let long = if is_first { FIRST_WARM_UP } else { WARM_UP };
        while start.elapsed() < long {
            for _ in 0..self.repeats {
                launch(i)?;
                i += 1;
            }
            self.kernels.sync();
        }
        Ok(())
    }

    /// The median over five samples (after one to warm up) of the seconds that what `launch` does
    /// takes, which are so many launches. The device may have been idle before the first one of a shape.
    fn time(
        &self,
        is_first: bool,
        launches: usize,
        launch: impl Fn(usize) -> Result<(), LaunchError> + Send + Sync,
    ) -> Result<f64, TuneError> {
        self.warm_up(is_first, &launch)?;
        let repeats = (self.repeats / launches).max(1);
        let mut samples = Vec::new();
        for sample in 0..6 {
            let time = self.kernels.profile(|| {
                for i in 0..repeats {
                    // The first launch above went well, and this is the same one.
                    let _ = launch(i);
                }
            });
            let time: Duration = time.map_err(TuneError::Timing)?;
            if sample > 0 {
                samples.push(time.as_secs_f64() / repeats as f64);
            }
        }
        Ok(median(samples))
    }

    /// The most bytes per second that a plain copy reads and writes together: the ceiling.
    ///
    /// # Errors
    /// [`TuneError`].
    pub fn copy_bandwidth(&self, bytes: usize) -> Result<f64, TuneError> {
        let bytes = bytes.min(COPIED);
        let (source, target) = (self.kernels.empty(bytes), self.kernels.empty(bytes));
        let mut best = 0.0f64;
        for kernel in table() {
            let Kernel::Copy(variant) = kernel else { continue };
            let cubes = (bytes / copy::Copy::bytes_per_cube(variant)).min(65_535);
            let seconds = self.time(best == 0.0, 1, |_| {
                // SAFETY: so many cubes copy no more than the buffers hold.
                unsafe { self.kernels.launch_buffers(kernel, cubes as u32, &[&source, &target]) }
            })?;
            let moved = 2 * cubes * copy::Copy::bytes_per_cube(variant);
            best = best.max(moved as f64 / seconds);
        }
        Ok(best)
    }

    /// Times every pregenerated matrix-vector kernel that fits, the fastest first. It stops taking
    /// up variants when the budget is spent.
    ///
    /// # Errors
    /// [`TuneError`].
    pub fn matvec(
        &self,
        format: Format,
        params: &matvec::Params,
        budget: Duration,
    ) -> Result<Vec<Timing>, TuneError> {
        let start = Instant::now();
        let (rows, columns) = (params.rows as usize, params.columns as usize);
        let bytes = rows * (columns / format.block_len()) * format.block_bytes();
        let copies = WORKING_SET.div_ceil(bytes).clamp(1, 64);
        let weights = Noise::default().buffers(self.kernels, bytes + 4, copies);
        let x = Noise::default().buffer(self.kernels, columns * params.batch as usize * 4);
        let added = Noise::default().buffer(self.kernels, rows * params.batch as usize * 4);
        let out = self.kernels.empty(rows * params.batch as usize * 4);
        let moved = bytes + (columns + rows) * params.batch as usize * 4;
        let mut timings = Vec::new();
        for kernel in table() {
            let Kernel::MatVec(variant) = kernel else { continue };
            if !variant.takes(format, params)
                // An adapter has one shape, and buffers that are not made here.
                || variant.low_rank
                || !self.kernels.meets(&kernel.needs())
                || (!timings.is_empty() && start.elapsed() > budget)
            {
                continue;
            }
            let seconds = self.time(timings.is_empty(), 1, |i| {
                let mut inputs = vec![&weights[i % copies], &x];
                // The gain of the norm.
                inputs.extend(variant.normed.then_some(&x));
                inputs.push(&added);
                let cubes = variant.cubes(params);
                // SAFETY: the buffers were made for these parameters.
                unsafe { self.kernels.launch(kernel, cubes, &inputs, params.words(), &[&out]) }
            })?;
            timings.push(Timing { kernel: kernel.name(), seconds, bytes: moved as u64 });
        }
        timings.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        Ok(timings)
    }
}

/// The middle one of some samples.
fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// Bytes that are valid as f32, as f16 and as blocks of every format: small numbers.
#[derive(Debug)]
struct Noise(u64);

impl Default for Noise {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Noise {
    fn buffer(mut self, kernels: &Kernels, bytes: usize) -> Handle {
        self.buffers(kernels, bytes, 1).remove(0)
    }

    fn buffers(&mut self, kernels: &Kernels, bytes: usize, count: usize) -> Vec<Handle> {
        let words: Vec<u32> = (0..bytes.div_ceil(4))
            .map(|_| {
                self.0 ^= self.0 << 13;
                self.0 ^= self.0 >> 7;
                self.0 ^= self.0 << 17;
                // Exponents well below 1, for both halves.
                ((self.0 >> 20) as u32 & 0x83ff_83ff) | 0x3000_3000
            })
            .collect();
        let words = Bytes::copy_from_slice(bytemuck::cast_slice(&words));
        (0..count).map(|_| kernels.upload_at_once(&words)).collect()
    }
}
