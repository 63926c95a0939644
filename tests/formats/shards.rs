//! Sharded safetensors: an index and its files.

use std::collections::BTreeMap;
use std::path::Path;

use metal_candle::formats::{Checkpoint, FormatError, SafetensorsFile, SafetensorsSet};
use safetensors::tensor::TensorView;
use serde_json::json;
use tempfile::TempDir;

use super::fixture;

const INDEX: &str = "model.safetensors.index.json";
const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

fn write_index(folder: &Path, weight_map: &BTreeMap<String, String>) {
    let index = json!({"metadata": {"total_size": 1}, "weight_map": weight_map});
    std::fs::write(folder.join(INDEX), index.to_string()).unwrap();
}

/// `models/llama` cut in two; with the map that its index holds.
fn sharded() -> (TempDir, BTreeMap<String, String>) {
    let folder = tempfile::tempdir().unwrap();
    let file = SafetensorsFile::open(&fixture("models/llama/model.safetensors")).unwrap();
    let mut shards = [Vec::new(), Vec::new()];
    let mut weight_map = BTreeMap::new();
    for (i, tensor) in file.tensors().enumerate() {
        let view = TensorView::new(tensor.dtype, tensor.shape.to_vec(), tensor.bytes).unwrap();
        shards[i % 2].push((tensor.name, view));
        weight_map.insert(tensor.name.to_owned(), SHARDS[i % 2].to_owned());
    }
    for (shard, name) in shards.into_iter().zip(SHARDS) {
        safetensors::serialize_to_file(shard, None, &folder.path().join(name)).unwrap();
    }
    write_index(folder.path(), &weight_map);
    std::fs::copy(fixture("models/llama/config.json"), folder.path().join("config.json")).unwrap();
    (folder, weight_map)
}

#[test]
fn shards_hold_what_the_single_file_holds() {
    let (folder, weight_map) = sharded();
    let sharded = Checkpoint::open(folder.path()).unwrap();
    let single = Checkpoint::open(&fixture("models/llama")).unwrap();
    assert_eq!(sharded.infos().count(), weight_map.len());
    for info in single.infos() {
        assert!(sharded.contains(&info.name));
        let (a, b) = (sharded.tensor(&info.name).unwrap(), single.tensor(&info.name).unwrap());
        assert_eq!(a.shape, b.shape);
        assert_eq!(a.bytes, b.bytes, "{}", info.name);
    }
    let error = sharded.tensor("model.layers.9.mlp.up_proj.weight").unwrap_err().to_string();
    assert!(error.contains("similar: model.layers.0.mlp.up_proj.weight"), "{error}");
}

#[test]
fn a_missing_shard_is_named() {
    let (folder, weight_map) = sharded();
    std::fs::remove_file(folder.path().join(SHARDS[1])).unwrap();
    match Checkpoint::open(folder.path()) {
        Err(FormatError::MissingShard { path, tensor, shard }) => {
            assert_eq!(path, folder.path().join(INDEX));
            assert_eq!(shard, SHARDS[1]);
            assert_eq!(weight_map[&tensor], shard);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_shard_name_cannot_leave_the_folder() {
    let (folder, weight_map) = sharded();
    let secret = folder.path().join(SHARDS[0]).display().to_string();
    for name in
        ["../x.safetensors", "a/../b", "..", ".", "", "/etc/passwd", "a/b", "a\\b", "c:x", &secret]
    {
        let mut weight_map = weight_map.clone();
        weight_map.insert("lm_head.weight".to_owned(), name.to_owned());
        write_index(folder.path(), &weight_map);
        match SafetensorsSet::open_folder(folder.path()) {
            Err(FormatError::BadShardName { tensor, shard, .. }) => {
                assert_eq!((tensor.as_str(), shard.as_str()), ("lm_head.weight", name));
            }
            other => panic!("{name:?}: {other:?}"),
        }
    }
}

#[test]
fn a_tensor_that_its_shard_lacks_is_named_with_the_shard() {
    let (folder, mut weight_map) = sharded();
    let entry = weight_map.get_mut("lm_head.weight").unwrap();
    *entry = SHARDS[usize::from(entry == SHARDS[0])].to_owned();
    let shard = entry.clone();
    write_index(folder.path(), &weight_map);
    match SafetensorsSet::open_folder(folder.path()) {
        Err(FormatError::MissingTensor { path, tensor, .. }) => {
            assert_eq!(path, folder.path().join(shard));
            assert_eq!(tensor, "lm_head.weight");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_broken_index_is_an_error() {
    let (folder, _) = sharded();
    for (text, expected) in [
        ("", "EOF"),
        ("{}", "missing field `weight_map`"),
        (r#"{"weight_map": []}"#, "an object of file names"),
        (r#"{"weight_map": {"a": 1}}"#, "expected a string"),
    ] {
        std::fs::write(folder.path().join(INDEX), text).unwrap();
        let error = SafetensorsSet::open_folder(folder.path()).unwrap_err().to_string();
        assert!(error.contains(INDEX) && error.contains(expected), "{error}");
    }
    let twice = format!(
        r#"{{"weight_map": {{"lm_head.weight": "{0}", "lm_head.weight": "{0}"}}}}"#,
        sharded().1["lm_head.weight"]
    );
    std::fs::write(folder.path().join(INDEX), twice).unwrap();
    assert!(matches!(
        SafetensorsSet::open_folder(folder.path()),
        Err(FormatError::DuplicateTensor { .. })
    ));
}
