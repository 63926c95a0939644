//! Runs Metal Shading Language kernels on the CPU, so that they are proven without a Mac.
//!
//! [`Program::compile`] takes the text that `CubeCL` or naga generates, rewrites its few words that
//! C++ does not have, and compiles it with clang. [`Program::run`] executes a launch:
//! each GPU thread is a fibre, and a threadgroup's threads run in a chosen [`Order`] from one
//! synchronisation point to the next. On the way it finds, as a typed [`Fault`]:
//!
//! - accesses outside a buffer, a threadgroup array or a thread's own array; writes to a read-only
//!   buffer; misaligned accesses;
//! - data races: accesses that no barrier orders, in any order of threads, whether or not this run
//!   happened to give right numbers (relaxed atomics do not race with each other);
//! - barriers that not all threads of a threadgroup reach, SIMD-group functions that not all lanes
//!   reach, values taken from inactive lanes;
//! - too much threadgroup memory, shifts by the type's width or more, divisions by zero.
//!
//! Threadgroup memory and a thread's variables start as not-a-number. [`check_opencl`] checks the
//! address spaces, and [`check_rules`] what wgpu's way to Metal demands of the text.
//!
//! What is compiled here runs in this process: only pass kernels that you trust.
//!
//! ```
//! use msl_on_cpu::{Fault, Launch, Program};
//!
//! let text = "#include <metal_stdlib>
//! using namespace metal;
//! kernel void twice(const device float* x [[buffer(0)]], device float* y [[buffer(1)]],
//!     uint i [[thread_position_in_grid]]) {
//!     y[i] = 2.0 * x[i];
//! }";
//! let program = Program::compile(text, "twice")?;
//! let x: Vec<u8> = [1.0f32, 2.0, 3.0].iter().flat_map(|v| v.to_le_bytes()).collect();
//! let mut y = vec![0; 12];
//! let mut launch = Launch::new([1, 1, 1], [3, 1, 1]).read(&x).read_write(&mut y);
//! program.run(&mut launch)?;
//! launch.threads = [4, 1, 1];
//! assert!(matches!(program.run(&mut launch), Err(Fault::OutOfBounds(_))));
//! assert_eq!(y[8..], 6.0f32.to_le_bytes());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod compile;
mod error;
mod fault;
mod lexer;
mod opencl;
mod rewrite;
mod rules;
mod run;
mod signature;

pub use compile::Program;
pub use error::{COMPILER, Error, INSTALL};
pub use fault::{Access, Fault, FaultInOrder, Memory, Other, Place, Touch, Undefined, Waiting};
pub use opencl::check_opencl;
pub use rules::{Rule, Violation, check_rules};
pub use run::{Buffer, Launch, Order};
pub use signature::{Binding, Kernel, Parameter};
