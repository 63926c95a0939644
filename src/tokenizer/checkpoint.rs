//! The tokenizer that belongs to a model's files.

use super::{GgufVocab, Result, Tokenizer, TokenizerError};
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
    let types = metadata.integers("tokenizer.ggml.token_type")?.unwrap_or_default();
    Ok(GgufVocab {
        model: text("tokenizer.ggml.model")?.unwrap_or_default(),
        pre: text("tokenizer.ggml.pre")?,
        tokens: list("tokenizer.ggml.tokens")?,
        merges: list("tokenizer.ggml.merges")?,
        token_types: types.into_iter().map(|t| t as i32).collect(),
        bos: metadata.u32("tokenizer.ggml.bos_token_id")?,
        eos: metadata.u32("tokenizer.ggml.eos_token_id")?,
        eot: metadata.u32("tokenizer.ggml.eot_token_id")?,
        eom: metadata.u32("tokenizer.ggml.eom_token_id")?,
        add_bos: metadata.bool("tokenizer.ggml.add_bos_token")?,
        add_eos: metadata.bool("tokenizer.ggml.add_eos_token")?,
        add_space_prefix: metadata.bool("tokenizer.ggml.add_space_prefix")?,
    })
}
