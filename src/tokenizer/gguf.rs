//! The tokenizer inside a GGUF file, read as llama.cpp's `src/llama-vocab.cpp` does.
//!
//! Built through the builders of the `tokenizers` crate: a vocabulary of 49,000 tokens takes some tens of milliseconds.

use std::path::Path;

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::tokenizer::{AddedToken, Tokenizer as Inner};

use super::pre::{Recipe, byte_level};
use super::{Result, SpecialTokens, Tokenizer, TokenizerError};

pub(super) const MODEL: &str = "tokenizer.ggml.model";
pub(super) const PRE: &str = "tokenizer.ggml.pre";
pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(super) const TYPES: &str = "tokenizer.ggml.token_type";
pub(super) const MERGES: &str = "tokenizer.ggml.merges";
pub(super) const BOS: &str = "tokenizer.ggml.bos_token_id";
pub(super) const EOS: &str = "tokenizer.ggml.eos_token_id";
pub(super) const EOT: &str = "tokenizer.ggml.eot_token_id";
pub(super) const EOM: &str = "tokenizer.ggml.eom_token_id";
pub(super) const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
pub(super) const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
pub(super) const ADD_SPACE: &str = "tokenizer.ggml.add_space_prefix";

/// Values of `tokenizer.ggml.token_type` that change how a token is treated (`llama_token_type` in llama.cpp).
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// Tokens that end a generation whatever the file says, and are special even where a converter typed them NORMAL
/// (`special_eog_ids` in llama.cpp).
const ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Fill-in-the-middle tokens, special for the same reason (`special_fim_*` in llama.cpp).
const FILL_IN_THE_MIDDLE: &[&str] = &[
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "<|code_middle|>",
    "<|middle|>",
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// The tokenizer metadata of a GGUF file, one field per key. `None` or empty where the file has no such key.
#[derive(Debug, Clone, Default)]
pub struct GgufVocab {
    /// `tokenizer.ggml.model`: the kind, for instance `gpt2`.
    pub model: String,
    /// `tokenizer.ggml.pre`: how text is cut into words.
    pub pre: Option<String>,
    /// `tokenizer.ggml.tokens`: the token of each id.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.merges`: two tokens separated by a space, best first.
    pub merges: Vec<String>,
    /// `tokenizer.ggml.token_type`: the type of each id, or empty: all NORMAL.
    pub token_types: Vec<i32>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos: Option<u32>,
    /// `tokenizer.ggml.eot_token_id`: end of turn; ends a generation as EOS does.
    pub eot: Option<u32>,
    /// `tokenizer.ggml.eom_token_id`: end of message; ends a generation as EOS does.
    pub eom: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`; where missing, the pre-tokenizer decides.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_eos_token`; where missing, no.
    pub add_eos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`. As in llama.cpp, encoding with the `gpt2` kind does not look at it.
    pub add_space_prefix: Option<bool>,
}

/// See [`Tokenizer::from_gguf`].
pub(super) fn build(vocab: &GgufVocab, file: &Path) -> Result<Tokenizer> {
    if vocab.model != "gpt2" {
        return Err(TokenizerError::Unsupported {
            file: file.to_owned(),
            key: MODEL,
            found: quoted(Some(&vocab.model).filter(|model| !model.is_empty())),
            supported: "`gpt2` (byte-level BPE)".to_owned(),
        });
    }
    let recipe = vocab.pre.as_deref().and_then(Recipe::named);
    let recipe = recipe.ok_or_else(|| TokenizerError::Unsupported {
        file: file.to_owned(),
        key: PRE,
        found: quoted(vocab.pre.as_ref()),
        supported: Recipe::supported(),
    })?;
    check_lengths(vocab, file)?;

    let names = token_names(vocab);
    let model = BPE::builder()
        .vocab_and_merges(ids_by_token(vocab, &names, file)?, pairs(&vocab.merges, file)?)
        .ignore_merges(recipe.ignore_merges)
        .build()
        .map_err(|error| {
            value(file, MERGES, "merges of tokens in the vocabulary", error.to_string())
        })?;
    let pre_tokenizer = recipe
        .build()
        .map_err(|error| value(file, PRE, "expressions that compile", error.to_string()))?;

    let mut inner = Inner::new(model);
    inner.with_pre_tokenizer(Some(pre_tokenizer));
    inner.with_decoder(Some(byte_level()));
    inner.add_tokens(&added_tokens(vocab, &names));

    let mut tokenizer = Tokenizer::new(inner, file.to_owned())?;
    tokenizer.special = special_tokens(vocab, recipe, &names, file)?;
    tokenizer.add_eos = vocab.add_eos.unwrap_or(false);
    if tokenizer.add_eos && vocab.eos.is_none() {
        let expected = "an id, because `tokenizer.ggml.add_eos_token` is true";
        return Err(value(file, EOS, expected, "none".to_owned()));
    }
    Ok(tokenizer)
}

fn check_lengths(vocab: &GgufVocab, file: &Path) -> Result<()> {
    let tokens = vocab.tokens.len();
    if tokens == 0 || u32::try_from(tokens).is_err() {
        let found = format!("{tokens} tokens");
        return Err(value(file, TOKENS, "at least one token", found));
    }
    if !vocab.token_types.is_empty() && vocab.token_types.len() < tokens {
        let found = format!("{} types", vocab.token_types.len());
        return Err(value(file, TYPES, &format!("{tokens} types, one for each token"), found));
    }
    if vocab.merges.is_empty() {
        return Err(value(file, MERGES, "the merges of the vocabulary", "none".to_owned()));
    }
    Ok(())
}

/// The tokens by id; like llama.cpp, empty ones get a name of their own.
fn token_names(vocab: &GgufVocab) -> Vec<String> {
    let mut names = vocab.tokens.clone();
    for (id, name) in names.iter_mut().enumerate() {
        if name.is_empty() {
            *name = format!("[EMPTY_{id}]");
        }
    }
    names
}

fn ids_by_token(vocab: &GgufVocab, names: &[String], file: &Path) -> Result<Vocab> {
    let ids: Vocab = (0u32..).zip(names).map(|(id, name)| (name.clone(), id)).collect();
    if ids.len() == names.len() {
        return Ok(ids);
    }
    // two ids with one token: the map kept the later one
    let twice = (0u32..).zip(names).find(|(id, name)| ids.get(*name) != Some(id));
    let found = twice.map_or_else(
        || format!("{} different tokens of {}", ids.len(), vocab.tokens.len()),
        |(id, name)| {
            format!("`{name}` at {id} and again at {}", ids.get(name).copied().unwrap_or(id))
        },
    );
    Err(value(file, TOKENS, "each token once", found))
}

/// `"a b"` to `("a", "b")`; the separator is the first space that is not the first character.
fn pairs(merges: &[String], file: &Path) -> Result<Vec<(String, String)>> {
    let pair = |(index, merge): (usize, &String)| {
        let mut spaces = merge.match_indices(' ').map(|(at, _)| at);
        match spaces.find(|&at| at > 0) {
            Some(at) => Ok((merge[..at].to_owned(), merge[at + 1..].to_owned())),
            None => Err(value(
                file,
                MERGES,
                "two tokens separated by a space",
                format!("`{merge}` at {index}"),
            )),
        }
    };
    merges.iter().enumerate().map(pair).collect()
}

/// The tokens that are looked for in text before anything else.
fn added_tokens(vocab: &GgufVocab, names: &[String]) -> Vec<AddedToken> {
    let mut added = Vec::new();
    for (id, name) in names.iter().enumerate() {
        let kind = vocab.token_types.get(id).copied();
        let special = matches!(kind, Some(CONTROL | UNKNOWN))
            || ENDS.contains(&name.as_str())
            || FILL_IN_THE_MIDDLE.contains(&name.as_str());
        if special || kind == Some(USER_DEFINED) {
            // not normalised, all of them: then one automaton looks for the longest at each place
            added.push(AddedToken::from(name, special).normalized(false));
        }
    }
    added
}

fn special_tokens(
    vocab: &GgufVocab,
    recipe: &Recipe,
    names: &[String],
    file: &Path,
) -> Result<SpecialTokens> {
    for (key, id) in [(BOS, vocab.bos), (EOS, vocab.eos), (EOT, vocab.eot), (EOM, vocab.eom)] {
        if let Some(id) = id
            && id as usize >= names.len()
        {
            return Err(value(file, key, &format!("an id below {}", names.len()), id.to_string()));
        }
    }
    if vocab.add_bos == Some(true) && vocab.bos.is_none() {
        let expected = "an id, because `tokenizer.ggml.add_bos_token` is true";
        return Err(value(file, BOS, expected, "none".to_owned()));
    }

    let mut eos: Vec<u32> = Vec::new();
    let declared = [vocab.eos, vocab.eot, vocab.eom].into_iter().flatten();
    let by_text =
        (0u32..).zip(names).filter(|(_, name)| ENDS.contains(&name.as_str())).map(|(id, _)| id);
    for id in declared.chain(by_text) {
        if !eos.contains(&id) {
            eos.push(id);
        }
    }
    Ok(SpecialTokens {
        bos: vocab.bos,
        eos,
        add_bos: vocab.add_bos.unwrap_or(recipe.add_bos && vocab.bos.is_some()),
    })
}

fn quoted(text: Option<&String>) -> String {
    text.map_or_else(|| "missing".to_owned(), |text| format!("`{text}`"))
}

fn value(file: &Path, key: &'static str, expected: &str, found: String) -> TokenizerError {
    TokenizerError::Value { file: file.to_owned(), key, expected: expected.to_owned(), found }
}
