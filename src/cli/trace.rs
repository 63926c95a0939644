//! `--trace-kernels`: what one decode step launches.

use std::sync::Arc;

use metal_candle::{
    Backend, Device,
    dispatch::{Kernels, Recorder},
    models::{CausalLm, LogitRows, TokenBatch},
};

use super::Failure;

/// Starts recording, into a file that belongs to this process.
pub fn install() -> Result<Recorder, Failure> {
    let name = format!("metal-candle-launches-{}", std::process::id());
    Ok(Recorder::install(std::env::temp_dir().join(name))?)
}

/// A decode step to be recorded.
pub struct Step {
    recorder: Recorder,
    kernels: Arc<Kernels>,
}

impl Step {
    pub fn new(recorder: Recorder, device: &Device) -> Result<Self, Failure> {
        let Some(kernels) = device.kernels() else {
            let device = device.describe();
            return Err(format!("--trace-kernels: {device} launches no kernels; use a GPU").into());
        };
        Ok(Self { recorder, kernels })
    }

    /// Runs a prompt and two steps of its own, and prints what the second launches, in order, with
    /// equal neighbours counted.
    pub fn print<B: Backend>(
        mut self,
        model: &dyn CausalLm<B>,
        prompt: &[u32],
    ) -> Result<(), Failure> {
        let mut cache = model.new_cache(&[0], prompt.len() + 2);
        let mut launches = Vec::new();
        for tokens in [prompt, &prompt[..1], &prompt[..1]] {
            let batch = TokenBatch::new(&[tokens])?;
            model.forward(&batch, Some(&mut cache), LogitRows::Last)?.into_data();
            launches = self.recorder.take(&self.kernels)?;
        }
        eprintln!("one decode step: {} launches", launches.len());
        for same in launches.chunk_by(|a, b| a == b) {
            eprintln!(
                "  {:>3} x {:<13} {}",
                same.len(),
                same[0].origin.to_string(),
                same[0].kernel
            );
        }
        Ok(())
    }
}
