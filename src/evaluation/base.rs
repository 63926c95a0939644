//! What a model is compared with: another model, or a file of its predictions.
//!
//! The file is that of llama.cpp's `--kl-divergence-base` (`tools/perplexity/perplexity.cpp`), so that
//! either program reads the other's: `_logits_`, three numbers of 32 bits (window length, vocabulary,
//! windows), the tokens, and for each position that counts a row of 16-bit numbers: a scale and a
//! least log-probability, both f32, and for each token how many times the scale it is above that.

use std::{
    fs::File,
    io::{BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use rayon::prelude::*;

use super::{EvaluationError, Predictions, Windows, predictions};
use crate::{backend::Backend, models::CausalLm};

const MAGIC: &[u8; 8] = b"_logits_";
/// Less likely tokens than this far below the best are taken to be this far below.
const REACH: f32 = 16.0;

/// Predictions to compare with.
pub trait Base {
    /// Those for window `index`, which holds `window`, from position `first` on.
    ///
    /// # Errors
    /// [`EvaluationError`] when the model fails, or the file is of other tokens.
    fn predictions(
        &mut self,
        index: usize,
        window: &[u32],
        first: usize,
    ) -> Result<Predictions, EvaluationError>;
}

/// A model.
#[derive(Debug)]
pub struct BaseModel<'a, B: Backend>(pub &'a dyn CausalLm<B>);

impl<B: Backend> Base for BaseModel<'_, B> {
    fn predictions(
        &mut self,
        _: usize,
        window: &[u32],
        first: usize,
    ) -> Result<Predictions, EvaluationError> {
        predictions(self.0, window, first)
    }
}

/// Words of a row.
fn row_words(vocabulary: usize) -> usize {
    4 + vocabulary.next_multiple_of(2)
}

/// A file.
#[derive(Debug)]
pub struct BaseFile {
    path: PathBuf,
    file: BufReader<File>,
    length: usize,
    vocabulary: usize,
    tokens: Vec<u32>,
}

impl BaseFile {
    /// Whether a file is one of predictions.
    pub fn is_one(path: &Path) -> bool {
        let mut magic = [0; 8];
        File::open(path).is_ok_and(|mut file| file.read_exact(&mut magic).is_ok())
            && magic == *MAGIC
    }

    /// Opens a file.
    ///
    /// # Errors
    /// [`EvaluationError::Io`], and [`EvaluationError::File`] when it is something else or cut short.
    pub fn open(path: &Path) -> Result<Self, EvaluationError> {
        let io = |source| EvaluationError::Io { file: path.to_path_buf(), source };
        let wrong = |expected: &str, found: String| EvaluationError::File {
            file: path.to_path_buf(),
            expected: expected.into(),
            found,
        };
        let file = File::open(path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        let mut file = BufReader::new(file);
        let mut head = [0; 20];
        file.read_exact(&mut head).map_err(io)?;
        if head[..8] != *MAGIC {
            return Err(wrong("a file that begins with `_logits_`", format!("{:?}", &head[..8])));
        }
        let number = |at: usize| {
            u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize
        };
        let (length, vocabulary, windows) = (number(8), number(12), number(16));
        let rows = length.saturating_sub(1 + length / 2) as u64 * windows as u64;
        let expected = (length as u64).checked_mul(4 * windows as u64).and_then(|tokens| {
            rows.checked_mul(2 * row_words(vocabulary) as u64)?.checked_add(tokens)
        });
        // Nothing is allocated that the file is too small for.
        if expected.and_then(|bytes| bytes.checked_add(20)).is_none_or(|bytes| bytes != size) {
            let expected = format!(
                "{windows} windows of {length} tokens of {vocabulary}, {} bytes",
                expected.map_or_else(|| "too many".into(), |bytes| (bytes + 20).to_string())
            );
            return Err(wrong(&expected, format!("{size} bytes")));
        }
        let mut bytes = vec![0; 4 * length * windows];
        file.read_exact(&mut bytes).map_err(io)?;
        let tokens = bytemuck::pod_collect_to_vec(&bytes);
        Ok(Self { path: path.to_path_buf(), file, length, vocabulary, tokens })
    }

    /// Tokens in its windows.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The tokens of its windows.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }
}

impl Base for BaseFile {
    fn predictions(
        &mut self,
        index: usize,
        window: &[u32],
        first: usize,
    ) -> Result<Predictions, EvaluationError> {
        let wrong = |expected: String, found: String| EvaluationError::File {
            file: self.path.clone(),
            expected,
            found,
        };
        let own = self.tokens.chunks_exact(self.length).nth(index).unwrap_or_default();
        // The first token may be that of the text or the beginning-of-text token.
        if own.len() != window.len() || own.get(1..) != window.get(1..) {
            let differ = own.iter().zip(window).skip(1).position(|(a, b)| a != b);
            return Err(wrong(
                format!("the tokens of window {index}, {} of them", window.len()),
                match differ {
                    Some(at) => format!("{} for {} at {}", own[at + 1], window[at + 1], at + 1),
                    None => format!("{} tokens", own.len()),
                },
            ));
        }
        let words = row_words(self.vocabulary);
        let mut bytes = vec![0; (window.len() - 1 - first) * 2 * words];
        self.file
            .read_exact(&mut bytes)
            .map_err(|source| EvaluationError::Io { file: self.path.clone(), source })?;
        let values = bytes
            .par_chunks_exact(2 * words)
            .flat_map_iter(|row| {
                let float = |at: usize| {
                    f32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]])
                };
                let (scale, least) = (float(0), float(4));
                let codes = row[8..8 + 2 * self.vocabulary].chunks_exact(2);
                codes.map(move |code| {
                    least + scale * f32::from(u16::from_le_bytes([code[0], code[1]]))
                })
            })
            .collect();
        Ok(Predictions { values, vocabulary: self.vocabulary })
    }
}

/// A file in the making.
#[derive(Debug)]
pub struct BaseWriter {
    path: PathBuf,
    file: BufWriter<File>,
}

impl BaseWriter {
    /// Begins a file for the predictions on `windows`.
    ///
    /// # Errors
    /// [`EvaluationError::Io`].
    pub fn create(
        path: &Path,
        windows: &Windows,
        vocabulary: usize,
    ) -> Result<Self, EvaluationError> {
        let begin = || {
            let mut file = BufWriter::new(File::create(path)?);
            file.write_all(MAGIC)?;
            for number in [windows.length(), vocabulary, windows.count()] {
                file.write_all(&(number as u32).to_le_bytes())?;
            }
            file.write_all(bytemuck::cast_slice(windows.tokens()))?;
            Ok(file)
        };
        match begin() {
            Ok(file) => Ok(Self { path: path.to_path_buf(), file }),
            Err(source) => Err(EvaluationError::Io { file: path.to_path_buf(), source }),
        }
    }

    pub(super) fn window(&mut self, predictions: &Predictions) -> Result<(), EvaluationError> {
        let rows: Vec<Vec<u8>> = predictions.rows().map(packed).collect();
        self.put(|file| rows.iter().try_for_each(|row| file.write_all(row)))
    }

    /// Writes what is still held back.
    ///
    /// # Errors
    /// [`EvaluationError::Io`].
    pub fn finish(mut self) -> Result<(), EvaluationError> {
        self.put(Write::flush)
    }

    fn put(
        &mut self,
        write: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
    ) -> Result<(), EvaluationError> {
        write(&mut self.file)
            .map_err(|source| EvaluationError::Io { file: self.path.clone(), source })
    }
}

/// A row as the file has it.
fn packed(row: &[f32]) -> Vec<u8> {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let least = row.iter().copied().fold(f32::INFINITY, f32::min).max(largest - REACH);
    let scale = (largest - least) / f32::from(u16::MAX);
    let mut bytes = Vec::with_capacity(2 * row_words(row.len()));
    bytes.extend_from_slice(&scale.to_le_bytes());
    bytes.extend_from_slice(&least.to_le_bytes());
    for &value in row {
        let code = if scale > 0.0 { ((value - least) / scale).round() as u16 } else { 0 };
        bytes.extend_from_slice(&code.to_le_bytes());
    }
    bytes.resize(2 * row_words(row.len()), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("base");
        let windows = Windows::new((0..10).collect(), 4, Some(9)).expect("windows");
        let logits = vec![0.5, -1.0, 2.0, 0.0, -40.0];
        let written = Predictions::from_logits(logits, 5);
        let mut writer = BaseWriter::create(&path, &windows, 5).expect("create");
        writer.window(&written).expect("write");
        writer.window(&written).expect("write");
        writer.finish().expect("flush");
        assert!(BaseFile::is_one(&path));
        let mut file = BaseFile::open(&path).expect("open");
        assert_eq!((file.length(), file.tokens()), (4, windows.tokens()));
        for (i, window) in windows.iter().enumerate() {
            let read = file.predictions(i, &window, 2).expect("read");
            for (a, b) in read.values.iter().zip(&written.values).take(4) {
                assert!((a - b).abs() < 2e-4, "{a} {b}");
            }
            // Too far below the best.
            assert!((read.values[4] - (written.values[2] - REACH)).abs() < 2e-4);
        }
    }

    #[test]
    fn broken_files_are_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("base");
        let says = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("write");
            BaseFile::open(&path).expect_err("broken").to_string()
        };
        assert!(says(b"_logits_").contains("base"));
        assert!(says(&[7; 40]).contains("_logits_"));
        let mut huge = MAGIC.to_vec();
        huge.extend_from_slice(&[0xff; 12]);
        assert!(says(&huge).contains("found 20 bytes"));
    }
}
