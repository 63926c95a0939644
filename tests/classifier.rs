//! Classifying sequences against transformers' numbers, on every backend.

mod support;

use std::path::Path;

use burn::tensor::DType;
use metal_candle::{
    Backend,
    adapters::AdapterRegistry,
    backend::Cpu,
    formats::Checkpoint,
    models::{LoadOptions, ModelError, SequenceClassifier},
    nn::Deltas,
};
use support::{EveryBackend, Golden, fixture, max_abs_diff, on};

/// As for the logits of a language model (`fixtures/README.md`): they are of the same size.
const LOGITS: f32 = 1e-4;
const FOLDER: &str = "reference/qwen2_classifier";

/// A folder with the decoder's tensors in one shard and the head's in another.
fn folder(with_score: bool) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("folder");
    let copy = |from: &str, to: &str| {
        std::fs::copy(fixture(from), folder.path().join(to)).expect("fixture");
    };
    copy(&format!("{FOLDER}/config.json"), "config.json");
    if !with_score {
        copy("reference/models/qwen2/model.safetensors", "model.safetensors");
        return folder;
    }
    copy("reference/models/qwen2/model.safetensors", "decoder.safetensors");
    copy(&format!("{FOLDER}/score.safetensors"), "score.safetensors");
    let decoder = Checkpoint::open(&fixture("reference/models/qwen2")).expect("checkpoint");
    let mut files: serde_json::Map<_, _> =
        decoder.infos().map(|info| (info.name, "decoder.safetensors".into())).collect();
    files.insert("score.weight".into(), "score.safetensors".into());
    let index = serde_json::json!({ "weight_map": files });
    let path = folder.path().join("model.safetensors.index.json");
    std::fs::write(path, index.to_string()).expect("index");
    folder
}

fn load<B: Backend>(
    folder: &Path,
    device: &B::Device,
) -> Result<SequenceClassifier<B>, ModelError> {
    let checkpoint = Checkpoint::open(folder).expect("checkpoint");
    SequenceClassifier::load(&checkpoint, LoadOptions::default(), device)
}

fn classify<B: Backend>(model: &SequenceClassifier<B>, sequences: &[Vec<u32>]) -> Vec<f32> {
    let logits = model.classify(sequences).expect("forward");
    assert_eq!((logits.dims(), logits.dtype()), ([sequences.len(), 3], DType::F32));
    logits.into_data().into_vec().expect("f32")
}

/// A PEFT adapter with a head of its own, against PEFT, and against the same without it; and by
/// sequence.
struct WithAdapter;

impl EveryBackend for WithAdapter {
    fn run<B: Backend>(&mut self, label: &str, device: &B::Device) {
        let folder = folder(true);
        let model = load::<B>(folder.path(), device).expect("classifier");
        let registry = AdapterRegistry::new(model.slots());
        registry.load_adapter("sorted", &fixture(&format!("{FOLDER}/adapter"))).expect("adapter");
        let set = registry.set(&[("sorted", 1.0)]).expect("a set");
        let golden = Golden::open(&format!("{FOLDER}/reference.safetensors"));
        let (ids, base) = (golden.ids("input_ids"), golden.f32("logits"));
        let want = golden.f32("adapter_logits");
        let run = |deltas| -> Vec<f32> {
            let logits = model.classify_with(&ids, deltas).expect("forward");
            logits.into_data().into_vec().expect("f32")
        };
        let all = Deltas::all(set.deltas().expect("some"));
        let diff = max_abs_diff(&run(all), &want);
        assert!(diff <= LOGITS, "{label}: with the adapter, logits differ by {diff}");
        let rows: [&[&str]; 4] = [&["sorted"], &[], &["sorted"], &[]];
        let choice = set.choose(&rows).expect("known");
        let mixed = run(Deltas { choice: Some(&choice), ..all });
        for (i, names) in rows.iter().enumerate() {
            let want = if names.is_empty() { &base } else { &want };
            let diff = max_abs_diff(&mixed[3 * i..3 * i + 3], &want[3 * i..3 * i + 3]);
            assert!(diff <= LOGITS, "{label}: sequence {i} differs by {diff}");
        }
    }
}

#[test]
fn adapters_bring_their_head() {
    for backend in ["cpu", "candle", "wgpu-spirv", "wgpu-wgsl"] {
        on(backend, &mut WithAdapter);
    }
}

struct Classifier;

impl EveryBackend for Classifier {
    fn run<B: Backend>(&mut self, label: &str, device: &B::Device) {
        let folder = folder(true);
        let model = load::<B>(folder.path(), device).expect("model");
        assert_eq!(model.labels(), ["negative", "neutral", "positive"]);
        let golden = Golden::open(&format!("{FOLDER}/reference.safetensors"));
        let (padded, lengths) = (golden.ids("input_ids"), golden.ids("lengths").concat());
        let want = golden.f32("logits");
        let cut = |(row, &length): (&Vec<u32>, &u32)| row[..length as usize].to_vec();
        let rows: Vec<_> = padded.iter().zip(&lengths).map(cut).collect();

        let alone: Vec<f32> =
            rows.iter().flat_map(|row| classify(&model, std::slice::from_ref(row))).collect();
        for (how, got) in [
            ("padded on the right", classify(&model, &padded)),
            ("of unequal length", classify(&model, &rows)),
            ("one by one", alone),
            ("padding before the last token", classify(&model, &golden.ids("inner_ids"))),
        ] {
            let want = if got.len() == 3 { &golden.f32("inner_logits") } else { &want };
            let diff = max_abs_diff(&got, want);
            assert!(diff <= LOGITS, "{label}, {how}: logits differ by {diff}");
        }
    }
}

#[test]
fn cpu_matches_the_reference() {
    on("cpu", &mut Classifier);
}

#[test]
fn candle_matches_the_reference() {
    on("candle", &mut Classifier);
}

#[test]
fn wgpu_spirv_matches_the_reference() {
    on("wgpu-spirv", &mut Classifier);
}

#[test]
fn wgpu_wgsl_matches_the_reference() {
    on("wgpu-wgsl", &mut Classifier);
}

#[test]
fn wrong_use_is_refused() {
    let device = Default::default();
    let without = folder(false);
    let error = load::<Cpu>(without.path(), &device).expect_err("no head").to_string();
    assert!(error.contains("score.weight"), "{error}");

    let with = folder(true);
    let path = with.path().join("config.json");
    let config = std::fs::read_to_string(&path).expect("config");
    let mut config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    config["id2label"] = serde_json::json!({"0": "no", "1": "yes"});
    std::fs::write(&path, config.to_string()).expect("config");
    let error = load::<Cpu>(with.path(), &device).expect_err("two of three labels").to_string();
    assert!(error.contains("score.weight") && error.contains("[2, 64]"), "{error}");

    let model = load::<Cpu>(folder(true).path(), &device).expect("model");
    let error = model.classify(&[vec![1], vec![]]).expect_err("an empty sequence");
    assert!(matches!(error, ModelError::Tokens(_)), "{error}");
    let error = model.classify(&[[1, 512]]).expect_err("outside the vocabulary");
    assert!(matches!(error, ModelError::Token { token: 512, .. }), "{error}");
    let padding = model.classify(&[[2, 2, 2]]).expect("padding alone").into_data();
    assert_eq!(padding, model.classify(&[[2]]).expect("one token").into_data());
}
