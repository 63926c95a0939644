//! Adapters as files: PEFT's written exactly, llama.cpp's and mlx-lm's, and models with adapters
//! merged into them.

mod support;

use std::path::{Path, PathBuf};

use metal_candle::{
    adapters::{Adapter, AdapterError, gguf},
    backend::Cpu,
    formats::{Checkpoint, GgufFile, RawTensor, SafetensorsFile},
    models::{self, DecoderConfig, LoadOptions, LogitRows, TokenBatch},
};
use serde_json::Value;
use support::{Golden, fixture};

#[path = "adapter_files/fused.rs"]
mod fused;

/// Base and adapter of every reference.
const ADAPTERS: [(&str, &str); 6] = [
    ("llama", "all_linear"),
    ("llama", "rslora_qv"),
    ("llama", "dora"),
    ("qwen2", "all_linear"),
    ("qwen2", "rslora_qv"),
    ("qwen2", "dora"),
];

fn folder(arch: &str, name: &str) -> PathBuf {
    fixture(&format!("reference/lora/{arch}/{name}"))
}

fn base(arch: &str) -> Checkpoint {
    Checkpoint::open(&fixture(&format!("reference/models/{arch}"))).expect("checkpoint")
}

fn config(base: &Checkpoint) -> DecoderConfig {
    DecoderConfig::from_json(base.config(), base.config_path()).expect("configuration")
}

fn open(arch: &str, name: &str) -> Adapter {
    Adapter::open(&folder(arch, name)).unwrap_or_else(|error| panic!("{arch} {name}: {error}"))
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON")
}

/// Logits of the model at `path`, dequantised, for the input ids of a reference.
fn logits(path: &Path, golden: &Golden) -> Vec<f32> {
    let checkpoint = Checkpoint::open(path).unwrap_or_else(|error| panic!("{error}"));
    let options = LoadOptions { dequantize: true, ..LoadOptions::default() };
    let model = models::load::<Cpu>(&checkpoint, options, &Default::default());
    let model = model.unwrap_or_else(|error| panic!("{error}"));
    let tokens = TokenBatch::new(&golden.ids("input_ids")).expect("tokens");
    let logits = model.forward(&tokens, None, LogitRows::All).expect("forward");
    logits.into_data().into_vec().expect("f32")
}

/// Shape, type and bytes.
fn same(a: &RawTensor, b: &RawTensor) -> bool {
    (&a.shape, a.encoding, &a.bytes) == (&b.shape, b.encoding, &b.bytes)
}

#[test]
fn a_peft_folder_is_written_as_it_was_read() {
    for (arch, name) in ADAPTERS {
        let read = folder(arch, name);
        let out = tempfile::tempdir().expect("folder");
        open(arch, name).save(out.path()).expect("written");

        let weights = |folder: &Path| {
            SafetensorsFile::open(&folder.join("adapter_model.safetensors")).expect("weights")
        };
        let (before, after) = (weights(&read), weights(out.path()));
        assert_eq!(before.tensors().count(), after.tensors().count(), "{arch} {name}");
        assert_eq!(before.metadata(), after.metadata(), "{arch} {name}");
        for tensor in before.tensors() {
            let written = after.tensor(tensor.name).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(
                (written.dtype, written.shape),
                (tensor.dtype, tensor.shape),
                "{}",
                tensor.name
            );
            assert_eq!(written.bytes, tensor.bytes, "{arch} {name} {}", tensor.name);
        }
        let config = |folder: &Path| json(&folder.join("adapter_config.json"));
        assert_eq!(config(&read), config(out.path()), "{arch} {name}");
    }
}

#[test]
fn a_gguf_adapter_holds_the_same_matrices() {
    for (arch, name) in ADAPTERS {
        let (adapter, config) = (open(arch, name), config(&base(arch)));
        let out = tempfile::tempdir().expect("folder");
        let path = out.path().join("adapter.gguf");
        if name == "dora" {
            let error = gguf::write(&adapter, &path, &config).expect_err("magnitudes").to_string();
            assert!(error.contains("use_dora") && error.contains("merge it"), "{error}");
            assert!(!path.exists());
            continue;
        }
        gguf::write(&adapter, &path, &config).expect("written");
        let read = Adapter::open_for(&path, &config).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(
            read.modules.keys().collect::<Vec<_>>(),
            adapter.modules.keys().collect::<Vec<_>>()
        );
        for (module, tensors) in &adapter.modules {
            let found = &read.modules[module];
            assert!(same(&found.a, &tensors.a), "{arch} {name} {module}: A changed");
            // A scaling that the file cannot express is in B.
            let scale = |adapter: &Adapter, b: &RawTensor| -> Vec<f64> {
                let scaling = adapter.scaling(module).expect("a scaling");
                let values = adapter.values(b).expect("values");
                values.into_iter().map(|v| f64::from(v) * scaling).collect()
            };
            let (want, got) = (scale(&adapter, &tensors.b), scale(&read, &found.b));
            let largest = want.iter().fold(0.0f64, |largest, v| largest.max(v.abs()));
            for (want, got) in want.iter().zip(&got) {
                assert!((want - got).abs() <= 1e-6 * largest, "{arch} {name} {module}");
            }
            if name == "all_linear" {
                assert!(same(&found.b, &tensors.b), "{arch} {name} {module}: B changed");
            }
        }
    }
}

/// Against a file by gguf-py with llama.cpp's order of the rows.
#[test]
fn a_gguf_adapter_is_that_of_the_converter() {
    let (adapter, config) = (open("llama", "all_linear"), config(&base("llama")));
    let reference = fixture("reference/lora_gguf/llama-all_linear.gguf");
    let read = Adapter::open_for(&reference, &config).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(read.modules.len(), adapter.modules.len());
    for (module, tensors) in &adapter.modules {
        let found = &read.modules[module];
        assert!(same(&found.a, &tensors.a) && same(&found.b, &tensors.b), "{module}");
        let scaling = |adapter: &Adapter| adapter.scaling(module).expect("a scaling");
        assert!((scaling(&read) - scaling(&adapter)).abs() < 1e-9, "{module}");
    }

    let out = tempfile::tempdir().expect("folder");
    let path = out.path().join("adapter.gguf");
    gguf::write(&adapter, &path, &config).expect("written");
    let open = |path: &Path| GgufFile::open(path).unwrap_or_else(|error| panic!("{error}"));
    let (reference, written) = (open(&reference), open(&path));
    assert_eq!(reference.tensors().len(), written.tensors().len());
    for tensor in reference.tensors() {
        let found = written.tensor(tensor.name()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(found.shape(), tensor.shape(), "{}", tensor.name());
        assert_eq!(written.bytes(found), reference.bytes(tensor), "{}", tensor.name());
    }
    for (key, value) in reference.metadata().iter() {
        assert_eq!(written.metadata().get(key), Some(value), "{key}");
    }
}

#[test]
fn gguf_adapters_of_another_base_are_refused() {
    let path = fixture("reference/lora_gguf/llama-all_linear.gguf");
    let error =
        Adapter::open_for(&path, &config(&base("qwen2"))).expect_err("another architecture");
    let text = error.to_string();
    assert!(text.contains("general.architecture: expected qwen2, found llama"), "{text}");
    let model = fixture("reference/gguf/models/llama-f16.gguf");
    let error = Adapter::open_for(&model, &config(&base("llama"))).expect_err("a model");
    assert!(matches!(error, AdapterError::Config { .. }), "{error}");
    assert!(error.to_string().contains("general.type: expected adapter"), "{error}");
}

#[test]
fn mlx_folders_are_read() {
    for (kind, rank, modules) in [("lora", 4, 7), ("dora", 2, 8)] {
        let path = fixture(&format!("reference/lora_mlx/{kind}"));
        let adapter = Adapter::open(&path).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((adapter.config.rank, adapter.modules.len()), (rank, modules), "{kind}");
        assert_eq!(adapter.config.use_dora, kind == "dora");
        // What is written for PEFT is the same adapter.
        let out = tempfile::tempdir().expect("folder");
        adapter.save(out.path()).expect("written");
        let again = Adapter::open(out.path()).unwrap_or_else(|error| panic!("{error}"));
        for (module, tensors) in &adapter.modules {
            assert!(same(&again.modules[module].a, &tensors.a), "{kind} {module}");
            assert!(same(&again.modules[module].b, &tensors.b), "{kind} {module}");
            let scaling = |adapter: &Adapter| adapter.scaling(module).expect("a scaling");
            assert!((scaling(&again) - scaling(&adapter)).abs() < 1e-12, "{kind} {module}");
        }
    }
}

#[test]
fn wrong_mlx_folders_are_refused() {
    let out = tempfile::tempdir().expect("folder");
    let source = fixture("reference/lora_mlx/lora");
    std::fs::copy(source.join("adapters.safetensors"), out.path().join("adapters.safetensors"))
        .expect("copied");
    let config = json(&source.join("adapter_config.json"));
    for (key, value, words) in [
        ("fine_tune_type", serde_json::json!("prefix"), "fine_tune_type: expected \"lora\""),
        (
            "lora_parameters",
            serde_json::json!({"rank": 4}),
            "lora_parameters.scale: expected a number",
        ),
        ("lora_parameters", serde_json::json!({"rank": 8, "scale": 1.0}), "[8, 160]"),
    ] {
        let mut config = config.clone();
        config[key] = value;
        std::fs::write(out.path().join("adapter_config.json"), config.to_string())
            .expect("written");
        let error = Adapter::open(out.path()).expect_err("wrong").to_string();
        assert!(error.contains(words), "{error}");
    }
}
