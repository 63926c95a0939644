//! Weights in blocks.

use cubecl::prelude::*;

use super::{Buffers, MatVec, ends, first_row, row_starts, zeros};
use crate::{
    Format,
    blocks::{Levels, PIECE, Piece, decode, fetch, run_start, settle, share_levels},
    common::{F4, U4, dot4, keep, take},
};

/// Words of the weight that a thread has under way, about.
const UNDER_WAY: usize = 48;
/// Values of `x` that are left out in shared memory after those that one thread takes.
const GAP: usize = 4;
/// Columns of `x` in shared memory at a time, at the most.
const LARGEST_TILE: usize = 4096;

impl MatVec {
    /// Neighbouring pieces of a row that a thread takes together.
    pub(super) const fn together(self) -> usize {
        let most = self.format.most_together(self.bytes);
        let tile = self.reduce.threads() as usize * most * PIECE;
        if self.batch == 1 && self.reduce.plane().is_some() && tile <= LARGEST_TILE {
            most
        } else {
            1
        }
    }

    /// What the number of columns must be a multiple of.
    pub(super) const fn columns_of_blocks(self) -> usize {
        let together = self.together() * PIECE;
        let block = self.format.block_len();
        if together > block { together } else { block }
    }

    /// Values of `x` that a thread takes together, and whose neighbours other threads take.
    pub(super) const fn taken(self) -> usize {
        self.together() * PIECE
    }

    /// Vectors of shared memory for so many values of one row of `x`.
    const fn vectors(self, values: usize) -> usize {
        values / self.taken() * (self.taken() + GAP) / 4
    }

    /// Words that are read for a step of a row.
    pub(super) const fn words(self) -> usize {
        self.format.words(self.together())
    }

    /// Rows whose pieces are read before the first is used.
    const fn rows_at_once(self) -> usize {
        // Four rows of Q4_K behind a norm take 168 registers, which leaves a processor three cubes.
        let takes_many = matches!(self.format, Format::Q4_K) && self.normed;
        let under_way = if takes_many { UNDER_WAY / 2 } else { UNDER_WAY };
        let fit = (under_way / self.words()).next_power_of_two();
        let fit = if fit * self.words() > under_way { fit / 2 } else { fit };
        if fit < self.rows as usize { fit } else { self.rows as usize }
    }

    /// Pieces of each row that are.
    const fn ahead(self) -> usize {
        // More rows of `x` are enough to do meanwhile.
        let words = 2 * self.words() * self.rows as usize;
        if self.batch == 1 && words <= UNDER_WAY { 2 } else { 1 }
    }

    /// Columns of `x` in shared memory at a time. What must run anywhere stays below 16 KiB. One row
    /// takes what the threads have under way and no more, so that several cubes fit a processor.
    pub(crate) const fn tile(self) -> usize {
        let under_way = self.reduce.threads() as usize * self.together() * self.ahead() * PIECE;
        let is_small =
            self.reduce.plane().is_none() || (self.batch == 1 && under_way < LARGEST_TILE);
        let values = if is_small { LARGEST_TILE / 2 } else { LARGEST_TILE };
        values / self.batch as usize
    }

    /// Whether codes meet `x` as they come, and what they are lifted by is taken off afterwards: that
    /// pays where several rows share it, and where codes are used once.
    const fn uses_lifted(self) -> bool {
        self.batch == 1 && self.rows > 1 && self.format.is_lifted()
    }
}

/// The vector of shared memory with value `e` of a row of `x`. Threads that read at the distance of what
/// each of them takes meet different banks: eight vectors are read at a time, and lie in all 32 banks.
#[cube]
fn place_of(e: usize, #[comptime] kernel: MatVec) -> usize {
    let taken = comptime!(kernel.taken());
    (e / taken) * comptime!((kernel.taken() + GAP) / 4) + (e % taken) / 4
}

/// Stages columns `from..from + count` of every row of `x`, and sums their squares, where there is a
/// norm: each by the thread that reads it.
#[cube]
fn stage(
    shared: &mut SharedMemory<F4>,
    sums: &mut Array<f32>,
    io: &Buffers,
    from: usize,
    count: usize,
    #[comptime] kernel: MatVec,
) {
    let columns = io.params[1] as usize;
    let batch = io.params[2] as usize;
    let x_first = io.params[4] as usize;
    sync_cube();
    #[unroll]
    for m in 0..comptime!(kernel.batch as usize) {
        let base = ((x_first + min(m, batch - 1)) * columns + from) / 4;
        let mut v = UNIT_POS_X as usize;
        while v < count / 4 {
            let place = place_of(4 * v, kernel);
            let mut value = io.x[base + v];
            if comptime!(kernel.normed) {
                sums[comptime!(kernel.products())] += dot4(value, value);
                value *= io.gain[from / 4 + v];
            }
            shared[comptime!(m * kernel.vectors(kernel.tile())) + place] = value;
            v += comptime!(kernel.threads() as usize);
        }
    }
    sync_cube();
}

/// What of one row of `x` a piece meets.
#[derive(CubeType)]
struct Part {
    values: Sequence<F4>,
    /// The sum of each run, for formats with a minimum.
    sums: Sequence<f32>,
    /// What lifted codes add to the product of each run.
    lifts: Sequence<f32>,
}

#[cube]
fn load(
    shared: &SharedMemory<F4>,
    base: usize,
    piece: usize,
    #[comptime] m: usize,
    #[comptime] kernel: MatVec,
) -> Part {
    let format = comptime!(kernel.format);
    let vectors = comptime!(PIECE / format.runs() / 4);
    let mut values = Sequence::<F4>::new();
    let mut sums = Sequence::<f32>::new();
    let mut lifts = Sequence::<f32>::new();
    #[unroll]
    for run in 0..comptime!(format.runs()) {
        let e = base + run_start(piece, run, format);
        let place = comptime!(m * kernel.vectors(kernel.tile())) + place_of(e, kernel);
        let mut sum = 0.0f32;
        let mut lift = 0.0f32;
        #[unroll]
        for j in 0..vectors {
            let v = shared[place + j];
            values.push(v);
            if comptime!(format.has_minimum() || kernel.uses_lifted()) {
                let four = (v[0] + v[1]) + (v[2] + v[3]);
                sum += four;
                lift += four * f32::new(comptime!(format.lift(4 * (run * vectors + j)) as f32));
            }
        }
        sums.push(sum);
        lifts.push(lift);
    }
    Part { values, sums, lifts }
}

/// The product of a piece and what it meets.
#[cube]
fn dot(decoded: &Piece, part: &Part, #[comptime] kernel: MatVec) -> f32 {
    let format = comptime!(kernel.format);
    let vectors = comptime!(PIECE / format.runs() / 4);
    let mut total = 0.0f32;
    #[unroll]
    for run in 0..comptime!(format.runs()) {
        // Four sums that do not wait for each other, after each vector.
        let mut fours = Sequence::<f32>::new();
        #[unroll]
        for j in 0..vectors {
            let v = part.values[comptime!(run * vectors + j)];
            #[unroll]
            for i in 0..4usize {
                let code = decoded.codes[comptime!(4 * (run * vectors + j) + i)];
                if comptime!(j == 0) {
                    fours.push(code * v[i]);
                } else {
                    fours.push(fma(code, v[i], fours[comptime!(4 * (j - 1) + i)]));
                }
            }
        }
        let last = comptime!(4 * (vectors - 1));
        let mut sum = (fours[last] + fours[comptime!(last + 1)])
            + (fours[comptime!(last + 2)] + fours[comptime!(last + 3)]);
        if comptime!(kernel.uses_lifted()) {
            sum -= part.lifts[run];
        }
        total += decoded.factors[run] * sum;
        if comptime!(format.has_minimum()) {
            total -= decoded.minimums[run] * part.sums[run];
        }
    }
    total
}

/// Decodes a piece for [`dot`].
#[cube]
fn decoded(
    words: &Sequence<u32>,
    levels: &Levels,
    at: usize,
    piece: usize,
    zero: u32,
    #[comptime] first: usize,
    #[comptime] index: usize,
    #[comptime] kernel: MatVec,
) -> Piece {
    let together = comptime!(kernel.together());
    let decoded = decode(words, levels, at, piece, zero, first, kernel.format, together, index);
    if comptime!(kernel.uses_lifted()) { decoded } else { settle(decoded, kernel.format) }
}

/// Reads the pieces of some rows at place `t` of the tile, and of those ahead. A place behind the
/// end reads the last one, and is not used.
#[cube]
fn read(
    weight: &Array<u32>,
    wide: &Array<U4>,
    starts: &Sequence<usize>,
    from: usize,
    t: usize,
    last: usize,
    #[comptime] chunk: usize,
    #[comptime] kernel: MatVec,
) -> Sequence<u32> {
    let at_once = comptime!(kernel.rows_at_once());
    let mut words = Sequence::<u32>::new();
    #[unroll]
    for a in 0..comptime!(kernel.ahead()) {
        let threads = comptime!(kernel.reduce.threads() as usize);
        let place = min(t + a * threads, last);
        let first_row = comptime!(chunk * at_once);
        read_place(weight, wide, starts, from, place, &mut words, first_row, at_once, kernel);
    }
    words
}

/// Reads the pieces of some rows at one place of the tile.
#[cube]
pub(super) fn read_place(
    weight: &Array<u32>,
    wide: &Array<U4>,
    starts: &Sequence<usize>,
    from: usize,
    place: usize,
    words: &mut Sequence<u32>,
    #[comptime] first_row: usize,
    #[comptime] rows: usize,
    #[comptime] kernel: MatVec,
) {
    let format = comptime!(kernel.format);
    let pieces = comptime!(format.pieces());
    let global = from / PIECE + place * comptime!(kernel.together());
    let block = global / pieces * comptime!(format.block_bytes());
    #[unroll]
    for r in 0..rows {
        let at = starts[comptime!(first_row + r)] + block;
        let (together, is_wide) = comptime!((kernel.together(), format.is_wide()));
        fetch(weight, wide, at, global % pieces, words, format, together, is_wide);
    }
}

/// Where the rows of a group begin, in bytes.
#[cube]
pub(super) fn starts_of_blocks(
    first: usize,
    io: &Buffers,
    #[comptime] kernel: MatVec,
) -> Sequence<usize> {
    let format = comptime!(kernel.format);
    let blocks = io.params[1] as usize / comptime!(format.block_len());
    row_starts(first, blocks * comptime!(format.block_bytes()), io, kernel)
}

#[cube]
pub(super) fn product(
    weight: &Array<u32>,
    wide: &Array<U4>,
    io: &mut Buffers,
    #[comptime] kernel: MatVec,
) {
    let format = comptime!(kernel.format);
    let batch_max = comptime!(kernel.batch as usize);
    let row_count = comptime!(kernel.rows as usize);
    let threads = comptime!(kernel.reduce.threads() as usize);
    let tile = comptime!(kernel.tile());
    let pieces = comptime!(format.pieces());
    let bytes = comptime!(format.block_bytes());

    let columns = io.params[1] as usize;
    let lane = UNIT_POS_X as usize % threads;
    let first = first_row(io, kernel);
    let early = ends::early(io, first, kernel);
    // There are not that many rows.
    let zero = io.params[2] >> 31;

    let mut shared =
        SharedMemory::<F4>::new(comptime!(kernel.batch as usize * kernel.vectors(kernel.tile())));
    // `x` is staged, between barriers, before the first code is looked up.
    let levels = share_levels(format);
    let mut sums = zeros(kernel);
    let starts = starts_of_blocks(first, io, kernel);

    let at_once = comptime!(kernel.rows_at_once());
    let chunks = comptime!(row_count / at_once);
    let ahead = comptime!(kernel.ahead());
    let words_kept = comptime!(kernel.rows_at_once() * kernel.ahead() * kernel.words());
    let mut next = Array::<u32>::new(words_kept);
    let mut from = 0usize.runtime();
    while from < columns {
        let count = min(columns - from, tile);
        let last = count / comptime!(PIECE * kernel.together()) - 1;
        // The first pieces are on their way while `x` is staged.
        keep(&read(weight, wide, &starts, from, lane, last, 0usize, kernel), &mut next);
        stage(&mut shared, &mut sums, io, from, count, kernel);
        let mut t = lane;
        while t <= last {
            #[unroll]
            for chunk in 0..chunks {
                let words = if comptime!(chunk > 0) {
                    read(weight, wide, &starts, from, t, last, chunk, kernel)
                } else {
                    take(&next, words_kept)
                };
                #[unroll]
                for a in 0..ahead {
                    let place = t + a * threads;
                    if place <= last {
                        // The piece of the row, its block, and its place there.
                        let global = from / PIECE + place * comptime!(kernel.together());
                        let block = global / pieces;
                        let piece = global % pieces;
                        // Within the tile: `x` lies there by value.
                        let base = block * comptime!(format.block_len()) - from;
                        #[unroll]
                        for index in 0..comptime!(kernel.together()) {
                            if comptime!(batch_max == 1) {
                                // The values of `x` serve every row.
                                let part = load(&shared, base, piece + index, 0usize, kernel);
                                #[unroll]
                                for r in 0..at_once {
                                    let row = comptime!(chunk * at_once + r);
                                    let first = comptime!((a * at_once + r) * kernel.words());
                                    let at = starts[row] + block * bytes;
                                    let decoded = decoded(
                                        &words, &levels, at, piece, zero, first, index, kernel,
                                    );
                                    sums[row] += dot(&decoded, &part, kernel);
                                }
                            } else {
                                #[unroll]
                                for r in 0..at_once {
                                    let row = comptime!(chunk * at_once + r);
                                    let first = comptime!((a * at_once + r) * kernel.words());
                                    let at = starts[row] + block * bytes;
                                    let decoded = decoded(
                                        &words, &levels, at, piece, zero, first, index, kernel,
                                    );
                                    #[unroll]
                                    for m in 0..batch_max {
                                        let part = load(&shared, base, piece, m, kernel);
                                        sums[comptime!(row * kernel.batch as usize + m)] +=
                                            dot(&decoded, &part, kernel);
                                    }
                                }
                            }
                        }
                    }
                }
            }
            t += comptime!(threads * ahead);
            if t <= last {
                keep(&read(weight, wide, &starts, from, t, last, 0usize, kernel), &mut next);
            }
        }
        from += tile;
    }
    ends::finish(&mut sums, io, first, &early, kernel);
}
