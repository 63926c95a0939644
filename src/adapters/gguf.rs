//! llama.cpp's LoRA adapters: GGUF files of `general.type` `adapter` (source of truth:
//! `llama-adapter.cpp`, and `convert_lora_to_gguf.py`, which writes them).
//!
//! A module has two tensors, called as the base's with `.lora_a` (`[r, in]`) and `.lora_b`
//! (`[out, r]`) behind. Their product is multiplied with `adapter.lora.alpha / r`, with the module's
//! own `r`; other scalings (patterns of alphas, rank-stabilised LoRA) are multiplied into `B`.
//! The file does not say how many heads the base has, whose query and key rows are in another order
//! for architecture `llama`: so the base's configuration is needed to read it.

use std::{collections::BTreeMap, path::Path};

use super::{
    Adapter, AdapterError, LoraConfig, LowRankTensors, TargetModules,
    parts::{Part, Parts},
};
use crate::{
    formats::{
        GgufFile, RawTensor, TensorSpec,
        gguf::{self, GgufValue, Permutation},
    },
    models::DecoderConfig,
    quant::Encoding,
};

const TYPE: &str = "general.type";
const KIND: &str = "adapter.type";
const ALPHA: &str = "adapter.lora.alpha";
const ARCHITECTURE: &str = "general.architecture";
/// An adapter that is switched on by tokens of the prompt.
const INVOCATION: &str = "adapter.alora.invocation_tokens";

/// Reads an adapter for models of the configuration `base`.
///
/// # Errors
/// [`AdapterError`] when the file is no adapter, is for another architecture, or has tensors that are
/// not low-rank matrices of linear layers.
pub fn read(path: &Path, base: &DecoderConfig) -> Result<Adapter, AdapterError> {
    let file = GgufFile::open(path)?;
    let metadata = file.metadata();
    for (key, expected) in
        [(TYPE, "adapter"), (KIND, "lora"), (ARCHITECTURE, gguf::architecture(&base.architecture))]
    {
        let found = metadata.str(key)?;
        if found != Some(expected) {
            return Err(config_error(path, key, expected, found));
        }
    }
    if metadata.get(INVOCATION).is_some() {
        return Err(config_error(path, INVOCATION, "nothing: it is not supported", Some("tokens")));
    }
    let alpha = metadata.require(ALPHA, "a float", metadata.f32(ALPHA)?)?;
    let permutation = permutation(base);

    let mut parts = Parts::default();
    for tensor in file.tensors() {
        let unexpected = || AdapterError::Unexpected {
            file: path.to_path_buf(),
            tensor: tensor.name().to_owned(),
            expected: "lora_a or lora_b of a linear layer's weight".to_owned(),
            found: tensor.shape().to_vec(),
        };
        let (of, part) = match tensor.name().rsplit_once('.') {
            Some((of, "lora_a")) => (of, Part::A),
            Some((of, "lora_b")) => (of, Part::B),
            _ => return Err(unexpected()),
        };
        let name = gguf::model_name(of).ok_or_else(unexpected)?;
        let module = name.strip_suffix(".weight").ok_or_else(unexpected)?;
        let encoding = tensor.ggml_type().encoding().filter(|encoding| !encoding.is_packed());
        let encoding = encoding.ok_or_else(|| AdapterError::Dtype {
            file: path.to_path_buf(),
            tensor: tensor.name().to_owned(),
            found: tensor.ggml_type().name.to_owned(),
        })?;
        let shape = match *tensor.shape() {
            // A first dimension of 1 may be left out.
            [columns] => vec![1, columns],
            [rows, columns] => vec![rows, columns],
            _ => return Err(unexpected()),
        };
        let raw = RawTensor {
            name: tensor.name().to_owned(),
            shape,
            encoding,
            bytes: file.shared_bytes(tensor),
        };
        let raw = match (part, permutation) {
            (Part::B, Some(permutation)) => permutation.undo(path, of, raw)?,
            _ => raw,
        };
        // `GgufFile` has seen to it that no name occurs twice.
        parts.insert(module, part, raw);
    }
    let modules = parts.modules(path, "r", |module, part| {
        let name = format!("{module}.weight");
        let of = gguf::file_name(&name).unwrap_or(name.into());
        format!("{of}.{}", if part == Part::A { "lora_a" } else { "lora_b" })
    })?;
    let config = config(&modules, alpha);
    let adapter = Adapter { config, modules, saved: BTreeMap::new(), file: path.to_path_buf() };
    adapter.check()?;
    Ok(adapter)
}

/// The most frequent rank, and those that differ; an alpha of 0 means a scaling of 1.
fn config(modules: &BTreeMap<String, LowRankTensors>, alpha: f32) -> LoraConfig {
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    for tensors in modules.values() {
        *counts.entry(tensors.rank()).or_default() += 1;
    }
    let rank = counts.iter().max_by_key(|(_, count)| **count).map_or(1, |(rank, _)| *rank);
    let differing = |(module, tensors): (&String, &LowRankTensors)| {
        (tensors.rank() != rank).then(|| (module.clone(), tensors.rank()))
    };
    let ranks: BTreeMap<_, _> = modules.iter().filter_map(differing).collect();
    let targets = TargetModules::List(modules.keys().cloned().collect());
    let unscaled = alpha == 0.0;
    let alpha = if unscaled { rank as f64 } else { f64::from(alpha) };
    let mut config = LoraConfig::new(rank, alpha, targets);
    if unscaled {
        config.alpha_pattern =
            ranks.iter().map(|(module, rank)| (module.clone(), *rank as f64)).collect();
    }
    config.rank_pattern = ranks;
    config
}

/// Writes an adapter for models of the configuration `base`, to be used by llama.cpp or
/// [`read`] again.
///
/// # Errors
/// [`AdapterError`] for what such a file cannot hold: magnitudes (`DoRA`), whole tensors, and layers
/// that GGUF has no name for.
pub fn write(adapter: &Adapter, path: &Path, base: &DecoderConfig) -> Result<(), AdapterError> {
    if adapter.config.use_dora {
        let expected = "false: GGUF adapters have no magnitudes; merge it into the base instead";
        return Err(config_error(&adapter.file, "use_dora", expected, Some("true")));
    }
    if let Some(tensor) = adapter.saved.values().next() {
        return Err(unexpected(adapter, tensor, "low-rank matrices alone in a GGUF adapter"));
    }
    // An alpha of 0 would mean something else there.
    let alpha = if adapter.config.alpha == 0.0 { 1.0 } else { adapter.config.alpha };
    let permutation = permutation(base);
    let mut tensors = Vec::with_capacity(2 * adapter.modules.len());
    for (module, LowRankTensors { a, b, .. }) in &adapter.modules {
        let Some(of) = gguf::file_name(&format!("{module}.weight")) else {
            return Err(unexpected(adapter, a, "a layer that GGUF has a name for"));
        };
        let factor = adapter.scaling(module)? * a.shape[0] as f64 / alpha;
        let b = if (factor - 1.0).abs() < 1e-9 { b.clone() } else { scaled(adapter, b, factor)? };
        let b = match permutation {
            Some(permutation) => permutation.apply(path, &of, b)?,
            None => b,
        };
        tensors.push(RawTensor { name: format!("{of}.lora_a"), ..a.clone() });
        tensors.push(RawTensor { name: format!("{of}.lora_b"), ..b });
    }
    let text = |key: &str, value: &str| (key.to_owned(), GgufValue::String(value.to_owned()));
    let metadata = [
        text(ARCHITECTURE, gguf::architecture(&base.architecture)),
        text(TYPE, "adapter"),
        text(KIND, "lora"),
        (ALPHA.to_owned(), GgufValue::F32(alpha as f32)),
    ];
    let specs: Vec<_> = tensors.iter().map(TensorSpec::from).collect();
    let bytes: BTreeMap<_, _> = tensors.into_iter().map(|t| (t.name, t.bytes)).collect();
    gguf::write(path, &metadata, &specs, |spec| Ok(bytes[&spec.name].clone()))
}

/// `tensor · factor`, in f32.
fn scaled(adapter: &Adapter, tensor: &RawTensor, factor: f64) -> Result<RawTensor, AdapterError> {
    let values = adapter.values(tensor)?;
    let bytes =
        values.iter().flat_map(|v| ((f64::from(*v) * factor) as f32).to_le_bytes()).collect();
    Ok(RawTensor { encoding: Encoding::F32, bytes, ..tensor.clone() })
}

fn permutation(base: &DecoderConfig) -> Option<Permutation> {
    Permutation::of(gguf::architecture(&base.architecture), base.heads, base.kv_heads)
}

fn config_error(file: &Path, key: &str, expected: &str, found: Option<&str>) -> AdapterError {
    AdapterError::Config {
        file: file.to_path_buf(),
        key: key.to_owned(),
        expected: expected.to_owned(),
        found: found.unwrap_or("nothing").to_owned(),
    }
}

fn unexpected(adapter: &Adapter, tensor: &RawTensor, expected: &str) -> AdapterError {
    AdapterError::Unexpected {
        file: adapter.file.clone(),
        tensor: tensor.name.clone(),
        expected: expected.to_owned(),
        found: tensor.shape.clone(),
    }
}
