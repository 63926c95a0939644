//! Writing safetensors, as the reference writer does: the wider types first, then by name, and the
//! data aligned to 8 bytes.

use std::cmp::Reverse;
use std::path::Path;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::formats::output::Output;
use crate::formats::{FormatError, Result, TensorSpec};

/// Where the data must begin: the header is padded up to here.
const ALIGNMENT: usize = 8;

/// Writes a safetensors file: values as `data` gives them when their turn comes, so that no more than
/// one tensor need exist at a time. The files of `transformers` have `format: pt` in `metadata`, and
/// it asks for that.
///
/// # Errors
/// What `data` fails with; [`FormatError`] when the system refuses, when a name occurs twice, or when
/// a tensor is packed or has not the bytes of its shape. The file is then not written.
pub fn write<E: From<FormatError>>(
    path: &Path,
    metadata: &[(&str, &str)],
    tensors: &[TensorSpec],
    mut data: impl FnMut(&TensorSpec) -> std::result::Result<Bytes, E>,
) -> std::result::Result<(), E> {
    let mut tensors: Vec<&TensorSpec> = tensors.iter().collect();
    tensors.sort_by_key(|tensor| (Reverse(tensor.encoding.block_bytes()), &tensor.name));
    let header = header(path, metadata, &tensors)?;
    let mut file = Output::create(path)?;
    file.write(&(header.len() as u64).to_le_bytes())?;
    file.write(header.as_bytes())?;
    for tensor in tensors {
        file.tensor(tensor, &data(tensor)?)?;
    }
    file.finish()?;
    Ok(())
}

fn header(path: &Path, metadata: &[(&str, &str)], tensors: &[&TensorSpec]) -> Result<String> {
    let mut header = Map::new();
    if !metadata.is_empty() {
        let metadata: Map<_, _> =
            metadata.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        header.insert("__metadata__".to_owned(), metadata.into());
    }
    let mut start = 0;
    for tensor in tensors {
        if tensor.encoding.is_packed() {
            return Err(FormatError::BadTensor {
                path: path.to_path_buf(),
                tensor: tensor.name.clone(),
                expected: "F32, F16 or BF16 in a safetensors file".to_owned(),
                found: tensor.encoding.name().to_owned(),
            });
        }
        let end = start + tensor.checked_bytes(path)?;
        let entry = json!({"dtype": tensor.encoding.name(), "shape": tensor.shape,
                           "data_offsets": [start, end]});
        if header.insert(tensor.name.clone(), entry).is_some() {
            let (path, tensor) = (path.to_path_buf(), tensor.name.clone());
            return Err(FormatError::DuplicateTensor { path, tensor });
        }
        start = end;
    }
    let mut header = Value::Object(header).to_string();
    let padding = header.len().next_multiple_of(ALIGNMENT) - header.len();
    header.extend(std::iter::repeat_n(' ', padding));
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::SafetensorsFile;
    use crate::quant::Encoding;

    fn spec(name: &str, shape: &[usize], encoding: Encoding) -> TensorSpec {
        TensorSpec { name: name.to_owned(), shape: shape.to_vec(), encoding }
    }

    #[test]
    fn what_is_written_is_read_by_the_reference_reader() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        let tensors = [
            spec("b", &[3], Encoding::F16),
            spec("c", &[2, 2], Encoding::F32),
            spec("a\"", &[5], Encoding::BF16),
            spec("scalar", &[], Encoding::F32),
        ];
        let values = |spec: &TensorSpec| -> Result<Bytes> {
            Ok((0..spec.bytes().unwrap()).map(|i| i as u8).collect())
        };
        write(&path, &[("format", "pt")], &tensors, values).unwrap();

        let bytes = std::fs::read(&path).unwrap();
        let reference = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let file = SafetensorsFile::open(&path).unwrap();
        assert_eq!(file.metadata()["format"], "pt");
        assert_eq!(file.tensors().map(|t| t.name).collect::<Vec<_>>(), ["c", "scalar", "a\"", "b"]);
        assert_eq!(reference.len(), tensors.len());
        for written in &tensors {
            let found = reference.tensor(&written.name).unwrap();
            assert_eq!(found.shape(), written.shape);
            assert_eq!(found.data(), &values(written).unwrap()[..]);
        }
    }

    #[test]
    fn what_fails_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        let fails = |tensors: &[TensorSpec]| {
            let none = |_: &TensorSpec| Ok::<_, FormatError>(Bytes::new());
            write(&path, &[], tensors, none).expect_err("it is wrong").to_string()
        };
        let one = spec("t", &[2], Encoding::F32);
        assert!(
            fails(std::slice::from_ref(&one)).ends_with("expected 8 bytes of F32, found 0 bytes")
        );
        assert!(fails(&[one.clone(), one]).ends_with("expected once, found twice"));
        let packed = spec("t", &[2, 32], Encoding::Q8_0);
        assert!(
            fails(&[packed])
                .ends_with("expected F32, F16 or BF16 in a safetensors file, found Q8_0")
        );
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
