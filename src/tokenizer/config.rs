//! `tokenizer_config.json`: which tokens begin and end a sequence, as `transformers` writes it beside a
//! `tokenizer.json`. Everything else in it (the chat template among others) is for others to read.

use std::path::Path;

use serde::Deserialize;

use super::{Result, Tokenizer, TokenizerError};

/// The fields as the file spells them.
#[derive(Deserialize)]
#[allow(clippy::struct_field_names)]
struct Config {
    bos_token: Option<Token>,
    eos_token: Option<Token>,
    add_bos_token: Option<bool>,
    add_eos_token: Option<bool>,
}

/// A token, by its text or as the object that `transformers` makes of an `AddedToken`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Token {
    Text(String),
    Added { content: String },
}

impl Token {
    fn content(&self) -> &str {
        match self {
            Self::Text(content) | Self::Added { content } => content,
        }
    }
}

/// Reads `file` into the tokenizer; a file that does not exist says nothing.
pub(super) fn apply(tokenizer: &mut Tokenizer, file: &Path) -> Result<()> {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(TokenizerError::Io { file: file.to_owned(), source });
        }
    };
    let config: Config =
        serde_json::from_slice(&bytes).map_err(|error| TokenizerError::Parse {
            file: file.to_owned(),
            expected: "a tokenizer_config.json (bos_token and eos_token: text, or an object with `content`)",
            found: error.to_string(),
        })?;

    let needs_bos = config.add_bos_token.unwrap_or(false);
    let wants_eos = config.add_eos_token.unwrap_or(false);
    let bos = find(tokenizer, file, "bos_token", config.bos_token.as_ref(), needs_bos)?;
    let eos = find(tokenizer, file, "eos_token", config.eos_token.as_ref(), wants_eos)?;

    // `add_eos_token` is left to the post-processor where that already ends with EOS
    let template = tokenizer.encode("", true)?;
    tokenizer.add_eos = wants_eos && template.last().copied() != eos;
    tokenizer.special.bos = bos;
    tokenizer.special.eos = eos.into_iter().collect();
    tokenizer.special.add_bos = needs_bos;
    Ok(())
}

/// The id of a token that the configuration names. One that is not in the vocabulary is reported and left out, unless
/// it would be `needed` in front of or behind every text.
fn find(
    tokenizer: &Tokenizer,
    file: &Path,
    key: &'static str,
    token: Option<&Token>,
    needed: bool,
) -> Result<Option<u32>> {
    let content = token.map(Token::content);
    let id = content.and_then(|content| tokenizer.token_to_id(content));
    if id.is_none() && needed {
        return Err(TokenizerError::Value {
            file: file.to_owned(),
            key,
            expected: format!("a token of the vocabulary, because `add_{key}` is true"),
            found: content.map_or_else(|| "none".to_owned(), |content| format!("`{content}`")),
        });
    }
    if let (None, Some(content)) = (id, content) {
        tracing::warn!(file = %file.display(), key, content, "not in the vocabulary; left out");
    }
    Ok(id)
}
