//! How well a model predicts a text, and how far it is from another model on it: what tells what a
//! quantised model has lost.
//!
//! As llama.cpp's `llama-perplexity` does it, so that numbers can be compared: the text is cut into
//! windows of equal length, without overlap; the first token of each becomes the beginning-of-text
//! token if the tokenizer writes one; and only the second half of a window counts, so that every
//! prediction has at least half a window before it.

mod base;
mod divergence;
mod error;
mod mean;
mod windows;

use rayon::prelude::*;

pub use base::{Base, BaseFile, BaseModel, BaseWriter};
pub use divergence::Divergence;
pub use error::EvaluationError;
pub use mean::Mean;
pub use windows::Windows;

use crate::{
    backend::Backend,
    models::{CausalLm, LogitRows, TokenBatch},
};

/// What an evaluation found.
#[derive(Clone, Debug, Default)]
pub struct Evaluation {
    /// Negative log-likelihoods of the tokens that counted, natural logarithm.
    pub nll: Mean,
    /// The distance from the base, if there is one.
    pub divergence: Option<Divergence>,
}

impl Evaluation {
    /// `exp` of the mean negative log-likelihood.
    pub fn perplexity(&self) -> f64 {
        self.nll.value().exp()
    }

    /// Its standard error, to first order.
    pub fn perplexity_error(&self) -> f64 {
        self.perplexity() * self.nll.error()
    }
}

/// Evaluates a model window by window, against `base` if there is one, and calls `on_window` with
/// what has been found so far after each. With `writer`, the model's predictions are written down as
/// a base for others.
///
/// # Errors
/// [`EvaluationError`] when a model or a file fails, or the base is of other windows.
pub fn evaluate<B: Backend>(
    model: &dyn CausalLm<B>,
    windows: &Windows,
    mut base: Option<&mut dyn Base>,
    mut writer: Option<&mut BaseWriter>,
    mut on_window: impl FnMut(&Evaluation),
) -> Result<Evaluation, EvaluationError> {
    let mut found =
        Evaluation { divergence: base.is_some().then(Divergence::default), ..Default::default() };
    for (i, window) in windows.iter().enumerate() {
        let predicted = predictions(model, &window, windows.first_counted())?;
        let targets = &window[windows.first_counted() + 1..];
        found.nll.extend(predicted.losses(targets));
        if let Some(writer) = writer.as_deref_mut() {
            writer.window(&predicted)?;
        }
        if let (Some(base), Some(divergence)) = (base.as_deref_mut(), &mut found.divergence) {
            let expected = base.predictions(i, &window, windows.first_counted())?;
            if expected.vocabulary() != predicted.vocabulary() {
                return Err(EvaluationError::Vocabulary {
                    base: expected.vocabulary(),
                    model: predicted.vocabulary(),
                });
            }
            divergence.add(&expected, &predicted, targets);
        }
        on_window(&found);
    }
    Ok(found)
}

/// Log-probabilities of the next token, one row for each position that counts.
#[derive(Clone, Debug)]
pub struct Predictions {
    values: Vec<f32>,
    vocabulary: usize,
}

impl Predictions {
    /// From logits, row by row.
    fn from_logits(mut values: Vec<f32>, vocabulary: usize) -> Self {
        values.par_chunks_mut(vocabulary).for_each(|row| {
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = row.iter().map(|&v| f64::from(v - largest).exp()).sum();
            let norm = f64::from(largest) + sum.ln();
            for value in row {
                *value = (f64::from(*value) - norm) as f32;
            }
        });
        Self { values, vocabulary }
    }

    /// Tokens there are.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// The rows, in the order of the positions.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.vocabulary)
    }

    fn losses<'a>(&'a self, targets: &'a [u32]) -> impl Iterator<Item = f64> + 'a {
        self.rows().zip(targets).map(|(row, &target)| -f64::from(row[target as usize]))
    }
}

/// What a model says about the next token at each position from `first` on but the last.
fn predictions<B: Backend>(
    model: &dyn CausalLm<B>,
    window: &[u32],
    first: usize,
) -> Result<Predictions, EvaluationError> {
    let tokens = TokenBatch::new(&[window])?;
    let logits = model.forward(&tokens, None, LogitRows::All)?;
    let [_, positions, vocabulary] = logits.dims();
    let logits = logits.narrow(1, first, positions - 1 - first);
    let data = logits.try_into_data().map_err(|e| EvaluationError::Device(e.to_string()))?;
    let values = data.into_vec().map_err(|e| EvaluationError::Device(format!("{e:?}")))?;
    Ok(Predictions::from_logits(values, vocabulary))
}
