//! What generic functions become for each backend, compiled with this library instead of with every program
//! that uses it: 20,000 functions of burn's operations, above all CubeCL's products of matrices, which took
//! each of fourteen test programs a hundred seconds. Up to the first level of optimisation rustc takes such
//! instances from the crates that a program is made of, if they have them. Release builds do not, and have
//! nothing of this.

use std::hint::black_box;

use crate::{
    Backend,
    backend::{Autodiff, Candle, Cpu, Wgpu},
    models,
};

/// Has everything that loading and running models needs on a backend compiled here.
fn keep<B: Backend>() {
    black_box(models::load::<B> as fn(_, _, _) -> _);
}

/// Never called.
pub fn compile() {
    keep::<Cpu>();
    keep::<Candle>();
    keep::<Wgpu>();
    keep::<Autodiff<Cpu>>();
    keep::<Autodiff<Candle>>();
    keep::<Autodiff<Wgpu>>();
}
