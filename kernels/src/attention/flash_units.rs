//! [`Flash`] by matrix units: what a prompt needs where a device has them.
//!
//! A plane has as many query rows as a matrix, and the unnormalised result of these rows in matrices of its
//! own. The planes of a cube go through the keys together: a block of keys is staged in shared memory for
//! all of them, and its values take the same place when the scores are made. Scores reach the threads that
//! make weights of them through shared memory, a matrix at a time, and go back the same way.
//!
//! Queries, scaled, and weights are sums of two halves (see [`matmul`](crate::matmul)), keys and values
//! are f16 as they are: so nothing is lost that f32 has. Nobody but the units knows which thread has which
//! value of a matrix; so the result is scaled only when a maximum has grown by more than [`SLACK`], through
//! shared memory (FlashAttention-4 does so to save time): weights are relative to a maximum
//! that is at most so much too small.
//!
//! Buffers: as for [`Flash`].

use cubecl::{
    cmma::{self, Matrix, MatrixIdent, MatrixLayout},
    prelude::*,
};

use super::{
    LOWEST,
    flash::Flash,
    keys::slot_of,
    tile::{Tile, blocks, place_of, tile},
    visible,
};
use crate::{
    common::{F4, halves},
    units::{load, matrix, zeros},
};

/// Threads of a plane.
const PLANE: usize = 32;
/// Planes of a cube.
const PLANES: usize = 4;
/// Matrices of keys in a block.
const DEEP: usize = 2;
/// Threads of a plane that share a row.
const SHARING: usize = 2;
/// By how much a score may be larger than what weights are relative to: weights are at most e⁵.
const SLACK: f32 = 5.0;
/// Weights are staged so much larger, so that the halves of small ones are no subnormals; the largest is
/// 19,000, which f16 has.
const LARGER: f32 = 128.0;

/// Threads of a cube.
pub(super) const THREADS: u32 = (PLANE * PLANES) as u32;
/// Query rows of a cube, for matrices with this edge.
pub(super) const fn rows(edge: u32) -> u32 {
    PLANES as u32 * edge
}

impl Flash {
    /// Rows, columns and depth of a matrix.
    const fn edge(self) -> usize {
        self.rows as usize / PLANES
    }

    /// Matrices along a head.
    const fn along(self) -> usize {
        self.dim as usize / self.edge()
    }

    /// Keys of a block.
    const fn block(self) -> usize {
        DEEP * self.edge()
    }

    /// Vectors of a key.
    const fn fours(self) -> usize {
        self.dim as usize / 4
    }

    /// Vectors from one staged key to the next: more than there are, so that they begin in different
    /// banks.
    const fn block_stride(self) -> usize {
        self.fours() + 2
    }

    /// The same of scores.
    const fn sums_stride(self) -> usize {
        self.edge() / 4 + 1
    }

    /// The same of weights.
    const fn weights_stride(self) -> usize {
        self.edge() / 4 + 2
    }

    /// Vectors of a block that a thread stages.
    const fn own(self) -> usize {
        (self.block() * self.fours()).div_ceil(THREADS as usize)
    }

    /// Vectors of a matrix's row that a thread has.
    const fn each(self) -> usize {
        self.edge() / 4 / SHARING
    }
}

/// Reads what the thread stages of the block that begins at key `first`. Keys behind the end are read as
/// the last one is, and not used.
#[cube]
fn read<C: Float>(
    from: &Array<Vector<C, Const<4>>>,
    held: &mut Array<Vector<C, Const<4>>>,
    params: &Array<u32>,
    base: usize,
    first: usize,
    #[comptime] kernel: Flash,
) {
    let fours = comptime!(kernel.fours());
    let last = params[4] as usize * fours - 1;
    let (all, start) = (params[5] as usize * fours, params[6] as usize * fours);
    #[unroll]
    for i in 0..comptime!(kernel.own()) {
        let at = first * fours + UNIT_POS_X as usize + comptime!(i * THREADS as usize);
        held[i] = from[base * fours + slot_of(min(at, last), start, all)];
    }
}

/// Stages a block, or as many rows of anything.
#[cube]
fn stage<C: Float>(
    block: &mut SharedMemory<Vector<C, Const<4>>>,
    held: &Array<Vector<C, Const<4>>>,
    #[comptime] kernel: Flash,
) {
    let (fours, stride) = comptime!((kernel.fours(), kernel.block_stride()));
    let thread = UNIT_POS_X as usize;
    let to = thread / fours * stride + thread % fours;
    #[unroll]
    for i in 0..comptime!(kernel.own()) {
        if comptime!((THREADS as usize).is_multiple_of(kernel.fours())) {
            block[to + comptime!(i * THREADS as usize / fours * stride)] = held[i];
        } else {
            let at = thread + comptime!(i * THREADS as usize);
            if at < comptime!(kernel.block() * fours) {
                block[at / fours * stride + at % fours] = held[i];
            }
        }
    }
}

/// Where in shared memory a plane's own matrix of sums begins, and the thread's first vector of its row
/// lies.
#[cube]
fn own_sums(#[comptime] kernel: Flash) -> (usize, usize) {
    let (edge, stride) = comptime!((kernel.edge(), kernel.sums_stride()));
    let lane = UNIT_POS_X as usize % PLANE;
    let first = UNIT_POS_X as usize / PLANE * comptime!(edge * stride);
    // Threads without a row read that of the last one.
    let row = min(lane / SHARING, comptime!(edge - 1));
    (first, first + row * stride + lane % SHARING * comptime!(kernel.each()))
}

/// Leaves a matrix of sums where all threads of its plane can read it. The first one of several comes
/// behind a barrier.
#[cube]
fn leave(
    sums: &mut SharedMemory<F4>,
    sum: &Matrix<f32>,
    #[comptime] is_first: bool,
    #[comptime] kernel: Flash,
) {
    let stride = comptime!(kernel.sums_stride());
    let first = own_sums(kernel).0;
    if comptime!(!is_first) {
        // What was there has been read.
        sync_plane();
    }
    let mut to = sums.slice_mut(first, first + comptime!(kernel.edge() * stride));
    cmma::store(&mut to, sum, comptime!(stride as u32 * 4), MatrixLayout::RowMajor);
    sync_plane();
}

/// Multiplies each row of the result with what its threads say.
#[cube]
fn scale(
    result: &Sequence<Matrix<f32>>,
    sums: &mut SharedMemory<F4>,
    keep: f32,
    #[comptime] kernel: Flash,
) {
    let (first, at) = own_sums(kernel);
    let stride = comptime!(kernel.sums_stride());
    let has_row = UNIT_POS_X as usize % PLANE / SHARING < comptime!(kernel.edge());
    #[unroll]
    for column in 0..comptime!(kernel.along()) {
        leave(sums, result.index(column), comptime!(column == 0), kernel);
        if has_row {
            #[unroll]
            for i in 0..comptime!(kernel.each()) {
                sums[at + i] *= F4::new(keep);
            }
        }
        sync_plane();
        let slice = sums.slice(first, first + comptime!(kernel.edge() * stride));
        let layout = comptime!(MatrixLayout::RowMajor);
        cmma::load_with_layout(result.index(column), &slice, comptime!(stride as u32 * 4), layout);
    }
}

/// Loads the queries of all planes, scaled: what f16 has of them, then the rest, matrix by matrix.
#[cube]
fn queries<C: Float>(
    q: &Array<F4>,
    params: &Array<u32>,
    tile: &Tile,
    block: &mut SharedMemory<Vector<C, Const<4>>>,
    #[comptime] kernel: Flash,
) -> Sequence<Matrix<C>> {
    let (fours, stride) = comptime!((kernel.fours(), kernel.block_stride()));
    let (edge, along) = comptime!((kernel.edge(), kernel.along()));
    let factor = F4::new(f32::reinterpret(params[8]));
    let mut all = Sequence::<Matrix<C>>::new();
    #[unroll]
    for _ in 0..comptime!(2 * along) {
        all.push(matrix::<C>(MatrixIdent::A, MatrixLayout::RowMajor, edge));
    }
    // As many rows at a time as there are keys in a block.
    #[unroll]
    for turn in 0..comptime!(PLANES / DEEP) {
        let mut held = Array::<F4>::new(comptime!(kernel.own()));
        #[unroll]
        for i in 0..comptime!(kernel.own()) {
            let at = UNIT_POS_X as usize + comptime!(i * THREADS as usize);
            let row = tile.first_row + at / fours + comptime!(turn * kernel.block());
            let from = place_of(tile, min(row, tile.last_row)) * fours;
            held[i] = q[from + at % fours] * factor;
        }
        #[unroll]
        for part in 0..2usize {
            let mut staged = Array::<Vector<C, Const<4>>>::new(comptime!(kernel.own()));
            #[unroll]
            for i in 0..comptime!(kernel.own()) {
                let (large, small) = halves(held[i], true);
                if comptime!(part == 0) {
                    staged[i] = Vector::cast_from(large);
                } else {
                    staged[i] = Vector::cast_from(small);
                }
            }
            if comptime!(turn + part > 0) {
                // What was there has been loaded.
                sync_cube();
            }
            stage::<C>(block, &staged, kernel);
            sync_cube();
            let plane = UNIT_POS_X as usize / PLANE;
            if plane / DEEP == turn {
                #[unroll]
                for step in 0..along {
                    let from = plane % DEEP * comptime!(edge * stride) + comptime!(step * edge / 4);
                    let slice = block.slice(from, from + comptime!(edge * stride));
                    let query = all.index(comptime!(part * along + step));
                    cmma::load(query, &slice, comptime!(stride as u32 * 4));
                }
            }
        }
    }
    all
}

#[cube]
pub(super) fn flash<C: Float>(
    q: &Array<F4>,
    keys: &Array<Vector<C, Const<4>>>,
    values: &Array<Vector<C, Const<4>>>,
    padding: &Array<u32>,
    params: &Array<u32>,
    out: &mut Array<F4>,
    log_sums: &mut Array<f32>,
    #[comptime] kernel: Flash,
) {
    let (edge, along, block_keys) = comptime!((kernel.edge(), kernel.along(), kernel.block()));
    let (fours, stride, each) = comptime!((kernel.fours(), kernel.block_stride(), kernel.each()));

    let len = params[1] as usize;
    let soft_cap = f32::reinterpret(params[9]);
    let tile = tile(params, kernel);
    let base = tile.base;
    let (begin, end) = blocks(&tile, params, padding, block_keys);
    let mut k = Array::<Vector<C, Const<4>>>::new(comptime!(kernel.own()));
    let mut v = Array::<Vector<C, Const<4>>>::new(comptime!(kernel.own()));
    read::<C>(keys, &mut k, params, base, begin * block_keys, kernel);
    read::<C>(values, &mut v, params, base, begin * block_keys, kernel);

    let mut block = SharedMemory::<Vector<C, Const<4>>>::new(comptime!(block_keys * stride));
    let mut sums = SharedMemory::<F4>::new(comptime!(PLANES * edge * kernel.sums_stride()));
    let mut weights = SharedMemory::<Vector<C, Const<4>>>::new(comptime!(
        2 * PLANES * edge * kernel.weights_stride()
    ));
    let queries = queries::<C>(q, params, &tile, &mut block, kernel);
    let mut result = Sequence::<Matrix<f32>>::new();
    #[unroll]
    for _ in 0..along {
        result.push(zeros(edge));
    }

    let lane = UNIT_POS_X as usize % PLANE;
    let plane = UNIT_POS_X as usize / PLANE;
    let row = tile.first_row + plane * edge + min(lane / SHARING, comptime!(edge - 1));
    let has_row = lane / SHARING < edge;
    let seen = visible(params, padding, tile.sequence, min(row, len - 1));
    let own_sums = own_sums(kernel).1;
    let weights_stride = comptime!(kernel.weights_stride());
    let own_weights = plane * comptime!(2 * edge * weights_stride);
    let mut maximum = f32::new(LOWEST);
    let mut sum = 0.0f32;

    for step in begin..end {
        // What was staged before has been multiplied.
        sync_cube();
        stage::<C>(&mut block, &k, kernel);
        sync_cube();
        read::<C>(keys, &mut k, params, base, (step + 1) * block_keys, kernel);
        let mut scores = Array::<f32>::new(comptime!(DEEP * 4 * each));
        #[unroll]
        for deep in 0..DEEP {
            let product = zeros(edge);
            #[unroll]
            for i in 0..along {
                let from = comptime!(deep * edge * stride + i * edge / 4).runtime();
                let (ident, layout) = comptime!((MatrixIdent::B, MatrixLayout::ColMajor));
                let key = load::<C>(&block, from, stride, ident, layout, edge);
                cmma::execute::<C, C, f32, f32>(queries.index(i), &key, &product, &product);
                let rest = queries.index(comptime!(along + i));
                cmma::execute::<C, C, f32, f32>(rest, &key, &product, &product);
            }
            leave(&mut sums, &product, comptime!(deep == 0), kernel);
            #[unroll]
            for i in 0..each {
                let four = sums[own_sums + i];
                #[unroll]
                for e in 0..4usize {
                    scores[comptime!((deep * each + i) * 4 + e)] = four[e];
                }
            }
        }
        // All planes have multiplied the keys.
        sync_cube();
        stage::<C>(&mut block, &v, kernel);
        sync_cube();
        read::<C>(values, &mut v, params, base, (step + 1) * block_keys, kernel);

        // Together, so that whoever has no cap jumps over all of it.
        if soft_cap != 0.0f32 {
            #[unroll]
            for i in 0..comptime!(DEEP * 4 * each) {
                scores[i] = soft_cap * (scores[i] / soft_cap).tanh();
            }
        }
        let mut best = f32::new(LOWEST);
        let first_key = (step * block_keys + lane % SHARING * comptime!(each * 4)) as u32;
        #[unroll]
        for i in 0..comptime!(DEEP * 4 * each) {
            let key = first_key + comptime!((i / (4 * each) * edge + i % (4 * each)) as u32);
            scores[i] = select(key >= seen.0 && key < seen.1, scores[i], LOWEST);
            best = max(best, scores[i]);
        }
        best = max(best, plane_shuffle_xor(best, 1u32));
        // Whether a row of the plane needs it.
        let mut grows = select(best > maximum + SLACK, 1.0f32, 0.0f32);
        #[unroll]
        for bit in 1..comptime!(PLANE.ilog2()) {
            grows = max(grows, plane_shuffle_xor(grows, comptime!(1u32 << bit)));
        }
        if grows > 0.0f32 {
            let larger = max(best, maximum);
            let keep = (maximum - larger).exp();
            maximum = larger;
            sum *= keep;
            scale(&result, &mut sums, keep, kernel);
        }
        let mut parts = Sequence::<Matrix<C>>::new();
        #[unroll]
        for deep in 0..DEEP {
            let mut fours = Array::<F4>::new(each);
            #[unroll]
            for i in 0..each {
                let mut four = F4::new(0.0f32);
                #[unroll]
                for e in 0..4usize {
                    let score = scores[comptime!((deep * each + i) * 4 + e)];
                    // A hidden key weighs nothing, also where all are hidden and there is no maximum.
                    let weight = select(score > LOWEST, (score - maximum).exp(), 0.0f32);
                    sum += weight;
                    four[e] = weight * LARGER;
                }
                fours[i] = four;
            }
            if comptime!(deep > 0) {
                // What was there has been loaded.
                sync_plane();
            }
            if has_row {
                #[unroll]
                for i in 0..each {
                    let (large, small) = halves(fours[i], false);
                    let at =
                        own_weights + lane / SHARING * weights_stride + lane % SHARING * each + i;
                    weights[at] = Vector::cast_from(large);
                    weights[at + comptime!(edge * weights_stride)] = Vector::cast_from(small);
                }
            }
            sync_plane();
            #[unroll]
            for part in 0..2usize {
                let from = own_weights + comptime!(part * edge * weights_stride);
                let (ident, layout) = comptime!((MatrixIdent::A, MatrixLayout::RowMajor));
                parts.push(load::<C>(&weights, from, weights_stride, ident, layout, edge));
            }
        }
        #[unroll]
        for column in 0..along {
            let sum = result.index(column);
            #[unroll]
            for deep in 0..DEEP {
                let from = comptime!(deep * edge * stride + column * edge / 4).runtime();
                let (ident, layout) = comptime!((MatrixIdent::B, MatrixLayout::RowMajor));
                let value = load::<C>(&block, from, stride, ident, layout, edge);
                #[unroll]
                for part in 0..2usize {
                    let weight = parts.index(comptime!(2 * deep + part));
                    cmma::execute::<C, C, f32, f32>(weight, &value, sum, sum);
                }
            }
        }
    }

    sum += plane_shuffle_xor(sum, 1u32);
    let is_empty = sum == 0.0f32;
    let total = select(is_empty, 1.0f32, sum);
    let factor = select(is_empty, 0.0f32, 1.0f32 / (total * LARGER));
    let place = place_of(&tile, row);
    let writes = has_row && row < len;
    #[unroll]
    for column in 0..along {
        leave(&mut sums, result.index(column), comptime!(column == 0), kernel);
        if writes {
            #[unroll]
            for i in 0..each {
                let to = comptime!(column * edge / 4) + lane % SHARING * each + i;
                out[place * fours + to] = sums[own_sums + i] * F4::new(factor);
            }
        }
    }
    if writes && lane % SHARING == 0 {
        log_sums[place] = select(is_empty, LOWEST, maximum + total.ln());
    }
}
