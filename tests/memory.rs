//! Memory, counted: what a model takes against what was predicted. In a test program of its own,
//! which counts every allocation.

mod support;

#[path = "memory/counter.rs"]
mod counter;
#[path = "memory/plan.rs"]
mod plan;
