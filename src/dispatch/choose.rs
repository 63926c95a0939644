//! Which variant of a family suits a device and a shape.

use std::{collections::HashMap, sync::LazyLock};

use metal_candle_kernels::{
    Format, Kernel, MatrixUnits, Reduce, attention,
    matmul::{self, MatMul, Way},
    matvec, norm, table,
};

use super::{
    Kernels,
    tune::{attention_class, matvec_class},
};

/// Cubes that keep a large GPU busy.
const BUSY_CUBES: u32 = 512;
/// The same for attention over the cache, whose every cube also leaves a part to be merged. (On an H200 all of
/// them begin at once, and wait for queries with their first keys read. Twice as many are faster by themselves, and
/// slower within steps.)
const BUSY_DECODING: u32 = 256;
/// Values of keys that a cube should have at least: as many as it has at hand at a time.
const LEAST_VALUES: u32 = 8192;
/// Rows of a matrix that make too few cubes.
const FEW_MATRIX_ROWS: u32 = 256;
/// Rows of a matrix of which a group of a kernel that multiplies bytes takes four, and two.
const MANY_ROWS: u32 = 65_536;
const SOME_ROWS: u32 = 8192;
/// Rows and columns of a matrix in 4 bits behind a norm of which a group takes four.
const MANY_GATES: u32 = 16_384;
const WIDE_ROWS: u32 = 4096;
/// Columns of a matrix of which more are to be under way, if it has rows for as many cubes as processors.
const LONG_ROWS: u32 = 8192;
const ENOUGH_ROWS: u32 = 3072;
/// Times that a cube takes rows of an output layer, in formats that have a kernel for it, and the columns that it
/// has at most.
const PASSES: u32 = 8;
const COLUMNS_OF_PASSES: u32 = 4096;
/// Times that a cube takes so many until it is better to have several, whose parts a launch has to merge.
const FEW_TIMES: u32 = 2;

/// Large tiles of a product that are worth it: fewer leave processors of a large GPU idle.
const BUSY_TILES: u32 = 96;

/// How a group of threads adds up: by plane operations where planes are as kernels are written for,
/// else `threads` of them through shared memory.
fn reduce(kernels: &Kernels, threads: u32) -> Reduce {
    match kernels.plane() {
        Some(32) => Reduce::Plane(32),
        _ => Reduce::Shared(threads),
    }
}

/// The same by groups of so many planes, where planes add up.
fn several_planes(reduce: Reduce, count: u32) -> Reduce {
    match reduce {
        Reduce::Plane(n) => Reduce::Planes(n, count),
        other => other,
    }
}

/// The kernel of a norm.
pub fn rms_norm(kernels: &Kernels, residual: bool) -> norm::RmsNorm {
    norm::RmsNorm { residual, reduce: reduce(kernels, 16) }
}

/// The kernel that splits keys, and turns queries and the newest key as well if `rotary` says so; `None`
/// where there is none.
pub fn decode(
    kernels: &Kernels,
    dim: u32,
    f16: bool,
    rotary: bool,
    params: &attention::Params,
) -> Option<attention::Decode> {
    let rows = params.rows_per_kv_head().next_power_of_two().min(8);
    let mut kernel = attention::Decode { dim, f16, rows, reduce: reduce(kernels, 64), rotary };
    // While processors are idle, more cubes with fewer rows each take less time: their code is shorter. They
    // read the same keys, but those are few then.
    while kernel.rows > 1 && kernel.cubes(params) < BUSY_DECODING {
        kernel.rows /= 2;
    }
    kernel.is_made().then_some(kernel)
}

/// The kernel that splits query rows; `None` where the head dimension does not fit.
pub fn flash(
    kernels: &Kernels,
    dim: u32,
    f16: bool,
    params: &attention::Params,
) -> Option<attention::Flash> {
    let by_units = |units: &MatrixUnits| attention::Flash::by_units(dim, *units);
    let meets = |kernel: &attention::Flash| kernels.meets(&Kernel::Flash(*kernel).needs());
    if f16 && let Some(kernel) = kernels.units().iter().filter_map(by_units).find(meets) {
        return Some(kernel);
    }
    // More rows read the keys less often; fewer rows give more cubes.
    let tiles = params.batch * params.heads * params.len.div_ceil(64);
    let rows = if dim > 128 || tiles < BUSY_CUBES / 2 { 32 } else { 64 };
    let fits = dim.is_multiple_of(16) && (16..=256).contains(&dim);
    fits.then_some(attention::Flash { dim, f16, rows, units: None })
}

/// The kernel of many rows: by the largest matrix units that the device has. Measured on an H100
/// (docs/kernels.md).
pub fn matmul(kernels: &Kernels, format: Format, params: &matmul::Params) -> MatMul {
    let way = |units: &MatrixUnits| MatMul { format, way: Way::Units(*units), tile: 64 };
    let meets = |kernel: &MatMul| kernels.meets(&Kernel::MatMul(*kernel).needs());
    let units = kernels.units().iter().rev().map(way).find(meets);
    let small = units.unwrap_or(MatMul { format, way: Way::Plain, tile: 64 });
    let large = MatMul { tile: 128, ..small };
    match small.way {
        Way::Units(MatrixUnits { edge: 16, .. }) if large.cubes(params) >= BUSY_TILES => large,
        _ => small,
    }
}

/// A matrix-vector kernel; behind a norm there are some for one row only.
pub fn matvec(kernels: &Kernels, format: Format, params: &matvec::Params) -> matvec::MatVec {
    let choices = kernels.choices();
    // The class is a text: not worth making for every launch where nothing was chosen.
    if !choices.matvec.is_empty()
        && let Some(name) = choices.matvec.get(&matvec_class(format, params))
        && let Some(kernel) = by_name(name)
        && kernel.takes(format, params)
        && kernels.meets(&Kernel::MatVec(kernel).needs())
    {
        return kernel;
    }
    let reduce = reduce(kernels, 16);
    if let Some(kernel) = by_bytes(format, params, reduce)
        && kernel.takes_columns(params.columns as usize)
        && kernels.meets(&Kernel::MatVec(kernel).needs())
    {
        return kernel;
    }
    let kernel = by_shape(format, params, reduce);
    if kernel.takes_columns(params.columns as usize) {
        return kernel;
    }
    // Those without plane operations take every number of whole blocks.
    by_shape(format, params, Reduce::Shared(16))
}

/// The kernel that multiplies bytes, where that is faster. (Apple's GPUs, which no kernel has met yet,
/// have no instruction for it.)
fn by_bytes(format: Format, params: &matvec::Params, reduce: Reduce) -> Option<matvec::MatVec> {
    let is_one = params.batch == 1 && matches!(reduce, Reduce::Plane(_));
    if cfg!(target_os = "macos") || !is_one || !format.takes_bytes() {
        return None;
    }
    let (normed, low_rank) = (params.norm.is_some(), params.low_rank.is_some());
    // As measured on an H200, within a step (docs/kernels.md, "Shapes within a step"), of kernels compiled
    // for these sizes ([`pipelines`](super::pipelines)): there a launch also has to read its instructions,
    // and its cubes share processors with those of the launches around it.
    let two_planes = several_planes(reduce, 2);
    let is_long = params.columns >= LONG_ROWS && params.rows >= ENOUGH_ROWS;
    let is_wide = params.columns >= WIDE_ROWS;
    let goes_on = normed
        && !low_rank
        && matches!(format, Format::Q4_0 | Format::Q4_K)
        && params.rows >= MANY_ROWS
        && params.columns <= COLUMNS_OF_PASSES;
    let passes = if goes_on { PASSES } else { 1 };
    let (groups, rows, reduce) = match (format, params.rows) {
        _ if low_rank || goes_on => (8, 2, reduce),
        (Format::Q4_0, MANY_GATES..) | (Format::Q4_K, MANY_GATES..MANY_ROWS)
            if normed && is_wide =>
        {
            (8, 4, reduce)
        }
        (Format::Q4_K, _) if normed => (8, 2, reduce),
        // Few cubes of many threads: all of them look for `x` at once.
        (Format::Q4_0, _) if normed => (16, 2, reduce),
        (Format::Q4_0, _) if is_long => (16, 2, reduce),
        (Format::Q4_0, ..SOME_ROWS) | (Format::Q4_K, ..MANY_ROWS) => (8, 2, two_planes),
        (Format::Q5_K, _) if !normed => (16, 1, reduce),
        (Format::Q6_K, ..MANY_ROWS) if !normed && !is_long => (8, 1, two_planes),
        _ if format.block_len() > 32 => (8, 2, reduce),
        (_, MANY_ROWS..) => (4, 4, reduce),
        (_, rows) if normed || rows >= SOME_ROWS => (8, 2, reduce),
        _ => (8, 2, two_planes),
    };
    Some(matvec::MatVec {
        format,
        batch: 1,
        groups,
        rows,
        reduce,
        normed,
        low_rank,
        bytes: true,
        passes,
    })
}

/// The shape that suits a matrix, of those that the table has.
fn by_shape(format: Format, params: &matvec::Params, reduce: Reduce) -> matvec::MatVec {
    let (batch, normed) = (params.batch.next_power_of_two(), params.norm.is_some());
    let planes = |count| several_planes(reduce, count);
    let low_rank = params.low_rank.is_some();
    // As measured on an H100 (docs/kernels.md); `tune` finds better ones for other devices. (With an
    // adapter there is one shape.)
    let (groups, rows, reduce) = match (reduce, batch, format.is_packed()) {
        (Reduce::Plane(_), 1, true) if low_rank && !normed => (8, 2, reduce),
        (Reduce::Plane(_), 1, true) if low_rank && format.takes_bytes() => (4, 2, reduce),
        (Reduce::Plane(_), 1, false) if low_rank && !normed => (1, 2, planes(4)),
        (Reduce::Plane(_), 1, false) if low_rank => (1, 4, planes(4)),
        (Reduce::Shared(_), 8, _) => (4, 1, reduce),
        (Reduce::Shared(_), ..) => (4, 2, reduce),
        (_, 2.., _) => (4, 1, reduce),
        // With fewer there would not be a cube for every processor: a cube reads one row.
        (_, 1, false) if params.rows <= FEW_MATRIX_ROWS && !params.gated => (1, 1, planes(8)),
        // What an adapter's narrow matrix gives: there is little to read in a row.
        (_, _, false) if params.columns < 512 => (4, 2, reduce),
        (_, _, false) if normed || params.rows >= 8192 => (1, 4, planes(4)),
        (_, _, false) => (1, 2, planes(4)),
        (_, _, true) if normed || params.rows >= 8192 => (4, 4, reduce),
        (_, _, true) => (8, 2, reduce),
    };
    matvec::MatVec {
        format,
        batch,
        groups,
        rows,
        reduce,
        normed,
        low_rank,
        bytes: false,
        passes: 1,
    }
}

/// The matrix-vector kernel of the table that has this name.
fn by_name(name: &str) -> Option<matvec::MatVec> {
    static ALL: LazyLock<HashMap<String, matvec::MatVec>> = LazyLock::new(|| {
        table()
            .into_iter()
            .filter_map(|kernel| match kernel {
                Kernel::MatVec(variant) => Some((kernel.name(), variant)),
                _ => None,
            })
            .collect()
    });
    ALL.get(name).copied()
}

/// Into how many parts to split the keys of one head.
pub fn splits(kernels: &Kernels, dim: u32, f16: bool, params: &attention::Params) -> u32 {
    let choices = kernels.choices();
    // The class is a text: not worth making for every layer of every step where nothing was chosen.
    if !choices.attention.is_empty()
        && let Some(&splits) = choices.attention.get(&attention_class(dim, f16, params))
    {
        return splits.clamp(1, attention::MAX_SPLITS);
    }
    let least = LEAST_VALUES.div_ceil(dim);
    if params.keys <= FEW_TIMES * least {
        return 1;
    }
    let heads = params.batch * params.kv_heads * params.rows_per_kv_head().div_ceil(8);
    let wanted = BUSY_DECODING.div_ceil(heads);
    wanted.min(params.keys.div_ceil(least)).clamp(1, attention::MAX_SPLITS)
}

#[cfg(test)]
mod tests {
    use matvec::{LowRank, Params};

    use super::*;

    #[test]
    fn shapes_are_in_the_table() {
        let all = table();
        for format in Format::ALL {
            for reduce in [Reduce::Plane(32), Reduce::Shared(16)] {
                for batch in 1..=8 {
                    for (rows, columns) in
                        [(16, 2048), (2048, 16), (2048, 2048), (16_384, 2048), (65_536, 4096)]
                    {
                        for (norm, gated, low_rank) in [
                            (None, false, None),
                            (Some(1e-5), false, None),
                            (Some(1e-5), true, None),
                            (None, false, Some(LowRank::default())),
                            (Some(1e-5), false, Some(LowRank::default())),
                            (Some(1e-5), true, Some(LowRank::default())),
                        ] {
                            if batch > 1 && (norm.is_some() || low_rank.is_some()) {
                                continue;
                            }
                            let params = Params {
                                rows,
                                columns,
                                batch,
                                norm,
                                gated,
                                low_rank,
                                ..Params::default()
                            };
                            let by_shape = Some(by_shape(format, &params, reduce));
                            for kernel in [by_shape, by_bytes(format, &params, reduce)] {
                                let Some(kernel) = kernel.map(Kernel::MatVec) else { continue };
                                assert!(all.contains(&kernel), "{} for {params:?}", kernel.name());
                            }
                        }
                    }
                }
            }
        }
    }
}
