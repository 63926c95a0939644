//! Llama 2 and 3.x (Touvron et al., 2023; Llama team, 2024), and what shares their checkpoints'
//! layout: pre-norm decoder, rotary grouped-query attention, `SwiGLU`.

use burn::{
    module::Module,
    tensor::{DType, Tensor},
};

use super::{
    Cache, CausalLm, DecoderConfig, HiddenState, LogitRows, ModelError, Observer, TokenBatch,
    decoder,
};
use crate::{
    backend::{Backend, RotaryStep},
    nn::{
        Active, Attention, Embedding, Linear, LoadError, RmsNorm, RopeFrequencies, SwiGluMlp,
        Weights,
    },
};

/// One decoder layer.
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

    /// The stream and what is to be added to it, before the layer and after.
    fn forward(
        &self,
        (x, add): (Tensor<B, 2>, Option<Tensor<B, 2>>),
        step: &RotaryStep<B>,
        cache: Option<&mut B::KvCache>,
    ) -> Result<(Tensor<B, 2>, Option<Tensor<B, 2>>), ModelError> {
        let [x, normed] = self.attention_norm.forward_after(x, add);
        let attended = self.attention.forward(normed, step, cache, &Active::NONE)?;
        let [x, normed] = self.mlp_norm.forward_after(x, Some(attended));
        Ok((x, Some(self.mlp.forward(normed, &Active::NONE)?)))
    }
}

/// The tensors of a Llama.
#[derive(Module, Debug)]
struct Layers<B: Backend> {
    embedding: Embedding<B>,
    blocks: Vec<Block<B>>,
    norm: RmsNorm<B>,
    output: Linear<B>,
}

/// A Llama on a device.
#[derive(Clone, Debug)]
pub struct Llama<B: Backend> {
    layers: Layers<B>,
    config: DecoderConfig,
    rope: RopeFrequencies,
    dtype: DType,
    device: B::Device,
}

impl<B: Backend> Llama<B> {
    /// Reads the tensors of a checkpoint.
    ///
    /// # Errors
    /// [`ModelError`] when a tensor is missing, has another shape or does not fit the device.
    pub fn load(
        weights: &Weights<'_, B>,
        config: DecoderConfig,
        dtype: DType,
        device: &B::Device,
    ) -> Result<Self, ModelError> {
        let model = weights.at("model");
        let embedding =
            Embedding::load(&model.at("embed_tokens"), config.vocabulary, config.hidden)?;
        let blocks = (0..config.layers)
            .map(|i| Block::load(&model.at(format_args!("layers.{i}")), &config))
            .collect::<Result<_, _>>()?;
        let norm = RmsNorm::load(&model.at("norm"), config.hidden, config.norm_epsilon)?;
        let output = if config.tied {
            Linear::tied(&weights.at("lm_head"), embedding.weight())
        } else {
            Linear::load(&weights.at("lm_head"), config.hidden, config.vocabulary)?
        };
        let rope = decoder::rope_frequencies(weights, &config)?;
        let layers = Layers { embedding, blocks, norm, output };
        Ok(Self { layers, config, rope, dtype, device: device.clone() })
    }
}

impl<B: Backend> CausalLm<B> for Llama<B> {
    fn config(&self) -> &DecoderConfig {
        &self.config
    }

    fn device(&self) -> &B::Device {
        &self.device
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn forward_observed(
        &self,
        tokens: &TokenBatch,
        mut cache: Option<&mut Cache<B>>,
        rows: LogitRows,
        mut observer: Option<&mut Observer<'_, B>>,
    ) -> Result<Tensor<B, 3>, ModelError> {
        let device = &self.device;
        let step =
            decoder::begin(&self.config, &self.rope, tokens, cache.as_deref(), None, device)?;
        let mut show = |state, x: &Tensor<B, 2>, add: Option<&Tensor<B, 2>>| {
            decoder::observe(&mut observer, state, x, add, tokens.batch());
        };
        let activations = B::activation_dtype(self.dtype);
        let mut x = (
            self.layers.embedding.forward(tokens.ids(), device, activations, &Active::NONE)?,
            None,
        );
        show(HiddenState::Embedding, &x.0, None);
        for (i, block) in self.layers.blocks.iter().enumerate() {
            let cache = cache.as_deref_mut().map(|cache| cache.layer_mut(i));
            x = block.forward(x, &step, cache)?;
            show(HiddenState::Layer(i), &x.0, x.1.as_ref());
        }
        let select = |x| decoder::select_rows(x, tokens, rows);
        let [_, normed] = self.layers.norm.forward_after(select(x.0), x.1.map(select));
        show(HiddenState::FinalNorm, &normed, None);
        Ok(decoder::finish(self.layers.output.forward(normed, &Active::NONE)?, tokens, rows))
    }
}
