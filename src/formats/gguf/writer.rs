//! Writing GGUF, version 3 (source: ggml's `docs/gguf.md`).

use std::path::Path;

use bytes::Bytes;

use super::types::GgmlType;
use super::value::{GgufArray, GgufValue};
use super::{DEFAULT_ALIGNMENT, reader::MAGIC};
use crate::formats::output::Output;
use crate::formats::{FormatError, Result, TensorSpec};

const VERSION: u32 = 3;

/// Writes a GGUF file: metadata and tensors in the order given, values as `data` gives them when
/// their turn comes, so that no more than one tensor need exist at a time.
///
/// # Errors
/// What `data` fails with; [`FormatError`] when the system refuses, when a name or a key occurs
/// twice, or when a tensor has not the bytes of its shape. The file is then not written.
pub fn write<E: From<FormatError>>(
    path: &Path,
    metadata: &[(String, GgufValue)],
    tensors: &[TensorSpec],
    mut data: impl FnMut(&TensorSpec) -> std::result::Result<Bytes, E>,
) -> std::result::Result<(), E> {
    let header = header(path, metadata, tensors)?;
    let mut file = Output::create(path)?;
    file.write(&header)?;
    for tensor in tensors {
        file.pad(DEFAULT_ALIGNMENT.into())?;
        file.tensor(tensor, &data(tensor)?)?;
    }
    file.pad(DEFAULT_ALIGNMENT.into())?;
    file.finish()?;
    Ok(())
}

fn header(
    path: &Path,
    metadata: &[(String, GgufValue)],
    tensors: &[TensorSpec],
) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    put_len(&mut out, tensors.len());
    put_len(&mut out, metadata.len());
    for (i, (key, value)) in metadata.iter().enumerate() {
        if metadata[..i].iter().any(|(before, _)| before == key) {
            return Err(FormatError::DuplicateKey { path: path.to_path_buf(), key: key.clone() });
        }
        put_string(&mut out, key);
        out.extend_from_slice(&value.type_id().to_le_bytes());
        put_value(&mut out, value);
    }
    let alignment = u64::from(DEFAULT_ALIGNMENT);
    let mut offset = 0u64;
    for (i, tensor) in tensors.iter().enumerate() {
        if tensors[..i].iter().any(|before| before.name == tensor.name) {
            let (path, tensor) = (path.to_path_buf(), tensor.name.clone());
            return Err(FormatError::DuplicateTensor { path, tensor });
        }
        put_string(&mut out, &tensor.name);
        out.extend_from_slice(&(tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|&dim| put_len(&mut out, dim));
        out.extend_from_slice(&GgmlType::of(tensor.encoding).id.to_le_bytes());
        out.extend_from_slice(&offset.to_le_bytes());
        offset += (tensor.checked_bytes(path)? as u64).next_multiple_of(alignment);
    }
    Ok(out)
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(&(len as u64).to_le_bytes());
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    put_len(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &GgufValue) {
    match value {
        GgufValue::U8(v) => out.extend(v.to_le_bytes()),
        GgufValue::I8(v) => out.extend(v.to_le_bytes()),
        GgufValue::U16(v) => out.extend(v.to_le_bytes()),
        GgufValue::I16(v) => out.extend(v.to_le_bytes()),
        GgufValue::U32(v) => out.extend(v.to_le_bytes()),
        GgufValue::I32(v) => out.extend(v.to_le_bytes()),
        GgufValue::U64(v) => out.extend(v.to_le_bytes()),
        GgufValue::I64(v) => out.extend(v.to_le_bytes()),
        GgufValue::F32(v) => out.extend(v.to_le_bytes()),
        GgufValue::F64(v) => out.extend(v.to_le_bytes()),
        GgufValue::Bool(v) => out.push(u8::from(*v)),
        GgufValue::String(v) => put_string(out, v),
        GgufValue::Array(array) => {
            out.extend(array.type_id().to_le_bytes());
            put_len(out, array.len());
            put_array(out, array);
        }
    }
}

fn put_array(out: &mut Vec<u8>, array: &GgufArray) {
    match array {
        GgufArray::U8(v) => out.extend_from_slice(v),
        GgufArray::I8(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        GgufArray::U16(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        GgufArray::I16(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        GgufArray::U32(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        GgufArray::I32(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        GgufArray::U64(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        GgufArray::I64(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        GgufArray::F32(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        GgufArray::F64(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        GgufArray::Bool(v) => out.extend(v.iter().map(|&v| u8::from(v))),
        GgufArray::String(v) => v.iter().for_each(|v| put_string(out, v)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::GgufFile;
    use crate::quant::Encoding;

    fn spec(name: &str, shape: &[usize], encoding: Encoding) -> TensorSpec {
        TensorSpec { name: name.to_owned(), shape: shape.to_vec(), encoding }
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        let metadata: Vec<(String, GgufValue)> = [
            ("u8", GgufValue::U8(1)),
            ("i8", GgufValue::I8(-2)),
            ("u16", GgufValue::U16(3)),
            ("i16", GgufValue::I16(-4)),
            ("u32", GgufValue::U32(5)),
            ("i32", GgufValue::I32(-6)),
            ("u64", GgufValue::U64(7)),
            ("i64", GgufValue::I64(-8)),
            ("f32", GgufValue::F32(0.5)),
            ("f64", GgufValue::F64(-0.25)),
            ("bool", GgufValue::Bool(true)),
            ("string", GgufValue::String("naïve".into())),
            ("u8s", GgufValue::Array(GgufArray::U8(vec![1, 2]))),
            ("i8s", GgufValue::Array(GgufArray::I8(vec![-1]))),
            ("u16s", GgufValue::Array(GgufArray::U16(vec![]))),
            ("i16s", GgufValue::Array(GgufArray::I16(vec![-300, 4]))),
            ("u32s", GgufValue::Array(GgufArray::U32(vec![70_000]))),
            ("i32s", GgufValue::Array(GgufArray::I32(vec![-70_000]))),
            ("u64s", GgufValue::Array(GgufArray::U64(vec![1 << 40]))),
            ("i64s", GgufValue::Array(GgufArray::I64(vec![-1 << 40]))),
            ("f32s", GgufValue::Array(GgufArray::F32(vec![1.5, -2.5]))),
            ("f64s", GgufValue::Array(GgufArray::F64(vec![3.5]))),
            ("bools", GgufValue::Array(GgufArray::Bool(vec![true, false]))),
            ("strings", GgufValue::Array(GgufArray::String(vec!["a".into(), String::new()]))),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .to_vec();
        let tensors = [
            spec("a", &[3], Encoding::F16),
            spec("b", &[2, 64], Encoding::Q8_0),
            spec("c", &[2, 3, 1], Encoding::F32),
        ];
        let values = |spec: &TensorSpec| -> Result<Bytes> {
            Ok((0..spec.bytes().unwrap()).map(|i| i as u8).collect())
        };
        write(&path, &metadata, &tensors, values).unwrap();

        let file = GgufFile::open(&path).unwrap();
        assert_eq!(file.version(), VERSION);
        let found: Vec<_> =
            file.metadata().iter().map(|(key, value)| (key.to_owned(), value.clone())).collect();
        assert_eq!(found, metadata);
        assert_eq!(file.tensors().len(), tensors.len());
        for (found, written) in file.tensors().iter().zip(&tensors) {
            assert_eq!((found.name(), found.shape()), (&*written.name, &*written.shape));
            assert_eq!(found.ggml_type().encoding(), Some(written.encoding));
            assert_eq!(file.bytes(found), &values(written).unwrap()[..]);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left over");
    }

    #[test]
    fn what_fails_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        let fails = |metadata: &[(String, GgufValue)], tensors: &[TensorSpec]| {
            let none = |_: &TensorSpec| Ok::<_, FormatError>(Bytes::new());
            write(&path, metadata, tensors, none).expect_err("it is wrong").to_string()
        };
        let one = spec("t", &[2], Encoding::F32);
        assert!(
            fails(&[], std::slice::from_ref(&one))
                .ends_with("expected 8 bytes of F32, found 0 bytes")
        );
        assert!(fails(&[], &[one.clone(), one]).ends_with("expected once, found twice"));
        let odd = spec("t", &[2, 33], Encoding::Q8_0);
        assert!(fails(&[], &[odd]).contains("rows of a multiple of 32 values"));
        let key = || ("k".to_owned(), GgufValue::Bool(true));
        assert!(fails(&[key(), key()], &[]).contains('k'));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
