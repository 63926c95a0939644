//! What can go wrong with a tokenizer: which file, what was expected there, and what was found.

use std::path::PathBuf;

/// An error while loading or using a tokenizer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file could not be read.
    #[error("{}: cannot read the tokenizer: {source}", file.display())]
    Io {
        /// The file that was asked for.
        file: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The model comes without a tokenizer.
    #[error("{}: expected a tokenizer.json beside the model, or tokenizer.ggml.* metadata in a GGUF file", file.display())]
    Missing {
        /// The model.
        file: PathBuf,
    },
    /// The model file that holds the vocabulary could not be read.
    #[error(transparent)]
    Format(#[from] crate::formats::FormatError),
    /// The file was read, but it is not what its name promises.
    #[error("{}: expected {expected}, found: {found}", file.display())]
    Parse {
        /// The file.
        file: PathBuf,
        /// The format that it should have.
        expected: &'static str,
        /// The parser's complaint.
        found: String,
    },
    /// One entry of the file has a wrong value.
    #[error("{}: `{key}`: expected {expected}, found {found}", file.display())]
    Value {
        /// The file.
        file: PathBuf,
        /// The metadata key or JSON field.
        key: &'static str,
        /// What it should hold.
        expected: String,
        /// What it holds.
        found: String,
    },
    /// The file asks for a tokenizer kind, or for a pre-tokenizer, that is not implemented.
    #[error("{}: `{key}` is {found}, which is not supported; supported: {supported}", file.display())]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// The metadata key.
        key: &'static str,
        /// The value found, quoted, or `missing`.
        found: String,
        /// The supported values, separated by commas.
        supported: String,
    },
    /// Text could not be turned into ids.
    #[error("{}: cannot encode {bytes} bytes of text: {reason}", file.display())]
    Encode {
        /// The file that the tokenizer came from.
        file: PathBuf,
        /// Length of the text in bytes.
        bytes: usize,
        /// The tokenizer's complaint.
        reason: String,
    },
    /// Ids could not be turned into text.
    #[error("{}: cannot decode {tokens} tokens: {reason}", file.display())]
    Decode {
        /// The file that the tokenizer came from.
        file: PathBuf,
        /// Number of tokens.
        tokens: usize,
        /// The decoder's complaint.
        reason: String,
    },
}
