//! Everything that can be wrong with a model file, each with the file, the place, what was expected
//! and what was found. Messages are one line; text out of the file is escaped and shortened.

use std::fmt;
use std::path::PathBuf;

use crate::quant::Encoding;

/// Result of reading a model file.
pub type Result<T> = std::result::Result<T, FormatError>;

/// Why a model file could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something that belongs to a model is not there.
    #[error("{}: expected {expected}", path.display())]
    MissingFile {
        /// The file or folder looked at.
        path: PathBuf,
        /// What should be there.
        expected: String,
    },
    /// The file does not begin as its kind must.
    #[error("{}: expected {expected}, found {}", path.display(), Shown(found))]
    BadMagic {
        /// The file.
        path: PathBuf,
        /// What a file of this kind begins with.
        expected: &'static str,
        /// What it begins with.
        found: String,
    },
    /// A version of the format that is not read here, or the wrong byte order.
    #[error("{}: expected GGUF version 2 or 3, little-endian, found {found}", path.display())]
    UnsupportedVersion {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: String,
    },
    /// The file ends before something that it announces.
    #[error("{}: {} needs {needed} bytes, {have} are left", path.display(), Shown(what))]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
        /// The least number of bytes that it takes.
        needed: u64,
        /// The bytes left for it.
        have: u64,
    },
    /// The header as a whole cannot be read.
    #[error("{}: header: expected {expected}, found {}", path.display(), Shown(found))]
    BadHeader {
        /// The file.
        path: PathBuf,
        /// What the format asks for.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A metadata entry has a wrong type or value.
    #[error("{}: key {}: expected {expected}, found {}", path.display(), Shown(key), Shown(found))]
    BadMetadata {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What it should hold.
        expected: String,
        /// What it holds.
        found: String,
    },
    /// A metadata entry that is needed is absent.
    #[error("{}: key {}: expected {expected}, found no such key", path.display(), Shown(key))]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// A metadata key that occurs twice.
    #[error("{}: key {}: expected once, found twice", path.display(), Shown(key))]
    DuplicateKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A tensor name that occurs twice.
    #[error("{}: tensor {}: expected once, found twice", path.display(), Shown(tensor))]
    DuplicateTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor whose description contradicts itself or the file.
    #[error("{}: tensor {}: expected {expected}, found {}", path.display(), Shown(tensor), Shown(found))]
    BadTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What the format asks for.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A tensor in a storage type that cannot be loaded.
    #[error(
        "{}: tensor {}: expected one of {Supported}, found the unsupported type {}",
        path.display(), Shown(tensor), Shown(found)
    )]
    UnsupportedEncoding {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The file's name for the type.
        found: String,
    },
    /// A tensor that is needed is absent.
    #[error("{}: tensor {}: not in the file{}", path.display(), Shown(tensor), Similar(similar))]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// The tensor, by the name it was asked for.
        tensor: String,
        /// Names in the file that come close.
        similar: Vec<String>,
    },
    /// A tensor of another shape than the model needs.
    #[error("{}: tensor {}: expected shape {expected:?}, found {found:?}", path.display(), Shown(tensor))]
    ShapeMismatch {
        /// The file.
        path: PathBuf,
        /// The tensor, by the name it was asked for.
        tensor: String,
        /// The shape needed.
        expected: Vec<usize>,
        /// The shape found.
        found: Vec<usize>,
    },
    /// A shard named by an index is not beside it.
    #[error(
        "{}: tensor {}: expected the shard {} beside the index, found no such file",
        path.display(), Shown(tensor), Shown(shard)
    )]
    MissingShard {
        /// The index.
        path: PathBuf,
        /// A tensor that the shard should hold.
        tensor: String,
        /// The shard.
        shard: String,
    },
    /// A shard name that is not a plain file name: it could lead out of the model's folder.
    #[error(
        "{}: tensor {}: expected a plain file name for the shard, found {}",
        path.display(), Shown(tensor), Shown(shard)
    )]
    BadShardName {
        /// The index.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard name found.
        shard: String,
    },
    /// A file that is not the part of a split GGUF model that it should be.
    #[error("{}: expected {expected}, found {found}", path.display())]
    BadPart {
        /// The file.
        path: PathBuf,
        /// The part that belongs there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A JSON file beside the weights is not what it should be.
    #[error("{}: expected {expected}, found {}", path.display(), Shown(found))]
    BadConfig {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
        /// What it holds.
        found: String,
    },
}

/// The storage types that can be loaded.
struct Supported;

impl fmt::Display for Supported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Encoding::ALL.map(Encoding::name).join(", "))
    }
}

/// Text from a file, made fit for one line of a terminal.
pub(crate) struct Shown<'a>(pub(crate) &'a str);

const SHOWN_CHARS: usize = 120;

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        for (i, c) in self.0.chars().enumerate() {
            if i == SHOWN_CHARS {
                return f.write_str("...");
            }
            if c.is_control() || c == char::REPLACEMENT_CHARACTER {
                write!(f, "{}", c.escape_unicode())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}

/// `; similar: a, b` or nothing.
struct Similar<'a>(&'a [String]);

impl fmt::Display for Similar<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, name) in self.0.iter().enumerate() {
            let before = if i == 0 { "; similar: " } else { ", " };
            write!(f, "{before}{}", Shown(name))?;
        }
        Ok(())
    }
}

/// At most three of `names` that share the most dot-separated parts with `wanted`, counted from
/// either end.
pub(crate) fn similar_names<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let parts: Vec<&str> = wanted.split('.').collect();
    let score = |name: &str| {
        let front = name.split('.').zip(&parts).take_while(|(a, b)| a == *b).count();
        let back = name.rsplit('.').zip(parts.iter().rev()).take_while(|(a, b)| a == *b).count();
        front + back
    };
    let mut scored: Vec<(usize, &str)> = names
        .map(|name| (score(name), name))
        .filter(|(score, _)| 2 * score > parts.len())
        .collect();
    scored.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
    scored.into_iter().take(3).map(|(_, name)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_stay_on_one_short_line() {
        let error = FormatError::BadMetadata {
            path: "m.gguf".into(),
            key: "a\nb\u{1b}[2J".to_owned(),
            expected: "u32".to_owned(),
            found: "x".repeat(10_000),
        };
        let text = error.to_string();
        assert!(text.starts_with("m.gguf: key a\\u{a}b\\u{1b}[2J: expected u32, found xxx"));
        assert!(text.len() < 250 && text.ends_with("..."));
    }

    #[test]
    fn similar_names_share_parts() {
        let names = [
            "model.layers.0.mlp.up_proj.weight",
            "model.layers.0.mlp.gate_proj.weight",
            "lm_head.weight",
        ];
        let similar = similar_names("model.layers.0.mlp.up_proj.bias", names.into_iter());
        assert_eq!(similar, [names[0], names[1]]);
        assert!(similar_names("head.bias", names.into_iter()).is_empty());
    }
}
