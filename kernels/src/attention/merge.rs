//! The parts of the keys joined: `out = Σ vector · e^(maximum - best) / Σ sum · e^(maximum - best)`.
//!
//! Buffers: scratch (as [`super::Decode`] leaves it), `params`; out `[batch, len, heads, dim]`. A
//! row that sees no key gives zeros.

use cubecl::prelude::*;

use super::LOWEST;
use crate::{Needs, common::Builder};

/// Threads in a cube.
const THREADS: u32 = 64;

/// The kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Merge {
    /// Head dimension.
    pub dim: u32,
}

impl Merge {
    /// Cubes of one launch.
    pub const fn cubes(self, params: &super::Params) -> u32 {
        (params.rows() * self.dim).div_ceil(THREADS)
    }

    pub(crate) fn name(self) -> String {
        format!("attention_merge_d{}", self.dim)
    }

    pub(crate) fn needs(self) -> Needs {
        Needs::default()
    }

    pub(crate) fn define(self) -> KernelDefinition {
        let mut b = Builder::new();
        let (scratch, params, out) = (b.input::<f32>(), b.input::<u32>(), b.output::<f32>());
        merge::expand(&mut b.inner.scope, scratch.into(), params.into(), out.into(), self);
        b.finish(THREADS, &self.name())
    }
}

#[cube]
fn merge(
    scratch: &Array<f32>,
    params: &Array<u32>,
    out: &mut Array<f32>,
    #[comptime] kernel: Merge,
) {
    let dim = comptime!(kernel.dim as usize);
    let splits = params[7] as usize;
    let rows = params[0] as usize * params[1] as usize * params[2] as usize;
    let at = CUBE_POS * comptime!(THREADS as usize) + UNIT_POS_X as usize;
    if at < rows * dim {
        let row = at / dim;
        let i = at % dim;
        let after = rows * splits * dim + row * splits * 2;
        let mut best = f32::new(LOWEST);
        for split in 0..splits {
            best = max(best, scratch[after + split * 2]);
        }
        let mut value = 0.0f32;
        let mut sum = 0.0f32;
        for split in 0..splits {
            let weight = (scratch[after + split * 2] - best).exp();
            value += weight * scratch[(row * splits + split) * dim + i];
            sum += weight * scratch[after + split * 2 + 1];
        }
        let is_empty = sum == 0.0f32;
        out[at] = select(is_empty, 0.0f32, value / select(is_empty, 1.0f32, sum));
    }
}
