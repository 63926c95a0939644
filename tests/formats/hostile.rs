//! Broken and malicious files: an error, in bounded time and memory, and never a panic.

use std::path::Path;
use std::time::{Duration, Instant};

use metal_candle::formats::{Checkpoint, Container, FormatError, Result};
use proptest::prelude::*;
use serde_json::Value;

use super::allocations::peak_bytes;
use super::fixture;

/// Opens the container and reads every tensor's description.
fn read(path: &Path) -> Result<usize> {
    Ok(Container::open(path)?.infos().map(|info| info.bytes).sum())
}

fn index() -> Vec<(String, String)> {
    let index = std::fs::read(fixture("malformed/index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    let files = index["files"].as_object().unwrap();
    let expected = |entry: &Value| entry["expected"].as_str().unwrap().to_owned();
    files.iter().map(|(name, entry)| (name.clone(), expected(entry))).collect()
}

#[test]
fn every_malformed_file_is_treated_as_its_index_says() {
    let files = index();
    assert_eq!(files.len(), 44);
    for (name, expected) in files {
        let path = fixture("malformed").join(&name);
        let length = i64::try_from(std::fs::metadata(&path).unwrap().len()).unwrap();
        let started = Instant::now();
        let (result, peak) = peak_bytes(|| read(&path));
        assert!(started.elapsed() < Duration::from_secs(5), "{name}");
        assert!(peak < 16 * length + (1 << 20), "{name}: {peak} bytes for {length}");
        match expected.as_str() {
            "error" => {
                let error = result.expect_err(&name).to_string();
                assert!(error.starts_with(&path.display().to_string()), "{error}");
                assert!(!error.contains('\n') && error.len() < 1000, "{error}");
            }
            "loads" => assert!(result.is_ok(), "{name}: {result:?}"),
            other => assert_eq!(other, "either", "{name}"),
        }
    }
}

/// What exactly is said about each file; the path is left out.
#[test]
fn every_malformed_file_has_its_own_message() {
    for (name, expected) in [
        ("empty.gguf", "the magic bytes needs 4 bytes, 0 are left"),
        ("magic_only.gguf", "the version needs 4 bytes, 0 are left"),
        ("version_0.gguf", "expected GGUF version 2 or 3, little-endian, found version 0"),
        ("alignment_zero.gguf", "key general.alignment: expected a power of two, found the u32 0"),
        ("duplicate_key.gguf", "key general.name: expected once, found twice"),
        ("five_dims.gguf", "expected at most 4 dimensions, found 5"),
        ("negative_dim.gguf", "expected positive dimensions, found -32"),
        ("type_removed.gguf", "expected a tensor type of today's ggml, found the removed Q4_2"),
        ("deep_nested_arrays.gguf", "expected an array of plain values, found nested arrays"),
        ("bool_two.gguf", "expected a bool of 0 or 1, found 2"),
        ("bad_utf8_key.gguf", "expected a key in UTF-8, found other bytes"),
        (
            "overlapping_offsets.gguf",
            "tensor b.weight: expected data of its own, found data shared with tensor a.weight",
        ),
        (
            "header_zero.safetensors",
            "header: expected a JSON object, beginning with '{', found nothing",
        ),
        ("duplicate_key.safetensors", "tensor a: expected once, found twice"),
        (
            "shape_size_mismatch.safetensors",
            "expected 96 bytes for F32 of shape [3, 8], found 64 bytes",
        ),
        (
            "huge_header_length.safetensors",
            "the header needs 9223372036854775808 bytes, 264 are left",
        ),
    ] {
        let error = read(&fixture("malformed").join(name)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_container_without_a_model_opens_but_is_no_checkpoint() {
    let path = fixture("malformed/missing_architecture.gguf");
    assert!(Container::open(&path).is_ok());
    match Checkpoint::open(&path) {
        Err(FormatError::MissingKey { key, .. }) => assert_eq!(key, "general.architecture"),
        other => panic!("{other:?}"),
    }
    match Checkpoint::open(&fixture("malformed/ok_control.gguf")) {
        Err(FormatError::MissingKey { key, .. }) => assert_eq!(key, "llama.embedding_length"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_big_endian_file_is_told_from_a_strange_version() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("big.gguf");
    std::fs::write(&path, [b"GGUF".as_slice(), &3u32.to_be_bytes(), &[0; 16]].concat()).unwrap();
    let error = read(&path).unwrap_err().to_string();
    assert!(error.ends_with("little-endian, found version 3, big-endian"), "{error}");
    std::fs::write(&path, [b"GGUF".as_slice(), &2u32.to_le_bytes(), &[0; 16]].concat()).unwrap();
    assert_eq!(read(&path).unwrap(), 0);
}

/// Opening a pipe would wait for a writer for ever; a device has no end.
#[cfg(unix)]
#[test]
fn only_regular_files_are_opened() {
    let error = read(Path::new("/dev/zero")).unwrap_err();
    assert_eq!(error.to_string(), "/dev/zero: expected a regular file");
}

#[test]
fn the_smallest_entries_cost_no_more_memory_than_the_largest_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("strings.gguf");
    // One array of as many empty strings as fit.
    let count = 100_000u64;
    let mut bytes =
        [b"GGUF".as_slice(), &3u32.to_le_bytes(), &[0; 8], &1u64.to_le_bytes()].concat();
    bytes.extend([1u64.to_le_bytes().as_slice(), b"k", &9u32.to_le_bytes()].concat());
    bytes.extend([8u32.to_le_bytes().as_slice(), &count.to_le_bytes()].concat());
    bytes.resize(bytes.len() + 8 * 100_000, 0);
    std::fs::write(&path, &bytes).unwrap();
    let (result, peak) = peak_bytes(|| read(&path));
    assert_eq!(result.unwrap(), 0);
    assert!(peak < 16 * i64::try_from(bytes.len()).unwrap(), "{peak}");
}

/// Opens `bytes` as a file called `name`, and as a checkpoint reads all that is there.
fn open_everything(name: &str, bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    if let Err(error) = read(&path) {
        assert!(!error.to_string().contains('\n'), "{error}");
    }
    if path.extension().is_some_and(|extension| extension == "safetensors") {
        std::fs::write(folder.path().join("config.json"), "{}").unwrap();
    }
    if let Ok(checkpoint) = Checkpoint::open(&path) {
        for info in checkpoint.infos() {
            let _ = checkpoint.tensor(&info.name);
        }
        for layer in 0..2 {
            for part in ["self_attn.q_proj.weight", "self_attn.k_proj.weight", "mlp.up_proj.weight"]
            {
                let _ = checkpoint.tensor(&format!("model.layers.{layer}.{part}"));
            }
        }
    }
}

fn mutate(original: &[u8], changes: &[(usize, u8)], keep: usize) -> Vec<u8> {
    let mut bytes = original.to_vec();
    for &(at, value) in changes {
        let length = bytes.len();
        bytes[at % length] = value;
    }
    bytes.truncate(keep);
    bytes
}

/// Where the damage goes: mostly into the first bytes, which decide most.
fn changes(length: usize) -> impl Strategy<Value = Vec<(usize, u8)>> {
    let at = prop_oneof![0..64usize, 0..1024usize, 0..length];
    let value = prop_oneof![Just(0u8), Just(0xff), Just(0x80), any::<u8>()];
    prop::collection::vec((at, value), 1..6)
}

fn keep(length: usize) -> impl Strategy<Value = usize> {
    prop_oneof![4 => Just(length), 1 => 0..length]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_damaged_gguf_control_never_panics(changes in changes(1024), keep in keep(1024)) {
        let original = std::fs::read(fixture("malformed/ok_control.gguf")).unwrap();
        open_everything("x.gguf", &mutate(&original, &changes, keep));
    }

    #[test]
    fn a_damaged_gguf_model_never_panics(changes in changes(3000), keep in keep(40_000)) {
        let original = std::fs::read(fixture("gguf/models/llama-q4_0.gguf")).unwrap();
        let keep = if keep == 40_000 { original.len() } else { keep };
        open_everything("x.gguf", &mutate(&original, &changes, keep));
    }

    #[test]
    fn a_damaged_safetensors_file_never_panics(changes in changes(272), keep in keep(272)) {
        let original = std::fs::read(fixture("malformed/ok_control.safetensors")).unwrap();
        open_everything("x.safetensors", &mutate(&original, &changes, keep));
    }
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    for name in ["ok_control.gguf", "ok_control.safetensors"] {
        let original = std::fs::read(fixture("malformed").join(name)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        for length in 0..original.len() {
            std::fs::write(&path, &original[..length]).unwrap();
            assert!(read(&path).is_err(), "{name} cut to {length} bytes");
        }
    }
}
