//! GPU kernels of metal-candle, written once with CubeCL.
//!
//! A kernel is a `#[cube]` function with compile-time parameters; the value of those parameters is
//! a [`Kernel`]. [`Kernel::define`] expands it without a device, and [`targets`] turns the result
//! into Metal, WGSL, SPIR-V or CUDA text: in the build script for every kernel of [`table`], and at
//! run time for any other. The crate knows nothing of models or backends.
//!
//! What all families share:
//! - buffers are flat arrays; the last input, `params`, holds the sizes as `u32` (f32 values by
//!   their bits), so that a kernel has no scalars of its own and needs no information block: such a
//!   block would cost a buffer write for each launch, while equal `params` are uploaded once;
//! - each family's `params` are documented, and made, by its `Params` type;
//! - every buffer index is checked against `params`, never against a buffer's length;
//! - values of a thread that are written once are a `Sequence`, which is nothing but names while a kernel is
//!   expanded, and an `Array` only where a loop carries them: CubeCL's optimiser makes an assignment of each
//!   access to an element, and goes through the whole kernel for each of these.

// What these lints propose has no counterpart in a `#[cube]` function.
#![allow(
    clippy::collapsible_if,
    clippy::manual_div_ceil,
    clippy::manual_is_multiple_of,
    clippy::needless_pass_by_value,
    clippy::trivially_copy_pass_by_ref,
    clippy::unnecessary_cast
)]

pub mod attention;
mod blocks;
pub mod build;
mod common;
pub mod copy;
pub mod dequantise;
pub mod largest;
pub mod matmul;
pub mod matvec;
pub mod norm;
pub mod rope;
pub mod rows;
pub mod swiglu;
pub mod targets;
mod units;
mod waits;

use std::ops::Range;

use cubecl::prelude::KernelDefinition;

pub use blocks::Format;
pub use common::Reduce;
pub use waits::Wait;

/// One kernel with all its compile-time parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// Copies, for measuring what a device can do.
    Copy(copy::Copy),
    /// Attention over a cache: one part of the keys.
    Decode(attention::Decode),
    /// Attention over a cache: the parts joined.
    Merge(attention::Merge),
    /// Attention of many query rows.
    Flash(attention::Flash),
    /// Products of many rows with blocks.
    MatMul(matmul::MatMul),
    /// Matrix-vector products.
    MatVec(matvec::MatVec),
    /// The largest value of each row.
    Largest,
    /// Block formats to plain numbers, whole or by rows.
    Dequantise(dequantise::Dequantise),
    /// Root-mean-square norms.
    RmsNorm(norm::RmsNorm),
    /// Rotary positions, and the write to the cache.
    RopeAppend(rope::RopeAppend),
    /// Rows of plain matrices.
    Rows(rows::Rows),
    /// The gated activation of the feed-forward layer.
    SwiGlu(swiglu::SwiGlu),
}

/// What a device must have to run a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Needs {
    /// The number of threads that run in step, where the kernel depends on it: its plane (subgroup,
    /// SIMD-group, warp) operations are wrong for any other.
    pub plane: Option<u32>,
    /// Arithmetic on f16.
    pub f16: bool,
    /// Matrix units.
    pub units: Option<MatrixUnits>,
    /// Products of four bytes with four others, summed, in one instruction.
    pub bytes: bool,
}

/// Matrix units that add products of square matrices to sums in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatrixUnits {
    /// Rows, columns and depth of a product.
    pub edge: u32,
    /// Whether they multiply f16 instead of f32.
    pub halves: bool,
}

impl MatrixUnits {
    /// Those that there are kernels for, the largest last.
    pub const ALL: [Self; 2] = [Self { edge: 8, halves: false }, Self { edge: 16, halves: true }];

    /// Those with an edge of 8 are Apple's, those with 16 are what Vulkan and CUDA have; WGSL has none.
    const fn languages(self) -> [bool; 4] {
        match self.edge {
            8 => [true, false, false, false],
            _ => [false, false, true, true],
        }
    }
}

impl std::fmt::Display for MatrixUnits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { edge, halves } = *self;
        write!(f, "{edge}x{edge}x{edge} of {}", if halves { "f16" } else { "f32" })
    }
}

impl Kernel {
    /// A name that no other kernel has: the family and its parameters.
    pub fn name(&self) -> String {
        match self {
            Self::Copy(kernel) => kernel.name(),
            Self::Decode(kernel) => kernel.name(),
            Self::Merge(kernel) => kernel.name(),
            Self::Flash(kernel) => kernel.name(),
            Self::MatMul(kernel) => kernel.name(),
            Self::Largest => largest::NAME.into(),
            Self::MatVec(kernel) => kernel.name(),
            Self::RopeAppend(kernel) => kernel.name(),
            Self::Rows(kernel) => kernel.name(),
            Self::Dequantise(kernel) => kernel.name(),
            Self::RmsNorm(kernel) => kernel.name(),
            Self::SwiGlu(kernel) => kernel.name(),
        }
    }

    /// The family, as the folders here are named.
    pub fn family(&self) -> &'static str {
        match self {
            Self::Copy(_) => "copy",
            Self::Decode(_) | Self::Merge(_) | Self::Flash(_) => "attention",
            Self::Largest => "largest",
            Self::MatMul(_) => "matmul",
            Self::MatVec(_) => "matvec",
            Self::RopeAppend(_) => "rope",
            Self::Rows(_) => "rows",
            Self::Dequantise(_) => "dequantise",
            Self::RmsNorm(_) => "norm",
            Self::SwiGlu(_) => "swiglu",
        }
    }

    /// What a device must have.
    pub fn needs(&self) -> Needs {
        match self {
            Self::Copy(_) | Self::Largest | Self::Merge(_) | Self::SwiGlu(_) => Needs::default(),
            Self::Decode(kernel) => kernel.needs(),
            Self::Flash(kernel) => kernel.needs(),
            Self::MatMul(kernel) => kernel.needs(),
            Self::MatVec(kernel) => kernel.needs(),
            Self::RopeAppend(kernel) => kernel.needs(),
            Self::Rows(kernel) => kernel.needs(),
            Self::Dequantise(kernel) => kernel.needs(),
            Self::RmsNorm(kernel) => kernel.needs(),
        }
    }

    /// What it can be told to wait for.
    pub fn waits(&self) -> &'static [Wait] {
        match self {
            Self::Decode(kernel) => kernel.waits(),
            Self::Merge(_) => &attention::Merge::WAITS,
            Self::MatVec(kernel) => kernel.waits(),
            _ => &[],
        }
    }

    /// The words of its parameters that change from step to step, if it is worth compiling it for the
    /// others ([`targets::with_constants`]): a kernel of which a step has several, that has not much more to
    /// do than to begin.
    pub fn passing(&self) -> Option<&'static [usize]> {
        match self {
            Self::Decode(kernel) if kernel.rotary => Some(&attention::Params::PASSING),
            Self::MatVec(kernel) if kernel.batch == 1 && !kernel.low_rank => Some(&[]),
            _ => None,
        }
    }

    /// Whether what it reads lies where ids say that are in a buffer: those are not checked by it. All else
    /// that kernels read and write is where their parameters say.
    pub fn reads_by_ids(&self) -> bool {
        match self {
            Self::Dequantise(kernel) => kernel.gather,
            Self::Rows(_) => true,
            _ => false,
        }
    }

    /// The places among its buffers of those results that others can [wait](Wait) for. They come right
    /// behind the parameters.
    pub fn announces(&self) -> Range<usize> {
        let (first, results) = match self {
            Self::Decode(kernel) => (kernel.announces(), 2),
            Self::Merge(_) => (attention::Merge::OUT, 1),
            Self::MatVec(kernel) => (kernel.announces(), 1),
            Self::Dequantise(kernel) if kernel.is_announced() => (3, 1),
            _ => (0, 0),
        };
        first..first + results
    }

    /// Whether its loops are so long that they must not be unrolled, which a driver does that has registers
    /// left: processors would wait for instructions (docs/kernels.md).
    pub(crate) fn is_long(&self) -> bool {
        self.needs().units.is_some()
    }

    /// Whether it is made for each language, in the order of [`build::LANGUAGES`].
    pub fn languages(&self) -> [bool; 4] {
        match self.needs() {
            Needs { units: Some(units), .. } => units.languages(),
            // CubeCL has no operation for it, and what stands for one is taken apart in WGSL.
            Needs { bytes: true, .. } => [true, false, true, true],
            _ => [true; 4],
        }
    }

    /// Expands the kernel, without a device.
    pub fn define(&self) -> KernelDefinition {
        match self {
            Self::Copy(kernel) => kernel.define(),
            Self::Decode(kernel) => kernel.define(),
            Self::Merge(kernel) => kernel.define(),
            Self::Flash(kernel) => kernel.define(),
            Self::MatMul(kernel) => kernel.define(),
            Self::Largest => largest::define(),
            Self::MatVec(kernel) => kernel.define(),
            Self::RopeAppend(kernel) => kernel.define(),
            Self::Rows(kernel) => kernel.define(),
            Self::Dequantise(kernel) => kernel.define(),
            Self::RmsNorm(kernel) => kernel.define(),
            Self::SwiGlu(kernel) => kernel.define(),
        }
    }
}

/// Every kernel that is generated at build time.
pub fn table() -> Vec<Kernel> {
    [
        attention::table(),
        copy::table(),
        matmul::table(),
        matvec::table(),
        dequantise::table(),
        vec![Kernel::Largest],
        norm::table(),
        rope::table(),
        rows::table(),
        swiglu::table(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_plain() {
        let mut names: Vec<_> = table().iter().map(Kernel::name).collect();
        assert!(
            names.iter().flat_map(|n| n.chars()).all(|c| c.is_ascii_alphanumeric() || c == '_')
        );
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
