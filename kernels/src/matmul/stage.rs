//! From memory into shared memory: what both ways to multiply begin with.

use cubecl::prelude::*;

use super::{FOURS, MatMul};
use crate::{
    blocks::{Levels, PIECE, decode, fetch, run_start, section_start, share_levels},
    common::{F4, U4, halves, keep},
};

/// What a launch reads and writes.
#[derive(CubeType)]
pub(crate) struct Buffers {
    pub(crate) weight: Array<u32>,
    /// The same in vectors.
    pub(crate) wide: Array<U4>,
    pub(crate) x: Array<F4>,
    pub(crate) bias: Array<f32>,
    pub(crate) params: Array<u32>,
    pub(crate) out: Array<f32>,
}

/// The tile of a cube, and what its thread stages.
#[derive(CubeType)]
pub(crate) struct Tile {
    /// The first row of `w`.
    pub(crate) first: usize,
    /// The first row of `x`.
    pub(crate) first_x: usize,
    rows: usize,
    columns: usize,
    batch: usize,
    /// Whether the thread stages `w`.
    is_w: bool,
    /// Among those that stage the same.
    thread: usize,
    levels: Levels,
}

/// What a thread has read of the next step.
#[derive(CubeType)]
pub(crate) struct Ahead {
    words: Array<u32>,
    x: Array<F4>,
}

/// Of this cube. Cubes beside each other have the same rows of `w`.
#[cube]
pub(crate) fn tile(io: &Buffers, #[comptime] kernel: MatMul) -> Tile {
    let size = comptime!(kernel.size());
    let rows = io.params[0] as usize;
    let columns = io.params[1] as usize;
    let batch = io.params[2] as usize;
    let down = (batch + comptime!(size - 1)) / size;
    let across = (rows + comptime!(size - 1)) / size;
    // Cubes behind the end do the last one's work again.
    let cube = min(CUBE_POS, down * across - 1);
    let thread = UNIT_POS_X as usize;
    Tile {
        first: cube / down * size,
        first_x: cube % down * size,
        rows,
        columns,
        batch,
        is_w: thread < size,
        thread: thread % size,
        levels: share_levels(kernel.format),
    }
}

/// Steps of a launch.
#[cube]
pub(crate) fn steps(tile: &Tile) -> usize {
    tile.columns / PIECE
}

/// Room for what is read ahead.
#[cube]
pub(crate) fn nothing_ahead(#[comptime] kernel: MatMul) -> Ahead {
    Ahead { words: Array::<u32>::new(comptime!(kernel.words())), x: Array::<F4>::new(FOURS) }
}

/// Where the piece of a row at a step begins: its block.
#[cube]
fn block_start(tile: &Tile, row: usize, step: usize, #[comptime] kernel: MatMul) -> usize {
    let format = comptime!(kernel.format);
    let row = min(tile.first + row, tile.rows - 1);
    let row_bytes = tile.columns / comptime!(format.block_len()) * comptime!(format.block_bytes());
    row * row_bytes + step / comptime!(format.pieces()) * comptime!(format.block_bytes())
}

/// The row and the word of a section that a thread reads as its `i`-th of that section.
#[cube]
fn share(
    tile: &Tile,
    #[comptime] section: usize,
    #[comptime] i: usize,
    #[comptime] kernel: MatMul,
) -> (usize, usize) {
    let words = comptime!(kernel.format.section_words(section, 1));
    let place = tile.thread + comptime!(i * kernel.size());
    (place / words, place % words)
}

/// Reads words of `w` for a step: those that the thread will decode, or those that lie beside what
/// its neighbours read.
#[cube]
fn read_w(io: &Buffers, tile: &Tile, step: usize, ahead: &mut Ahead, #[comptime] kernel: MatMul) {
    let format = comptime!(kernel.format);
    // Behind the end the last one is read again.
    let step = min(step, steps(tile) - 1);
    if tile.is_w {
        let piece = step % comptime!(format.pieces());
        if comptime!(kernel.reads_together()) {
            #[unroll]
            for section in 0..comptime!(format.section_count()) {
                #[unroll]
                for i in 0..comptime!(format.section_words(section, 1)) {
                    let (row, word) = share(tile, section, i, kernel);
                    let at = block_start(tile, row, step, kernel);
                    let start = section_start(at, piece, section, format);
                    ahead.words[comptime!(format.words_before(section, 1) + i)] =
                        io.weight[start / 4 + word];
                }
            }
        } else {
            let at = block_start(tile, tile.thread, step, kernel);
            let mut read = Sequence::<u32>::new();
            let is_wide = comptime!(format.is_wide());
            fetch(&io.weight, &io.wide, at, piece, &mut read, format, 1usize, is_wide);
            keep(&read, &mut ahead.words);
        }
    }
}

/// Leaves the words that were read together where the threads that decode them find them.
#[cube]
fn pass_on(tile: &Tile, ahead: &Ahead, raw: &mut SharedMemory<u32>, #[comptime] kernel: MatMul) {
    let format = comptime!(kernel.format);
    if comptime!(kernel.reads_together()) {
        if tile.is_w {
            #[unroll]
            for section in 0..comptime!(format.section_count()) {
                #[unroll]
                for i in 0..comptime!(format.section_words(section, 1)) {
                    let (row, word) = share(tile, section, i, kernel);
                    let from = comptime!(format.words_before(section, 1));
                    raw[row * comptime!(kernel.words()) + from + word] =
                        ahead.words[comptime!(from + i)];
                }
            }
        }
    }
}

/// Reads what the thread is to stage of `x` at a step.
#[cube]
fn read_x(io: &Buffers, tile: &Tile, step: usize, ahead: &mut Ahead, #[comptime] kernel: MatMul) {
    let format = comptime!(kernel.format);
    let step = min(step, steps(tile) - 1);
    if !tile.is_w {
        let piece = step % comptime!(format.pieces());
        let block = step / comptime!(format.pieces()) * comptime!(format.block_len());
        let per_run = comptime!(FOURS / format.runs());
        // Neighbouring threads read neighbouring values, a row of 8 vectors after the other.
        let four = tile.thread % FOURS;
        let mut column = block + run_start(piece, 0usize, format) + four % per_run * 4;
        if comptime!(format.runs() > 1) {
            column += four / per_run * 32;
        }
        #[unroll]
        for i in 0..FOURS {
            let row = tile.thread / FOURS + comptime!(i * kernel.size() / FOURS);
            let row = min(tile.first_x + row, tile.batch - 1);
            ahead.x[i] = io.x[(row * tile.columns + column) / 4];
        }
    }
}

/// Room for the words that are passed on.
#[cube]
pub(crate) fn raw(#[comptime] kernel: MatMul) -> SharedMemory<u32> {
    SharedMemory::<u32>::new(comptime!(if kernel.reads_together() {
        kernel.words() * kernel.size()
    } else {
        1
    }))
}

/// Reads what the first step needs.
#[cube]
pub(crate) fn begin(
    io: &Buffers,
    tile: &Tile,
    ahead: &mut Ahead,
    raw: &mut SharedMemory<u32>,
    #[comptime] kernel: MatMul,
) {
    read_x(io, tile, 0usize, ahead, kernel);
    read_w(io, tile, 0usize, ahead, kernel);
    if comptime!(kernel.reads_together()) {
        pass_on(tile, ahead, raw, kernel);
        read_w(io, tile, 1usize, ahead, kernel);
    }
}

/// When a step is staged: reads what the next ones need. Words that are passed on are read two steps
/// before they are decoded.
#[cube]
fn go_on(
    io: &Buffers,
    tile: &Tile,
    step: usize,
    ahead: &mut Ahead,
    raw: &mut SharedMemory<u32>,
    #[comptime] kernel: MatMul,
) {
    pass_on(tile, ahead, raw, kernel);
    read_w(io, tile, step + comptime!(1 + kernel.reads_together() as usize), ahead, kernel);
    read_x(io, tile, step + 1, ahead, kernel);
}

/// Stages four numbers of `x` or `w`, in as many parts as a number has.
#[cube]
fn put<E: Float>(
    stage: &mut SharedMemory<Vector<E, Const<4>>>,
    place: usize,
    value: F4,
    #[comptime] is_x: bool,
    #[comptime] kernel: MatMul,
) {
    if comptime!(kernel.parts() == 2) {
        let (first, rest) = halves(value, is_x);
        stage[place] = Vector::<E, Const<4>>::cast_from(first);
        stage[place + comptime!(kernel.stage())] = Vector::<E, Const<4>>::cast_from(rest);
    } else {
        stage[place] = Vector::<E, Const<4>>::cast_from(value);
    }
}

/// Stages a piece of `w` and as many values of `x`: each thread what is its part.
#[cube]
fn stage<E: Float>(
    tile: &Tile,
    step: usize,
    ahead: &Ahead,
    raw: &SharedMemory<u32>,
    w: &mut SharedMemory<Vector<E, Const<4>>>,
    x: &mut SharedMemory<Vector<E, Const<4>>>,
    #[comptime] kernel: MatMul,
) {
    let format = comptime!(kernel.format);
    let stride = comptime!(kernel.stride());
    if tile.is_w {
        let piece = step % comptime!(format.pieces());
        let at = block_start(tile, tile.thread, step, kernel);
        let mut words = Sequence::<u32>::new();
        #[unroll]
        for i in 0..comptime!(kernel.words()) {
            if comptime!(kernel.reads_together()) {
                words.push(raw[tile.thread * comptime!(kernel.words()) + i]);
            } else {
                words.push(ahead.words[i]);
            }
        }
        let decoded = decode(&words, &tile.levels, at, piece, 0u32, 0usize, format, 1usize, 0usize);
        let per_run = comptime!(FOURS / format.runs());
        let scale = f32::new(comptime!(kernel.scale()));
        #[unroll]
        for run in 0..comptime!(format.runs()) {
            let factor = decoded.factors[run] * scale;
            let mut minimum = 0.0f32;
            if comptime!(format.has_minimum()) {
                minimum = decoded.minimums[run] * scale;
            }
            #[unroll]
            for i in 0..per_run {
                let four = comptime!(run * per_run + i);
                let mut offset = minimum;
                if comptime!(format.is_lifted()) {
                    // Exact: lifts have few bits.
                    offset += factor * f32::new(comptime!(format.lift(four * 4) as f32));
                }
                let mut value = F4::new(0.0f32);
                #[unroll]
                for e in 0..4usize {
                    value[e] = factor * decoded.codes[comptime!(four * 4 + e)] - offset;
                }
                put::<E>(w, tile.thread * stride + four, value, false, kernel);
            }
        }
    } else {
        #[unroll]
        for i in 0..FOURS {
            let row = tile.thread / FOURS + comptime!(i * kernel.size() / FOURS);
            put::<E>(x, row * stride + tile.thread % FOURS, ahead.x[i], true, kernel);
        }
    }
}

/// Stages a step for all threads of the cube, when what was staged before has been multiplied.
#[cube]
pub(crate) fn next<E: Float>(
    io: &Buffers,
    tile: &Tile,
    step: usize,
    ahead: &mut Ahead,
    raw: &mut SharedMemory<u32>,
    w: &mut SharedMemory<Vector<E, Const<4>>>,
    x: &mut SharedMemory<Vector<E, Const<4>>>,
    #[comptime] kernel: MatMul,
) {
    sync_cube();
    stage::<E>(tile, step, ahead, raw, w, x, kernel);
    sync_cube();
    go_on(io, tile, step, ahead, raw, kernel);
}

/// Writes a value of the result, if it has that place.
#[cube]
pub(crate) fn write(io: &mut Buffers, tile: &Tile, x_row: usize, row: usize, sum: f32) {
    let row = tile.first + row;
    let x_row = tile.first_x + x_row;
    if row < tile.rows && x_row < tile.batch {
        let mut value = sum;
        if io.params[3] != 0u32 {
            value += io.bias[row];
        }
        io.out[x_row * tile.rows + row] = value;
    }
}
