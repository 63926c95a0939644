//! `out[m, r] = Σ_k weight[r, k] · x[m, k] (+ bias[r])` for a few rows `m` of `x`: what a decode step
//! spends its time in. It is bound by reading the weights, once each.
//!
//! A group of threads computes `rows` rows of the weight; a cube has `groups` groups.
//! - Plain weights: a thread reads four values at a time, neighbours reading neighbours, and takes `x`
//!   straight from memory (it stays in the cache).
//! - Blocks: a thread decodes a piece of 32 values. `x` lies in shared memory, padded so that
//!   threads that read at a distance of 32 values meet different banks; it is staged a
//!   tile at a time.

mod blocks;
mod plain;
mod table;

use cubecl::prelude::*;

use crate::{Format, Needs, Reduce, common::Builder};
pub(crate) use table::table;

/// What 32 of them take there.
pub(crate) const PADDED: usize = 36;

/// A matrix-vector kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatVec {
    /// How the weight is stored.
    pub format: Format,
    /// Rows of `x`: 1, 2, 4 or 8. A launch may use fewer.
    pub batch: u32,
    /// Groups in a cube.
    pub groups: u32,
    /// Rows of the weight for each group.
    pub rows: u32,
    /// How a group adds up.
    pub reduce: Reduce,
}

/// The sizes of one launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Params {
    /// Rows of the weight.
    pub rows: u32,
    /// Columns of the weight: as many as [`MatVec::takes_columns`] says.
    pub columns: u32,
    /// Rows of `x`, at most [`MatVec::batch`].
    pub batch: u32,
    /// The first of those rows, in `x` and in the result.
    pub first: u32,
    /// Whether a bias is added; where none is, its buffer is not read.
    pub bias: bool,
}

impl Params {
    /// As the kernel reads them.
    pub fn words(&self) -> Vec<u32> {
        vec![self.rows, self.columns, self.batch, self.bias as u32, self.first]
    }
}

impl MatVec {
    pub(crate) fn name(self) -> String {
        let Self { format, batch, groups, rows, reduce } = self;
        format!("matvec_{}_b{batch}_g{groups}r{rows}_{}", format.name(), reduce.name())
    }

    pub(crate) fn needs(self) -> Needs {
        Needs { plane: self.reduce.plane(), f16: self.format == Format::F16 }
    }

    /// What the number of columns must be a multiple of for any kernel to take the matrix.
    pub const fn columns_multiple(format: Format) -> usize {
        match format {
            Format::F32 | Format::F16 => 4,
            _ => format.block_len(),
        }
    }

    /// What the number of columns must be a multiple of for this one.
    pub const fn columns_step(self) -> usize {
        if self.format.is_packed() { self.columns_of_blocks() } else { 4 }
    }

    /// Whether it takes rows of so many values.
    pub const fn takes_columns(self, columns: usize) -> bool {
        columns > 0 && columns.is_multiple_of(self.columns_step())
    }

    /// Threads in a cube.
    pub const fn threads(self) -> u32 {
        self.groups * self.reduce.threads()
    }

    /// Columns of `x` in shared memory at a time. What must run anywhere stays below 16 KiB. One row
    /// takes what a plane does in one step and no more, so that several cubes fit a processor.
    pub(crate) const fn tile(self) -> usize {
        let is_wide = self.reduce.plane().is_some() && self.batch > 1;
        let values = if is_wide { 4096 } else { 2048 };
        values / self.batch as usize
    }

    /// Cubes for a weight of so many rows.
    pub const fn cubes(self, rows: u32) -> u32 {
        rows.div_ceil(self.groups * self.rows)
    }

    /// Buffers: weight, `x`, bias, `params`; out.
    pub(crate) fn define(self) -> KernelDefinition {
        let mut b = Builder::new();
        let expand = if self.format.is_packed() { blocks::expand } else { plain::expand };
        expand(&mut b, self);
        b.finish(self.threads(), &self.name())
    }
}

/// Adds the groups' sums up, adds the bias and writes.
#[cube]
fn finish(
    sums: &mut Array<f32>,
    bias: &Array<f32>,
    out: &mut Array<f32>,
    first_row: usize,
    rows: usize,
    params: &Array<u32>,
    #[comptime] kernel: MatVec,
) {
    let batch = params[2] as usize;
    let has_bias = params[3] != 0;
    let x_first = params[4] as usize;
    let count = comptime!((kernel.rows * kernel.batch) as usize);
    crate::common::group_sums(sums, count, comptime!(kernel.groups as usize), kernel.reduce);
    if UNIT_POS_X % comptime!(kernel.reduce.threads()) == 0 {
        #[unroll]
        for r in 0..comptime!(kernel.rows as usize) {
            let row = first_row + r;
            if row < rows {
                let mut add = 0.0f32;
                if has_bias {
                    add = bias[row];
                }
                #[unroll]
                for m in 0..comptime!(kernel.batch as usize) {
                    if m < batch {
                        out[(x_first + m) * rows + row] =
                            sums[comptime!(r * kernel.batch as usize + m)] + add;
                    }
                }
            }
        }
    }
}

/// The first row of a group.
#[cube]
fn first_row(#[comptime] kernel: MatVec) -> usize {
    let group = (UNIT_POS_X / comptime!(kernel.reduce.threads())) as usize;
    (CUBE_POS * comptime!(kernel.groups as usize) + group) * comptime!(kernel.rows as usize)
}
