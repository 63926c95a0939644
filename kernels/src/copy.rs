//! A plain copy, to measure the ceiling that every other kernel is compared with.
//!
//! # Params
//! None: a launch copies `cubes × THREADS × PER_THREAD` vectors of 16 bytes.

use cubecl::prelude::*;

use crate::{
    Kernel,
    common::{Builder, U4},
};

/// Threads in a cube.
pub const THREADS: u32 = 256;

/// The copy kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Copy {
    /// Vectors of 16 bytes that each thread moves.
    pub per_thread: u32,
}

#[cube]
fn copy(source: &Array<U4>, target: &mut Array<U4>, #[comptime] per_thread: usize) {
    let base = CUBE_POS * comptime!(per_thread * THREADS as usize) + UNIT_POS_X as usize;
    let mut held = Array::<U4>::new(per_thread);
    #[unroll]
    for i in 0..per_thread {
        held[i] = source[base + comptime!(i * THREADS as usize)];
    }
    #[unroll]
    for i in 0..per_thread {
        target[base + comptime!(i * THREADS as usize)] = held[i];
    }
}

impl Copy {
    pub(crate) fn name(self) -> String {
        format!("copy_{}", self.per_thread)
    }

    /// Bytes that one cube copies.
    pub const fn bytes_per_cube(self) -> usize {
        (self.per_thread * THREADS * 16) as usize
    }

    pub(crate) fn define(self) -> KernelDefinition {
        let mut b = Builder::new();
        let (source, target) = (b.input::<U4>(), b.output::<U4>());
        let scope = &mut b.inner.scope;
        copy::expand(scope, source.into(), target.into(), self.per_thread as usize);
        b.finish(THREADS, &self.name())
    }
}

pub(crate) fn table() -> Vec<Kernel> {
    [1, 4, 8].map(|per_thread| Kernel::Copy(Copy { per_thread })).to_vec()
}
