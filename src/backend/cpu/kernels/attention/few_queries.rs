//! Attention of a few queries per key head, as in a decode step: dot products along the head dimension.
//!
//! The keys of a head are cut into parts, so that there is work for every thread even with few heads. Each part gives its
//! maximum, its sum of exponentials and its weighted values; the parts are then joined.

use super::super::linear::Dots;
use super::super::panel::{Coefficients, Panel, accumulate};
use super::super::parallel::{FORK_BYTES, TileMut, Tiles, for_each_task};
use super::super::scratch::with_scratch;
use super::super::simd::{Kernel, MAX_LANES, Simd, exp};
use super::mask::Mask;
use super::{Call, FEW, HIDDEN, NOTHING, cap};
use std::ops::Range;

/// Keys whose scores are held at a time.
const BLOCK: usize = 128;
/// Of a part's result, the values before the weighted sum: the maximum and the sum of exponentials.
const HEADER: usize = MAX_LANES;

pub(super) fn few_queries(call: &Call<'_>, out: &mut [f32], mut lse: Option<&mut [f32]>) {
    let shape = call.shape;
    let rows = call.group() * shape.q_len;
    let heads = shape.batch * shape.kv_heads;
    let width = shape.head_dim.next_multiple_of(MAX_LANES);
    let bytes = heads * shape.kv_len * shape.head_dim * 2 * size_of::<f32>();
    let parts = if bytes <= FORK_BYTES {
        1
    } else {
        let wanted = (4 * rayon::current_num_threads()).div_ceil(heads);
        wanted.clamp(1, shape.kv_len.div_ceil(BLOCK))
    };
    let size = rows * (HEADER + width);
    with_scratch(heads * parts * size, |results| {
        let tiles = Tiles::new(results, (1, heads * parts * size), (1, size));
        let task = |task: usize| {
            let (head, part) = (task / parts, task % parts);
            let (batch, kv_head) = (head / shape.kv_heads, head % shape.kv_heads);
            let mask = call.mask(batch);
            let seen = mask.visible_to_any(0..shape.q_len);
            let at = |part: usize| seen.start + seen.len() * part / parts;
            let keys = at(part)..at(part + 1);
            let q = &call.q[head * rows * shape.head_dim..][..rows * shape.head_dim];
            let (k, v) = (call.k.head(batch, kv_head), call.v.head(batch, kv_head));
            // Rows of values that end within a vector are copied to where they may be read beyond their end.
            let padded =
                if shape.head_dim.is_multiple_of(call.isa.lanes()) { 0 } else { BLOCK * width };
            let mut result = tiles.take(0, task);
            let result = result.row(0);
            with_scratch(padded, |padded| {
                call.isa.run(Part { call, q, k, v, mask, keys, padded, result });
            });
        };
        if bytes <= FORK_BYTES {
            (0..heads).for_each(task);
        } else {
            for_each_task(heads * parts, task);
        }
        drop(tiles);
        for (head, results) in results.chunks_exact(parts * size).enumerate() {
            for row in 0..rows {
                let out = &mut out[(head * rows + row) * shape.head_dim..][..shape.head_dim];
                let sum = join(results, size, row, width, out);
                if let Some(lse) = &mut lse {
                    lse[head * rows + row] = sum;
                }
            }
        }
    });
}

/// Joins the parts of one query row; returns its log-sum-exp.
fn join(parts: &[f32], size: usize, row: usize, width: usize, out: &mut [f32]) -> f32 {
    let part = |part: usize| &parts[part * size + row * (HEADER + width)..][..HEADER + width];
    let count = parts.len() / size;
    let max = (0..count).map(|p| part(p)[0]).fold(NOTHING, f32::max);
    out.fill(0.0);
    let mut total = 0.0;
    for p in 0..count {
        let part = part(p);
        let scale = (part[0] - max).exp();
        total += part[1] * scale;
        for (out, value) in out.iter_mut().zip(&part[HEADER..]) {
            *out += value * scale;
        }
    }
    // Written so that not-a-number stays visible instead of looking like a query that sees nothing.
    if total == 0.0 {
        return NOTHING;
    }
    for out in out.iter_mut() {
        *out /= total;
    }
    max + total.ln()
}

/// Some keys of one head, for all its query rows.
struct Part<'a> {
    call: &'a Call<'a>,
    /// `[rows, head_dim]`
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    mask: Mask,
    keys: Range<usize>,
    /// Room for a block of values, if their rows need padding.
    padded: &'a mut [f32],
    /// `[rows, HEADER + width]`
    result: &'a mut [f32],
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Call { shape, k: k_view, v: v_view, .. } = *self.call;
        let dim = shape.head_dim;
        let rows = self.q.len() / dim.max(1);
        let row_size = self.result.len() / rows.max(1);
        let width = row_size - HEADER;
        self.result.fill(0.0);
        for result in self.result.chunks_exact_mut(row_size) {
            result[0] = NOTHING;
        }
        let ranges: [Range<usize>; FEW] = std::array::from_fn(|row| {
            if row < rows { self.mask.visible(row % shape.q_len) } else { 0..0 }
        });
        let mut scores = [0.0; FEW * BLOCK];
        let mut start = self.keys.start;
        while start < self.keys.end {
            let count = BLOCK.min(self.keys.end - start);
            let mut tile = TileMut::whole(&mut scores, rows, BLOCK);
            Dots {
                x: self.q,
                rows,
                w: &self.k[start * k_view.row_stride..],
                stride: k_view.row_stride,
                depth: dim,
                bias: None,
                features: count,
                out: &mut tile,
            }
            .run(simd);
            for (row, scores) in scores.chunks_exact_mut(BLOCK).take(rows).enumerate() {
                let hide = |key: usize| !ranges[row].contains(&key);
                for (j, score) in scores[..count].iter_mut().enumerate() {
                    if hide(start + j) {
                        *score = HIDDEN;
                    }
                }
                scores[count..].fill(HIDDEN);
                let result = &mut self.result[row * row_size..][..row_size];
                self.call.update(simd, scores, count, result);
            }
            let probabilities = Coefficients::FeatureRows(&scores, BLOCK);
            let values = &self.v[start * v_view.row_stride..];
            let sums = &mut self.result[HEADER..];
            if dim.is_multiple_of(S::LANES) {
                let stride = v_view.row_stride;
                weigh(simd, values, stride, count, dim, probabilities, rows, sums, row_size);
            } else {
                for (j, to) in self.padded.chunks_exact_mut(width).take(count).enumerate() {
                    to[..dim].copy_from_slice(&values[j * v_view.row_stride..][..dim]);
                    to[dim..].fill(0.0);
                }
                weigh(simd, self.padded, width, count, width, probabilities, rows, sums, row_size);
            }
            start += count;
        }
    }
}

impl Call<'_> {
    /// Turns one row of dot products into weights, and brings the row's maximum, sum and weighted values up to date.
    #[inline(always)]
    fn update<S: Simd>(&self, simd: S, scores: &mut [f32], count: usize, result: &mut [f32]) {
        let used = count.next_multiple_of(S::LANES);
        let scores = &mut scores[..used];
        let scale = simd.splat(self.options.scale);
        let hidden = simd.splat(HIDDEN);
        let mut max = simd.splat(result[0]);
        for chunk in scores.chunks_exact_mut(S::LANES) {
            let raw = simd.load(chunk);
            let mut score = simd.mul(raw, scale);
            if let Some(softcap) = self.options.softcap {
                score = cap(simd, score, softcap);
            }
            let score = simd.select_le(raw, hidden, hidden, score);
            simd.store(score, chunk);
            max = simd.max(max, score);
        }
        let max = simd.reduce_max(max);
        let rescale = (result[0] - max).exp();
        let top = simd.splat(max);
        let mut sum = simd.splat(0.0);
        for chunk in scores.chunks_exact_mut(S::LANES) {
            let weight = exp(simd, simd.sub(simd.load(chunk), top));
            simd.store(weight, chunk);
            sum = simd.add(sum, weight);
        }
        result[0] = max;
        result[1] = result[1] * rescale + simd.reduce_add(sum);
        let factor = simd.splat(rescale);
        for chunk in result[HEADER..].chunks_exact_mut(S::LANES) {
            simd.store(simd.mul(simd.load(chunk), factor), chunk);
        }
    }
}

/// Adds the weighted values of a block of keys to the sums of each row.
#[inline(always)]
fn weigh<S: Simd>(
    simd: S,
    values: &[f32],
    stride: usize,
    count: usize,
    width: usize,
    probabilities: Coefficients<'_>,
    rows: usize,
    sums: &mut [f32],
    sums_stride: usize,
) {
    let mut d = 0;
    while d < width {
        let vectors = S::PANEL.min((width - d) / S::LANES);
        let panel = Panel { values: &values[d..], stride, depth: count, vectors };
        accumulate(simd, panel, probabilities, rows, &mut sums[d..], sums_stride);
        d += vectors * S::LANES;
    }
}
