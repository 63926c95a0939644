//! PEFT's folders: `adapter_config.json` and `adapter_model.safetensors` (source of truth:
//! `peft.utils.save_and_load`).
//!
//! A tensor is called `base_model.model.<module>.lora_A.weight`, and likewise `lora_B.weight` and
//! `lora_magnitude_vector`; a module that is stored as a whole keeps its own name behind that prefix.

use std::{collections::BTreeMap, fs, path::Path};

use super::{
    Adapter, AdapterError, LoraConfig, LowRankTensors,
    config::CONFIG_FILE,
    parts::{Part, Parts},
};
use crate::formats::{
    FormatError, RawTensor, SafetensorsFile, TensorSpec, read_object, safetensors,
};

/// The weights' name in an adapter's folder.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// What PEFT puts before the names of the base model.
pub const PREFIX: &str = "base_model.model.";

const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";
const MAGNITUDE: &str = ".lora_magnitude_vector";
/// As some versions wrote it.
const MAGNITUDE_WEIGHT: &str = ".lora_magnitude_vector.weight";

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
    let (mut parts, mut saved) = (Parts::default(), BTreeMap::new());
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
        let is_new = match low_rank(name) {
            Some((module, part)) => parts.insert(module, part, tensor),
            None if name.contains("lora_") => {
                let expected =
                    "lora_A.weight, lora_B.weight or lora_magnitude_vector of a linear layer";
                return Err(unexpected(expected));
            }
            None => saved.insert(name.to_owned(), tensor).is_none(),
        };
        if !is_new {
            return Err(unexpected("one magnitude a module"));
        }
    }
    let modules = parts.modules(&file, config.rank, file_name)?;
    let adapter = Adapter { config, modules, saved, file };
    adapter.check()?;
    Ok(adapter)
}

/// The module and the part that a tensor is called after, without the prefix.
fn low_rank(name: &str) -> Option<(&str, Part)> {
    let of = |(ending, part)| Some((name.strip_suffix(ending)?, part));
    [(A, Part::A), (B, Part::B), (MAGNITUDE, Part::Magnitude), (MAGNITUDE_WEIGHT, Part::Magnitude)]
        .into_iter()
        .find_map(of)
}

fn file_name(module: &str, part: Part) -> String {
    let ending = match part {
        Part::A => A,
        Part::B => B,
        Part::Magnitude => MAGNITUDE,
    };
    format!("{PREFIX}{module}{ending}")
}

/// Writes an adapter for PEFT: into `folder`, which is made if it is not there.
///
/// # Errors
/// [`AdapterError::Format`] when the system refuses.
pub fn write(adapter: &Adapter, folder: &Path) -> Result<(), AdapterError> {
    let io = |path: &Path, source| FormatError::Io { path: path.to_path_buf(), source };
    fs::create_dir_all(folder).map_err(|source| io(folder, source))?;
    let mut tensors = Vec::new();
    for (module, LowRankTensors { a, b, magnitude }) in &adapter.modules {
        let parts = [(Part::A, Some(a)), (Part::B, Some(b)), (Part::Magnitude, magnitude.as_ref())];
        for (part, tensor) in parts {
            tensors.extend(tensor.map(|tensor| (file_name(module, part), tensor)));
        }
    }
    let saved = adapter.saved.iter();
    tensors.extend(saved.map(|(name, tensor)| (format!("{PREFIX}{name}"), tensor)));
    let specs: Vec<_> = tensors
        .iter()
        .map(|(name, tensor)| TensorSpec { name: name.clone(), ..TensorSpec::from(*tensor) })
        .collect();
    let tensors: BTreeMap<_, _> = tensors.into_iter().collect();
    safetensors::write(&folder.join(WEIGHTS_FILE), &[("format", "pt")], &specs, |spec| {
        Ok::<_, FormatError>(tensors[&spec.name].bytes.clone())
    })?;
    let path = folder.join(CONFIG_FILE);
    let config = serde_json::Value::Object(adapter.config.to_json());
    fs::write(&path, format!("{config:#}")).map_err(|source| io(&path, source))?;
    Ok(())
}
