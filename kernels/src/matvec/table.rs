//! The variants that are generated at build time.

use super::MatVec;
use crate::{Format, Kernel, Reduce};

/// For planes of 32 (NVIDIA, Apple, most of AMD): several shapes to choose from. For everything
/// else one or two, which add up through shared memory. Every one takes time at each build, so the
/// table has those that were the fastest somewhere. Of those for one row, the ones with four groups
/// also come behind a norm.
pub(crate) fn table() -> Vec<Kernel> {
    let mut all = Vec::new();
    for format in Format::ALL {
        for batch in [1, 2, 4, 8] {
            let mut add = |groups, rows, reduce| {
                let kernel = MatVec { format, batch, groups, rows, reduce, normed: false };
                all.push(Kernel::MatVec(kernel));
                if batch == 1 && groups == 4 {
                    all.push(Kernel::MatVec(MatVec { normed: true, ..kernel }));
                }
            };
            for (groups, rows) in shapes(format, batch) {
                add(*groups, *rows, Reduce::Plane(32));
            }
            add(4, if batch < 8 { 2 } else { 1 }, Reduce::Shared(16));
            if batch == 1 && !format.is_packed() {
                add(2, 4, Reduce::Shared(16));
            }
        }
    }
    all
}

/// Groups and rows worth trying.
fn shapes(format: Format, batch: u32) -> &'static [(u32, u32)] {
    match batch {
        1 if format.is_packed() => &[(4, 2), (4, 4), (8, 2)],
        1 => &[(4, 1), (4, 2), (4, 4)],
        2 | 4 => &[(4, 1), (4, 2)],
        _ => &[(4, 1)],
    }
}
