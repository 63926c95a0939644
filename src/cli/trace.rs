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
        match device {
            Device::Wgpu { device, .. } => Ok(Self { recorder, kernels: Kernels::of(device) }),
            other => {
                let other = other.describe();
                Err(format!("--trace-kernels: {other} launches no kernels; use a wgpu device")
                    .into())
            }
        }
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
