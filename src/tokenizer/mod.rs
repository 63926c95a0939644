//! Text to token ids and back.
//!
//! [`Tokenizer`] wraps the [`tokenizers`] crate and reads the two things that models ship: a `tokenizer.json`, with the
//! `tokenizer_config.json` beside it ([`Tokenizer::from_file`]), or the vocabulary inside a GGUF file
//! ([`Tokenizer::from_gguf`]). Both give the same ids for the same model, as far as the GGUF file tells: it keeps no
//! normaliser and no post-processor, and llama.cpp's rules for special tokens apply. Truncation and padding that a
//! `tokenizer.json` asks for are switched off: a text comes back whole, as with `transformers`' defaults.
//!
//! Text that reads like a special token (`<|im_end|>`) becomes that token, as in `transformers`; that is how rendered
//! chat templates work, and a reason to be careful with text from strangers.

mod checkpoint;
mod config;
mod error;
mod export;
mod gguf;
mod pre;

pub use error::TokenizerError;
pub use gguf::GgufVocab;

use std::fmt;
use std::path::{Path, PathBuf};

use tokenizers::decoders::DecoderWrapper;
use tokenizers::tokenizer::Tokenizer as Inner;

/// What loading and using a tokenizer returns.
pub type Result<T> = std::result::Result<T, TokenizerError>;

/// The tokens that start and end a sequence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// The token that begins a sequence, if the model has one.
    pub bos: Option<u32>,
    /// The tokens that end a generation, the model's own EOS first.
    pub eos: Vec<u32>,
    /// Whether [`Tokenizer::encode`] with `add_special` must begin with `bos`.
    pub add_bos: bool,
}

/// A model's tokenizer.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Inner,
    special: SpecialTokens,
    /// Whether `encode` with `add_special` ends with the first EOS. Only GGUF files and `tokenizer_config.json` ask.
    add_eos: bool,
    /// Where it came from, for messages.
    file: PathBuf,
    /// Whether decoding is exactly "map characters to bytes, join, read as UTF-8".
    byte_level: bool,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`, and the `tokenizer_config.json` in the same folder when there is one: its `bos_token`,
    /// `eos_token` (each a string or an object with `content`), `add_bos_token` and `add_eos_token`.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, is not what its name says, or asks to add a BOS or EOS token that it does not have.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let file = path.as_ref();
        let bytes = std::fs::read(file)
            .map_err(|source| TokenizerError::Io { file: file.to_owned(), source })?;
        let inner = Inner::from_bytes(&bytes).map_err(|error| TokenizerError::Parse {
            file: file.to_owned(),
            expected: "a tokenizer.json of the `tokenizers` library",
            found: error.to_string(),
        })?;
        let mut tokenizer = Self::new(inner, file.to_owned())?;
        config::apply(&mut tokenizer, &file.with_file_name("tokenizer_config.json"))?;
        Ok(tokenizer)
    }

    /// Builds the tokenizer that a GGUF file describes. `file` is named in messages and not opened.
    ///
    /// Only byte-level BPE (`tokenizer.ggml.model` = `gpt2`) is implemented, with the pre-tokenizers that llama.cpp
    /// knows and whose splitting is documented; see the error for the list.
    ///
    /// Token types are read as llama.cpp does: CONTROL and UNKNOWN tokens are special, USER_DEFINED tokens are matched in
    /// text but are not special, the rest are plain vocabulary; well-known end-of-turn and fill-in-the-middle tokens
    /// that a converter left NORMAL are special all the same. [`Tokenizer::eos_ids`] starts with the file's EOS, EOT
    /// and EOM and ends with the special tokens that llama.cpp takes as the end of a generation by their text.
    ///
    /// # Errors
    ///
    /// When the kind or the pre-tokenizer is not supported (or not named: guessing would give wrong ids), or when
    /// tokens, types, merges and ids do not fit together.
    #[allow(clippy::doc_markdown)] // CONTROL, USER_DEFINED: names of llama.cpp's token types
    pub fn from_gguf(vocab: &GgufVocab, file: &Path) -> Result<Self> {
        gguf::build(vocab, file)
    }

    fn new(mut inner: Inner, file: PathBuf) -> Result<Self> {
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| TokenizerError::Parse {
            file: file.clone(),
            expected: "a tokenizer whose truncation can be switched off",
            found: error.to_string(),
        })?;
        let byte_level = inner.get_decoder().is_some_and(is_byte_level);
        Ok(Self { inner, special: SpecialTokens::default(), add_eos: false, file, byte_level })
    }

    /// Turns text into ids.
    ///
    /// With `add_special`, what the model wants around a sequence is added: by the post-processor of the
    /// `tokenizer.json`, and BOS by [`SpecialTokens::add_bos`] unless the ids already begin with it. A chat template
    /// that writes BOS itself should be encoded without `add_special`.
    ///
    /// # Errors
    ///
    /// When the tokenizer refuses the text, as a vocabulary without an unknown token may.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let encoding =
            self.inner.encode_fast(text, add_special).map_err(|error| TokenizerError::Encode {
                file: self.file.clone(),
                bytes: text.len(),
                reason: error.to_string(),
            })?;
        let mut ids = encoding.get_ids().to_vec();
        if add_special {
            if let (true, Some(bos)) = (self.special.add_bos, self.special.bos)
                && ids.first() != Some(&bos)
            {
                ids.insert(0, bos);
            }
            if let (true, Some(&eos)) = (self.add_eos, self.special.eos.first())
                && ids.last() != Some(&eos)
            {
                ids.push(eos);
            }
        }
        Ok(ids)
    }

    /// Turns ids into text. Bytes that are not UTF-8 become U+FFFD; ids outside the vocabulary (models often have more
    /// rows than tokens) are passed over.
    ///
    /// # Errors
    ///
    /// When the decoder of the `tokenizer.json` fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner.decode(ids, skip_special).map_err(|error| TokenizerError::Decode {
            file: self.file.clone(),
            tokens: ids.len(),
            reason: error.to_string(),
        })
    }

    /// Number of tokens, added ones included. A model may have more rows than this.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The id of a token, written as in the vocabulary (`Ġthe`, not ` the`).
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token with this id, written as in the vocabulary.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The tokens that start and end a sequence.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special
    }

    /// Replaces the tokens that start and end a sequence, for instance by those of a `generation_config.json`.
    pub fn set_special_tokens(&mut self, special: SpecialTokens) {
        self.special = special;
    }

    /// The tokens that end a generation, the model's own EOS first. Empty when nothing names one.
    pub fn eos_ids(&self) -> &[u32] {
        &self.special.eos
    }

    /// The token that begins a sequence, if the model has one.
    pub fn bos_id(&self) -> Option<u32> {
        self.special.bos
    }

    /// Whether decoding is byte-level, so that [`Tokenizer::push_bytes`] tells all there is to know about a token.
    pub(crate) fn is_byte_level(&self) -> bool {
        self.byte_level
    }

    /// Whether the id is a special token, one that decoding with `skip_special` leaves out.
    pub(crate) fn is_special(&self, id: u32) -> bool {
        let added = self.inner.get_added_vocabulary();
        added.simple_id_to_token(id).is_some_and(|token| added.is_special_token(&token))
    }

    /// Appends the bytes that a token stands for in a byte-level vocabulary.
    pub(crate) fn push_bytes(&self, id: u32, bytes: &mut Vec<u8>) {
        let Some(token) = self.inner.id_to_token(id) else {
            return;
        };
        let start = bytes.len();
        for character in token.chars() {
            if let Some(byte) = byte_of(character) {
                bytes.push(byte);
            } else {
                // an added token written as plain text: all of it is, as the `ByteLevel` decoder has it
                bytes.truncate(start);
                bytes.extend_from_slice(token.as_bytes());
                return;
            }
        }
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("file", &self.file)
            .field("vocab_size", &self.vocab_size())
            .field("special", &self.special)
            .finish_non_exhaustive()
    }
}

fn is_byte_level(decoder: &DecoderWrapper) -> bool {
    match decoder {
        DecoderWrapper::ByteLevel(_) => true,
        DecoderWrapper::Sequence(sequence) => {
            matches!(sequence.get_decoders(), [DecoderWrapper::ByteLevel(_)])
        }
        _ => false,
    }
}

/// The byte behind a character of GPT-2's printable alphabet: printable Latin-1 stands for itself, the other 68 bytes
/// follow from U+0100 on, in order. Source: `bytes_to_unicode` in openai/gpt-2.
fn byte_of(character: char) -> Option<u8> {
    let code = u32::from(character);
    match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => u8::try_from(code).ok(),
        0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        0x121..=0x142 => u8::try_from(code - 0x121 + 0x7f).ok(),
        0x143 => Some(0xad),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::byte_of;
    use std::collections::BTreeSet;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    #[test]
    fn the_byte_alphabet_is_gpt2s() {
        let alphabet: BTreeSet<char> = ByteLevel::alphabet().into_iter().collect();
        let bytes: BTreeSet<u8> = alphabet.iter().filter_map(|&c| byte_of(c)).collect();
        assert_eq!((alphabet.len(), bytes.len()), (256, 256));
        for code in 0..0x2000 {
            if let Some(character) = char::from_u32(code) {
                assert_eq!(byte_of(character).is_some(), alphabet.contains(&character));
            }
        }
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
        assert_eq!(byte_of('ł'), Some(0xa0));
        assert_eq!(byte_of('ġ'), Some(0x7f));
    }
}
