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
    common::{Builder, F4},
    waits::announced4,
};

/// Threads in a cube.
const THREADS: usize = 256;
/// Parts that a thread reads at a time.
const AHEAD: usize = 4;
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

    let mut best = f32::new(LOWEST);
    let mut sum = 0.0f32;
    let mut value = F4::new(0.0f32);
    let mut maxima = Array::<f32>::new(AHEAD);
    let mut part_sums = Array::<f32>::new(AHEAD);
    let mut held = Array::<F4>::new(AHEAD);
    let mut part = slice;
    while part < splits {
        // All of these are on their way at once. Places behind the end read the last part.
        let before = best;
        #[unroll]
        for i in 0..AHEAD {
            let at = first + min(part + i * slices, splits - 1);
            let exists = part + i * slices < splits;
            maxima[i] = select(exists, ends[at * 2], f32::new(LOWEST));
            part_sums[i] = select(exists, ends[at * 2 + 1], 0.0f32);
            held[i] = vectors[at * lanes + lane];
        }
        #[unroll]
        for i in 0..AHEAD {
            best = max(best, maxima[i]);
        }
        let factor = (before - best).exp();
        sum *= factor;
        value *= F4::new(factor);
        #[unroll]
        for i in 0..AHEAD {
            let exists = part + i * slices < splits;
            let weight = select(exists, (maxima[i] - best).exp(), 0.0f32);
            sum += part_sums[i] * weight;
            value += held[i] * F4::new(weight);
        }
        part += comptime!(AHEAD * slices);
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
