//! The pre-norm decoder that the architectures here share: rotary grouped-query attention and a
//! gated feed-forward block, each behind a norm and added to the stream (Touvron et al., 2023).
//! What differs between architectures is in their configurations.

use burn::{
    module::Module,
    tensor::{DType, Tensor},
};

use super::{Cache, DecoderConfig, HiddenState, LogitRows, ModelError, Observer, TokenBatch};
use crate::{
    backend::{AttentionOptions, Backend, CacheError, RopeOrder, RotaryStep},
    nn::{
        Active, Attention, Embedding, Linear, LoadError, RmsNorm, RopeFrequencies, RopeScaling,
        Stream, SwiGluMlp, Weights,
    },
};

/// One layer.
#[derive(Module, Debug)]
struct Block<B: Backend> {
    attention_norm: RmsNorm<B>,
    attention: Attention<B>,
    mlp_norm: RmsNorm<B>,
    mlp: SwiGluMlp<B>,
}

impl<B: Backend> Block<B> {
    fn load(weights: &Weights<'_, B>, config: &DecoderConfig) -> Result<Self, LoadError> {
        let norm =
            |name: &str| RmsNorm::load(&weights.at(name), config.hidden, config.norm_epsilon);
        Ok(Self {
            attention_norm: norm("input_layernorm")?,
            attention: Attention::load(&weights.at("self_attn"), config.attention())?,
            mlp_norm: norm("post_attention_layernorm")?,
            mlp: SwiGluMlp::load(&weights.at("mlp"), config.hidden, config.intermediate)?,
        })
    }

    fn forward(
        &self,
        stream: &mut Stream<B>,
        step: &RotaryStep<B>,
        cache: Option<&mut B::KvCache>,
        adapters: &Active<'_, B>,
    ) -> Result<(), ModelError> {
        self.attention.forward(&self.attention_norm, stream, step, cache, adapters)?;
        Ok(self.mlp.forward(&self.mlp_norm, stream, adapters)?)
    }
}

/// The tensors of a decoder.
#[derive(Module, Debug)]
struct Layers<B: Backend> {
    embedding: Embedding<B>,
    blocks: Vec<Block<B>>,
    norm: RmsNorm<B>,
}

/// A decoder on a device, without what a head makes of its hidden states.
#[derive(Clone, Debug)]
pub(super) struct Decoder<B: Backend> {
    layers: Layers<B>,
    config: DecoderConfig,
    rope: RopeFrequencies,
    dtype: DType,
    device: B::Device,
}

impl<B: Backend> Decoder<B> {
    /// Reads `model.*` of a checkpoint.
    pub(super) fn load(
        weights: &Weights<'_, B>,
        config: DecoderConfig,
        dtype: DType,
        device: &B::Device,
    ) -> Result<Self, LoadError> {
        let model = weights.at("model");
        let embedding =
            Embedding::load(&model.at("embed_tokens"), config.vocabulary, config.hidden)?;
        let blocks = (0..config.layers)
            .map(|i| Block::load(&model.at(format_args!("layers.{i}")), &config))
            .collect::<Result<_, _>>()?;
        let norm = RmsNorm::load(&model.at("norm"), config.hidden, config.norm_epsilon)?;
        let rope = rope_frequencies(weights, &config)?;
        let layers = Layers { embedding, blocks, norm };
        Ok(Self { layers, config, rope, dtype, device: device.clone() })
    }

    pub(super) fn config(&self) -> &DecoderConfig {
        &self.config
    }

    pub(super) fn device(&self) -> &B::Device {
        &self.device
    }

    pub(super) fn dtype(&self) -> DType {
        self.dtype
    }

    /// An output layer at the path of `weights`, tied to the token embedding.
    pub(super) fn tied_output(&self, weights: &Weights<'_, B>) -> Linear<B> {
        Linear::tied(weights, self.layers.embedding.weight())
    }

    /// What an output layer makes of the final norm: `[batch · positions, outputs]`, of the positions
    /// that `rows` keeps.
    pub(super) fn forward(
        &self,
        tokens: &TokenBatch,
        mut cache: Option<&mut Cache<B>>,
        rows: LogitRows,
        mut observer: Option<&mut Observer<'_, B>>,
        adapters: &Active<'_, B>,
        output: &Linear<B>,
    ) -> Result<Tensor<B, 2>, ModelError> {
        let steps = self.begin(tokens, cache.as_deref())?;
        let mut show = |state, sum: &dyn Fn() -> Tensor<B, 2>| {
            observe(&mut observer, state, sum, tokens.batch());
        };
        let activations = B::activation_dtype(self.dtype);
        let ids = tokens.ids();
        let embedded = self.layers.embedding.forward(ids, &self.device, activations, adapters)?;
        let mut stream = Stream::new(embedded);
        show(HiddenState::Embedding, &|| stream.sum());
        for (i, block) in self.layers.blocks.iter().enumerate() {
            let cache = cache.as_deref_mut().map(|cache| cache.layer_mut(i));
            block.forward(&mut stream, steps.of(i), cache, adapters)?;
            show(HiddenState::Layer(i), &|| stream.sum());
        }
        let mut kept = stream.map(|x| select_rows(x, tokens, rows));
        if observer.is_none() {
            return Ok(output.of_norm(&self.layers.norm, &mut kept, adapters)?);
        }
        let normed = kept.normed(&self.layers.norm);
        observe(&mut observer, HiddenState::FinalNorm, &|| normed.clone(), tokens.batch());
        Ok(output.forward(normed, adapters)?)
    }

    /// Whether all tokens are in the vocabulary.
    pub(super) fn knows(&self, tokens: &TokenBatch) -> bool {
        self.unknown(tokens).is_none()
    }

    fn unknown(&self, tokens: &TokenBatch) -> Option<u32> {
        tokens.ids().iter().copied().find(|&id| id as usize >= self.config.vocabulary)
    }

    /// Checks the tokens and the cache, and puts positions on the device.
    fn begin(&self, tokens: &TokenBatch, cache: Option<&Cache<B>>) -> Result<Steps<B>, ModelError> {
        if let Some(token) = self.unknown(tokens) {
            return Err(ModelError::Token { token, vocabulary: self.config.vocabulary });
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
        let [cos, sin] = self.rope.cos_sin::<B>(&positions, rows, &self.device);
        let options = AttentionOptions {
            causal: true,
            left_padding: padded.then(|| padding.to_vec()),
            ..AttentionOptions::default()
        };
        let order = RopeOrder::HalfSplit;
        let steps = Steps::new(RotaryStep { batch, len, cos, sin, order, options }, &self.config);
        if let Some(cache) = cache {
            steps.used(self.config.layers).for_each(|step| cache.prepare(self.config.heads, step));
        }
        Ok(steps)
    }
}

/// What the layers' attention shares: those before the sliding window begins, and those after.
struct Steps<B: Backend> {
    full: RotaryStep<B>,
    /// The first layer with the window, and its step.
    sliding: Option<(usize, RotaryStep<B>)>,
}

impl<B: Backend> Steps<B> {
    fn new(full: RotaryStep<B>, config: &DecoderConfig) -> Self {
        let sliding = config.window.map(|window| {
            let mut step = full.clone();
            step.options.window = Some(window.size);
            (window.first_layer, step)
        });
        Self { full, sliding }
    }

    fn of(&self, layer: usize) -> &RotaryStep<B> {
        match &self.sliding {
            Some((first, step)) if layer >= *first => step,
            _ => &self.full,
        }
    }

    /// Those that any of so many layers takes.
    fn used(&self, layers: usize) -> impl Iterator<Item = &RotaryStep<B>> {
        let (first, sliding) = match &self.sliding {
            Some((first, step)) if *first < layers => (*first, Some(step)),
            _ => (layers, None),
        };
        (first > 0).then_some(&self.full).into_iter().chain(sliding)
    }
}

/// The rotary frequencies: a GGUF file's `rope_freqs.weight` wins over the configuration, since
/// llama.cpp writes there what the configuration said.
fn rope_frequencies<B: Backend>(
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

/// Shows a state to whoever observes. It is made only then.
fn observe<B: Backend>(
    observer: &mut Option<&mut Observer<'_, B>>,
    state: HiddenState,
    x: &dyn Fn() -> Tensor<B, 2>,
    batch: usize,
) {
    let Some(observer) = observer else { return };
    let x = x();
    let [rows, hidden] = x.dims();
    observer(state, x.reshape([batch, rows / batch, hidden]));
}

/// Keeps the rows that are asked for.
fn select_rows<B: Backend>(x: Tensor<B, 2>, tokens: &TokenBatch, rows: LogitRows) -> Tensor<B, 2> {
    let (batch, len) = (tokens.batch(), tokens.len());
    match rows {
        LogitRows::Last if len > 1 => {
            let hidden = x.dims()[1];
            x.reshape([batch, len, hidden]).narrow(1, len - 1, 1).reshape([batch, hidden])
        }
        _ => x,
    }
}
