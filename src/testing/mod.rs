//! Golden tests for prototypes: what a function computes is captured once, kept in a file, and
//! met on every backend ever after.
//!
//! A prototype is one function, written for any [`Backend`], that names what it computes:
//!
//! ```
//! use burn::tensor::{Tensor, activation::softmax};
//! use metal_candle::{
//!     Backend,
//!     testing::{self, Capture, Tolerance},
//! };
//!
//! fn scores<B: Backend>(device: &B::Device, capture: &mut Capture<B>) {
//!     let q: Tensor<B, 2> = testing::uniform([4, 8], 1, device);
//!     let k: Tensor<B, 2> = testing::uniform([6, 8], 2, device);
//!     let scores = q.matmul(k.transpose());
//!     capture.tensor("scores", &scores);
//!     capture.tensor("weights", &softmax(scores, 1));
//! }
//!
//! // One test for each backend: `scores_golden::cpu`, `::candle`, `::wgpu_spirv`, `::wgpu_wgsl`.
//! metal_candle::golden_test!(
//!     scores_golden, "tests/golden/scores.safetensors", Tolerance::absolute(1e-5), scores
//! );
//! # fn main() {}
//! ```
//!
//! | variable | what it does to golden tests |
//! |---|---|
//! | [`METAL_CANDLE_BLESS=1`](BLESS) | the golden file is written anew, by the [CPU backend](crate::backend::Cpu), before it is compared with |
//! | [`METAL_CANDLE_SKIP_ABSENT=1`](SKIP_ABSENT) | a backend that finds no adapter is left out, with a line on standard error; without it, that is a failure |
//!
//! A golden file says that a prototype gives the *same* numbers as before, and everywhere. That
//! they are the *right* ones has to be shown once by other means: [`compare`] takes numbers from
//! anywhere, such as plain loops in f64.
//!
//! [`Backend`]: crate::Backend

mod capture;
mod compare;
mod file;
mod golden;
mod inputs;
mod macros;
mod report;
mod snapshot;
mod target;
mod tolerance;

pub use capture::Capture;
pub use compare::{Difference, DifferenceKind, Mismatch, OutOfTolerance, Place, compare};
pub use golden::{BLESS, Golden, GoldenError, Prototype, SKIP_ABSENT};
#[doc(hidden)]
pub use golden::{GoldenTest, run_golden_test};
pub use inputs::uniform;
pub use snapshot::{HostTensor, Snapshot, Value, Values};
pub use target::{INSTALL_A_DRIVER, Target, UnknownTarget, open_wgpu};
pub use tolerance::{Tolerance, Tolerances};
