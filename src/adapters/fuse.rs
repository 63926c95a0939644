//! Writing a model with adapters merged into it: a Hugging Face folder, or a GGUF file.
//!
//! Each changed matrix is merged in f32 and rounded once to how it is stored; everything else is
//! written as it was. One tensor exists at a time.

use std::{collections::BTreeSet, path::Path};

use serde_json::json;
use thiserror::Error;

use super::{
    Adapter, AdapterError,
    merge::{ModuleChange, merge_rows},
};
use crate::{
    formats::{
        Checkpoint, FormatError, RawTensor, TensorSpec, TokenizerSource,
        gguf::{self, GgufValue, Permutation},
        safetensors,
    },
    models::{DecoderConfig, ModelError},
    nn::{Slot, SlotKind, SlotTable},
    quant::{self, Encoding},
    tokenizer::{Tokenizer, TokenizerError},
};

/// What a Hugging Face folder has beside weights and configuration.
const BESIDE: [&str; 10] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
];
const OUTPUT: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";
const WEIGHTS: &str = "model.safetensors";
/// Llama 3's rotary frequencies, which only GGUF has as a tensor.
const ROPE_FACTORS: &str = "rope_freqs.weight";
/// The tokenizer of a file that has none, by llama.cpp's word for it.
const NO_TOKENIZER: &str = "none";

/// Why a model could not be fused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FuseError {
    /// An adapter does not fit, or cannot be read.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// The base cannot be read, or the result not be written.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The base's configuration makes no sense.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The tokenizer cannot be read.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// What was written.
#[derive(Clone, Debug, Default)]
pub struct Fused {
    /// Matrices that changed.
    pub merged: usize,
    /// Tensors in all.
    pub tensors: usize,
    /// Matrices that were packed in the base, and are not any more.
    pub unpacked: usize,
    /// What is not as one might expect, a sentence each.
    pub notes: Vec<String>,
}

/// Writes `base` with `adapters` (each with a weight) merged into it, by the formula of
/// [`merge`](super::merge), to `out`: a GGUF file if that ends in `.gguf`, else a Hugging Face folder.
///
/// Merged matrices are stored as `encoding` (a float format), or as they are in the base. Where that
/// is a packed format, they are stored as f16, and [`Fused::notes`] says so.
///
/// # Errors
/// [`FuseError`] naming the file, the tensor, what was expected and what was found. `out` is then not
/// written, but for a folder perhaps without weights.
pub fn fuse(
    base: &Checkpoint,
    adapters: &[(&Adapter, f64)],
    out: &Path,
    encoding: Option<Encoding>,
) -> Result<Fused, FuseError> {
    let mut fusion = Fusion::new(base, adapters, encoding)?;
    if out.extension().is_some_and(|extension| extension == "gguf") {
        fusion.write_gguf(out)?;
    } else {
        fusion.write_folder(out)?;
    }
    Ok(fusion.fused)
}

struct Fusion<'a> {
    base: &'a Checkpoint,
    adapters: &'a [(&'a Adapter, f64)],
    config: DecoderConfig,
    encoding: Option<Encoding>,
    /// What will be written, by Hugging Face's names.
    names: BTreeSet<String>,
    fused: Fused,
}

impl<'a> Fusion<'a> {
    fn new(
        base: &'a Checkpoint,
        adapters: &'a [(&'a Adapter, f64)],
        encoding: Option<Encoding>,
    ) -> Result<Self, FuseError> {
        let config = DecoderConfig::from_json(base.config(), base.config_path())?;
        let mut names: BTreeSet<_> = base.names()?.into_iter().collect();
        if config.tied {
            // Nobody reads it.
            names.remove(OUTPUT);
        }
        let fused = Fused::default();
        let mut fusion = Self { base, adapters, config, encoding, names, fused };
        fusion.check()?;
        if fusion.config.tied && fusion.adapters.iter().any(|(adapter, _)| unties(adapter)) {
            fusion.names.insert(OUTPUT.to_owned());
            fusion.config.tied = false;
        }
        Ok(fusion)
    }

    /// Every tensor of the adapters has a place in the base, and none that they need is missing.
    fn check(&self) -> Result<(), FuseError> {
        let slots = self.slots()?;
        for (adapter, _) in self.adapters {
            adapter.check()?;
            adapter.check_base(&slots)?;
            let output = OUTPUT.trim_end_matches(".weight");
            if let Some(tensors) = adapter.modules.get(output).filter(|_| self.config.tied) {
                return Err(AdapterError::Unexpected {
                    file: adapter.file.clone(),
                    tensor: tensors.a.name.clone(),
                    expected: "no change of an output layer that is the token embedding".into(),
                    found: tensors.a.shape.clone(),
                }
                .into());
            }
        }
        Ok(())
    }

    /// The layers of the base, as a loaded model has them.
    fn slots(&self) -> Result<SlotTable, FuseError> {
        let mut slots = SlotTable::default();
        let output = self.config.tied.then_some(OUTPUT);
        for name in self.names.iter().map(String::as_str).chain(output) {
            let RawTensor { shape, .. } = self.in_base(name)?;
            let (Some(module), &[rows, columns]) = (name.strip_suffix(".weight"), &shape[..])
            else {
                continue;
            };
            let slot = Slot {
                kind: if name == EMBEDDING { SlotKind::Embedding } else { SlotKind::Linear },
                group: 0,
                rows: 0..rows,
                columns,
                bias: self.base.contains(&format!("{module}.bias")),
                tied: output == Some(name),
            };
            slots.insert(module.to_owned(), slot);
        }
        Ok(slots)
    }

    /// What the base has in the place of a tensor.
    fn in_base(&self, name: &str) -> Result<RawTensor, FormatError> {
        if name == OUTPUT && !self.base.contains(OUTPUT) {
            return Ok(RawTensor { name: name.to_owned(), ..self.base.tensor(EMBEDDING)? });
        }
        self.base.tensor(name)
    }

    /// The tensor that an adapter, the last that has one, puts in place of the base's.
    fn saved(&self, name: &str) -> Option<&RawTensor> {
        self.adapters.iter().rev().find_map(|(adapter, _)| adapter.saved.get(name))
    }

    /// The module whose weight a tensor is, if an adapter has low-rank matrices for it.
    fn low_rank<'n>(&self, name: &'n str) -> Option<&'n str> {
        let module = name.strip_suffix(".weight")?;
        let has = |(adapter, _): &(&Adapter, f64)| adapter.modules.contains_key(module);
        self.adapters.iter().any(has).then_some(module)
    }

    /// The tensor as it will be written, by Hugging Face's name.
    fn spec(&mut self, name: &str, into_folder: bool) -> Result<TensorSpec, FuseError> {
        let RawTensor { shape, encoding: stored, .. } = self.in_base(name)?;
        let changed = self.saved(name).is_some() || self.low_rank(name).is_some();
        let encoding = match self.encoding {
            // llama.cpp wants vectors in f32.
            _ if shape.len() == 1 && !into_folder => Encoding::F32,
            Some(asked) if changed => asked,
            _ if stored.is_packed() && (changed || into_folder) => Encoding::F16,
            _ => stored,
        };
        self.fused.tensors += 1;
        self.fused.merged += usize::from(changed);
        self.fused.unpacked += usize::from(stored.is_packed() && encoding != stored);
        Ok(TensorSpec { name: name.to_owned(), shape, encoding })
    }

    fn specs(&mut self, into_folder: bool) -> Result<Vec<TensorSpec>, FuseError> {
        self.names.clone().iter().map(|name| self.spec(name, into_folder)).collect()
    }

    /// A tensor with its values, in Hugging Face's order.
    fn tensor(&self, spec: &TensorSpec) -> Result<RawTensor, FuseError> {
        let TensorSpec { name, shape, encoding } = spec;
        let raw = match self.saved(name) {
            Some(saved) => saved.clone(),
            None => self.in_base(name)?,
        };
        let module = self.low_rank(name);
        if module.is_none() && raw.encoding == *encoding {
            return Ok(RawTensor { name: name.clone(), ..raw });
        }
        let mut values = vec![0.0; raw.elements()];
        quant::dequantize(raw.encoding, &raw.bytes, &mut values).map_err(|source| {
            let file = self.base.path().to_path_buf();
            AdapterError::Decode { file, tensor: name.clone(), source }
        })?;
        if let (Some(module), &[_, columns]) = (module, &shape[..]) {
            let of = |(adapter, weight): &(&Adapter, f64)| {
                ModuleChange::of(adapter, module, *weight).transpose()
            };
            let changes = self.adapters.iter().filter_map(of).collect::<Result<Vec<_>, _>>()?;
            merge_rows(&mut values, columns, 0, &changes);
        }
        let bytes =
            quant::encode_floats(*encoding, &values).ok_or_else(|| FormatError::BadTensor {
                path: self.base.path().to_path_buf(),
                tensor: name.clone(),
                expected: "floats to write a merged matrix as".to_owned(),
                found: encoding.name().to_owned(),
            })?;
        let (name, shape, encoding) = (name.clone(), shape.clone(), *encoding);
        Ok(RawTensor { name, shape, encoding, bytes: bytes.into() })
    }

    fn write_folder(&mut self, out: &Path) -> Result<(), FuseError> {
        if self.names.contains(ROPE_FACTORS) {
            return Err(FormatError::BadTensor {
                path: self.base.path().to_path_buf(),
                tensor: ROPE_FACTORS.to_owned(),
                expected: "a rotary scaling that config.json can express (write a .gguf file)"
                    .to_owned(),
                found: "factors".to_owned(),
            }
            .into());
        }
        std::fs::create_dir_all(out).map_err(|source| io(out, source))?;
        let mut config = self.base.config().clone();
        config["tie_word_embeddings"] = json!(self.config.tied);
        let path = out.join("config.json");
        std::fs::write(&path, format!("{config:#}\n")).map_err(|source| io(&path, source))?;
        match self.base.tokenizer() {
            TokenizerSource::Gguf(_) => Tokenizer::from_checkpoint(self.base)?.save(out)?,
            TokenizerSource::File(file) => copy_beside(&file, out)?,
            TokenizerSource::None if self.base.gguf().is_none() => {
                copy_beside(self.base.config_path(), out)?;
            }
            TokenizerSource::None => {}
        }
        let specs = self.specs(true)?;
        safetensors::write(&out.join(WEIGHTS), &[("format", "pt")], &specs, |spec| {
            Ok::<_, FuseError>(self.tensor(spec)?.bytes)
        })?;
        if self.fused.unpacked > 0 {
            let note = format!("{} packed matrices are written as floats", self.fused.unpacked);
            self.fused.notes.push(note);
        }
        Ok(())
    }

    fn write_gguf(&mut self, out: &Path) -> Result<(), FuseError> {
        let factors = match self.base.gguf() {
            Some(_) => None,
            None => self.config.rope_factors(),
        };
        let metadata = match self.base.gguf() {
            Some(file) => {
                file.metadata().iter().map(|(key, value)| (key.to_owned(), value.clone())).collect()
            }
            None => self.metadata()?,
        };
        let mut specs = self.specs(false)?;
        if let Some(factors) = &factors {
            let (name, shape) = (ROPE_FACTORS.to_owned(), vec![factors.len()]);
            specs.push(TensorSpec { name, shape, encoding: Encoding::F32 });
        }
        let in_file = |spec: &TensorSpec| match gguf::file_name(&spec.name) {
            Some(name) => Ok(TensorSpec { name: name.into_owned(), ..spec.clone() }),
            None => Err(FormatError::BadTensor {
                path: self.base.path().to_path_buf(),
                tensor: spec.name.clone(),
                expected: "a tensor that GGUF has a name for".to_owned(),
                found: format!("shape {:?}", spec.shape),
            }),
        };
        let renamed = specs.iter().map(in_file).collect::<Result<Vec<_>, _>>()?;
        let architecture = gguf::architecture(&self.config.architecture);
        let permutation = Permutation::of(architecture, self.config.heads, self.config.kv_heads);
        gguf::write(out, &metadata, &renamed, |renamed| {
            if let (ROPE_FACTORS, Some(factors)) = (&*renamed.name, &factors) {
                return Ok(factors.iter().flat_map(|factor| factor.to_le_bytes()).collect());
            }
            let name = gguf::model_name(&renamed.name).unwrap_or_default().into_owned();
            let tensor = self.tensor(&TensorSpec { name, ..renamed.clone() })?;
            let tensor = match permutation {
                Some(permutation) => permutation.apply(out, &renamed.name, tensor)?,
                None => tensor,
            };
            Ok::<_, FuseError>(tensor.bytes)
        })?;
        if self.fused.unpacked > 0 {
            let note = format!(
                "{} merged matrices, packed in the base, are written as floats",
                self.fused.unpacked
            );
            self.fused.notes.push(note);
        }
        Ok(())
    }

    /// The metadata of a base that is no GGUF file.
    fn metadata(&mut self) -> Result<Vec<(String, GgufValue)>, FuseError> {
        let mut all = self.config.to_gguf();
        if self.config.window.is_some_and(|window| window.size < self.config.context) {
            let note =
                "GGUF has no sliding window for this architecture: readers attend to everything";
            self.fused.notes.push(note.to_owned());
        }
        let vocab = match self.base.tokenizer() {
            TokenizerSource::None => Err("the base has none".to_owned()),
            _ => Tokenizer::from_checkpoint(self.base)?
                .to_gguf(self.config.vocabulary)
                .map_err(|error| error.to_string()),
        };
        match vocab {
            Ok(vocab) => all.extend(vocab.metadata()),
            Err(why) => {
                let key = "tokenizer.ggml.model".to_owned();
                all.push((key, GgufValue::String(NO_TOKENIZER.to_owned())));
                self.fused.notes.push(format!("the file has no tokenizer: {why}"));
            }
        }
        Ok(all)
    }
}

/// Copies what a folder has beside weights: the folder that `file` is in.
fn copy_beside(file: &Path, out: &Path) -> Result<(), FormatError> {
    let folder = file.parent().unwrap_or(Path::new(""));
    for name in BESIDE {
        let (from, to) = (folder.join(name), out.join(name));
        if from.is_file() && from != to {
            std::fs::copy(&from, &to).map_err(|source| io(&to, source))?;
        }
    }
    Ok(())
}

fn io(path: &Path, source: std::io::Error) -> FormatError {
    FormatError::Io { path: path.to_path_buf(), source }
}

/// Whether an adapter gives a tied base an output layer of its own: one that it trained, or what the
/// token embedding was before it trained that alone.
fn unties(adapter: &Adapter) -> bool {
    let embedding = adapter.saved.contains_key(EMBEDDING) && !adapter.config.ties_weights();
    adapter.saved.contains_key(OUTPUT) || embedding
}
