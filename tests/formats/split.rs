//! GGUF models in parts, cut here as llama.cpp's `gguf-split` cuts them.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use metal_candle::backend::Cpu;
use metal_candle::formats::{Checkpoint, Container, FormatError, GgufFile, TokenizerSource};
use metal_candle::models::{self, LoadOptions, LogitRows, TokenBatch};
use tempfile::TempDir;

use super::fixture;

const MODEL: &str = "gguf/models/llama-q4_0.gguf";

/// What a part says about itself.
#[derive(Clone, Copy)]
struct Place {
    number: u16,
    count: u16,
    tensors: i32,
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// A model to be cut: its metadata as they lie in the file, and its tensors.
struct Model {
    file: GgufFile,
    metadata: Vec<u8>,
    entries: u64,
}

impl Model {
    fn open(path: &Path) -> Self {
        let file = GgufFile::open(path).unwrap();
        let bytes = std::fs::read(path).unwrap();
        // Magic, version and two counts; then metadata up to the name of the first tensor.
        let first = string(file.tensors()[0].name());
        let end = bytes.windows(first.len()).position(|window| window == first).unwrap();
        let entries = file.metadata().len() as u64;
        Self { file, metadata: bytes[24..end].to_vec(), entries }
    }

    fn tensors(&self) -> usize {
        self.file.tensors().len()
    }

    /// A part with some of the tensors; the metadata of the model only in the first.
    fn part(&self, place: Place, tensors: std::ops::Range<usize>) -> Vec<u8> {
        let tensors = &self.file.tensors()[tensors];
        let (metadata, entries) =
            if place.number == 0 { (&self.metadata[..], self.entries) } else { (&[][..], 0) };
        let mut bytes = [b"GGUF".as_slice(), &3u32.to_le_bytes()].concat();
        bytes.extend((tensors.len() as u64).to_le_bytes());
        bytes.extend((entries + 3).to_le_bytes());
        bytes.extend(metadata);
        for (key, ty, value) in [
            ("split.no", 2u32, place.number.to_le_bytes().as_slice()),
            ("split.count", 2, &place.count.to_le_bytes()),
            ("split.tensors.count", 5, &place.tensors.to_le_bytes()),
        ] {
            bytes.extend([string(key).as_slice(), &ty.to_le_bytes(), value].concat());
        }
        let mut data: Vec<u8> = Vec::new();
        for tensor in tensors {
            bytes.extend(string(tensor.name()));
            bytes.extend(u32::try_from(tensor.shape().len()).unwrap().to_le_bytes());
            bytes.extend(tensor.shape().iter().rev().flat_map(|&dim| (dim as u64).to_le_bytes()));
            bytes.extend(tensor.ggml_type().id.to_le_bytes());
            bytes.extend((data.len() as u64).to_le_bytes());
            data.extend(self.file.bytes(tensor));
            data.resize(data.len().next_multiple_of(32), 0);
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(data);
        bytes
    }

    /// Cuts the model into `count` parts in a folder of their own.
    fn split(&self, count: u16) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let each = self.tensors().div_ceil(count.into());
        for number in 0..count {
            let first = usize::from(number) * each;
            let range = first..(first + each).min(self.tensors());
            let part = self.part(self.place(number, count), range);
            std::fs::write(part_path(&folder, number, count), part).unwrap();
        }
        folder
    }

    fn place(&self, number: u16, count: u16) -> Place {
        Place { number, count, tensors: i32::try_from(self.tensors()).unwrap() }
    }
}

fn part_path(folder: &TempDir, number: u16, count: u16) -> PathBuf {
    folder.path().join(format!("m-q4-{:05}-of-{count:05}.gguf", number + 1))
}

fn error_of(path: &Path) -> String {
    Checkpoint::open(path).expect_err("the model is broken").to_string()
}

#[test]
fn parts_hold_what_the_single_file_holds() {
    let model = Model::open(&fixture(MODEL));
    let single = Checkpoint::open(&fixture(MODEL)).unwrap();
    for count in [2, 3, 21] {
        let folder = model.split(count);
        let last = part_path(&folder, count - 1, count);
        for path in [folder.path(), &part_path(&folder, 0, count), &last] {
            let parts = Checkpoint::open(path).unwrap();
            let file = parts.gguf().unwrap();
            assert_eq!(file.path(), part_path(&folder, 0, count));
            assert_eq!(file.paths().len(), usize::from(count));
            assert_eq!(parts.config(), single.config());
            assert!(matches!(parts.tokenizer(), TokenizerSource::Gguf(_)));
            assert!(parts.infos().eq(single.infos()));
            for layer in ["embed_tokens", "layers.0.self_attn.q_proj", "layers.1.mlp.down_proj"] {
                let name = format!("model.{layer}.weight");
                let (a, b) = (parts.tensor(&name).unwrap(), single.tensor(&name).unwrap());
                assert_eq!((a.shape, a.bytes), (b.shape, b.bytes), "{name}");
            }
            for tensor in model.file.tensors() {
                let other = file.tensor(tensor.name()).unwrap();
                assert_eq!(file.bytes(other), model.file.bytes(tensor), "{}", tensor.name());
            }
        }
    }
}

#[test]
fn a_model_in_parts_gives_the_same_logits() {
    let folder = Model::open(&fixture(MODEL)).split(3);
    let logits = |path: &Path| {
        let checkpoint = Checkpoint::open(path).unwrap();
        let device = Default::default();
        let model = models::load::<Cpu>(&checkpoint, LoadOptions::default(), &device).unwrap();
        let tokens = TokenBatch::new(&[&[3u32, 141, 59, 26, 5, 358][..]]).unwrap();
        let logits = model.forward(&tokens, None, LogitRows::All).unwrap();
        logits.into_data().into_vec::<f32>().unwrap()
    };
    assert_eq!(logits(folder.path()), logits(&fixture(MODEL)));
}

#[test]
fn inspect_shows_all_parts() {
    let folder = Model::open(&fixture(MODEL)).split(2);
    let inspect = |path: &Path| {
        let mut command = Command::cargo_bin("metal-candle").unwrap();
        let output = command.arg("inspect").arg(path).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let whole = inspect(&fixture(MODEL));
    let parts = inspect(&part_path(&folder, 1, 2));
    for number in 0..2 {
        assert!(parts.contains(&format!("part {}", part_path(&folder, number, 2).display())));
    }
    let summary = |text: &str| {
        let line = text.lines().find(|line| line.contains(" parameters, ")).map(str::to_owned);
        line.unwrap()
    };
    assert_eq!(summary(&parts), summary(&whole));
}

#[test]
fn a_missing_part_is_named() {
    let folder = Model::open(&fixture(MODEL)).split(3);
    let (first, second) = (part_path(&folder, 0, 3), part_path(&folder, 1, 3));
    std::fs::remove_file(&second).unwrap();
    for path in [first.as_path(), &part_path(&folder, 2, 3), folder.path()] {
        match Checkpoint::open(path) {
            Err(FormatError::MissingFile { path, .. }) => assert_eq!(path, second),
            other => panic!("{other:?}"),
        }
    }
    assert!(error_of(&first).starts_with(&second.display().to_string()));
}

#[test]
fn a_part_under_another_name_is_an_error() {
    let folder = Model::open(&fixture(MODEL)).split(2);
    for name in ["m.gguf", "m-00002-of-00002.gguf", "m-00001-of-00003.gguf", "m-1-of-2.gguf"] {
        let path = folder.path().join(name);
        std::fs::copy(part_path(&folder, 0, 2), &path).unwrap();
        let error = error_of(&path);
        let expected = "expected a name that ends in -00001-of-00002.gguf, found another name";
        assert!(error.ends_with(expected), "{error}");
    }
}

#[test]
fn parts_that_do_not_belong_together_are_errors() {
    let model = Model::open(&fixture(MODEL));
    let other = Model::open(&fixture("gguf/models/llama3-f16.gguf"));
    let all = model.tensors();
    let tensors = model.place(0, 2).tensors;
    let wrong_name = {
        let mut part = Model::open(&fixture(MODEL)).part(model.place(0, 2), all / 2..all);
        // The metadata of a first part under the number of the second, and another name in it.
        let at = |part: &[u8], text: &[u8]| part.windows(text.len()).position(|w| w == text);
        let number = at(&part, b"split.no").unwrap() + 12;
        part[number] = 1;
        let architecture = at(&part, b"general.architecture").unwrap() + 32;
        part[architecture..architecture + 5].copy_from_slice(b"qwen2");
        part
    };
    for (second, expected) in [
        (
            model.part(Place { number: 1, count: 3, tensors }, all / 2..all),
            "expected part 2 of 2 with 21 tensors in all, found part 2 of 3 with 21 tensors in all",
        ),
        (
            model.part(Place { number: 0, count: 2, tensors }, all / 2..all),
            "found part 1 of 2 with 21 tensors in all",
        ),
        (
            model.part(Place { number: 2, count: 2, tensors }, all / 2..all),
            "key split.no: expected less than the 2 of split.count, found the u16 2",
        ),
        (
            model.part(Place { number: 1, count: 2, tensors: -1 }, all / 2..all),
            "key split.tensors.count: expected a whole number of 32 bits, found the i32 -1",
        ),
        (other.part(other.place(1, 2), 11..22), "found part 2 of 2 with 22 tensors in all"),
        (std::fs::read(fixture(MODEL)).unwrap(), "found a whole model"),
        (
            model.part(model.place(1, 2), all / 2 + 1..all),
            "key split.tensors.count: expected the 20 that its parts hold, found the i32 21",
        ),
        (
            model.part(model.place(1, 2), all / 2 - 1..all - 1),
            "tensor blk.0.ffn_norm.weight: expected once, found twice",
        ),
        (wrong_name, "m-q4-00001-of-00002.gguf has, found the string \"qwen2\""),
        (Vec::new(), "the magic bytes needs 4 bytes, 0 are left"),
    ] {
        let folder = model.split(2);
        std::fs::write(part_path(&folder, 0, 2), model.part(model.place(0, 2), 0..all / 2))
            .unwrap();
        std::fs::write(part_path(&folder, 1, 2), second).unwrap();
        let error = error_of(&part_path(&folder, 0, 2));
        assert!(error.contains(expected), "{error}\nnot: {expected}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn a_folder_of_two_models_in_parts_is_an_error() {
    let model = Model::open(&fixture(MODEL));
    let folder = model.split(2);
    assert!(matches!(Container::open(folder.path()), Ok(Container::Gguf(_))));
    let copy = folder.path().join("other-00001-of-00002.gguf");
    std::fs::copy(part_path(&folder, 0, 2), copy).unwrap();
    assert!(error_of(folder.path()).ends_with("or exactly one .gguf file (found 3)"));
}
