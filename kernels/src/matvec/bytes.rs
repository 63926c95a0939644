//! Weights in blocks whose codes stay integers: four codes meet four values of `x` in one instruction,
//! and the sums are exact.
//!
//! `x` is staged as integers of 16 bits: neighbours that meet a run of codes with one factor, 32 or 16, share a
//! scale, for which the largest of them is 32,600. So each is off by 1.5e-5 of the largest at most (f16, which
//! others stage `x` in, by 5e-4 of itself, and eight bits by 4e-3 of the largest), and a product of thousands by
//! about 1e-5. Each is two bytes, and a word has the same byte of four neighbours. A sum of products is made
//! byte by byte: `(Σ c·high) · 256 + Σ c·low`.
//!
//! To set a code into a float takes one or two instructions of the half of a processor that only half of
//! its threads have (NVIDIA, since Volta), and to multiply it one more; here two for eight codes, and
//! two for four products. (Three bytes would be as exact as f32, and take an H200 5 to 20 % longer for a step.)

use cubecl::prelude::*;

use super::{
    Buffers, MatVec, WAITS_FOR_X,
    blocks::{read_place, starts_of_blocks},
    ends, first_row, zeros,
};
use crate::{
    Format, Reduce,
    blocks::{Factor, PIECE, byte_codes, byte_factor},
    common::{F4, U4, dot4, keep, take},
    waits::{LOOKS, are_there, never},
};

/// Columns of `x` in shared memory at a time.
const TILE: usize = 2048;
/// The same of cubes of so many threads that they stage it at once, or of so many to a group, without a norm.
const LARGE_TILE: usize = 4096;
/// And of those that have long rows, two for each of many planes: twice as much is under way.
const LARGEST_TILE: usize = 8192;
/// Threads of a cube that may all look for `x` at the same time.
const LARGE_CUBE: u32 = 512;
/// Factors and minimums that a thread takes apart early.
const MOST_EARLY: usize = 8;
/// Bytes of a value of `x`.
const BYTES: usize = 2;
/// What the largest value of a run becomes: with what rounding adds it is within two signed bytes, whose largest is
/// 127 · 256 + 127.
const LARGEST: f32 = 32_600.0;
/// What stands for the largest where all are 0, or as good as that: so that its inverse is a number.
const LEAST: f32 = 1e-30;
/// What rounds to an integer when it is added, see [`integer`].
const ROUNDS: f32 = 12_582_912.0 + 32_896.0;

impl Format {
    /// Words of one byte of what meets a run.
    const fn byte_words(self) -> usize {
        self.byte_run() / 4
    }
}

impl MatVec {
    /// Whether it has large tiles. Where a thread takes 32 columns at a time they make 8B 3 % slower.
    const fn has_large_tiles(self) -> bool {
        let takes_long = self.threads() >= LARGE_CUBE || matches!(self.reduce, Reduce::Planes(..));
        takes_long && self.together() == 2 && !self.normed
    }

    /// Columns of `x` in shared memory at a time.
    pub(super) const fn byte_tile(self) -> usize {
        if self.passes > 1 {
            // All of `x`, 16 values for each thread.
            return 16 * self.threads() as usize;
        }
        match (self.has_large_tiles(), self.groups, self.rows) {
            (true, 16, 2) => LARGEST_TILE,
            (true, ..) => LARGE_TILE,
            (false, ..) => TILE,
        }
    }

    /// Steps of a group along a tile.
    const fn steps(self) -> usize {
        self.byte_tile() / self.taken() / self.reduce.threads() as usize
    }

    /// Of these, those whose words are read before `x` is staged.
    const fn steps_at_once(self) -> usize {
        if self.has_large_tiles() { self.steps() } else { 1 }
    }

    /// Whether factors are taken apart before `x` is there: of formats where that takes long, and if there are
    /// few, for each takes a register. (16 make 8B in `Q4_K` 4 % slower, and those of `Q6_K` 5 %.)
    const fn takes_apart_early(self) -> bool {
        matches!(self.format, Format::Q4_K | Format::Q5_K) && self.factors_at_once() <= MOST_EARLY
    }

    /// Factors and minimums of what is read before `x` is staged.
    const fn factors_at_once(self) -> usize {
        self.early_factor(self.steps_at_once() * self.rows as usize, 0)
    }

    /// Where the factor of a run of a row of a step is kept then, with its minimum behind it.
    const fn early_factor(self, row: usize, index: usize) -> usize {
        (row * self.runs_taken() + index) * (1 + self.format.has_minimum() as usize)
    }

    /// Vectors of `x` that a thread stages of a tile.
    const fn staged(self) -> usize {
        self.byte_tile() / 4 / self.threads() as usize
    }

    /// Runs of what a thread takes.
    const fn runs_taken(self) -> usize {
        self.taken() / self.format.byte_run()
    }

    /// Words of shared memory for what a thread takes of `x`: bytes, and for each run its scale and
    /// sum. An odd number of 16 bytes: threads that read so many then meet all banks.
    const fn slot(self) -> usize {
        let words = self.runs_taken() * (BYTES * self.format.byte_words() + 2);
        (words.div_ceil(4) | 1) * 4
    }
}

/// Which thread's slot the `v`-th vector of a tile lies in, and with which of the runs there. The runs of a
/// thread are neighbours, or, of 16 values, lie 32 apart in 128.
#[cube]
fn slot_of(v: usize, #[comptime] kernel: MatVec) -> (usize, usize) {
    let words = comptime!(kernel.format.byte_words());
    let (taken, runs) = comptime!((kernel.taken() / 4, kernel.runs_taken()));
    if comptime!(runs == 4) {
        (v / 32 * 2 + v % 8 / words, v % 32 / 8)
    } else {
        (v / taken, v % taken / words)
    }
}

/// `x · scale` to the nearest integer `n`, as `n + 0x4b40_8080`: the sum with 1.5 · 2^23 has no bits for
/// anything smaller. As `n` is `high · 256 + low` of *signed* bytes, these are the lowest bytes of the result
/// less 0x80.
#[cube]
fn integer(x: f32, scale: f32) -> u32 {
    u32::reinterpret(fma(x, scale, ROUNDS))
}

/// `n` as it is.
#[cube]
fn rounded(integer: u32) -> f32 {
    f32::reinterpret(integer) - ROUNDS
}

/// Bytes 0 and 2 of `a` and `b` in turns.
#[cube]
fn even_bytes(a: u32, b: u32) -> u32 {
    (a & 0x00ff_00ff) | ((b << 8) & 0xff00_ff00u32)
}

/// Bytes 1 and 3 of `a` and `b` in turns.
#[cube]
fn odd_bytes(a: u32, b: u32) -> u32 {
    ((a >> 8) & 0x00ff_00ff) | (b & 0xff00_ff00u32)
}

/// The vector of a tile of `count` columns that this thread stages at a step. Behind the end it is the
/// last one.
#[cube]
fn vector_at(#[comptime] step: usize, count: usize, #[comptime] kernel: MatVec) -> usize {
    min(UNIT_POS_X as usize + comptime!(step * kernel.threads() as usize), count / 4 - 1)
}

/// Reads what this thread will stage of columns `from..from + count` of `x`.
#[cube]
fn see_x(
    seen: &mut Array<F4>,
    io: &Buffers,
    from: usize,
    count: usize,
    #[comptime] kernel: MatVec,
) {
    let base = (io.params[4] as usize * io.params[1] as usize + from) / 4;
    #[unroll]
    for step in 0..comptime!(kernel.staged()) {
        seen[step] = io.x[base + vector_at(step, count, kernel)];
    }
}

/// The same, and behind it, where there is a norm, its gain.
#[cube]
fn see(seen: &mut Array<F4>, io: &Buffers, from: usize, count: usize, #[comptime] kernel: MatVec) {
    see_x(seen, io, from, count, kernel);
    if comptime!(kernel.normed) {
        #[unroll]
        for step in 0..comptime!(kernel.staged()) {
            seen[comptime!(kernel.staged() + step)] =
                io.gain[from / 4 + vector_at(step, count, kernel)];
        }
    }
}

/// Whether what was seen of `x` was there.
#[cube]
fn all_there(seen: &Array<F4>, #[comptime] kernel: MatVec) -> bool {
    let mut all = true.runtime();
    #[unroll]
    for step in 0..comptime!(kernel.staged()) {
        all = all && are_there(seen[step]);
    }
    all
}

/// Looks until all is there, if it may be that it is not: in large cubes, of which a launch has few and whose
/// threads have little each, all threads do; in others one thread first, which has the end of the tile, and then
/// all at once. For each look takes as long as a launch has; but all of many cubes would be in the way of what
/// they wait for.
#[cube]
fn wait(seen: &mut Array<F4>, io: &Buffers, from: usize, count: usize, #[comptime] kernel: MatVec) {
    let waits = io.params[3] & WAITS_FOR_X != 0;
    let all_look = comptime!(kernel.threads() >= LARGE_CUBE);
    if waits && (all_look || UNIT_POS_X == comptime!(kernel.threads() - 1)) {
        look(seen, io, from, count, kernel);
    }
    // What was staged before has been read, too.
    sync_cube();
    if waits {
        look(seen, io, from, count, kernel);
    }
}

#[cube]
fn look(seen: &mut Array<F4>, io: &Buffers, from: usize, count: usize, #[comptime] kernel: MatVec) {
    let mut looks = 0u32.runtime();
    while !all_there(seen, kernel) && looks < LOOKS {
        see_x(seen, io, from, count, kernel);
        looks += 1;
    }
    if looks == LOOKS {
        seen[0] = F4::new(never(looks));
    }
}

/// Stages what was seen of `count` columns of `x`, behind [`wait`], and sums its squares, where there is a
/// norm.
#[cube]
fn stage(
    shared: &mut SharedMemory<u32>,
    sums: &mut Array<f32>,
    seen: &Array<F4>,
    count: usize,
    #[comptime] kernel: MatVec,
) {
    let (threads, steps) = comptime!((kernel.threads() as usize, kernel.staged()));
    #[unroll]
    for step in 0..steps {
        let v = UNIT_POS_X as usize + comptime!(step * threads);
        // Every thread exchanges; those of 32 values are all there, or none.
        let exists = v < count / 4;
        let mut value = seen[step];
        if comptime!(kernel.normed) {
            sums[comptime!(kernel.products())] += select(exists, dot4(value, value), 0.0f32);
            value *= seen[comptime!(steps + step)];
        }
        let mut largest =
            max(max(value[0].abs(), value[1].abs()), max(value[2].abs(), value[3].abs()));
        #[unroll]
        for bit in 0..comptime!(kernel.format.byte_words().ilog2()) {
            largest = max(largest, plane_shuffle_xor(largest, comptime!(1u32 << bit)));
        }
        largest = max(largest, LEAST);
        let scale = LARGEST / largest;
        let (a, b) = (integer(value[0], scale), integer(value[1], scale));
        let (c, d) = (integer(value[2], scale), integer(value[3], scale));
        // Of the integers, so that what rounding has changed is not taken off, say, eight times. (NVIDIA's compiler
        // makes `x · scale` of what is rounded and no longer lifted: there it is the sum of `x`.) What is no number
        // shows in it.
        let mut sum = (rounded(a) + rounded(b)) + (rounded(c) + rounded(d));
        #[unroll]
        for bit in 0..comptime!(kernel.format.byte_words().ilog2()) {
            sum += plane_shuffle_xor(sum, comptime!(1u32 << bit));
        }
        let (even, odd) = (even_bytes(a, b), odd_bytes(a, b));
        let (more_even, more_odd) = (even_bytes(c, d), odd_bytes(c, d));
        if exists {
            let words = comptime!(kernel.format.byte_words());
            let (slot, run) = slot_of(v, kernel);
            let slot = slot * comptime!(kernel.slot());
            let at = slot + run * comptime!(BYTES * words) + v % words;
            shared[at] = ((even & 0xffff) | (more_even << 16)) ^ 0x8080_8080u32;
            shared[at + words] = ((odd & 0xffff) | (more_odd << 16)) ^ 0x8080_8080u32;
            if v % words == 0 {
                let scales = slot + comptime!(kernel.runs_taken() * BYTES * words) + 2 * run;
                let zero = comptime!(if kernel.format.has_minimum() {
                    1
                } else {
                    kernel.format.zero_of_bytes()
                });
                let inverse = largest * comptime!(1.0 / LARGEST);
                shared[scales] = u32::reinterpret(inverse);
                shared[scales + 1] =
                    u32::reinterpret(inverse * (sum * f32::new(comptime!(0.0 - zero as f32))));
            }
        }
    }
    sync_cube();
}

/// What of `x` a run meets.
#[derive(CubeType)]
struct Part {
    bytes: Sequence<u32>,
    scale: f32,
    /// The sum of its values, times what is taken off every code (1 for formats with a minimum), negative.
    lift: f32,
}

#[cube]
fn load(
    shared: &SharedMemory<u32>,
    slot: usize,
    #[comptime] index: usize,
    #[comptime] kernel: MatVec,
) -> Part {
    let words = comptime!(BYTES * kernel.format.byte_words());
    let mut bytes = Sequence::<u32>::new();
    #[unroll]
    for i in 0..words {
        bytes.push(shared[slot + comptime!(index * words + i)]);
    }
    let scales = slot + comptime!(kernel.runs_taken() * words + 2 * index);
    let scale = f32::reinterpret(shared[scales]);
    let lift = f32::reinterpret(shared[scales + 1]);
    Part { bytes, scale, lift }
}

/// The sum of the four products of the signed bytes of two words. What stands here is the upper half of
/// a product: `targets` replaces it.
#[cube]
fn products(a: u32, b: u32) -> i32 {
    i32::cast_from(a).mul_hi(i32::cast_from(b))
}

/// The product of a run and what it meets.
#[cube]
fn dot(codes: &Sequence<u32>, of: &Factor, part: &Part, #[comptime] format: Format) -> f32 {
    let words = comptime!(format.byte_words());
    let mut total = 0i32.runtime();
    #[unroll]
    for byte in 0..BYTES {
        total <<= 8;
        #[unroll]
        for k in 0..words {
            total += products(codes[k], part.bytes[comptime!((BYTES - 1 - byte) * words + k)]);
        }
    }
    let sum = f32::cast_from(total);
    if comptime!(format.has_minimum()) {
        of.factor * (sum * part.scale) + of.minimum * part.lift
    } else {
        of.factor * fma(sum, part.scale, part.lift)
    }
}

/// Takes the factors apart of what was read at a step, before `x` is waited for: there is time then, and none
/// behind it. Compilers would move that to where it is used; what has been with another thread they leave where
/// it is, although here that is the thread itself.
#[cube]
fn take_apart(
    early: &mut Sequence<f32>,
    read: &Sequence<u32>,
    starts: &Sequence<usize>,
    from: usize,
    place: usize,
    #[comptime] step: usize,
    #[comptime] kernel: MatVec,
) {
    let format = comptime!(kernel.format);
    let (rows, words) = comptime!((kernel.rows as usize, kernel.words()));
    let (together, pieces) = comptime!((kernel.together(), format.pieces()));
    let itself = UNIT_POS_X % comptime!(kernel.reduce.plane().unwrap_or(1));
    let global = from / PIECE + place * together;
    let block = global / pieces * comptime!(format.block_bytes());
    #[unroll]
    for r in 0..rows {
        let (at, into) = (starts[r] + block, comptime!((step * rows + r) * words));
        #[unroll]
        for index in 0..comptime!(kernel.runs_taken()) {
            let of = byte_factor(read, at, global % pieces, into, format, together, index);
            early.push(plane_shuffle(of.factor, itself));
            if comptime!(format.has_minimum()) {
                early.push(plane_shuffle(of.minimum, itself));
            }
        }
    }
}

/// The factor of a run of a row that was taken apart early.
#[cube]
fn kept(
    early: &Sequence<f32>,
    #[comptime] row: usize,
    #[comptime] index: usize,
    #[comptime] kernel: MatVec,
) -> Factor {
    let place = comptime!(kernel.early_factor(row, index));
    let minimum = if comptime!(kernel.format.has_minimum()) {
        early[comptime!(place + 1)]
    } else {
        f32::new(0.0)
    };
    Factor { factor: early[place], minimum }
}

#[cube]
pub(super) fn product(
    weight: &Array<u32>,
    wide: &Array<U4>,
    io: &mut Buffers,
    #[comptime] kernel: MatVec,
) {
    let format = comptime!(kernel.format);
    let rows = comptime!(kernel.rows as usize);
    let (together, words) = comptime!((kernel.together(), kernel.words()));
    let pieces = comptime!(format.pieces());
    let threads = comptime!(kernel.reduce.threads() as usize);

    let columns = io.params[1] as usize;
    let lane = UNIT_POS_X as usize % threads;
    let first = first_row(io, kernel);
    let early = ends::early(io, first, kernel);
    let tile = comptime!(kernel.byte_tile());
    let mut shared = SharedMemory::<u32>::new(comptime!(tile / kernel.taken() * kernel.slot()));
    let mut sums = zeros(kernel);
    let starts = starts_of_blocks(first, io, kernel);
    let at_once = comptime!(kernel.steps_at_once());

    let mut seen = Array::<F4>::new(comptime!(kernel.staged() * (1 + kernel.normed as usize)));
    see(&mut seen, io, 0usize, min(columns, tile), kernel);
    let mut from = 0usize.runtime();
    while from < columns {
        let count = min(columns - from, tile);
        let last = count / comptime!(kernel.taken()) - 1;
        let mut read = Sequence::<u32>::new();
        let mut early_factors = Sequence::<f32>::new();
        // A place behind the end reads the last one, and is not used.
        #[unroll]
        for step in 0..at_once {
            let ahead = min(lane + comptime!(step * threads), last);
            read_place(weight, wide, &starts, from, ahead, &mut read, 0usize, rows, kernel);
        }
        if comptime!(kernel.takes_apart_early()) {
            #[unroll]
            for step in 0..at_once {
                let ahead = min(lane + comptime!(step * threads), last);
                take_apart(&mut early_factors, &read, &starts, from, ahead, step, kernel);
            }
        }
        wait(&mut seen, io, from, count, kernel);
        stage(&mut shared, &mut sums, &seen, count, kernel);
        // The next tile's values are on their way while this one is multiplied. (The last one
        // is read again.)
        let next = select(from + tile < columns, from + tile, from);
        see(&mut seen, io, next, min(columns - next, tile), kernel);
        #[unroll]
        for step in 0..comptime!(kernel.steps()) {
            let t = lane + comptime!(step * threads);
            let place = min(t, last);
            if comptime!(step >= at_once) {
                read_place(weight, wide, &starts, from, place, &mut read, 0usize, rows, kernel);
            }
            if t <= last {
                let global = from / PIECE + place * together;
                let block = global / pieces * comptime!(format.block_bytes());
                #[unroll]
                for index in 0..comptime!(kernel.runs_taken()) {
                    let part = load(&shared, place * comptime!(kernel.slot()), index, kernel);
                    #[unroll]
                    for r in 0..rows {
                        let at = starts[r] + block;
                        let into = comptime!((step * rows + r) * words);
                        let codes =
                            byte_codes(&read, at, global % pieces, into, format, together, index);
                        let of = if comptime!(kernel.takes_apart_early() && step < at_once) {
                            kept(&early_factors, comptime!(step * rows + r), index, kernel)
                        } else {
                            byte_factor(&read, at, global % pieces, into, format, together, index)
                        };
                        sums[r] += dot(&codes, &of, &part, format);
                    }
                }
            }
        }
        from += tile;
    }
    ends::finish(&mut sums, io, first, &early, kernel);
}

/// The same for matrices of many rows: a cube stages `x` once, all of it, and goes on with the rows behind its
/// first ones.
#[cube]
pub(super) fn passes(
    weight: &Array<u32>,
    wide: &Array<U4>,
    io: &mut Buffers,
    #[comptime] kernel: MatVec,
) {
    let (rows, words) = comptime!((kernel.rows as usize, kernel.words()));
    let columns = io.params[1] as usize;
    let mut first = first_row(io, kernel);
    let mut shared =
        SharedMemory::<u32>::new(comptime!(kernel.byte_tile() / kernel.taken() * kernel.slot()));
    let mut squares = zeros(kernel);
    let count = comptime!(kernel.steps() * rows * words);
    let mut kept = Array::<u32>::new(count);
    let mut seen = Array::<F4>::new(comptime!(kernel.staged() * (1 + kernel.normed as usize)));
    see(&mut seen, io, 0usize, columns, kernel);
    keep(&read_rows(weight, wide, first, io, kernel), &mut kept);
    wait(&mut seen, io, 0usize, columns, kernel);
    stage(&mut shared, &mut squares, &seen, columns, kernel);
    let factor = ends::norm_factor(&squares, io, kernel);
    for _pass in 0..comptime!(kernel.passes) {
        let early = ends::early(io, first, kernel);
        let mut sums = zeros(kernel);
        multiply(&mut sums, &shared, first, &take(&kept, count), io, kernel);
        let next = first + comptime!((kernel.groups * kernel.rows) as usize);
        // They come while this is added up. (The last ones are not used.)
        keep(&read_rows(weight, wide, next, io, kernel), &mut kept);
        ends::finish_with(&mut sums, factor, io, first, &early, kernel);
        first = next;
    }
}

/// Reads what a thread takes of all columns of its rows.
#[cube]
fn read_rows(
    weight: &Array<u32>,
    wide: &Array<U4>,
    first: usize,
    io: &Buffers,
    #[comptime] kernel: MatVec,
) -> Sequence<u32> {
    let rows = comptime!(kernel.rows as usize);
    let threads = comptime!(kernel.reduce.threads() as usize);
    let lane = UNIT_POS_X as usize % threads;
    let last = io.params[1] as usize / comptime!(kernel.taken()) - 1;
    let starts = starts_of_blocks(first, io, kernel);
    let mut read = Sequence::<u32>::new();
    #[unroll]
    for step in 0..comptime!(kernel.steps()) {
        let place = min(lane + comptime!(step * threads), last);
        read_place(weight, wide, &starts, 0usize, place, &mut read, 0usize, rows, kernel);
    }
    read
}

/// Multiplies what was [read](read_rows).
#[cube]
fn multiply(
    sums: &mut Array<f32>,
    shared: &SharedMemory<u32>,
    first: usize,
    read: &Sequence<u32>,
    io: &Buffers,
    #[comptime] kernel: MatVec,
) {
    let format = comptime!(kernel.format);
    let (rows, words) = comptime!((kernel.rows as usize, kernel.words()));
    let (together, pieces) = comptime!((kernel.together(), format.pieces()));
    let threads = comptime!(kernel.reduce.threads() as usize);
    let lane = UNIT_POS_X as usize % threads;
    let last = io.params[1] as usize / comptime!(kernel.taken()) - 1;
    let starts = starts_of_blocks(first, io, kernel);
    #[unroll]
    for step in 0..comptime!(kernel.steps()) {
        let place = lane + comptime!(step * threads);
        if place <= last {
            let global = place * together;
            let block = global / pieces * comptime!(format.block_bytes());
            #[unroll]
            for index in 0..comptime!(kernel.runs_taken()) {
                let part = load(shared, place * comptime!(kernel.slot()), index, kernel);
                #[unroll]
                for r in 0..rows {
                    let at = starts[r] + block;
                    let into = comptime!((step * rows + r) * words);
                    let codes =
                        byte_codes(read, at, global % pieces, into, format, together, index);
                    let of = byte_factor(read, at, global % pieces, into, format, together, index);
                    sums[r] += dot(&codes, &of, &part, format);
                }
            }
        }
    }
}
