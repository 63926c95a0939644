//! Attention over a cache of keys and values:
//! `out = softmax(cap(q · kᵀ · scale) + mask) · v`, with the maximum and the sum of the softmax
//! kept as the keys go by (Milakov & Gimelshein, 2018).
//!
//! - A few query rows (flash decoding, Dao et al., 2023): what a decode step does with its context.
//!   It is bound by reading the cache, once. Keys are split over cubes ([`Decode`]); each leaves its
//!   maximum, sum and unnormalised values, and a second kernel joins them ([`Merge`]). The query
//!   heads of one key/value head share what is read.
//! - Many query rows: what a prompt needs, bound by arithmetic ([`Flash`]).

mod decode;
mod flash;
mod flash_units;
mod join;
mod keys;
mod layout;
mod merge;
mod rotary;
mod scores;
mod staged;
mod tile;

use cubecl::prelude::*;

pub use decode::Decode;
pub use flash::Flash;
pub use merge::{MAX_SPLITS, Merge};

use crate::{Kernel, MatrixUnits, Reduce};

/// Stands for minus infinity: fast maths on Metal may assume that there is none.
pub(crate) const LOWEST: f32 = -1.0e30;

/// The sizes of one launch; all kernels read the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Params {
    /// Sequences.
    pub batch: u32,
    /// Query rows of each sequence: its newest positions.
    pub len: u32,
    /// Query heads.
    pub heads: u32,
    /// Key/value heads.
    pub kv_heads: u32,
    /// Keys in the cache.
    pub keys: u32,
    /// Positions that the cache has room for.
    pub capacity: u32,
    /// Where the oldest key lies, below `capacity`; from the end the cache goes on at its start (a
    /// ring). There are at most `capacity` keys.
    pub start: u32,
    /// Cubes that share the keys of one head: at most [`MAX_SPLITS`]; 1 for [`Flash`].
    pub splits: u32,
    /// What scores are multiplied with.
    pub scale: f32,
    /// `cap · tanh(score / cap)`; 0 for none.
    pub soft_cap: f32,
    /// Keys that a row sees at most, itself included; 0 for all.
    pub window: u32,
    /// Whether a row sees later positions.
    pub causal: bool,
    /// Whether sequences have padding at the front.
    pub padded: bool,
    /// Where queries are turned ([`Decode::rotary`]): whether every sequence has its own angles.
    pub angles_per_sequence: bool,
}

impl Params {
    /// The [words](Self::words) that change from step to step, or from one cache to the next: keys,
    /// capacity, start, splits and window.
    pub const PASSING: [usize; 5] = [4, 5, 6, 7, 10];

    /// As the kernels read them.
    pub fn words(&self) -> Vec<u32> {
        vec![
            self.batch,
            self.len,
            self.heads,
            self.kv_heads,
            self.keys,
            self.capacity,
            self.start,
            self.splits,
            self.scale.to_bits(),
            self.soft_cap.to_bits(),
            self.window,
            self.causal as u32,
            self.padded as u32,
            self.angles_per_sequence as u32,
        ]
    }

    /// Query rows that share a key/value head.
    pub const fn rows_per_kv_head(&self) -> u32 {
        self.len * (self.heads / self.kv_heads)
    }

    /// Query rows of all heads.
    pub const fn rows(&self) -> u32 {
        self.batch * self.len * self.heads
    }

    /// Rows and parts: for each, [`Decode`] leaves a vector, and two values (its maximum and sum).
    pub const fn parts(&self) -> u32 {
        self.rows() * self.splits
    }
}

/// The first key that a row sees, and the first one after those.
#[cube]
pub(crate) fn visible(
    params: &Array<u32>,
    padding: &Array<u32>,
    sequence: usize,
    row: usize,
) -> (u32, u32) {
    let keys = params[4];
    let position = keys - params[1] + row as u32;
    let mut last = keys;
    if params[11] != 0 {
        last = position + 1;
    }
    let mut first = 0u32;
    let window = params[10];
    if window != 0 && position + 1 > window {
        first = position + 1 - window;
    }
    if params[12] != 0 {
        first = max(first, padding[sequence]);
    }
    (first, last)
}

pub(crate) fn table() -> Vec<Kernel> {
    let mut all = Vec::new();
    for dim in [32, 64, 80, 96, 128, 256] {
        for f16 in [false, true] {
            for rows in [1, 2, 4, 8] {
                for reduce in [Reduce::Plane(32), Reduce::Shared(64)] {
                    let variant = |rotary| Decode { dim, f16, rows, reduce, rotary };
                    let made = [false, true].map(variant).into_iter().filter(|v| v.is_made());
                    all.extend(made.map(Kernel::Decode));
                }
            }
            // Of the largest heads a thread can hold no more rows.
            for &rows in if dim > 128 { &[32][..] } else { &[32, 64] } {
                all.push(Kernel::Flash(Flash { dim, f16, rows, units: None }));
            }
        }
        let units = MatrixUnits { edge: 16, halves: true };
        all.extend(Flash::by_units(dim, units).map(Kernel::Flash));
        all.push(Kernel::Merge(Merge { dim }));
    }
    all
}
