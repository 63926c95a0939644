//! The adapter folders of mlx-lm: `adapter_config.json` and `adapters.safetensors` (source of truth:
//! `mlx_lm/tuner/lora.py`, `dora.py` and `utils.py`).
//!
//! A layer gives `y = x · Wᵀ + scale · (x · a) · b`, with `lora_a` of `[in, r]` and `lora_b` of
//! `[r, out]`: the transposes of PEFT's. `DoRA` adds `m`, PEFT's magnitude. A full fine-tuning stores
//! whole tensors.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Map, Value};

use super::{
    Adapter, AdapterError, LoraConfig, TargetModules,
    config::CONFIG_FILE,
    parts::{Part, Parts},
};
use crate::formats::{RawTensor, SafetensorsFile, read_object};

/// The weights' name in an adapter's folder.
pub(super) const WEIGHTS_FILE: &str = "adapters.safetensors";

pub(super) fn read(folder: &Path) -> Result<Adapter, AdapterError> {
    let config_path = folder.join(CONFIG_FILE);
    let document = read_object(&config_path)?;
    let settings = Settings { document: &document, file: &config_path };
    let kind = settings.text("fine_tune_type")?.unwrap_or("lora");
    if !matches!(kind, "lora" | "dora" | "full") {
        let expected = "\"lora\", \"dora\" or \"full\"";
        return Err(settings.bad("fine_tune_type", expected, document.get("fine_tune_type")));
    }
    let (rank, scale, dropout) = match kind {
        "full" => (1, 1.0, 0.0),
        _ => (
            settings.rank()?,
            settings.number("scale", None)?,
            settings.number("dropout", Some(0.0))?,
        ),
    };

    let file = folder.join(WEIGHTS_FILE);
    let weights = SafetensorsFile::open(&file)?;
    let (mut parts, mut saved) = (Parts::default(), BTreeMap::new());
    for view in weights.tensors() {
        let encoding = view.encoding().ok_or_else(|| AdapterError::Dtype {
            file: file.clone(),
            tensor: view.name.to_owned(),
            found: view.dtype.to_string(),
        })?;
        let tensor = RawTensor {
            name: view.name.to_owned(),
            shape: view.shape.to_vec(),
            encoding,
            bytes: weights.shared_bytes(&view),
        };
        let unexpected = |expected: &str| AdapterError::Unexpected {
            file: file.clone(),
            tensor: view.name.to_owned(),
            expected: expected.to_owned(),
            found: view.shape.to_vec(),
        };
        if kind == "full" {
            saved.insert(tensor.name.clone(), tensor);
            continue;
        }
        let (module, part) = match view.name.rsplit_once('.') {
            Some((module, "lora_a")) => (module, Part::A),
            Some((module, "lora_b")) => (module, Part::B),
            Some((module, "m")) if kind == "dora" => (module, Part::Magnitude),
            _ => return Err(unexpected("lora_a, lora_b or (of DoRA) m of a linear layer")),
        };
        let tensor = match part {
            Part::Magnitude => tensor,
            _ => transposed(tensor).ok_or_else(|| unexpected("a matrix"))?,
        };
        // `SafetensorsFile` has seen to it that no name occurs twice.
        parts.insert(module, part, tensor);
    }
    let modules = parts.modules(&file, rank, |module, part| {
        let part = if part == Part::A { "lora_a" } else { "lora_b" };
        format!("{module}.{part}")
    })?;
    let targets = TargetModules::List(modules.keys().cloned().collect());
    // alpha / r is what the product is multiplied with.
    let mut config = LoraConfig::new(rank, scale * rank as f64, targets);
    config.dropout = dropout;
    config.use_dora = kind == "dora";
    config.base_model = settings.text("model")?.map(str::to_owned);
    let module =
        |name: &String| name.rsplit_once('.').map_or(name.clone(), |(module, _)| module.to_owned());
    config.modules_to_save = saved.keys().map(module).collect();
    config.modules_to_save.dedup();
    let adapter = Adapter { config, modules, saved, file };
    adapter.check()?;
    Ok(adapter)
}

/// The values of a matrix, column by column; `None` for what is none.
fn transposed(tensor: RawTensor) -> Option<RawTensor> {
    let [rows, columns] = tensor.shape[..] else { return None };
    let size = tensor.encoding.block_bytes();
    let mut bytes = Vec::with_capacity(tensor.bytes.len());
    for column in 0..columns {
        for row in 0..rows {
            let at = (row * columns + column) * size;
            bytes.extend_from_slice(&tensor.bytes[at..at + size]);
        }
    }
    Some(RawTensor { shape: vec![columns, rows], bytes: bytes.into(), ..tensor })
}

/// Look-ups in `adapter_config.json`, with messages that name the key.
struct Settings<'a> {
    document: &'a Map<String, Value>,
    file: &'a Path,
}

impl<'a> Settings<'a> {
    fn bad(&self, key: &str, expected: &str, found: Option<&Value>) -> AdapterError {
        AdapterError::Config {
            file: self.file.to_path_buf(),
            key: key.to_owned(),
            expected: expected.to_owned(),
            found: found.map_or_else(|| "nothing".to_owned(), Value::to_string),
        }
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>, AdapterError> {
        match self.document.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            found => Err(self.bad(key, "a string", found)),
        }
    }

    fn parameter(&self, key: &str) -> Option<&'a Value> {
        self.document.get("lora_parameters")?.get(key)
    }

    fn rank(&self) -> Result<usize, AdapterError> {
        let found = self.parameter("rank");
        let rank = found.and_then(Value::as_u64).filter(|rank| (1..=1 << 20).contains(rank));
        rank.map(|rank| rank as usize)
            .ok_or_else(|| self.bad("lora_parameters.rank", "a rank from 1 on", found))
    }

    fn number(&self, key: &str, default: Option<f64>) -> Result<f64, AdapterError> {
        match (self.parameter(key), default) {
            (None, Some(default)) => Ok(default),
            (found, _) => found
                .and_then(Value::as_f64)
                .ok_or_else(|| self.bad(&format!("lora_parameters.{key}"), "a number", found)),
        }
    }
}
