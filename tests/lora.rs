//! LoRA adapters: PEFT's files.

mod support;

#[path = "lora/files.rs"]
mod files;
