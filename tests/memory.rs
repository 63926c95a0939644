//! Memory, counted: what a model takes against what was predicted, and that packed weights are never
//! there as dense ones. In a test program of its own, which counts every allocation.

mod support;

#[path = "memory/counter.rs"]
mod counter;
#[path = "memory/packed.rs"]
mod packed;
#[path = "memory/plan.rs"]
mod plan;
