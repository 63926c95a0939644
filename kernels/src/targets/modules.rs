//! What is changed in the SPIR-V modules that CubeCL assembles.

use std::collections::HashMap;

/// Words before the first instruction.
const HEADER: usize = 5;
const OP_CAPABILITY: u32 = 17;
const OP_TYPE_INT: u32 = 21;
const OP_CONSTANT: u32 = 43;
const OP_COMPOSITE_EXTRACT: u32 = 81;
const OP_SIGNED_MUL_EXTENDED: u32 = 152;
const OP_CONTROL_BARRIER: u32 = 224;
const OP_ATOMIC_LOAD: u32 = 227;
const OP_ATOMIC_STORE: u32 = 228;
const OP_LOOP_MERGE: u32 = 246;
const OP_SIGNED_DOT: u32 = 4450;
const CAPABILITIES_OF_DOT: [u32; 2] = [6018, 6019];
/// Four bytes in a word.
const PACKED_FORMAT: u32 = 0;
const SUBGROUP: u32 = 3;
const DO_NOT_UNROLL: u32 = 2;

/// Where each instruction is, and its number.
fn instructions(module: &[u32]) -> impl Iterator<Item = (std::ops::Range<usize>, u32)> {
    let mut at = HEADER;
    std::iter::from_fn(move || {
        let first = module.get(at)?;
        let place = at..at + (first >> 16).max(1) as usize;
        at = place.end;
        Some((place, first & 0xffff))
    })
}

/// An instruction of `words` behind its number.
fn instruction(op: u32, words: &[u32]) -> impl Iterator<Item = u32> {
    let first = ((words.len() as u32 + 1) << 16) | op;
    std::iter::once(first).chain(words.iter().copied())
}

/// A SPIR-V module whose atomic loads and stores order nothing else, as in the other languages: ours
/// carry all that they say in the value. CubeCL has them acquire and release: that is a fence at every
/// look, which older Mesa drivers on the CPU even take for a barrier of the cube (and kernels that are expanded
/// at run time, past this, are wrong on them).
///
/// # Errors
/// That the module has no constant for that.
pub(super) fn relaxed(mut module: Vec<u32>, name: &str) -> Result<Vec<u32>, String> {
    let (mut unsigned, mut none) = (None, None);
    let mut orders = Vec::new();
    for (place, op) in instructions(&module) {
        let words = &module[place.clone()];
        match op {
            OP_TYPE_INT if words[2..] == [32, 0] => unsigned = Some(words[1]),
            OP_CONSTANT if Some(words[1]) == unsigned && words[3] == 0 => none = Some(words[2]),
            OP_ATOMIC_LOAD => orders.push(place.start + 5),
            OP_ATOMIC_STORE => orders.push(place.start + 3),
            _ => {}
        }
    }
    for order in orders {
        module[order] = none.ok_or_else(|| format!("{name} for SPIR-V: no constant 0"))?;
    }
    Ok(module)
}

/// A module whose barriers of planes order what is in shared memory, as those of cubes do, and as it is in
/// CUDA. CubeCL has them order nothing.
///
/// # Errors
/// That no barrier of a cube says how.
pub(super) fn ordered_planes(mut module: Vec<u32>, name: &str) -> Result<Vec<u32>, String> {
    let mut subgroup = None;
    let mut of_cubes = None;
    let mut of_planes = Vec::new();
    for (place, op) in instructions(&module) {
        let words = &module[place.clone()];
        match op {
            OP_CONSTANT if words.len() == 4 && words[3] == SUBGROUP => subgroup = Some(words[2]),
            OP_CONTROL_BARRIER if Some(words[1]) == subgroup => of_planes.push(place.start + 3),
            OP_CONTROL_BARRIER => of_cubes = Some(words[3]),
            _ => {}
        }
    }
    for order in of_planes {
        module[order] =
            of_cubes.ok_or_else(|| format!("{name} for SPIR-V: no barrier of a cube"))?;
    }
    Ok(module)
}

/// A module whose loops are not to be unrolled.
pub(super) fn rolled(mut module: Vec<u32>) -> Vec<u32> {
    let controls: Vec<usize> = instructions(&module)
        .filter_map(|(place, op)| (op == OP_LOOP_MERGE).then_some(place.start + 3))
        .collect();
    for control in controls {
        module[control] = DO_NOT_UNROLL;
    }
    module
}

/// A module in which the upper halves of products of 32 bits are sums of products of bytes, as in
/// `texts`.
pub(super) fn with_products_of_bytes(module: Vec<u32>) -> Vec<u32> {
    if !instructions(&module).any(|(_, op)| op == OP_SIGNED_MUL_EXTENDED) {
        return module;
    }
    let mut made = module[..HEADER].to_vec();
    for which in CAPABILITIES_OF_DOT {
        made.extend(instruction(OP_CAPABILITY, &[which]));
    }
    // Both halves of a product, from which the upper one is taken afterwards.
    let mut products = HashMap::new();
    for (place, op) in instructions(&module) {
        let words = &module[place];
        if op == OP_SIGNED_MUL_EXTENDED {
            products.insert(words[2], [words[3], words[4]]);
        } else if op == OP_COMPOSITE_EXTRACT
            && let Some([a, b]) = products.get(&words[3])
        {
            made.extend(instruction(OP_SIGNED_DOT, &[words[1], words[2], *a, *b, PACKED_FORMAT]));
        } else {
            made.extend_from_slice(words);
        }
    }
    made
}

/// How many of them a module has.
#[cfg(test)]
pub(super) fn products_of_bytes(module: &[u32]) -> usize {
    instructions(module).filter(|(_, op)| *op == OP_SIGNED_DOT).count()
}

/// Of each loop, whether it may be unrolled; and of each barrier of a plane, whether it orders as one of a
/// cube does.
#[cfg(test)]
pub(super) fn loops_and_barriers(module: &[u32]) -> (Vec<bool>, Vec<bool>) {
    let words = |op| instructions(module).filter(move |i| i.1 == op).map(|i| &module[i.0]);
    let loops = words(OP_LOOP_MERGE).map(|words| words[3] != DO_NOT_UNROLL).collect();
    let is_subgroup = |id: u32| words(OP_CONSTANT).any(|c| c[2] == id && c[3] == SUBGROUP);
    let (of_planes, of_cubes): (Vec<_>, Vec<_>) =
        words(OP_CONTROL_BARRIER).partition(|words| is_subgroup(words[1]));
    let orders = |words: &&[u32]| of_cubes.iter().any(|of_cube| of_cube[3] == words[3]);
    (loops, of_planes.iter().map(orders).collect())
}
