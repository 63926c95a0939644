//! Checkpoints of both formats against each other.

use half::f16;
use metal_candle::formats::{
    Checkpoint, Container, FormatError, GgufFile, RawTensor, SafetensorsFile, TokenizerSource,
};
use metal_candle::quant::{Encoding, dequantize};
use serde_json::Value;

use super::fixture;

fn values(tensor: &RawTensor) -> Vec<f32> {
    let mut values = vec![0.0; tensor.elements()];
    dequantize(tensor.encoding, &tensor.bytes, &mut values).unwrap();
    values
}

/// Proves names, shapes and the order of query and key rows.
#[test]
fn a_gguf_file_holds_the_tensors_of_the_model_it_was_made_from() {
    for name in ["llama", "llama3"] {
        let gguf = Checkpoint::open(&fixture(&format!("gguf/models/{name}-f16.gguf"))).unwrap();
        let folder = fixture(&format!("models/{name}"));
        let original = Checkpoint::open(&folder).unwrap();
        let names: Vec<String> = original.infos().map(|info| info.name).collect();
        assert_eq!(names.len(), 21);
        for name in names {
            let original = original.tensor(&name).unwrap();
            let tensor = gguf.tensor_of_shape(&name, &original.shape).unwrap();
            assert_eq!(tensor.name, name);
            let one_dimensional = tensor.shape.len() == 1;
            let encoding = if one_dimensional { Encoding::F32 } else { Encoding::F16 };
            assert_eq!(tensor.encoding, encoding);
            for (i, (value, original)) in values(&tensor).iter().zip(values(&original)).enumerate()
            {
                let expected =
                    if one_dimensional { original } else { f16::from_f32(original).to_f32() };
                assert_eq!(value.to_bits(), expected.to_bits(), "{name}[{i}]");
            }
        }
    }
}

/// The same model in blocks: near the original, and nearer than to its rows in another order.
#[test]
fn rows_of_blocks_are_reordered_too() {
    let original = Checkpoint::open(&fixture("models/llama")).unwrap();
    for (file, bound) in [("llama-q8_0.gguf", 0.01), ("llama-q4_0.gguf", 0.15)] {
        let packed = Checkpoint::open(&fixture("gguf/models").join(file)).unwrap();
        for name in ["q_proj", "k_proj", "v_proj"] {
            let name = format!("model.layers.1.self_attn.{name}.weight");
            let expected = values(&original.tensor(&name).unwrap());
            let tensor = packed.tensor(&name).unwrap();
            assert!(tensor.encoding.is_packed());
            let largest = expected.iter().fold(0.0f32, |max, v| max.max(v.abs()));
            for (value, expected) in values(&tensor).iter().zip(&expected) {
                assert!((value - expected).abs() <= bound * largest, "{file} {name}");
            }
        }
    }
}

#[test]
fn tensors_are_borrowed_unless_their_rows_move() {
    let gguf = Checkpoint::open(&fixture("gguf/models/llama-q4_0.gguf")).unwrap();
    // A part of the map lies where it lies; a copy is made anew each time.
    let borrowed = |checkpoint: &Checkpoint, name: &str| {
        let [one, other] = [(); 2].map(|()| checkpoint.tensor(name).unwrap().bytes);
        one.as_ptr() == other.as_ptr()
    };
    assert!(borrowed(&gguf, "model.embed_tokens.weight"));
    assert!(borrowed(&gguf, "model.layers.0.self_attn.v_proj.weight"));
    assert!(!borrowed(&gguf, "model.layers.0.self_attn.q_proj.weight"));
    let folder = Checkpoint::open(&fixture("models/llama")).unwrap();
    assert!(borrowed(&folder, "model.layers.0.self_attn.q_proj.weight"));
}

#[test]
fn a_gguf_configuration_says_what_config_json_says() {
    for name in ["llama", "llama3"] {
        let gguf = Checkpoint::open(&fixture(&format!("gguf/models/{name}-f16.gguf"))).unwrap();
        let original = Checkpoint::open(&fixture(&format!("models/{name}"))).unwrap();
        for field in [
            "model_type",
            "hidden_act",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "vocab_size",
            "max_position_embeddings",
            "rms_norm_eps",
            "rope_theta",
            "tie_word_embeddings",
            "attention_bias",
            "mlp_bias",
            "bos_token_id",
            "eos_token_id",
        ] {
            let (found, expected) = (gguf.config().get(field), original.config().get(field));
            assert!(found.is_some(), "{field}");
            assert_eq!(found, expected, "{name} {field}");
        }
        // Llama 3's frequencies are a tensor in GGUF.
        assert_eq!(gguf.config().get("rope_scaling"), Some(&Value::Null));
        assert_eq!(gguf.contains("rope_freqs.weight"), name == "llama3");
        assert_eq!(gguf.architecture().unwrap(), "llama");
        assert_eq!(gguf.format_name(), "GGUF");
        assert_eq!(original.architecture().unwrap(), "llama");
        assert_eq!(original.format_name(), "safetensors");
        assert_eq!(original.generation_config(), None);
    }
}

#[test]
fn errors_name_the_file_the_tensor_and_both_shapes() {
    let path = fixture("gguf/models/llama-f16.gguf");
    let gguf = Checkpoint::open(&path).unwrap();
    let at = path.display();

    let name = "model.layers.0.self_attn.q_proj.weight";
    assert_eq!(
        gguf.tensor_of_shape(name, &[64, 32]).unwrap_err().to_string(),
        format!("{at}: tensor {name}: expected shape [64, 32], found [64, 64]")
    );
    assert_eq!(
        gguf.tensor("model.layers.0.self_attn.q_proj.bias").unwrap_err().to_string(),
        format!(
            "{at}: tensor model.layers.0.self_attn.q_proj.bias (blk.0.attn_q.bias): not in the \
             file; similar: blk.0.attn_q.weight"
        )
    );
    assert!(!gguf.contains("model.layers.2.self_attn.q_proj.weight"));
    // llama.cpp's name would give rows in llama.cpp's order.
    assert!(!gguf.contains("blk.0.attn_q.weight"));
    assert!(matches!(gguf.tensor("blk.0.attn_q.weight"), Err(FormatError::MissingTensor { .. })));

    let folder = fixture("models/llama");
    let reference = SafetensorsFile::open(&folder.join("reference.safetensors")).unwrap();
    assert!(reference.get("logits").is_some());
    let error = reference.tensor("logit").unwrap_err();
    assert!(error.to_string().ends_with("tensor logit: not in the file"), "{error}");
}

#[test]
fn types_without_a_decoder_are_listed_but_not_loaded() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("models/llama/config.json"), folder.path().join("config.json")).unwrap();
    let weights = folder.path().join("model.safetensors");
    std::fs::copy(fixture("models/llama/reference.safetensors"), &weights).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let ids = checkpoint.infos().find(|info| info.name == "input_ids").unwrap();
    assert_eq!((ids.type_name.as_str(), ids.bytes), ("I64", 2 * 40 * 8));
    assert_eq!(
        checkpoint.tensor("input_ids").unwrap_err().to_string(),
        format!(
            "{}: tensor input_ids: expected one of {}, found the unsupported type I64",
            weights.display(),
            Encoding::ALL.map(Encoding::name).join(", ")
        )
    );
}

#[test]
fn metadata_and_types_are_there_to_inspect() {
    let file = GgufFile::open(&fixture("gguf/models/llama3-f16.gguf")).unwrap();
    assert_eq!(file.version(), 3);
    let metadata = file.metadata();
    assert_eq!(metadata.len(), 25);
    assert_eq!(metadata.str("tokenizer.ggml.model").unwrap(), Some("gpt2"));
    assert_eq!(metadata.strings("tokenizer.ggml.tokens").unwrap().map(<[_]>::len), Some(512));
    assert_eq!(metadata.bool("tokenizer.ggml.add_bos_token").unwrap(), Some(false));
    assert_eq!(metadata.f32("llama.rope.freq_base").unwrap(), Some(500_000.0));
    let types = metadata.integers("tokenizer.ggml.token_type").unwrap().unwrap();
    assert_eq!(types[..4], [3, 3, 3, 1]);
    let embedding = file.tensor("token_embd.weight").unwrap().info();
    assert_eq!(embedding.shape, [512, 64]);
    assert_eq!((embedding.type_name.as_str(), embedding.bytes), ("F16", 512 * 64 * 2));
}

#[test]
fn a_tokenizer_is_found_where_it_belongs() {
    let from_file = Checkpoint::open(&fixture("gguf/models/llama-f16.gguf")).unwrap();
    assert!(matches!(from_file.tokenizer(), TokenizerSource::Gguf(_)));
    let none = Checkpoint::open(&fixture("models/llama")).unwrap();
    assert!(matches!(none.tokenizer(), TokenizerSource::None));

    let folder = tempfile::tempdir().unwrap();
    let gguf = folder.path().join("any-name.gguf");
    std::fs::copy(fixture("gguf/models/llama-q4_0.gguf"), &gguf).unwrap();
    std::fs::write(folder.path().join("generation_config.json"), r#"{"eos_token_id": [1, 2]}"#)
        .unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert!(matches!(checkpoint.tokenizer(), TokenizerSource::Gguf(_)));
    assert_eq!(checkpoint.generation_config().unwrap()["eos_token_id"][1], 2);
    assert_eq!(checkpoint.generation_eos(), [1, 2]);
    assert_eq!(checkpoint.path(), folder.path());
    assert_eq!(checkpoint.gguf().unwrap().path(), gguf);

    let tokenizer = folder.path().join("tokenizer.json");
    std::fs::write(&tokenizer, "{}").unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert!(matches!(checkpoint.tokenizer(), TokenizerSource::File(path) if path == tokenizer));

    std::fs::copy(&gguf, folder.path().join("second.gguf")).unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(error.ends_with("or exactly one .gguf file (found 2)"), "{error}");
}

#[test]
fn a_folder_without_weights_or_configuration_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(error.ends_with("or exactly one .gguf file (found 0)"), "{error}");
    let control = fixture("malformed/ok_control.safetensors");
    std::fs::copy(control, folder.path().join("model.safetensors")).unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(error.ends_with("expected config.json beside the weights"), "{error}");
    std::fs::write(folder.path().join("config.json"), "[]").unwrap();
    assert!(matches!(Checkpoint::open(folder.path()), Err(FormatError::BadConfig { .. })));
    std::fs::write(folder.path().join("config.json"), "{}").unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let error = checkpoint.architecture().unwrap_err().to_string();
    assert!(error.ends_with("expected a string for `model_type`, found no such field"), "{error}");
    assert!(matches!(Checkpoint::open(&folder.path().join("absent")), Err(FormatError::Io { .. })));
    assert!(matches!(Container::open(folder.path()), Ok(Container::Safetensors(_))));
}
