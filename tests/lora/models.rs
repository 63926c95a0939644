//! Models and adapters of the fixtures, and logits.

use std::sync::Arc;

use burn::tensor::DType;
use metal_candle::{
    Backend,
    adapters::{Adapted, AdapterRegistry, ApplyAdapter},
    formats::Checkpoint,
    models::{self, CausalLm, LoadOptions, LogitRows, TokenBatch},
};

use crate::support::fixture;

/// Logits with an adapter, as the README of the fixtures states it.
pub const LOGITS: f32 = 2e-4;

/// The architectures that have some.
pub const ARCHITECTURES: [&str; 2] = ["llama", "qwen2"];
/// The adapters of the fixtures.
pub const ADAPTERS: [&str; 3] = ["all_linear", "rslora_qv", "dora"];

pub type Model<B> = Arc<dyn CausalLm<B>>;

pub fn load<B: Backend>(
    path: &str,
    dtype: DType,
    dequantize: bool,
    device: &B::Device,
) -> Model<B> {
    let checkpoint = Checkpoint::open(&fixture(path)).expect("checkpoint");
    let options = LoadOptions { dtype, dequantize, ..LoadOptions::default() };
    models::load::<B>(&checkpoint, options, device).expect("model").into()
}

/// A registry with the adapters of an architecture under their folders' names.
pub fn registry<B: Backend>(model: &Model<B>, arch: &str) -> AdapterRegistry<B> {
    let registry = AdapterRegistry::new(model.slots());
    for name in ADAPTERS {
        let folder = fixture(&format!("reference/lora/{arch}/{name}"));
        registry.load_adapter(name, &folder).expect(name);
    }
    registry
}

/// The model with adapters.
pub fn adapted<B: Backend>(
    model: &Model<B>,
    registry: &AdapterRegistry<B>,
    adapters: &[(&str, f64)],
) -> Adapted<B> {
    registry.apply_adapters(adapters).expect("applied");
    registry.adapt(model).expect("this model")
}

/// Logits of every position, row after row.
pub fn logits<B: Backend>(model: &dyn CausalLm<B>, ids: &[Vec<u32>]) -> Vec<f32> {
    let tokens = TokenBatch::new(ids).expect("tokens");
    let logits = model.forward(&tokens, None, LogitRows::All).expect("forward");
    logits.into_data().into_vec().expect("f32")
}

/// Logits of the last position of each sequence, the tokens run through a cache: all but the last
/// three at once, then one after the other.
pub fn cached<B: Backend>(model: &dyn CausalLm<B>, ids: &[Vec<u32>]) -> Vec<f32> {
    let len = ids[0].len();
    let mut cache = model.new_cache(&vec![0; ids.len()], len);
    let mut last = Vec::new();
    for range in [0..len - 3, len - 3..len - 2, len - 2..len - 1, len - 1..len] {
        let part: Vec<_> = ids.iter().map(|row| row[range.clone()].to_vec()).collect();
        let tokens = TokenBatch::new(&part).expect("tokens");
        let logits = model.forward(&tokens, Some(&mut cache), LogitRows::Last).expect("forward");
        last = logits.into_data().into_vec().expect("f32");
    }
    last
}

/// Applies one adapter after the other, and none now and then.
pub fn swap<B: Backend>(registry: &AdapterRegistry<B>, times: usize) {
    for i in 0..times {
        registry.apply_adapter(ADAPTERS[i % 3]).expect("applied");
        if i % 7 == 0 {
            registry.remove_adapter();
        }
    }
}
