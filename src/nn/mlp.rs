//! The gated feed-forward block of Llama and its relatives.

use burn::module::Module;

use super::{Active, Linear, Linears, LoadError, RmsNorm, Stream, Weights};
use crate::backend::{Backend, PackError};

/// `down(silu(gate(x)) · up(x))`.
#[derive(Module, Debug)]
pub struct SwiGluMlp<B: Backend> {
    gate_up: Linears<B>,
    down: Linear<B>,
}

impl<B: Backend> SwiGluMlp<B> {
    /// Reads `gate_proj`, `up_proj` and `down_proj` below the path.
    ///
    /// # Errors
    /// [`LoadError`] when a tensor is missing or has another shape.
    pub fn load(
        weights: &Weights<'_, B>,
        hidden: usize,
        intermediate: usize,
    ) -> Result<Self, LoadError> {
        Ok(Self {
            gate_up: Linears::load(
                weights,
                hidden,
                &[("gate_proj", intermediate), ("up_proj", intermediate)],
                false,
            )?,
            down: Linear::load(&weights.at("down_proj"), intermediate, hidden)?,
        })
    }

    /// Adds to the stream what the block makes of its norm.
    ///
    /// # Errors
    /// [`PackError`] where the backend cannot use packed weights.
    pub fn forward(
        &self,
        norm: &RmsNorm<B>,
        stream: &mut Stream<B>,
        adapters: &Active<'_, B>,
    ) -> Result<(), PackError> {
        let gated = self.gate_up.gated(norm, stream, adapters)?;
        self.down.add_to(stream, gated, adapters)
    }
}
