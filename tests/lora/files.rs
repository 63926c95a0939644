//! PEFT folders: what is read, and what is refused with which words.

use std::{collections::BTreeMap, fs, path::Path};

use metal_candle::{
    adapters::{Adapter, CONFIG_FILE, LoraConfig, TargetModules, peft},
    nn::{Slot, SlotKind, SlotTable},
    quant::Encoding,
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Map, Value, json};

use crate::support::fixture;

/// The slots of the fixture models: two layers, width 64, feed-forward 160.
fn slots() -> SlotTable {
    let mut table = SlotTable::default();
    let mut add = |path: String, [out, columns]: [usize; 2], kind| {
        table
            .insert(path, Slot { kind, group: 0, rows: 0..out, columns, bias: false, tied: false });
    };
    for layer in 0..2 {
        for (name, shape) in [
            ("self_attn.q_proj", [64, 64]),
            ("self_attn.k_proj", [32, 64]),
            ("self_attn.v_proj", [32, 64]),
            ("self_attn.o_proj", [64, 64]),
            ("mlp.gate_proj", [160, 64]),
            ("mlp.up_proj", [160, 64]),
            ("mlp.down_proj", [64, 160]),
        ] {
            add(format!("model.layers.{layer}.{name}"), shape, SlotKind::Linear);
        }
    }
    add("model.embed_tokens".into(), [512, 64], SlotKind::Embedding);
    add("lm_head".into(), [512, 64], SlotKind::Linear);
    table
}

fn document(folder: &Path) -> Map<String, Value> {
    let text = fs::read(folder.join(CONFIG_FILE)).expect("configuration");
    serde_json::from_slice(&text).expect("an object")
}

/// A copy of `all_linear` with a changed configuration and changed tensors.
struct Changed {
    folder: tempfile::TempDir,
}

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

impl Changed {
    fn new(config: &Value, change: impl FnOnce(&mut Tensors)) -> Self {
        let source = fixture("reference/lora/llama/all_linear");
        let mut document = document(&source);
        document.extend(config.as_object().expect("an object").clone());
        let bytes = fs::read(source.join(peft::WEIGHTS_FILE)).expect("weights");
        let file = SafeTensors::deserialize(&bytes).expect("safetensors");
        let mut tensors: Tensors = file
            .tensors()
            .into_iter()
            .map(|(name, view)| {
                let name = name.strip_prefix(peft::PREFIX).expect("PEFT's prefix").to_owned();
                (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
            })
            .collect();
        change(&mut tensors);
        let folder = tempfile::tempdir().expect("folder");
        fs::write(folder.path().join(CONFIG_FILE), Value::Object(document).to_string())
            .expect("written");
        let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
            let view = TensorView::new(*dtype, shape.clone(), bytes).expect("its bytes");
            (format!("{}{name}", peft::PREFIX), view)
        });
        safetensors::serialize_to_file(views, None, &folder.path().join(peft::WEIGHTS_FILE))
            .expect("written");
        Self { folder }
    }

    fn error(&self) -> String {
        let read = Adapter::open(self.folder.path());
        let error = match read.and_then(|adapter| adapter.check_base(&slots())) {
            Ok(()) => panic!("it was taken"),
            Err(error) => error.to_string(),
        };
        assert!(!error.contains('\n'), "more than one line: {error}");
        error
    }
}

fn f32s(count: usize) -> Vec<u8> {
    0.5f32.to_le_bytes().repeat(count)
}

const Q: &str = "model.layers.0.self_attn.q_proj";

#[test]
fn reference_adapters_are_read() {
    for arch in ["llama", "qwen2"] {
        let open = |name: &str| {
            let folder = fixture(&format!("reference/lora/{arch}/{name}"));
            let adapter = Adapter::open(&folder).expect(name);
            adapter.check_base(&slots()).expect(name);
            // Nothing is lost of a configuration, known or not.
            assert_eq!(adapter.config.to_json(), document(&folder), "{arch} {name}");
            adapter
        };
        let all = open("all_linear");
        assert_eq!((all.modules.len(), all.saved.len()), (14, 0));
        assert_eq!(all.scaling(Q).expect("rules").to_bits(), 2.0f64.to_bits());
        let q = &all.modules[Q];
        assert_eq!((q.a.shape.as_slice(), q.b.shape.as_slice()), (&[4, 64][..], &[64, 4][..]));
        assert!(all.values(&q.b).expect("values").iter().any(|v| *v != 0.0));

        let patterns = open("rslora_qv");
        assert_eq!(patterns.modules.len(), 4);
        let of = |module: &str| {
            let path = format!("model.layers.{module}");
            (patterns.modules[&path].rank(), patterns.scaling(&path).expect("rules"))
        };
        assert_eq!(of("0.self_attn.q_proj"), (4, 8.0 / 2.0));
        assert_eq!(of("0.self_attn.v_proj"), (4, 4.0 / 2.0));
        assert_eq!(of("1.self_attn.q_proj"), (6, 8.0 / 6f64.sqrt()));

        let dora = open("dora");
        assert!(dora.config.use_dora);
        let magnitudes = dora.modules.values().map(|module| &module.magnitude);
        assert!(magnitudes.clone().all(Option::is_some) && magnitudes.count() == 6);
        for name in ["train/initial", "train/final"] {
            assert_eq!(open(name).modules.len(), 14);
        }
    }
}

#[test]
fn only_what_changes_is_written_anew() {
    let folder = fixture("reference/lora/llama/rslora_qv");
    let adapter = Adapter::open(&folder).expect("adapter");
    let mut want = document(&folder);
    let mut config = adapter.config.clone();
    config.alpha = 12.5;
    config.modules_to_save = vec!["lm_head".into()];
    want.insert("lora_alpha".into(), json!(12.5));
    want.insert("modules_to_save".into(), json!(["lm_head"]));
    assert_eq!(config.to_json(), want);
    // Other spellings of the same stay.
    let mut document = want.clone();
    document.insert("lora_alpha".into(), json!(8.0));
    document.insert("layers_pattern".into(), json!("layers"));
    document.remove("use_dora");
    let read = LoraConfig::from_json(document.clone(), &folder).expect("valid");
    assert_eq!(read.to_json(), document);
    let new = LoraConfig::new(8, 16.0, TargetModules::AllLinear);
    let again = LoraConfig::from_json(new.to_json(), &folder).expect("valid").to_json();
    assert_eq!(again, new.to_json());
}

#[test]
fn saved_modules_are_read() {
    let head = |tensors: &mut Tensors| {
        tensors.insert("lm_head.weight".into(), (Dtype::F32, vec![512, 64], f32s(512 * 64)));
    };
    let changed = Changed::new(&json!({"modules_to_save": ["lm_head"]}), head);
    let adapter = Adapter::open(changed.folder.path()).expect("read");
    adapter.check_base(&slots()).expect("fits");
    assert_eq!(adapter.saved["lm_head.weight"].encoding, Encoding::F32);
    // Resized vocabularies are stored without being named.
    Adapter::open(Changed::new(&json!({}), head).folder.path()).expect("read");
}

#[test]
fn wrong_adapters_are_refused_with_names_and_shapes() {
    let a = format!("{Q}.lora_A.weight");
    let b = format!("{Q}.lora_B.weight");
    let cases: Vec<(Changed, &[&str])> = vec![
        (
            Changed::new(&json!({}), |t| {
                t.insert(a.clone(), (Dtype::F32, vec![4, 96], f32s(4 * 96)));
            }),
            &[
                "q_proj.lora_A.weight: expected shape [4, 64]",
                "64 inputs",
                "models/llama",
                "found [4, 96]",
            ],
        ),
        (
            Changed::new(&json!({}), |t| {
                t.insert(b.clone(), (Dtype::F32, vec![96, 4], f32s(4 * 96)));
            }),
            &["q_proj.lora_B.weight: expected shape [64, 4]", "64 outputs", "found [96, 4]"],
        ),
        (
            Changed::new(&json!({}), |t| {
                t.remove(&a);
            }),
            &["q_proj.lora_A.weight: expected shape [4, in]", "found no such tensor"],
        ),
        (
            Changed::new(&json!({}), |t| {
                t.remove(&a);
                t.remove(&b);
            }),
            &["q_proj.lora_A.weight: expected shape [4, 64]", "targets this module"],
        ),
        (
            Changed::new(&json!({}), |t| {
                t.insert(
                    "model.layers.7.mlp.up_proj.lora_A.weight".into(),
                    (Dtype::F32, vec![4, 64], f32s(256)),
                );
                t.insert(
                    "model.layers.7.mlp.up_proj.lora_B.weight".into(),
                    (Dtype::F32, vec![160, 4], f32s(640)),
                );
            }),
            &[
                "layers.7.mlp.up_proj.lora_A.weight",
                "a module of it; it has",
                "model.layers.0.mlp.up_proj",
                "found shape [4, 64]",
            ],
        ),
        (
            Changed::new(&json!({"target_modules": ["q_proj"]}), |_| ()),
            &["only modules that the configuration targets", "found shape [4, 160]"],
        ),
        (
            Changed::new(&json!({"r": 8}), |_| ()),
            &["expected shape [8, 160]", "rank 8", "found [4, 160]"],
        ),
        (
            Changed::new(&json!({"use_dora": true}), |_| ()),
            &["lora_magnitude_vector: expected shape [64]", "use_dora"],
        ),
        (
            Changed::new(&json!({}), |t| {
                t.insert(format!("{Q}.lora_magnitude_vector"), (Dtype::F32, vec![64], f32s(64)));
            }),
            &["lora_magnitude_vector: expected no magnitudes"],
        ),
        (
            Changed::new(&json!({}), |t| {
                t.insert(a.clone(), (Dtype::I32, vec![4, 64], f32s(256)));
            }),
            &["q_proj.lora_A.weight: expected F32, F16 or BF16, found I32"],
        ),
        (
            Changed::new(&json!({"modules_to_save": ["lm_head"]}), |_| ()),
            &["lm_head.weight: expected shape [512, 64]", "modules_to_save"],
        ),
        (
            Changed::new(&json!({}), |t| {
                t.insert("model.norm.weight".into(), (Dtype::F32, vec![64], f32s(64)));
            }),
            &["model.norm.weight", "modules_to_save"],
        ),
        (
            Changed::new(&json!({}), |t| {
                t.insert(
                    "model.embed_tokens.lora_embedding_A".into(),
                    (Dtype::F32, vec![4, 512], f32s(2048)),
                );
            }),
            &["lora_embedding_A: expected lora_A.weight"],
        ),
        (
            Changed::new(&json!({"bias": "all"}), |_| ()),
            &["key bias: expected \"none\"", "found \"all\""],
        ),
        (
            Changed::new(&json!({"peft_type": "LOHA"}), |_| ()),
            &["key peft_type: expected \"LORA\""],
        ),
        (Changed::new(&json!({"lora_bias": true}), |_| ()), &["key lora_bias", "not supported"]),
        (
            Changed::new(&json!({"init_lora_weights": "pissa_niter_4"}), |_| ()),
            &["key init_lora_weights", "pissa_niter_4"],
        ),
        (Changed::new(&json!({"r": 0}), |_| ()), &["key r: expected a rank", "found 0"]),
        (Changed::new(&json!({"lora_alpha": "8"}), |_| ()), &["key lora_alpha: expected a number"]),
        (
            Changed::new(&json!({"target_modules": null}), |_| ()),
            &["key target_modules", "all-linear"],
        ),
        (
            Changed::new(&json!({"target_modules": "("}), |_| ()),
            &["key target_modules", "regular expression"],
        ),
    ];
    for (changed, words) in cases {
        let error = changed.error();
        for word in words {
            assert!(error.contains(word), "{word:?} is not in: {error}");
        }
    }
}

#[test]
fn broken_folders_are_refused() {
    let changed = Changed::new(&json!({}), |_| ());
    let weights = changed.folder.path().join(peft::WEIGHTS_FILE);
    let bytes = fs::read(&weights).expect("weights");
    fs::write(&weights, &bytes[..bytes.len() - 5]).expect("written");
    let error = changed.error();
    assert!(error.contains(peft::WEIGHTS_FILE) && error.contains("are left"), "{error}");
    fs::remove_file(&weights).expect("removed");
    fs::write(changed.folder.path().join("adapter_model.bin"), b"pickle").expect("written");
    assert!(changed.error().contains("adapter_model.bin runs code"), "{}", changed.error());
    fs::write(changed.folder.path().join(CONFIG_FILE), b"[1]").expect("written");
    assert!(changed.error().contains("expected a JSON object"), "{}", changed.error());
    fs::remove_file(changed.folder.path().join(CONFIG_FILE)).expect("removed");
    assert!(changed.error().contains("adapter_config.json"), "{}", changed.error());
}
