//! Merged adapters against PEFT's merged weights and logits, and the base after them.

use burn::tensor::{DType, Tensor};
use metal_candle::{
    Backend,
    adapters::{
        Adapted, ApplyAdapter,
        merge::{MergeOptions, ModuleChange, merge_rows},
    },
    backend::{Cpu, PackedStorage},
    evaluation::Windows,
    nn::Matrix,
};

use crate::{
    models::{ADAPTERS, ARCHITECTURES, LOGITS, Model, load, logits, registry},
    support::{EveryBackend, Golden, max_abs_diff, on},
};

fn values<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    tensor.cast(DType::F32).into_data().into_vec().expect("f32")
}

/// The bits of every stored matrix of the base.
fn bits<B: Backend>(model: &Model<B>) -> Vec<Vec<u8>> {
    let of = |stored: &metal_candle::nn::Stored<B>| match &stored.matrix {
        Matrix::Dense(weight) => weight.val().into_data().bytes.to_vec(),
        Matrix::Packed(weight) => weight.0.to_host().expect("blocks").bytes().to_vec(),
    };
    model.slots().groups().iter().map(of).collect()
}

struct Merged;

impl EveryBackend for Merged {
    fn run<B: Backend>(&mut self, label: &str, device: &B::Device) {
        for arch in ARCHITECTURES {
            let model = load::<B>(&format!("reference/models/{arch}"), DType::F32, true, device);
            let registry = registry(&model, arch);
            let base = bits(&model);
            for name in ADAPTERS {
                let golden =
                    Golden::open(&format!("reference/lora/{arch}/{name}/reference.safetensors"));
                let (ids, what) = (golden.ids("input_ids"), format!("{label} {arch} {name}"));
                let before = logits(&*model, &ids);
                let (set, report) = registry
                    .merge(&model, &[(name, 1.0)], MergeOptions::default())
                    .expect("merged");
                registry.apply_set(set.clone());
                let merged = registry.adapt(&model).expect("this model");
                let diff = max_abs_diff(&logits(&merged, &ids), &golden.f32("logits_merged"));
                assert!(diff <= LOGITS, "{what}: logits differ by {diff}");
                let weights = golden.names().into_iter().filter_map(|name| {
                    Some(name.strip_prefix("merged.")?.strip_suffix(".weight")?.to_owned())
                });
                let mut count = 0;
                for module in weights {
                    let slot = model.slots().table().get(&module).expect("a slot");
                    let replaced = set.deltas().and_then(|deltas| deltas.replacement(slot.group));
                    let weight = replaced.expect("it is merged").weight.slice([slot.rows.clone()]);
                    let want = golden.f32(&format!("merged.{module}.weight"));
                    let diff = max_abs_diff(&values(weight), &want);
                    assert!(diff <= 1e-6, "{what} {module}: weights differ by {diff}");
                    count += 1;
                }
                assert!(count >= 2, "{what}: nothing to compare");
                assert!(
                    report.largest_error.values().all(|error| *error == 0.0),
                    "f32 rounds nothing"
                );
                // And back.
                registry.remove_adapter();
                let after = registry.adapt(&model).expect("this model");
                assert!(logits(&after, &ids) == before, "{what}: the base was changed");
                assert!(bits(&model) == base, "{what}: the base's bits were changed");
            }
            let used = registry.bytes_used();
            let resident: u64 = registry.list_adapters().iter().map(|info| info.bytes).sum();
            assert_eq!(used, resident, "merged weights are not kept");
        }
    }
}

#[test]
fn merged_cpu() {
    on("cpu", &mut Merged);
}

#[test]
fn merged_candle() {
    on("candle", &mut Merged);
}

#[test]
fn merged_wgpu_spirv() {
    on("wgpu-spirv", &mut Merged);
}

#[test]
fn merged_wgpu_wgsl() {
    on("wgpu-wgsl", &mut Merged);
}

fn windows(ids: &[u32]) -> Windows {
    Windows::new(ids.to_vec(), ids.len(), None).expect("one window")
}

#[test]
fn a_report_says_what_rounding_does() {
    let golden = Golden::open("reference/lora/llama/all_linear/reference.safetensors");
    let windows = windows(&golden.ids("input_ids")[0]);
    let options = MergeOptions { sample: Some(&windows), ..MergeOptions::default() };
    let report = |dtype| {
        let model = load::<Cpu>("reference/models/llama", dtype, true, &Default::default());
        let registry = registry(&model, "llama");
        registry.merge(&model, &[("all_linear", 1.0)], options).expect("merged").1
    };
    let (exact, rounded) = (report(DType::F32), report(DType::F16));
    let divergence = |report: &metal_candle::adapters::merge::MergeReport| {
        report.divergence.as_ref().expect("a sample").divergence.value()
    };
    assert_eq!(rounded.largest_error.len(), 14);
    for (module, error) in &rounded.largest_error {
        // Weights lie below 2: half a unit in the last of 11 bits.
        assert!(*error > 0.0 && *error <= 2f32.powi(-11), "{module}: {error}");
    }
    let (exact_kl, rounded_kl) = (divergence(&exact), divergence(&rounded));
    assert!(exact_kl.abs() < 1e-6, "{exact_kl}");
    assert!(rounded_kl > 1e-9 && rounded_kl < 1e-2, "{rounded_kl}");
    assert_eq!(rounded.merged_bytes * 2, exact.merged_bytes);
    assert_eq!(exact.base_bytes, exact.merged_bytes);
}

#[test]
fn a_packed_base_is_made_dense_only_on_request() {
    let path = "reference/gguf/models/llama-q8_0.gguf";
    let model = load::<Cpu>(path, DType::F32, false, &Default::default());
    let packed = registry(&model, "llama");
    let base = bits(&model);
    let adapters = [("all_linear", 1.0), ("dora", 0.5)];
    let error = packed.merge(&model, &adapters, MergeOptions::default()).expect_err("packed");
    let error = error.to_string();
    assert!(error.contains("stored as Q8_0") && error.contains("bytes instead of"), "{error}");
    let options = MergeOptions { unpack: true, sample: None };
    let (set, report) = packed.merge(&model, &adapters, options).expect("merged");
    assert!(report.merged_bytes > 3 * report.base_bytes, "{report:?}");
    // The same as on the same weights that were dense from the start.
    let ids = Golden::open("reference/lora/llama/dora/reference.safetensors").ids("input_ids");
    let dense = load::<Cpu>(path, DType::F32, true, &Default::default());
    let registry = registry(&dense, "llama");
    let unmerged = crate::models::adapted(&dense, &registry, &adapters);
    let (other, _) = registry.merge(&dense, &adapters, MergeOptions::default()).expect("merged");
    let merged = Adapted::new(dense.clone(), other).expect("this model");
    let diff = max_abs_diff(&logits(&merged, &ids), &logits(&unmerged, &ids));
    assert!(diff <= LOGITS, "two adapters merged differ by {diff}");
    for (group, stored) in dense.slots().groups().iter().enumerate() {
        let of = |set: &metal_candle::adapters::AdapterSet<Cpu>| {
            set.deltas().and_then(|deltas| deltas.replacement(group)).map(|r| values(r.weight))
        };
        assert!(of(&set) == of(merged.set()), "{stored:?}");
    }
    assert!(bits(&model) == base);
}

/// The formula by itself, as a model is written with it: part by part.
#[test]
fn parts_are_merged_as_the_whole() {
    let model = load::<Cpu>("reference/models/llama", DType::F32, true, &Default::default());
    let registry = registry(&model, "llama");
    let module = "model.layers.1.self_attn.q_proj";
    let adapter = registry.get_adapter("dora").expect("it is there");
    let change = ModuleChange::of(&adapter, module, 1.0).expect("decoded").expect("targeted");
    let other =
        ModuleChange::of(&adapter, "model.layers.1.self_attn.k_proj", 1.0).expect("decoded");
    assert!(other.is_none(), "it is not targeted");
    let slot = model.slots().table().get(module).expect("a slot");
    let stored = &model.slots().groups()[slot.group];
    let mut whole =
        values(stored.matrix.dense_rows(slot.rows.clone(), model.device()).expect("rows"));
    let mut parts = whole.clone();
    merge_rows(&mut whole, 64, 0, std::slice::from_ref(&change));
    for (i, part) in parts.chunks_mut(64 * 10).enumerate() {
        merge_rows(part, 64, 10 * i, std::slice::from_ref(&change));
    }
    assert_eq!(whole, parts);
    let golden = Golden::open("reference/lora/llama/dora/reference.safetensors");
    assert!(max_abs_diff(&whole, &golden.f32(&format!("merged.{module}.weight"))) <= 1e-6);
}
