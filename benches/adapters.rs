//! What LoRA adapters cost: swapping them, running with them, and running several in one batch.
//!
//! ```text
//! cargo bench --bench adapters                                    # the 1B shape on the CPU
//! METAL_CANDLE_BENCH_DEVICE=vulkan METAL_CANDLE_BENCH_TOKENS=128 cargo bench --bench adapters
//! METAL_CANDLE_BENCH_SHAPE=smollm2-135m METAL_CANDLE_BENCH_RANK=8 cargo bench --bench adapters
//! ```
//!
//! The base and the adapters are random; the adapters are of rank 16 on all linear layers. Speeds
//! that are compared are measured in turns, so that a machine that slows down slows both.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use burn::tensor::DType;
use metal_candle::{
    Backend, Device,
    adapters::{
        Adapted, Adapter, AdapterRegistry, ApplyAdapter, LoraConfig, TargetModules,
        merge::MergeOptions,
    },
    device::DeviceJob,
    formats::Checkpoint,
    generation::bench::{self, Speed, Task},
    models::{self, CausalLm, LoadOptions, LogitRows, TokenBatch},
    quant::Encoding,
};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const REPEATS: usize = 5;

/// Tokens of a decode measurement. A GPU makes hundreds in a second: with few of them a run is over
/// before its clocks have risen.
fn tokens() -> usize {
    setting("TOKENS", "16").parse().expect("METAL_CANDLE_BENCH_TOKENS is a number")
}

fn setting(name: &str, default: &str) -> String {
    std::env::var(format!("METAL_CANDLE_BENCH_{name}")).unwrap_or_else(|_| default.into())
}

struct Job {
    dtype: DType,
}

type Model<B> = Arc<dyn CausalLm<B>>;

fn add<B: Backend>(registry: &AdapterRegistry<B>, model: &Model<B>) {
    let rank = setting("RANK", "16").parse().expect("METAL_CANDLE_BENCH_RANK is a number");
    for (seed, name) in NAMES.into_iter().enumerate() {
        let config = LoraConfig::new(rank, 2.0 * rank as f64, TargetModules::AllLinear);
        let adapter = Adapter::random(config, model.slots().table(), 1e-3, seed as u64);
        registry.add_adapter(name, adapter.expect("adapter")).expect("registered");
    }
}

fn times(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| times[(share * (times.len() - 1) as f64) as usize];
    let (median, p99, most) = (at(0.5), at(0.99), at(1.0));
    println!("{what:<44} median {median:>10.2?}   99 % {p99:>10.2?}   max {most:>10.2?}");
}

/// Until the work that was queued before is done.
fn wait<B: Backend>(device: &B::Device) {
    B::sync(device).expect("the device works");
}

fn swaps<B: Backend>(model: &Model<B>, registry: &AdapterRegistry<B>) {
    let device = model.device();
    let mut resident = Vec::new();
    for i in 0..10_000 {
        let start = Instant::now();
        registry.apply_adapter(NAMES[i % 4]).expect("applied");
        resident.push(start.elapsed());
    }
    times("swap of resident adapters", resident);
    let bytes = registry.list_adapters()[0].bytes;
    println!("an adapter takes {bytes} bytes on the device");
    let tight = AdapterRegistry::new(model.slots()).with_budget(bytes);
    add(&tight, model);
    let mut from_host = Vec::new();
    for i in 0..200 {
        // What is applied is in use, and the budget holds one.
        tight.remove_adapter();
        wait::<B>(device);
        let start = Instant::now();
        tight.apply_adapter(NAMES[i % 4]).expect("applied");
        wait::<B>(device);
        from_host.push(start.elapsed());
    }
    times("swap from host memory (until it is there)", from_host);
}

/// Tokens per second of batches of 8 sequences, one token each at a time.
fn batch<B: Backend>(model: &dyn CausalLm<B>) -> f64 {
    let tokens = tokens();
    let mut cache = model.new_cache(&[0; 8], tokens + 1);
    let mut step = |token: u32| {
        let rows: Vec<Vec<u32>> = (0..8).map(|row| vec![token + row]).collect();
        let tokens = TokenBatch::new(&rows).expect("tokens");
        model.forward(&tokens, Some(&mut cache), LogitRows::Last).expect("runs").into_data();
    };
    step(7);
    let start = Instant::now();
    (0..tokens as u32).for_each(|token| step(100 + token));
    8.0 * tokens as f64 / start.elapsed().as_secs_f64()
}

/// Measures each in turns, after once without counting.
fn compared(entries: &mut [(&str, &mut dyn FnMut() -> f64)]) -> Vec<f64> {
    let mut speeds = vec![Speed { samples: Vec::new() }; entries.len()];
    for repeat in 0..=REPEATS {
        for ((_, run), speed) in entries.iter_mut().zip(&mut speeds) {
            let rate = run();
            if repeat > 0 {
                speed.samples.push(rate);
            }
        }
    }
    let first = speeds[0].mean();
    for ((what, _), speed) in entries.iter().zip(&speeds) {
        let (mean, deviation) = (speed.mean(), speed.deviation());
        println!(
            "{what:<44} {mean:>9.2} ± {deviation:.2} tokens/s, {:.3} of the first",
            mean / first
        );
    }
    speeds.iter().map(Speed::mean).collect()
}

impl DeviceJob for Job {
    type Output = ();

    fn run<B: Backend>(self, device: &B::Device) {
        let shape = setting("SHAPE", "llama-3.2-1b");
        let config = models::shape(&shape).expect("METAL_CANDLE_BENCH_SHAPE is a known shape");
        let encoding = setting("ENCODING", "f16");
        let encoding = Encoding::ALL.into_iter().find(|e| e.name().eq_ignore_ascii_case(&encoding));
        let checkpoint = Checkpoint::random(config, 0, encoding.expect("a known encoding"));
        let options = LoadOptions { dtype: self.dtype, ..LoadOptions::default() };
        let model: Model<B> =
            models::load::<B>(&checkpoint, options, device).expect("model").into();
        let registry = AdapterRegistry::new(model.slots());
        add(&registry, &model);

        let adapted = |adapters: &[(&str, f64)]| {
            registry.apply_adapters(adapters).expect("applied");
            registry.adapt(&model).expect("this model")
        };
        let one = adapted(&[("a", 1.0)]);
        let decode = |model: &dyn CausalLm<B>| {
            bench::time(model, Task::Generate(tokens()), 0).expect("runs")
        };
        compared(&mut [
            ("decode, base", &mut || decode(&*model)),
            ("decode, one adapter", &mut || decode(&one)),
        ]);

        let set = registry.set(&NAMES.map(|name| (name, 1.0))).expect("a set");
        let rows: Vec<[&str; 1]> = (0..8).map(|row| [NAMES[row % 4]]).collect();
        let choice = set.choose(&rows).expect("known names");
        let four = Adapted::by_sequence(model.clone(), set, choice).expect("this model");
        compared(&mut [
            ("8 sequences, one adapter", &mut || batch(&one)),
            ("8 sequences, four adapters", &mut || batch(&four)),
            ("8 sequences, base", &mut || batch(&*model)),
        ]);

        if encoding == Some(Encoding::F16) {
            let (set, report) =
                registry.merge(&model, &[("a", 1.0)], MergeOptions::default()).expect("merged");
            println!("merged: {} bytes beside the base's", report.merged_bytes);
            let merged = Adapted::new(model.clone(), set).expect("this model");
            compared(&mut [
                ("decode, base", &mut || decode(&*model)),
                ("decode, merged", &mut || decode(&merged)),
            ]);
        }

        // Last, for a process that has swapped much runs slower for it (ROADMAP).
        swaps(&model, &registry);
    }
}

fn main() {
    let (device, why) =
        Device::open(setting("DEVICE", "cpu").parse().expect("a device")).expect("a device");
    let dtype = match setting("DTYPE", "auto").as_str() {
        "f16" => DType::F16,
        "f32" => DType::F32,
        _ => device.default_dtype(),
    };
    println!("{} ({why}), {}", device.describe(), dtype.name());
    device.dispatch(Job { dtype });
}
