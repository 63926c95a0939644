//! GGUF files made here, for what the reference files do not hold: scaled rotary embeddings,
//! defaults, contradictions, parts of split models.

use metal_candle::formats::{Checkpoint, Result};
use metal_candle::quant::Encoding;
use serde_json::{Value, json};

enum Meta {
    U32(u32),
    F32(f32),
    Str(&'static str),
    U32s(&'static [u32]),
}
use Meta::{F32, Str, U32, U32s};

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// A version 2 file of one F32 tensor after another, each counting up from 0.
fn gguf(metadata: &[(&str, Meta)], tensors: &[(&str, &[u16])]) -> Vec<u8> {
    let mut bytes = [b"GGUF".as_slice(), &2u32.to_le_bytes()].concat();
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        bytes.extend(string(key));
        let (ty, value) = match value {
            U32(v) => (4u32, v.to_le_bytes().to_vec()),
            F32(v) => (6, v.to_le_bytes().to_vec()),
            Str(v) => (8, string(v)),
            U32s(v) => {
                let mut array =
                    [4u32.to_le_bytes().as_slice(), &(v.len() as u64).to_le_bytes()].concat();
                array.extend(v.iter().flat_map(|v| v.to_le_bytes()));
                (9, array)
            }
        };
        bytes.extend(ty.to_le_bytes());
        bytes.extend(value);
    }
    let mut data: Vec<u8> = Vec::new();
    for (name, shape) in tensors {
        bytes.extend(string(name));
        bytes.extend(u32::try_from(shape.len()).unwrap().to_le_bytes());
        for &dim in shape.iter().rev() {
            bytes.extend(u64::from(dim).to_le_bytes());
        }
        bytes.extend(0u32.to_le_bytes());
        bytes.extend((data.len() as u64).to_le_bytes());
        let elements: u16 = shape.iter().product();
        data.extend((0..elements).flat_map(|i| f32::from(i).to_le_bytes()));
        data.resize(data.len().next_multiple_of(32), 0);
    }
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes.extend(data);
    bytes
}

/// The keys that a model cannot do without: width 8, four heads, two of them for keys and values.
fn llama() -> Vec<(&'static str, Meta)> {
    vec![
        ("general.architecture", Str("llama")),
        ("llama.context_length", U32(32)),
        ("llama.embedding_length", U32(8)),
        ("llama.block_count", U32(1)),
        ("llama.feed_forward_length", U32(16)),
        ("llama.attention.head_count", U32(4)),
        ("llama.attention.layer_norm_rms_epsilon", F32(1e-6)),
    ]
}

fn open(metadata: &[(&str, Meta)], tensors: &[(&str, &[u16])]) -> Result<Checkpoint> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, gguf(metadata, tensors)).unwrap();
    Checkpoint::open(&path)
}

const EMBEDDING: (&str, &[u16]) = ("token_embd.weight", &[6, 8]);

fn open_with(more: Vec<(&'static str, Meta)>) -> Result<Checkpoint> {
    let mut metadata = llama();
    metadata.extend(more);
    open(&metadata, &[EMBEDDING])
}

#[test]
fn what_a_file_leaves_out_has_its_defaults() {
    let checkpoint = open_with(Vec::new()).unwrap();
    let expected = json!({
        "model_type": "llama", "hidden_act": "silu", "hidden_size": 8, "intermediate_size": 16,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 2,
        "vocab_size": 6, "max_position_embeddings": 32, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "rope_scaling": null, "tie_word_embeddings": true,
        "attention_bias": false, "mlp_bias": false,
        "bos_token_id": null, "eos_token_id": null, "pad_token_id": null,
    });
    assert_eq!(checkpoint.config(), &expected);
    assert!(!checkpoint.contains("lm_head.weight"));
}

#[test]
fn rotary_scaling_is_passed_on() {
    let scaling = |more| open_with(more).unwrap().config()["rope_scaling"].clone();
    assert_eq!(scaling(vec![("llama.rope.scaling.type", Str("none"))]), Value::Null);
    assert_eq!(
        scaling(vec![("llama.rope.scale_linear", F32(2.0))]),
        json!({"rope_type": "linear", "type": "linear", "factor": 2.0})
    );
    assert_eq!(
        scaling(vec![
            ("llama.rope.scaling.type", Str("yarn")),
            ("llama.rope.scaling.factor", F32(4.0)),
            ("llama.rope.scaling.original_context_length", U32(4096)),
            ("llama.rope.scaling.yarn_beta_fast", F32(16.0)),
        ]),
        json!({
            "rope_type": "yarn", "type": "yarn", "factor": 4.0,
            "original_max_position_embeddings": 4096, "beta_fast": 16.0,
        })
    );
}

#[test]
fn contradictions_name_the_key() {
    for (more, expected) in [
        (
            ("llama.attention.head_count_kv", U32(3)),
            "key llama.attention.head_count_kv: expected a divisor of 4 heads, found the u32 3",
        ),
        (
            ("llama.attention.head_count_kv", U32s(&[4, 2])),
            "expected one positive whole number, found array of u32 of 2 values",
        ),
        (
            ("llama.attention.head_count_kv", U32(0)),
            "expected one positive whole number, found the u32 0",
        ),
        (
            ("llama.rope.dimension_count", U32(4)),
            "key llama.rope.dimension_count: expected the head size 2, found the u32 4",
        ),
        (
            ("llama.rope.freq_base", F32(f32::INFINITY)),
            "key llama.rope.freq_base: expected a finite float, found the f32 inf",
        ),
        (
            ("llama.rope.scaling.type", Str("linear")),
            "key llama.rope.scaling.factor: expected a float, found no such key",
        ),
        (("split.count", U32(3)), "key split.no: expected a whole number, found no such key"),
    ] {
        let error = open_with(vec![more]).unwrap_err().to_string();
        assert!(error.ends_with(expected), "{error}");
    }
    for (i, (key, _)) in llama().iter().enumerate() {
        let mut metadata = llama();
        metadata.remove(i);
        let error = open(&metadata, &[EMBEDDING]).unwrap_err().to_string();
        assert!(
            error.contains(&format!("key {key}: ")) && error.ends_with("no such key"),
            "{error}"
        );
    }
    let error = open(&llama(), &[]).unwrap_err().to_string();
    assert!(error.contains("key llama.vocab_size: expected a positive"), "{error}");
}

#[test]
fn one_number_for_all_layers_may_be_an_array() {
    let checkpoint = open_with(vec![("llama.attention.head_count_kv", U32s(&[2, 2]))]).unwrap();
    assert_eq!(checkpoint.config()["num_key_value_heads"], 2);
}

fn floats(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let tensor = checkpoint.tensor(name).unwrap();
    assert_eq!(tensor.encoding, Encoding::F32);
    let (words, _) = tensor.bytes.as_chunks::<4>();
    words.iter().map(|&word| f32::from_le_bytes(word)).collect()
}

/// Two heads of four: the file's rows 0 1 2 3 are the model's 0 2 1 3.
#[test]
fn query_and_key_biases_are_reordered_for_llama_alone() {
    let tensors: &[(&str, &[u16])] = &[
        EMBEDDING,
        ("blk.0.attn_q.bias", &[8]),
        ("blk.0.attn_k.bias", &[4]),
        ("blk.0.attn_v.bias", &[4]),
    ];
    let numbers = |architecture: &'static str| {
        let mut metadata: Vec<(String, Meta)> = llama()
            .into_iter()
            .skip(1)
            .map(|(key, value)| (key.replace("llama.", &format!("{architecture}.")), value))
            .collect();
        metadata.push(("general.architecture".to_owned(), Str(architecture)));
        metadata.push((format!("{architecture}.attention.key_length"), U32(4)));
        metadata.push((format!("{architecture}.attention.head_count_kv"), U32(1)));
        metadata.retain(|(key, _)| !key.ends_with("head_count"));
        metadata.push((format!("{architecture}.attention.head_count"), U32(2)));
        let metadata: Vec<(&str, Meta)> =
            metadata.iter_mut().map(|(k, v)| (k.as_str(), std::mem::replace(v, U32(0)))).collect();
        open(&metadata, tensors).unwrap()
    };
    let [q, k, v] = ["q", "k", "v"].map(|p| format!("model.layers.0.self_attn.{p}_proj.bias"));
    let llama = numbers("llama");
    assert_eq!(llama.config()["attention_bias"], true);
    assert_eq!(floats(&llama, &q)[..], [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
    assert_eq!(floats(&llama, &k)[..], [0.0, 2.0, 1.0, 3.0]);
    assert_eq!(floats(&llama, &v)[..], [0.0, 1.0, 2.0, 3.0]);
    let qwen2 = numbers("qwen2");
    assert_eq!(qwen2.architecture().unwrap(), "qwen2");
    assert_eq!(floats(&qwen2, &q)[..4], [0.0, 1.0, 2.0, 3.0]);
}

#[test]
fn rows_that_do_not_fit_the_heads_are_an_error() {
    let checkpoint = open(&llama(), &[EMBEDDING, ("blk.0.attn_q.weight", &[6, 8])]).unwrap();
    let name = "model.layers.0.self_attn.q_proj.weight";
    let error = checkpoint.tensor(name).unwrap_err().to_string();
    assert!(
        error.ends_with("tensor blk.0.attn_q.weight: expected rows for 4 heads of an even size, found F32 of shape [6, 8]"),
        "{error}"
    );
    let error = checkpoint.tensor_of_shape(name, &[8, 8]).unwrap_err().to_string();
    assert!(error.ends_with("expected shape [8, 8], found [6, 8]"), "{error}");
}
