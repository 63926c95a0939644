//! Kernels that were compiled for the sizes of a model's matrices give, bit for bit, what those for all sizes
//! give.

mod support;

use burn::tensor::DType;
use metal_candle::{
    backend::{Backend, Wgpu},
    dispatch::Kernels,
    formats::Checkpoint,
    models::{self, CausalLm, LoadOptions, LogitRows, TokenBatch},
};
use support::{fixture, on_both};

/// Dense in f32 and f16, and packed.
const MODELS: [(&str, DType); 4] = [
    ("models/shakespeare-llama", DType::F32),
    ("reference/gguf/models/llama-f16.gguf", DType::F16),
    ("reference/gguf/models/qwen2-q4_0.gguf", DType::F32),
    ("reference/gguf/models/llama-q8_0.gguf", DType::F32),
];
/// Steps of which no kernel is compiled for the sizes yet.
const FEW: u32 = 3;
/// After so many steps they are.
const MANY: u32 = 6;

/// The logits of some steps behind a prompt.
fn steps(model: &dyn CausalLm<Wgpu>, steps: u32) -> Vec<Vec<f32>> {
    let mut cache = model.new_cache(&[0], 16);
    let mut run = |tokens: &[u32]| {
        let tokens = TokenBatch::new(&[tokens]).expect("tokens");
        let logits = model.forward(&tokens, Some(&mut cache), LogitRows::Last).expect("forward");
        Wgpu::read(logits).expect("read")
    };
    run(&[3, 1, 4, 1, 5]);
    (0..steps).map(|i| run(&[7 * i + 2])).collect()
}

#[test]
fn kernels_for_some_sizes_give_the_same() {
    let mut counts = Vec::new();
    on_both(|device| {
        let kernels = Kernels::of(device);
        for (path, dtype) in MODELS {
            let checkpoint = Checkpoint::open(&fixture(path)).expect("fixture");
            let options = LoadOptions { dtype, ..LoadOptions::default() };
            let model = models::load::<Wgpu>(&checkpoint, options, device).expect("loads");
            let before = kernels.sized_kernels();
            let wanted = steps(&*model, FEW);
            assert_eq!(kernels.sized_kernels(), before, "{path}: too early");
            steps(&*model, MANY - FEW);
            let more = kernels.sized_kernels() - before;
            let got = steps(&*model, FEW);
            assert!(got == wanted, "{path}, {more} kernels: they differ");
            counts.push(more);
        }
    });
    println!("kernels for some sizes: {counts:?}");
    // By SPIR-V alone. (Some of a model's matrices may have been another one's sizes.)
    let (by_spirv, by_wgsl) = counts.split_at(MODELS.len());
    assert!(by_spirv.iter().all(|&more| more > 1), "{by_spirv:?}");
    assert!(by_wgsl.iter().all(|&more| more == 0), "{by_wgsl:?}");
}
