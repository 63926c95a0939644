//! `out[m, r] = Σ_k weight[r, k] · x[m, k] (+ add[r])` for a few rows `m` of `x`: what a decode step
//! spends its time in. It is bound by reading the weights, once each.
//!
//! What a layer does around a product is a part of it, for each launch costs a GPU as much as reading
//! some megabytes ([`Params`] says what a launch does):
//! - a bias, or a residual of the result's own shape, is added;
//! - `x` may go through a root-mean-square norm first, in kernels of their own for one row
//!   ([`MatVec::normed`]): it is multiplied with the norm's gain as it is staged, its squares are summed
//!   beside the products, and the sums are divided at the end;
//! - in these, the rows of the weight may be gates and, behind all gates, what they gate:
//!   `out[m, r] = silu(gate[m, r]) · up[m, r]`;
//! - what an adapter adds to one row, [`LowRank`], in kernels of their own ([`MatVec::low_rank`]).
//!
//! A group of threads computes `rows` rows of the weight; a cube has `groups` groups.
//! - Plain weights: a thread reads four values at a time, neighbours reading neighbours, and takes `x`
//!   straight from memory (it stays in the cache).
//! - Blocks: a thread decodes a piece of 32 values. `x` lies in shared memory, padded so that
//!   threads that read what each of them takes meet different banks; it is staged a tile at a time.
//! - Blocks, by bytes ([`MatVec::bytes`]): the same, but codes stay integers, and `x` is staged as
//!   integers of 16 bits, a byte of each in a word with those of three neighbours.

mod blocks;
mod bytes;
mod ends;
mod low_rank;
mod plain;
mod table;

use cubecl::prelude::*;
use half::f16;

use crate::{
    Format, Needs, Reduce, Wait,
    common::{Builder, F4, U4},
};
pub use low_rank::{LowRank, MAX_RANK};
pub(crate) use table::table;

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
    /// Whether `x` goes through a norm: one row.
    pub normed: bool,
    /// Whether an adapter adds something: one row.
    pub low_rank: bool,
    /// Whether codes meet `x` as bytes, four in an instruction: one row, by planes, of formats that
    /// [take bytes](Format::takes_bytes).
    pub bytes: bool,
    /// Times that a cube takes rows, with `x` staged once: more than one for many rows, behind a norm, by
    /// bytes.
    pub passes: u32,
}

/// Bits of the parameter that says what is added: whether `x` is to be waited for, and that.
const WAITS_FOR_X: u32 = 1 << 2;
const WAITS_FOR_ADD: u32 = 1 << 3;

/// What is added to a product.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Add {
    /// Nothing; its buffer is not read.
    #[default]
    Nothing,
    /// A bias, `[rows]`.
    Bias,
    /// A value for each of the products: of the same rows as `x`, `[.., rows]`.
    Each,
}

/// The sizes of one launch, and what it does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Params {
    /// Rows of the weight.
    pub rows: u32,
    /// Columns of the weight: as many as [`MatVec::takes_columns`] says.
    pub columns: u32,
    /// Rows of `x`, at most [`MatVec::batch`].
    pub batch: u32,
    /// The first of those rows, in `x` and in the result.
    pub first: u32,
    /// What is added.
    pub add: Add,
    /// What is added to the mean square of `x`, where it goes through a norm.
    pub norm: Option<f32>,
    /// Behind a norm: whether the first half of the weight's rows are gates of the second half.
    pub gated: bool,
    /// The adapter, if there is one.
    pub low_rank: Option<LowRank>,
}

impl Params {
    /// As the kernel reads them.
    pub fn words(&self) -> Vec<u32> {
        let half = if self.gated { self.rows / 2 } else { 0 };
        let mut words = vec![self.rows, self.columns, self.batch, self.add as u32, self.first];
        if self.norm.is_some() || self.low_rank.is_some() {
            words.extend([half, self.norm.map_or(0, f32::to_bits)]);
        }
        words.extend(self.low_rank.into_iter().flat_map(LowRank::words));
        words
    }
}

impl MatVec {
    pub(crate) fn name(self) -> String {
        let Self { format, batch, groups, rows, reduce, normed, low_rank, bytes, passes } = self;
        let low_rank = if low_rank { "lora_" } else { "" };
        let norm = if normed { "norm_" } else { "" };
        let bytes = if bytes { "_bytes" } else { "" };
        let passes = if passes > 1 { format!("x{passes}") } else { String::new() };
        format!(
            "{low_rank}{norm}matvec_{}_b{batch}_g{groups}r{rows}{passes}_{}{bytes}",
            format.name(),
            reduce.name()
        )
    }

    pub(crate) fn needs(self) -> Needs {
        Needs {
            plane: self.reduce.plane(),
            f16: self.format == Format::F16 || self.bytes,
            bytes: self.bytes,
            ..Needs::default()
        }
    }

    /// For `x` and what is added, by bits beside [`Params::add`]. (What an adapter makes of `x` does not wait.)
    pub(crate) const fn waits(self) -> &'static [Wait] {
        const X: Wait = Wait { buffer: 1, word: 3, bit: WAITS_FOR_X };
        const ADD: Wait = Wait { buffer: 2, word: 3, bit: WAITS_FOR_ADD };
        match (self.bytes && !self.low_rank, self.normed) {
            (false, _) => &[],
            (true, false) => &[X, ADD],
            (true, true) => &[X, Wait { buffer: 3, ..ADD }],
        }
    }

    /// The place of the result.
    pub(crate) fn announces(self) -> usize {
        4 + usize::from(self.normed) + 3 * usize::from(self.low_rank)
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
        let staged_once = self.passes == 1 || columns <= self.byte_tile();
        columns > 0 && staged_once && columns.is_multiple_of(self.columns_step())
    }

    /// Whether it makes such products.
    pub fn takes(self, format: Format, params: &Params) -> bool {
        self.format == format
            && self.batch == params.batch.next_power_of_two()
            && self.normed == params.norm.is_some()
            && self.low_rank == params.low_rank.is_some()
            && (!params.gated || self.takes_gates())
            && self.takes_columns(params.columns as usize)
    }

    /// Whether it can have gates: a group computes a gate and what it gates.
    pub const fn takes_gates(self) -> bool {
        self.normed && self.rows.is_multiple_of(2)
    }

    /// Threads in a cube.
    pub const fn threads(self) -> u32 {
        self.groups * self.reduce.threads()
    }

    /// Rows of the weight for each cube.
    const fn rows_of_cube(self) -> u32 {
        self.passes * self.groups * self.rows
    }

    /// Cubes of a launch.
    pub fn cubes(self, params: &Params) -> u32 {
        let rank = params.low_rank.map_or(0, |low_rank| low_rank.rank);
        rank + params.rows.div_ceil(self.rows_of_cube())
    }

    /// Buffers: weight, `x`, the norm's gain (if there is a norm), what is added, the adapter's `a` and
    /// `b` (if there is one), `params`; the cells (of an adapter), out.
    pub(crate) fn define(self) -> KernelDefinition {
        let mut builder = Builder::new();
        let weight = match self.format {
            Format::F32 => builder.input::<F4>(),
            Format::F16 => builder.input::<Vector<f16, Const<4>>>(),
            format if format.is_wide() => builder.input::<U4>(),
            _ => builder.input::<u32>(),
        };
        let x = builder.input::<F4>();
        let gain = self.normed.then(|| builder.input::<F4>());
        let add = builder.input::<f32>();
        let low_rank = self.low_rank.then(|| [builder.input::<u32>(), builder.input::<u32>()]);
        let params = builder.input::<u32>();
        let cells = self.low_rank.then(|| builder.output::<Atomic<u32>>());
        let out = builder.output::<f32>();
        // What there is not is not read: anything may stand for it.
        let [a, b] = low_rank.unwrap_or_else(|| [params.clone(), params.clone()]);
        let io = BuffersExpand {
            x: x.clone().into(),
            gain: gain.unwrap_or(x).into(),
            add: add.into(),
            a: a.into(),
            b: b.into(),
            params: params.into(),
            cells: cells.unwrap_or_else(|| out.clone()).into(),
            out: out.into(),
        };
        let scope = &mut builder.inner.scope;
        low_rank::first_cubes::expand(scope, io.clone(), self);
        match self.format {
            Format::F32 => plain::product::expand::<f32>(scope, weight.into(), io, self),
            Format::F16 => plain::product::expand::<f16>(scope, weight.into(), io, self),
            _ if self.passes > 1 => {
                bytes::passes::expand(scope, weight.clone().into(), weight.into(), io, self);
            }
            _ if self.bytes => {
                bytes::product::expand(scope, weight.clone().into(), weight.into(), io, self);
            }
            _ => blocks::product::expand(scope, weight.clone().into(), weight.into(), io, self),
        }
        builder.finish(self.threads(), &self.name())
    }

    /// Products that a group makes: one for each row of the weight and of `x`.
    const fn products(self) -> usize {
        (self.rows * self.batch) as usize
    }

    /// The same, and the squares of a row of `x` that has a norm.
    const fn sums(self) -> usize {
        self.products() + self.normed as usize
    }
}

/// What a launch reads and writes beside the weight.
#[derive(CubeType)]
struct Buffers {
    x: Array<F4>,
    gain: Array<F4>,
    add: Array<f32>,
    a: Array<u32>,
    b: Array<u32>,
    params: Array<u32>,
    cells: Array<Atomic<u32>>,
    out: Array<f32>,
}

/// The sums of a thread, before anything is added.
#[cube]
fn zeros(#[comptime] kernel: MatVec) -> Array<f32> {
    let mut sums = Array::<f32>::new(comptime!(kernel.sums()));
    #[unroll]
    for i in 0..comptime!(kernel.sums()) {
        sums[i] = 0.0f32;
    }
    sums
}

/// Where the rows of a group begin that are `pitch` apart.
#[cube]
fn row_starts(
    first: usize,
    pitch: usize,
    io: &Buffers,
    #[comptime] kernel: MatVec,
) -> Sequence<usize> {
    let mut starts = Sequence::<usize>::new();
    #[unroll]
    for r in 0..comptime!(kernel.rows as usize) {
        starts.push(row_at(first, io, r, kernel) * pitch);
    }
    starts
}

/// The row of the weight at place `r` of a group. Places behind the end repeat the last row, and are
/// not written. With gates, a gate and what it gates take turns.
#[cube]
fn row_at(first: usize, io: &Buffers, #[comptime] r: usize, #[comptime] kernel: MatVec) -> usize {
    let mut row = min(first + r, io.params[0] as usize - 1);
    if comptime!(kernel.takes_gates()) {
        let half = io.params[5] as usize;
        let pair = min(first / 2 + comptime!(r / 2), max(half, 1) - 1);
        row = select(half > 0, pair + comptime!(r % 2) * half, row);
    }
    row
}

/// The first row of a group.
#[cube]
fn first_row(io: &Buffers, #[comptime] kernel: MatVec) -> usize {
    let group = (UNIT_POS_X / comptime!(kernel.reduce.threads())) as usize;
    let mut cube = CUBE_POS;
    if comptime!(kernel.low_rank) {
        cube -= low_rank::rank(io);
    }
    let first = cube * comptime!((kernel.passes * kernel.groups) as usize) + group;
    first * comptime!(kernel.rows as usize)
}
