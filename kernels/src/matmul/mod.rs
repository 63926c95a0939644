//! Products of many rows with blocks as they are: `x · wᵀ + bias`, what a prompt needs.
//!
//! A cube makes a tile of the result. It goes along the columns a *piece* of blocks (32 values) at a
//! time: one half of its threads decodes a piece of each of the tile's rows of `w`, the other half
//! reads the same columns of `x`; both are staged in shared memory, and multiplied there. What the
//! next step needs is read from memory before this one is multiplied.
//!
//! Multiplied in one of three ways ([`Way`]): by plain f32 arithmetic, by matrix units of f32, or by
//! matrix units of f16. There each number is the sum of two halves, `a = a₁ + a₂` (22 bits of it),
//! and a product three of them: `a₁b₁ + a₁b₂ + a₂b₁`; what is left out is 2⁻²² of it (Markidis et
//! al., 2018). Values of `w` are staged times 2⁴, so that their second halves are no subnormals: they must be
//! below 4,094. Of a value of `x` beyond 65,504 the second half has what is beyond, so that up to 131,008
//! it is good to 2⁻¹².
//!
//! Buffers: weight, x `[batch, columns]`, bias `[rows]`, `params`; out `[batch, rows]`.

mod plain;
mod stage;
mod units;

use cubecl::prelude::*;
use half::f16;

use crate::{
    Format, Kernel, MatrixUnits, Needs,
    blocks::PIECE,
    common::{Builder, F4, U4},
};

/// How staged tiles are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// By plain f32 arithmetic: any device.
    Plain,
    /// By matrix units.
    Units(MatrixUnits),
}

/// The kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatMul {
    /// How the matrix is stored.
    pub format: Format,
    /// How tiles are multiplied.
    pub way: Way,
    /// Rows and columns of the result that a cube makes, as many of both: 64 or 128.
    pub tile: u32,
}

/// The sizes of one launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Params {
    /// Rows of the matrix: columns of the result.
    pub rows: u32,
    /// Columns of the matrix, whole blocks.
    pub columns: u32,
    /// Rows of `x`.
    pub batch: u32,
    /// Whether a bias is added.
    pub bias: bool,
}

impl Params {
    /// As the kernel reads them.
    pub fn words(&self) -> Vec<u32> {
        vec![self.rows, self.columns, self.batch, u32::from(self.bias)]
    }
}

/// Vectors of four in a piece.
pub(crate) const FOURS: usize = PIECE / 4;

impl MatMul {
    /// Rows of `x`, and of `w`, that a cube takes.
    const fn size(self) -> usize {
        self.tile as usize
    }

    /// Threads in a cube: one to stage each row of `w`, and as many for `x`.
    const fn threads(self) -> usize {
        2 * self.size()
    }

    /// Halves that a staged number consists of.
    const fn parts(self) -> usize {
        match self.way {
            Way::Units(MatrixUnits { halves: true, .. }) => 2,
            _ => 1,
        }
    }

    /// Vectors from one staged row to the next: more than there are, so that rows begin in different
    /// banks.
    const fn stride(self) -> usize {
        FOURS + self.parts()
    }

    /// Vectors of one staged part of `x` or `w`.
    const fn stage(self) -> usize {
        self.size() * self.stride()
    }

    /// Whether threads beside each other read words that lie beside each other, and pass them on
    /// through shared memory: a load by threads that each look at a row of their own takes as long as
    /// there are rows. (Or else each reads vectors of its own row.)
    const fn reads_together(self) -> bool {
        !self.format.is_wide()
    }

    /// Words of a piece.
    const fn words(self) -> usize {
        self.format.words(1)
    }

    /// By how much values of `w` are staged larger.
    const fn scale(self) -> f32 {
        if self.parts() == 2 { 16.0 } else { 1.0 }
    }

    /// Cubes of one launch.
    pub const fn cubes(self, params: &Params) -> u32 {
        params.rows.div_ceil(self.tile) * params.batch.div_ceil(self.tile)
    }

    pub(crate) fn name(self) -> String {
        let way = match self.way {
            Way::Plain => "plain".into(),
            Way::Units(MatrixUnits { edge, halves }) => {
                format!("units{edge}_{}", if halves { "f16" } else { "f32" })
            }
        };
        format!("matmul_{}_{way}_t{}", self.format.name(), self.tile)
    }

    pub(crate) fn needs(self) -> Needs {
        match self.way {
            Way::Plain => Needs::default(),
            Way::Units(units) => {
                Needs { plane: Some(32), f16: units.halves, units: Some(units), ..Needs::default() }
            }
        }
    }

    pub(crate) fn define(self) -> KernelDefinition {
        let mut b = Builder::new();
        let weight = if self.format.is_wide() { b.input::<U4>() } else { b.input::<u32>() };
        let (x, bias, params) = (b.input::<F4>(), b.input::<f32>(), b.input::<u32>());
        let out = b.output::<f32>();
        let io = stage::BuffersExpand {
            wide: weight.clone().into(),
            weight: weight.into(),
            x: x.into(),
            bias: bias.into(),
            params: params.into(),
            out: out.into(),
        };
        let scope = &mut b.inner.scope;
        match self.way {
            Way::Plain => plain::product::expand(scope, io, self),
            Way::Units(MatrixUnits { halves: true, .. }) => {
                units::product::expand::<f16>(scope, io, self);
            }
            Way::Units(_) => units::product::expand::<f32>(scope, io, self),
        }
        b.finish(self.threads() as u32, &self.name())
    }
}

pub(crate) fn table() -> Vec<Kernel> {
    let ways = [
        (Way::Plain, 64),
        (Way::Units(MatrixUnits { edge: 8, halves: false }), 64),
        (Way::Units(MatrixUnits { edge: 16, halves: true }), 64),
        (Way::Units(MatrixUnits { edge: 16, halves: true }), 128),
    ];
    let mut all = Vec::new();
    for format in Format::ALL.into_iter().filter(|format| format.is_packed()) {
        all.extend(ways.map(|(way, tile)| Kernel::MatMul(MatMul { format, way, tile })));
    }
    all
}
