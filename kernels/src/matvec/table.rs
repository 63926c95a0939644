//! The variants that are generated at build time.

use super::MatVec;
use crate::{Format, Kernel, Reduce};

/// For planes of 32 (NVIDIA, Apple, most of AMD): several shapes to choose from. For everything
/// else one or two, which add up through shared memory. Every one takes time at each build, so the
/// table has those that were the fastest somewhere.
pub(crate) fn table() -> Vec<Kernel> {
    let mut all = Vec::new();
    for format in Format::ALL {
        for batch in [1, 2, 4, 8] {
            let variant = |normed: bool, low_rank: bool| {
                move |&(groups, rows, reduce): &Shape| {
                    Kernel::MatVec(MatVec {
                        format,
                        batch,
                        groups,
                        rows,
                        reduce,
                        normed,
                        low_rank,
                        bytes: false,
                        passes: 1,
                    })
                }
            };
            all.extend(shapes(format, batch).iter().map(variant(false, false)));
            if batch == 1 {
                all.extend(normed_shapes(format).iter().map(variant(true, false)));
                for normed in [false, true] {
                    let shapes = low_rank_shapes(format, normed);
                    all.extend(shapes.iter().map(variant(normed, true)));
                }
            }
        }
        if format.takes_bytes() {
            all.extend(of_bytes(format));
        }
    }
    all
}

/// Those that multiply bytes: the fastest within a step on an H200 (docs/kernels.md, "Shapes within a step").
fn of_bytes(format: Format) -> Vec<Kernel> {
    let mut all = Vec::new();
    for normed in [false, true] {
        let mut add = |(groups, rows, reduce), low_rank, passes| {
            all.push(Kernel::MatVec(MatVec {
                format,
                batch: 1,
                groups,
                rows,
                reduce,
                normed,
                low_rank,
                bytes: true,
                passes,
            }));
        };
        add((8, 2, PLANE), true, 1);
        for &shape in byte_shapes(format, normed) {
            add(shape, false, 1);
        }
        // For output layers.
        if normed && matches!(format, Format::Q4_0 | Format::Q4_K) {
            add((8, 2, PLANE), false, 8);
        }
    }
    all
}

/// Of those that multiply bytes, without an adapter.
fn byte_shapes(format: Format, normed: bool) -> &'static [Shape] {
    match (format, normed) {
        (Format::Q4_0, true) => &[(8, 4, PLANE), (16, 2, PLANE)],
        (Format::Q4_K, true) => &[(8, 2, PLANE), (8, 4, PLANE)],
        (Format::Q4_0, false) => {
            &[(8, 2, PLANE), (8, 2, TWO_PLANES), (16, 2, PLANE), (4, 4, PLANE)]
        }
        (Format::Q4_K, false) => &[(8, 2, PLANE), (8, 2, TWO_PLANES)],
        // Four rows of other large blocks take too many registers.
        (Format::Q5_K, false) => &[(8, 2, PLANE), (16, 1, PLANE)],
        (Format::Q6_K, false) => &[(8, 2, PLANE), (8, 1, TWO_PLANES)],
        _ if format.block_len() > 32 => &[(8, 2, PLANE)],
        (_, true) => &[(8, 2, PLANE), (4, 4, PLANE)],
        (_, false) => &[(8, 2, PLANE), (8, 2, TWO_PLANES), (4, 4, PLANE)],
    }
}

/// Groups, rows, and how a group adds up.
type Shape = (u32, u32, Reduce);

const PLANE: Reduce = Reduce::Plane(32);
const TWO_PLANES: Reduce = Reduce::Planes(32, 2);
const FOUR_PLANES: Reduce = Reduce::Planes(32, 4);
const EIGHT_PLANES: Reduce = Reduce::Planes(32, 8);
const SHARED: Reduce = Reduce::Shared(16);

fn shapes(format: Format, batch: u32) -> &'static [Shape] {
    match batch {
        1 if format.is_packed() => &[(4, 2, PLANE), (4, 4, PLANE), (8, 2, PLANE), (4, 2, SHARED)],
        1 => &[
            (4, 2, PLANE),
            (1, 2, FOUR_PLANES),
            (1, 4, FOUR_PLANES),
            // A few rows, as adapters have them.
            (1, 1, EIGHT_PLANES),
            (4, 2, SHARED),
            (2, 4, SHARED),
        ],
        2 | 4 => &[(4, 1, PLANE), (4, 2, PLANE), (4, 2, SHARED)],
        _ => &[(4, 1, PLANE), (4, 1, SHARED)],
    }
}

/// Of those for one row behind a norm.
fn normed_shapes(format: Format) -> &'static [Shape] {
    if format.is_packed() {
        &[(4, 2, PLANE), (4, 4, PLANE), (4, 2, SHARED)]
    } else {
        &[(4, 2, PLANE), (1, 4, FOUR_PLANES), (1, 1, EIGHT_PLANES), (4, 2, SHARED)]
    }
}

/// Of those for one row with an adapter: the usual one for each way to add up.
fn low_rank_shapes(format: Format, normed: bool) -> [Shape; 2] {
    let by_planes = match (format.is_packed(), normed) {
        // Where bytes are multiplied it is not used, and four rows take twice as long to generate.
        (true, true) if format.takes_bytes() => (4, 2, PLANE),
        (true, true) => (4, 4, PLANE),
        (true, false) => (8, 2, PLANE),
        (false, true) => (1, 4, FOUR_PLANES),
        (false, false) => (1, 2, FOUR_PLANES),
    };
    [by_planes, (4, 2, SHARED)]
}
