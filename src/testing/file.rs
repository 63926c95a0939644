//! Golden files: safetensors with F32 for floats and I64 for integers.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use safetensors::tensor::{Dtype, TensorView};

use super::{HostTensor, Snapshot, Values};
use crate::formats::{FormatError, SafetensorsFile};

impl Snapshot {
    /// Reads a golden file, whoever made it: a safetensors file whose tensors are F32 or I64.
    ///
    /// # Errors
    /// [`FormatError`] with the file's name.
    pub fn read(path: &Path) -> Result<Self, FormatError> {
        let file = SafetensorsFile::open(path)?;
        let mut snapshot = Self::new();
        for view in file.tensors() {
            let refuse = |expected: &str, found| FormatError::BadTensor {
                path: path.to_path_buf(),
                tensor: view.name.to_owned(),
                expected: expected.to_owned(),
                found,
            };
            if view.name.is_empty() {
                return Err(refuse("a name", "none".to_owned()));
            }
            let shape = view.shape.to_vec();
            let tensor = match view.dtype {
                Dtype::F32 => HostTensor::floats(shape, values(view.bytes, f32::from_le_bytes)),
                Dtype::I64 => HostTensor::ints(shape, values(view.bytes, i64::from_le_bytes)),
                other => return Err(refuse("F32 or I64", other.to_string())),
            };
            snapshot.insert(view.name, tensor);
        }
        Ok(snapshot)
    }

    /// Writes a golden file, with its folder. The file is whole at every moment: who reads it
    /// meanwhile finds the old one or the new one.
    ///
    /// # Errors
    /// [`io::Error`] of the file system.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let bytes: Vec<(&str, Dtype, &[usize], Vec<u8>)> = self
            .iter()
            .map(|(name, tensor)| match &tensor.values {
                Values::Float(v) => {
                    let bytes = v.iter().flat_map(|v| v.to_le_bytes()).collect();
                    (name, Dtype::F32, tensor.shape(), bytes)
                }
                Values::Int(v) => {
                    let bytes = v.iter().flat_map(|v| v.to_le_bytes()).collect();
                    (name, Dtype::I64, tensor.shape(), bytes)
                }
            })
            .collect();
        let views: Result<Vec<_>, _> = bytes
            .iter()
            .map(|(name, dtype, shape, bytes)| {
                TensorView::new(*dtype, shape.to_vec(), bytes).map(|view| (*name, view))
            })
            .collect();
        let file = views
            .and_then(|views| safetensors::serialize(views, None))
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        write_whole(path, &file)
    }
}

fn values<const N: usize, T>(bytes: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks().0.iter().map(|chunk| read(*chunk)).collect()
}

/// Writes beside `path` and renames, which replaces the file in one step.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // Tests run in threads of a process, or in processes of their own.
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?.to_string_lossy();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = path.parent().map_or_else(PathBuf::new, Path::to_path_buf);
    if folder != Path::new("") {
        fs::create_dir_all(&folder)?;
    }
    let unfinished = folder.join(format!(".{name}.{}.{count}", std::process::id()));
    let written = fs::write(&unfinished, bytes).and_then(|()| fs::rename(&unfinished, path));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&unfinished);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        let mut snapshot = Snapshot::new();
        snapshot.insert("b", HostTensor::ints([2, 1], vec![i64::MAX, -1]));
        snapshot.insert("a", HostTensor::floats([1, 2, 2], vec![0.1, -0.0, f32::INFINITY, 1e-45]));
        snapshot.insert("empty", HostTensor::floats([0, 3], vec![]));
        snapshot
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("new/folder/golden.safetensors");
        let want = snapshot();
        want.write(&path).expect("writes");
        let got = Snapshot::read(&path).expect("reads");
        assert_eq!(got.len(), want.len());
        for (name, tensor) in want.iter() {
            assert_eq!(got.get(name), Some(tensor), "{name}");
        }
        // Again over the old one; and nothing else is left in the folder.
        want.write(&path).expect("writes");
        assert_eq!(fs::read_dir(path.parent().expect("folder")).expect("lists").count(), 1);
    }

    #[test]
    fn a_write_that_fails_leaves_nothing() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("golden.safetensors");
        // A folder in the way, which no rename replaces.
        fs::create_dir_all(path.join("in the way")).expect("folder");
        snapshot().write(&path).expect_err("a folder is there");
        assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 1);
    }

    #[test]
    fn broken_files_are_refused_by_name() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("golden.safetensors");
        snapshot().write(&path).expect("writes");
        let whole = fs::read(&path).expect("reads");
        for len in 0..whole.len() {
            fs::write(&path, &whole[..len]).expect("writes");
            let error = Snapshot::read(&path).expect_err("cut").to_string();
            assert!(error.contains("golden.safetensors"), "{len}: {error}");
        }
        let half = TensorView::new(Dtype::F16, vec![1], &[0, 0]).expect("view");
        fs::write(&path, safetensors::serialize([("x", half)], None).expect("bytes"))
            .expect("writes");
        let error = Snapshot::read(&path).expect_err("f16").to_string();
        assert!(error.ends_with("tensor x: expected F32 or I64, found F16"), "{error}");
    }
}
