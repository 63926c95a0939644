//! Writing a tokenizer: as the files of a Hugging Face folder, or as GGUF metadata (which keeps less:
//! see [`Tokenizer::from_gguf`]).

use std::path::Path;

use serde_json::{Value, json};

use super::pre::Recipe;
use super::{GgufVocab, Result, Tokenizer, TokenizerError};

/// Values of `tokenizer.ggml.token_type` (`llama_token_type` in llama.cpp).
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

impl Tokenizer {
    /// Writes `tokenizer.json` and `tokenizer_config.json` into a folder.
    ///
    /// # Errors
    /// [`TokenizerError::Io`] when the system refuses.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let write = |name: &str, text: String| {
            let file = folder.join(name);
            std::fs::write(&file, text).map_err(|source| TokenizerError::Io { file, source })
        };
        write("tokenizer.json", format!("{:#}", self.to_json()?))?;
        let special = self.special_tokens();
        let token = |id: Option<u32>| id.and_then(|id| self.id_to_token(id));
        let config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": token(special.bos),
            "eos_token": token(special.eos.first().copied()),
            "add_bos_token": special.add_bos,
            "add_eos_token": self.add_eos,
        });
        write("tokenizer_config.json", format!("{config:#}"))
    }

    /// The vocabulary as a GGUF file holds it, with as many tokens as the model has `rows`.
    ///
    /// # Errors
    /// [`TokenizerError::Unsupported`] for what is no byte-level BPE, or cuts text into words in a way
    /// that has no name there.
    pub fn to_gguf(&self, rows: usize) -> Result<GgufVocab> {
        let document = self.to_json()?;
        let model = &document["model"];
        if model["type"] != "BPE" || !self.is_byte_level() {
            return Err(self.unsupported("model", &model["type"], "byte-level BPE"));
        }
        let normalizer = &document["normalizer"];
        // llama.cpp normalises nothing, and neither does it for models that ask for NFC.
        if !(normalizer.is_null() || normalizer["type"] == "NFC") {
            return Err(self.unsupported("normalizer", &normalizer["type"], "NFC, or none"));
        }
        let ignore_merges = model["ignore_merges"] == true;
        let pre = splits(&document["pre_tokenizer"])
            .and_then(|splits| Recipe::name_of(&splits, ignore_merges))
            .ok_or_else(|| {
                let supported = Recipe::supported();
                self.unsupported("pre_tokenizer", &document["pre_tokenizer"], &supported)
            })?;
        let begins_with_bos = self.special.bos.is_some()
            && self.encode("", true)?.first() == self.special.bos.as_ref();
        let added = self.inner.get_added_tokens_decoder();
        let (tokens, token_types) = (0u32..)
            .take(rows.max(self.vocab_size()))
            .map(|id| match (self.id_to_token(id), added.get(&id)) {
                (Some(token), Some(added)) if added.special => (token, CONTROL),
                (Some(token), Some(_)) => (token, USER_DEFINED),
                (Some(token), None) => (token, NORMAL),
                (None, _) => (format!("[PAD{id}]"), UNUSED),
            })
            .unzip();
        Ok(GgufVocab {
            model: "gpt2".to_owned(),
            pre: Some(pre.to_owned()),
            tokens,
            merges: merges(&model["merges"]),
            token_types,
            bos: self.special.bos,
            eos: self.special.eos.first().copied(),
            add_bos: Some(begins_with_bos),
            add_eos: Some(self.add_eos),
            ..GgufVocab::default()
        })
    }

    fn to_json(&self) -> Result<Value> {
        serde_json::to_value(&self.inner).map_err(|error| TokenizerError::Parse {
            file: self.file.clone(),
            expected: "a tokenizer that can be written as JSON",
            found: error.to_string(),
        })
    }

    fn unsupported(&self, key: &'static str, found: &Value, supported: &str) -> TokenizerError {
        TokenizerError::Unsupported {
            file: self.file.clone(),
            key,
            found: found.to_string(),
            supported: supported.to_owned(),
        }
    }
}

/// The expressions that a pre-tokenizer cuts with, one after the other.
fn splits(pre: &Value) -> Option<Vec<&str>> {
    match pre["type"].as_str()? {
        "Sequence" => {
            let each = pre["pretokenizers"].as_array()?.iter().map(splits);
            each.collect::<Option<Vec<_>>>().map(|parts| parts.concat())
        }
        "Split" if pre["behavior"] == "Isolated" && pre["invert"] == false => {
            Some(vec![pre["pattern"]["Regex"].as_str()?])
        }
        "Digits" if pre["individual_digits"] == true => Some(vec![super::pre::DIGIT]),
        "ByteLevel" if pre["add_prefix_space"] == false => {
            Some(if pre["use_regex"] == true { vec![super::pre::GPT2] } else { Vec::new() })
        }
        _ => None,
    }
}

/// `"a b"` for each pair, which `tokenizers` writes as a list or as that string.
fn merges(merges: &Value) -> Vec<String> {
    let merge = |merge: &Value| match merge {
        Value::Array(pair) => pair.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
        other => other.as_str().unwrap_or_default().to_owned(),
    };
    merges.as_array().map(|merges| merges.iter().map(merge).collect()).unwrap_or_default()
}
