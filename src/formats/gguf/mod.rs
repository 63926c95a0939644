//! GGUF, ggml's model file: metadata, tensor descriptions, aligned tensor data
//! (source of truth: ggml's `docs/gguf.md`, and `gguf.cpp` where that is silent).

mod config;
mod names;
mod reader;
mod types;
mod value;
mod writer;

use std::collections::HashMap;
use std::path::Path;

use bytes::Bytes;

pub(super) use config::hugging_face_config;
pub(crate) use names::{Permutation, architecture, file_name, model_name};
pub use types::{GgmlType, TypeId};
pub use value::{GgufArray, GgufMetadata, GgufValue};
pub use writer::write;

use super::error::similar_names;
use super::map::FileMap;
use super::{FormatError, Result, TensorInfo};

/// The file extension.
pub(super) const EXTENSION: &str = "gguf";
/// The alignment of tensor data where `general.alignment` does not say.
const DEFAULT_ALIGNMENT: u32 = 32;

/// One GGUF file, mapped and checked.
#[derive(Debug)]
pub struct GgufFile {
    map: FileMap,
    version: u32,
    metadata: GgufMetadata,
    tensors: Vec<GgufTensor>,
    index: HashMap<String, usize>,
}

/// What the file says about a tensor.
#[derive(Debug, Clone)]
pub struct GgufTensor {
    name: String,
    shape: Vec<usize>,
    ty: &'static GgmlType,
    start: usize,
    end: usize,
}

impl GgufTensor {
    /// The name in the file, in llama.cpp's scheme.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Row-major, slowest dimension first (the file has it the other way round).
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The storage type.
    pub fn ggml_type(&self) -> &'static GgmlType {
        self.ty
    }

    /// Its line in the table of contents.
    pub fn info(&self) -> TensorInfo {
        TensorInfo {
            name: self.name.clone(),
            shape: self.shape.clone(),
            type_name: self.ty.name.to_owned(),
            bytes: self.end - self.start,
        }
    }
}

impl GgufFile {
    /// Maps the file and checks everything but the tensor values.
    ///
    /// # Errors
    /// [`FormatError`] naming the file, and the key or tensor where one is to blame.
    pub fn open(path: &Path) -> Result<Self> {
        let map = FileMap::open(path)?;
        let header = reader::read_header(path, &map)?;
        let alignment = alignment(&header.metadata)?;
        let tensors = place_tensors(path, &header, alignment, map.len())?;
        let mut index = HashMap::with_capacity(tensors.len());
        for (i, tensor) in tensors.iter().enumerate() {
            if index.insert(tensor.name.clone(), i).is_some() {
                return Err(FormatError::DuplicateTensor {
                    path: path.to_path_buf(),
                    tensor: tensor.name.clone(),
                });
            }
        }
        Ok(Self { map, version: header.version, metadata: header.metadata, tensors, index })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        self.map.path()
    }

    /// The format's version: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The key-value section.
    pub fn metadata(&self) -> &GgufMetadata {
        &self.metadata
    }

    /// The tensors, in file order.
    pub fn tensors(&self) -> &[GgufTensor] {
        &self.tensors
    }

    /// The tensor that the file calls `name`.
    pub fn get(&self, name: &str) -> Option<&GgufTensor> {
        self.tensors.get(*self.index.get(name)?)
    }

    /// The tensor that the file calls `name`.
    ///
    /// # Errors
    /// [`FormatError::MissingTensor`] with names that come close.
    pub fn tensor(&self, name: &str) -> Result<&GgufTensor> {
        self.get(name).ok_or_else(|| FormatError::MissingTensor {
            path: self.path().to_path_buf(),
            tensor: name.to_owned(),
            similar: similar_names(name, self.tensors.iter().map(GgufTensor::name)),
        })
    }

    /// The stored values of one of this file's tensors, as they lie in the file.
    pub fn bytes(&self, tensor: &GgufTensor) -> &[u8] {
        // `open` has checked the range; a tensor of another file finds nothing rather than a panic.
        self.map.get(tensor.start..tensor.end).unwrap_or_default()
    }

    /// The same, to keep: the file stays mapped for as long.
    pub fn shared_bytes(&self, tensor: &GgufTensor) -> Bytes {
        self.map.share(self.bytes(tensor))
    }

    /// Whether all of a model's tensors are here: `gguf-split` may have spread them over files.
    ///
    /// # Errors
    /// [`FormatError::BadMetadata`] for one part of several.
    pub(super) fn check_whole(&self) -> Result<()> {
        let key = "split.count";
        match self.metadata.u32(key)? {
            None | Some(0 | 1) => Ok(()),
            Some(_) => Err(self
                .metadata
                .bad(key, "1: a model in one file (`gguf-split --merge`)".to_owned())),
        }
    }

    /// `general.architecture`.
    ///
    /// # Errors
    /// When the key is missing or no string.
    pub fn architecture(&self) -> Result<&str> {
        let key = "general.architecture";
        self.metadata.require(key, "the name of an architecture", self.metadata.str(key)?)
    }
}

/// Whether the metadata hold a tokenizer: llama.cpp writes `none` or `no_vocab` where they do not.
pub(super) fn has_tokenizer(file: &GgufFile) -> bool {
    match file.metadata().get("tokenizer.ggml.model") {
        None => false,
        Some(GgufValue::String(kind)) => !matches!(kind.as_str(), "none" | "no_vocab"),
        Some(_) => true,
    }
}

fn alignment(metadata: &GgufMetadata) -> Result<u64> {
    let key = "general.alignment";
    match metadata.u32(key)?.unwrap_or(DEFAULT_ALIGNMENT) {
        alignment if alignment.is_power_of_two() => Ok(alignment.into()),
        _ => Err(metadata.bad(key, "a power of two".to_owned())),
    }
}

/// Finds each tensor's place in a file of `length` bytes: aligned, inside, and its own alone.
fn place_tensors(
    path: &Path,
    header: &reader::Header,
    alignment: u64,
    length: usize,
) -> Result<Vec<GgufTensor>> {
    // `end` is at most the file's length and the alignment at most 2^31: no overflow.
    let data_start = header.end.next_multiple_of(alignment);
    let mut placed = Vec::with_capacity(header.tensors.len());
    for tensor in &header.tensors {
        if !tensor.offset.is_multiple_of(alignment) {
            return Err(FormatError::BadTensor {
                path: path.to_path_buf(),
                tensor: tensor.name.clone(),
                expected: format!("an offset that is a multiple of {alignment}"),
                found: tensor.offset.to_string(),
            });
        }
        let start = data_start.checked_add(tensor.offset);
        let end = start.and_then(|start| start.checked_add(tensor.bytes));
        let inside = |place: Option<u64>| {
            place.and_then(|place| usize::try_from(place).ok()).filter(|&place| place <= length)
        };
        let (Some(start), Some(end)) = (inside(start), inside(end)) else {
            return Err(FormatError::Truncated {
                path: path.to_path_buf(),
                what: format!("the data up to the end of tensor {}", tensor.name),
                needed: end.unwrap_or(u64::MAX),
                have: length as u64,
            });
        };
        placed.push(GgufTensor {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            ty: tensor.ty,
            start,
            end,
        });
    }

    let mut by_place: Vec<&GgufTensor> = placed.iter().collect();
    by_place.sort_by_key(|tensor| (tensor.start, tensor.end));
    for pair in by_place.windows(2) {
        if let [before, tensor] = pair
            && tensor.start < before.end
        {
            return Err(FormatError::BadTensor {
                path: path.to_path_buf(),
                tensor: tensor.name.clone(),
                expected: "data of its own".to_owned(),
                found: format!("data shared with tensor {}", before.name),
            });
        }
    }
    Ok(placed)
}
