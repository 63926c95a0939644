//! Which token comes next: a chain of steps over the logits, then a draw from the softmax of what is left, or its
//! largest.
//!
//! The command line's chain is repeat penalty, temperature, top-k, top-p, min-p ([`SamplingOptions`]); any other can be
//! put together from [`SamplingStep`]s. What each step does is what `transformers` does; the tests compare chains of all
//! of them with numbers made by it.
//!
//! Draws come from `ChaCha8` (`rand_chacha`), one 64-bit number per token, in the order of the ids: the same seed,
//! options and logits give the same tokens on every platform. (The typical-p and eta steps compare with an entropy
//! that goes through the platform's `ln`; a token whose place differs in the last bit there is the exception.)

mod candidates;
mod exp;
mod step;

pub use step::SamplingStep;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{OsRng, RngCore as _, SeedableRng as _, TryRngCore as _};

use candidates::Candidates;
use step::require;

/// Why options are refused, or why no token can be chosen.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplingError {
    /// An option is out of its range.
    #[error("sampling option `{option}`: expected {expected}, found {found}")]
    Option {
        /// Its name.
        option: &'static str,
        /// Its range.
        expected: &'static str,
        /// Its value.
        found: String,
    },
    /// The model gave NaN or +inf.
    #[error("logit of token {id}: expected a finite number or -inf, found {found}")]
    Logit {
        /// The token.
        id: u32,
        /// Its logit.
        found: f32,
    },
    /// Every token is masked, by the model or by the chain.
    #[error("no token can be chosen: all {vocabulary} logits are masked")]
    NothingLeft {
        /// Number of logits.
        vocabulary: usize,
    },
    /// A logit bias is for a token that the model does not have.
    #[error("logit_bias: expected a token below {vocabulary}, found {id}")]
    BiasedId {
        /// The token of the bias.
        id: u32,
        /// Number of logits.
        vocabulary: usize,
    },
    /// The operating system gave no random seed.
    #[error("no random seed from the operating system ({reason}); give one")]
    Seed {
        /// What it said.
        reason: String,
    },
}

/// The options of the command line. The default is greedy.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SamplingOptions {
    /// Divides the logits: below 1 sharper, above 1 flatter. 0 takes the largest logit (greedy), and then only the
    /// repeat penalty of the other options has an effect.
    pub temperature: f32,
    /// Keep so many of the largest logits, at least 1.
    pub top_k: Option<usize>,
    /// Keep the most probable tokens until they reach this probability, above 0, at most 1.
    pub top_p: Option<f32>,
    /// Mask tokens less probable than this fraction of the most probable one, 0 to 1.
    pub min_p: Option<f32>,
    /// Make tokens of the history less likely (above 1) or more likely (below 1); above 0.
    pub repeat_penalty: Option<f32>,
    /// Where the draws start; random when missing, see [`Sampler::seed`].
    pub seed: Option<u64>,
}

/// How the token is taken from what the chain leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    Largest,
    Draw,
}

/// Chooses tokens.
#[derive(Debug, Clone)]
pub struct Sampler {
    steps: Vec<SamplingStep>,
    choice: Choice,
    seed: u64,
    random: ChaCha8Rng,
    candidates: Candidates,
}

impl Sampler {
    /// The chain of the command line: repeat penalty, temperature, top-k, top-p, min-p.
    ///
    /// # Errors
    ///
    /// When an option is NaN or out of its range, also one that greedy choice does not use.
    pub fn new(options: &SamplingOptions) -> Result<Self, SamplingError> {
        let temperature = options.temperature;
        let fine = temperature.is_finite() && temperature >= 0.0;
        let expected = "a finite number, 0 (greedy) or above";
        require(fine, "temperature", expected, &temperature)?;

        let penalty = options.repeat_penalty.map(SamplingStep::RepetitionPenalty);
        let steps = [
            (temperature > 0.0).then_some(SamplingStep::Temperature(temperature)),
            options.top_k.map(SamplingStep::TopK),
            options.top_p.map(SamplingStep::TopP),
            options.min_p.map(SamplingStep::MinP),
        ];
        let chain = penalty.into_iter().chain(steps.into_iter().flatten());
        let mut sampler = Self::from_steps(chain.collect(), options.seed)?;
        if temperature == 0.0 {
            // the other steps never mask the largest logit
            let penalises =
                |step: &SamplingStep| matches!(step, SamplingStep::RepetitionPenalty(_));
            sampler.steps.retain(penalises);
            sampler.choice = Choice::Largest;
        }
        Ok(sampler)
    }

    /// Draws from the softmax that the steps, in this order, leave. The seed is random when missing.
    ///
    /// # Errors
    ///
    /// When a parameter is NaN or out of its range.
    pub fn from_steps(steps: Vec<SamplingStep>, seed: Option<u64>) -> Result<Self, SamplingError> {
        steps.iter().try_for_each(SamplingStep::check)?;
        let seed = match seed {
            Some(seed) => seed,
            None => OsRng
                .try_next_u64()
                .map_err(|error| SamplingError::Seed { reason: error.to_string() })?,
        };
        Ok(Self {
            steps,
            choice: Choice::Draw,
            seed,
            random: ChaCha8Rng::seed_from_u64(seed),
            candidates: Candidates::default(),
        })
    }

    /// The seed in use: the one given, or the one that was drawn in its place.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Whether it takes the largest logit and looks at nothing else.
    pub fn takes_the_largest(&self) -> bool {
        self.choice == Choice::Largest && self.steps.is_empty()
    }

    /// Whether the largest logit of so many, NaN above all, is one that can be chosen.
    pub(super) fn check_largest(
        id: u32,
        logit: f32,
        vocabulary: usize,
    ) -> Result<(), SamplingError> {
        match logit {
            f32::NEG_INFINITY => Err(SamplingError::NothingLeft { vocabulary }),
            found if !found.is_finite() => Err(SamplingError::Logit { id, found }),
            _ => Ok(()),
        }
    }

    /// Chooses the next token from the logits of one position, `[vocabulary]`; -inf masks a token. `history` is what
    /// the penalties look at: the prompt and the tokens so far, as the caller sees fit.
    ///
    /// # Errors
    ///
    /// When a logit is NaN or +inf, or when no token is left to choose.
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> Result<u32, SamplingError> {
        if self.takes_the_largest() {
            return largest(logits);
        }
        run(&self.steps, &mut self.candidates, logits, history)?;
        let vocabulary = logits.len();
        if self.choice == Choice::Largest {
            let best = self.candidates.best();
            return best.map(|best| best.id).ok_or(SamplingError::NothingLeft { vocabulary });
        }
        let drawn = self.candidates.draw(unit(self.random.next_u64()));
        drawn.ok_or(SamplingError::NothingLeft { vocabulary })
    }

    /// The distribution that [`Sampler::sample`] draws from, `[vocabulary]`, masked tokens exactly 0. For a greedy
    /// sampler, 1 at the token it takes. Allocates; meant for inspection and tests.
    ///
    /// # Errors
    ///
    /// As [`Sampler::sample`].
    pub fn probabilities(
        &self,
        logits: &[f32],
        history: &[u32],
    ) -> Result<Vec<f32>, SamplingError> {
        let mut candidates = Candidates::default();
        run(&self.steps, &mut candidates, logits, history)?;
        let vocabulary = logits.len();
        if self.choice == Choice::Largest {
            candidates.list = candidates.best().into_iter().collect();
        }
        let softmax = candidates.softmax().ok_or(SamplingError::NothingLeft { vocabulary })?;
        let mut probabilities = vec![0.0; vocabulary];
        for candidate in &candidates.list {
            #[allow(clippy::cast_possible_truncation)] // rounding to f32 is what is asked for
            let probability = softmax.probability(candidate.logit) as f32;
            probabilities[candidate.id as usize] = probability;
        }
        Ok(probabilities)
    }
}

fn run(
    steps: &[SamplingStep],
    candidates: &mut Candidates,
    logits: &[f32],
    history: &[u32],
) -> Result<(), SamplingError> {
    candidates.load(logits)?;
    steps.iter().try_for_each(|step| step.apply(candidates, history, logits.len()))
}

/// The lowest id with the largest logit.
fn largest(logits: &[f32]) -> Result<u32, SamplingError> {
    let mut best = None;
    let mut highest = f32::NEG_INFINITY;
    for (id, &logit) in (0u32..).zip(logits) {
        if logit.is_nan() || logit == f32::INFINITY {
            return Err(SamplingError::Logit { id, found: logit });
        }
        if logit > highest {
            (best, highest) = (Some(id), logit);
        }
    }
    let vocabulary = logits.len();
    best.ok_or(SamplingError::NothingLeft { vocabulary })
}

/// The upper 53 bits as a number in [0, 1): every value is exact.
fn unit(bits: u64) -> f64 {
    const STEP: f64 = 1.0 / 9_007_199_254_740_992.0; // 2⁻⁵³
    #[allow(clippy::cast_precision_loss)] // 53 bits fit
    let upper = (bits >> 11) as f64;
    upper * STEP
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of the largest logit alone is what is said of all of them.
    #[test]
    fn the_largest_alone_is_judged_as_in_its_row() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let rows =
            [[-1.0, 2.0, 2.0], [-inf, -3.0, -inf], [-inf; 3], [0.0, inf, 1.0], [1.0, nan, 0.0]];
        for (row, id) in rows.iter().zip([1, 1, 0, 1, 1]) {
            let alone = Sampler::check_largest(id, row[id as usize], 3).map(|()| id);
            assert_eq!(format!("{alone:?}"), format!("{:?}", largest(row)));
        }
    }
}
