//! What a device keeps: kernels that were compiled for the sizes of a model's matrices, which give, bit for bit,
//! what those for all sizes give, and memory, which must not be kept from others.

#[path = "lora/models.rs"]
#[allow(dead_code)] // the adapters' tests use the rest
mod adapted;
mod support;
#[path = "sized/swaps.rs"]
mod swaps;

use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::tensor::DType;
use metal_candle::{
    backend::{Backend, Wgpu},
    dispatch::Kernels,
    formats::Checkpoint,
    models::{self, CausalLm, LoadOptions, LogitRows, TokenBatch},
    quant::Encoding,
};
use serde_json::json;
use support::{fixture, on_both};

/// Dense in f32 and f16, and packed.
const MODELS: [(&str, DType); 4] = [
    ("models/shakespeare-llama", DType::F32),
    ("reference/gguf/models/llama-f16.gguf", DType::F16),
    ("reference/gguf/models/qwen2-q4_0.gguf", DType::F32),
    ("reference/gguf/models/llama-q8_0.gguf", DType::F32),
];
/// Those of random weights, with output layers that are large enough to have kernels of their own.
const LARGE: [Encoding; 2] = [Encoding::Q4_0, Encoding::Q4_K];
/// Steps of which no kernel is compiled for the sizes yet.
const FEW: u32 = 3;
/// After so many steps they are.
const MANY: u32 = 6;

/// Tests count what all threads have of a device: one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn checkpoints() -> impl Iterator<Item = (String, Checkpoint, DType)> {
    let of_files = MODELS.iter().map(|&(path, dtype)| {
        (path.to_owned(), Checkpoint::open(&fixture(path)).expect("fixture"), dtype)
    });
    let of_nothing = LARGE.iter().map(|&encoding| {
        let config = json!({
            "model_type": "llama", "hidden_size": 256, "intermediate_size": 512,
            "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
            "vocab_size": 66_000, "tie_word_embeddings": true, "max_position_embeddings": 512,
            "rms_norm_eps": 1e-5,
        });
        let checkpoint = Checkpoint::random(config, 1, encoding);
        (format!("{encoding:?}"), checkpoint, DType::F32)
    });
    of_files.chain(of_nothing)
}

/// The logits of some steps behind a prompt, in a cache for so many positions.
fn steps(model: &dyn CausalLm<Wgpu>, capacity: usize, steps: u32) -> Vec<Vec<f32>> {
    let mut cache = model.new_cache(&[0], capacity);
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
    let _alone = alone();
    let mut counts = Vec::new();
    on_both(|device| {
        let kernels = Kernels::of(device);
        for (name, checkpoint, dtype) in checkpoints() {
            let options = LoadOptions { dtype, ..LoadOptions::default() };
            let model = models::load::<Wgpu>(&checkpoint, options, device).expect("loads");
            let before = kernels.sized_kernels();
            let wanted = steps(&*model, 16, FEW);
            assert_eq!(kernels.sized_kernels(), before, "{name}: too early");
            steps(&*model, 16, MANY - FEW);
            let more = kernels.sized_kernels() - before;
            let got = steps(&*model, 16, FEW);
            assert!(got == wanted, "{name}, {more} kernels: they differ");
            counts.push(more);
        }
    });
    println!("kernels for some sizes: {counts:?}");
    // By SPIR-V alone. (Some of a model's matrices may have been another one's sizes.)
    let (by_spirv, by_wgsl) = counts.split_at(MODELS.len() + LARGE.len());
    assert!(by_spirv.iter().all(|&more| more > 1), "{by_spirv:?}");
    assert!(by_wgsl.iter().all(|&more| more == 0), "{by_wgsl:?}");
}

#[test]
fn a_cache_that_is_gone_leaves_its_memory_to_the_next_one() {
    const CAPACITY: usize = 65_536;
    const CACHE_BYTES: u64 = 2 * 2 * CAPACITY as u64 * 64 * 4;

    let _alone = alone();
    // Of other sizes than all models above.
    let config = json!({
        "model_type": "llama", "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 512,
        "tie_word_embeddings": true, "max_position_embeddings": CAPACITY, "rms_norm_eps": 1e-5,
    });
    on_both(|device| {
        let kernels = Kernels::of(device);
        let checkpoint = Checkpoint::random(config.clone(), 1, Encoding::F16);
        let model =
            models::load::<Wgpu>(&checkpoint, LoadOptions::default(), device).expect("loads");
        let memory = || {
            steps(&*model, CAPACITY, FEW);
            kernels.sync();
            kernels.memory_bytes().expect("known")
        };
        let first = memory();
        for next in [memory(), memory(), memory()] {
            assert!(next < first + CACHE_BYTES / 2, "{next} bytes, {first} of one cache");
        }
    });
}
