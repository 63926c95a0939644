//! What is changed in the SPIR-V modules that CubeCL assembles.

use std::collections::{HashMap, HashSet};

use crate::{Kernel, waits::LOOKS};

/// Words before the first instruction.
pub(super) const HEADER: usize = 5;
const OP_CAPABILITY: u32 = 17;
pub(super) const OP_TYPE_INT: u32 = 21;
pub(super) const OP_CONSTANT: u32 = 43;
const OP_COMPOSITE_EXTRACT: u32 = 81;
const OP_SIGNED_MUL_EXTENDED: u32 = 152;
const OP_U_LESS_THAN: u32 = 176;
const OP_CONTROL_BARRIER: u32 = 224;
const OP_ATOMIC_LOAD: u32 = 227;
const OP_ATOMIC_STORE: u32 = 228;
const OP_LOOP_MERGE: u32 = 246;
const OP_LABEL: u32 = 248;
const OP_BRANCH: u32 = 249;
const OP_BRANCH_CONDITIONAL: u32 = 250;
const OP_SIGNED_DOT: u32 = 4450;
const CAPABILITIES_OF_DOT: [u32; 2] = [6018, 6019];
pub(super) const OP_DECORATE: u32 = 71;
pub(super) const OP_LOAD: u32 = 61;
const OP_STORE: u32 = 62;
pub(super) const OP_ACCESS_CHAIN: u32 = 65;
pub(super) const OP_IN_BOUNDS_ACCESS_CHAIN: u32 = 66;
/// The decoration that says which buffer a variable is.
pub(super) const BINDING: u32 = 33;
/// Memory operands: volatile, made visible to or available from a scope, not private.
const SHARED_LOAD: u32 = 0x1 | 0x10 | 0x20;
const SHARED_STORE: u32 = 0x1 | 0x8 | 0x20;
/// A whole device, as a scope.
const DEVICE: u32 = 1;
/// Four bytes in a word.
const PACKED_FORMAT: u32 = 0;
const SUBGROUP: u32 = 3;
const DO_NOT_UNROLL: u32 = 2;

/// Where each instruction is, and its number.
pub(super) fn instructions(module: &[u32]) -> impl Iterator<Item = (std::ops::Range<usize>, u32)> {
    let mut at = HEADER;
    std::iter::from_fn(move || {
        let first = module.get(at)?;
        let place = at..at + (first >> 16).max(1) as usize;
        at = place.end;
        Some((place, first & 0xffff))
    })
}

/// An instruction of `words` behind its number.
pub(super) fn instruction(op: u32, words: &[u32]) -> impl Iterator<Item = u32> {
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

/// A block: the loop that it is the head of, by its end; where it goes on; and whether it counts looks.
#[derive(Default)]
struct Block {
    loop_end: Option<u32>,
    next: Vec<u32>,
    counts_looks: bool,
}

/// The blocks of loops that end after [`LOOKS`] turns.
fn looks(module: &[u32]) -> HashSet<u32> {
    let mut limit = None;
    let mut blocks: HashMap<u32, Block> = HashMap::new();
    let mut label = 0;
    for (place, op) in instructions(module) {
        let words = &module[place];
        let block = blocks.entry(label).or_default();
        match op {
            OP_CONSTANT if words.len() == 4 && words[3] == LOOKS => limit = Some(words[2]),
            OP_LABEL => label = words[1],
            OP_LOOP_MERGE => block.loop_end = Some(words[1]),
            OP_BRANCH => block.next.push(words[1]),
            OP_BRANCH_CONDITIONAL => block.next.extend(&words[2..4]),
            OP_U_LESS_THAN => block.counts_looks |= limit == Some(words[4]),
            _ => {}
        }
    }
    let mut found = HashSet::new();
    for (&head, Block { loop_end, .. }) in &blocks {
        let Some(end) = loop_end else { continue };
        let (mut inside, mut next) = (HashSet::new(), vec![head]);
        while let Some(label) = next.pop() {
            if label != *end && inside.insert(label) {
                next.extend(blocks.get(&label).iter().flat_map(|block| &block.next));
            }
        }
        let of = |label: &u32| blocks.get(label);
        // Looks have no loops in them.
        let is_inner = inside.iter().filter_map(of).filter(|b| b.loop_end.is_some()).count() == 1;
        if is_inner && inside.iter().filter_map(of).any(|block| block.counts_looks) {
            found.extend(inside);
        }
    }
    found
}

/// A module that reads some buffers, and writes some, past what a processor has in its own cache: what other
/// cubes write, and read, at the same time ([`Wait`](crate::Wait)). Of reads only those are such that are
/// repeated: a first look, which is checked, sees what was written, or what was cleared. Mesa's older drivers
/// for the CPU take each of these for a barrier of the cube, so that all of its threads must come there.
///
/// # Errors
/// That the module has no constant for the scope of a device, or no look at what it can wait for.
pub(super) fn shared(module: Vec<u32>, kernel: &Kernel) -> Result<Vec<u32>, String> {
    let (waits, announces) = (kernel.waits(), kernel.announces());
    let looks = looks(&module);
    let (mut unsigned, mut device) = (None, None);
    // Of variables, and of pointers into them: which buffer it is.
    let mut buffers = HashMap::new();
    let mut looked_at = HashSet::new();
    let mut made = module[..HEADER].to_vec();
    let mut label = 0;
    for (place, op) in instructions(&module) {
        let words = &module[place];
        match op {
            OP_LABEL => label = words[1],
            OP_TYPE_INT if words[2..] == [32, 0] => unsigned = Some(words[1]),
            OP_CONSTANT if Some(words[1]) == unsigned && words[3] == DEVICE => {
                device = Some(words[2]);
            }
            OP_DECORATE if words[2] == BINDING => {
                buffers.insert(words[1], words[3] as usize);
            }
            OP_ACCESS_CHAIN | OP_IN_BOUNDS_ACCESS_CHAIN => {
                if let Some(&buffer) = buffers.get(&words[3]) {
                    buffers.insert(words[2], buffer);
                }
            }
            _ => {}
        }
        let buffer = |pointer| buffers.get(&pointer).copied();
        let waited_for = |buffer| waits.iter().any(|wait| wait.buffer == buffer);
        let is_look = || looks.contains(&label);
        let operands = match op {
            OP_LOAD if buffer(words[3]).is_some_and(waited_for) && is_look() => {
                looked_at.extend(buffer(words[3]));
                Some(SHARED_LOAD)
            }
            OP_STORE if buffer(words[1]).is_some_and(|buffer| announces.contains(&buffer)) => {
                Some(SHARED_STORE)
            }
            _ => None,
        };
        if let Some(operands) = operands {
            let device =
                device.ok_or_else(|| format!("{} for SPIR-V: no constant 1", kernel.name()))?;
            made.extend(instruction(op, &[&words[1..], &[operands, device]].concat()));
        } else {
            made.extend_from_slice(words);
        }
    }
    match waits.iter().find(|wait| !looked_at.contains(&wait.buffer)) {
        Some(wait) => Err(format!("{} for SPIR-V never looks at {wait:?}", kernel.name())),
        None => Ok(made),
    }
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

/// How many loads and stores go past a processor's own cache.
#[cfg(test)]
pub(super) fn shared_loads_and_stores(module: &[u32]) -> (usize, usize) {
    let count = |op, at, operands| {
        let is_shared = |words: &[u32]| words.get(at) == Some(&operands);
        instructions(module).filter(|i| i.1 == op && is_shared(&module[i.0.clone()])).count()
    };
    (count(OP_LOAD, 4, SHARED_LOAD), count(OP_STORE, 3, SHARED_STORE))
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
