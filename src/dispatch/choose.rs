//! Which variant of a family suits a device and a shape.

use std::{collections::HashMap, sync::LazyLock};

use metal_candle_kernels::{Format, Kernel, Reduce, attention, matvec, table};

use super::{Kernels, tune::matvec_class};

/// Cubes that keep a large GPU busy.
const BUSY_CUBES: u32 = 512;
/// Keys that a cube should have at least.
const LEAST_KEYS: u32 = 128;

/// A matrix-vector kernel.
pub fn matvec(kernels: &Kernels, format: Format, params: &matvec::Params) -> matvec::MatVec {
    let batch = params.batch.next_power_of_two();
    if let Some(name) = kernels.choices().matvec.get(&matvec_class(format, params))
        && let Some(kernel) = by_name(name)
        && (kernel.format, kernel.batch) == (format, batch)
        && kernels.meets(&Kernel::MatVec(kernel).needs())
    {
        return kernel;
    }
    let (groups, rows, reduce) = match kernels.plane() {
        // As measured on an H200 (docs/kernels.md); `tune` finds better ones for other devices.
        Some(32) => {
            let (groups, rows) = match (batch, format.is_packed(), params.rows) {
                (1, false, 65_536..) => (4, 4),
                (1, false, 8192..) => (4, 2),
                (1, true, 8192..) => (8, 8),
                (1, true, _) => (8, 2),
                _ => (4, 1),
            };
            (groups, rows, Reduce::Plane(32))
        }
        _ => (4, if batch < 8 { 2 } else { 1 }, Reduce::Shared(16)),
    };
    matvec::MatVec { format, batch, groups, rows, reduce }
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
pub fn splits(params: &attention::Params) -> u32 {
    let heads = params.batch * params.kv_heads * params.rows_per_kv_head().div_ceil(8);
    let wanted = BUSY_CUBES.div_ceil(heads);
    wanted.min(params.keys.div_ceil(LEAST_KEYS)).clamp(1, attention::MAX_SPLITS)
}
