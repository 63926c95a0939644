//! The safetensors files of one model: a single file, or shards and `model.safetensors.index.json`.
//!
//! The index is Hugging Face's: `{"metadata": …, "weight_map": {"tensor": "shard file"}}`. Only
//! tensors that it lists are seen. Shard names come from outside: nothing but a plain file name
//! in the index's own folder is followed.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::{SafetensorsFile, TensorView};
use crate::formats::container::read_small;
use crate::formats::error::similar_names;
use crate::formats::{FormatError, Result};

/// The single-file name that Hugging Face gives a model's weights.
pub(crate) const SINGLE: &str = "model.safetensors";
/// The name of the index where the weights are sharded.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// All tensors of a model, from one or several files.
#[derive(Debug)]
pub struct SafetensorsSet {
    /// The single file, or the index.
    path: PathBuf,
    files: Vec<SafetensorsFile>,
    /// Name to file number; empty for a single file.
    shard_of: BTreeMap<String, usize>,
}

impl SafetensorsSet {
    /// Opens one file.
    ///
    /// # Errors
    /// As [`SafetensorsFile::open`].
    pub fn open_file(path: &Path) -> Result<Self> {
        Ok(Self {
            path: path.to_path_buf(),
            files: vec![SafetensorsFile::open(path)?],
            shard_of: BTreeMap::new(),
        })
    }

    /// Opens a folder's `model.safetensors`, or else its `model.safetensors.index.json` and shards.
    ///
    /// # Errors
    /// [`FormatError::MissingFile`] when neither is there; otherwise as the other two.
    pub fn open_folder(folder: &Path) -> Result<Self> {
        let (single, index) = (folder.join(SINGLE), folder.join(INDEX));
        if single.exists() {
            Self::open_file(&single)
        } else if index.exists() {
            Self::open_index(&index)
        } else {
            Err(FormatError::MissingFile {
                path: folder.to_path_buf(),
                expected: format!("{SINGLE} or {INDEX}"),
            })
        }
    }

    /// Whether [`SafetensorsSet::open_folder`] finds something to open.
    pub(crate) fn is_in(folder: &Path) -> bool {
        [SINGLE, INDEX].iter().any(|name| folder.join(name).exists())
    }

    /// Opens an index and every shard that it names.
    ///
    /// # Errors
    /// [`FormatError`] naming the index or the shard: a broken index, a shard that is missing or has
    /// a name that leads elsewhere, a tensor that its shard does not hold.
    pub fn open_index(path: &Path) -> Result<Self> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut files: Vec<SafetensorsFile> = Vec::new();
        let mut numbers: HashMap<String, usize> = HashMap::new();
        let mut shard_of = BTreeMap::new();
        for (tensor, shard) in read_index(path)? {
            let number = if let Some(&number) = numbers.get(&shard) {
                number
            } else {
                files.push(open_shard(path, folder, &tensor, &shard)?);
                numbers.insert(shard, files.len() - 1);
                files.len() - 1
            };
            // Also the error for a tensor that the shard lacks: it names the shard.
            files[number].tensor(&tensor)?;
            if shard_of.contains_key(&tensor) {
                return Err(FormatError::DuplicateTensor { path: path.to_path_buf(), tensor });
            }
            shard_of.insert(tensor, number);
        }
        Ok(Self { path: path.to_path_buf(), files, shard_of })
    }

    /// The single file, or the index.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files, in no particular order.
    pub fn files(&self) -> &[SafetensorsFile] {
        &self.files
    }

    /// The tensors: in the order of their data for one file, by name for shards.
    pub fn tensors(&self) -> impl Iterator<Item = TensorView<'_>> {
        let single = self.files.iter().filter(|_| self.shard_of.is_empty());
        let sharded = self.shard_of.iter().filter_map(|(name, &n)| self.files.get(n)?.get(name));
        single.flat_map(SafetensorsFile::tensors).chain(sharded)
    }

    /// The file that holds `name`, and the tensor.
    pub fn get(&self, name: &str) -> Option<(&SafetensorsFile, TensorView<'_>)> {
        let number = if self.shard_of.is_empty() { 0 } else { *self.shard_of.get(name)? };
        let file = self.files.get(number)?;
        Some((file, file.get(name)?))
    }

    /// As [`SafetensorsSet::get`].
    ///
    /// # Errors
    /// [`FormatError::MissingTensor`] with names that come close.
    pub fn tensor(&self, name: &str) -> Result<(&SafetensorsFile, TensorView<'_>)> {
        self.get(name).ok_or_else(|| FormatError::MissingTensor {
            path: self.path.clone(),
            tensor: name.to_owned(),
            similar: similar_names(name, self.tensors().map(|tensor| tensor.name)),
        })
    }
}

/// The entries of an index in file order: a tensor, and the plain name of the file that holds it.
///
/// # Errors
/// [`FormatError`] for a file that is no index, and for names that lead elsewhere.
pub(crate) fn read_index(path: &Path) -> Result<Vec<(String, String)>> {
    let bytes = read_small(path)?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|error| FormatError::BadConfig {
        path: path.to_path_buf(),
        expected: "a JSON object whose `weight_map` maps tensors to file names",
        found: error.to_string(),
    })?;
    for (tensor, shard) in &index.weight_map.0 {
        if !is_plain(shard) {
            return Err(FormatError::BadShardName {
                path: path.to_path_buf(),
                tensor: tensor.clone(),
                shard: shard.clone(),
            });
        }
    }
    Ok(index.weight_map.0)
}

/// Whether a name is a file's in the same folder, on every system.
fn is_plain(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let plain = matches!(
        (components.next(), components.next()),
        (Some(Component::Normal(only)), None) if only == name
    );
    // A backslash or a colon is a separator on some systems only: refused on all of them.
    plain && !name.contains(['/', '\\', ':', '\0'])
}

fn open_shard(index: &Path, folder: &Path, tensor: &str, shard: &str) -> Result<SafetensorsFile> {
    let path = folder.join(shard);
    if !path.exists() {
        return Err(FormatError::MissingShard {
            path: index.to_path_buf(),
            tensor: tensor.to_owned(),
            shard: shard.to_owned(),
        });
    }
    SafetensorsFile::open(&path)
}

#[derive(Deserialize)]
struct Index {
    weight_map: WeightMap,
}

/// The map's entries in file order, equal names kept apart.
struct WeightMap(Vec<(String, String)>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct WeightMapVisitor;

        impl<'de> Visitor<'de> for WeightMapVisitor {
            type Value = WeightMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of file names")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<WeightMap, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(WeightMap(entries))
            }
        }

        deserializer.deserialize_map(WeightMapVisitor)
    }
}
