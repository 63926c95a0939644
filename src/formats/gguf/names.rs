//! Between Hugging Face's tensor names and llama.cpp's, and the one tensor layout that differs.
//!
//! Source: `gguf-py/gguf/tensor_mapping.py` for the names; `LlamaModel.permute` of llama.cpp's
//! `convert_hf_to_gguf.py` for the rows. For architecture `llama` alone, the converter reorders the
//! rows of the query and key projections, head by head, from halves (Hugging Face rotates value `j`
//! together with `j + head_dim / 2`) to adjacent pairs (ggml rotates `2j` with `2j + 1`). Here
//! the order is put back, so that models see one convention, and made again in what is written. Whole rows move, never values inside
//! a row, so it works on the stored blocks of any format.

use std::borrow::Cow;
use std::path::Path;

use crate::formats::{FormatError, RawTensor, Result};

/// Whole names.
const NAMES: [(&str, &str); 3] = [
    ("model.embed_tokens.weight", "token_embd.weight"),
    ("model.norm.weight", "output_norm.weight"),
    ("lm_head.weight", "output.weight"),
];

/// Parts of a layer, between `model.layers.N.` or `blk.N.` and `.weight` or `.bias`.
const LAYER: [(&str, &str); 11] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", Q),
    ("self_attn.k_proj", K),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];
const Q: &str = "attn_q";
const K: &str = "attn_k";

/// Tensors that Hugging Face does not have: asked for by llama.cpp's name.
const SAME: [&str; 3] =
    ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];

/// GGUF's `general.architecture` of models that transformers calls `model_type`: llama.cpp converts a
/// Mistral to a Llama.
pub(crate) fn architecture(model_type: &str) -> &str {
    if model_type == "mistral" { "llama" } else { model_type }
}

/// What the file calls the tensor that Hugging Face calls `name`; `None` if it has no name for it.
///
/// llama.cpp's own names are not accepted (except the rotary factors): a query weight fetched that
/// way would have its rows in the other order.
pub(crate) fn file_name(name: &str) -> Option<Cow<'static, str>> {
    if let Some(same) = SAME.into_iter().find(|same| *same == name) {
        return Some(same.into());
    }
    if let Some((_, file)) = NAMES.into_iter().find(|(hf, _)| *hf == name) {
        return Some(file.into());
    }
    let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (part, suffix) = part.rsplit_once('.')?;
    if !is_number(layer) || !matches!(suffix, "weight" | "bias") {
        return None;
    }
    let (_, part) = LAYER.into_iter().find(|(hf, _)| *hf == part)?;
    Some(format!("blk.{layer}.{part}.{suffix}").into())
}

/// What Hugging Face calls the tensor that the file calls `name`: the reverse of [`file_name`].
pub(crate) fn model_name(name: &str) -> Option<Cow<'static, str>> {
    if let Some(same) = SAME.into_iter().find(|same| *same == name) {
        return Some(same.into());
    }
    if let Some((hf, _)) = NAMES.into_iter().find(|(_, file)| *file == name) {
        return Some(hf.into());
    }
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    let (part, suffix) = part.rsplit_once('.')?;
    if !is_number(layer) || !matches!(suffix, "weight" | "bias") {
        return None;
    }
    let (part, _) = LAYER.into_iter().find(|(_, file)| *file == part)?;
    Some(format!("model.layers.{layer}.{part}.{suffix}").into())
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// How llama.cpp's converter reordered the query and key rows of this file, if it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Permutation {
    heads: usize,
    kv_heads: usize,
}

impl Permutation {
    /// The permutation for `architecture`, given its numbers of heads.
    pub(crate) fn of(architecture: &str, heads: usize, kv_heads: usize) -> Option<Self> {
        (architecture == "llama").then_some(Self { heads, kv_heads })
    }

    /// How many heads the tensor that the file calls `name` has, if its rows are reordered.
    fn heads_of(self, name: &str) -> Option<usize> {
        let mut parts = name.strip_prefix("blk.")?.split('.').skip(1);
        match parts.next()? {
            Q => Some(self.heads),
            K => Some(self.kv_heads),
            _ => None,
        }
    }

    /// `tensor`, which the file at `path` calls `name`, with its rows in Hugging Face's order.
    pub(crate) fn undo(self, path: &Path, name: &str, tensor: RawTensor) -> Result<RawTensor> {
        self.reorder(path, name, tensor, halves_from_pairs)
    }

    /// `tensor` with its rows as the file at `path`, which calls it `name`, shall have them.
    pub(crate) fn apply(self, path: &Path, name: &str, tensor: RawTensor) -> Result<RawTensor> {
        self.reorder(path, name, tensor, pairs_from_halves)
    }

    fn reorder(
        self,
        path: &Path,
        name: &str,
        tensor: RawTensor,
        order: fn(&[u8], usize, usize) -> Vec<u8>,
    ) -> Result<RawTensor> {
        let Some(heads) = self.heads_of(name) else { return Ok(tensor) };
        let RawTensor { shape, encoding, .. } = &tensor;
        let bad = |expected: String| FormatError::BadTensor {
            path: path.to_path_buf(),
            tensor: name.to_owned(),
            expected,
            found: format!("{} of shape {shape:?}", encoding.name()),
        };
        // A bias is a column: its rows are single values, which blocks do not have.
        let (rows, columns) = match shape[..] {
            [rows, columns] => (rows, columns),
            [rows] => (rows, 1),
            _ => return Err(bad("one or two dimensions".to_owned())),
        };
        let row_bytes = encoding
            .bytes_for(columns)
            .filter(|&row| row > 0)
            .ok_or_else(|| bad("a storage type whose rows can be told apart".to_owned()))?;
        let head_dim = rows
            .checked_div(heads)
            .filter(|head_dim| rows == head_dim * heads && head_dim.is_multiple_of(2))
            .ok_or_else(|| bad(format!("rows for {heads} heads of an even size")))?;
        let bytes = order(&tensor.bytes, row_bytes, head_dim).into();
        Ok(RawTensor { bytes, ..tensor })
    }
}

/// Reorders the rows of each head of `head_dim` rows: first those at even places, then the odd.
fn halves_from_pairs(bytes: &[u8], row_bytes: usize, head_dim: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for head in bytes.chunks_exact(row_bytes * head_dim) {
        for parity in 0..2 {
            for row in head.chunks_exact(row_bytes).skip(parity).step_by(2) {
                out.extend_from_slice(row);
            }
        }
    }
    out
}

/// The reverse: the rows of the halves in turn.
fn pairs_from_halves(bytes: &[u8], row_bytes: usize, head_dim: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for head in bytes.chunks_exact(row_bytes * head_dim) {
        let (first, second) = head.split_at(head.len() / 2);
        for (a, b) in first.chunks_exact(row_bytes).zip(second.chunks_exact(row_bytes)) {
            out.extend_from_slice(a);
            out.extend_from_slice(b);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_llama_cpp() {
        for (hf, file) in [
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("model.norm.weight", "output_norm.weight"),
            ("lm_head.weight", "output.weight"),
            ("rope_freqs.weight", "rope_freqs.weight"),
            ("model.layers.0.input_layernorm.weight", "blk.0.attn_norm.weight"),
            ("model.layers.17.self_attn.q_proj.bias", "blk.17.attn_q.bias"),
            ("model.layers.2.self_attn.o_proj.weight", "blk.2.attn_output.weight"),
            ("model.layers.2.post_attention_layernorm.weight", "blk.2.ffn_norm.weight"),
            ("model.layers.2.mlp.down_proj.weight", "blk.2.ffn_down.weight"),
        ] {
            assert_eq!(file_name(hf).as_deref(), Some(file));
            assert_eq!(model_name(file).as_deref(), Some(hf));
        }
        for none in [
            "blk.0.attn_q.weight",
            "token_embd.weight",
            "model.layers.x.self_attn.q_proj.weight",
            "model.layers..self_attn.q_proj.weight",
            "model.layers.0.self_attn.q_proj.scales",
            "model.layers.0.weight",
            "",
        ] {
            assert_eq!(file_name(none), None, "{none}");
        }
    }

    #[test]
    fn only_llama_queries_and_keys_are_permuted() {
        let permutation = Permutation::of("llama", 4, 2).unwrap();
        assert_eq!(permutation.heads_of("blk.3.attn_q.weight"), Some(4));
        assert_eq!(permutation.heads_of("blk.3.attn_k.bias"), Some(2));
        assert_eq!(permutation.heads_of("blk.3.attn_v.weight"), None);
        assert_eq!(permutation.heads_of("blk.3.attn_q_norm.weight"), None);
        assert_eq!(permutation.heads_of("token_embd.weight"), None);
        assert_eq!(Permutation::of("qwen2", 4, 2), None);
    }

    #[test]
    fn rows_move_whole() {
        // Two heads of four rows of two bytes, as the converter writes them: pairs (0,2), (1,3).
        let pairs = [0, 0, 2, 2, 1, 1, 3, 3, 10, 10, 12, 12, 11, 11, 13, 13];
        let halves = [0, 0, 1, 1, 2, 2, 3, 3, 10, 10, 11, 11, 12, 12, 13, 13];
        assert_eq!(halves_from_pairs(&pairs, 2, 4), halves);
        assert_eq!(pairs_from_halves(&halves, 2, 4), pairs);
    }
}
