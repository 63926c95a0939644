//! Root-mean-square norm over rows, in f32 (Zhang & Sennrich, 2019), after adding a residual where
//! there is one: `sum = x + residual; out = sum / sqrt(mean(sum²) + epsilon) · weight`.
//!
//! A cube computes one row. Buffers: x, residual (if any), weight, `params`; sum (if any), out.

use cubecl::prelude::*;

use crate::{
    Kernel, Needs, Reduce,
    common::{Builder, group_totals, over_groups},
};

/// Threads in a cube.
pub const THREADS: u32 = 256;

/// A norm kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RmsNorm {
    /// Whether a residual is added first.
    pub residual: bool,
    /// How a row adds up.
    pub reduce: Reduce,
}

/// The sizes of one launch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Params {
    /// Rows: one cube each.
    pub rows: u32,
    /// Values in a row.
    pub columns: u32,
    /// Added to the mean square.
    pub epsilon: f32,
}

impl Params {
    /// As the kernel reads them.
    pub fn words(&self) -> Vec<u32> {
        vec![self.columns, self.epsilon.to_bits(), self.rows]
    }
}

#[cube]
fn rms_norm(
    x: &Array<f32>,
    residual: &Array<f32>,
    weight: &Array<f32>,
    params: &Array<u32>,
    sum: &mut Array<f32>,
    out: &mut Array<f32>,
    #[comptime] kernel: RmsNorm,
) {
    let columns = params[0] as usize;
    let epsilon = f32::reinterpret(params[1]);
    // Cubes behind the end do the last row again.
    let base = min(CUBE_POS, params[2] as usize - 1) * columns;
    let mut squares = Array::<f32>::new(1usize);
    squares[0] = 0.0f32;
    let mut i = UNIT_POS_X as usize;
    while i < columns {
        let mut value = x[base + i];
        if comptime!(kernel.residual) {
            value += residual[base + i];
            sum[base + i] = value;
        }
        squares[0] += value * value;
        i += comptime!(THREADS as usize);
    }
    // Within groups, then over the groups.
    let groups = comptime!((THREADS / kernel.reduce.threads()) as usize);
    let total = group_totals(&squares, 1usize, groups, kernel.reduce);
    let total = over_groups(total, groups, kernel.reduce);
    let factor = 1.0f32 / (total / f32::cast_from(params[0]) + epsilon).sqrt();
    let mut i = UNIT_POS_X as usize;
    while i < columns {
        let mut value = x[base + i];
        if comptime!(kernel.residual) {
            value += residual[base + i];
        }
        out[base + i] = value * factor * weight[i];
        i += comptime!(THREADS as usize);
    }
}

impl RmsNorm {
    pub(crate) fn name(self) -> String {
        let residual = if self.residual { "add_" } else { "" };
        format!("{residual}rms_norm_{}", self.reduce.name())
    }

    pub(crate) fn needs(self) -> Needs {
        Needs { plane: self.reduce.plane(), ..Needs::default() }
    }

    pub(crate) fn define(self) -> KernelDefinition {
        let mut b = Builder::new();
        let x = b.input::<f32>();
        let residual = self.residual.then(|| b.input::<f32>());
        let (weight, params) = (b.input::<f32>(), b.input::<u32>());
        let sum = self.residual.then(|| b.output::<f32>());
        let out = b.output::<f32>();
        let residual = residual.unwrap_or_else(|| x.clone());
        let sum = sum.unwrap_or_else(|| out.clone());
        rms_norm::expand(
            &mut b.inner.scope,
            x.into(),
            residual.into(),
            weight.into(),
            params.into(),
            sum.into(),
            out.into(),
            self,
        );
        b.finish(THREADS, &self.name())
    }
}

pub(crate) fn table() -> Vec<Kernel> {
    let mut all = Vec::new();
    for residual in [false, true] {
        for reduce in [Reduce::Plane(32), Reduce::Shared(16)] {
            all.push(Kernel::RmsNorm(RmsNorm { residual, reduce }));
        }
    }
    all
}
