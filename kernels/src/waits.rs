//! Results that a later launch waits for itself, with no barrier between the two.
//!
//! A barrier costs a GPU more than what many launches of a decode step compute: all cubes of one have to
//! end before the first of the next begins, which then has to fetch its code, its parameters and the
//! first words of a weight. Without one, the cubes of the next launch begin as those of the one before
//! end, read their weight, and look for what they need of `x` until it is there.
//!
//! A result that can be waited for, of which every kernel says whether it makes one
//! ([`Kernel::announces`](crate::Kernel::announces)), is never the word 0: zero is left as -0. So a buffer
//! that was cleared shows what has been written, and whoever sees a value sees all of it. A kernel that can
//! wait ([`Kernel::waits`](crate::Kernel::waits)) is told by its parameters whether to: who sets the barriers
//! has to have cleared that buffer, and has to know that the device begins the cubes of launches in
//! order, for a cube that waits holds the place of another.
//!
//! A thread that has looked for too long goes on with what is no number, so that nothing waits for ever,
//! and nothing is wrong without being seen.
//!
//! In SPIR-V such values are read and written past what a processor has in its own cache
//! (`targets::shared`). In other languages nobody waits.

use cubecl::prelude::*;

use crate::common::F4;

/// Looks for what is not there yet: about a second.
pub(crate) const LOOKS: u32 = 1 << 20;

/// A buffer that a kernel can wait for, and how it is told to: by a bit of its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The buffer, by its place among those of the kernel.
    pub buffer: usize,
    /// The word of the parameters.
    pub word: usize,
    /// The bit there.
    pub bit: u32,
}

/// A result that others may wait for.
#[cube]
pub(crate) fn announced(value: f32) -> f32 {
    let bits = u32::reinterpret(value);
    f32::reinterpret(select(bits == 0, 0x8000_0000u32, bits))
}

/// Four of them.
#[cube]
pub(crate) fn announced4(value: F4) -> F4 {
    let mut made = F4::new(0.0f32);
    #[unroll]
    for i in 0..4usize {
        made[i] = announced(value[i]);
    }
    made
}

/// Whether such a result is there.
#[cube]
pub(crate) fn is_there(value: f32) -> bool {
    u32::reinterpret(value) != 0
}

/// Whether four of them are.
#[cube]
pub(crate) fn are_there(value: F4) -> bool {
    is_there(value[0]) && is_there(value[1]) && is_there(value[2]) && is_there(value[3])
}

/// What stands for a value that did not come after so many looks: no number. (Metal reinterprets variables,
/// not constants.)
#[cube]
pub(crate) fn never(looks: u32) -> f32 {
    f32::reinterpret(looks | 0x7fc0_0000u32)
}
