//! CPU kernels on plain slices: what the `Cpu` backend calls.
//!
//! | module | computes |
//! |---|---|
//! | `linear` | `x · wᵀ + bias`, weights in single or half precision, few rows or many |
//! | `added` | what a product begins or ends with: a bias, an adapter's low-rank product |
//! | `attention` | softmax(q · kᵀ) · v without the matrix of scores, grouped queries, masks, log-sum-exp |
//! | `norm`, `rope`, `swiglu` | root-mean-square norm (with a residual), rotary positions, gated `SiLU` |
//! | `packed` | the same as `linear` with block-quantised weights, exact or with activations in 8 bits |
//! | `panel` | the register-blocked product under the many-row paths |
//! | `simd` | vectors: AVX-512, AVX2, NEON or plain Rust, chosen once at run time |
//! | `parallel`, `crew`, `scratch` | threads, those that stay at hand for a step, and memory that they keep |
//!
//! Activations and sums are single precision. Lengths are asserted: a wrong one is a mistake of the caller.

#![cfg_attr(test, allow(clippy::float_cmp))]
// Loops over small arrays of vectors index them, so that nothing but arithmetic is left after unrolling.
#![allow(clippy::needless_range_loop)]
// A vector operation must be inlined into the function that enables its instruction set: see `simd`.
#![allow(clippy::inline_always)]

mod added;
mod attention;
mod crew;
mod heads;
mod linear;
mod norm;
mod packed;
mod panel;
mod parallel;
mod rope;
mod scratch;
mod simd;
mod swiglu;

#[cfg(test)]
mod testing;

pub use added::{Added, LowRank, MAX_RANK};
pub use attention::{AttentionOptions, AttentionShape, KvView, attention};
pub use crew::with_crew;
pub use heads::swap_middle;
pub use linear::{Weight, linear};
pub use norm::{add_rms_norm, rms_norm};
pub use packed::{Activations, ArrangedMatrix, PackedMatrix, packed_linear, quantised_bytes};
pub use rope::{RopeOrder, RopeShape, rope};
pub use swiglu::swiglu;
