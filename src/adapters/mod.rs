//! LoRA adapters: low-rank changes of a model's linear layers, without touching its weights.
//!
//! A module's weight `W` becomes `W + s · B · A`, with `A` of `[r, in]` and `B` of `[out, r]` (Hu et
//! al., 2021); `DoRA` (Liu et al., 2024) also sets the length of each row. The files are
//! PEFT's, llama.cpp's ([`gguf`]), and mlx-lm's.
//!
//! ```no_run
//! use std::{path::Path, sync::Arc};
//!
//! use metal_candle::{
//!     adapters::{AdapterRegistry, ApplyAdapter},
//!     backend::Cpu,
//!     formats::Checkpoint,
//!     models::{self, CausalLm, LoadOptions},
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let checkpoint = Checkpoint::open(Path::new("model"))?;
//! let model = models::load::<Cpu>(&checkpoint, LoadOptions::default(), &Default::default())?;
//! let model: Arc<dyn CausalLm<Cpu>> = model.into();
//! let registry = AdapterRegistry::new(model.slots());
//! registry.load_adapter("code", Path::new("adapters/code"))?;
//! registry.load_adapter("chat", Path::new("adapters/chat"))?;
//! registry.apply_adapter("code")?;
//! let code = registry.adapt(&model)?; // a model that stays as it is ...
//! registry.apply_adapters(&[("code", 0.5), ("chat", 0.5)])?; // ... whatever is applied later
//! # Ok(())
//! # }
//! ```

mod adapter;
mod config;
mod error;
pub mod fuse;
pub mod gguf;
pub mod merge;
mod mlx;
mod parts;
pub mod peft;
mod random;
mod registry;
mod rules;
mod set;
mod upload;

pub use adapter::{Adapter, LowRankTensors};
pub use config::{CONFIG_FILE, LoraConfig, TargetModules};
pub use error::AdapterError;
pub use registry::{AdapterInfo, AdapterRegistry, ApplyAdapter};
pub use rules::Rules;
pub use set::{Adapted, AdapterSet};
