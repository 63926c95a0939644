//! LoRA adapters: low-rank changes of a model's linear layers, without touching its weights.
//!
//! A module's weight `W` becomes `W + s · B · A`, with `A` of `[r, in]` and `B` of `[out, r]` (Hu et
//! al., 2021); `DoRA` (Liu et al., 2024) also sets the length of each row. The files are
//! PEFT's, llama.cpp's ([`gguf`]), and mlx-lm's.

mod adapter;
mod config;
mod error;
pub mod gguf;
mod mlx;
mod parts;
pub mod peft;
mod random;
mod rules;

pub use adapter::{Adapter, LowRankTensors};
pub use config::{CONFIG_FILE, LoraConfig, TargetModules};
pub use error::AdapterError;
pub use rules::Rules;
