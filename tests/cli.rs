//! The program as scripts see it: arguments, output, exit codes.

mod support;

use assert_cmd::Command;
use serde_json::Value;
use support::{Golden, fixture, max_abs_diff};

fn program() -> Command {
    let mut command = Command::cargo_bin("metal-candle").expect("program");
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    // Whatever this machine was tuned to before.
    command.env("METAL_CANDLE_TUNING", "none");
    command
}

/// Runs with JSON output on the CPU.
fn json(args: &[&str]) -> Value {
    let output = program()
        .args(["generate", "--device", "cpu", "--format", "json"])
        .args(args)
        .output()
        .expect("run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

/// Runs, expects exit code `code`, and gives standard error.
fn fails(args: &[&str], code: i32) -> String {
    let output = program().args(args).output().expect("run");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
    assert!(!error.contains("panicked"), "{error}");
    error
}

#[test]
fn generates_from_the_default_model() {
    let out = json(&["ROMEO.", "--max-tokens", "20"]);
    assert_eq!(out["tokens"].as_array().map(Vec::len), Some(20));
    assert_eq!(out["prompt_tokens"][0], 0, "BOS");
    assert_eq!(out["stop"], "length");
    assert!(out["text"].as_str().is_some_and(|text| text.contains("KING")), "{out}");
    assert!(out["timings"]["decode_tokens_per_second"].as_f64().is_some_and(|rate| rate > 0.0));
}

#[test]
fn every_device_says_the_same() {
    let args = |device| {
        let output = program()
            .args(["generate", "ROMEO.", "--max-tokens", "8", "--format", "json", "--dtype", "f32"])
            .args(["--device", device])
            .output()
            .expect("run");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{device}: {error}");
        let out: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (out["tokens"].clone(), error)
    };
    let (want, _) = args("cpu");
    for device in ["auto", "candle", "vulkan", "wgpu", "vulkan:0"] {
        let (got, error) = args(device);
        assert_eq!(got, want, "{device}");
        let word = match device {
            "vulkan" | "vulkan:0" => "SPIR-V",
            "wgpu" => "WGSL",
            "candle" => "candle",
            _ => "(",
        };
        assert!(error.contains(word), "{device} does not say what it runs on: {error}");
    }
}

#[test]
fn a_seed_fixes_the_text() {
    let run = |seed| json(&["ROMEO.", "--temperature", "1", "--seed", seed, "--max-tokens", "30"]);
    assert_eq!(run("3")["tokens"], run("3")["tokens"]);
    assert_ne!(run("3")["tokens"], run("4")["tokens"]);
    let top1 = json(&["ROMEO.", "--temperature", "1", "--top-k", "1", "--max-tokens", "30"]);
    assert_eq!(top1["tokens"], json(&["ROMEO.", "--max-tokens", "30"])["tokens"]);
}

#[test]
fn stop_strings_end_the_text_before_them() {
    let free = json(&["ROMEO.", "--max-tokens", "20"]);
    let text = free["text"].as_str().expect("text");
    let at = text.find("HENRY").expect("HENRY");
    let out = json(&["ROMEO.", "--max-tokens", "20", "--stop", "nowhere", "--stop", "HENRY"]);
    assert_eq!(out["stop"], "stop");
    assert_eq!(out["text"], text[..at]);
}

#[test]
fn tokens_need_no_tokenizer() {
    let model = fixture("reference/models/llama");
    let model = model.to_str().expect("path");
    let reference: Value = serde_json::from_slice(
        &std::fs::read(fixture("reference/models/llama/reference.json")).expect("reference"),
    )
    .expect("JSON");
    let ids = |key: &str| -> Vec<u64> {
        reference["greedy"][key].as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect()
    };
    let prompt: Vec<String> = ids("prompt").iter().map(u64::to_string).collect();
    let args =
        ["--model", model, "--tokens", &prompt.join(","), "--max-tokens", "24", "--ignore-eos"];
    let out = json(&args);
    assert_eq!(out["tokens"], serde_json::json!(ids("continuation")));

    let error = fails(&["generate", "text", "--device", "cpu", "--model", model], 1);
    assert!(error.contains("tokenizer"), "{error}");
}

/// Logits of the golden file's `input_ids`, by a fixture's model on the CPU.
fn logits(golden: &Golden, model: &str, more: &[&str]) -> (Vec<usize>, Vec<f32>) {
    let folder = tempfile::tempdir().expect("folder");
    let tokens = folder.path().join("tokens.json");
    let output = folder.path().join("logits.safetensors");
    std::fs::write(&tokens, serde_json::to_string(&golden.ids("input_ids")).unwrap()).unwrap();
    program()
        .args(["logits", "--device", "cpu", "--model"])
        .arg(fixture(model))
        .arg("--tokens-file")
        .arg(&tokens)
        .arg("--output")
        .arg(&output)
        .args(more)
        .assert()
        .success();
    let bytes = std::fs::read(&output).expect("output");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let logits = file.tensor("logits").expect("logits");
    let values =
        logits.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    (logits.shape().to_vec(), values)
}

#[test]
fn logits_are_written_for_a_file_of_tokens() {
    let golden = Golden::open("reference/models/llama/reference.safetensors");
    let (shape, got) = logits(&golden, "reference/models/llama", &[]);
    assert_eq!(shape, [2, 40, 512]);
    assert!(max_abs_diff(&got, &golden.f32("logits")) <= 1e-4);
}

#[test]
fn adapters_are_applied() {
    let adapter =
        |name: &str| fixture(&format!("reference/lora/llama/{name}")).display().to_string();
    let golden = Golden::open("reference/lora/llama/all_linear/reference.safetensors");
    let run = |more: &[&str]| logits(&golden, "reference/models/llama", more).1;
    let (all, dora) = (adapter("all_linear"), adapter("dora"));
    let whole = run(&["--adapter", &all]);
    assert!(max_abs_diff(&whole, &golden.f32("logits_adapter")) <= 2e-4);
    // Two halves are one whole, and none of it is the base.
    let half = format!("{all}=0.5");
    let halves = run(&["--adapter", &half, "--adapter", &half]);
    assert!(max_abs_diff(&halves, &whole) <= 2e-4);
    let none = run(&["--adapter", &format!("{all}=0")]);
    assert!(max_abs_diff(&none, &golden.f32("logits_base")) <= 2e-4);
    assert!(max_abs_diff(&run(&["--adapter", &all, "--adapter", &dora]), &whole) > 0.1);

    // The other commands take them too; of another model, they are refused.
    let model = fixture("reference/models/llama").display().to_string();
    let tokens = |more: &[&str]| {
        let args = [&["--model", &model, "--tokens", "1,2,3", "--max-tokens", "8"][..], more];
        json(&args.concat())["tokens"].clone()
    };
    assert_ne!(tokens(&[]), tokens(&["--adapter", &all]));
    let bench = ["bench", "-p", "4", "-n", "2", "-r", "1", "--device", "cpu", "--format", "csv"];
    program().args(bench).args(["--model", &model, "--adapter", &all]).assert().success();
    let error = fails(&["generate", "x", "--device", "cpu", "--adapter", &all], 1);
    assert!(
        error.contains("expected shape [4, 768]") || error.contains("expected shape [4, 256]"),
        "{error}"
    );
    assert!(error.contains("models/llama"), "the base it was trained for: {error}");
}

#[test]
fn inspect_tells_what_a_file_holds() {
    let output = program()
        .arg("inspect")
        .arg(fixture("reference/gguf/models/llama-q4_0.gguf"))
        .args(["--device", "cpu"])
        .env("RAYON_NUM_THREADS", "2")
        .output()
        .expect("run");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    // What this machine has left is another number each time.
    let shown = |line: &str| line.split("available: ").next().unwrap_or("").to_string();
    let text: Vec<String> = text.lines().map(shown).collect();
    insta::assert_snapshot!(text.join("\n").replace(env!("CARGO_MANIFEST_DIR"), "."));
    program().arg("inspect").arg(fixture("models/shakespeare-llama")).assert().success();
}

/// A model without a vocabulary that fits any machine.
#[test]
fn what_cannot_fit_is_refused_before_loading() {
    let folder = tempfile::tempdir().expect("folder");
    let shape = folder.path().join("config.json");
    // 2^40 weights in the embedding alone.
    let config = serde_json::json!({
        "model_type": "llama", "hidden_size": 65_536, "intermediate_size": 1024,
        "num_hidden_layers": 1, "num_attention_heads": 8, "vocab_size": 16_777_216,
        "tie_word_embeddings": true, "max_position_embeddings": 4096,
    });
    std::fs::write(&shape, config.to_string()).expect("write");
    let shape = shape.to_str().expect("path");
    let run = |more: &[&str]| {
        let args = ["generate", "--device", "cpu", "--tokens", "1,2", "--shape", shape];
        fails(&[&args[..], more].concat(), 1)
    };
    let error = run(&[]);
    for words in ["the model takes 4.", "TB: weights", "cache", "scratch", "are available on"] {
        assert!(error.contains(words), "{words:?} is not in {error}");
    }
    assert!(error.contains("no smaller form of it fits"), "{error}");
}

#[test]
fn what_is_loaded_dense_is_said() {
    let folder = tempfile::tempdir().expect("folder");
    let shape = folder.path().join("config.json");
    let config = serde_json::json!({
        "model_type": "llama", "hidden_size": 256, "intermediate_size": 256,
        "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 512,
    });
    std::fs::write(&shape, config.to_string()).expect("write");
    let said = |more: &[&str]| {
        let mut command = program();
        command.args(["generate", "--device", "cpu", "--dtype", "f32", "--tokens", "1,2"]);
        command.args(["--max-tokens", "1", "--shape"]).arg(&shape).args(more);
        let output = command.output().expect("run");
        assert!(output.status.success());
        String::from_utf8(output.stderr).expect("UTF-8")
    };
    let error = said(&["--encoding", "iq2_xxs"]);
    // 7 matrices of 256 x 256 in each of two layers, embedding and output layer.
    let note = "16 matrices of IQ2_XXS are loaded dense: 4.7 MB instead of 304.1 kB";
    assert_eq!(error.matches(note).count(), 1, "{error}");
    for quiet in [&["--encoding", "q4_k"][..], &["--encoding", "iq2_xxs", "--dequantize"]] {
        assert!(!said(quiet).contains("loaded dense"));
    }
}

#[test]
fn inspect_refuses_every_broken_file_in_one_line() {
    let folder = fixture("reference/malformed");
    let index: Value =
        serde_json::from_slice(&std::fs::read(folder.join("index.json")).unwrap()).unwrap();
    let files = index["files"].as_object().expect("files");
    assert!(files.len() >= 43);
    for (name, entry) in files {
        let output = program().arg("inspect").arg(folder.join(name)).output().expect("run");
        let error = String::from_utf8_lossy(&output.stderr);
        match entry["expected"].as_str() {
            Some("loads") => assert!(output.status.success(), "{name}: {error}"),
            Some("error") => {
                assert_eq!(output.status.code(), Some(1), "{name}: {error}");
                assert_eq!(error.lines().count(), 1, "{name}: {error}");
                assert!(error.contains(name.as_str()), "{name} is not named: {error}");
            }
            _ => assert!(matches!(output.status.code(), Some(0 | 1)), "{name}: {error}"),
        }
    }
}

#[test]
fn failures_have_their_exit_codes_and_words() {
    let error = fails(&["generate", "x", "--device", "cpu", "--model", "no/such/model"], 1);
    assert!(error.contains("no/such/model"), "{error}");
    let error = fails(&["generate", "x", "--device", "cuda"], 1);
    assert!(error.contains("cuda"), "{error}");
    let error = fails(&["generate", "x", "--adapter", "some/adapter"], 1);
    assert!(error.contains("some/adapter") && error.contains("adapter_config.json"), "{error}");
    let error = fails(&["generate", "x", "--device", "vulkan:99"], 1);
    assert!(error.contains("SPIR-V") && error.contains("99"), "{error}");
    let error = fails(&["generate", "x", "--device", "cpu", "--temperature=-1"], 1);
    assert!(error.contains("temperature"), "{error}");
    let error = fails(&["generate", "--device", "cpu", "--tokens", "4096"], 1);
    assert!(error.contains("4096"), "{error}");
    for usage in [
        &["generate", "x", "--device", "toaster"][..],
        &["generate", "x", "--max-tokens", "many"],
        &["logits", "--output", "x"],
        &["generate", "x", "--adapter", "some/adapter=much"],
        &["conjure"],
    ] {
        fails(usage, 2);
    }
}

#[cfg(not(target_os = "macos"))]
#[test]
fn metal_is_refused_elsewhere() {
    let error = fails(&["generate", "x", "--device", "metal"], 1);
    assert!(error.contains("Metal exists on Apple systems only"), "{error}");
}

#[test]
fn a_decode_step_can_be_listed() {
    let args = ["generate", "ROMEO.", "--max-tokens", "2", "--trace-kernels", "--device"];
    let output = program().args(args).arg("vulkan").output().expect("run");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{error}");
    for words in ["one decode step: 32 launches", "pregenerated  norm_matvec"] {
        assert!(error.contains(words), "{words:?} is not in {error}");
    }
    let error = fails(&[&args[..], &["cpu"]].concat(), 1);
    assert!(error.contains("launches no kernels; use a GPU"), "{error}");
}

#[test]
fn tuning_is_saved_and_used() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("made/tuning.json");
    let run = |args: &[&str]| {
        let output = program().args(args).env("METAL_CANDLE_TUNING", &path).output().expect("run");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{error}");
        (String::from_utf8_lossy(&output.stdout).into_owned(), error)
    };
    let (out, error) = run(&[
        "tune",
        "--device",
        "vulkan",
        "--formats",
        "f32",
        "--shapes",
        "256x256,768x256",
        "--repeats",
        "2",
        "--copy-bytes",
        "1048576",
        "--keys",
        "64",
        "--format",
        "json",
    ]);
    let report: Value = serde_json::from_str(&out).expect("one JSON object");
    assert!(report["copy_gb_per_second"].as_f64().is_some_and(|rate| rate > 0.0));
    // Two shapes, with and without a norm, and two head dimensions.
    assert_eq!(report["kernels"].as_array().map(Vec::len), Some(6), "{report}");
    assert!(error.contains("saved"), "{error}");

    // A choice by hand is what runs: the query projection of the small model is 256 x 256.
    let mut choices: Value =
        serde_json::from_slice(&std::fs::read(&path).expect("a file")).expect("JSON");
    let attention = choices["attention"].as_object().map_or(0, serde_json::Map::len);
    assert_eq!(attention, 2, "{choices}");
    assert!(choices["matvec"]["f32 b1 256x256"].is_string(), "{choices}");
    choices["matvec"]["f32 b1 256x256"] = "matvec_f32_b1_g2r4_shared16".into();
    choices["matvec"]["f32 b1 128x256"] = "no such kernel".into();
    std::fs::write(&path, choices.to_string()).expect("written");
    let (_, error) =
        run(&["generate", "ROMEO.", "--max-tokens", "2", "--trace-kernels", "--device", "vulkan"]);
    assert!(error.contains("matvec_f32_b1_g2r4_shared16"), "{error}");
}

#[test]
fn doctor_checks_every_device() {
    let output = program().args(["doctor", "--family", "swiglu"]).output().expect("run");
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{out}");
    for words in
        ["by SPIR-V", "by WGSL", "plane: ", "swiglu          2 kernels     4 cases", "0 failures"]
    {
        assert!(out.contains(words), "{words:?} is not in {out}");
    }
}

#[test]
fn doctor_checks_what_is_asked_for() {
    let output = program()
        .args(["doctor", "--device", "vulkan", "--family", "swiglu", "--kernel", "joined"])
        .output()
        .expect("run");
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{out}");
    assert!(out.contains("by SPIR-V") && !out.contains("by WGSL"), "{out}");
    assert!(out.contains("swiglu          1 kernels"), "{out}");
    let error = fails(&["doctor", "--device", "cpu"], 1);
    assert!(error.contains("kernels run on a GPU"), "{error}");
    let error = fails(&["doctor", "--family", "norms"], 1);
    assert!(error.contains("no kernel of this family"), "{error}");
}

#[test]
fn tune_takes_the_shapes_of_a_model() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("tuning.json");
    let output = program()
        .args(["tune", "--device", "vulkan", "--formats", "f32", "--repeats", "1", "--budget", "0"])
        .args(["--copy-bytes", "1048576", "--keys", "64", "--format", "json", "--save"])
        .arg(&path)
        .arg("--model")
        .arg(fixture("models/shakespeare-llama"))
        .output()
        .expect("run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let shapes: Vec<&str> = report["kernels"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|kernel| kernel["shape"].as_str())
        .collect();
    assert!(shapes.contains(&"f32 b1 512x256"), "queries, keys and values: {shapes:?}");
    assert!(shapes.iter().any(|shape| shape.starts_with("attention d64 64 keys")), "{shapes:?}");
    assert!(path.exists());
}

#[test]
fn bench_reports_in_every_format() {
    let run = |format: &str| {
        let output = program()
            .args(["bench", "--device", "cpu", "-p", "5", "-n", "3", "-r", "2", "--format", format])
            .output()
            .expect("run");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let report: Value = serde_json::from_str(&run("json")).expect("one JSON object");
    let results = report["results"].as_array().expect("results");
    assert_eq!(results.len(), 2);
    assert_eq!((&results[0]["test"], &results[1]["test"]), (&"pp5".into(), &"tg3".into()));
    for result in results {
        let samples: Vec<f64> =
            result["samples"].as_array().unwrap().iter().filter_map(Value::as_f64).collect();
        let mean = result["tokens_per_second"].as_f64().unwrap();
        assert!(samples.len() == 2 && samples.iter().all(|s| *s > 0.0), "{result}");
        let middle = f64::midpoint(samples[0], samples[1]);
        assert!((mean - middle).abs() < 1e-6 * mean, "{result}");
    }
    // The weights alone take 5.8M x 4 bytes.
    assert!(report["peak_host_bytes"].as_u64().is_some_and(|bytes| bytes > 20 << 20), "{report}");
    let csv = run("csv");
    assert_eq!(csv.lines().count(), 3, "{csv}");
    assert!(csv.lines().nth(1).is_some_and(|line| line.contains(",f32,pp5,")), "{csv}");
    let text = run("text");
    for words in ["pp5", "tg3", "first token", "memory: host peak"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let deep = ["bench", "--device", "cpu", "-p", "0", "-n", "3", "-d", "0,20", "-r", "1"];
    let output = program().args(deep).output().expect("run");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("tg3 ") && text.contains("tg3 @ d20"),
        "{text}"
    );
    let output =
        program().args(["bench", "--device", "cpu", "-d", "100000"]).output().expect("run");
    assert!(!output.status.success(), "more than the context has");
}

#[test]
fn random_weights_take_a_models_place() {
    let config = fixture("models/shakespeare-llama/config.json");
    let run = |device: &str| {
        let output = program()
            .args(["generate", "--tokens", "1,2,3", "--max-tokens", "4", "--ignore-eos"])
            .args(["--dtype", "f32", "--format", "json", "--device", device, "--shape"])
            .arg(&config)
            .output()
            .expect("run");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let out: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(out["tokens"].as_array().map(Vec::len), Some(4));
        out["tokens"].clone()
    };
    assert_eq!(run("cpu"), run("candle"), "the same weights each time");
    let error = fails(&["generate", "--tokens", "1", "--shape", "llama-9"], 1);
    assert!(error.contains("llama-3.2-1b") && error.contains("llama-9"), "{error}");
}

#[test]
fn perplexity_is_measured_against_a_base() {
    let folder = tempfile::tempdir().expect("folder");
    let text = folder.path().join("text.txt");
    let line = "ROMEO.\nBut soft, what light through yonder window breaks?\n";
    std::fs::write(&text, line.repeat(40)).expect("write");
    let run = |arguments: &[&std::ffi::OsStr]| -> Value {
        let output = program()
            .args(["perplexity", "--device", "cpu", "--context", "64", "--windows", "6"])
            .args(["--format", "json", "--text"])
            .arg(&text)
            .args(arguments)
            .output()
            .expect("run");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("one JSON object")
    };
    let number = |value: &Value| value.as_f64().expect("a number");
    let base = folder.path().join("base");
    let model = fixture("models/shakespeare-llama");
    let alone = run(&[model.as_os_str(), "--save-base".as_ref(), base.as_os_str()]);
    assert_eq!((&alone["windows"], &alone["tokens"]), (&6.into(), &(6 * 31).into()));
    let perplexity = number(&alone["perplexity"]["value"]);
    // It repeats itself, so the model knows what comes; a guess would be the vocabulary's size.
    assert!((1.0..200.0).contains(&perplexity), "{perplexity}");
    assert!(alone["base"].is_null());

    // The same model in f32: as a model exactly the same, as a file to within its 16 bits.
    for (base, most) in [(model.as_path(), 1e-12), (base.as_path(), 1e-4)] {
        let same = run(&["--kl-base".as_ref(), base.as_os_str()]);
        let same = &same["base"];
        assert!(number(&same["kl_divergence"]["value"]).abs() <= most, "{same}");
        let relative = number(&same["base_perplexity"]) / perplexity;
        assert!((relative - 1.0).abs() <= 1e-3, "{same}");
        assert!(number(&same["same_top_token"]["value"]) > 0.99, "{same}");
    }
    // Blocks of 8 bits lose little, of 4 bits more.
    let lost = |blocks: &str| {
        let model = fixture(&format!("reference/gguf/models/llama-{blocks}.gguf"));
        let base = fixture("reference/gguf/models/llama-f16.gguf");
        let found = run(&[model.as_os_str(), "--kl-base".as_ref(), base.as_os_str()]);
        number(&found["base"]["kl_divergence"]["value"])
    };
    let (eight, four) = (lost("q8_0"), lost("q4_0"));
    assert!(eight > 1e-5 && eight < 0.02 && four > 10.0 * eight && four < 1.0, "{eight} {four}");

    let error = fails(&["perplexity", "--text", "/no/such/file"], 1);
    assert!(error.contains("/no/such/file"), "{error}");
}
