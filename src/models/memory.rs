//! How much memory a model takes, told from its file and its configuration before anything is
//! loaded.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use burn::tensor::DType;
use thiserror::Error;

use super::{DecoderConfig, LoadOptions, ModelError};
use crate::{
    backend::{Backend, KvCache, KvCacheShape, StepShape},
    formats::{Checkpoint, TensorInfo},
    memory::Size,
    quant::Encoding,
};

/// A smaller context than this is no advice.
const SHORTEST: usize = 64;

/// What a model shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Sequences at a time.
    pub sequences: usize,
    /// Positions of each that the cache has room for; 0 without a cache.
    pub cached: usize,
    /// Positions of each that are run at once.
    pub rows: usize,
    /// Positions of each that logits are made for at once.
    pub logits: usize,
}

/// Bytes that a model takes on its device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Weights as the device holds them.
    pub weights: u64,
    /// Keys and values, once the cache is full.
    pub cache: u64,
    /// Everything that lives between two layers, at most.
    pub scratch: u64,
}

impl MemoryPlan {
    /// Plans a model on a backend.
    ///
    /// # Errors
    /// [`ModelError`] for a configuration that makes no sense.
    pub fn new<B: Backend>(
        checkpoint: &Checkpoint,
        options: &LoadOptions<'_>,
        workload: Workload,
        device: &B::Device,
    ) -> Result<Self, ModelError> {
        let config = DecoderConfig::from_json(checkpoint.config(), checkpoint.config_path())?;
        let how = How::<B> { dtype: options.dtype, dequantize: options.dequantize, device };
        let tensors = tensors(checkpoint, &config);
        Ok(how.plan(&tensors, &config, workload))
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.cache + self.scratch
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { weights, cache, scratch } = *self;
        let [total, weights, cache, scratch] = [self.total(), weights, cache, scratch].map(Size);
        write!(f, "{total}: weights {weights}, cache {cache}, scratch {scratch}")
    }
}

/// A model does not fit.
#[derive(Debug, Error)]
#[error(
    "{}: the model takes {plan}; {} are available on {device}; {}", file.display(),
    Size(*available), Advice(fits)
)]
pub struct DoesNotFit {
    /// The checkpoint.
    pub file: PathBuf,
    /// What it would take.
    pub plan: MemoryPlan,
    /// Bytes that the device has left.
    pub available: u64,
    /// The device.
    pub device: String,
    /// What would fit, for people.
    pub fits: Vec<String>,
}

/// Why a model is not to be loaded.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// It cannot be planned.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// It does not fit.
    #[error(transparent)]
    DoesNotFit(#[from] Box<DoesNotFit>),
}

struct Advice<'a>(&'a [String]);

impl fmt::Display for Advice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("no smaller form of it fits"),
            fits => write!(f, "what fits: {}", fits.join("; ")),
        }
    }
}

/// Holds a plan against the memory that is available, before anything is loaded.
///
/// # Errors
/// [`MemoryError::DoesNotFit`] with the numbers and what would fit.
pub fn check_memory<B: Backend>(
    checkpoint: &Checkpoint,
    options: &LoadOptions<'_>,
    workload: Workload,
    device: &B::Device,
    available: u64,
) -> Result<MemoryPlan, MemoryError> {
    let plan = MemoryPlan::new::<B>(checkpoint, options, workload, device)?;
    if plan.total() <= available {
        return Ok(plan);
    }
    let config = DecoderConfig::from_json(checkpoint.config(), checkpoint.config_path())?;
    let how = How::<B> { dtype: options.dtype, dequantize: options.dequantize, device };
    let fits = how.alternatives(&tensors(checkpoint, &config), &config, workload, available);
    let file = checkpoint.path().to_path_buf();
    let device = B::name(device);
    Err(Box::new(DoesNotFit { file, plan, available, device, fits }).into())
}

/// Block formats that a backend cannot use as they are: they are dense once they are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// The format in the file.
    pub encoding: Encoding,
    /// Matrices of it.
    pub matrices: usize,
    /// Their bytes in the file.
    pub stored: u64,
    /// Their bytes on the device.
    pub loaded: u64,
}

impl fmt::Display for Unpacked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { encoding, matrices, stored, loaded } = *self;
        let (stored, loaded) = (Size(stored), Size(loaded));
        write!(
            f,
            "{matrices} matrices of {encoding} are loaded dense: {loaded} instead of {stored}"
        )
    }
}

/// The formats of a checkpoint that a backend loads dense although nobody asked for that.
///
/// # Errors
/// [`ModelError`] for a configuration that makes no sense.
pub fn unpacked<B: Backend>(
    checkpoint: &Checkpoint,
    options: &LoadOptions<'_>,
    device: &B::Device,
) -> Result<Vec<Unpacked>, ModelError> {
    if options.dequantize {
        return Ok(Vec::new());
    }
    let config = DecoderConfig::from_json(checkpoint.config(), checkpoint.config_path())?;
    let how = How::<B> { dtype: options.dtype, dequantize: false, device };
    let mut found: BTreeMap<&str, Unpacked> = BTreeMap::new();
    for Stored { shape, encoding } in tensors(checkpoint, &config) {
        if encoding.is_packed() && shape.len() > 1 && !how.keeps(&shape, encoding) {
            let none = Unpacked { encoding, matrices: 0, stored: 0, loaded: 0 };
            let entry = found.entry(encoding.name()).or_insert(none);
            entry.matrices += 1;
            entry.stored += encoding.bytes_for(elements(&shape)).unwrap_or(0) as u64;
            entry.loaded += how.bytes(&shape, encoding);
        }
    }
    Ok(found.into_values().collect())
}

/// What is known of a tensor before it is read.
struct Stored {
    shape: Vec<usize>,
    encoding: Encoding,
}

impl Stored {
    /// `None` for a type that is not loaded.
    fn of(info: TensorInfo) -> Option<Self> {
        Some(Self { encoding: Encoding::from_name(&info.type_name)?, shape: info.shape })
    }
}

fn elements(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// The tensors that a decoder loads: those of its file, or what random weights will be.
fn tensors(checkpoint: &Checkpoint, config: &DecoderConfig) -> Vec<Stored> {
    if let Some(random) = checkpoint.random_weights() {
        let make = |shape: Vec<usize>| Stored { encoding: random.encoding_of(&shape), shape };
        return shapes(config).into_iter().map(make).collect();
    }
    // An output layer that is the embedding is not loaded even where a file repeats it.
    let loaded = |info: &TensorInfo| !(config.tied && info.name == "lm_head.weight");
    checkpoint.infos().filter(loaded).filter_map(Stored::of).collect()
}

/// The weights of a decoder without biases.
fn shapes(config: &DecoderConfig) -> Vec<Vec<usize>> {
    let &DecoderConfig { hidden, intermediate, layers, heads, kv_heads, head_dim, .. } = config;
    let (queries, kv) = (heads * head_dim, kv_heads * head_dim);
    let layer = [
        vec![hidden],
        vec![queries, hidden],
        vec![kv, hidden],
        vec![kv, hidden],
        vec![hidden, queries],
        vec![hidden],
        vec![intermediate, hidden],
        vec![intermediate, hidden],
        vec![hidden, intermediate],
    ];
    let matrices = if config.tied { 1 } else { 2 };
    let mut all = vec![vec![config.vocabulary, hidden]; matrices];
    all.push(vec![hidden]);
    all.extend((0..layers).flat_map(|_| layer.iter().cloned()));
    all
}

/// How weights are stored on a device.
struct How<'a, B: Backend> {
    dtype: DType,
    dequantize: bool,
    device: &'a B::Device,
}

impl<B: Backend> How<'_, B> {
    /// Whether a matrix stays packed.
    fn keeps(&self, shape: &[usize], encoding: Encoding) -> bool {
        let &[rows, columns] = shape else { return false };
        !self.dequantize
            && encoding.is_packed()
            && B::keeps_packed(encoding, [rows, columns], self.device)
    }

    /// Bytes of a tensor on the device: see [`Weights`](crate::nn::Weights).
    fn bytes(&self, shape: &[usize], encoding: Encoding) -> u64 {
        let values = elements(shape);
        let bytes = match shape {
            _ if self.keeps(shape, encoding) => encoding.bytes_for(values).unwrap_or(0),
            [] | [_] => values * DType::F32.size(),
            _ => values * self.dtype.size(),
        };
        bytes as u64
    }

    fn plan(&self, tensors: &[Stored], config: &DecoderConfig, workload: Workload) -> MemoryPlan {
        let &DecoderConfig { heads, kv_heads, head_dim, .. } = config;
        let Workload { sequences, cached, rows, logits } = workload;
        let shape = KvCacheShape { batch: sequences, kv_heads, head_dim, capacity: cached };
        let layer = match cached {
            0 => 0,
            _ => B::KvCache::full_bytes(shape, B::cache_dtype(self.dtype)),
        };
        let scratch = B::scratch_bytes(&StepShape {
            rows: sequences * rows,
            keys: cached.max(rows),
            hidden: config.hidden,
            intermediate: config.intermediate,
            queries: heads * head_dim,
            kv: kv_heads * head_dim,
            heads,
            vocabulary: config.vocabulary,
            logits: sequences * logits,
            packed: tensors.iter().all(|t| t.shape.len() < 2 || self.keeps(&t.shape, t.encoding)),
        });
        MemoryPlan {
            weights: tensors.iter().map(|t| self.bytes(&t.shape, t.encoding)).sum(),
            cache: layer * config.layers as u64,
            scratch,
        }
    }

    /// Ways in which the model would fit, for people.
    fn alternatives(
        &self,
        tensors: &[Stored],
        config: &DecoderConfig,
        workload: Workload,
        available: u64,
    ) -> Vec<String> {
        let mut found = Vec::new();
        let shorter = |positions: usize| Workload {
            cached: workload.cached.min(positions),
            rows: workload.rows.min(positions),
            logits: workload.logits.min(positions),
            ..workload
        };
        let fits =
            |positions: usize| self.plan(tensors, config, shorter(positions)).total() <= available;
        let longest = workload.cached.max(workload.rows);
        if let Some(context) = greatest(SHORTEST, longest, fits) {
            found.push(format!("a context of {context} instead of {longest}"));
        }
        let mut offer = |name: &str, how: &Self, tensors: &[Stored]| {
            let plan = how.plan(tensors, config, workload);
            if plan.total() <= available {
                found.push(format!("{name} ({})", Size(plan.total())));
            }
        };
        if self.dequantize {
            offer(
                "packed weights, without dequantising",
                &Self { dequantize: false, ..*self },
                tensors,
            );
        }
        if self.dtype == DType::F32 {
            offer("matrices in f16", &Self { dtype: DType::F16, ..*self }, tensors);
        }
        let smaller = Encoding::Q4_0;
        let quantised: Vec<_> = tensors
            .iter()
            .map(|Stored { shape, encoding }| {
                let fits = shape.len() > 1 && shape[shape.len() - 1].is_multiple_of(32);
                let stored = if fits { smaller } else { *encoding };
                Stored { shape: shape.clone(), encoding: stored }
            })
            .collect();
        let packed = Self { dequantize: false, ..*self };
        if tensors
            .iter()
            .any(|t| packed.bytes(&t.shape, t.encoding) > packed.bytes(&t.shape, smaller))
        {
            offer("a file of it in Q4_0", &packed, &quantised);
        }
        found
    }
}

/// The greatest of `least..most` for which `fits` holds, if that holds for all below it, too.
fn greatest(least: usize, most: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
    if least >= most || !fits(least) {
        return None;
    }
    let (mut fit, mut does_not) = (least, most);
    while does_not - fit > 1 {
        let middle = fit + (does_not - fit) / 2;
        if fits(middle) { fit = middle } else { does_not = middle }
    }
    Some(fit)
}
