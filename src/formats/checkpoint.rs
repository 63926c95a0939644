//! A model's weights, configuration and tokenizer as models see them: Hugging Face's names and
//! shapes, whatever file they come from.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::container::{Container, read_object};
use super::error::similar_names;
use super::gguf::{self, GgufFile, GgufTensor, Permutation};
use super::safetensors::SafetensorsSet;
use super::{FormatError, RandomWeights, RawTensor, Result, TensorInfo};
use crate::quant::Encoding;

/// An opened model.
#[derive(Debug)]
pub struct Checkpoint {
    /// As it was given to [`Checkpoint::open`].
    path: PathBuf,
    container: Container,
    /// `config.json`, or the file that stands for it in messages.
    config_path: PathBuf,
    config: Value,
    generation_config: Option<Value>,
    tokenizer_file: Option<PathBuf>,
    permutation: Option<Permutation>,
}

/// Where a model's tokenizer is to be had.
#[derive(Debug)]
pub enum TokenizerSource<'a> {
    /// A `tokenizer.json` of Hugging Face's `tokenizers`.
    File(PathBuf),
    /// The `tokenizer.ggml.*` metadata of a GGUF file.
    Gguf(&'a GgufFile),
    /// There is none.
    None,
}

impl Checkpoint {
    /// Opens a folder with `config.json` and safetensors weights, a folder with exactly one `.gguf`
    /// file (or the parts of one), a `.gguf` file (or any part of one), or a `.safetensors` file with
    /// `config.json` beside it.
    ///
    /// # Errors
    /// [`FormatError`] for anything wrong with the files, or a configuration that is incomplete.
    pub fn open(path: &Path) -> Result<Self> {
        let container = Container::open(path)?;
        let folder = container.path().parent().unwrap_or(Path::new("")).to_path_buf();
        let in_folder = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
        let mut tokenizer_file = in_folder("tokenizer.json");
        let mut generation_config = in_folder("generation_config.json");
        let config_path;
        let config;
        let permutation;
        match &container {
            Container::Gguf(file) => {
                config = gguf::hugging_face_config(file)?;
                config_path = file.path().to_path_buf();
                permutation = permutation_of(file, &config)?;
                // A lone file speaks for itself: its neighbours may belong to other models.
                if path.is_file() {
                    tokenizer_file = tokenizer_file.filter(|_| !gguf::has_tokenizer(file));
                    generation_config = None;
                }
            }
            // Random weights do not come from a path: see `Checkpoint::random`.
            Container::Safetensors(_) | Container::Random(_) => {
                config_path = in_folder("config.json").ok_or_else(|| FormatError::MissingFile {
                    path: folder.clone(),
                    expected: "config.json beside the weights".to_owned(),
                })?;
                config = Value::Object(read_object(&config_path)?);
                permutation = None;
            }
        }
        let generation_config =
            generation_config.map(|path| read_object(&path).map(Value::Object)).transpose()?;
        Ok(Self {
            path: path.to_path_buf(),
            container,
            config_path,
            config,
            generation_config,
            tokenizer_file,
            permutation,
        })
    }

    /// No file, but random weights of a configuration in Hugging Face's shape: for timing.
    /// Matrices are stored as `encoding`, see [`RandomWeights::new`].
    pub fn random(config: Value, seed: u64, encoding: Encoding) -> Self {
        let container = Container::Random(RandomWeights::new(seed, encoding));
        Self {
            path: container.path().to_path_buf(),
            config_path: container.path().to_path_buf(),
            container,
            config,
            generation_config: None,
            tokenizer_file: None,
            permutation: None,
        }
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that the configuration was read from, to name in messages: `config.json`, or the
    /// GGUF file itself.
    pub fn config_path(&self) -> &Path {
        &self.config_path
    }

    /// The weights without their model.
    pub fn container(&self) -> &Container {
        &self.container
    }

    /// `GGUF`, `safetensors` or `random weights`.
    pub fn format_name(&self) -> &'static str {
        self.container.format_name()
    }

    /// The GGUF file, if it is one.
    pub fn gguf(&self) -> Option<&GgufFile> {
        self.container.gguf()
    }

    /// The random weights, if it has no file.
    pub fn random_weights(&self) -> Option<&RandomWeights> {
        match &self.container {
            Container::Random(weights) => Some(weights),
            Container::Gguf(_) | Container::Safetensors(_) => None,
        }
    }

    /// The configuration in Hugging Face's shape, always a JSON object: `config.json` verbatim, or
    /// built from GGUF metadata.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// `generation_config.json`, if there is one.
    pub fn generation_config(&self) -> Option<&Value> {
        self.generation_config.as_ref()
    }

    /// The end-of-sequence ids of `generation_config.json`, where one id or a list may stand.
    pub fn generation_eos(&self) -> Vec<u32> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        match self.generation_config().and_then(|config| config.get("eos_token_id")) {
            Some(Value::Array(ids)) => ids.iter().filter_map(id).collect(),
            Some(one) => id(one).into_iter().collect(),
            None => Vec::new(),
        }
    }

    /// The configuration's `model_type`, or GGUF's `general.architecture`.
    ///
    /// # Errors
    /// [`FormatError::BadConfig`] when `config.json` has no such string.
    pub fn architecture(&self) -> Result<String> {
        let found = self.config.get("model_type");
        match found.and_then(Value::as_str) {
            Some(name) => Ok(name.to_owned()),
            None => Err(FormatError::BadConfig {
                path: self.config_path.clone(),
                expected: "a string for `model_type`",
                found: found.map_or_else(|| "no such field".to_owned(), Value::to_string),
            }),
        }
    }

    /// Where the tokenizer is to be had.
    ///
    /// In a folder, `tokenizer.json` goes first. For a lone `.gguf` file its own metadata does.
    pub fn tokenizer(&self) -> TokenizerSource<'_> {
        match (&self.tokenizer_file, self.gguf()) {
            (Some(path), _) => TokenizerSource::File(path.clone()),
            (None, Some(file)) if gguf::has_tokenizer(file) => TokenizerSource::Gguf(file),
            _ => TokenizerSource::None,
        }
    }

    /// The tensors by their names in the file: its table of contents.
    pub fn infos(&self) -> impl Iterator<Item = TensorInfo> {
        self.container.infos()
    }

    /// The tensors by Hugging Face's names.
    ///
    /// # Errors
    /// [`FormatError::BadTensor`] for one in a GGUF file that Hugging Face has no name for.
    pub fn names(&self) -> Result<Vec<String>> {
        let name = |info: TensorInfo| match &self.container {
            Container::Gguf(file) => match gguf::model_name(&info.name) {
                Some(name) => Ok(name.into_owned()),
                None => Err(FormatError::BadTensor {
                    path: file.path().to_path_buf(),
                    tensor: info.name,
                    expected: "a tensor of a decoder".to_owned(),
                    found: format!("shape {:?}", info.shape),
                }),
            },
            _ => Ok(info.name),
        };
        self.infos().map(name).collect()
    }

    /// Whether there is a tensor that Hugging Face calls `name`.
    pub fn contains(&self, name: &str) -> bool {
        match &self.container {
            Container::Gguf(file) => find_gguf(file, name).is_some(),
            Container::Safetensors(set) => set.get(name).is_some(),
            Container::Random(_) => RandomWeights::contains(name),
        }
    }

    /// The tensor that Hugging Face calls `name`, such as `model.layers.0.self_attn.q_proj.weight`.
    ///
    /// A part of the memory map, except the query and key projections of a `llama` GGUF file,
    /// whose rows are brought back into Hugging Face's order. GGUF's `rope_freqs.weight` keeps its
    /// name.
    ///
    /// # Errors
    /// [`FormatError::MissingTensor`], or [`FormatError::UnsupportedEncoding`] for a storage type
    /// that cannot be decoded.
    pub fn tensor(&self, name: &str) -> Result<RawTensor> {
        match &self.container {
            Container::Gguf(file) => self.gguf_tensor(file, name),
            Container::Safetensors(set) => safetensors_tensor(set, name),
            // They have the shape that they are asked for.
            Container::Random(_) => Err(FormatError::MissingTensor {
                path: self.path.clone(),
                tensor: name.to_owned(),
                similar: Vec::new(),
            }),
        }
    }

    /// [`Checkpoint::tensor`], of the shape `expected`.
    ///
    /// # Errors
    /// Also [`FormatError::ShapeMismatch`].
    pub fn tensor_of_shape(&self, name: &str, expected: &[usize]) -> Result<RawTensor> {
        if let Container::Random(weights) = &self.container {
            return Ok(weights.tensor(name, expected));
        }
        // The shape first: a wrong one is the better message where rows cannot be reordered.
        let found = match &self.container {
            Container::Gguf(file) => find_gguf(file, name).map(|t| (file.path(), t.shape())),
            Container::Safetensors(set) => set.get(name).map(|(file, t)| (file.path(), t.shape)),
            Container::Random(_) => None,
        };
        match found {
            Some((path, found)) if found != expected => Err(FormatError::ShapeMismatch {
                path: path.to_path_buf(),
                tensor: name.to_owned(),
                expected: expected.to_vec(),
                found: found.to_vec(),
            }),
            _ => self.tensor(name),
        }
    }

    fn gguf_tensor(&self, file: &GgufFile, name: &str) -> Result<RawTensor> {
        let tensor = find_gguf(file, name).ok_or_else(|| missing_in_gguf(file, name))?;
        let encoding = tensor
            .ggml_type()
            .encoding()
            .ok_or_else(|| unsupported(file.path(), tensor.name(), tensor.ggml_type().name))?;
        let (shape, bytes) = (tensor.shape().to_vec(), file.shared_bytes(tensor));
        let raw = RawTensor { name: name.to_owned(), shape, encoding, bytes };
        match self.permutation {
            Some(permutation) => permutation.undo(file.path(), tensor.name(), raw),
            None => Ok(raw),
        }
    }
}

fn find_gguf<'a>(file: &'a GgufFile, name: &str) -> Option<&'a GgufTensor> {
    file.get(&gguf::file_name(name)?)
}

fn missing_in_gguf(file: &GgufFile, name: &str) -> FormatError {
    let wanted = gguf::file_name(name);
    FormatError::MissingTensor {
        path: file.path().to_path_buf(),
        tensor: match &wanted {
            Some(wanted) if wanted != name => format!("{name} ({wanted})"),
            _ => name.to_owned(),
        },
        similar: similar_names(
            wanted.as_deref().unwrap_or(name),
            file.tensors().iter().map(GgufTensor::name),
        ),
    }
}

fn safetensors_tensor(set: &SafetensorsSet, name: &str) -> Result<RawTensor> {
    let (file, tensor) = set.tensor(name)?;
    let encoding = tensor
        .encoding()
        .ok_or_else(|| unsupported(file.path(), name, &tensor.dtype.to_string()))?;
    Ok(RawTensor {
        name: name.to_owned(),
        shape: tensor.shape.to_vec(),
        encoding,
        bytes: file.shared_bytes(&tensor),
    })
}

fn unsupported(path: &Path, tensor: &str, found: &str) -> FormatError {
    FormatError::UnsupportedEncoding {
        path: path.to_path_buf(),
        tensor: tensor.to_owned(),
        found: found.to_owned(),
    }
}

/// The numbers of heads come from the configuration that `hugging_face_config` has just checked.
fn permutation_of(file: &GgufFile, config: &Value) -> Result<Option<Permutation>> {
    let heads = |field: &str| {
        config.get(field).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
    };
    Ok(Permutation::of(
        file.architecture()?,
        heads("num_attention_heads"),
        heads("num_key_value_heads"),
    ))
}
