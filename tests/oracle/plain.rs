//! The operations as plain loops in f64.

use metal_candle::backend::{AttentionOptions, RopeOrder};

/// `[batch, heads, rows, dim]` and the like.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    pub batch: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub rows: usize,
    pub keys: usize,
    pub dim: usize,
}

impl AttentionShape {
    pub fn q_len(&self) -> usize {
        self.batch * self.heads * self.rows * self.dim
    }

    pub fn kv_len(&self) -> usize {
        self.batch * self.kv_heads * self.keys * self.dim
    }
}

pub fn linear(x: &[f64], w: &[f64], bias: Option<&[f64]>, inputs: usize) -> Vec<f64> {
    let row = |x: &[f64]| -> Vec<f64> {
        w.chunks(inputs)
            .enumerate()
            .map(|(o, w)| {
                let dot: f64 = x.iter().zip(w).map(|(x, w)| x * w).sum();
                dot + bias.map_or(0.0, |b| b[o])
            })
            .collect()
    };
    x.chunks(inputs).flat_map(row).collect()
}

/// The size of such products where nothing cancels: the largest root of a sum of squared terms.
pub fn size_of_products(x: &[f64], w: &[f64], inputs: usize) -> f64 {
    let size = |(x, w): (&[f64], &[f64])| -> f64 {
        x.iter().zip(w).map(|(x, w)| (x * w).powi(2)).sum::<f64>().sqrt()
    };
    let pairs = x.chunks(inputs).flat_map(|x| w.chunks(inputs).map(move |w| (x, w)));
    pairs.map(size).fold(0.0, f64::max)
}

pub fn rms_norm(x: &[f64], w: &[f64], epsilon: f64) -> Vec<f64> {
    x.chunks(w.len())
        .flat_map(|row| {
            let mean = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
            let scale = 1.0 / (mean + epsilon).sqrt();
            row.iter().zip(w).map(|(v, w)| v * scale * w).collect::<Vec<_>>()
        })
        .collect()
}

pub fn swiglu(gate: &[f64], up: &[f64]) -> Vec<f64> {
    gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect()
}

/// `x: [batch, heads, rows, dim]`; `angles: [1 or batch, rows, dim / 2]`.
pub fn rope(
    x: &[f64],
    [batch, heads, rows, dim]: [usize; 4],
    angles: &[f64],
    order: RopeOrder,
) -> Vec<f64> {
    let half = dim / 2;
    let shared = angles.len() == rows * half;
    let mut out = x.to_vec();
    for b in 0..batch {
        for h in 0..heads {
            for r in 0..rows {
                let at = ((b * heads + h) * rows + r) * dim;
                for i in 0..half {
                    let angle = angles[(if shared { 0 } else { b } * rows + r) * half + i];
                    let (j, k) = match order {
                        RopeOrder::HalfSplit => (at + i, at + i + half),
                        RopeOrder::AdjacentPairs => (at + 2 * i, at + 2 * i + 1),
                    };
                    out[j] = x[j] * angle.cos() - x[k] * angle.sin();
                    out[k] = x[k] * angle.cos() + x[j] * angle.sin();
                }
            }
        }
    }
    out
}

fn visible(
    options: &AttentionOptions,
    s: &AttentionShape,
    b: usize,
    row: usize,
    key: usize,
) -> bool {
    let position = s.keys as i64 - s.rows as i64 + row as i64;
    (!options.causal || key as i64 <= position)
        && options.window.is_none_or(|w| key as i64 + w as i64 > position)
        && options.left_padding.as_ref().is_none_or(|p| key >= p[b])
}

/// Scores of one row: `None` where a key is hidden.
fn scores(
    q: &[f64],
    k: &[f64],
    options: &AttentionOptions,
    s: &AttentionShape,
    [b, h, r]: [usize; 3],
) -> Vec<Option<f64>> {
    let group = s.heads / s.kv_heads;
    let scale = options.scale.map_or(1.0 / (s.dim as f64).sqrt(), f64::from);
    let q = &q[((b * s.heads + h) * s.rows + r) * s.dim..][..s.dim];
    let k = &k[(b * s.kv_heads + h / group) * s.keys * s.dim..];
    (0..s.keys)
        .map(|j| {
            let dot: f64 = q.iter().zip(&k[j * s.dim..][..s.dim]).map(|(q, k)| q * k).sum();
            let score = match options.softcap {
                Some(cap) => f64::from(cap) * (dot * scale / f64::from(cap)).tanh(),
                None => dot * scale,
            };
            visible(options, s, b, r, j).then_some(score)
        })
        .collect()
}

fn softmax(scores: &[Option<f64>]) -> (Vec<f64>, Option<f64>) {
    let max = scores.iter().flatten().fold(f64::NEG_INFINITY, |m, &v| m.max(v));
    if max == f64::NEG_INFINITY {
        return (vec![0.0; scores.len()], None);
    }
    let weights: Vec<f64> = scores.iter().map(|s| s.map_or(0.0, |s| (s - max).exp())).collect();
    let sum: f64 = weights.iter().sum();
    (weights.iter().map(|w| w / sum).collect(), Some(max + sum.ln()))
}

/// Output and log-sum-exp (`None` where nothing is visible).
pub fn attention(
    q: &[f64],
    k: &[f64],
    v: &[f64],
    options: &AttentionOptions,
    s: &AttentionShape,
) -> (Vec<f64>, Vec<Option<f64>>) {
    let group = s.heads / s.kv_heads;
    let (mut out, mut lse) = (Vec::new(), Vec::new());
    for b in 0..s.batch {
        for h in 0..s.heads {
            let v = &v[(b * s.kv_heads + h / group) * s.keys * s.dim..];
            for r in 0..s.rows {
                let (p, l) = softmax(&scores(q, k, options, s, [b, h, r]));
                lse.push(l);
                out.extend(
                    (0..s.dim).map(|d| {
                        p.iter().enumerate().map(|(j, p)| p * v[j * s.dim + d]).sum::<f64>()
                    }),
                );
            }
        }
    }
    (out, lse)
}

/// Gradients of `sum(attention · grad)` with respect to q, k and v.
pub fn attention_backward(
    q: &[f64],
    k: &[f64],
    v: &[f64],
    grad: &[f64],
    options: &AttentionOptions,
    s: &AttentionShape,
) -> [Vec<f64>; 3] {
    let group = s.heads / s.kv_heads;
    let scale = options.scale.map_or(1.0 / (s.dim as f64).sqrt(), f64::from);
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
    for b in 0..s.batch {
        for h in 0..s.heads {
            let kv = (b * s.kv_heads + h / group) * s.keys * s.dim;
            for r in 0..s.rows {
                let at = ((b * s.heads + h) * s.rows + r) * s.dim;
                let raw = scores(q, k, options, s, [b, h, r]);
                let (p, _) = softmax(&raw);
                let dp: Vec<f64> = (0..s.keys)
                    .map(|j| (0..s.dim).map(|d| grad[at + d] * v[kv + j * s.dim + d]).sum())
                    .collect();
                let mean: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
                for j in 0..s.keys {
                    let mut ds = p[j] * (dp[j] - mean);
                    if let (Some(cap), Some(score)) = (options.softcap, raw[j]) {
                        ds *= 1.0 - (score / f64::from(cap)).powi(2);
                    }
                    for d in 0..s.dim {
                        dq[at + d] += ds * scale * k[kv + j * s.dim + d];
                        dk[kv + j * s.dim + d] += ds * scale * q[at + d];
                        dv[kv + j * s.dim + d] += p[j] * grad[at + d];
                    }
                }
            }
        }
    }
    [dq, dk, dv]
}
