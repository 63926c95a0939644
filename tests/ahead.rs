//! Steps that are listed while the device is busy with the one before give, bit for bit, what steps
//! give that are not; and whatever comes in between, the cache is as if nothing had been listed.

mod support;

use std::sync::Arc;

use burn::tensor::DType;
use metal_candle::{
    adapters::{Adapter, AdapterRegistry, ApplyAdapter, LoraConfig, TargetModules},
    backend::{Backend, Wgpu, wgpu::WgpuDevice},
    formats::Checkpoint,
    models::{self, Cache, CausalLm, LoadOptions, LogitRows, TokenBatch},
    nn::Deltas,
};
use support::{fixture, on_both};

/// Dense in f32 and f16, and packed.
const MODELS: [(&str, DType); 3] = [
    ("models/shakespeare-llama", DType::F32),
    ("reference/gguf/models/llama-f16.gguf", DType::F16),
    ("reference/gguf/models/qwen2-q4_0.gguf", DType::F32),
];

fn load(path: &str, dtype: DType, device: &WgpuDevice) -> Arc<dyn CausalLm<Wgpu>> {
    let checkpoint = Checkpoint::open(&fixture(path)).expect("fixture");
    let options = LoadOptions { dtype, ..LoadOptions::default() };
    models::load::<Wgpu>(&checkpoint, options, device).expect("loads").into()
}

/// Logits of these tokens, one of each sequence (or several of one), and the next step listed meanwhile.
fn step(
    model: &dyn CausalLm<Wgpu>,
    tokens: &[&[u32]],
    cache: &mut Cache<Wgpu>,
    look_ahead: bool,
) -> Vec<f32> {
    let tokens = TokenBatch::new(tokens).expect("tokens");
    let logits = model.forward(&tokens, Some(cache), LogitRows::Last).expect("forward");
    let next = || {
        if look_ahead {
            model.look_ahead(cache, Deltas::NONE);
        }
    };
    Wgpu::read_while(logits, next).expect("read")
}

/// Bit for bit, without printing a vocabulary.
fn assert_same(got: &[Vec<f32>], wanted: &[Vec<f32>], what: &str) {
    let differ: Vec<_> = (0..wanted.len()).filter(|&i| got[i] != wanted[i]).collect();
    assert_eq!(got.len(), wanted.len(), "{what}");
    assert!(differ.is_empty(), "{what}: the results {differ:?} of {} differ", wanted.len());
}

#[test]
fn listed_steps_give_the_same() {
    on_both(|device| {
        for (path, dtype) in MODELS {
            let model = load(path, dtype, device);
            for sequences in [1, 2] {
                let run = |look_ahead| {
                    let mut cache = model.new_cache(&vec![0; sequences], 24);
                    let prompt: &[u32] = &[3, 1, 4, 1, 5];
                    let mut all =
                        vec![step(&*model, &vec![prompt; sequences], &mut cache, look_ahead)];
                    // Until the cache is full.
                    for token in 0..19u32 {
                        let tokens = [[token], [2 * token + 1]];
                        let rows: Vec<&[u32]> =
                            tokens[..sequences].iter().map(AsRef::as_ref).collect();
                        all.push(step(&*model, &rows, &mut cache, look_ahead));
                        assert_eq!(cache.len(), 6 + token as usize);
                    }
                    (all, cache.bytes_written())
                };
                let ((got, written), (wanted, bytes)) = (run(true), run(false));
                assert_same(&got, &wanted, &format!("{path}, {sequences} sequences"));
                assert_eq!(written, bytes);
            }
        }
    });
}

#[test]
fn what_comes_in_between_finds_the_cache_as_it_was() {
    on_both(|device| {
        let model = load("models/shakespeare-llama", DType::F32, device);
        let other = load("reference/gguf/models/qwen2-q4_0.gguf", DType::F32, device);
        let run = |look_ahead| {
            let one = |tokens: &[u32], cache: &mut Cache<Wgpu>| {
                step(&*model, &[tokens], cache, look_ahead)
            };
            let mut seen = Vec::new();
            let mut cache = model.new_cache(&[0], 24);
            one(&[1, 2, 3], &mut cache);
            seen.push(one(&[4], &mut cache));

            // A copy goes another way.
            let mut copy = cache.clone();
            assert_eq!((copy.len(), copy.bytes_written()), (4, cache.bytes_written()));
            seen.push(one(&[9], &mut copy));
            seen.push(one(&[5], &mut cache));
            seen.push(one(&[10], &mut copy));
            seen.push(one(&[6], &mut cache));

            // Another model in between, whose results outlive the next step of this one.
            let mut others = other.new_cache(&[0], 8);
            step(&*other, &[&[1, 2]], &mut others, look_ahead);
            let tokens = TokenBatch::new(&[[7u32]]).expect("tokens");
            let kept = other.forward(&tokens, Some(&mut others), LogitRows::Last).expect("forward");
            seen.push(one(&[7], &mut cache));
            seen.push(Wgpu::read(kept).expect("read"));

            // Back to an earlier position.
            cache.truncate(5);
            assert_eq!(cache.len(), 5);
            seen.push(one(&[8], &mut cache));

            // More than one token.
            seen.push(one(&[9, 10, 11], &mut cache));
            seen.push(one(&[12], &mut cache));

            // A token that there is not.
            let tokens = TokenBatch::new(&[[1 << 20]]).expect("tokens");
            model.forward(&tokens, Some(&mut cache), LogitRows::Last).expect_err("no such token");
            assert_eq!(cache.len(), 10);
            seen.push(one(&[13], &mut cache));

            // Another thread.
            let elsewhere = std::thread::scope(|scope| {
                scope.spawn(|| one(&[14], &mut cache)).join().expect("no panic")
            });
            seen.push(elsewhere);
            seen.push(one(&[15], &mut cache));
            (seen, cache.bytes_written())
        };
        let ((got, written), (wanted, bytes)) = (run(true), run(false));
        assert_same(&got, &wanted, "in between");
        assert_eq!(written, bytes);
    });
}

#[test]
fn adapters_may_change_between_steps() {
    on_both(|device| {
        let model = load("models/shakespeare-llama", DType::F32, device);
        let registry = AdapterRegistry::new(model.slots());
        for (name, seed) in [("a", 1), ("b", 2)] {
            let config = LoraConfig::new(8, 16.0, TargetModules::AllLinear);
            let adapter = Adapter::random(config, model.slots().table(), 1e-1, seed);
            registry.add_adapter(name, adapter.expect("adapter")).expect("registered");
        }
        let adapted = |name| {
            registry.apply_adapter(name).expect("applied");
            registry.adapt(&model).expect("this model")
        };
        let (a, b) = (adapted("a"), adapted("b"));
        let run = |look_ahead| {
            let mut cache = model.new_cache(&[0], 32);
            step(&a, &[&[1, 2, 3]], &mut cache, look_ahead);
            let mut seen = Vec::new();
            for token in 4..11 {
                // The one that the step was listed for, then another one, then the base.
                for model in [&a as &dyn CausalLm<Wgpu>, &a, &b, &*model] {
                    seen.push(step(model, &[&[token]], &mut cache, look_ahead));
                }
            }
            seen
        };
        let seen = run(true);
        assert!(seen[1] != seen[2], "the adapters change nothing");
        assert_same(&seen, &run(false), "adapters");
    });
}
