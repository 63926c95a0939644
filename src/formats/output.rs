//! Writing a file: it appears under its name when it is complete, and not before. What stood there is
//! replaced, never changed: it may be mapped.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{FormatError, RawTensor, Result};
use crate::quant::Encoding;

/// A tensor that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// The name in the file.
    pub name: String,
    /// Row-major, slowest dimension first.
    pub shape: Vec<usize>,
    /// How the values are stored.
    pub encoding: Encoding,
}

impl TensorSpec {
    /// Stored size in bytes; `None` when the rows are not whole blocks.
    pub fn bytes(&self) -> Option<usize> {
        let rows: usize = self.shape.iter().rev().skip(1).product();
        self.encoding.bytes_for(self.shape.last().copied().unwrap_or(1))?.checked_mul(rows)
    }

    /// [`TensorSpec::bytes`], or the error for the file `path`.
    pub(super) fn checked_bytes(&self, path: &Path) -> Result<usize> {
        self.bytes().ok_or_else(|| FormatError::BadTensor {
            path: path.to_path_buf(),
            tensor: self.name.clone(),
            expected: format!("rows of a multiple of {} values", self.encoding.block_len()),
            found: format!("shape {:?}", self.shape),
        })
    }
}

impl From<&RawTensor> for TensorSpec {
    fn from(tensor: &RawTensor) -> Self {
        Self { name: tensor.name.clone(), shape: tensor.shape.clone(), encoding: tensor.encoding }
    }
}

/// A file that is being written, under another name beside its own.
pub(crate) struct Output {
    path: PathBuf,
    partial: PathBuf,
    writer: Option<BufWriter<File>>,
    written: u64,
}

impl Output {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let partial = path.with_file_name(name);
        let io = |source| FormatError::Io { path: partial.clone(), source };
        let writer = BufWriter::new(File::create(&partial).map_err(io)?);
        Ok(Self { path: path.to_path_buf(), partial, writer: Some(writer), written: 0 })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(writer) = &mut self.writer {
            writer.write_all(bytes).map_err(|source| self.failed(source))?;
            self.written += bytes.len() as u64;
        }
        Ok(())
    }

    /// Zeros up to the next multiple of `alignment`.
    pub(super) fn pad(&mut self, alignment: u64) -> Result<()> {
        let missing = self.written.next_multiple_of(alignment) - self.written;
        (0..missing).try_for_each(|_| self.write(&[0]))
    }

    /// The values of a tensor, which must be as many as it said.
    pub(super) fn tensor(&mut self, spec: &TensorSpec, bytes: &[u8]) -> Result<()> {
        let expected = spec.checked_bytes(&self.path)?;
        if bytes.len() != expected {
            return Err(FormatError::BadTensor {
                path: self.path.clone(),
                tensor: spec.name.clone(),
                expected: format!("{expected} bytes of {}", spec.encoding.name()),
                found: format!("{} bytes", bytes.len()),
            });
        }
        self.write(bytes)
    }

    /// Gives the file its name.
    pub(crate) fn finish(mut self) -> Result<()> {
        if let Some(mut writer) = self.writer.take() {
            let done = writer.flush().and_then(|()| std::fs::rename(&self.partial, &self.path));
            done.map_err(|source| {
                std::fs::remove_file(&self.partial).ok();
                self.failed(source)
            })?;
        }
        Ok(())
    }

    fn failed(&self, source: std::io::Error) -> FormatError {
        FormatError::Io { path: self.path.clone(), source }
    }
}

impl Drop for Output {
    /// What was not finished is nothing.
    fn drop(&mut self) {
        if self.writer.take().is_some() {
            std::fs::remove_file(&self.partial).ok();
        }
    }
}
