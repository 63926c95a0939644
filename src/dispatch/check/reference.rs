//! What the kernels compute, in plain loops of f64.

use std::ops::Range;

use metal_candle_kernels::attention;

/// `out[m, r] = Σ weight[r, k] · x[m, k]`.
pub(super) fn matvec(weight: &[f64], x: &[f64], rows: usize) -> Vec<f64> {
    let columns = weight.len() / rows;
    let dot = |(w, x): (&[f64], &[f64])| w.iter().zip(x).map(|(w, x)| w * x).sum();
    x.chunks(columns).flat_map(|x| weight.chunks(columns).map(move |w| (w, x))).map(dot).collect()
}

/// The size of those products where nothing cancels: the largest root of a sum of squared terms.
pub(super) fn size_of_products(weight: &[f64], x: &[f64], rows: usize) -> f64 {
    let columns = weight.len() / rows;
    x.chunks(columns)
        .flat_map(|x| weight.chunks(columns).map(move |w| (w, x)))
        .map(|(w, x)| w.iter().zip(x).map(|(w, x)| (w * x).powi(2)).sum::<f64>().sqrt())
        .fold(0.0, f64::max)
}

/// Rows of `x` by their root mean square, times `weight`.
pub(super) fn rms_norm(x: &[f64], weight: &[f32], epsilon: f64) -> Vec<f64> {
    x.chunks(weight.len())
        .flat_map(|row| {
            let mean = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
            let factor = 1.0 / (mean + epsilon).sqrt();
            row.iter().zip(weight).map(move |(v, w)| v * factor * f64::from(*w))
        })
        .collect()
}

/// `silu(gate) · up`.
pub(super) fn swiglu(gate: f64, up: f64) -> f64 {
    gate / (1.0 + (-gate).exp()) * up
}

/// One row of attention over the keys of a range: the vector before normalisation, the best score
/// and the sum. Rows count `[batch, len, heads]`.
pub(super) fn attention_part(
    q: &[f32],
    keys: &[f64],
    values: &[f64],
    padding: &[u32],
    params: &attention::Params,
    dim: usize,
    row: usize,
    range: Range<u32>,
) -> (Vec<f64>, f64, f64) {
    let p = params;
    let (heads, kv_heads, len) = (p.heads as usize, p.kv_heads as usize, p.len as usize);
    let (head, position, sequence) = (row % heads, row / heads % len, row / (heads * len));
    let q = &q[row * dim..][..dim];
    let base = (sequence * kv_heads + head / (heads / kv_heads)) * p.capacity as usize;
    let place = |key: u32| (base + ((p.start + key) % p.capacity) as usize) * dim;
    let at = p.keys - p.len + position as u32;
    let seen: Vec<(u32, f64)> = range
        .filter(|&key| {
            (!p.causal || key <= at)
                && (p.window == 0 || key + p.window > at)
                && (!p.padded || key >= padding[sequence])
        })
        .map(|key| {
            let k = &keys[place(key)..][..dim];
            let dot: f64 = q.iter().zip(k).map(|(q, k)| f64::from(*q) * k).sum();
            let (score, cap) = (dot * f64::from(p.scale), f64::from(p.soft_cap));
            (key, if cap == 0.0 { score } else { cap * (score / cap).tanh() })
        })
        .collect();
    let best = seen.iter().fold(f64::MIN, |best, (_, score)| best.max(*score));
    let sum = seen.iter().map(|(_, score)| (score - best).exp()).sum();
    let vector = (0..dim)
        .map(|i| seen.iter().map(|(key, s)| (s - best).exp() * values[place(*key) + i]).sum())
        .collect();
    (vector, best, sum)
}
