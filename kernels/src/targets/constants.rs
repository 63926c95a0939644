//! Parameters as constants of a SPIR-V module.
//!
//! Kernels read their sizes from a buffer, so that one text serves every model. A driver that is told the
//! sizes of one matrix makes shorter code of it: it knows how often a loop runs, which ends of rows there
//! are, and what a cube waits for.

use std::collections::HashMap;

use super::modules::{
    BINDING, OP_ACCESS_CHAIN, OP_CONSTANT, OP_DECORATE, OP_IN_BOUNDS_ACCESS_CHAIN, OP_LOAD,
    OP_TYPE_INT, instruction, instructions,
};

const OP_FUNCTION: u32 = 54;
const OP_COPY_OBJECT: u32 = 83;
/// The place in a module's header of the number that all of its ids are below.
const BOUND: usize = 3;

/// A module for launches of which a buffer of `u32`, by its binding, holds these words, each with its place:
/// it does not read them. `None` when it has no such buffer, or something else than a module.
pub fn with_constants(module: &[u32], buffer: u32, words: &[(u32, u32)]) -> Option<Vec<u32>> {
    let bound = *module.get(BOUND)?;
    let (mut unsigned, mut variable, mut first_function) = (None, None, None);
    let mut numbers = HashMap::new();
    for (place, op) in instructions(module) {
        let words = module.get(place.clone())?;
        match (op, words) {
            (OP_TYPE_INT, [_, id, 32, 0]) => unsigned = Some(*id),
            (OP_CONSTANT, [_, ty, id, value]) if Some(*ty) == unsigned => {
                numbers.insert(*id, *value);
            }
            (OP_DECORATE, [_, id, BINDING, binding]) if *binding == buffer => variable = Some(*id),
            (OP_FUNCTION, _) if first_function.is_none() => first_function = Some(place.start),
            _ => {}
        }
    }
    let (unsigned, variable, first_function) = (unsigned?, variable?, first_function?);

    let constant = |at: usize| bound + at as u32;
    let mut made = module[..first_function].to_vec();
    made[BOUND] = bound + words.len() as u32;
    for (at, (_, value)) in words.iter().enumerate() {
        made.extend(instruction(OP_CONSTANT, &[unsigned, constant(at), *value]));
    }
    // Where pointers into the buffer point to, as constants.
    let mut pointers = HashMap::new();
    for (place, op) in instructions(module).filter(|(place, _)| place.start >= first_function) {
        let all = module.get(place)?;
        match (op, all) {
            // The buffer is a block with one array.
            (OP_ACCESS_CHAIN | OP_IN_BOUNDS_ACCESS_CHAIN, [_, _, id, base, _, word])
                if *base == variable =>
            {
                let at = numbers.get(word).and_then(|n| words.iter().position(|(at, _)| at == n));
                pointers.extend(at.map(|at| (*id, constant(at))));
            }
            (OP_LOAD, [_, ty, id, pointer, ..]) if pointers.contains_key(pointer) => {
                made.extend(instruction(OP_COPY_OBJECT, &[*ty, *id, pointers[pointer]]));
                continue;
            }
            _ => {}
        }
        made.extend_from_slice(all);
    }
    Some(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Format, Kernel, Reduce,
        matvec::MatVec,
        targets::{generate, modules::HEADER},
    };

    /// Loads through pointers into a buffer.
    fn loads(module: &[u32], buffer: u32) -> usize {
        let mut variable = None;
        let mut pointers = Vec::new();
        let mut loads = 0;
        for (place, op) in instructions(module) {
            match (op, &module[place]) {
                (OP_DECORATE, [_, id, BINDING, binding]) if *binding == buffer => {
                    variable = Some(*id);
                }
                (OP_ACCESS_CHAIN | OP_IN_BOUNDS_ACCESS_CHAIN, [_, _, id, base, ..])
                    if Some(*base) == variable =>
                {
                    pointers.push(*id);
                }
                (OP_LOAD, [_, _, _, pointer, ..]) => {
                    loads += usize::from(pointers.contains(pointer));
                }
                _ => {}
            }
        }
        loads
    }

    #[test]
    fn what_is_known_is_not_read() {
        let kernel = Kernel::MatVec(MatVec {
            format: Format::Q4_0,
            batch: 1,
            groups: 4,
            rows: 2,
            reduce: Reduce::Shared(16),
            normed: false,
            low_rank: false,
            bytes: false,
            passes: 1,
        });
        let module = generate(&kernel).expect("generates").spirv.expect("SPIR-V");
        let all = loads(&module, 3);
        let known = |words: &[(u32, u32)]| {
            let made = with_constants(&module, 3, words).expect("it has this buffer");
            assert_eq!(made[BOUND], module[BOUND] + words.len() as u32);
            assert_eq!(loads(&made, 1), loads(&module, 1), "another buffer");
            loads(&made, 3)
        };
        assert!(all > 3);
        assert_eq!(known(&[]), all);
        assert!((1..all).contains(&known(&[(1, 2048)])));
        assert_eq!(known(&[(0, 4096), (1, 2048), (2, 1), (3, 0), (4, 0)]), 0);

        assert!(with_constants(&module, 9, &[]).is_none());
        for len in [0, 3, HEADER, module.len() - 1] {
            // (The last instruction of a module is one word long.)
            let cut = with_constants(&module[..len], 3, &[]);
            assert_eq!(cut.is_some(), len == module.len() - 1);
        }
    }
}
