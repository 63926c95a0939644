//! How far a model's predictions are from a base's.

use rayon::prelude::*;

use super::{Mean, Predictions};

/// Tokens that the base finds less likely than `exp` of this do not count: a file does not tell them
/// from impossible ones, and llama.cpp leaves them out too.
const LEAST: f32 = -16.0;

/// Kullback-Leibler divergence of a model from its base, position by position.
#[derive(Clone, Debug, Default)]
pub struct Divergence {
    /// `Σ p · (ln p - ln q)`, `p` being the base's, in nats.
    pub divergence: Mean,
    /// How often both have the same most likely token: a share, 0 to 1.
    pub same_top: Mean,
    /// Negative log-likelihoods of the base itself.
    pub base_nll: Mean,
    each: Vec<f32>,
}

/// One position.
struct Point {
    divergence: f64,
    same_top: bool,
    base_nll: f64,
}

fn top(row: &[f32]) -> Option<usize> {
    // The first one of equals, in both.
    (0..row.len()).reduce(|best, i| if row[i] > row[best] { i } else { best })
}

impl Divergence {
    pub(super) fn add(&mut self, base: &Predictions, model: &Predictions, targets: &[u32]) {
        let rows: Vec<_> = base.rows().zip(model.rows()).zip(targets).collect();
        let points: Vec<_> = rows
            .into_par_iter()
            .map(|((p, q), &target)| Point {
                divergence: p
                    .iter()
                    .zip(q)
                    .filter(|&(&p, _)| p > LEAST)
                    .map(|(&p, &q)| f64::from(p).exp() * (f64::from(p) - f64::from(q)))
                    .sum(),
                same_top: top(p) == top(q),
                base_nll: -f64::from(p[target as usize]),
            })
            .collect();
        for point in points {
            self.divergence.add(point.divergence);
            self.same_top.add(f64::from(u8::from(point.same_top)));
            self.base_nll.add(point.base_nll);
            self.each.push(point.divergence as f32);
        }
    }

    /// The divergence that a share of all positions (0 to 1) does not exceed, between two positions
    /// by their distance; 0 of nothing.
    pub fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.each.clone();
        sorted.sort_unstable_by(f32::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
        let place = share.clamp(0.0, 1.0) * last as f64;
        let below = place as usize;
        let above = (below + 1).min(last);
        let part = place - below as f64;
        f64::from(sorted[below]) * (1.0 - part) + f64::from(sorted[above]) * part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_of_two_coins() {
        let of = |p: f32| Predictions::from_logits(vec![p.ln(), (1.0 - p).ln()], 2);
        let mut divergence = Divergence::default();
        divergence.add(&of(0.75), &of(0.75), &[0]);
        divergence.add(&of(0.75), &of(0.25), &[1]);
        // 0.75 ln 3 - 0.25 ln 3 for the second.
        let second = 0.5 * 3.0_f64.ln();
        assert!((divergence.divergence.value() - second / 2.0).abs() < 1e-6);
        assert!((divergence.quantile(1.0) - second).abs() < 1e-6);
        assert!((divergence.quantile(0.5) - second / 2.0).abs() < 1e-6);
        assert!((divergence.same_top.value() - 0.5).abs() < 1e-12);
        let nll = -(0.75_f64.ln() + 0.25_f64.ln()) / 2.0;
        assert!((divergence.base_nll.value() - nll).abs() < 1e-6);
    }
}
