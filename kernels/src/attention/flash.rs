//! Attention of many query rows over the cache: what a prompt needs (FlashAttention-2, Dao, 2023).
//!
//! A cube has a tile of query rows of one head and goes over the keys in tiles, keeping each row's
//! maximum and sum (Milakov & Gimelshein, 2018): no more than a tile of scores ever exists. Tiles of
//! keys that no row of the cube sees are not visited.
//!
//! Its threads stand in 16 rows of 8. A thread holds the scores of a few query rows with 4
//! neighbouring keys, and of the same rows every eighth vector of 4 output values. Queries and keys
//! go through shared memory in chunks of the head dimension, then values in slices of keys, in the
//! same place.
//!
//! Buffers: q `[batch, len, heads, dim]`, keys, values `[batch, kv_heads, capacity, dim]`, padding
//! `[batch]`, `params`; out as q, and the log-sum-exp of each row's scores `[batch, len, heads]`. A
//! row that sees no key gives zeros, and −10³⁰ for its log-sum-exp.

use cubecl::prelude::*;
use half::f16;

use super::{
    LOWEST, flash_units,
    keys::slot_of,
    tile::{blocks, place_of, tile},
    visible,
};
use crate::{
    MatrixUnits, Needs,
    common::{Builder, F4},
};

/// Threads beside each other: they share query rows.
const ACROSS: usize = 8;
/// Threads below each other: they share keys.
const DOWN: usize = 16;
/// Keys of a tile.
const KEYS: usize = 4 * ACROSS;

/// The kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flash {
    /// Head dimension: a multiple of 16, at most 256.
    pub dim: u32,
    /// Whether the cache holds f16 instead of f32.
    pub f16: bool,
    /// Query rows of a cube: a multiple of 16.
    pub rows: u32,
    /// By matrix units of f16 (see [`flash_units`]): a cache of f16, heads of up to 128 values.
    pub units: Option<MatrixUnits>,
}

impl Flash {
    /// The variant for these units; `None` where there is none. (Heads as models have them: a kernel that is
    /// expanded at run time misses what [`targets`](crate::targets) sees to.)
    pub const fn by_units(dim: u32, units: MatrixUnits) -> Option<Self> {
        let fits = units.halves && matches!(dim, 32 | 64 | 80 | 96 | 128);
        let kernel =
            Self { dim, f16: true, rows: flash_units::rows(units.edge), units: Some(units) };
        if fits { Some(kernel) } else { None }
    }

    /// Cubes of one launch.
    pub const fn cubes(self, params: &super::Params) -> u32 {
        params.batch * params.heads * params.len.div_ceil(self.rows)
    }

    /// Vectors of the head dimension that are staged at a time.
    const fn chunk(self) -> usize {
        if self.dim.is_multiple_of(32) { 8 } else { 4 }
    }

    /// Vectors from one staged row to the next: one more than there are, so that rows begin in
    /// different banks.
    const fn stride(self) -> usize {
        self.chunk() + 1
    }

    /// Vectors of shared memory for queries and keys, or for values.
    const fn stage(self) -> usize {
        (self.rows as usize + KEYS) * self.stride()
    }

    /// Keys whose values are staged at a time.
    const fn slice(self) -> usize {
        let mut slice = KEYS;
        while slice * self.dim as usize / 4 > self.stage() {
            slice /= 2;
        }
        slice
    }

    pub(crate) fn name(self) -> String {
        let Self { dim, f16, rows, units } = self;
        let ty = if f16 { "f16" } else { "f32" };
        let way = units.map_or_else(String::new, |units| format!("_units{}", units.edge));
        format!("attention_flash_d{dim}_{ty}_r{rows}{way}")
    }

    pub(crate) fn needs(self) -> Needs {
        let Self { f16, units, .. } = self;
        Needs { plane: units.map(|_| 32), f16, units, ..Needs::default() }
    }

    pub(crate) fn define(self) -> KernelDefinition {
        if self.f16 { self.define_as::<f16>() } else { self.define_as::<f32>() }
    }

    fn define_as<C: Float>(self) -> KernelDefinition {
        let mut b = Builder::new();
        let q = b.input::<F4>();
        let [keys, values] = [(); 2].map(|()| b.input::<Vector<C, Const<4>>>());
        let (padding, params) = (b.input::<u32>(), b.input::<u32>());
        let (out, log_sums) = (b.output::<F4>(), b.output::<f32>());
        let (expand, threads) = match self.units {
            Some(_) => (
                flash_units::flash::expand::<C> as fn(_, _, _, _, _, _, _, _, _),
                flash_units::THREADS,
            ),
            None => (flash::expand::<C> as fn(_, _, _, _, _, _, _, _, _), (ACROSS * DOWN) as u32),
        };
        expand(
            &mut b.inner.scope,
            q.into(),
            keys.into(),
            values.into(),
            padding.into(),
            params.into(),
            out.into(),
            log_sums.into(),
            self,
        );
        b.finish(threads, &self.name())
    }
}

/// Adds to `scores` (own rows by 4 keys) the products of the staged chunk.
#[cube]
fn add_products(scores: &mut Array<f32>, stage: &SharedMemory<F4>, #[comptime] kernel: Flash) {
    let own = comptime!(kernel.rows as usize / DOWN);
    let stride = comptime!(kernel.stride());
    let across = UNIT_POS_X as usize % ACROSS;
    let row = UNIT_POS_X as usize / ACROSS * own;
    for step in 0..comptime!(kernel.chunk()) {
        let mut key = Array::<F4>::new(4usize);
        #[unroll]
        for k in 0..4usize {
            key[k] = stage[(comptime!(kernel.rows as usize + k * ACROSS) + across) * stride + step];
        }
        #[unroll]
        for r in 0..own {
            let query = stage[(row + r) * stride + step];
            #[unroll]
            for k in 0..4usize {
                #[unroll]
                for e in 0..4usize {
                    scores[comptime!(r * 4 + k)] += query[e] * key[k][e];
                }
            }
        }
    }
}

/// Adds the staged values to `acc` (own rows by own vectors), weighted, and the weights to `sum`.
#[cube]
fn add_values(
    acc: &mut Array<F4>,
    sum: &mut Array<f32>,
    weights: &SharedMemory<F4>,
    stage: &SharedMemory<F4>,
    first: usize,
    #[comptime] kernel: Flash,
) {
    let own = comptime!(kernel.rows as usize / DOWN);
    let vectors = comptime!(kernel.dim as usize / 4);
    let columns = comptime!((kernel.dim as usize / 4).div_ceil(ACROSS));
    let across = UNIT_POS_X as usize % ACROSS;
    let row = UNIT_POS_X as usize / ACROSS * own;
    for four in 0..comptime!(kernel.slice() / 4) {
        let mut weight = Array::<F4>::new(own);
        #[unroll]
        for r in 0..own {
            let w = weights[(row + r) * comptime!(ACROSS + 1) + first / 4 + four];
            sum[r] += w[0] + w[1] + w[2] + w[3];
            weight[r] = w;
        }
        #[unroll]
        for e in 0..4usize {
            #[unroll]
            for c in 0..columns {
                // The last vectors of a head dimension need not be enough for all threads.
                let column = min(across + comptime!(c * ACROSS), comptime!(vectors - 1));
                let value = stage[(four * 4 + e) * vectors + column];
                #[unroll]
                for r in 0..own {
                    acc[comptime!(r * columns + c)] += F4::new(weight[r][e]) * value;
                }
            }
        }
    }
}

#[cube]
fn flash<C: Float>(
    q: &Array<F4>,
    keys: &Array<Vector<C, Const<4>>>,
    values: &Array<Vector<C, Const<4>>>,
    padding: &Array<u32>,
    params: &Array<u32>,
    out: &mut Array<F4>,
    log_sums: &mut Array<f32>,
    #[comptime] kernel: Flash,
) {
    let rows = comptime!(kernel.rows as usize);
    let own = comptime!(kernel.rows as usize / DOWN);
    let vectors = comptime!(kernel.dim as usize / 4);
    let columns = comptime!((kernel.dim as usize / 4).div_ceil(ACROSS));
    let chunk = comptime!(kernel.chunk());
    let stride = comptime!(kernel.stride());
    let slice = comptime!(kernel.slice());
    let threads = comptime!(ACROSS * DOWN);

    let len = params[1] as usize;
    let total = params[4] as usize;
    let capacity = params[5] as usize;
    let start = params[6] as usize;
    let scale = f32::reinterpret(params[8]);
    let soft_cap = f32::reinterpret(params[9]);
    let tile = tile(params, kernel);
    let base = tile.base;

    let thread = UNIT_POS_X as usize;
    let across = thread % ACROSS;
    let row = thread / ACROSS * own;

    let mut first = Array::<u32>::new(own);
    let mut last = Array::<u32>::new(own);
    let mut maximum = Array::<f32>::new(own);
    let mut sum = Array::<f32>::new(own);
    let mut acc = Array::<F4>::new(comptime!(own * columns));
    #[unroll]
    for r in 0..own {
        let seen = visible(params, padding, tile.sequence, min(tile.first_row + row + r, len - 1));
        first[r] = seen.0;
        last[r] = seen.1;
        maximum[r] = LOWEST;
        sum[r] = 0.0f32;
        #[unroll]
        for c in 0..columns {
            acc[comptime!(r * columns + c)] = F4::new(0.0f32);
        }
    }

    let mut stage = SharedMemory::<F4>::new(comptime!(kernel.stage()));
    let mut weights = SharedMemory::<F4>::new(comptime!(rows * (ACROSS + 1)));

    let (begin, end) = blocks(&tile, params, padding, KEYS);
    for step in begin..end {
        let mut scores = Array::<f32>::new(comptime!(own * 4));
        #[unroll]
        for i in 0..comptime!(own * 4) {
            scores[i] = 0.0f32;
        }
        for part in 0..comptime!(vectors / chunk) {
            // What was staged before has been read.
            sync_cube();
            #[unroll]
            for i in 0..comptime!((rows * chunk).div_ceil(threads)) {
                let place = thread + comptime!(i * threads);
                let position = min(tile.first_row + place / chunk, len - 1);
                let from = place_of(&tile, position) * vectors;
                stage[place / chunk * stride + place % chunk] =
                    q[from + part * chunk + place % chunk] * F4::new(scale);
            }
            #[unroll]
            for i in 0..comptime!((KEYS * chunk).div_ceil(threads)) {
                let place = thread + comptime!(i * threads);
                let key = place / chunk;
                let slot = slot_of(min(step * KEYS + key, total - 1), start, capacity);
                // Every fourth key, so that neighbouring threads read neighbouring rows.
                let to = key % 4 * ACROSS + key / 4;
                stage[(rows + to) * stride + place % chunk] =
                    F4::cast_from(keys[(base + slot) * vectors + part * chunk + place % chunk]);
            }
            sync_cube();
            add_products(&mut scores, &stage, kernel);
        }

        let key = (step * KEYS + across * 4) as u32;
        #[unroll]
        for r in 0..own {
            let mut best = f32::new(LOWEST);
            #[unroll]
            for k in 0..4usize {
                let mut score = scores[comptime!(r * 4 + k)];
                if soft_cap != 0.0f32 {
                    score = soft_cap * (score / soft_cap).tanh();
                }
                let at = key + comptime!(k as u32);
                let sees = at >= first[r] && at < last[r];
                scores[comptime!(r * 4 + k)] = select(sees, score, LOWEST);
                best = max(best, scores[comptime!(r * 4 + k)]);
            }
            // Where weights will be: a maximum for each thread of the row.
            weights[(row + r) * comptime!(ACROSS + 1) + across] = F4::new(best);
        }
        sync_cube();
        let mut bests = Array::<f32>::new(own);
        #[unroll]
        for r in 0..own {
            bests[r] = maximum[r];
            #[unroll]
            for i in 0..ACROSS {
                bests[r] = max(bests[r], weights[(row + r) * comptime!(ACROSS + 1) + i][0]);
            }
        }
        // All of them have been read.
        sync_cube();
        #[unroll]
        for r in 0..own {
            let best = bests[r];
            let keep = (maximum[r] - best).exp();
            maximum[r] = best;
            sum[r] *= keep;
            #[unroll]
            for c in 0..columns {
                acc[comptime!(r * columns + c)] *= F4::new(keep);
            }
            let mut weight = F4::new(0.0f32);
            #[unroll]
            for k in 0..4usize {
                let score = scores[comptime!(r * 4 + k)];
                // A hidden key weighs nothing, also where all are hidden and `best` is no score.
                weight[k] = select(score > LOWEST, (score - best).exp(), 0.0f32);
            }
            weights[(row + r) * comptime!(ACROSS + 1) + across] = weight;
        }
        for part in 0..comptime!(KEYS / slice) {
            if part > 0 {
                // The slice before has been read.
                sync_cube();
            }
            #[unroll]
            for i in 0..comptime!((slice * vectors).div_ceil(threads)) {
                let place = thread + comptime!(i * threads);
                if place < comptime!(slice * vectors) {
                    let key = min(step * KEYS + part * slice + place / vectors, total - 1);
                    let slot = slot_of(key, start, capacity);
                    stage[place] = F4::cast_from(values[(base + slot) * vectors + place % vectors]);
                }
            }
            sync_cube();
            add_values(&mut acc, &mut sum, &weights, &stage, part * slice, kernel);
        }
    }

    #[unroll]
    for r in 0..own {
        let position = tile.first_row + row + r;
        if position < len {
            let place = place_of(&tile, position);
            let is_empty = sum[r] == 0.0f32;
            let total = select(is_empty, 1.0f32, sum[r]);
            let factor = select(is_empty, 0.0f32, 1.0f32 / total);
            #[unroll]
            for c in 0..columns {
                let column = across + comptime!(c * ACROSS);
                if column < vectors {
                    out[place * vectors + column] =
                        acc[comptime!(r * columns + c)] * F4::new(factor);
                }
            }
            if across == 0 {
                log_sums[place] = select(is_empty, LOWEST, maximum[r] + total.ln());
            }
        }
    }
}
