//! Tokens that the device chooses itself, and the steps that it goes on with before the host has seen
//! them: the same tokens, and the same cache, as when the host chooses.

mod support;

use std::{
    sync::{Arc, Barrier},
    thread,
};

use burn::tensor::{DType, Tensor, TensorData};
use metal_candle::{
    adapters::{Adapter, AdapterRegistry, ApplyAdapter, LoraConfig, TargetModules},
    backend::{Backend, Chosen, Cpu, Wgpu},
    formats::Checkpoint,
    generation::{GenerateError, GenerateOptions, Generation, SamplingOptions, generate},
    models::{self, Cache, CausalLm, LoadOptions, LogitRows, TokenBatch},
    nn::Deltas,
};
use support::{fixture, on_both};

fn load<B: Backend>(dtype: DType, device: &B::Device) -> Arc<dyn CausalLm<B>> {
    load_from("models/shakespeare-llama", dtype, device)
}

fn load_from<B: Backend>(path: &str, dtype: DType, device: &B::Device) -> Arc<dyn CausalLm<B>> {
    let checkpoint = Checkpoint::open(&fixture(path)).expect("fixture");
    let options = LoadOptions { dtype, ..LoadOptions::default() };
    models::load::<B>(&checkpoint, options, device).expect("loads").into()
}

/// The place of the largest, the first of equal ones.
fn largest(logits: &[f32]) -> u32 {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|logit| *logit >= best).expect("a number") as u32
}

/// Logits of a token for each sequence (or a prompt for each), chosen from by the host.
fn by_host(
    model: &dyn CausalLm<Wgpu>,
    tokens: &[Vec<u32>],
    cache: &mut Cache<Wgpu>,
) -> Vec<Vec<u32>> {
    let batch = TokenBatch::new(tokens).expect("tokens");
    let logits = model.forward(&batch, Some(cache), LogitRows::Last).expect("forward");
    let vocabulary = model.config().vocabulary;
    let logits = Wgpu::read(logits).expect("read");
    logits.chunks(vocabulary).map(|row| vec![largest(row)]).collect()
}

/// A model that has seen prompts, and what the device chooses behind them.
fn prompted(
    model: &dyn CausalLm<Wgpu>,
    prompts: &[Vec<u32>],
    capacity: usize,
) -> (Cache<Wgpu>, Chosen<Wgpu>) {
    let mut cache = model.new_cache(&vec![0; prompts.len()], capacity);
    let batch = TokenBatch::new(prompts).expect("tokens");
    let logits = model.forward(&batch, Some(&mut cache), LogitRows::Last).expect("forward");
    let logits = logits.reshape([prompts.len(), model.config().vocabulary]);
    (cache, Wgpu::likeliest(&logits).expect("a kernel"))
}

/// That the device chooses what the host would, until the cache is full.
fn goes_on(model: &dyn CausalLm<Wgpu>, what: &str) -> Vec<Vec<Vec<u32>>> {
    let one = goes_on_by(model, 1, what);
    for steps in [2, 5] {
        assert_eq!(goes_on_by(model, steps, what), one, "{what}, {steps} steps at once");
    }
    one
}

/// The same with so many steps in a list.
fn goes_on_by(model: &dyn CausalLm<Wgpu>, steps: usize, what: &str) -> Vec<Vec<Vec<u32>>> {
    let prompt = [vec![3, 1, 4]];
    let mut cache = model.new_cache(&[0], 20);
    let mut wanted = vec![by_host(model, &prompt, &mut cache)];
    for i in 0..17 {
        let next = by_host(model, &wanted[i], &mut cache);
        wanted.push(next);
    }
    let bytes = cache.bytes_written();

    let (mut cache, chosen) = prompted(model, &prompt, 20);
    let mut got: Vec<Vec<Vec<u32>>> = Vec::new();
    let mut list = vec![chosen];
    let (mut lists, mut listed) = (0, 1);
    while let Some(last) = list.last() {
        let mut next = Vec::new();
        let read = Wgpu::read_chosen(&list[0], || {
            next = model.choose_next(last, steps, &mut cache, Deltas::NONE);
        });
        listed += next.len();
        assert_eq!(cache.len(), 2 + listed);
        let rest = list[1..].iter().map(|chosen| Wgpu::read_chosen(chosen, || ()));
        for read in std::iter::once(read).chain(rest) {
            got.push(read.expect("read").iter().map(|(id, _)| vec![*id]).collect());
        }
        lists += 1;
        list = next;
    }
    assert_eq!(lists, 1 + 17usize.div_ceil(steps), "{what}");
    assert_eq!(got, wanted, "{what}");
    assert_eq!((cache.len(), cache.bytes_written()), (20, bytes));
    got
}

#[test]
fn the_device_goes_on_as_the_host_would() {
    on_both(|device| {
        for dtype in [DType::F32, DType::F16] {
            let model = load(dtype, device);
            let base = goes_on(&*model, &format!("{dtype:?}"));

            let registry = AdapterRegistry::new(model.slots());
            let config = LoraConfig::new(8, 16.0, TargetModules::AllLinear);
            let adapter = Adapter::random(config, model.slots().table(), 1e-1, 1);
            registry.add_adapter("a", adapter.expect("adapter")).expect("registered");
            registry.apply_adapter("a").expect("applied");
            let adapted = registry.adapt(&model).expect("this model");
            let adapted = goes_on(&adapted, &format!("{dtype:?} with an adapter"));
            assert!(adapted != base, "the adapter changes nothing");
        }
    });
}

/// The step of several sequences has operations of burn's between its launches.
#[test]
fn where_it_cannot_go_on_the_cache_is_as_it_was() {
    on_both(|device| {
        let model = load::<Wgpu>(DType::F32, device);
        let prompts = [vec![3, 1, 4], vec![1, 5, 9]];
        let (mut cache, chosen) = prompted(&*model, &prompts, 8);
        let bytes = cache.bytes_written();
        assert!(model.choose_next(&chosen, 2, &mut cache, Deltas::NONE).is_empty());
        assert_eq!((cache.len(), cache.bytes_written()), (3, bytes));
        let pairs = Wgpu::read_chosen(&chosen, || ()).expect("read");
        let mut tokens: Vec<Vec<u32>> = pairs.iter().map(|(id, _)| vec![*id]).collect();
        let mut fresh = model.new_cache(&[0, 0], 8);
        let mut wanted = by_host(&*model, &prompts, &mut fresh);
        for _ in 0..5 {
            assert_eq!(tokens, wanted);
            tokens = by_host(&*model, &tokens, &mut cache);
            wanted = by_host(&*model, &wanted, &mut fresh);
        }
    });
}

#[test]
fn a_step_too_many_is_taken_back() {
    on_both(|device| {
        let model = load::<Wgpu>(DType::F32, device);
        let prompt = [vec![1, 2, 3]];
        let mut copy = model.new_cache(&[0], 12);
        let (mut cache, chosen) = prompted(&*model, &prompt, 12);
        let next = model.choose_next(&chosen, 3, &mut cache, Deltas::NONE);
        assert_eq!((next.len(), cache.len()), (3, 6));
        drop(next);
        // Neither that token nor the next ones are wanted.
        cache.truncate(3);
        by_host(&*model, &prompt, &mut copy);
        for tokens in [[vec![7]], [vec![8]]] {
            let (got, wanted) =
                (by_host(&*model, &tokens, &mut cache), by_host(&*model, &tokens, &mut copy));
            assert_eq!(got, wanted);
        }
        // Of as many sequences as the cache has.
        let two = Tensor::from_data(TensorData::new(vec![1.0f32; 8], [2, 4]), device);
        let two = Wgpu::likeliest(&two).expect("a kernel");
        assert!(model.choose_next(&two, 1, &mut cache, Deltas::NONE).is_empty());
        assert_eq!(cache.len(), 5);
    });
}

#[test]
fn what_is_largest() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    on_both(|device| {
        let choose = |rows: &[&[f32]]| {
            let data = TensorData::new(rows.concat(), [rows.len(), rows[0].len()]);
            let chosen = Wgpu::likeliest(&Tensor::from_data(data, device)).expect("a kernel");
            assert_eq!(chosen.rows(), rows.len());
            Wgpu::read_chosen(&chosen, || ()).expect("read")
        };
        assert_eq!(choose(&[&[0.5, 2.0, 2.0], &[-3.0, -1.0, -2.0]]), [(1, 2.0), (1, -1.0)]);
        assert_eq!(choose(&[&[-inf, -1e38, -inf]]), [(1, -1e38)]);
        assert_eq!(choose(&[&[-inf, -inf]]), [(0, -inf)]);
        assert_eq!(choose(&[&[1.0, inf, 2.0]]), [(1, inf)]);
        for row in [[1.0, nan, inf], [-nan, 1.0, 2.0]] {
            assert!(choose(&[&row])[0].1.is_nan());
        }
    });
}

fn greedy<B: Backend>(
    model: &dyn CausalLm<B>,
    stop_tokens: Vec<u32>,
) -> Result<Generation, GenerateError> {
    let sampling = SamplingOptions::default();
    let options = GenerateOptions { max_tokens: 24, sampling, stop: Vec::new(), stop_tokens };
    generate(model, None, &[10, 20, 30], &options, |_| ())
}

#[test]
fn generation_ends_where_it_should() {
    let on_cpu = load::<Cpu>(DType::F32, &Default::default());
    let wanted = greedy(&*on_cpu, Vec::new()).expect("generates");
    on_both(|device| {
        let model = load::<Wgpu>(DType::F32, device);
        let all = greedy(&*model, Vec::new()).expect("generates");
        assert_eq!((&all.tokens, all.stop), (&wanted.tokens, wanted.stop));
        // The next step was on its way already.
        let stop = wanted.tokens[9];
        let at = wanted.tokens.iter().position(|token| *token == stop).expect("it is there");
        let some = greedy(&*model, vec![stop]).expect("generates");
        assert_eq!(some.tokens, wanted.tokens[..=at]);
    });
}

/// Each of them is the first to launch a kernel, as far as it knows. (No other test here has kernels for this
/// format.)
#[test]
fn threads_that_begin_together_share_kernels() {
    const THREADS: usize = 4;
    on_both(|device| {
        let model = load_from::<Wgpu>("reference/gguf/models/qwen2-q4_0.gguf", DType::F32, device);
        let begin = Barrier::new(THREADS);
        let generated = || {
            begin.wait();
            greedy(&*model, Vec::new()).expect("generates").tokens
        };
        let all: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(generated)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        let alone = greedy(&*model, Vec::new()).expect("generates").tokens;
        assert_eq!(all, vec![alone; THREADS]);
    });
}
