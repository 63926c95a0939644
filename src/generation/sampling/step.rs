//! The steps of a sampling chain. Each changes logits or masks tokens; none renormalises, so the next one sees the
//! softmax of what is left. The meaning of each step is that of the `transformers` class named with it.

use super::SamplingError;
use super::candidates::Candidates;

/// One step of a sampling chain.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum SamplingStep {
    /// x / T, T > 0. `TemperatureLogitsWarper`.
    Temperature(f32),
    /// Keeps the k ≥ 1 largest logits and what ties with the smallest of them. `TopKLogitsWarper`.
    TopK(usize),
    /// Keeps the smallest set of most probable tokens whose probabilities reach p, 0 < p ≤ 1; of equal ones the lower
    /// ids. 1 keeps all. `TopPLogitsWarper`; Holtzman et al. 2020, <https://arxiv.org/abs/1904.09751>.
    TopP(f32),
    /// Masks tokens less probable than this fraction, 0 to 1, of the most probable one. `MinPLogitsWarper`;
    /// Nguyen et al. 2024, <https://arxiv.org/abs/2407.01082>.
    MinP(f32),
    /// Keeps the tokens whose surprise is closest to the entropy until their probabilities reach p, 0 < p ≤ 1, and
    /// what ties with the last. `TypicalLogitsWarper`; Meister et al. 2022, <https://arxiv.org/abs/2202.00666>.
    TypicalP(f32),
    /// Masks tokens with a probability below this one, 0 to 1, except the top. `EpsilonLogitsWarper`;
    /// Hewitt et al. 2022, <https://arxiv.org/abs/2210.15191>.
    EpsilonCutoff(f32),
    /// Masks tokens with a probability below min(η, √η · e⁻ᴴ), H the entropy in nats and η from 0 to 1, except the top.
    /// `EtaLogitsWarper`; same paper.
    EtaCutoff(f32),
    /// Divides positive and multiplies negative logits of every token in the history, once each, by this; above 1
    /// discourages. `RepetitionPenaltyLogitsProcessor`; Keskar et al. 2019, <https://arxiv.org/abs/1909.05858>.
    RepetitionPenalty(f32),
    /// Subtracts this from the logit of every token in the history, once each.
    PresencePenalty(f32),
    /// Subtracts this, times its number of occurrences, from the logit of every token in the history.
    FrequencyPenalty(f32),
    /// Adds to the logits of single tokens, (id, bias); -inf masks. `SequenceBiasLogitsProcessor`.
    LogitBias(Vec<(u32, f32)>),
    /// Masks tokens that would complete an n-gram, n ≥ 1, that is already in the history.
    /// `NoRepeatNGramLogitsProcessor`.
    NoRepeatNgram(usize),
}

impl SamplingStep {
    /// Says what is wrong with the step's parameter.
    pub(super) fn check(&self) -> Result<(), SamplingError> {
        match self {
            Self::Temperature(t) => positive("temperature", *t),
            Self::TopK(k) => at_least_one("top_k", *k),
            Self::TopP(p) => above_zero_up_to_one("top_p", *p),
            Self::MinP(p) => zero_to_one("min_p", *p),
            Self::TypicalP(p) => above_zero_up_to_one("typical_p", *p),
            Self::EpsilonCutoff(p) => zero_to_one("epsilon_cutoff", *p),
            Self::EtaCutoff(p) => zero_to_one("eta_cutoff", *p),
            Self::RepetitionPenalty(r) => positive("repetition_penalty", *r),
            Self::PresencePenalty(v) => finite("presence_penalty", *v),
            Self::FrequencyPenalty(v) => finite("frequency_penalty", *v),
            Self::LogitBias(biases) => biases.iter().try_for_each(|&(_, bias)| {
                let fine = bias.is_finite() || bias == f32::NEG_INFINITY;
                require(fine, "logit_bias", "a finite number or -inf", &bias)
            }),
            Self::NoRepeatNgram(n) => at_least_one("no_repeat_ngram", *n),
        }
    }

    /// Applies the step. Without candidates there is nothing to do.
    pub(super) fn apply(
        &self,
        candidates: &mut Candidates,
        history: &[u32],
        vocabulary: usize,
    ) -> Result<(), SamplingError> {
        match self {
            Self::Temperature(t) => {
                let t = f64::from(*t);
                for candidate in &mut candidates.list {
                    candidate.logit /= t;
                }
            }
            Self::TopK(k) => candidates.keep_largest(*k),
            // at 1 the sum of all probabilities may reach 1 a rounding error early
            Self::TopP(p) if *p >= 1.0 => {}
            Self::TopP(p) => {
                if let Some(softmax) = candidates.softmax() {
                    candidates.keep_mass(softmax, f64::from(*p), false, |logit| -logit);
                }
            }
            Self::MinP(p) => {
                if let Some(softmax) = candidates.softmax() {
                    let p = f64::from(*p);
                    candidates.list.retain(|candidate| softmax.weight(candidate.logit) >= p);
                }
            }
            Self::TypicalP(p) => {
                if let Some(softmax) = candidates.softmax() {
                    let entropy = candidates.entropy(softmax);
                    let level = softmax.max + softmax.total.ln() - entropy;
                    let distance = |logit: f64| (level - logit).abs();
                    candidates.keep_mass(softmax, f64::from(*p), true, distance);
                }
            }
            Self::EpsilonCutoff(epsilon) => cut_off(candidates, |_| f64::from(*epsilon)),
            Self::EtaCutoff(eta) => {
                let eta = f64::from(*eta);
                cut_off(candidates, |entropy| eta.min(eta.sqrt() * (-entropy).exp()));
            }
            Self::RepetitionPenalty(r) => {
                let r = f64::from(*r);
                candidates.change_seen(history, vocabulary, |logit, _| {
                    *logit = if *logit < 0.0 { *logit * r } else { *logit / r };
                });
            }
            Self::PresencePenalty(v) => {
                let v = f64::from(*v);
                candidates.change_seen(history, vocabulary, |logit, _| *logit -= v);
            }
            Self::FrequencyPenalty(v) => {
                let v = f64::from(*v);
                candidates.change_seen(history, vocabulary, |logit, count| {
                    *logit -= v * f64::from(count);
                });
            }
            Self::LogitBias(biases) => bias(candidates, biases, vocabulary)?,
            Self::NoRepeatNgram(n) => {
                // the token after each earlier place where the last n - 1 tokens already stood
                let start = history.len().saturating_sub(n - 1);
                let (_, context) = history.split_at(start);
                let completions = history
                    .windows(*n)
                    .filter_map(|ngram| ngram.split_last())
                    .filter(|(_, before)| *before == context)
                    .map(|(id, _)| id);
                candidates.remove(completions, vocabulary);
            }
        }
        Ok(())
    }
}

/// Masks what is less probable than `threshold(entropy)`, except the top and what ties with it.
fn cut_off(candidates: &mut Candidates, threshold: impl Fn(f64) -> f64) {
    let Some(softmax) = candidates.softmax() else {
        return;
    };
    let threshold = threshold(candidates.entropy(softmax));
    candidates.list.retain(|candidate| {
        candidate.logit >= softmax.max || softmax.probability(candidate.logit) >= threshold
    });
}

fn bias(
    candidates: &mut Candidates,
    biases: &[(u32, f32)],
    vocabulary: usize,
) -> Result<(), SamplingError> {
    for &(id, bias) in biases {
        if id as usize >= vocabulary {
            return Err(SamplingError::BiasedId { id, vocabulary });
        }
        // the list is in the order of the ids
        if let Ok(at) = candidates.list.binary_search_by_key(&id, |candidate| candidate.id) {
            candidates.list[at].logit += f64::from(bias);
            if bias == f32::NEG_INFINITY {
                candidates.list.remove(at);
            }
        }
    }
    Ok(())
}

fn positive(option: &'static str, value: f32) -> Result<(), SamplingError> {
    let fine = value.is_finite() && value > 0.0;
    require(fine, option, "a finite number above 0", &value)
}

fn finite(option: &'static str, value: f32) -> Result<(), SamplingError> {
    require(value.is_finite(), option, "a finite number", &value)
}

fn zero_to_one(option: &'static str, value: f32) -> Result<(), SamplingError> {
    let fine = (0.0..=1.0).contains(&value);
    require(fine, option, "a number from 0 to 1", &value)
}

fn above_zero_up_to_one(option: &'static str, value: f32) -> Result<(), SamplingError> {
    let fine = value > 0.0 && value <= 1.0;
    require(fine, option, "a number above 0, at most 1", &value)
}

fn at_least_one(option: &'static str, value: usize) -> Result<(), SamplingError> {
    require(value >= 1, option, "at least 1", &value)
}

/// Refuses an option unless `fine`.
pub(super) fn require(
    fine: bool,
    option: &'static str,
    expected: &'static str,
    found: &impl ToString,
) -> Result<(), SamplingError> {
    if fine {
        return Ok(());
    }
    Err(SamplingError::Option { option, expected, found: found.to_string() })
}
