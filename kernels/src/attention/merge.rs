//! The parts of the keys joined: `out = Σ vector · e^(maximum - best) / Σ sum · e^(maximum - best)`.
//!
//! A cube joins one row: a thread adds four values of some of the parts, each as much as its maximum
//! says, and the first threads join these sums likewise. So nothing is waited for but one read from
//! memory and one exchange.
//!
//! Buffers: vectors and ends (as [`super::Decode`] leaves them), `params`; out
//! `[batch, len, heads, dim]`. A row that sees no key gives zeros.

use cubecl::prelude::*;

use super::LOWEST;
use crate::{
    Wait,
    common::{Builder, F4},
    waits::{LOOKS, announced4, are_there, is_there, never},
};

/// Threads in a cube.
const THREADS: usize = 256;
/// Parts that a thread reads at a time.
const AHEAD: usize = 4;
/// Bits beside [`super::Params::angles_per_sequence`], and beside those of [`super::Decode`]: what is to be
/// waited for.
const WAITS_FOR_VECTORS: u32 = 1 << 4;
const WAITS_FOR_ENDS: u32 = 1 << 5;
/// Parts at most.
pub const MAX_SPLITS: u32 = 256;

/// The kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Merge {
    /// Head dimension.
    pub dim: u32,
}

impl Merge {
    /// The place of the result.
    pub(crate) const OUT: usize = 3;

    /// For the parts.
    pub(crate) const WAITS: [Wait; 2] = [
        Wait { buffer: 0, word: 13, bit: WAITS_FOR_VECTORS },
        Wait { buffer: 1, word: 13, bit: WAITS_FOR_ENDS },
    ];

    /// Cubes of one launch.
    #[allow(clippy::unused_self)] // as other kernels have it
    pub const fn cubes(self, params: &super::Params) -> u32 {
        params.rows()
    }

    pub(crate) fn name(self) -> String {
        format!("attention_merge_d{}", self.dim)
    }

    pub(crate) fn define(self) -> KernelDefinition {
        let mut b = Builder::new();
        let (vectors, ends, params) = (b.input::<F4>(), b.input::<f32>(), b.input::<u32>());
        let out = b.output::<F4>();
        let scope = &mut b.inner.scope;
        merge::expand(scope, vectors.into(), ends.into(), params.into(), out.into(), self);
        b.finish(THREADS as u32, &self.name())
    }
}

/// What a thread reads at a time: for each part its ends, and a vector.
#[derive(CubeType)]
struct Seen {
    maxima: Array<f32>,
    sums: Array<f32>,
    vectors: Array<F4>,
}

/// Reads parts of the row that begins at `first`: `part` and each `slices`-th after it. Places behind the end
/// read the last one.
#[cube]
fn see(
    seen: &mut Seen,
    vectors: &Array<F4>,
    ends: &Array<f32>,
    first: usize,
    part: usize,
    splits: usize,
    #[comptime] kernel: Merge,
) {
    let lanes = comptime!(kernel.dim as usize / 4);
    let slices = comptime!(THREADS / (kernel.dim as usize / 4));
    let lane = UNIT_POS_X as usize % lanes;
    #[unroll]
    for i in 0..AHEAD {
        let at = first + min(part + i * slices, splits - 1);
        seen.maxima[i] = ends[at * 2];
        seen.sums[i] = ends[at * 2 + 1];
        seen.vectors[i] = vectors[at * lanes + lane];
    }
}

/// Whether all of that was there which is to be waited for.
#[cube]
fn all_there(seen: &Seen, told: u32) -> bool {
    let mut ends = true.runtime();
    let mut vectors = true.runtime();
    #[unroll]
    for i in 0..AHEAD {
        ends = ends && is_there(seen.maxima[i]) && is_there(seen.sums[i]);
        vectors = vectors && are_there(seen.vectors[i]);
    }
    (ends || told & WAITS_FOR_ENDS == 0) && (vectors || told & WAITS_FOR_VECTORS == 0)
}

#[cube]
fn merge(
    vectors: &Array<F4>,
    ends: &Array<f32>,
    params: &Array<u32>,
    out: &mut Array<F4>,
    #[comptime] kernel: Merge,
) {
    let lanes = comptime!(kernel.dim as usize / 4);
    let slices = comptime!(THREADS / (kernel.dim as usize / 4));
    let splits = params[7] as usize;
    let rows = params[0] as usize * params[1] as usize * params[2] as usize;
    // Cubes behind the end do the last row again.
    let first = min(CUBE_POS, rows - 1) * splits;
    let thread = UNIT_POS_X as usize;
    let lane = thread % lanes;
    let slice = thread / lanes;

    let told = params[13] & comptime!(WAITS_FOR_VECTORS | WAITS_FOR_ENDS);
    if told & WAITS_FOR_ENDS != 0 {
        // One thread first, for the part that begins last: all would be in the way of what they wait for.
        if UNIT_POS_X == 0 {
            let last = (first + splits - 1) * 2;
            let mut end = ends[last];
            let mut looks = 0u32.runtime();
            while !is_there(end) && looks < LOOKS {
                end = ends[last];
                looks += 1;
            }
        }
        sync_cube();
    }

    let mut best = f32::new(LOWEST);
    let mut sum = 0.0f32;
    let mut value = F4::new(0.0f32);
    let mut seen = Seen {
        maxima: Array::<f32>::new(AHEAD),
        sums: Array::<f32>::new(AHEAD),
        vectors: Array::<F4>::new(AHEAD),
    };
    // As many turns for every thread: they look together (see `targets::modules::shared`).
    let each_turn = comptime!(AHEAD * slices);
    for turn in 0..(splits + comptime!(each_turn - 1)) / each_turn {
        let part = slice + turn * each_turn;
        // All of these are on their way at once.
        let before = best;
        see(&mut seen, vectors, ends, first, part, splits, kernel);
        if told != 0 {
            let mut looks = 0u32.runtime();
            while !all_there(&seen, told) && looks < LOOKS {
                see(&mut seen, vectors, ends, first, part, splits, kernel);
                looks += 1;
            }
            if looks == LOOKS {
                seen.sums[0] = never(looks);
            }
        }
        #[unroll]
        for i in 0..AHEAD {
            let exists = part + i * slices < splits;
            seen.maxima[i] = select(exists, seen.maxima[i], f32::new(LOWEST));
            best = max(best, seen.maxima[i]);
        }
        let factor = (before - best).exp();
        sum *= factor;
        value *= F4::new(factor);
        #[unroll]
        for i in 0..AHEAD {
            let exists = part + i * slices < splits;
            let weight = select(exists, (seen.maxima[i] - best).exp(), 0.0f32);
            sum += seen.sums[i] * weight;
            value += seen.vectors[i] * F4::new(weight);
        }
    }

    let mut bests = SharedMemory::<f32>::new(slices);
    let mut sums = SharedMemory::<f32>::new(slices);
    let mut values = SharedMemory::<F4>::new(THREADS);
    if lane == 0 && slice < slices {
        bests[slice] = best;
        sums[slice] = sum;
    }
    values[thread] = value;
    sync_cube();
    if thread < lanes {
        #[unroll]
        for i in 0..slices {
            best = max(best, bests[i]);
        }
        let mut all = 0.0f32;
        let mut total = F4::new(0.0f32);
        #[unroll]
        for i in 0..slices {
            let weight = (bests[i] - best).exp();
            all += sums[i] * weight;
            total += values[i * lanes + lane] * F4::new(weight);
        }
        let is_empty = all == 0.0f32;
        let factor = select(is_empty, 0.0f32, 1.0f32 / select(is_empty, 1.0f32, all));
        out[min(CUBE_POS, rows - 1) * lanes + lane] = announced4(total * F4::new(factor));
    }
}
