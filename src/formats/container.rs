//! Either kind of file, without asking what model is in it: what `inspect` needs.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::gguf::{self, GgufFile, PartName};
use super::safetensors::SafetensorsSet;
use super::{FormatError, RandomWeights, Result, TensorInfo};

/// An opened and checked file (or set of shards), of either format.
#[derive(Debug)]
pub enum Container {
    /// A GGUF file.
    Gguf(GgufFile),
    /// One safetensors file, or shards.
    Safetensors(SafetensorsSet),
    /// No file.
    Random(RandomWeights),
}

impl Container {
    /// Opens a `.gguf` file, a `.safetensors` file, an index of shards (`.json`), or a folder that
    /// holds safetensors weights or exactly one `.gguf` file. Of a GGUF file in parts, any part
    /// stands for all.
    ///
    /// A file with another extension is opened if it begins like a GGUF file.
    ///
    /// # Errors
    /// [`FormatError`], for anything wrong with the files.
    pub fn open(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path)
            .map_err(|source| FormatError::Io { path: path.to_path_buf(), source })?;
        if metadata.is_dir() {
            return Self::open_folder(path);
        }
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("safetensors") => SafetensorsSet::open_file(path).map(Self::Safetensors),
            Some("json") => SafetensorsSet::open_index(path).map(Self::Safetensors),
            _ => GgufFile::open(path).map(Self::Gguf),
        }
    }

    fn open_folder(folder: &Path) -> Result<Self> {
        if SafetensorsSet::is_in(folder) {
            return SafetensorsSet::open_folder(folder).map(Self::Safetensors);
        }
        let ggufs = files_with_extension(folder, gguf::EXTENSION)?;
        match &ggufs[..] {
            [path, rest @ ..] if rest.iter().all(|other| are_parts_of_one(path, other)) => {
                GgufFile::open(path).map(Self::Gguf)
            }
            _ => Err(FormatError::MissingFile {
                path: folder.to_path_buf(),
                expected: format!(
                    "model.safetensors, model.safetensors.index.json, or exactly one .gguf file \
                     (found {})",
                    ggufs.len(),
                ),
            }),
        }
    }

    /// The file: the `.gguf`, the single `.safetensors`, or the index of the shards.
    pub fn path(&self) -> &Path {
        match self {
            Self::Gguf(file) => file.path(),
            Self::Safetensors(set) => set.path(),
            Self::Random(_) => RandomWeights::path(),
        }
    }

    /// `GGUF`, `safetensors` or `random weights`.
    pub fn format_name(&self) -> &'static str {
        match self {
            Self::Gguf(_) => "GGUF",
            Self::Safetensors(_) => "safetensors",
            Self::Random(_) => "random weights",
        }
    }

    /// The tensors, by their names in the file. Random weights have no list.
    pub fn infos(&self) -> impl Iterator<Item = TensorInfo> {
        // Two iterators of different types, of which at most one has anything.
        let (gguf, safetensors) = match self {
            Self::Gguf(file) => (Some(file), None),
            Self::Safetensors(set) => (None, Some(set)),
            Self::Random(_) => (None, None),
        };
        let gguf =
            gguf.into_iter().flat_map(|file| file.tensors().iter().map(gguf::GgufTensor::info));
        let safetensors =
            safetensors.into_iter().flat_map(|set| set.tensors().map(|tensor| tensor.info()));
        gguf.chain(safetensors)
    }

    /// The GGUF file, if it is one.
    pub fn gguf(&self) -> Option<&GgufFile> {
        match self {
            Self::Gguf(file) => Some(file),
            Self::Safetensors(_) | Self::Random(_) => None,
        }
    }
}

fn are_parts_of_one(a: &Path, b: &Path) -> bool {
    let name = |path: &Path| PartName::parse(path.file_name()?.to_str()?);
    name(a).zip(name(b)).is_some_and(|(a, b)| a.is_beside(&b))
}

fn files_with_extension(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let io = |source| FormatError::Io { path: folder.to_path_buf(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|found| found == extension) && path.is_file() {
            found.push(path);
        }
    }
    Ok(found)
}

/// The largest JSON file that is read whole; Hugging Face's largest indexes are a few MB.
const MAX_SMALL: u64 = 64 << 20;

/// Reads a JSON object that belongs beside weights.
pub(crate) fn read_object(path: &Path) -> Result<Map<String, Value>> {
    let bad = |found| FormatError::BadConfig {
        path: path.to_path_buf(),
        expected: "a JSON object",
        found,
    };
    match serde_json::from_slice(&read_small(path)?) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(bad("another JSON value".to_owned())),
        Err(error) => Err(bad(error.to_string())),
    }
}

/// Reads a file that belongs beside weights.
pub(super) fn read_small(path: &Path) -> Result<Vec<u8>> {
    let io = |source| FormatError::Io { path: path.to_path_buf(), source };
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(FormatError::MissingFile {
            path: path.to_path_buf(),
            expected: "a regular file".to_owned(),
        });
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_SMALL + 1).read_to_end(&mut bytes))
        .map_err(io)?;
    if bytes.len() as u64 > MAX_SMALL {
        return Err(FormatError::BadConfig {
            path: path.to_path_buf(),
            expected: "a JSON file of at most 64 MiB",
            found: "more".to_owned(),
        });
    }
    Ok(bytes)
}
