#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod adapters;
pub mod backend;
pub mod device;
pub mod dispatch;
pub mod evaluation;
pub mod formats;
pub mod generation;
pub mod hub;
#[cfg(all(debug_assertions, not(test)))]
#[doc(hidden)]
pub mod instances;
pub mod memory;
pub mod models;
pub mod nn;
pub mod quant;
pub mod testing;
pub mod tokenizer;

pub use backend::{AutodiffBackend, Backend};
pub use device::{Device, DeviceChoice};
