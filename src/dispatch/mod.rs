//! Launching the kernels of `kernels/`: the texts that the build script generated, handed to the
//! driver inside CubeCL's own stream, so that they order themselves with burn's operations.
//!
//! [`Kernels::launch`] takes any kernel. One that is in the table, and whose needs the device meets,
//! is *pregenerated*: nothing is expanded or tuned at run time, only the driver compiles. Any other
//! is expanded from the same source (*jit*), with a `tracing` line that says why.

mod ahead;
mod cells;
pub mod check;
pub mod choose;
mod client;
mod device;
mod encode;
mod exit;
mod fresh;
pub mod gather;
mod groups;
#[cfg(not(target_os = "macos"))]
mod heap;
mod manifest;
mod pipelines;
mod places;
mod pool;
pub mod queue;
mod read_back;
mod task;
mod trace;
pub mod tune;
mod upload;
mod written;

pub use ahead::Ahead;
pub use device::{Kernels, LaunchError};
pub use manifest::{ENTRIES, Entry, Language, find};
pub use read_back::Begun;
pub use trace::{Launch, Origin, Recorder, TraceError};
pub use tune::Choices;
