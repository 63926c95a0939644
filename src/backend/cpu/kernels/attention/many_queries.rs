//! Attention of many queries: the queries of a block lie in the lanes of vectors, so that scores, maxima and sums are
//! vertical operations, and both products run on the register-blocked kernel.
//!
//! Transposed throughout: scores are `[key][lane]`, results `[head_dim][lane]`, one lane a query.

use super::super::panel::{Coefficients, Panel, accumulate, pack, unpack};
use super::super::parallel::{TileMut, Tiles, for_each_task};
use super::super::scratch::with_scratch;
use super::super::simd::{Kernel, Simd, exp};
use super::mask::Mask;
use super::{Call, HIDDEN, NOTHING, cap};
use std::ops::Range;

/// Keys whose scores are held at a time.
const BLOCK: usize = 64;
/// The most lanes in a panel.
const MAX_LANES: usize = 64;

pub(super) fn many_queries(call: &Call<'_>, out: &mut [f32], lse: Option<&mut [f32]>) {
    let shape = call.shape;
    let lanes = call.isa.panel_lanes();
    // Several heads of a group share a block of keys; a divisor of the group, so that no tile spans two key heads.
    let together = (1..=lanes.min(call.group())).rev().find(|n| call.group().is_multiple_of(*n));
    let together = together.unwrap_or(1);
    let queries = (lanes / together).min(shape.q_len);
    let heads = shape.batch * shape.heads;
    let (dim, q_len) = (shape.head_dim, shape.q_len);
    let mut unwanted = Vec::new();
    let lse = lse.unwrap_or_else(|| {
        unwanted.resize(heads * q_len, 0.0);
        &mut unwanted
    });
    let logs = Tiles::new(lse, (heads, q_len), (together, queries));
    let tiles = Tiles::new(out, (heads, q_len * dim.max(1)), (together, queries * dim.max(1)));
    let down = heads / together;
    for_each_task(down * logs.across(), |task| {
        // Late queries see the most keys if the mask is causal: they start first, so that no thread ends long after the
        // others.
        let (row, column) = (task % down, logs.across() - 1 - task / down);
        let (out, lse) = (tiles.take(row, column), logs.take(row, column));
        let head = row * together;
        let (batch, head) = (head / shape.heads, head % shape.heads);
        let kv_head = head / call.group();
        let (k, v) = (call.k.head(batch, kv_head), call.v.head(batch, kv_head));
        let rows = lse.row_range().len() * lse.column_range().len();
        let size = (2 * dim + BLOCK) * rows.next_multiple_of(call.isa.lanes());
        let mask = call.mask(batch);
        with_scratch(size, |memory| {
            call.isa.run(Block { call, k, v, mask, memory, out, lse });
        });
    });
}

/// The queries of one tile: some positions of some heads of one group.
struct Block<'a> {
    call: &'a Call<'a>,
    k: &'a [f32],
    v: &'a [f32],
    mask: Mask,
    /// Room for the packed queries, the sums and the scores.
    memory: &'a mut [f32],
    out: TileMut<'a>,
    lse: TileMut<'a>,
}

impl Kernel for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let Call { shape, k: k_view, v: v_view, options, .. } = *self.call;
        let dim = shape.head_dim;
        let (heads, queries) = (self.lse.row_range(), self.lse.column_range());
        let rows = heads.len() * queries.len();
        let vectors = rows.div_ceil(S::LANES);
        let lanes = vectors * S::LANES;
        let (q, memory) = self.memory.split_at_mut(dim * lanes);
        let (sums, scores) = memory.split_at_mut(dim * lanes);
        let row = |lane: usize| {
            let (head, query) =
                (heads.start + lane / queries.len(), queries.start + lane % queries.len());
            &self.call.q[(head * shape.q_len + query) * dim..][..dim]
        };
        pack(simd, row, rows, dim, lanes, q);
        sums.fill(0.0);
        let mut state = State { max: [NOTHING; MAX_LANES], sum: [0.0; MAX_LANES] };
        let seen = Seen::new(&self.mask, queries.clone(), rows);
        for start in seen.any.clone().step_by(BLOCK) {
            let keys = start..seen.any.end.min(start + BLOCK);
            let scores = &mut scores[..keys.len() * lanes];
            scores.fill(0.0);
            let panel = Panel { values: q, stride: lanes, depth: dim, vectors };
            let from =
                Coefficients::FeatureRows(&self.k[start * k_view.row_stride..], k_view.row_stride);
            accumulate(simd, panel, from, keys.len(), scores, lanes);
            for v in 0..vectors {
                let lane = v * S::LANES;
                state.update(
                    simd,
                    lane,
                    lanes,
                    options.scale,
                    options.softcap,
                    &seen,
                    keys.clone(),
                    scores,
                    sums,
                );
            }
            let panel = Panel { values: scores, stride: lanes, depth: keys.len(), vectors };
            let from =
                Coefficients::DepthRows(&self.v[start * v_view.row_stride..], v_view.row_stride);
            accumulate(simd, panel, from, dim, sums, lanes);
        }
        state.finish(rows, lanes, sums);
        unpack(simd, sums, lanes, rows, dim, |lane, d, values| {
            let (head, query) = (lane / queries.len(), lane % queries.len());
            self.out.row(head)[query * dim + d..][..values.len()].copy_from_slice(values);
        });
        for (lane, max) in state.max[..rows].iter().enumerate() {
            self.lse.row(lane / queries.len())[lane % queries.len()] = *max;
        }
    }
}

/// What the lanes see: for each the first key and the one after the last, as floats to compare in vectors.
struct Seen {
    first: [f32; MAX_LANES],
    last: [f32; MAX_LANES],
    /// What any lane sees.
    any: Range<usize>,
    /// What every lane sees.
    every: Range<usize>,
}

impl Seen {
    fn new(mask: &Mask, queries: Range<usize>, rows: usize) -> Self {
        let any = mask.visible_to_any(queries.clone());
        let mut seen =
            Self { first: [0.0; MAX_LANES], last: [0.0; MAX_LANES], every: any.clone(), any };
        for lane in 0..rows {
            let range = mask.visible(queries.start + lane % queries.len());
            // Relative to `any.start`, to be exact for any length of context.
            let base = seen.any.start.cast_signed();
            seen.first[lane] = (range.start.cast_signed() - base) as f32;
            seen.last[lane] = (range.end.cast_signed() - base - 1) as f32;
            seen.every = seen.every.start.max(range.start)..seen.every.end.min(range.end);
        }
        seen
    }
}

/// The running softmax of each lane.
struct State {
    max: [f32; MAX_LANES],
    sum: [f32; MAX_LANES],
}

impl State {
    /// One vector of lanes: turns the block's dot products into weights and rescales what was summed before.
    #[inline(always)]
    fn update<S: Simd>(
        &mut self,
        simd: S,
        lane: usize,
        lanes: usize,
        scale: f32,
        softcap: Option<f32>,
        seen: &Seen,
        keys: Range<usize>,
        scores: &mut [f32],
        sums: &mut [f32],
    ) {
        let scale = simd.splat(scale);
        let hidden = simd.splat(HIDDEN);
        let first = simd.load(&seen.first[lane..]);
        let last = simd.load(&seen.last[lane..]);
        let masked = keys.start < seen.every.start || keys.end > seen.every.end;
        let before = simd.load(&self.max[lane..]);
        let mut max = before;
        for (j, row) in scores.chunks_exact_mut(lanes).enumerate() {
            let place = &mut row[lane..lane + S::LANES];
            let mut score = simd.mul(simd.load(place), scale);
            if let Some(softcap) = softcap {
                score = cap(simd, score, softcap);
            }
            if masked {
                let key = simd.splat((keys.start - seen.any.start + j) as f32);
                score = simd.select_le(first, key, score, hidden);
                score = simd.select_le(key, last, score, hidden);
            }
            simd.store(score, place);
            max = simd.max(max, score);
        }
        let mut sum = simd.splat(0.0);
        for row in scores.chunks_exact_mut(lanes) {
            let place = &mut row[lane..lane + S::LANES];
            let weight = exp(simd, simd.sub(simd.load(place), max));
            simd.store(weight, place);
            sum = simd.add(sum, weight);
        }
        let factor = exp(simd, simd.sub(before, max));
        let total = simd.fma(simd.load(&self.sum[lane..]), factor, sum);
        simd.store(total, &mut self.sum[lane..]);
        simd.store(max, &mut self.max[lane..]);
        for row in sums.chunks_exact_mut(lanes) {
            let place = &mut row[lane..lane + S::LANES];
            simd.store(simd.mul(simd.load(place), factor), place);
        }
    }

    /// Divides the summed values by the sums of weights; `max` becomes the log-sum-exp.
    fn finish(&mut self, rows: usize, lanes: usize, sums: &mut [f32]) {
        let mut factor = [0.0; MAX_LANES];
        for lane in 0..rows {
            // A lane that saw nothing has a sum of exactly zero; not-a-number goes on.
            if self.sum[lane] == 0.0 {
                self.max[lane] = NOTHING;
            } else {
                factor[lane] = 1.0 / self.sum[lane];
                self.max[lane] += self.sum[lane].ln();
            }
        }
        for row in sums.chunks_exact_mut(lanes) {
            for (value, factor) in row.iter_mut().zip(&factor) {
                *value *= factor;
            }
        }
    }
}
