//! The tokens that are still possible, and how to choose among 150,000 of them without sorting them.
//!
//! A masked token is taken off the list; the rest stays in the order of the ids, so sums and draws do not depend on how
//! a selection shuffled its scratch space. Logits are f64: no chain of scalings overflows, and ties of the model's f32
//! logits stay ties.

use std::cmp::Ordering;

use super::SamplingError;
use super::exp::exp_of_negative;

/// A token that may be chosen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) id: u32,
    /// Finite.
    pub(super) logit: f64,
}

/// A candidate under the order of some selection: smallest key first, then smallest id.
#[derive(Debug, Clone, Copy)]
struct Ranked {
    key: f64,
    id: u32,
    weight: f64,
}

impl Ranked {
    fn order(&self, other: &Self) -> Ordering {
        self.key.total_cmp(&other.key).then(self.id.cmp(&other.id))
    }
}

/// The candidates, with the scratch space that the steps need; nothing is allocated once it has grown.
#[derive(Debug, Clone, Default)]
pub(super) struct Candidates {
    pub(super) list: Vec<Candidate>,
    /// exp(logit - max) of each candidate, as [`Candidates::softmax`] left them.
    weights: Vec<f64>,
    keys: Vec<f64>,
    ranked: Vec<Ranked>,
    counts: Vec<u32>,
}

/// What a softmax over the candidates is made of: p = exp(logit - max) / total.
#[derive(Debug, Clone, Copy)]
pub(super) struct Softmax {
    pub(super) max: f64,
    pub(super) total: f64,
}

impl Softmax {
    /// Of the largest logit this is 1.
    pub(super) fn weight(&self, logit: f64) -> f64 {
        exp_of_negative(logit - self.max)
    }

    pub(super) fn probability(&self, logit: f64) -> f64 {
        self.weight(logit) / self.total
    }
}

impl Candidates {
    /// Starts over with a model's logits; -inf is a token that is masked already.
    pub(super) fn load(&mut self, logits: &[f32]) -> Result<(), SamplingError> {
        self.list.clear();
        for (id, &logit) in (0u32..).zip(logits) {
            if logit.is_nan() || logit == f32::INFINITY {
                return Err(SamplingError::Logit { id, found: logit });
            }
            if logit != f32::NEG_INFINITY {
                let logit = f64::from(logit);
                self.list.push(Candidate { id, logit });
            }
        }
        Ok(())
    }

    /// The candidate with the largest logit, of several the one with the lowest id.
    pub(super) fn best(&self) -> Option<Candidate> {
        self.list
            .iter()
            .copied()
            .reduce(|best, next| if next.logit > best.logit { next } else { best })
    }

    /// Weighs the candidates. `None` when there is none.
    pub(super) fn softmax(&mut self) -> Option<Softmax> {
        let max = self.best()?.logit;
        self.weights.clear();
        let weights = self.list.iter().map(|candidate| exp_of_negative(candidate.logit - max));
        self.weights.extend(weights);
        let total = self.weights.iter().sum();
        Some(Softmax { max, total })
    }

    /// The candidate in whose share of the softmax the point 0 ≤ `at` < 1 lies, or `None` when there is none.
    pub(super) fn draw(&mut self, at: f64) -> Option<u32> {
        let target = at * self.softmax()?.total;
        let mut sum = 0.0;
        let mut last = None;
        for (candidate, &weight) in self.list.iter().zip(&self.weights) {
            if weight > 0.0 {
                last = Some(candidate.id);
            }
            sum += weight;
            if sum > target {
                break;
            }
        }
        last
    }

    /// -Σ p ln p, in nats, of the softmax just made.
    pub(super) fn entropy(&self, softmax: Softmax) -> f64 {
        let moment = |sum, (candidate, weight): (&Candidate, &f64)| {
            sum + weight / softmax.total * (candidate.logit - softmax.max)
        };
        softmax.total.ln() - self.list.iter().zip(&self.weights).fold(0.0, moment)
    }

    /// Keeps the `k` largest logits, and everything that ties with the smallest of them.
    pub(super) fn keep_largest(&mut self, k: usize) {
        if k == 0 || k >= self.list.len() {
            return;
        }
        self.keys.clear();
        self.keys.extend(self.list.iter().map(|candidate| candidate.logit));
        let descending = |a: &f64, b: &f64| b.total_cmp(a);
        let (_, &mut smallest, _) = self.keys.select_nth_unstable_by(k - 1, descending);
        self.list.retain(|candidate| candidate.logit >= smallest);
    }

    /// Keeps the candidates with the smallest keys until their probabilities, by the softmax just made, reach `mass`; at
    /// least one. `ties` keeps everything that ties with the last of them too; otherwise the lower id is kept.
    pub(super) fn keep_mass(
        &mut self,
        softmax: Softmax,
        mass: f64,
        ties: bool,
        key: impl Fn(f64) -> f64,
    ) {
        self.ranked.clear();
        let weighted = self.list.iter().zip(&self.weights);
        self.ranked.extend(weighted.map(|(candidate, &weight)| Ranked {
            // -0.0 and 0.0 are one key
            key: key(candidate.logit) + 0.0,
            id: candidate.id,
            weight,
        }));
        let Some(last) = first_to_reach(&mut self.ranked, mass * softmax.total) else {
            return;
        };
        self.list.retain(|candidate| {
            let key = key(candidate.logit) + 0.0;
            match key.total_cmp(&last.key) {
                Ordering::Less => true,
                Ordering::Equal => ties || candidate.id <= last.id,
                Ordering::Greater => false,
            }
        });
    }

    /// Calls `change` for each candidate that occurs in `history`, with its number of occurrences. Ids that are not in
    /// the vocabulary do not occur.
    pub(super) fn change_seen(
        &mut self,
        history: &[u32],
        vocabulary: usize,
        change: impl Fn(&mut f64, u32),
    ) {
        self.count(history.iter(), vocabulary);
        for candidate in &mut self.list {
            let count = self.counts.get(candidate.id as usize).copied().unwrap_or(0);
            if count > 0 {
                change(&mut candidate.logit, count);
            }
        }
        self.forget(history.iter());
    }

    /// Removes the tokens that `ids` yields.
    pub(super) fn remove<'a>(
        &mut self,
        ids: impl Iterator<Item = &'a u32> + Clone,
        vocabulary: usize,
    ) {
        self.count(ids.clone(), vocabulary);
        let counts = &self.counts;
        self.list
            .retain(|candidate| counts.get(candidate.id as usize).is_none_or(|&count| count == 0));
        self.forget(ids);
    }

    fn count<'a>(&mut self, ids: impl Iterator<Item = &'a u32>, vocabulary: usize) {
        // always zero outside `change_seen` and `remove`
        self.counts.resize(vocabulary, 0);
        for &id in ids {
            if let Some(count) = self.counts.get_mut(id as usize) {
                *count = count.saturating_add(1);
            }
        }
    }

    fn forget<'a>(&mut self, ids: impl Iterator<Item = &'a u32>) {
        for &id in ids {
            if let Some(count) = self.counts.get_mut(id as usize) {
                *count = 0;
            }
        }
    }
}

/// The first candidate, smallest key first, with which the sum of the weights reaches `weight`; the last one if none
/// does. Sorts only as far as it has to: the mass of a language model's distribution sits in a few hundred tokens.
fn first_to_reach(ranked: &mut [Ranked], weight: f64) -> Option<Ranked> {
    let mut rest = ranked;
    let mut sorted = 128;
    let mut sum = 0.0;
    let mut last = None;
    while !rest.is_empty() {
        if sorted < rest.len() {
            rest.select_nth_unstable_by(sorted, Ranked::order);
        }
        let (head, tail) = rest.split_at_mut(sorted.min(rest.len()));
        head.sort_unstable_by(Ranked::order);
        for candidate in head.iter() {
            sum += candidate.weight;
            last = Some(*candidate);
            if sum >= weight {
                return last;
            }
        }
        rest = tail;
        sorted *= 8;
    }
    last
}
