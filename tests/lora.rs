//! LoRA adapters: PEFT's files and numbers, adapters by name, gradients and merging.

#[path = "support/allocations.rs"]
#[allow(dead_code)] // the formats' tests use the rest
mod allocations;
mod support;

#[path = "lora/files.rs"]
mod files;
#[path = "lora/gradients.rs"]
mod gradients;
#[path = "lora/merging.rs"]
mod merging;
#[path = "lora/models.rs"]
mod models;
#[path = "lora/numbers.rs"]
mod numbers;
#[path = "lora/swapping.rs"]
mod swapping;
