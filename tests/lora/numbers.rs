//! Logits with adapters against PEFT's, on every backend.

use burn::tensor::DType;
use metal_candle::{
    Backend,
    adapters::{Adapted, Adapter, LoraConfig, TargetModules},
    formats::RawTensor,
    quant::Encoding,
};

use crate::{
    models::{ADAPTERS, ARCHITECTURES, LOGITS, adapted, cached, load, logits, registry},
    support::{EveryBackend, Golden, max_abs_diff, on},
};

struct Reference;

impl EveryBackend for Reference {
    fn run<B: Backend>(&mut self, label: &str, device: &B::Device) {
        for arch in ARCHITECTURES {
            let model = load::<B>(&format!("reference/models/{arch}"), DType::F32, true, device);
            let registry = registry(&model, arch);
            for name in ADAPTERS {
                let golden =
                    Golden::open(&format!("reference/lora/{arch}/{name}/reference.safetensors"));
                let (ids, want) = (golden.ids("input_ids"), golden.f32("logits_adapter"));
                let model = adapted(&model, &registry, &[(name, 1.0)]);
                let got = logits(&model, &ids);
                let diff = max_abs_diff(&got, &want);
                assert!(diff <= LOGITS, "{label} {arch} {name}: logits differ by {diff}");
                // One token at a time, with and without neighbours.
                let vocabulary = want.len() / ids.len() / ids[0].len();
                let last: Vec<f32> = want
                    .chunks(ids[0].len() * vocabulary)
                    .flat_map(|row| row[row.len() - vocabulary..].to_vec())
                    .collect();
                let diff = max_abs_diff(&cached(&model, &ids), &last);
                assert!(diff <= LOGITS, "{label} {arch} {name}: the cache changes {diff}");
                let diff = max_abs_diff(&cached(&model, &ids[1..]), &last[vocabulary..]);
                assert!(diff <= LOGITS, "{label} {arch} {name}: one sequence differs by {diff}");
            }
            let golden =
                Golden::open(&format!("reference/lora/{arch}/all_linear/reference.safetensors"));
            let diff = max_abs_diff(
                &logits(&*model, &golden.ids("input_ids")),
                &golden.f32("logits_base"),
            );
            assert!(diff <= LOGITS, "{label} {arch}: the base differs by {diff}");
        }
    }
}

/// Sequences of one batch that use different adapters, against each alone.
struct ByRow;

impl EveryBackend for ByRow {
    fn run<B: Backend>(&mut self, label: &str, device: &B::Device) {
        let model = load::<B>("reference/models/llama", DType::F32, true, device);
        let registry = registry(&model, "llama");
        let head = |seed| {
            let mut adapter = Adapter::random(
                LoraConfig::new(3, 3.0, TargetModules::List(vec!["o_proj".into()])),
                model.slots().table(),
                0.3,
                seed,
            )
            .expect("adapter");
            // Whole layers of its own, too.
            for (name, phase) in [("lm_head.weight", seed), ("model.embed_tokens.weight", seed + 9)]
            {
                let values = (0..512 * 64)
                    .flat_map(|i| ((i as u64 + phase) as f32 * 0.37).sin().to_le_bytes());
                adapter.saved.insert(
                    name.into(),
                    RawTensor {
                        name: name.into(),
                        shape: vec![512, 64],
                        encoding: Encoding::F32,
                        bytes: values.collect::<Vec<u8>>().into(),
                    },
                );
            }
            adapter
        };
        registry.add_adapter("one", head(1)).expect("added");
        registry.add_adapter("other", head(2)).expect("added");
        let weights =
            [("all_linear", 1.0), ("rslora_qv", 0.5), ("dora", 1.5), ("one", 1.0), ("other", 1.0)];
        let golden = Golden::open("reference/lora/llama/all_linear/reference.safetensors");
        let ids = &golden.ids("input_ids")[0];
        let rows: [&[&str]; 7] = [
            &["dora"],
            &[],
            &["all_linear"],
            &["one"],
            &["rslora_qv", "dora"],
            &["other", "all_linear"],
            &["dora"],
        ];
        let set = registry.set(&weights).expect("a set");
        let choice = set.choose(&rows).expect("known names");
        let batch: Vec<_> = rows
            .iter()
            .enumerate()
            .map(|(i, _)| {
                let mut ids = ids.clone();
                ids.rotate_left(i);
                ids
            })
            .collect();
        let together = Adapted::by_sequence(model.clone(), set, choice).expect("this model");
        let (all, last) = (logits(&together, &batch), cached(&together, &batch));
        let (wide, short) = (all.len() / rows.len(), last.len() / rows.len());
        for (i, (names, ids)) in rows.iter().zip(&batch).enumerate() {
            let named: Vec<_> =
                weights.iter().filter(|(name, _)| names.contains(name)).copied().collect();
            let alone = adapted(&model, &registry, &named);
            let ids = std::slice::from_ref(ids);
            let diff = max_abs_diff(&all[i * wide..(i + 1) * wide], &logits(&alone, ids));
            assert!(diff <= LOGITS, "{label} {names:?}: in a batch it differs by {diff}");
            let diff = max_abs_diff(&last[i * short..(i + 1) * short], &cached(&alone, ids));
            assert!(diff <= LOGITS, "{label} {names:?}: in a cached batch it differs by {diff}");
        }
        let two = [("one", 1.0), ("other", 1.0)];
        let error = registry.set(&two).and_then(|set| Adapted::new(model.clone(), set));
        let error = error.expect_err("two heads").to_string();
        assert!(error.contains("two adapters") && error.contains("embed_tokens"), "{error}");
    }
}

/// An adapter on blocks that stay packed, against the same blocks made dense. (Activations stay f32
/// on wgpu devices.)
struct PackedBase;

impl EveryBackend for PackedBase {
    fn run<B: Backend>(&mut self, label: &str, device: &B::Device) {
        for file in ["llama-q8_0", "llama-q4_0"] {
            let path = format!("reference/gguf/models/{file}.gguf");
            let [packed, dense] = [false, true].map(|dequantize| {
                let model = load::<B>(&path, DType::F32, dequantize, device);
                let registry = registry(&model, "llama");
                let golden = Golden::open("reference/lora/llama/all_linear/reference.safetensors");
                ADAPTERS.map(|name| {
                    logits(&adapted(&model, &registry, &[(name, 1.0)]), &golden.ids("input_ids"))
                })
            });
            for (name, (packed, dense)) in ADAPTERS.iter().zip(packed.iter().zip(&dense)) {
                let diff = max_abs_diff(packed, dense);
                // On the CPU activations are quantised too: the bound of `tests/models.rs`.
                let bound = if label == "cpu" { 0.6 } else { LOGITS };
                assert!(diff <= bound, "{label} {file} {name}: logits differ by {diff}");
            }
        }
    }
}

#[test]
fn packed_bases_take_adapters() {
    for backend in ["cpu", "wgpu-spirv", "wgpu-wgsl"] {
        on(backend, &mut PackedBase);
    }
}

/// llama.cpp permutes the rows of queries and keys in its files: an adapter that was trained on the
/// Hugging Face model fits all the same.
#[test]
fn a_gguf_model_takes_the_same_adapters() {
    use metal_candle::backend::Cpu;
    let device = Default::default();
    let golden = Golden::open("reference/lora/llama/all_linear/reference.safetensors");
    let ids = golden.ids("input_ids");
    // The GGUF file is in f16: so is the other one here.
    let [gguf, folder] = ["reference/gguf/models/llama-f16.gguf", "reference/models/llama"]
        .map(|path| load::<Cpu>(path, DType::F16, false, &device));
    for name in ADAPTERS {
        let [gguf, folder] = [&gguf, &folder]
            .map(|model| logits(&adapted(model, &registry(model, "llama"), &[(name, 1.0)]), &ids));
        let diff = max_abs_diff(&gguf, &folder);
        assert!(diff <= 1e-4, "{name}: logits differ by {diff}");
    }
}

/// Half the weight of an adapter is half of `B`; a `DoRA`'s gains follow.
#[test]
fn weights_scale_adapters() {
    use metal_candle::backend::Cpu;
    let device = Default::default();
    let model = load::<Cpu>("reference/models/llama", DType::F32, true, &device);
    let registry = registry(&model, "llama");
    let ids = Golden::open("reference/lora/llama/dora/reference.safetensors").ids("input_ids");
    for name in ADAPTERS {
        let mut adapter = (*registry.get_adapter(name).expect("it is there")).clone();
        for tensors in adapter.modules.values_mut() {
            let values: Vec<u8> = bytemuck::pod_collect_to_vec::<u8, f32>(&tensors.b.bytes)
                .iter()
                .flat_map(|value| (value * 0.5).to_le_bytes())
                .collect();
            tensors.b.bytes = values.into();
        }
        let half = format!("{name} by half");
        registry.add_adapter(&half, adapter).expect("added");
        let want = logits(&adapted(&model, &registry, &[(&half, 1.0)]), &ids);
        let got = logits(&adapted(&model, &registry, &[(name, 0.5)]), &ids);
        let diff = max_abs_diff(&got, &want);
        assert!(diff <= 1e-4, "{name}: logits differ by {diff}");
        // The same twice is twice as much, but for gains.
        if name != "dora" {
            let got = logits(&adapted(&model, &registry, &[(&half, 1.0), (&half, 1.0)]), &ids);
            let want = logits(&adapted(&model, &registry, &[(name, 1.0)]), &ids);
            let diff = max_abs_diff(&got, &want);
            assert!(diff <= 1e-4, "{name}: two halves differ by {diff}");
        }
    }
}

/// What is left out differs from pass to pass; on average nothing is.
#[test]
fn dropout_leaves_the_mean_alone() {
    use metal_candle::{
        backend::Cpu,
        models::{LogitRows, Pass, TokenBatch},
        nn::Deltas,
    };
    const RUNS: usize = 400;
    let model = load::<Cpu>("reference/models/llama", DType::F32, true, &Default::default());
    let registry = registry(&model, "llama");
    // Of the output layer alone, so that the logits are linear in what it sees.
    let config = LoraConfig::new(4, 8.0, TargetModules::List(vec!["lm_head".into()]));
    let adapter = Adapter::random(config, model.slots().table(), 0.5, 3).expect("adapter");
    registry.add_adapter("head", adapter).expect("added");
    let set = registry.set(&[("head", 1.0)]).expect("a set");
    let run = |dropout: f64| -> Vec<f32> {
        let deltas = Deltas { dropout, ..Deltas::all(set.deltas().expect("some")) };
        let tokens = TokenBatch::new(&[[5u32, 7, 9]]).expect("tokens");
        let pass = Pass { deltas, ..Pass::of(LogitRows::Last) };
        model.run(&tokens, None, pass).expect("runs").into_data().into_vec().expect("f32")
    };
    let whole = run(0.0);
    let base = model.forward(&TokenBatch::new(&[[5u32, 7, 9]]).unwrap(), None, LogitRows::Last);
    let base: Vec<f32> = base.expect("runs").into_data().into_vec().expect("f32");
    assert!(max_abs_diff(&whole, &base) > 0.1, "the adapter changes nothing");
    let runs: Vec<Vec<f32>> = (0..RUNS).map(|_| run(0.25)).collect();
    assert_ne!(runs[0], runs[1]);
    for (i, want) in whole.iter().enumerate() {
        let mean = runs.iter().map(|run| f64::from(run[i])).sum::<f64>() / RUNS as f64;
        let squares = runs.iter().map(|run| (f64::from(run[i]) - mean).powi(2)).sum::<f64>();
        let error = (squares / (RUNS * (RUNS - 1)) as f64).sqrt();
        // 512 means: six standard errors are exceeded once in a million runs.
        assert!((mean - f64::from(*want)).abs() <= 6.0 * error + 1e-4, "{i}: {mean}, {want}");
    }
}

/// f16 matrices: adapters are stored as the model's matrices are.
struct HalfPrecision;

impl EveryBackend for HalfPrecision {
    fn run<B: Backend>(&mut self, label: &str, device: &B::Device) {
        let model = load::<B>("reference/models/llama", DType::F16, true, device);
        let registry = registry(&model, "llama");
        for name in ADAPTERS {
            let golden =
                Golden::open(&format!("reference/lora/llama/{name}/reference.safetensors"));
            let got = logits(&adapted(&model, &registry, &[(name, 1.0)]), &golden.ids("input_ids"));
            let diff = max_abs_diff(&got, &golden.f32("logits_adapter"));
            // As for the base alone in `tests/models.rs`, with two more roundings a layer.
            assert!(diff <= 0.12, "{label} {name}: logits differ by {diff}");
        }
    }
}

macro_rules! every_backend {
    ($($name:ident: $backend:literal),+) => {$(
        mod $name {
            use super::*;
            #[test]
            fn adapters_match_the_reference() {
                on($backend, &mut Reference);
            }
            #[test]
            fn sequences_use_adapters_of_their_own() {
                on($backend, &mut ByRow);
            }
            #[test]
            fn half_precision_stays_close() {
                on($backend, &mut HalfPrecision);
            }
        }
    )+};
}

every_backend!(cpu: "cpu", candle: "candle", wgpu_spirv: "wgpu-spirv", wgpu_wgsl: "wgpu-wgsl");
