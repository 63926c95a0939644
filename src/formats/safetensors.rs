//! safetensors: one file, and a set of files with an index.
//!
//! Layout: `u64` header length, JSON header `name -> {dtype, shape, data_offsets}`, data. The offsets
//! count from the end of the header and must cover the data without holes or overlaps. Source of
//! truth: the format section of the safetensors README; the entry types are the `safetensors` crate's.
//!
//! The crate's own reader keeps the last of two equal names and does not say which tensor has a bad
//! shape, so the checks are made here, with the same verdicts.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use ::safetensors::tensor::TensorInfo as Entry;
use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use super::error::similar_names;
use super::map::FileMap;
use super::tensor::TensorInfo;
use super::{FormatError, Result};
use crate::quant::Encoding;

mod set;
mod writer;

pub use ::safetensors::Dtype;
pub use set::SafetensorsSet;
pub(crate) use set::{INDEX, SINGLE, read_index};
pub use writer::write;

/// The largest header that the reference reader takes.
const MAX_HEADER: usize = 100_000_000;
const LENGTH_BYTES: usize = 8;

/// One `.safetensors` file, mapped and checked.
#[derive(Debug)]
pub struct SafetensorsFile {
    map: FileMap,
    data_start: usize,
    metadata: BTreeMap<String, String>,
    /// In the order of their data.
    tensors: Vec<(String, Entry)>,
    index: HashMap<String, usize>,
}

/// A tensor of a safetensors file, of any type; borrowed from the map.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a> {
    /// The name in the file.
    pub name: &'a str,
    /// The storage type.
    pub dtype: Dtype,
    /// Row-major, slowest dimension first.
    pub shape: &'a [usize],
    /// The stored values; any alignment.
    pub bytes: &'a [u8],
}

impl TensorView<'_> {
    /// How the values are stored, if it is a format that can be decoded.
    pub fn encoding(&self) -> Option<Encoding> {
        match self.dtype {
            Dtype::F32 => Some(Encoding::F32),
            Dtype::F16 => Some(Encoding::F16),
            Dtype::BF16 => Some(Encoding::BF16),
            _ => None,
        }
    }

    /// Its line in the table of contents.
    pub fn info(&self) -> TensorInfo {
        TensorInfo {
            name: self.name.to_owned(),
            shape: self.shape.to_vec(),
            type_name: self.dtype.to_string(),
            bytes: self.bytes.len(),
        }
    }
}

impl SafetensorsFile {
    /// Maps the file and checks its header.
    ///
    /// # Errors
    /// [`FormatError`] naming the file, and the tensor where one is to blame.
    pub fn open(path: &Path) -> Result<Self> {
        let map = FileMap::open(path)?;
        let (data_start, header) = read_header(&map)?;
        let Header { metadata, mut tensors } = header;
        tensors.sort_by_key(|(_, entry)| entry.data_offsets);

        let mut index = HashMap::with_capacity(tensors.len());
        for (i, (name, _)) in tensors.iter().enumerate() {
            if index.insert(name.clone(), i).is_some() {
                return Err(FormatError::DuplicateTensor {
                    path: path.to_path_buf(),
                    tensor: name.clone(),
                });
            }
        }
        check_layout(path, &tensors, map.len() - data_start)?;
        Ok(Self { map, data_start, metadata, tensors, index })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        self.map.path()
    }

    /// The free-form `__metadata__`; empty where the file has none.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The tensors, in the order of their data.
    pub fn tensors(&self) -> impl Iterator<Item = TensorView<'_>> {
        (0..self.tensors.len()).filter_map(|i| self.view(i))
    }

    /// The tensor called `name`, whatever its type.
    pub fn get(&self, name: &str) -> Option<TensorView<'_>> {
        self.view(*self.index.get(name)?)
    }

    /// The tensor called `name`.
    ///
    /// # Errors
    /// [`FormatError::MissingTensor`] with names that come close.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        self.get(name).ok_or_else(|| FormatError::MissingTensor {
            path: self.path().to_path_buf(),
            tensor: name.to_owned(),
            similar: similar_names(name, self.tensors.iter().map(|(name, _)| name.as_str())),
        })
    }

    /// The stored values of one of this file's tensors, to keep: the file stays mapped for as long.
    pub fn shared_bytes(&self, tensor: &TensorView<'_>) -> Bytes {
        self.map.share(tensor.bytes)
    }

    /// `open` has checked that the offsets lie within the data.
    fn view(&self, i: usize) -> Option<TensorView<'_>> {
        let (name, entry) = self.tensors.get(i)?;
        let (start, end) = entry.data_offsets;
        Some(TensorView {
            name,
            dtype: entry.dtype,
            shape: &entry.shape,
            bytes: self.map.get(self.data_start..)?.get(start..end)?,
        })
    }
}

/// The header's entries in file order, equal names kept apart.
struct Header {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, Entry)>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct HeaderVisitor;

        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Header, A::Error> {
                let mut metadata = None;
                let mut tensors = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        // mlx writes null where there is none; the reference reader takes it too.
                        if metadata.replace(map.next_value::<Option<_>>()?).is_some() {
                            return Err(A::Error::custom("__metadata__ occurs twice"));
                        }
                    } else {
                        tensors.push((name, map.next_value()?));
                    }
                }
                Ok(Header { metadata: metadata.flatten().unwrap_or_default(), tensors })
            }
        }

        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// Where the data starts, and the parsed header.
fn read_header(map: &FileMap) -> Result<(usize, Header)> {
    let path = || map.path().to_path_buf();
    let Some((length, rest)) = map.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(FormatError::Truncated {
            path: path(),
            what: "the header length".to_owned(),
            needed: LENGTH_BYTES as u64,
            have: map.len() as u64,
        });
    };
    let length = u64::from_le_bytes(*length);
    let bad = |expected, found| FormatError::BadHeader { path: path(), expected, found };
    let header =
        usize::try_from(length).ok().and_then(|length| rest.get(..length)).ok_or_else(|| {
            FormatError::Truncated {
                path: path(),
                what: "the header".to_owned(),
                needed: length,
                have: rest.len() as u64,
            }
        })?;
    if header.len() > MAX_HEADER {
        return Err(bad("at most 100000000 bytes", format!("{length} bytes")));
    }
    if header.first() != Some(&b'{') {
        let found =
            header.first().map_or_else(|| "nothing".to_owned(), |byte| format!("byte {byte:#04x}"));
        return Err(bad("a JSON object, beginning with '{'", found));
    }
    let parsed = serde_json::from_slice(header)
        .map_err(|error| bad("a JSON object of tensors", error.to_string()))?;
    Ok((LENGTH_BYTES + header.len(), parsed))
}

/// The data of `tensors` (sorted by offset) must fill `have` bytes, and each its shape.
fn check_layout(path: &Path, tensors: &[(String, Entry)], have: usize) -> Result<()> {
    let mut next = 0;
    for (name, entry) in tensors {
        let bad = |expected, found| FormatError::BadTensor {
            path: path.to_path_buf(),
            tensor: name.clone(),
            expected,
            found,
        };
        let (start, end) = entry.data_offsets;
        if start != next || end < start {
            return Err(bad(
                format!("data from offset {next} on, without hole or overlap"),
                format!("offsets {start} to {end}"),
            ));
        }
        let bits = entry
            .shape
            .iter()
            .try_fold(1usize, |product, &dim| product.checked_mul(dim))
            .and_then(|elements| elements.checked_mul(entry.dtype.bitsize()));
        let Some(bits) = bits.filter(|bits| bits % 8 == 0) else {
            return Err(bad(
                "a whole number of bytes that fits 64 bits".to_owned(),
                format!("{} of shape {:?}", entry.dtype, entry.shape),
            ));
        };
        if end - start != bits / 8 {
            return Err(bad(
                format!("{} bytes for {} of shape {:?}", bits / 8, entry.dtype, entry.shape),
                format!("{} bytes", end - start),
            ));
        }
        if end > have {
            return Err(FormatError::Truncated {
                path: path.to_path_buf(),
                what: format!("the data up to the end of tensor {name}"),
                needed: end as u64,
                have: have as u64,
            });
        }
        next = end;
    }
    if next == have {
        Ok(())
    } else {
        Err(FormatError::BadHeader {
            path: PathBuf::from(path),
            expected: "tensors that cover all of the data",
            found: format!("{next} bytes of tensors and {have} of data"),
        })
    }
}
