//! The largest of each row's values, the first of equal ones: the token that greedy decoding takes.
//!
//! A cube looks at a piece of a row, for one processor would take longer for a vocabulary than all of them take
//! for a layer. What the pieces of a row have left is joined by a second launch ([`Params::join`]).
//!
//! Buffers: x `[rows, columns]` in f32, `params`; out `[2, cubes]`: where the largest values are in their row,
//! and their bits. To join, x is what was left. A NaN counts as larger than all numbers, so that it is seen.

use cubecl::prelude::*;

use crate::common::Builder;

/// The kernel's name.
pub(crate) const NAME: &str = "largest";

/// Threads in a cube.
pub const THREADS: u32 = 256;
/// Values that a thread asks for at once.
const AT_ONCE: usize = 8;
/// Values of a piece.
pub const PIECE: u32 = THREADS * AT_ONCE as u32;

/// The sizes of one launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Params {
    /// Rows.
    pub rows: u32,
    /// Values in a row, at least 1.
    pub columns: u32,
    /// Whether these are the largest values of pieces of longer rows, behind their places there.
    pub joins: bool,
}

impl Params {
    /// As the kernel reads them.
    pub fn words(&self) -> Vec<u32> {
        let piece = if self.joins { self.columns } else { PIECE };
        vec![self.columns, piece, self.pieces(), self.cubes(), self.joins.into()]
    }

    /// Pieces of a row: a second launch finds the largest of it all.
    const fn pieces(&self) -> u32 {
        if self.joins { 1 } else { self.columns.div_ceil(PIECE) }
    }

    /// Cubes of the launch.
    pub const fn cubes(&self) -> u32 {
        self.rows * self.pieces()
    }

    /// The launch that joins what this one leaves, if that is of pieces.
    pub fn join(&self) -> Option<Self> {
        let pieces = self.pieces();
        (pieces > 1).then_some(Self { rows: self.rows, columns: pieces, joins: true })
    }
}

/// A number that is larger for a larger f32, given by its bits, and never 0. Compilers may take it that
/// there are no NaNs and infinities among floats; integers are compared as they are.
#[cube]
fn rank(bits: u32) -> u32 {
    let magnitude = bits & 0x7fff_ffffu32;
    let is_negative = bits > 0x8000_0000u32;
    // -0 ranks as 0.
    let rank = select(is_negative, 0xffff_ffffu32 - bits, magnitude + 0x8000_0000u32);
    select(magnitude > 0x7f80_0000u32, 0xffff_ffffu32, rank)
}

/// The bits of a value with this rank.
#[cube]
fn value(rank: u32) -> u32 {
    select(rank < 0x8000_0000u32, 0xffff_ffffu32 - rank, rank - 0x8000_0000u32)
}

#[cube]
fn largest(x: &Array<u32>, params: &Array<u32>, out: &mut Array<u32>) {
    let columns = params[0] as usize;
    let piece = params[1] as usize;
    let pieces = params[2] as usize;
    let cubes = params[3] as usize;
    let joins = params[4] as usize;
    // Cubes behind the end do the last piece again.
    let cube = min(CUBE_POS, cubes - 1);
    let row = cube / pieces;
    let first = cube % pieces * piece;
    let end = min(first + piece, columns);
    // What is joined lies behind as many places, and is one piece.
    let base = (row + joins * cubes) * columns;
    let thread = UNIT_POS_X as usize;
    let mut best = 0u32;
    let mut place = 0u32;
    let mut at = first + thread;
    while at + comptime!((AT_ONCE - 1) * THREADS as usize) < end {
        let mut ranks = Array::<u32>::new(AT_ONCE);
        #[unroll]
        for i in 0..AT_ONCE {
            ranks[i] = rank(x[base + at + comptime!(i * THREADS as usize)]);
        }
        #[unroll]
        for i in 0..AT_ONCE {
            if ranks[i] > best {
                best = ranks[i];
                place = (at + comptime!(i * THREADS as usize)) as u32;
            }
        }
        at += comptime!(AT_ONCE * THREADS as usize);
    }
    while at < end {
        let next = rank(x[base + at]);
        if next > best {
            best = next;
            place = at as u32;
        }
        at += comptime!(THREADS as usize);
    }

    let mut ranks = SharedMemory::<u32>::new(comptime!(THREADS as usize));
    let mut places = SharedMemory::<u32>::new(comptime!(THREADS as usize));
    ranks[thread] = best;
    places[thread] = place;
    #[unroll]
    for bit in 0..comptime!(THREADS.ilog2()) {
        let half = comptime!(THREADS as usize >> (bit + 1));
        sync_cube();
        if thread < half {
            let other = ranks[thread + half];
            let there = places[thread + half];
            if other > best || (other == best && there < place) {
                best = other;
                place = there;
                ranks[thread] = best;
                places[thread] = place;
            }
        }
    }
    if thread == 0 {
        if joins == 1 {
            place = x[row * columns + place as usize];
        }
        out[cube] = place;
        out[cubes + cube] = value(best);
    }
}

pub(crate) fn define() -> KernelDefinition {
    let mut b = Builder::new();
    let (x, params) = (b.input::<u32>(), b.input::<u32>());
    let out = b.output::<u32>();
    largest::expand(&mut b.inner.scope, x.into(), params.into(), out.into());
    b.finish(THREADS, NAME)
}
