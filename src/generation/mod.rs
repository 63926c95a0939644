//! From logits to text: which token comes next, when to stop, and what can already be shown.
//!
//! One step of a generation is
//!
//! ```text
//! logits --Sampler--> id --TextStream--> text, whole characters only --StopStrings--> text that is safe to show
//! ```
//!
//! - [`Sampler`] runs a chain of [`SamplingStep`]s over the logits and draws a token, or takes the largest.
//! - [`TextStream`] turns ids into text one at a time and holds back the bytes of an unfinished character.
//! - [`StopStrings`] holds back what may turn out to be the start of a stop string.
//!
//! None of these knows a model: they work on slices, ids and text. [`generate`] is the loop around
//! them and a [`CausalLm`](crate::models::CausalLm). Where nothing but the largest logit counts, a GPU chooses by itself
//! and is not waited for between two tokens (`tokens.rs`).

pub mod bench;
mod generate;
mod pace;
mod sampling;
mod stop;
mod stream;
mod tokens;

pub use generate::{
    GenerateError, GenerateOptions, Generation, StopReason, Timings, generate, workload,
};
pub use sampling::{Sampler, SamplingError, SamplingOptions, SamplingStep};
pub use stop::{StopError, StopOutput, StopStrings};
pub use stream::TextStream;
