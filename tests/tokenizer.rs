//! Tokenizers from a `tokenizer.json` and from GGUF metadata, against ids made by `tokenizers` and llama.cpp, and the
//! stream decoder on top of them.

use std::path::{Path, PathBuf};

use metal_candle::generation::TextStream;
use metal_candle::tokenizer::{GgufVocab, SpecialTokens, Tokenizer, TokenizerError};
use proptest::prelude::*;
use serde_json::{Value, json};

const MODELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/reference/gguf/models");

fn read(name: &str) -> Value {
    let text = std::fs::read_to_string(Path::new(MODELS).join(name)).expect("the fixture is there");
    serde_json::from_str(&text).expect("the fixture is JSON")
}

/// The metadata of the fixture `llama-f16.gguf`.
fn gguf_vocab() -> GgufVocab {
    let metadata = read("llama_vocab.json");
    let get = |key: &str| metadata[format!("tokenizer.ggml.{key}")].clone();
    let id = |key: &str| get(key).as_u64().map(|id| u32::try_from(id).expect("an id"));
    GgufVocab {
        model: serde_json::from_value(get("model")).unwrap(),
        pre: serde_json::from_value(get("pre")).unwrap(),
        tokens: serde_json::from_value(get("tokens")).unwrap(),
        merges: serde_json::from_value(get("merges")).unwrap(),
        token_types: serde_json::from_value(get("token_type")).unwrap(),
        bos: id("bos_token_id"),
        eos: id("eos_token_id"),
        add_bos: get("add_bos_token").as_bool(),
        ..GgufVocab::default()
    }
}

fn from_gguf(vocab: &GgufVocab) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::from_gguf(vocab, Path::new("tiny.gguf"))
}

fn from_json() -> Tokenizer {
    Tokenizer::from_file(Path::new(MODELS).join("tokenizer.json")).unwrap()
}

#[test]
fn both_sources_give_the_reference_ids() {
    let gguf = from_gguf(&gguf_vocab()).unwrap();
    let json = from_json();
    let cases = read("reference.json")["tokenizer"].clone();
    let cases = cases.as_array().expect("a list");
    assert!(cases.len() >= 7);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        for tokenizer in [&gguf, &json] {
            assert_eq!(tokenizer.encode(text, false).unwrap(), ids, "{text:?} {tokenizer:?}");
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
        }
    }
    assert_eq!((gguf.vocab_size(), json.vocab_size()), (512, 512));
    assert_eq!(gguf.token_to_id("</s>"), Some(1));
    assert_eq!(gguf.id_to_token(1).as_deref(), Some("</s>"));
    assert_eq!(gguf.id_to_token(512), None);
    assert_eq!(gguf.bos_id(), Some(0));
    assert_eq!(gguf.eos_ids(), [1]);
    assert!(!gguf.special_tokens().add_bos);
}

#[test]
fn special_tokens_in_text_and_in_decoding() {
    for tokenizer in [from_gguf(&gguf_vocab()).unwrap(), from_json()] {
        let ids = tokenizer.encode("<s>Hello</s>", false).unwrap();
        assert_eq!((ids[0], ids[ids.len() - 1]), (0, 1));
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), "<s>Hello</s>");
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), "Hello");
        // a model may have more rows than the vocabulary has tokens
        assert_eq!(tokenizer.decode(&[ids[1], 100_000], false).unwrap(), "H");
    }
}

#[test]
fn token_types_decide_what_is_special() {
    let mut vocab = gguf_vocab();
    for (token, kind) in [("<tool>", 4), ("<|im_end|>", 1), ("<unk>", 2), ("<hole>", 5), ("", 1)] {
        vocab.tokens.push(token.to_owned());
        vocab.token_types.push(kind);
    }
    let tokenizer = from_gguf(&vocab).unwrap();
    let ids = tokenizer.encode("<tool><|im_end|><unk>", false).unwrap();
    assert_eq!(ids, [512, 513, 514]);
    // user-defined: found in text, not special; the end of a turn is special whatever its type
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "<tool>");
    assert!(tokenizer.encode("<hole>", false).unwrap().len() > 1);
    assert_eq!(tokenizer.id_to_token(516).as_deref(), Some("[EMPTY_516]"));
    assert_eq!(tokenizer.eos_ids(), [1, 513]);

    vocab.eot = Some(515);
    assert_eq!(from_gguf(&vocab).unwrap().eos_ids(), [1, 515, 513]);
    vocab.token_types.clear();
    let ids = from_gguf(&vocab).unwrap().encode("<tool></s>", false).unwrap();
    assert!(ids.len() > 2 && ids.last() == Some(&1), "{ids:?}");
}

#[test]
fn bos_is_added_once() {
    let vocab = GgufVocab { add_bos: Some(true), add_eos: Some(true), ..gguf_vocab() };
    let tokenizer = from_gguf(&vocab).unwrap();
    let plain = tokenizer.encode("Hello", false).unwrap();
    let expected = [vec![0], plain.clone(), vec![1]].concat();
    assert_eq!(tokenizer.encode("Hello", true).unwrap(), expected);
    assert_eq!(tokenizer.encode("<s>Hello</s>", true).unwrap(), expected);
    assert_eq!(tokenizer.encode("", true).unwrap(), [0, 1]);

    // what the pre-tokenizer implies where the file says nothing
    let implied = GgufVocab { pre: Some("llama-bpe".to_owned()), add_bos: None, ..gguf_vocab() };
    assert_eq!(from_gguf(&implied).unwrap().encode("Hello", true).unwrap()[0], 0);
    let silent = GgufVocab { add_bos: None, ..gguf_vocab() };
    assert_eq!(from_gguf(&silent).unwrap().encode("Hello", true).unwrap(), plain);
}

/// A folder with a copy of the fixture, changed, and a `tokenizer_config.json`.
fn folder(change: impl FnOnce(&mut Value), config: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let mut tokenizer = read("tokenizer.json");
    change(&mut tokenizer);
    let file = folder.path().join("tokenizer.json");
    std::fs::write(&file, tokenizer.to_string()).unwrap();
    std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
    (folder, file)
}

#[test]
fn tokenizer_config_names_the_special_tokens() {
    let config = json!({
        "bos_token": {"content": "<s>", "special": true, "lstrip": false},
        "eos_token": "</s>",
        "add_bos_token": true,
        "chat_template": "unused",
    });
    let (_folder, file) = folder(|_| {}, &config.to_string());
    let tokenizer = Tokenizer::from_file(&file).unwrap();
    let special = SpecialTokens { bos: Some(0), eos: vec![1], add_bos: true };
    assert_eq!(tokenizer.special_tokens(), &special);
    let plain = tokenizer.encode("Hello", false).unwrap();
    assert_eq!(tokenizer.encode("Hello", true).unwrap(), [vec![0], plain.clone()].concat());

    // the post-processor adds it already: still once
    let template = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
    });
    let (_folder, file) = folder(|t| t["post_processor"] = template, &config.to_string());
    let tokenizer = Tokenizer::from_file(&file).unwrap();
    assert_eq!(tokenizer.encode("Hello", true).unwrap(), [vec![0], plain].concat());
}

#[test]
fn null_and_unknown_tokens_of_the_config_are_left_out() {
    let (_folder, file) = folder(|_| {}, r#"{"bos_token": null, "eos_token": "<none>"}"#);
    let mut tokenizer = Tokenizer::from_file(&file).unwrap();
    assert_eq!(tokenizer.special_tokens(), &SpecialTokens::default());
    tokenizer.set_special_tokens(SpecialTokens { bos: Some(0), eos: vec![1, 2], add_bos: true });
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_ids()), (Some(0), &[1, 2][..]));
    assert_eq!(tokenizer.encode("", true).unwrap(), [0]);
}

#[test]
fn truncation_and_padding_are_switched_off() {
    let change = |tokenizer: &mut Value| {
        tokenizer["truncation"] =
            json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
        tokenizer["padding"] = json!({
            "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 2, "pad_type_id": 0, "pad_token": "<pad>",
        });
    };
    let (_folder, file) = folder(change, "{}");
    let text = "The Work and such Derivative Works.";
    let ids = Tokenizer::from_file(&file).unwrap().encode(text, true).unwrap();
    assert_eq!(ids, from_json().encode(text, false).unwrap());
}

fn message(result: Result<Tokenizer, TokenizerError>) -> String {
    result.expect_err("an error").to_string()
}

#[test]
fn broken_files_are_named() {
    let missing = message(Tokenizer::from_file("no/such/tokenizer.json"));
    assert!(missing.starts_with("no/such/tokenizer.json: cannot read"), "{missing}");

    let (_folder, file) = folder(|tokenizer| *tokenizer = json!({"model": 3}), "{}");
    let parse = message(Tokenizer::from_file(&file));
    assert!(parse.contains("expected a tokenizer.json"), "{parse}");

    let (_folder, file) = folder(|_| {}, r#"{"bos_token": 3}"#);
    let config = message(Tokenizer::from_file(&file));
    assert!(config.contains("tokenizer_config.json: expected"), "{config}");

    let (_folder, file) = folder(|_| {}, r#"{"add_bos_token": true, "bos_token": "<none>"}"#);
    let bos = message(Tokenizer::from_file(&file));
    assert!(bos.contains("`bos_token`: expected a token of the vocabulary"), "{bos}");
    assert!(bos.ends_with("found `<none>`"), "{bos}");
}

#[test]
fn broken_or_unsupported_gguf_vocabularies_are_refused() {
    let refused = |change: fn(&mut GgufVocab)| {
        let mut vocab = gguf_vocab();
        change(&mut vocab);
        message(from_gguf(&vocab))
    };
    let check = |found: String, parts: &[&str]| {
        assert!(found.starts_with("tiny.gguf: `tokenizer.ggml."), "{found}");
        for part in parts {
            assert!(found.contains(part), "{found}");
        }
    };
    check(refused(|v| v.model = "llama".into()), &["ggml.model`", "`llama`", "supported: `gpt2`"]);
    check(refused(|v| v.model = String::new()), &["ggml.model` is missing"]);
    check(refused(|v| v.pre = Some("new".into())), &["ggml.pre` is `new`", "supported: default,"]);
    check(refused(|v| v.pre = None), &["ggml.pre` is missing"]);
    check(refused(|v| v.tokens.clear()), &["ggml.tokens`", "found 0 tokens"]);
    check(
        refused(|v| v.tokens[7] = "<s>".into()),
        &["each token once", "`<s>` at 0 and again at 7"],
    );
    check(refused(|v| v.token_types.truncate(5)), &["expected 512 types", "found 5"]);
    check(refused(|v| v.merges.clear()), &["ggml.merges`", "found none"]);
    check(refused(|v| v.merges[3] = "ab".into()), &["separated by a space", "`ab` at 3"]);
    check(refused(|v| v.merges[3] = "zz zz".into()), &["merges of tokens in the vocabulary"]);
    check(refused(|v| v.eos = Some(512)), &["eos_token_id`", "an id below 512, found 512"]);
    check(
        refused(|v| (v.bos, v.add_bos) = (None, Some(true))),
        &["bos_token_id`", "add_bos_token"],
    );
    check(
        refused(|v| (v.eos, v.add_eos) = (None, Some(true))),
        &["eos_token_id`", "add_eos_token"],
    );
}

fn stream(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> String {
    let mut stream = TextStream::new(tokenizer, skip_special);
    let mut text = String::new();
    for &id in ids {
        let piece = stream.push(id).unwrap();
        assert_ne!(piece.as_deref(), Some(""));
        text.extend(piece);
    }
    text.extend(stream.finish().unwrap());
    assert_eq!(stream.finish().unwrap(), None);
    text
}

#[test]
fn a_stream_waits_for_whole_characters() {
    let tokenizer = from_json();
    let ids = tokenizer.encode("é😀", false).unwrap();
    let mut stream = TextStream::new(&tokenizer, true);
    let pieces: Vec<Option<String>> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    let shown: Vec<&str> = pieces.iter().flatten().map(String::as_str).collect();
    assert_eq!(shown, ["é", "😀"]);
    assert!(pieces.len() > 4);

    stream.push(ids[0]).unwrap();
    assert_eq!(stream.finish().unwrap().as_deref(), Some("\u{fffd}"));
    assert_eq!(stream.push(1).unwrap(), None, "special");
}

/// A vocabulary of sentencepiece's kind: a space in front is stripped, and bytes are tokens.
fn sentencepiece() -> (tempfile::TempDir, Tokenizer) {
    let mut vocab = json!({"▁Hello": 0, "▁world": 1, "!": 2, "▁": 3, "<unk>": 4});
    for byte in 0..256u32 {
        vocab[format!("<0x{byte:02X}>")] = json!(byte + 5);
    }
    let change = |tokenizer: &mut Value| {
        *tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": null, "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ]},
            "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": true, "vocab": vocab, "merges": []},
        });
    };
    let (folder, file) = folder(change, "{}");
    let tokenizer = Tokenizer::from_file(file).unwrap();
    (folder, tokenizer)
}

#[test]
fn other_decoders_stream_through_a_window() {
    let (_folder, tokenizer) = sentencepiece();
    let byte = |byte: u32| byte + 5;
    for ids in [
        vec![0, 1, 2],
        vec![3, 3, 0, 3, 1],
        vec![0, byte(0xc3), byte(0xa9), 1],
        vec![byte(0xf0), byte(0x9f), byte(0x98), byte(0x80), 2],
        vec![0, byte(0xf0), byte(0x9f)],
        [vec![0], vec![byte(0x80); 50], vec![1; 5]].concat(),
        [vec![3; 100], vec![1]].concat(),
    ] {
        let text = tokenizer.decode(&ids, false).unwrap();
        assert_eq!(stream(&tokenizer, &ids, false), text, "{ids:?}");
    }
    let mut stream = TextStream::new(&tokenizer, false);
    assert_eq!(stream.push(0).unwrap().as_deref(), Some("Hello"));
    assert_eq!(stream.push(byte(0xc3)).unwrap(), None);
    assert_eq!(stream.push(byte(0xa9)).unwrap().as_deref(), Some("é"));
    assert_eq!(stream.push(1).unwrap().as_deref(), Some(" world"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_stream_gives_the_text_of_decode(
        ids in prop::collection::vec(prop_oneof![4 => 0u32..520, 4 => 120u32..260, 1 => 0u32..3], 0..60),
        skip_special in any::<bool>(),
    ) {
        let tokenizer = tokenizer();
        let text = tokenizer.decode(&ids, skip_special).unwrap();
        prop_assert_eq!(stream(tokenizer, &ids, skip_special), text);
    }

    #[test]
    fn any_text_survives(text in "\\PC{0,40}|[ \\t\\r\\na1é😀]{0,40}") {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode(&text, false).unwrap();
        prop_assert_eq!(&tokenizer.decode(&ids, false).unwrap(), &text);
        prop_assert_eq!(stream(tokenizer, &ids, false), text);
    }
}

fn tokenizer() -> &'static Tokenizer {
    static TOKENIZER: std::sync::OnceLock<Tokenizer> = std::sync::OnceLock::new();
    TOKENIZER.get_or_init(|| from_gguf(&gguf_vocab()).unwrap())
}
