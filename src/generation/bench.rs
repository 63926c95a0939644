//! How fast a model is: prompts and single tokens, by the names that llama.cpp's `llama-bench` uses.

use std::time::Instant;

use super::{
    GenerateError, Sampler, SamplingOptions,
    tokens::{Tokens, last_logits},
};
use crate::{backend::Backend, models::CausalLm};

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// So many tokens at once.
    Prompt(usize),
    /// So many tokens one after the other: the likeliest each time, which is read back and run.
    Generate(usize),
}

impl Task {
    /// Tokens.
    pub fn tokens(self) -> usize {
        match self {
            Self::Prompt(tokens) | Self::Generate(tokens) => tokens,
        }
    }
}

impl std::fmt::Display for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Prompt(tokens) => write!(f, "pp{tokens}"),
            Self::Generate(tokens) => write!(f, "tg{tokens}"),
        }
    }
}

/// How fast it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Speed {
    /// Tokens per second of each repetition.
    pub samples: Vec<f64>,
}

impl Speed {
    /// The mean of the samples.
    pub fn mean(&self) -> f64 {
        self.samples.iter().sum::<f64>() / self.samples.len().max(1) as f64
    }

    /// Their standard deviation; 0 for a single one.
    pub fn deviation(&self) -> f64 {
        let mean = self.mean();
        let squares: f64 = self.samples.iter().map(|s| (s - mean) * (s - mean)).sum();
        (squares / self.samples.len().saturating_sub(1).max(1) as f64).sqrt()
    }
}

/// Runs a task once, behind `depth` tokens that are in the cache, and gives the tokens per second.
///
/// # Errors
/// [`GenerateError`] when the model has too few positions, or fails.
pub fn time<B: Backend>(
    model: &dyn CausalLm<B>,
    task: Task,
    depth: usize,
) -> Result<f64, GenerateError> {
    let (config, tokens) = (model.config(), task.tokens());
    let all = depth.saturating_add(tokens);
    if all > config.context {
        return Err(GenerateError::Context { prompt: all, context: config.context });
    }
    // Any tokens do, as long as they are not all the same.
    let ids: Vec<u32> =
        (0..all as u64).map(|i| (i * 7919 % config.vocabulary as u64) as u32).collect();
    let (before, ids) = ids.split_at(depth);
    let mut cache = model.new_cache(&[0], all);
    if !before.is_empty() {
        B::read(last_logits(model, before, &mut cache)?).map_err(GenerateError::Device)?;
    }
    let start;
    match task {
        Task::Prompt(_) => {
            start = Instant::now();
            let logits = last_logits(model, ids, &mut cache)?;
            B::read(logits).map_err(GenerateError::Device)?;
        }
        Task::Generate(_) => {
            let sampler = Sampler::new(&SamplingOptions::default())?;
            let mut generated = Tokens::behind(model, cache, &ids[..tokens.min(1)], sampler);
            start = Instant::now();
            for i in 1..=tokens {
                generated.next(&[], tokens - i)?;
            }
        }
    }
    Ok(tokens as f64 / start.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_deviation() {
        let speed = Speed { samples: vec![1.0, 2.0, 4.0, 5.0] };
        assert!((speed.mean() - 3.0).abs() < 1e-12);
        assert!((speed.deviation() - (10.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert!(Speed { samples: vec![7.0] }.deviation().abs() < 1e-12);
    }
}
