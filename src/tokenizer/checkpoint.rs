//! The tokenizer that belongs to a model's files.

use super::gguf::{
    ADD_BOS, ADD_EOS, ADD_SPACE, BOS, EOM, EOS, EOT, MERGES, MODEL, PRE, TOKENS, TYPES,
};
use super::{GgufVocab, Result, Tokenizer, TokenizerError};
use crate::formats::gguf::{GgufArray, GgufValue};
use crate::formats::{Checkpoint, FormatError, GgufFile, TokenizerSource};

impl Tokenizer {
    /// The tokenizer of a checkpoint: the `tokenizer.json` beside it, or the vocabulary in its GGUF
    /// metadata.
    ///
    /// # Errors
    /// [`TokenizerError`] when there is none, or it cannot be read or is of an unsupported kind.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self> {
        match checkpoint.tokenizer() {
            TokenizerSource::File(path) => Self::from_file(path),
            TokenizerSource::Gguf(file) => Self::from_gguf(&vocab(file)?, file.path()),
            TokenizerSource::None => {
                Err(TokenizerError::Missing { file: checkpoint.path().to_path_buf() })
            }
        }
    }
}

fn vocab(file: &GgufFile) -> std::result::Result<GgufVocab, FormatError> {
    let metadata = file.metadata();
    let text = |key: &str| Ok::<_, FormatError>(metadata.str(key)?.map(str::to_owned));
    let list = |key: &str| Ok::<_, FormatError>(metadata.strings(key)?.unwrap_or(&[]).to_vec());
    let types = metadata.integers(TYPES)?.unwrap_or_default();
    Ok(GgufVocab {
        model: text(MODEL)?.unwrap_or_default(),
        pre: text(PRE)?,
        tokens: list(TOKENS)?,
        merges: list(MERGES)?,
        token_types: types.into_iter().map(|t| t as i32).collect(),
        bos: metadata.u32(BOS)?,
        eos: metadata.u32(EOS)?,
        eot: metadata.u32(EOT)?,
        eom: metadata.u32(EOM)?,
        add_bos: metadata.bool(ADD_BOS)?,
        add_eos: metadata.bool(ADD_EOS)?,
        add_space_prefix: metadata.bool(ADD_SPACE)?,
    })
}

impl GgufVocab {
    /// The metadata of a GGUF file with this vocabulary.
    pub fn metadata(&self) -> Vec<(String, GgufValue)> {
        let strings = |list: &[String]| GgufValue::Array(GgufArray::String(list.to_vec()));
        let types = GgufArray::I32(self.token_types.clone());
        let text = |text: &String| GgufValue::String(text.clone());
        [
            (MODEL, Some(text(&self.model))),
            (PRE, self.pre.as_ref().map(text)),
            (TOKENS, Some(strings(&self.tokens))),
            (TYPES, (!self.token_types.is_empty()).then_some(GgufValue::Array(types))),
            (MERGES, Some(strings(&self.merges))),
            (BOS, self.bos.map(GgufValue::U32)),
            (EOS, self.eos.map(GgufValue::U32)),
            (EOT, self.eot.map(GgufValue::U32)),
            (EOM, self.eom.map(GgufValue::U32)),
            (ADD_BOS, self.add_bos.map(GgufValue::Bool)),
            (ADD_EOS, self.add_eos.map(GgufValue::Bool)),
            (ADD_SPACE, self.add_space_prefix.map(GgufValue::Bool)),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect()
    }
}
