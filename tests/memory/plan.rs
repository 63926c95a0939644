//! Predictions against what was counted.

use metal_candle::{
    backend::Cpu,
    formats::Checkpoint,
    generation,
    models::{self, Cache, LoadOptions, LogitRows, MemoryPlan, TokenBatch},
};

use burn::tensor::DType;

use super::{counter::Counter, support};

/// A share of the whole.
const WITHIN: f64 = 0.05;
/// What does not grow with a model: tables of positions, the configuration, tasks of threads.
const ANYWAY: usize = 64 << 10;

/// [`check_here`] on a thread of its own: it keeps scratch memory for its next product, which must
/// count each time.
fn check(counter: &Counter, checkpoint: &Checkpoint, options: LoadOptions<'_>, context: usize) {
    let (dtype, dequantize) = (options.dtype, options.dequantize);
    std::thread::scope(|scope| {
        let measured = scope.spawn(|| {
            let options = LoadOptions { dtype, dequantize, ..LoadOptions::default() };
            check_here(counter, checkpoint, options, context);
        });
        if let Err(failure) = measured.join() {
            std::panic::resume_unwind(failure);
        }
    });
}

/// Loads a model on the CPU, fills its cache of `context` positions, and holds the prediction
/// against it.
fn check_here(
    counter: &Counter,
    checkpoint: &Checkpoint,
    options: LoadOptions<'_>,
    context: usize,
) {
    let device = Default::default();
    let workload = generation::workload(context);
    let plan = MemoryPlan::new::<Cpu>(checkpoint, &options, workload, &device).expect("a plan");

    counter.reset();
    let model = models::load::<Cpu>(checkpoint, options, &device).expect("loads");
    let weights = counter.live();
    let mut cache: Cache<Cpu> = model.new_cache(&[0], context);
    let with_cache = counter.live();
    let ids: Vec<u32> = (0..context as u32).map(|i| 1 + i % 200).collect();
    for part in ids.chunks(workload.rows) {
        let tokens = TokenBatch::new(&[part]).expect("tokens");
        let logits = model.forward(&tokens, Some(&mut cache), LogitRows::Last).expect("forward");
        logits.into_data();
    }
    let peak = counter.peak();
    let measured = [weights, with_cache - weights, peak - with_cache];
    let predicted =
        [plan.weights, plan.cache, plan.scratch].map(|n| usize::try_from(n).expect("fits"));
    let name = checkpoint.path().display();
    eprintln!(
        "{name}, {options:?}: weights, cache, scratch: {measured:?}, predicted {predicted:?}",
        options = options.dtype
    );
    let near = |found: usize, want: usize| {
        found.abs_diff(want) as f64 <= WITHIN * found as f64 + ANYWAY as f64
    };
    for (found, want) in measured.into_iter().zip(predicted).take(2) {
        assert!(near(found, want), "{name}: {measured:?}, predicted {predicted:?}");
    }
    assert!(near(peak, predicted.iter().sum()), "{name}: {measured:?}, predicted {predicted:?}");
}

#[test]
fn the_fixtures_take_what_was_predicted() {
    let counter = Counter::alone();
    let folder = Checkpoint::open(&support::fixture("models/shakespeare-llama")).expect("fixture");
    for dtype in [DType::F32, DType::F16] {
        for context in [16, 700, 2048] {
            check(&counter, &folder, LoadOptions { dtype, ..LoadOptions::default() }, context);
        }
    }
    for file in ["llama-q4_0.gguf", "llama-q8_0.gguf"] {
        let path = support::fixture("reference/gguf/models").join(file);
        let checkpoint = Checkpoint::open(&path).expect("fixture");
        check(&counter, &checkpoint, LoadOptions::default(), 64);
        check(
            &counter,
            &checkpoint,
            LoadOptions { dequantize: true, ..LoadOptions::default() },
            64,
        );
    }
}

#[test]
fn smollm2_takes_what_was_predicted() {
    let counter = Counter::alone();
    let checkpoint = Checkpoint::open(&support::smollm2()).expect("checkpoint");
    for context in [64, 1024] {
        check(&counter, &checkpoint, LoadOptions::default(), context);
    }
    let dequantize = true;
    check(&counter, &checkpoint, LoadOptions { dequantize, ..LoadOptions::default() }, 1024);
    let dtype = DType::F16;
    check(&counter, &checkpoint, LoadOptions { dequantize, dtype, ..LoadOptions::default() }, 64);
}

/// The peak of a process: the whole of it, with the program, its threads and the file's pages that
/// were read once.
#[test]
#[cfg(target_os = "linux")]
fn smollm2_in_a_process_takes_what_was_predicted() {
    // The program's own pages, threads and tables, and what its allocators keep.
    const PROCESS: u64 = 60_000_000;
    let _counter = Counter::alone();
    let path = support::smollm2();
    let checkpoint = Checkpoint::open(&path).expect("checkpoint");
    let (prompt, more) = (512, 4);
    let plan = MemoryPlan::new::<Cpu>(
        &checkpoint,
        &LoadOptions::default(),
        metal_candle::models::Workload { rows: prompt, ..generation::workload(prompt + more) },
        &Default::default(),
    )
    .expect("a plan");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_metal-candle"))
        .args(["bench", "--device", "cpu", "--format", "json", "--repeats", "1", "--model"])
        .arg(&path)
        .args(["--prompt", &prompt.to_string(), "--generate", "0"])
        .output()
        .expect("run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let peak = report["peak_host_bytes"].as_u64().expect("a number");
    eprintln!("peak {peak}, plan {plan}");
    assert!(peak as f64 >= plan.total() as f64 * (1.0 - WITHIN), "{peak}, planned {plan}");
    assert!(
        peak as f64 <= plan.total() as f64 * (1.0 + WITHIN) + PROCESS as f64,
        "{peak}, planned {plan}"
    );
}

#[test]
fn advice_is_what_fits() {
    let _counter = Counter::alone();
    let checkpoint =
        Checkpoint::open(&support::fixture("models/shakespeare-llama")).expect("fixture");
    let options = LoadOptions::default();
    let (device, workload) = (Default::default(), generation::workload(2048));
    let plan = MemoryPlan::new::<Cpu>(&checkpoint, &options, workload, &device).expect("a plan");
    let check = |available| {
        models::check_memory::<Cpu>(&checkpoint, &options, workload, &device, available)
    };
    assert_eq!(check(plan.total()).expect("it fits"), plan);
    let error = check(plan.total() - 1).expect_err("a byte too few").to_string();
    assert!(error.contains("a context of 2047 instead of 2048; matrices in f16 ("), "{error}");
    let error = check(plan.weights + plan.weights / 4).expect_err("too few").to_string();
    assert!(error.contains("what fits: a context of "), "{error}");
    let error = check(plan.weights / 3).expect_err("far too few").to_string();
    assert!(error.contains("no smaller form of it fits"), "{error}");
    // What is advised does fit.
    let context = 300;
    let shorter = generation::workload(context);
    let plan = MemoryPlan::new::<Cpu>(&checkpoint, &options, shorter, &device).expect("a plan");
    let error = check(plan.total()).expect_err("too long").to_string();
    assert!(error.contains(&format!("a context of {context} instead of 2048")), "{error}");
}
