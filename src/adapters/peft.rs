//! PEFT's folders: `adapter_config.json` and `adapter_model.safetensors` (source of truth:
//! `peft.utils.save_and_load`).
//!
//! A tensor is called `base_model.model.<module>.lora_A.weight`, and likewise `lora_B.weight` and
//! `lora_magnitude_vector`; a module that is stored as a whole keeps its own name behind that prefix.

use std::{collections::BTreeMap, path::Path};

use super::{Adapter, AdapterError, LoraConfig, config::CONFIG_FILE};
use crate::formats::{FormatError, RawTensor, SafetensorsFile, read_object};

/// The weights' name in an adapter's folder.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// What PEFT puts before the names of the base model.
pub const PREFIX: &str = "base_model.model.";

const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";
const MAGNITUDE: &str = ".lora_magnitude_vector";
/// As some versions wrote it.
const MAGNITUDE_WEIGHT: &str = ".lora_magnitude_vector.weight";

/// What a module has so far.
#[derive(Default)]
struct Parts {
    a: Option<RawTensor>,
    b: Option<RawTensor>,
    magnitude: Option<RawTensor>,
}

pub(super) fn read(folder: &Path) -> Result<Adapter, AdapterError> {
    let config_path = folder.join(CONFIG_FILE);
    if !config_path.is_file() {
        return Err(FormatError::MissingFile {
            path: folder.to_path_buf(),
            expected: format!("a folder with {CONFIG_FILE} and {WEIGHTS_FILE}"),
        }
        .into());
    }
    let config = LoraConfig::from_json(read_object(&config_path)?, &config_path)?;
    let file = folder.join(WEIGHTS_FILE);
    if !file.is_file() {
        let pickled = folder.join("adapter_model.bin").is_file();
        let hint = if pickled { " (adapter_model.bin runs code when it is loaded)" } else { "" };
        return Err(FormatError::MissingFile {
            path: folder.to_path_buf(),
            expected: format!("{WEIGHTS_FILE}{hint}"),
        }
        .into());
    }
    let weights = SafetensorsFile::open(&file)?;
    let mut parts: BTreeMap<String, Parts> = BTreeMap::new();
    let mut saved = BTreeMap::new();
    for view in weights.tensors() {
        let unexpected = |expected: &str| AdapterError::Unexpected {
            file: file.clone(),
            tensor: view.name.to_owned(),
            expected: expected.to_owned(),
            found: view.shape.to_vec(),
        };
        let name = view
            .name
            .strip_prefix(PREFIX)
            .ok_or_else(|| unexpected("a name that begins with base_model.model."))?;
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
        let ending = |ending: &str| name.strip_suffix(ending).map(str::to_owned);
        let previous = if let Some(module) = ending(A) {
            parts.entry(module).or_default().a.replace(tensor)
        } else if let Some(module) = ending(B) {
            parts.entry(module).or_default().b.replace(tensor)
        } else if let Some(module) = ending(MAGNITUDE).or_else(|| ending(MAGNITUDE_WEIGHT)) {
            parts.entry(module).or_default().magnitude.replace(tensor)
        } else if name.contains("lora_") {
            let expected =
                "lora_A.weight, lora_B.weight or lora_magnitude_vector of a linear layer";
            return Err(unexpected(expected));
        } else {
            saved.insert(name.to_owned(), tensor)
        };
        if previous.is_some() {
            return Err(unexpected("one magnitude a module"));
        }
    }
    let mut modules = BTreeMap::new();
    for (module, Parts { a, b, magnitude }) in parts {
        let missing = |part: &str, expected: String| AdapterError::Missing {
            file: file.clone(),
            tensor: format!("{PREFIX}{module}{part}"),
            expected,
            why: "the file has other low-rank tensors of this module".to_owned(),
        };
        let (a, b) = match (a, b) {
            (Some(a), Some(b)) => (a, b),
            (None, _) => return Err(missing(A, format!("[{}, in]", config.rank))),
            (_, None) => return Err(missing(B, format!("[out, {}]", config.rank))),
        };
        modules.insert(module, super::LowRankTensors { a, b, magnitude });
    }
    let adapter = Adapter { config, modules, saved, file };
    adapter.check()?;
    Ok(adapter)
}
