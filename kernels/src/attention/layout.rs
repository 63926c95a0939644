//! Which thread of a cube has what of keys, queries and scores.
//!
//! Neighbouring threads share a key ([`Decode::lanes`]), the same pieces of each. When its products are
//! added up in a plane, halves change places, so that each of them is left with some of the sums only
//! ([`Decode::holder`]).

use cubecl::prelude::*;

use super::decode::Decode;
use crate::Reduce;

/// Threads in a cube, with plane exchange, and of many rows, which take more registers.
const THREADS: u32 = 256;
const THREADS_OF_MANY_ROWS: u32 = 128;
/// Keys that a thread reads before it uses them.
const AHEAD: usize = 4;
/// Vectors of four values that a thread has of a key: 16 bytes of f16.
pub(super) const VECTORS: usize = 2;

impl Decode {
    /// Threads that share a key.
    pub(super) const fn lanes(self) -> u32 {
        (self.dim / 8).next_power_of_two()
    }

    /// Groups of so many threads in a cube: each has keys of its own.
    pub(super) const fn groups(self) -> usize {
        (self.threads() / self.lanes()) as usize
    }

    /// Whether some of them have no piece of it.
    pub(super) const fn has_idle_lanes(self) -> bool {
        self.lanes() * 8 != self.dim
    }

    /// Through shared memory every key that is read ahead takes room.
    pub(super) const fn ahead(self) -> usize {
        if self.reduce.plane().is_some() { AHEAD } else { 1 }
    }

    /// Scores of a step: for each row those of the keys that are read ahead.
    pub(super) const fn scores(self) -> usize {
        self.rows as usize * self.ahead()
    }

    /// Scores that a thread still adds up after so many exchanges of halves.
    pub(super) const fn left(self, steps: u32) -> usize {
        let left = self.scores() >> steps;
        if left == 0 { 1 } else { left }
    }

    /// Scores of which a thread makes weights.
    pub(super) const fn held(self) -> usize {
        if self.reduce.plane().is_some() { self.left(self.lanes().ilog2()) } else { self.scores() }
    }

    /// Neighbouring threads that have the same scores.
    pub(super) const fn alike(self) -> usize {
        self.lanes() as usize * self.held() / self.scores()
    }

    /// The thread that has the score `i`, of those that share a key. (Without planes everyone has all.)
    pub(super) const fn holder(self, i: usize) -> u32 {
        (i / self.held() * self.alike()) as u32
    }

    /// Rows whose scores a thread has.
    pub(super) const fn rows_held(self) -> usize {
        self.held().div_ceil(self.ahead())
    }

    pub(super) const fn threads(self) -> u32 {
        match self.reduce {
            Reduce::Plane(_) if self.rows > 4 => THREADS_OF_MANY_ROWS,
            Reduce::Plane(_) => THREADS,
            Reduce::Planes(n, count) => n * count,
            Reduce::Shared(threads) => threads,
        }
    }
}

/// Whether a thread has a piece of each key.
#[cube]
pub(super) fn holds(lane: usize, #[comptime] kernel: Decode) -> bool {
    lane < comptime!(kernel.dim as usize / 8)
}

/// The first vector that a thread has of each key: one that has no piece reads the first one.
#[cube]
pub(super) fn offset(lane: usize, #[comptime] kernel: Decode) -> usize {
    select(holds(lane, kernel), lane * 2, 0)
}
