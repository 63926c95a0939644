//! Timing attention over a cache as it comes in a step: in a list, where each launch waits for the results of
//! the one before, and nothing for more than it reads.
//!
//! The device's own clock times two lists of which one is longer, so that what lists begin with (a region is
//! cleared, everything before is waited for) takes no part in the difference. The device copies something while
//! the host makes them: idle, it would run at lower clocks.

use std::time::{Duration, Instant};

use cubecl::server::Handle;
use metal_candle_kernels::{
    Kernel, attention,
    attention::{Decode, Merge, Params},
    copy::Copy,
};

use super::{Noise, Timing, TuneError, Tuner, median};
use crate::dispatch::{Kernels, LaunchError, choose};

/// Bytes of caches at most. Each is used once in a list, as in a step: for what is written, too, a launch would
/// wait for the one before that has the same cache.
const CACHES: usize = 1 << 30;
/// How many times as long the longer list is.
const LONGER: usize = 4;
/// Lists until the host has what it keeps from one to the next, and kernels are compiled for their sizes.
const FIRST_LISTS: usize = 8;
/// Samples, of which the median counts.
const SAMPLES: usize = 15;
/// Bytes that are copied meanwhile, at a time.
const FILLED: usize = 128 << 20;
/// Copies at most, whatever they seem to take.
const MOST_COPIES: f64 = 256.0;
/// Parts are worth it that take so much time off: they are more cubes, which what comes before and behind them in
/// a step has to make room for.
const WORTH: f64 = 0.1;

/// The number of parts to take of those that were timed: the fewest that are not much slower than the fastest.
pub fn fewest_parts(timings: &[(u32, Timing)]) -> Option<u32> {
    let best = timings.iter().map(|(_, timing)| timing.seconds).min_by(f64::total_cmp)?;
    let good = timings.iter().filter(|(_, timing)| timing.seconds <= best * (1.0 + WORTH));
    good.map(|(parts, _)| *parts).min()
}

/// What is attended to.
struct Subject<'a> {
    kernels: &'a Kernels,
    /// Keys and values.
    caches: Vec<[Handle; 2]>,
    q: Handle,
    /// What is turned by the same launch: the newest key and value, cosines and sines.
    turning: [Handle; 4],
    padding: Handle,
}

impl<'a> Subject<'a> {
    fn new(kernels: &'a Kernels, dim: u32, f16: bool, params: &Params, most: usize) -> Self {
        let positions = (params.batch * params.kv_heads * params.capacity * dim) as usize;
        let bytes = positions * if f16 { 2 } else { 4 };
        let count = (CACHES / (2 * bytes)).clamp(1, most);
        let both = Noise::default().buffers(kernels, bytes, 2 * count);
        let floats = |values: u32| Noise::default().buffer(kernels, values as usize * 4);
        let (newest, half) = (params.batch * params.kv_heads * dim, dim / 2);
        Self {
            kernels,
            caches: both.chunks_exact(2).map(|pair| [pair[0].clone(), pair[1].clone()]).collect(),
            q: floats(params.rows() * dim),
            turning: [floats(newest), floats(newest), floats(half), floats(half)],
            padding: kernels.params(&vec![0; params.batch as usize]),
        }
    }

    /// The kernel that a step would have: where there is one, it turns queries and the newest key.
    fn kernel(&self, dim: u32, f16: bool, params: &Params) -> Option<Decode> {
        let kernel = |rotary| choose::decode(self.kernels, dim, f16, rotary, params);
        kernel(true).or_else(|| kernel(false))
    }

    /// The result of the `i`-th attention.
    fn attend(
        &self,
        kernel: Decode,
        params: &Params,
        i: usize,
        q: &Handle,
    ) -> Result<Handle, LaunchError> {
        let [keys, values] = &self.caches[i % self.caches.len()];
        let announced = |values: u32| self.kernels.announced(values as usize * 4);
        let (vectors, ends) =
            (announced(params.parts() * kernel.dim), announced(params.parts() * 2));
        let (mut inputs, mut outputs) = (vec![q], vec![&vectors, &ends]);
        if kernel.rotary {
            inputs.extend(&self.turning);
            outputs.extend([keys, values]);
        }
        inputs.extend([keys, values, &self.padding]);
        let (decode, cubes) = (Kernel::Decode(kernel), kernel.cubes(params));
        // SAFETY: the buffers were made for these parameters.
        unsafe { self.kernels.launch(decode, cubes, &inputs, params.words(), &outputs) }?;
        if params.splits == 1 {
            return Ok(vectors);
        }
        let out = announced(params.rows() * kernel.dim);
        let merge = Merge { dim: kernel.dim };
        let (inputs, cubes) = ([&vectors, &ends], merge.cubes(params));
        // SAFETY: likewise.
        unsafe {
            self.kernels.launch(Kernel::Merge(merge), cubes, &inputs, params.words(), &[&out])
        }?;
        Ok(out)
    }

    /// The time of a list of so many attentions, each to the result of the one before; `None` where none can be
    /// timed.
    fn list(
        &self,
        kernel: Decode,
        params: &Params,
        count: usize,
    ) -> Option<Result<f64, TuneError>> {
        let time = self.kernels.time_list(|| {
            let mut q = self.q.clone();
            for i in 0..count {
                // The same launches went well before.
                let Ok(out) = self.attend(kernel, params, i, &q) else { return };
                q = out;
            }
        })?;
        Some(time.map(|time| time.as_secs_f64()).map_err(TuneError::Timing))
    }

    /// Seconds of one attention in a list; `None` where lists cannot be timed.
    fn listed(
        &self,
        filler: &Filler<'_>,
        kernel: Decode,
        params: &Params,
    ) -> Option<Result<f64, TuneError>> {
        let long = self.caches.len();
        let short = long / LONGER;
        if let Err(refusal) = self.attend(kernel, params, 0, &self.q) {
            return Some(Err(refusal.into()));
        }
        let mut host = Duration::ZERO;
        for _ in 0..FIRST_LISTS {
            let start = Instant::now();
            if let Err(error) = self.list(kernel, params, long)? {
                return Some(Err(error));
            }
            host = start.elapsed();
        }
        let time = |count| {
            filler.fill(host).and_then(|()| {
                self.list(kernel, params, count)
                    .unwrap_or_else(|| Err(TuneError::Timing("a list was given up".into())))
            })
        };
        let sample = |_| Ok((time(long)? - time(short)?) / (long - short) as f64);
        let samples = (0..SAMPLES).map(sample).collect::<Result<Vec<_>, TuneError>>();
        Some(samples.map(median))
    }
}

/// Keeps the device busy.
struct Filler<'a> {
    kernels: &'a Kernels,
    buffers: [Handle; 2],
    cubes: u32,
    /// Of one copy.
    seconds: f64,
}

impl<'a> Filler<'a> {
    const COPY: Copy = Copy { per_thread: 4 };

    fn new(tuner: &Tuner<'a>) -> Result<Self, TuneError> {
        let kernels = tuner.kernels;
        let buffers = [kernels.empty(FILLED), kernels.empty(FILLED)];
        let cubes = (FILLED / Self::COPY.bytes_per_cube()) as u32;
        let mut made = Self { kernels, buffers, cubes, seconds: 0.0 };
        made.seconds = tuner.time(true, 1, |_| made.copy())?;
        Ok(made)
    }

    fn copy(&self) -> Result<(), LaunchError> {
        let [from, to] = &self.buffers;
        // SAFETY: so many cubes copy as much as the buffers hold.
        unsafe { self.kernels.launch_buffers(Kernel::Copy(Self::COPY), self.cubes, &[from, to]) }
    }

    /// For so long from now on.
    fn fill(&self, time: Duration) -> Result<(), TuneError> {
        let copies = (time.as_secs_f64() / self.seconds).ceil().clamp(1.0, MOST_COPIES) as usize;
        (0..copies).try_for_each(|_| self.copy())?;
        Ok(())
    }
}

impl Tuner<'_> {
    /// Times attention with heads of `dim` values, over a cache of f16 or f32, for several numbers of
    /// parts, the fastest first. There is none where no kernel takes it.
    ///
    /// # Errors
    /// [`TuneError`].
    pub fn attention(
        &self,
        dim: u32,
        f16: bool,
        params: Params,
    ) -> Result<Vec<(u32, Timing)>, TuneError> {
        let subject = Subject::new(self.kernels, dim, f16, &params, self.repeats);
        let filler = Filler::new(self)?;
        let element = if f16 { 2 } else { 4 };
        let read = 2 * (params.batch * params.kv_heads * params.keys * dim) as usize * element;
        let mut timings = Vec::new();
        for splits in (0..).map(|i| 1 << i).take_while(|&splits| splits <= attention::MAX_SPLITS) {
            if splits * 32 > params.keys {
                break;
            }
            let params = Params { splits, ..params };
            let Some(kernel) = subject.kernel(dim, f16, &params) else { break };
            let seconds = subject.listed(&filler, kernel, &params).unwrap_or_else(|| {
                let launches = if splits == 1 { 1 } else { 2 };
                self.time(timings.is_empty(), launches, |i| {
                    subject.attend(kernel, &params, i, &subject.q).map(drop)
                })
            })?;
            let kernel = Kernel::Decode(kernel).name();
            timings.push((splits, Timing { kernel, seconds, bytes: read as u64 }));
        }
        timings.sort_by(|a, b| a.1.seconds.total_cmp(&b.1.seconds));
        Ok(timings)
    }
}
