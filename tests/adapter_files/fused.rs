//! Models with adapters merged into them, against PEFT's merged logits.

use metal_candle::{
    adapters::{LoraConfig, fuse::fuse},
    quant::Encoding,
};

use super::*;
use crate::support::max_abs_diff;

/// `fixtures/README.md`.
const LOGITS: f32 = 2e-4;

#[test]
fn fused_models_give_the_merged_logits() {
    for (arch, name) in ADAPTERS {
        let (base, adapter) = (base(arch), open(arch, name));
        let golden = Golden::open(&format!("reference/lora/{arch}/{name}/reference.safetensors"));
        let want = golden.f32("logits_merged");
        let out = tempfile::tempdir().expect("folder");
        for file in ["folder", "model.gguf"] {
            let path = out.path().join(file);
            let fused = fuse(&base, &[(&adapter, 1.0)], &path, None).expect("fused");
            assert_eq!(fused.merged, adapter.modules.len(), "{arch} {name}");
            let diff = max_abs_diff(&logits(&path, &golden), &want);
            assert!(diff <= LOGITS, "{arch} {name} {file}: logits differ by {diff}");
        }
    }
}

/// An adapter that was trained on a Hugging Face model, in a GGUF model, and the reverse.
#[test]
fn adapters_fit_either_file_of_a_base() {
    for arch in ["llama", "qwen2"] {
        let adapter = open(arch, "all_linear");
        let config = config(&base(arch));
        let out = tempfile::tempdir().expect("folder");
        let as_gguf = out.path().join("adapter.gguf");
        gguf::write(&adapter, &as_gguf, &config).expect("written");
        let as_gguf = Adapter::open_for(&as_gguf, &config).expect("read");
        let golden =
            Golden::open(&format!("reference/lora/{arch}/all_linear/reference.safetensors"));

        let fused = out.path().join("from-folder");
        fuse(&base(arch), &[(&as_gguf, 1.0)], &fused, None).expect("fused");
        let diff = max_abs_diff(&logits(&fused, &golden), &golden.f32("logits_merged"));
        assert!(diff <= LOGITS, "{arch}: a GGUF adapter on a folder: {diff}");

        // The reference is for f32 weights, these are rounded to f16 before: what must agree is
        // the way through the GGUF file and the way around it.
        let f16 = fixture(&format!("reference/gguf/models/{arch}-f16.gguf"));
        let f16 = Checkpoint::open(&f16).expect("checkpoint");
        let (file, folder) = (out.path().join("fused.gguf"), out.path().join("fused"));
        let f32 = Some(Encoding::F32);
        fuse(&f16, &[(&adapter, 1.0)], &file, f32).expect("fused");
        fuse(&f16, &[(&as_gguf, 1.0)], &folder, f32).expect("fused");
        let through = logits(&file, &golden);
        assert_eq!(through, logits(&folder, &golden), "{arch}");
        // Rounding them changes transformers' logits of the bases by up to 0.036.
        let diff = max_abs_diff(&through, &golden.f32("logits_merged"));
        assert!(diff > 0.0 && diff <= 0.15, "{arch}: f16 weights change logits by {diff}");
    }
}

#[test]
fn packed_bases_keep_what_is_not_merged() {
    let base = Checkpoint::open(&fixture("reference/gguf/models/llama-q8_0.gguf")).expect("open");
    let adapter = open("llama", "rslora_qv");
    let out = tempfile::tempdir().expect("folder");
    let path = out.path().join("fused.gguf");
    let fused = fuse(&base, &[(&adapter, 1.0)], &path, None).expect("fused");
    assert_eq!((fused.merged, fused.unpacked), (4, 4));
    assert!(
        fused.notes.iter().any(|note| note.contains("packed in the base")),
        "{:?}",
        fused.notes
    );
    let (before, after) = (base.gguf().expect("GGUF"), GgufFile::open(&path).expect("GGUF"));
    assert_eq!(before.metadata().len(), after.metadata().len());
    for tensor in before.tensors() {
        let written = after.tensor(tensor.name()).expect("it is there");
        let merged = tensor.name().contains("attn_q.w") || tensor.name().contains("attn_v.w");
        if merged {
            assert_eq!(written.ggml_type().name, "F16", "{}", tensor.name());
        } else {
            assert_eq!(after.bytes(written), before.bytes(tensor), "{}", tensor.name());
        }
    }
    // A scale of 0 changes nothing but the rounding of the values that were unpacked.
    let golden = Golden::open("reference/lora/llama/rslora_qv/reference.safetensors");
    let none = out.path().join("none.gguf");
    fuse(&base, &[(&adapter, 0.0)], &none, Some(Encoding::F32)).expect("fused");
    let unmerged = logits(&fixture("reference/gguf/models/llama-q8_0.gguf"), &golden);
    let diff = max_abs_diff(&logits(&none, &golden), &unmerged);
    assert!(diff <= 1e-4, "a scale of 0 changes logits by {diff}");
}

/// mlx-lm's adapters on mlx-lm's logits.
#[test]
fn mlx_adapters_give_the_logits_of_mlx() {
    for kind in ["lora", "dora"] {
        let adapter = Adapter::open(&fixture(&format!("reference/lora_mlx/{kind}"))).expect("open");
        let golden = Golden::open(&format!("reference/lora_mlx/{kind}/reference.safetensors"));
        let out = tempfile::tempdir().expect("folder");
        fuse(&base("qwen2"), &[(&adapter, 1.0)], out.path(), None).expect("fused");
        let diff = max_abs_diff(&logits(out.path(), &golden), &golden.f32("logits"));
        assert!(diff <= LOGITS, "{kind}: logits differ by {diff}");
    }
}

#[test]
fn a_tokenizer_goes_along() {
    use metal_candle::tokenizer::Tokenizer;
    let adapter = open("llama", "all_linear");
    let out = tempfile::tempdir().expect("folder");
    // Llama's GGUF file has a tokenizer; a folder with one is made of it, and a GGUF file of that.
    let gguf = Checkpoint::open(&fixture("reference/gguf/models/llama-f16.gguf")).expect("open");
    let (folder, file) = (out.path().join("folder"), out.path().join("again.gguf"));
    fuse(&gguf, &[(&adapter, 1.0)], &folder, None).expect("fused");
    let as_folder = Checkpoint::open(&folder).expect("a folder");
    let fused = fuse(&as_folder, &[(&adapter, -1.0)], &file, None).expect("fused");
    assert!(fused.notes.is_empty(), "{:?}", fused.notes);
    let again = Checkpoint::open(&file).expect("a file");
    let tokenizers = [&gguf, &as_folder, &again]
        .map(|checkpoint| Tokenizer::from_checkpoint(checkpoint).expect("a tokenizer"));
    for text in ["Hello, world", "  two  spaces\n\nand 123", "naïve café", ""] {
        let [want, rest @ ..] =
            tokenizers.each_ref().map(|tokenizer| tokenizer.encode(text, true).expect("ids"));
        for ids in rest {
            assert_eq!(ids, want, "{text:?}");
        }
    }
    let metadata = |checkpoint: &Checkpoint| {
        let file = checkpoint.gguf().expect("GGUF");
        let keys = ["pre", "tokens", "merges", "token_type", "bos_token_id", "eos_token_id"];
        keys.map(|key| file.metadata().get(&format!("tokenizer.ggml.{key}")).cloned())
    };
    assert_eq!(metadata(&gguf), metadata(&again));

    // Reference folders have none: the file says so and can be read all the same.
    let file = out.path().join("without.gguf");
    let fused = fuse(&base("qwen2"), &[(&open("qwen2", "dora"), 1.0)], &file, None).expect("fused");
    assert!(fused.notes.iter().any(|note| note.contains("no tokenizer")), "{:?}", fused.notes);
}

#[test]
fn wrong_adapters_are_refused_and_nothing_is_written() {
    let out = tempfile::tempdir().expect("folder");
    let path = out.path().join("fused.gguf");
    let adapter = open("llama", "all_linear");
    let checkpoint = Checkpoint::open(&fixture("models/shakespeare-llama")).expect("checkpoint");
    let error = fuse(&checkpoint, &[(&adapter, 1.0)], &path, None).expect_err("another base");
    let text = error.to_string();
    assert!(text.contains("expected shape") && text.contains("_proj.lora_A.weight"), "{text}");

    // Of its own base, but without the matrices of a module that it targets.
    let mut adapter = adapter;
    let (module, _) = adapter.modules.pop_first().expect("modules");
    let error = fuse(&base("llama"), &[(&adapter, 1.0)], &path, None).expect_err("incomplete");
    let text = error.to_string();
    assert!(text.contains(&module) && text.contains("targets this module"), "{text}");
    assert_eq!(std::fs::read_dir(out.path()).expect("folder").count(), 0);
}

/// A trained token embedding is not the output layer's, unless the adapter says that it is.
#[test]
fn a_trained_embedding_leaves_the_output_layer_alone() {
    let base = base("qwen2");
    let golden = Golden::open("reference/models/qwen2/reference.safetensors");
    let (ids, vocabulary) = (golden.ids("input_ids").concat(), 512);
    let unseen = (1..vocabulary).find(|id| !ids.contains(&(*id as u32))).expect("a token");
    let name = "model.embed_tokens.weight";
    let mut embedding = base.tensor(name).expect("embedding");
    let mut bytes = embedding.bytes.to_vec();
    let row = bytes.len() / vocabulary;
    bytes[unseen * row..(unseen + 1) * row].fill(0);
    embedding.bytes = bytes.into();

    let plain = logits(&fixture("reference/models/qwen2"), &golden);
    for ties in [false, true] {
        let document = serde_json::json!({"peft_type": "LORA", "r": 1, "lora_alpha": 1,
            "target_modules": [], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": ties});
        let Value::Object(document) = document else { unreachable!() };
        let config = LoraConfig::from_json(document, Path::new("config")).expect("valid");
        let adapter = Adapter {
            config,
            modules: [].into(),
            saved: [(name.to_owned(), embedding.clone())].into(),
            file: "adapter".into(),
        };
        let out = tempfile::tempdir().expect("folder");
        for file in ["folder", "model.gguf"] {
            let path = out.path().join(file);
            fuse(&base, &[(&adapter, 1.0)], &path, None).expect("fused");
            let fused = logits(&path, &golden);
            for (fused, plain) in fused.chunks(vocabulary).zip(plain.chunks(vocabulary)) {
                let want = if ties { 0.0 } else { plain[unseen] };
                assert!((fused[unseen] - want).abs() <= 1e-4, "{file}, tied {ties}");
                assert!((fused[0] - plain[0]).abs() <= 1e-4, "{file}, tied {ties}");
            }
        }
    }
}

#[test]
fn the_program_fuses() {
    let fuse = |arguments: &[&Path]| {
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_metal-candle"));
        let output = program.arg("fuse").args(arguments).output().expect("the program runs");
        (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
    };
    let out = tempfile::tempdir().expect("folder");
    let path = out.path().join("fused.gguf");
    let (model, adapter) = (fixture("reference/models/qwen2"), folder("qwen2", "dora"));
    let (code, errors) = fuse(&[&model, Path::new("--adapter"), &adapter, &path]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(
        errors.contains("6 of 26 tensors changed") && errors.contains("no tokenizer"),
        "{errors}"
    );
    let golden = Golden::open("reference/lora/qwen2/dora/reference.safetensors");
    let diff = max_abs_diff(&logits(&path, &golden), &golden.f32("logits_merged"));
    assert!(diff <= LOGITS, "logits differ by {diff}");

    let (code, errors) = fuse(&[&model, &path]);
    assert_eq!(code, Some(2), "{errors}");
    let other = folder("llama", "all_linear");
    let scaled = format!("{}=0.5", out.path().join("nothing").display());
    for wrong in [Path::new(&scaled), &fixture("reference/malformed"), &other.join("train")] {
        let (code, errors) = fuse(&[&model, Path::new("--adapter"), wrong, &path]);
        assert_eq!((code, errors.lines().count()), (Some(1), 1), "{errors}");
    }
}
