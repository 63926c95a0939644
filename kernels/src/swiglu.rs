//! `silu(gate) · up`, element by element (Shazeer, 2020), with `silu(g) = g / (1 + exp(-g))`.
//!
//! Buffers: gate, up, `params`; out. A thread computes four values.

use cubecl::prelude::*;

use crate::{
    Kernel,
    common::{Builder, F4},
};

/// Threads in a cube.
pub const THREADS: u32 = 128;

/// The kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SwiGlu {
    /// Whether `gate` and `up` lie in one matrix, row by row: `[rows, 2 · columns]`. `gate` is then
    /// given for both.
    pub joined: bool,
}

/// The sizes of one launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Params {
    /// Rows.
    pub rows: u32,
    /// Values in a row of the result: a multiple of 4.
    pub columns: u32,
}

impl Params {
    /// As the kernel reads them.
    pub fn words(&self) -> Vec<u32> {
        vec![self.rows, self.columns]
    }
}

/// One value.
#[cube]
pub(crate) fn gated(gate: f32, up: f32) -> f32 {
    // No infinity: `exp(80)` already makes the quotient vanish.
    let e = min(-gate, 80.0f32).exp();
    gate / (1.0f32 + e) * up
}

#[cube]
fn swiglu(
    gate: &Array<F4>,
    up: &Array<F4>,
    params: &Array<u32>,
    out: &mut Array<F4>,
    #[comptime] joined: bool,
) {
    let columns = params[1] as usize / 4;
    let at = CUBE_POS * comptime!(THREADS as usize) + UNIT_POS_X as usize;
    if at < params[0] as usize * columns {
        let mut g = at;
        let mut u = at;
        if comptime!(joined) {
            g = at + (at / columns) * columns;
            u = g + columns;
        }
        let x = gate[g];
        // Not `-x`: Metal has no such operator for the structs that hold vectors. And no infinity: `exp(80)` already makes the quotient vanish.
        let e = min(F4::new(0.0f32) - x, F4::new(80.0f32)).exp();
        out[at] = x / (F4::new(1.0f32) + e) * up[u];
    }
}

impl SwiGlu {
    pub(crate) fn name(self) -> String {
        if self.joined { "swiglu_joined".into() } else { "swiglu".into() }
    }

    /// Cubes of one launch.
    pub const fn cubes(params: &Params) -> u32 {
        (params.rows * (params.columns / 4)).div_ceil(THREADS)
    }

    pub(crate) fn define(self) -> KernelDefinition {
        let mut b = Builder::new();
        let gate = b.input::<F4>();
        let up = if self.joined { gate.clone() } else { b.input::<F4>() };
        let (params, out) = (b.input::<u32>(), b.output::<F4>());
        let scope = &mut b.inner.scope;
        swiglu::expand(scope, gate.into(), up.into(), params.into(), out.into(), self.joined);
        b.finish(THREADS, &self.name())
    }
}

pub(crate) fn table() -> Vec<Kernel> {
    [false, true].map(|joined| Kernel::SwiGlu(SwiGlu { joined })).to_vec()
}
