//! The parts of the keys joined: `out = Σ vector · e^(maximum - best) / Σ sum · e^(maximum - best)`.
//!
//! A cube joins one row: its threads first weigh the parts, then each adds four values of some of
//! them, and last these sums are added.
//!
//! Buffers: vectors and ends (as [`super::Decode`] leaves them), `params`; out
//! `[batch, len, heads, dim]`. A row that sees no key gives zeros.

use cubecl::prelude::*;

use super::LOWEST;
use crate::common::{Builder, F4};

/// Threads in a cube.
const THREADS: usize = 256;
/// Parts at most.
pub const MAX_SPLITS: u32 = 256;

/// The kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Merge {
    /// Head dimension.
    pub dim: u32,
}

impl Merge {
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
    let row = min(CUBE_POS, rows - 1);
    let thread = UNIT_POS_X as usize;

    let mut weights = SharedMemory::<f32>::new(comptime!(MAX_SPLITS as usize));
    let mut sums = SharedMemory::<f32>::new(comptime!(MAX_SPLITS as usize));
    let mut partial = SharedMemory::<F4>::new(THREADS);
    let mut part = thread;
    while part < splits {
        weights[part] = ends[(row * splits + part) * 2];
        sums[part] = ends[(row * splits + part) * 2 + 1];
        part += THREADS;
    }
    sync_cube();
    let mut best = f32::new(LOWEST);
    for part in 0..splits {
        best = max(best, weights[part]);
    }
    sync_cube();
    // Each weight by one thread.
    let mut part = thread;
    while part < splits {
        let weight = (weights[part] - best).exp();
        weights[part] = weight;
        sums[part] *= weight;
        part += THREADS;
    }
    sync_cube();
    let mut sum = 0.0f32;
    for part in 0..splits {
        sum += sums[part];
    }
    let lane = thread % lanes;
    let slice = thread / lanes;
    let mut value = F4::new(0.0f32);
    if slice < slices {
        let mut part = slice;
        while part < splits {
            value += vectors[(row * splits + part) * lanes + lane] * F4::new(weights[part]);
            part += slices;
        }
    }
    partial[thread] = value;
    sync_cube();
    if thread < lanes {
        let mut total = F4::new(0.0f32);
        for slice in 0..slices {
            total += partial[slice * lanes + lane];
        }
        let is_empty = sum == 0.0f32;
        let factor = select(is_empty, 0.0f32, 1.0f32 / select(is_empty, 1.0f32, sum));
        out[row * lanes + lane] = total * F4::new(factor);
    }
}
