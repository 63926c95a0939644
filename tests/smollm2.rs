//! `SmolLM2-135M-Instruct` (GGUF, Q4_1) against transformers on the dequantised weights, on every
//! backend. `scripts/fetch-models` puts the file where this looks for it, and checks its hash.

mod support;

use burn::tensor::DType;
use metal_candle::{
    Backend,
    backend::Cpu,
    evaluation::{Windows, evaluate},
    formats::Checkpoint,
    generation::{GenerateOptions, SamplingOptions, generate},
    models::{self, CausalLm, LoadOptions, LogitRows, TokenBatch},
    tokenizer::Tokenizer,
};
use serde_json::Value;
use support::{EveryBackend, Golden, fixture, max_abs_diff, on, smollm2};

/// Logits in f32 on dequantised weights.
const LOGITS: f32 = 1e-3;
/// Mean negative log-likelihood of a prompt's tokens.
const NLL: f64 = 1e-4;
/// Perplexity, relative.
const PERPLEXITY: f64 = 1e-3;
/// From the first greedy step with a smaller margin on, another choice is no mistake.
const MARGIN: f64 = 0.02;

fn reference() -> Value {
    let bytes = std::fs::read(fixture("reference/smollm2.json")).expect("reference");
    serde_json::from_slice(&bytes).expect("JSON")
}

fn list<T: serde::de::DeserializeOwned>(value: &Value) -> Vec<T> {
    serde_json::from_value(value.clone()).expect("a list")
}

struct SmolLm2 {
    /// Greedy tokens per prompt; the software driver makes one and a half a second.
    greedy: usize,
}

/// `-ln p(next token)` of each position but the last.
fn nll<B: Backend>(model: &dyn CausalLm<B>, ids: &[u32]) -> (Vec<f64>, Vec<f32>) {
    let tokens = TokenBatch::new(&[ids]).expect("tokens");
    let logits = model.forward(&tokens, None, LogitRows::All).expect("forward");
    let logits: Vec<f32> = logits.into_data().into_vec().expect("f32");
    let rows: Vec<&[f32]> = logits.chunks(model.config().vocabulary).collect();
    let nll = rows
        .iter()
        .zip(&ids[1..])
        .map(|(row, &next)| {
            let max = row.iter().copied().fold(f32::MIN, f32::max);
            let sum: f64 = row.iter().map(|v| f64::from(v - max).exp()).sum();
            sum.ln() - f64::from(row[next as usize] - max)
        })
        .collect();
    (nll, rows[ids.len() - 1].to_vec())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

impl EveryBackend for SmolLm2 {
    fn run<B: Backend>(&mut self, label: &str, device: &B::Device) {
        let checkpoint = Checkpoint::open(&smollm2()).expect("checkpoint");
        let tokenizer = Tokenizer::from_checkpoint(&checkpoint).expect("tokenizer");
        let (dtype, dequantize) = (DType::F32, true);
        let options = LoadOptions { dtype, dequantize, ..LoadOptions::default() };
        let model = models::load::<B>(&checkpoint, options, device).expect("model");
        let (reference, golden) = (reference(), Golden::open("reference/smollm2.safetensors"));

        for (i, prompt) in reference["prompts"].as_array().expect("prompts").iter().enumerate() {
            let text = prompt["prompt"].as_str().expect("text");
            let ids: Vec<u32> = list(&prompt["input_ids"]);
            assert_eq!(tokenizer.encode(text, true).expect("encode"), ids, "{text}");

            let (token_nll, last) = nll(&*model, &ids);
            let diff = max_abs_diff(&last, &golden.f32(&format!("prompt{i}.last_logits")));
            assert!(diff <= LOGITS, "{label} prompt {i}: logits differ by {diff}");
            let diff = (mean(&token_nll) - prompt["nll_mean"].as_f64().expect("nll")).abs();
            assert!(diff <= NLL, "{label} prompt {i}: NLL differs by {diff}");

            let want: Vec<u32> = list(&prompt["greedy32_ids"]);
            let margins: Vec<f64> = list(&prompt["greedy_margins"]);
            let certain = margins.iter().position(|&m| m < MARGIN).unwrap_or(want.len());
            let options = GenerateOptions {
                max_tokens: self.greedy.min(certain),
                sampling: SamplingOptions::default(),
                stop: vec![],
                stop_tokens: vec![],
            };
            let out =
                generate(&*model, Some(&tokenizer), &ids, &options, |_| ()).expect("generate");
            assert_eq!(out.tokens, want[..options.max_tokens], "{label} prompt {i}");
            if options.max_tokens == want.len() {
                let text = tokenizer.decode(&want, true).expect("decode");
                assert_eq!(out.text, text, "{label} prompt {i}");
            }
        }

        let text = reference["perplexity"]["text"].as_str().expect("text");
        let ids = tokenizer.encode(text, true).expect("encode");
        let (token_nll, _) = nll(&*model, &ids);
        let want: Vec<f64> =
            golden.f32("perplexity.token_nll").into_iter().map(f64::from).collect();
        assert_eq!(token_nll.len(), want.len());
        let (got, want) = (mean(&token_nll).exp(), mean(&want).exp());
        assert!((got / want - 1.0).abs() <= PERPLEXITY, "{label}: perplexity {got}, {want}");
    }
}

#[test]
fn smollm2_cpu() {
    on("cpu", &mut SmolLm2 { greedy: 32 });
}

#[test]
fn smollm2_candle() {
    on("candle", &mut SmolLm2 { greedy: 32 });
}

#[test]
fn smollm2_wgpu_spirv() {
    on("wgpu-spirv", &mut SmolLm2 { greedy: 8 });
}

#[test]
fn smollm2_wgpu_wgsl() {
    on("wgpu-wgsl", &mut SmolLm2 { greedy: 8 });
}

/// As the file stores them, with activations in 8 bits. llama.cpp's logits differ from the reference
/// by up to about 0.9, ours by up to 0.92: the order of additions, which differs between instruction
/// sets, decides which way some activations round. llama.cpp's perplexity is 16.73 where the
/// reference's is 16.70 (`fixtures/README.md`).
#[test]
fn smollm2_packed_cpu() {
    let checkpoint = Checkpoint::open(&smollm2()).expect("checkpoint");
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint).expect("tokenizer");
    let model = models::load::<Cpu>(&checkpoint, LoadOptions::default(), &Default::default());
    let model = model.expect("model");
    let (reference, golden) = (reference(), Golden::open("reference/smollm2.safetensors"));
    for (i, prompt) in reference["prompts"].as_array().expect("prompts").iter().enumerate() {
        let (_, last) = nll(&*model, &list::<u32>(&prompt["input_ids"]));
        let diff = max_abs_diff(&last, &golden.f32(&format!("prompt{i}.last_logits")));
        println!("prompt {i}: logits differ by {diff}");
        assert!(diff > LOGITS, "the weights were not packed");
        assert!(diff <= 1.0, "prompt {i}: logits differ by {diff}");
    }
    let text = reference["perplexity"]["text"].as_str().expect("text");
    let (token_nll, _) = nll(&*model, &tokenizer.encode(text, true).expect("encode"));
    let want: Vec<f64> = golden.f32("perplexity.token_nll").into_iter().map(f64::from).collect();
    let (got, want) = (mean(&token_nll).exp(), mean(&want).exp());
    println!("perplexity {got}, {want} on dequantised weights");
    assert!((got / want - 1.0).abs() <= 0.005, "perplexity {got}, {want}");
}

/// What `perplexity` computes, for one window: the second half of it counts.
#[test]
fn smollm2_evaluation() {
    let checkpoint = Checkpoint::open(&smollm2()).expect("checkpoint");
    let options = LoadOptions { dequantize: true, ..LoadOptions::default() };
    let model = models::load::<Cpu>(&checkpoint, options, &Default::default()).expect("model");
    let (reference, golden) = (reference(), Golden::open("reference/smollm2.safetensors"));
    let ids: Vec<u32> = list(&reference["perplexity"]["input_ids"]);
    let windows = Windows::new(ids.clone(), ids.len(), None).expect("one window");
    let found = evaluate(&*model, &windows, None, None, |_| ()).expect("evaluation");
    let want: Vec<f64> = golden.f32("perplexity.token_nll").into_iter().map(f64::from).collect();
    let want = &want[windows.first_counted()..];
    assert_eq!(found.nll.count() as usize, want.len());
    let want = mean(want).exp();
    let got = found.perplexity();
    assert!((got / want - 1.0).abs() <= PERPLEXITY, "perplexity {got}, {want}");
}

/// Peak memory of a process that loads the model as dense weights stays within 1.15 × these +
/// 150 MB.
#[test]
#[cfg(target_os = "linux")]
fn smollm2_loads_in_bounded_memory() {
    const DENSE: u64 = 134_515_008 * 4;
    let peak = peak_of_logits(&["--dequantize"]);
    assert!(peak > DENSE, "the model was not loaded: peak {peak}");
    let limit = DENSE * 115 / 100 + 150_000_000;
    eprintln!("peak {} MB, limit {} MB", peak / 1_000_000, limit / 1_000_000);
    assert!(peak <= limit, "peak {peak} bytes, limit {limit}");
}

/// Packed, it stays within 1.15 × the file + 60 MB (the cache of three tokens is nothing).
#[test]
#[cfg(target_os = "linux")]
fn smollm2_stays_packed_in_memory() {
    let size = std::fs::metadata(smollm2()).expect("file").len();
    let peak = peak_of_logits(&[]);
    let limit = size * 115 / 100 + 60_000_000;
    eprintln!("peak {} MB, limit {} MB", peak / 1_000_000, limit / 1_000_000);
    assert!(peak <= limit, "peak {peak} bytes, limit {limit}");
}

/// The peak memory of a process that runs three tokens on the CPU.
#[cfg(target_os = "linux")]
fn peak_of_logits(more: &[&str]) -> u64 {
    let output = tempfile::NamedTempFile::new().expect("file");
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_metal-candle"))
        .args(["logits", "--device", "cpu", "--tokens", "1,2,3", "--model"])
        .arg(smollm2())
        .arg("--output")
        .arg(output.path())
        .args(more)
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("spawn");
    let mut peak = 0;
    let status = loop {
        // The kernel keeps the peak itself; it can be read as long as the process has memory.
        let text = std::fs::read_to_string(format!("/proc/{}/status", child.id()));
        let high = text.ok().and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("VmHWM:"))?.to_string();
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        });
        peak = peak.max(high.unwrap_or(0) * 1024);
        if let Some(status) = child.try_wait().expect("wait") {
            break status;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    };
    assert!(status.success());
    peak
}
