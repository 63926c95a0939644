//! Every architecture against transformers' numbers, on every backend: logits, cache, batches, greedy tokens.
//!
//! Tolerances are those of `fixtures/README.md` unless a constant here says why not.

mod support;

use burn::tensor::DType;
use metal_candle::{
    Backend,
    backend::{Cpu, KvCache, KvCacheShape},
    formats::Checkpoint,
    generation::{GenerateOptions, SamplingOptions, StopReason, generate},
    models::{self, CausalLm, LoadOptions, LogitRows, ModelError, TokenBatch},
    quant::Encoding,
};
use support::{EveryBackend, Golden, argmax, fixture, max_abs_diff, on};

/// Logits in f32 against transformers' f32.
const LOGITS: f32 = 1e-4;
/// Logits (which reach 13) of f32 matrices that were rounded to f16. On wgpu devices the inputs and
/// results of products with more than 64 rows are rounded too, and cached keys and values. Some
/// twenty such roundings to 11 bits lie on the way, each worth up to 13 · 2⁻¹² ≈ 3e-3, and they add
/// up like a random walk: 20^½ · 3e-3 ≈ 1.4e-2, with a factor of 4 to spare.
const LOGITS_F16: f32 = 6e-2;

/// The folders of `fixtures/reference/models`.
const MODELS: [&str; 4] = ["llama", "llama3", "qwen2", "mistral"];
/// The files of `fixtures/reference/gguf/models`: the model, and the type of its matrices.
const GGUF: [(&str, &str); 8] = [
    ("llama", "F16"),
    ("llama", "Q8_0"),
    ("llama", "Q4_0"),
    ("llama3", "F16"),
    ("qwen2", "F16"),
    ("qwen2", "Q8_0"),
    ("qwen2", "Q4_0"),
    ("mistral", "F16"),
];

/// Those whose matrices are packed.
fn packed() -> impl Iterator<Item = (&'static str, &'static str)> {
    GGUF.into_iter().filter(|(_, encoding)| *encoding != "F16")
}

fn gguf_path(arch: &str, encoding: &str) -> String {
    format!("reference/gguf/models/{arch}-{}.gguf", encoding.to_lowercase())
}

/// How much more rounding changes a model's logits than those of `llama`, which the tolerances below
/// are for. Weights, inputs and results of every product rounded to f16 change transformers' logits of
/// `qwen2` by 0.053, those of the others by 0.019 to 0.024; llama.cpp is 4 % away from the reference
/// with `qwen2-q8_0.gguf`, 1.3 % with `llama-q8_0.gguf`.
fn sensitivity(arch: &str) -> f32 {
    if arch == "qwen2" { 3.0 } else { 1.0 }
}

struct Model<B: Backend>(Box<dyn CausalLm<B>>);

impl<B: Backend> Model<B> {
    fn load(path: &str, dtype: DType, device: &B::Device) -> Self {
        let checkpoint = Checkpoint::open(&fixture(path)).expect("checkpoint");
        // The reference has dequantised weights.
        let options = LoadOptions { dtype, dequantize: true, ..LoadOptions::default() };
        Self(models::load::<B>(&checkpoint, options, device).expect("model"))
    }

    fn logits(&self, ids: &[Vec<u32>]) -> Vec<f32> {
        let tokens = TokenBatch::new(ids).expect("tokens");
        let logits = self.0.forward(&tokens, None, LogitRows::All).expect("forward");
        logits.into_data().into_vec().expect("f32")
    }

    /// Logits of every position, running `steps` tokens at a time through a cache.
    fn cached(&self, ids: &[Vec<u32>], steps: &[usize]) -> Vec<f32> {
        let (batch, len) = (ids.len(), ids[0].len());
        let vocabulary = self.0.config().vocabulary;
        let mut cache = self.0.new_cache(&vec![0; batch], len);
        let mut out = vec![Vec::new(); batch];
        let mut steps = steps.iter().copied().chain(std::iter::repeat(1));
        while cache.len() < len {
            let step = steps.next().unwrap_or(1).min(len - cache.len());
            let range = cache.len()..cache.len() + step;
            let part: Vec<_> = ids.iter().map(|row| row[range.clone()].to_vec()).collect();
            let tokens = TokenBatch::new(&part).expect("tokens");
            let logits =
                self.0.forward(&tokens, Some(&mut cache), LogitRows::All).expect("forward");
            let logits: Vec<f32> = logits.into_data().into_vec().expect("f32");
            for (row, logits) in out.iter_mut().zip(logits.chunks(step * vocabulary)) {
                row.extend_from_slice(logits);
            }
        }
        out.concat()
    }

    fn greedy(&self, prompt: &[u32], max_tokens: usize) -> Vec<u32> {
        let options = GenerateOptions {
            max_tokens,
            sampling: SamplingOptions::default(),
            stop: vec![],
            stop_tokens: vec![],
        };
        let out = generate(&*self.0, None, prompt, &options, |_| ()).expect("generate");
        assert_eq!(out.stop, StopReason::Length);
        out.tokens
    }
}

struct Reference;

impl EveryBackend for Reference {
    fn run<B: Backend>(&mut self, label: &str, device: &B::Device) {
        for arch in MODELS {
            let model = Model::<B>::load(&format!("reference/models/{arch}"), DType::F32, device);
            let golden = Golden::open(&format!("reference/models/{arch}/reference.safetensors"));
            let (ids, want) = (golden.ids("input_ids"), golden.f32("logits"));

            let all = model.logits(&ids);
            let diff = max_abs_diff(&all, &want);
            assert!(diff <= LOGITS, "{label} {arch}: logits differ by {diff}");

            // Single positions are recorded past wgpu's encoder on Vulkan: before, between and after
            // what is not.
            for steps in [&[17, 1, 5][..], &[1, 1, 5], &[1], &[39]] {
                let diff = max_abs_diff(&model.cached(&ids, steps), &all);
                assert!(diff <= 1e-4, "{label} {arch} {steps:?}: the cache changes {diff}");
            }

            let single: Vec<f32> =
                ids.iter().flat_map(|row| model.logits(std::slice::from_ref(row))).collect();
            let diff = max_abs_diff(&single, &all);
            assert!(diff <= 1e-4, "{label} {arch}: batching changes {diff}");

            let (prompt, want) = greedy_reference(arch);
            assert_eq!(model.greedy(&prompt, want.len()), want, "{label} {arch}");
        }
        for (arch, encoding) in GGUF {
            let file = gguf_path(arch, encoding);
            let model = Model::<B>::load(&file, DType::F32, device);
            let golden = Golden::open("reference/gguf/models/reference.safetensors");
            let ids = golden.ids(&format!("{arch}.input_ids"));
            let want = golden.f32(&format!("{arch}.{encoding}.logits"));
            let got = model.logits(&ids);
            let diff = max_abs_diff(&got, &want);
            assert!(diff <= LOGITS, "{label} {file}: logits differ by {diff}");
            let diff = max_abs_diff(&model.cached(&ids, &[20]), &got);
            assert!(diff <= 1e-4, "{label} {file}: the cache changes {diff}");

            let both = model.logits(&[ids[0].clone(), ids[0].clone()]);
            for half in both.chunks(got.len()) {
                let diff = max_abs_diff(half, &got);
                assert!(diff <= 1e-4, "{label} {file}: batching changes {diff}");
            }

            // The reference has no greedy tokens for these files, but each next token follows from
            // its logits wherever a prefix of the sequence is the prompt.
            let vocabulary = model.0.config().vocabulary;
            for len in [1, 8, ids[0].len() - 1] {
                let want = argmax(&want[(len - 1) * vocabulary..len * vocabulary]);
                assert_eq!(model.greedy(&ids[0][..len], 1), [want], "{label} {file} {len}");
            }
        }
    }
}

/// Full attention in the first layer, a sliding window in the second: the weights of `qwen2`.
struct MixedWindows;

impl EveryBackend for MixedWindows {
    fn run<B: Backend>(&mut self, label: &str, device: &B::Device) {
        let folder = tempfile::tempdir().expect("folder");
        for from in
            ["reference/models/qwen2/model.safetensors", "reference/qwen2_window/config.json"]
        {
            let from = fixture(from);
            let to = folder.path().join(from.file_name().expect("a file"));
            std::fs::copy(from, to).expect("fixture");
        }
        let checkpoint = Checkpoint::open(folder.path()).expect("checkpoint");
        let model = models::load::<B>(&checkpoint, LoadOptions::default(), device).expect("model");
        let model = Model(model);
        let golden = Golden::open("reference/qwen2_window/reference.safetensors");
        let (ids, want) = (golden.ids("input_ids"), golden.f32("logits"));
        for (how, got) in [
            ("at once", model.logits(&ids)),
            ("through the cache", model.cached(&ids, &[17, 1, 5])),
        ] {
            let diff = max_abs_diff(&got, &want);
            assert!(diff <= LOGITS, "{label}, {how}: logits differ by {diff}");
        }
    }
}

/// Prompt and continuation from `reference.json`.
fn greedy_reference(arch: &str) -> (Vec<u32>, Vec<u32>) {
    let path = fixture(&format!("reference/models/{arch}/reference.json"));
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(path).expect("reference")).expect("JSON");
    let ids = |key: &str| serde_json::from_value(json["greedy"][key].clone()).expect("ids");
    (ids("prompt"), ids("continuation"))
}

/// Weights that stay packed, multiplied with activations in 8 bits: against the same weights
/// dequantised. llama.cpp, which does the same, differs from the reference by up to 0.6 here
/// (`fixtures/README.md`); on the average position it must be far less.
#[test]
fn packed_weights_stay_close() {
    let device = Default::default();
    for (arch, encoding) in packed() {
        let file = gguf_path(arch, encoding);
        let checkpoint = Checkpoint::open(&fixture(&file)).expect("checkpoint");
        let model = models::load::<Cpu>(&checkpoint, LoadOptions::default(), &device);
        let model = Model(model.expect("model"));
        let golden = Golden::open("reference/gguf/models/reference.safetensors");
        let ids = golden.ids(&format!("{arch}.input_ids"));
        let want = golden.f32(&format!("{arch}.{encoding}.logits"));
        let got = model.logits(&ids);
        let diff = max_abs_diff(&got, &want);
        let error: f64 = got.iter().zip(&want).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        let size: f64 = want.iter().map(|v| f64::from(*v).powi(2)).sum();
        let relative = (error / size).sqrt();
        println!("{file}: largest difference {diff}, relative {relative:.1e}");
        assert!(diff > LOGITS, "{file}: the weights were not packed");
        let limit = 0.02 * f64::from(sensitivity(arch));
        assert!(diff <= 0.6 && relative <= limit, "{file}: {diff}, relative {relative}");
        // A row's result does not depend on how many rows there are.
        let diff = max_abs_diff(&model.cached(&ids, &[20]), &got);
        assert!(diff <= 1e-4, "{file}: the cache changes {diff}");
    }
}

/// On wgpu devices activations stay f32, so packed weights give what dequantised ones give.
struct PackedOnGpu;

impl EveryBackend for PackedOnGpu {
    fn run<B: Backend>(&mut self, label: &str, device: &B::Device) {
        for (arch, name) in packed() {
            let file = gguf_path(arch, name);
            let checkpoint = Checkpoint::open(&fixture(&file)).expect("checkpoint");
            let info = checkpoint.infos().find(|info| info.name == "blk.0.ffn_up.weight");
            let shape = info.expect("a matrix").shape;
            let encoding = if name == "Q8_0" { Encoding::Q8_0 } else { Encoding::Q4_0 };
            assert!(B::keeps_packed(encoding, [shape[0], shape[1]], device), "{label} {shape:?}");
            let model = models::load::<B>(&checkpoint, LoadOptions::default(), device);
            let model = Model(model.expect("model"));
            let golden = Golden::open("reference/gguf/models/reference.safetensors");
            let want = golden.f32(&format!("{arch}.{name}.logits"));
            let ids = golden.ids(&format!("{arch}.input_ids"));
            let diff = max_abs_diff(&model.logits(&ids), &want);
            assert!(diff <= LOGITS, "{label} {file}: logits differ by {diff}");
        }
    }
}

#[test]
fn packed_weights_match_on_wgpu() {
    for backend in ["wgpu-spirv", "wgpu-wgsl"] {
        on(backend, &mut PackedOnGpu);
    }
}

/// Sequences of unequal length beside each other, cached and not, against each alone.
struct PaddedBatch;

impl EveryBackend for PaddedBatch {
    fn run<B: Backend>(&mut self, label: &str, device: &B::Device) {
        let model = Model::<B>::load("reference/models/llama3", DType::F32, device);
        let rows = [vec![5, 99, 300, 7, 450, 12, 8], vec![77, 3, 400], vec![501]];
        let vocabulary = model.0.config().vocabulary;
        let tokens = TokenBatch::new(&rows).expect("tokens");
        let mut cache = model.0.new_cache(tokens.left_padding(), 16);
        let batch = model.0.forward(&tokens, Some(&mut cache), LogitRows::Last).expect("forward");
        let next = TokenBatch::new(&[[9u32], [9], [9]]).expect("tokens");
        let second = model.0.forward(&next, Some(&mut cache), LogitRows::Last).expect("forward");
        for (step, logits) in [batch, second].into_iter().enumerate() {
            let logits: Vec<f32> = logits.into_data().into_vec().expect("f32");
            for (row, got) in rows.iter().zip(logits.chunks(vocabulary)) {
                let mut row = row.clone();
                row.extend(std::iter::repeat_n(9, step));
                let alone = model.logits(&[row]);
                let diff = max_abs_diff(got, &alone[alone.len() - vocabulary..]);
                assert!(diff <= 1e-4, "{label} step {step}: padding changes {diff}");
            }
        }
    }
}

/// What a token costs the cache, at the start of a long context and at its end.
struct CacheWrites;

impl EveryBackend for CacheWrites {
    fn run<B: Backend>(&mut self, label: &str, device: &B::Device) {
        let shape = KvCacheShape { batch: 2, kv_heads: 2, head_dim: 8, capacity: 2048 };
        let mut cache = B::KvCache::new(shape, DType::F32, device);
        let token = || burn::tensor::Tensor::<B, 4>::ones([2, 2, 1, 8], (device, DType::F32));
        let mut costs = (0..2048).map(|_| {
            let before = cache.bytes_written();
            cache.append(token(), token()).expect("room");
            cache.bytes_written() - before
        });
        let first = costs.next().expect("a token");
        assert!(first >= shape.bytes(1, DType::F32), "{label}: the counter counts nothing");
        assert!(costs.all(|cost| cost == first), "{label}: writes grow");
        let full = cache.append(token(), token()).expect_err("full");
        assert!(full.to_string().contains("2048 of at most 2048"), "{full}");
        assert_eq!(cache.len(), 2048);
    }
}

/// f16 matrices.
struct HalfPrecision;

impl EveryBackend for HalfPrecision {
    fn run<B: Backend>(&mut self, label: &str, device: &B::Device) {
        for arch in MODELS {
            let model = Model::<B>::load(&format!("reference/models/{arch}"), DType::F16, device);
            let golden = Golden::open(&format!("reference/models/{arch}/reference.safetensors"));
            let (ids, want) = (golden.ids("input_ids"), golden.f32("logits"));
            let all = model.logits(&ids);
            let tolerance = LOGITS_F16 * sensitivity(arch);
            let diff = max_abs_diff(&all, &want);
            assert!(diff <= tolerance, "{label} {arch}: logits differ by {diff}");
            assert!(diff > 0.0, "{label} {arch}: this was not computed in f16");
            let diff = max_abs_diff(&model.cached(&ids, &[17, 1]), &all);
            assert!(diff <= tolerance, "{label} {arch}: the cache changes {diff}");
            let gguf = Model::<B>::load(&gguf_path(arch, "F16"), DType::F16, device);
            let golden = Golden::open("reference/gguf/models/reference.safetensors");
            let want = golden.f32(&format!("{arch}.F16.logits"));
            let got = gguf.logits(&golden.ids(&format!("{arch}.input_ids")));
            // This file's matrices are f16, and its 32 rows meet them in f32: nothing is rounded.
            let diff = max_abs_diff(&got, &want);
            assert!(diff <= LOGITS, "{label} {arch} GGUF: logits differ by {diff}");

            // The margins of the reference are > 0.1, and what is predicted differs by less.
            let (prompt, want) = greedy_reference(arch);
            assert_eq!(model.greedy(&prompt, want.len()), want, "{label} {arch}");
        }
    }
}

#[test]
fn a_stop_token_ends_a_generation() {
    use metal_candle::backend::Cpu;
    let model = Model::<Cpu>::load("reference/models/llama", DType::F32, &Default::default());
    let (prompt, want) = greedy_reference("llama");
    let options = GenerateOptions {
        max_tokens: 24,
        sampling: SamplingOptions::default(),
        stop: vec![],
        stop_tokens: vec![want[5]],
    };
    let out = generate(&*model.0, None, &prompt, &options, |_| ()).expect("generate");
    let end = want.iter().position(|token| *token == want[5]).expect("it is there") + 1;
    assert_eq!((out.stop, out.tokens), (StopReason::Eos, want[..end].to_vec()));
}

/// Wrong use is an error with the numbers, and changes nothing.
#[test]
fn wrong_use_is_refused() {
    use metal_candle::backend::Cpu;
    let model = Model::<Cpu>::load("reference/models/llama", DType::F32, &Default::default());
    let run = |ids: &[u32], cache: &mut models::Cache<Cpu>| {
        let tokens = TokenBatch::new(&[ids]).expect("tokens");
        model.0.forward(&tokens, Some(cache), LogitRows::Last).map(|_| ())
    };
    let mut cache = model.0.new_cache(&[0], 4);
    let error = run(&[1, 512], &mut cache).expect_err("outside the vocabulary");
    assert!(matches!(error, ModelError::Token { token: 512, vocabulary: 512 }), "{error}");
    run(&[1, 2, 3], &mut cache).expect("room");
    let error = run(&[1, 2], &mut cache).expect_err("no room");
    assert!(error.to_string().contains("holds 3 of at most 4 positions: 2 more"), "{error}");
    assert_eq!(cache.len(), 3);
    run(&[4], &mut cache).expect("room for one");
    let mut two = model.0.new_cache(&[0, 0], 4);
    let error = run(&[1], &mut two).expect_err("another batch");
    assert!(matches!(error, ModelError::Batch { cache: 2, tokens: 1 }), "{error}");
}

#[test]
fn the_default_model_writes_shakespeare() {
    use metal_candle::{backend::Cpu, tokenizer::Tokenizer};
    let checkpoint = Checkpoint::open(&fixture("models/shakespeare-llama")).expect("checkpoint");
    let tokenizer = Tokenizer::from_checkpoint(&checkpoint).expect("tokenizer");
    let model = Model::<Cpu>::load("models/shakespeare-llama", DType::F32, &Default::default());
    let prompt = tokenizer.encode("ROMEO.", true).expect("encode");
    assert_eq!(prompt[0], tokenizer.bos_id().expect("BOS"), "the configuration asks for BOS");
    let options = GenerateOptions {
        max_tokens: 60,
        sampling: SamplingOptions { temperature: 0.8, seed: Some(7), ..Default::default() },
        stop: vec![],
        stop_tokens: vec![],
    };
    let mut streamed = String::new();
    let out = generate(&*model.0, Some(&tokenizer), &prompt, &options, |piece| {
        streamed.push_str(piece);
    })
    .expect("generate");
    assert_eq!(streamed, out.text, "what was streamed is the text");
    assert_eq!(out.text, tokenizer.decode(&out.tokens, true).expect("decode"));
    let logits = model.logits(&[prompt]);
    assert!((argmax(&logits) as usize) < logits.len());
    assert!(out.text.split_whitespace().count() > 10, "{}", out.text);
}

macro_rules! every_backend {
    ($($name:ident: $backend:literal),+) => {$(
        mod $name {
            use super::*;
            #[test]
            fn matches_the_reference() {
                on($backend, &mut Reference);
            }
            #[test]
            fn layers_differ_in_their_windows() {
                on($backend, &mut MixedWindows);
            }
            #[test]
            fn padding_changes_nothing() {
                on($backend, &mut PaddedBatch);
            }
            #[test]
            fn cache_writes_do_not_grow() {
                on($backend, &mut CacheWrites);
            }
            #[test]
            fn half_precision_stays_close() {
                on($backend, &mut HalfPrecision);
            }
        }
    )+};
}

every_backend!(cpu: "cpu", candle: "candle", wgpu_spirv: "wgpu-spirv", wgpu_wgsl: "wgpu-wgsl");
