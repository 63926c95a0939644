//! Root-mean-square normalisation (Zhang and Sennrich 2019, <https://arxiv.org/abs/1910.07467>):
//! `out = x / √(mean(x²) + eps) · weight`, row by row.

use super::parallel::{FORK_BYTES, Tiles, for_each_task};
use super::simd::{Isa, Kernel, Simd};

/// `out = x / √(mean(x²) + eps) · weight` for each of `rows` rows of `dim` values.
///
/// # Panics
///
/// If `x` or `out` is not `rows * dim` long, or `weight` not `dim`.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, rows: usize, dim: usize, out: &mut [f32]) {
    rms_norm_on(Isa::best(), x, weight, eps, rows, dim, out);
}

/// `sum = x + residual; out = rms_norm(sum)`, reading and writing each value once.
///
/// # Panics
///
/// If `x`, `residual`, `sum` or `out` is not `rows * dim` long, or `weight` not `dim`.
pub fn add_rms_norm(
    x: &[f32],
    residual: &[f32],
    weight: &[f32],
    eps: f32,
    rows: usize,
    dim: usize,
    sum: &mut [f32],
    out: &mut [f32],
) {
    add_rms_norm_on(Isa::best(), x, residual, weight, eps, rows, dim, sum, out);
}

fn rms_norm_on(
    isa: Isa,
    x: &[f32],
    weight: &[f32],
    eps: f32,
    rows: usize,
    dim: usize,
    out: &mut [f32],
) {
    assert_eq!(x.len(), rows * dim, "rms_norm: length of x");
    assert_eq!(weight.len(), dim, "rms_norm: length of the weight");
    assert_eq!(out.len(), rows * dim, "rms_norm: length of out");
    if out.is_empty() {
        return;
    }
    let block = rows_per_task(rows, dim, 2);
    let tiles = Tiles::new(out, (1, rows * dim), (1, block * dim));
    for_each_task(tiles.across(), |task| {
        let mut out = tiles.take(0, task);
        let x = &x[out.column_range()];
        isa.run(Norm { x, weight, eps, out: out.row(0) });
    });
}

fn add_rms_norm_on(
    isa: Isa,
    x: &[f32],
    residual: &[f32],
    weight: &[f32],
    eps: f32,
    rows: usize,
    dim: usize,
    sum: &mut [f32],
    out: &mut [f32],
) {
    assert_eq!(x.len(), rows * dim, "add_rms_norm: length of x");
    assert_eq!(residual.len(), rows * dim, "add_rms_norm: length of the residual");
    assert_eq!(weight.len(), dim, "add_rms_norm: length of the weight");
    assert_eq!(sum.len(), rows * dim, "add_rms_norm: length of sum");
    assert_eq!(out.len(), rows * dim, "add_rms_norm: length of out");
    if out.is_empty() {
        return;
    }
    let block = rows_per_task(rows, dim, 4);
    let sums = Tiles::new(sum, (1, rows * dim), (1, block * dim));
    let tiles = Tiles::new(out, (1, rows * dim), (1, block * dim));
    for_each_task(tiles.across(), |task| {
        let (mut sum, mut out) = (sums.take(0, task), tiles.take(0, task));
        let range = out.column_range();
        let sum = sum.row(0);
        isa.run(Add { x: &x[range.clone()], y: &residual[range], out: sum });
        isa.run(Norm { x: sum, weight, eps, out: out.row(0) });
    });
}

/// Rows that are worth a task when each passes `streams` arrays through memory.
fn rows_per_task(rows: usize, dim: usize, streams: usize) -> usize {
    let bytes = dim * streams * size_of::<f32>();
    (FORK_BYTES / 2).div_ceil(bytes).clamp(1, rows)
}

struct Norm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for Norm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let dim = self.weight.len();
        let whole = dim / S::LANES * S::LANES;
        let (weight, weight_rest) = self.weight.split_at(whole);
        for (x, out) in self.x.chunks_exact(dim).zip(self.out.chunks_exact_mut(dim)) {
            let (x, x_rest) = x.split_at(whole);
            let (out, out_rest) = out.split_at_mut(whole);
            // Two sums, so that an addition need not wait for the last one.
            let mut squares = [simd.splat(0.0); 2];
            for (i, x) in x.chunks_exact(S::LANES).enumerate() {
                let x = simd.load(x);
                squares[i % 2] = simd.fma(x, x, squares[i % 2]);
            }
            let rest = simd.load_partial(x_rest);
            let squares = simd.fma(rest, rest, simd.add(squares[0], squares[1]));
            let scale = 1.0 / (simd.reduce_add(squares) / dim as f32 + self.eps).sqrt();
            let scale = simd.splat(scale);
            let values = x.chunks_exact(S::LANES).zip(weight.chunks_exact(S::LANES));
            for ((x, weight), out) in values.zip(out.chunks_exact_mut(S::LANES)) {
                simd.store(simd.mul(simd.mul(simd.load(x), scale), simd.load(weight)), out);
            }
            let rest = simd.mul(simd.mul(rest, scale), simd.load_partial(weight_rest));
            simd.store_partial(rest, out_rest);
        }
    }
}

struct Add<'a> {
    x: &'a [f32],
    y: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let chunks = self.x.chunks(S::LANES).zip(self.y.chunks(S::LANES));
        for ((x, y), out) in chunks.zip(self.out.chunks_mut(S::LANES)) {
            if out.len() == S::LANES {
                simd.store(simd.add(simd.load(x), simd.load(y)), out);
            } else {
                simd.store_partial(simd.add(simd.load_partial(x), simd.load_partial(y)), out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Random, assert_close};
    use super::*;

    fn exact(h: &[f64], weight: &[f32], eps: f32) -> Vec<f64> {
        let dim = weight.len();
        let row = |row: &[f64]| {
            let mean = row.iter().map(|x| x * x).sum::<f64>() / dim as f64;
            let scale = 1.0 / (mean + f64::from(eps)).sqrt();
            row.iter().zip(weight).map(|(x, w)| x * scale * f64::from(*w)).collect::<Vec<_>>()
        };
        h.chunks_exact(dim).flat_map(row).collect()
    }

    #[test]
    fn against_double_precision() {
        let mut random = Random::new(4);
        for isa in Isa::available() {
            for rows in [0, 1, 3, 100] {
                for dim in [1, 3, 7, 8, 9, 17, 33, 100, 576, 1500] {
                    let (x, residual) = (random.values(rows * dim), random.values(rows * dim));
                    let weight = random.values(dim);
                    let (mut out, mut sum) =
                        (vec![f32::NAN; rows * dim], vec![f32::NAN; rows * dim]);
                    let what = format!("{isa:?} {rows} x {dim}");
                    rms_norm_on(isa, &x, &weight, 1e-5, rows, dim, &mut out);
                    let wide: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
                    assert_close(&out, &exact(&wide, &weight, 1e-5), 2e-6, &what);
                    add_rms_norm_on(
                        isa, &x, &residual, &weight, 1e-5, rows, dim, &mut sum, &mut out,
                    );
                    let added: Vec<f64> =
                        x.iter().zip(&residual).map(|(x, r)| f64::from(x + r)).collect();
                    assert_close(&sum, &added, 0.0, &what);
                    assert_close(&out, &exact(&added, &weight, 1e-5), 2e-6, &what);
                }
            }
        }
    }

    #[test]
    fn literal_values() {
        let mut out = [0.0; 2];
        rms_norm(&[3.0, 4.0], &[1.0, 2.0], 0.0, 1, 2, &mut out);
        assert_close(&out, &[0.848_528_137, 2.262_741_7], 1e-6, "3, 4");
    }
}
