//! What every decoder does before its first and after its last layer.

use burn::tensor::{DType, Tensor};

use super::{Cache, DecoderConfig, HiddenState, LogitRows, ModelError, Observer, TokenBatch};
use crate::{
    backend::{AttentionOptions, Backend, CacheError, RopeOrder, RotaryStep},
    nn::{LoadError, RopeFrequencies, RopeScaling, Weights},
};

/// The rotary frequencies: a GGUF file's `rope_freqs.weight` wins over the configuration, since
/// llama.cpp writes there what the configuration said.
pub(super) fn rope_frequencies<B: Backend>(
    weights: &Weights<'_, B>,
    config: &DecoderConfig,
) -> Result<RopeFrequencies, LoadError> {
    let name = "rope_freqs.weight";
    let factors = if weights.contains(name) {
        Some(RopeScaling::Factors(weights.host(name, &[config.head_dim / 2])?))
    } else {
        None
    };
    let scaling = factors.as_ref().or(config.rope_scaling.as_ref());
    Ok(RopeFrequencies::new(config.head_dim, config.rope_theta, scaling))
}

/// Checks the tokens and the cache, and puts positions on the device.
pub(super) fn begin<B: Backend>(
    config: &DecoderConfig,
    rope: &RopeFrequencies,
    tokens: &TokenBatch,
    cache: Option<&Cache<B>>,
    window: Option<usize>,
    device: &B::Device,
) -> Result<RotaryStep<B>, ModelError> {
    if let Some(&token) = tokens.ids().iter().find(|&&id| id as usize >= config.vocabulary) {
        return Err(ModelError::Token { token, vocabulary: config.vocabulary });
    }
    let (batch, len) = (tokens.batch(), tokens.len());
    let past = cache.map_or(0, Cache::len);
    let padding = match cache {
        Some(cache) => {
            if cache.batch() != batch {
                return Err(ModelError::Batch { cache: cache.batch(), tokens: batch });
            }
            // Here, so that no layer is written before another one refuses.
            if past + len > cache.capacity() {
                let (capacity, new) = (cache.capacity(), len);
                return Err(CacheError::Full { len: past, capacity, new }.into());
            }
            cache.left_padding()
        }
        None => tokens.left_padding(),
    };
    let padded = padding.iter().any(|&p| p > 0);
    let rows = if padded { batch } else { 1 };
    let positions: Vec<u32> = (0..rows)
        .flat_map(|row| {
            let pad = padding.get(row).copied().unwrap_or(0);
            (past..past + len).map(move |p| p.saturating_sub(pad) as u32)
        })
        .collect();
    let [cos, sin] = rope.cos_sin::<B>(&positions, rows, device);
    let options = AttentionOptions {
        causal: true,
        window,
        left_padding: padded.then(|| padding.to_vec()),
        ..AttentionOptions::default()
    };
    let order = RopeOrder::HalfSplit;
    let step = RotaryStep { batch, len, cos, sin, order, options };
    if let Some(cache) = cache {
        cache.prepare(config.heads, &step);
    }
    Ok(step)
}

/// Shows the stream, with what is still to be added to it, to whoever observes. The sum is made
/// only then: the next norm makes its own.
pub(super) fn observe<B: Backend>(
    observer: &mut Option<&mut Observer<'_, B>>,
    state: HiddenState,
    x: &Tensor<B, 2>,
    add: Option<&Tensor<B, 2>>,
    batch: usize,
) {
    let Some(observer) = observer else { return };
    let x = add.map_or_else(|| x.clone(), |add| x.clone() + add.clone());
    let [rows, hidden] = x.dims();
    observer(state, x.reshape([batch, rows / batch, hidden]));
}

/// Keeps the rows that logits are wanted for.
pub(super) fn select_rows<B: Backend>(
    x: Tensor<B, 2>,
    tokens: &TokenBatch,
    rows: LogitRows,
) -> Tensor<B, 2> {
    let (batch, len) = (tokens.batch(), tokens.len());
    match rows {
        LogitRows::Last if len > 1 => {
            let hidden = x.dims()[1];
            x.reshape([batch, len, hidden]).narrow(1, len - 1, 1).reshape([batch, hidden])
        }
        _ => x,
    }
}

/// Logits as `[batch, rows, vocabulary]` in f32.
pub(super) fn finish<B: Backend>(
    logits: Tensor<B, 2>,
    tokens: &TokenBatch,
    rows: LogitRows,
) -> Tensor<B, 3> {
    let vocabulary = logits.dims()[1];
    let rows = match rows {
        LogitRows::Last => 1,
        LogitRows::All => tokens.len(),
    };
    let logits = if logits.dtype() == DType::F32 { logits } else { logits.cast(DType::F32) };
    logits.reshape([tokens.batch(), rows, vocabulary])
}
