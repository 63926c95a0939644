//! Rows of a plain matrix by their ids, in f32: a token embedding. (Those of blocks: [`dequantise`].)
//!
//! Buffers: weight, ids, `params`; out `[rows, columns]`. A thread copies four values.
//!
//! [`dequantise`]: crate::dequantise

use cubecl::prelude::*;
use half::f16;

use crate::{
    Kernel, Needs,
    common::{Builder, F4},
};

/// Threads in a cube.
pub const THREADS: u32 = 128;

/// The kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rows {
    /// Whether the matrix is in f16 instead of f32.
    pub f16: bool,
}

/// The sizes of one launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Params {
    /// Rows to write.
    pub rows: u32,
    /// Columns, a multiple of 4.
    pub columns: u32,
    /// Rows of the matrix: an id behind them gives a row of zeros.
    pub source_rows: u32,
}

impl Params {
    /// As the kernel reads them.
    pub fn words(&self) -> Vec<u32> {
        vec![self.rows, self.columns, self.source_rows]
    }
}

#[cube]
fn rows<F: Float>(
    weight: &Array<Vector<F, Const<4>>>,
    ids: &Array<u32>,
    params: &Array<u32>,
    out: &mut Array<F4>,
) {
    let columns = params[1] as usize / 4;
    let at = CUBE_POS * comptime!(THREADS as usize) + UNIT_POS_X as usize;
    if at < params[0] as usize * columns {
        let source = ids[at / columns] as usize;
        let mut values = F4::new(0.0f32);
        if source < params[2] as usize {
            values = F4::cast_from(weight[source * columns + at % columns]);
        }
        out[at] = values;
    }
}

impl Rows {
    pub(crate) fn name(self) -> String {
        format!("rows_{}_f32", if self.f16 { "f16" } else { "f32" })
    }

    pub(crate) fn needs(self) -> Needs {
        Needs { f16: self.f16, ..Needs::default() }
    }

    /// Cubes of one launch.
    pub const fn cubes(params: &Params) -> u32 {
        (params.rows * (params.columns / 4)).div_ceil(THREADS)
    }

    pub(crate) fn define(self) -> KernelDefinition {
        if self.f16 { self.define_as::<f16>() } else { self.define_as::<f32>() }
    }

    fn define_as<F: Float>(self) -> KernelDefinition {
        let mut b = Builder::new();
        let weight = b.input::<Vector<F, Const<4>>>();
        let (ids, params, out) = (b.input::<u32>(), b.input::<u32>(), b.output::<F4>());
        let scope = &mut b.inner.scope;
        rows::expand::<F>(scope, weight.into(), ids.into(), params.into(), out.into());
        b.finish(THREADS, &self.name())
    }
}

pub(crate) fn table() -> Vec<Kernel> {
    [false, true].map(|f16| Kernel::Rows(Rows { f16 })).to_vec()
}
