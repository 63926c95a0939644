//! Llama 2 and 3.x (Touvron et al., 2023; Llama team, 2024), and what shares their checkpoints'
//! layout.

use super::{DecoderConfig, ModelError, config::Keys};

/// `LlamaConfig` of transformers.
pub(super) fn config(keys: &Keys<'_>) -> Result<DecoderConfig, ModelError> {
    let qkv_bias = keys.flag("attention_bias", false)?;
    Ok(DecoderConfig { qkv_bias, ..DecoderConfig::shared(keys)? })
}
