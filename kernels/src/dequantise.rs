//! Blocks to plain numbers: a whole matrix, or the rows that ids name (a token embedding).
//!
//! Bit-equal to the formulas of `quant` in the library for f32 (but for zeros of rows that ids name, which are -0:
//! they are [announced](crate::waits)), and those rounded for f16. A thread
//! decodes one piece of 32 values; the pieces of a cube lie beside each other in shared memory before
//! they are written, so that neighbouring threads write neighbouring values.
//!
//! Buffers: weight, ids (rows only), `params`; out `[rows, columns]`.

use cubecl::prelude::*;
use half::f16;

use crate::{
    Format, Kernel, Needs,
    blocks::{PIECE, decode, fetch, run_start, settle, share_levels},
    common::{Builder, U4},
    waits::announced,
};

/// Threads in a cube.
pub const THREADS: u32 = 64;

/// A dequantising kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dequantise {
    /// How the matrix is stored.
    pub format: Format,
    /// Whether to take the rows that ids name.
    pub gather: bool,
    /// Whether to write f16 instead of f32.
    pub f16: bool,
}

/// The sizes of one launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Params {
    /// Rows to write.
    pub rows: u32,
    /// Columns, a multiple of the block.
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
fn dequantise<F: Float>(
    weight: &Array<u32>,
    wide: &Array<U4>,
    ids: &Array<u32>,
    params: &Array<u32>,
    out: &mut Array<F>,
    #[comptime] kernel: Dequantise,
) {
    let format = comptime!(kernel.format);
    let runs = comptime!(format.runs());
    let rows = params[0] as usize;
    let columns = params[1] as usize;
    let per_row = columns / PIECE;
    let threads = comptime!(THREADS as usize);
    let first = CUBE_POS * threads;
    let at = first + UNIT_POS_X as usize;
    let mut tile = SharedMemory::<f32>::new(comptime!(padded(THREADS as usize * PIECE)));
    let levels = share_levels(format);
    if comptime!(format.has_levels()) {
        sync_cube();
    }
    if at < rows * per_row {
        let row = at / per_row;
        let global = at % per_row;
        let mut source = row;
        if comptime!(kernel.gather) {
            source = ids[row] as usize;
        }
        let known = source < params[2] as usize;
        let source = select(known, source, 0);
        let block = global / comptime!(format.pieces());
        let piece = global % comptime!(format.pieces());
        let row_bytes = columns / comptime!(format.block_len()) * comptime!(format.block_bytes());
        let start = source * row_bytes + block * comptime!(format.block_bytes());
        let mut words = Sequence::<u32>::new();
        fetch(weight, wide, start, piece, &mut words, format, 1usize, false);
        let decoded = decode(&words, &levels, start, piece, 0u32, 0usize, format, 1usize, 0usize);
        let decoded = settle(decoded, format);
        // A row is whole blocks, and so is what the cube writes.
        let in_tile = (UNIT_POS_X as usize - piece) * PIECE;
        #[unroll]
        for run in 0..runs {
            let e = in_tile + run_start(piece, run, format);
            #[unroll]
            for i in 0..comptime!(PIECE / runs) {
                let code = decoded.codes[comptime!(run * (PIECE / runs) + i)];
                let mut value = decoded.factors[run] * code;
                if comptime!(format.has_minimum()) {
                    value -= decoded.minimums[run];
                }
                tile[(e + i) + (e + i) / PIECE] = select(known, value, 0.0f32);
            }
        }
    }
    sync_cube();
    #[unroll]
    for i in 0..PIECE {
        let e = i * threads + UNIT_POS_X as usize;
        let to = first * PIECE + e;
        if to < rows * columns {
            let value = tile[e + e / PIECE];
            if comptime!(kernel.is_announced()) {
                out[to] = F::cast_from(announced(value));
            } else {
                out[to] = F::cast_from(value);
            }
        }
    }
}

/// Values in shared memory with a gap after each piece, so that neighbouring threads meet different
/// banks.
const fn padded(values: usize) -> usize {
    values + values / PIECE
}

impl Dequantise {
    pub(crate) fn name(self) -> String {
        let what = if self.gather { "rows" } else { "dequantise" };
        format!("{what}_{}_{}", self.format.name(), if self.f16 { "f16" } else { "f32" })
    }

    /// Whether others can wait for its result: the rows that a step begins with.
    pub(crate) const fn is_announced(self) -> bool {
        self.gather && !self.f16
    }

    pub(crate) fn needs(self) -> Needs {
        Needs { f16: self.f16, ..Needs::default() }
    }

    /// Cubes of one launch.
    pub const fn cubes(params: &Params) -> u32 {
        (params.rows * (params.columns / PIECE as u32)).div_ceil(THREADS)
    }

    pub(crate) fn define(self) -> KernelDefinition {
        if self.f16 { self.define_as::<f16>() } else { self.define_as::<f32>() }
    }

    fn define_as<F: Float>(self) -> KernelDefinition {
        let mut b = Builder::new();
        let weight = b.input::<u32>();
        let ids = self.gather.then(|| b.input::<u32>());
        let params = b.input::<u32>();
        let ids = ids.unwrap_or_else(|| params.clone());
        let out = b.output::<F>();
        dequantise::expand::<F>(
            &mut b.inner.scope,
            weight.clone().into(),
            weight.into(),
            ids.into(),
            params.into(),
            out.into(),
            self,
        );
        b.finish(THREADS, &self.name())
    }
}

pub(crate) fn table() -> Vec<Kernel> {
    let mut all = Vec::new();
    for format in Format::ALL.into_iter().filter(|format| format.is_packed()) {
        for (gather, f16) in [(false, false), (false, true), (true, false), (true, true)] {
            all.push(Kernel::Dequantise(Dequantise { format, gather, f16 }));
        }
    }
    all
}
