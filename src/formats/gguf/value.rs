//! GGUF metadata: typed values under string keys (source: ggml's `docs/gguf.md`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::formats::{FormatError, Result};

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // the names are the format's
pub enum GgufValue {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(GgufArray),
}

/// A metadata array: values of one type. Arrays of arrays are refused, as ggml does.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // the names are the format's
pub enum GgufArray {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    String(Vec<String>),
}

impl GgufValue {
    /// The type's name, for messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::U16(_) => "u16",
            Self::I16(_) => "i16",
            Self::U32(_) => "u32",
            Self::I32(_) => "i32",
            Self::U64(_) => "u64",
            Self::I64(_) => "i64",
            Self::F32(_) => "f32",
            Self::F64(_) => "f64",
            Self::Bool(_) => "bool",
            Self::String(_) => "string",
            Self::Array(array) => array.type_name(),
        }
    }

    /// The type's number in a file.
    pub(super) fn type_id(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::String(_) => 8,
            Self::Array(_) => 9,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
        }
    }

    /// The value, if it is a whole number of any width.
    pub fn as_integer(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(v) => v.into(),
            Self::I8(v) => v.into(),
            Self::U16(v) => v.into(),
            Self::I16(v) => v.into(),
            Self::U32(v) => v.into(),
            Self::I32(v) => v.into(),
            Self::U64(v) => v.into(),
            Self::I64(v) => v.into(),
            _ => return None,
        })
    }

    fn describe(&self) -> String {
        match self {
            Self::F32(v) => format!("the f32 {v}"),
            Self::F64(v) => format!("the f64 {v}"),
            Self::Bool(v) => format!("the bool {v}"),
            Self::String(v) => format!("the string \"{v}\""),
            Self::Array(array) => format!("{} of {} values", array.type_name(), array.len()),
            integer => match integer.as_integer() {
                Some(v) => format!("the {} {v}", integer.type_name()),
                None => integer.type_name().to_owned(),
            },
        }
    }
}

impl GgufArray {
    /// The type's name, for messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::U8(_) => "array of u8",
            Self::I8(_) => "array of i8",
            Self::U16(_) => "array of u16",
            Self::I16(_) => "array of i16",
            Self::U32(_) => "array of u32",
            Self::I32(_) => "array of i32",
            Self::U64(_) => "array of u64",
            Self::I64(_) => "array of i64",
            Self::F32(_) => "array of f32",
            Self::F64(_) => "array of f64",
            Self::Bool(_) => "array of bool",
            Self::String(_) => "array of strings",
        }
    }

    /// The number in a file of its values' type.
    pub(super) fn type_id(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::String(_) => 8,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(v) => v.len(),
            Self::I8(v) => v.len(),
            Self::U16(v) => v.len(),
            Self::I16(v) => v.len(),
            Self::U32(v) => v.len(),
            Self::I32(v) => v.len(),
            Self::U64(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::F32(v) => v.len(),
            Self::F64(v) => v.len(),
            Self::Bool(v) => v.len(),
            Self::String(v) => v.len(),
        }
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values, if they are whole numbers of any width.
    pub fn as_integers(&self) -> Option<Vec<i128>> {
        fn widen<T: Copy + Into<i128>>(values: &[T]) -> Vec<i128> {
            values.iter().map(|&v| v.into()).collect()
        }
        Some(match self {
            Self::U8(v) => widen(v),
            Self::I8(v) => widen(v),
            Self::U16(v) => widen(v),
            Self::I16(v) => widen(v),
            Self::U32(v) => widen(v),
            Self::I32(v) => widen(v),
            Self::U64(v) => widen(v),
            Self::I64(v) => widen(v),
            _ => return None,
        })
    }
}

/// The key-value section of a file, in file order.
///
/// The getters take whole numbers of any width that fit; `Ok(None)` means that there is no such key.
#[derive(Debug)]
pub struct GgufMetadata {
    path: PathBuf,
    entries: Vec<(String, GgufValue)>,
    index: HashMap<String, usize>,
}

impl GgufMetadata {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf(), entries: Vec::new(), index: HashMap::new() }
    }

    pub(super) fn insert(&mut self, key: String, value: GgufValue) -> Result<()> {
        if self.index.contains_key(&key) {
            return Err(FormatError::DuplicateKey { path: self.path.clone(), key });
        }
        self.index.insert(key.clone(), self.entries.len());
        self.entries.push((key, value));
        Ok(())
    }

    /// All entries, in file order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &GgufValue)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The value of `key`, of whatever type.
    pub fn get(&self, key: &str) -> Option<&GgufValue> {
        self.entries.get(*self.index.get(key)?).map(|(_, value)| value)
    }

    /// A whole number.
    ///
    /// # Errors
    /// [`FormatError::BadMetadata`] when it is none or does not fit.
    pub fn u32(&self, key: &str) -> Result<Option<u32>> {
        self.typed(key, "a whole number of 32 bits", |value| {
            value.as_integer().and_then(|v| v.try_into().ok())
        })
    }

    /// A float; f64 is rounded.
    ///
    /// # Errors
    /// [`FormatError::BadMetadata`] when it is none.
    pub fn f32(&self, key: &str) -> Result<Option<f32>> {
        self.typed(key, "a float", |value| match *value {
            GgufValue::F32(v) => Some(v),
            #[allow(clippy::cast_possible_truncation)] // rounding is what is asked for
            GgufValue::F64(v) => Some(v as f32),
            _ => None,
        })
    }

    /// A bool.
    ///
    /// # Errors
    /// [`FormatError::BadMetadata`] when it is none.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "a bool", |value| match *value {
            GgufValue::Bool(v) => Some(v),
            _ => None,
        })
    }

    /// A string.
    ///
    /// # Errors
    /// [`FormatError::BadMetadata`] when it is none.
    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", |value| match value {
            GgufValue::String(v) => Some(v.as_str()),
            _ => None,
        })
    }

    /// An array of strings.
    ///
    /// # Errors
    /// [`FormatError::BadMetadata`] when it is none.
    pub fn strings(&self, key: &str) -> Result<Option<&[String]>> {
        self.typed(key, "an array of strings", |value| match value {
            GgufValue::Array(GgufArray::String(v)) => Some(v.as_slice()),
            _ => None,
        })
    }

    /// An array of f32.
    ///
    /// # Errors
    /// [`FormatError::BadMetadata`] when it is none.
    pub fn floats(&self, key: &str) -> Result<Option<&[f32]>> {
        self.typed(key, "an array of f32", |value| match value {
            GgufValue::Array(GgufArray::F32(v)) => Some(v.as_slice()),
            _ => None,
        })
    }

    /// An array of whole numbers.
    ///
    /// # Errors
    /// [`FormatError::BadMetadata`] when it is none, or a number does not fit.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<i64>>> {
        self.typed(key, "an array of whole numbers", |value| match value {
            GgufValue::Array(array) => {
                array.as_integers()?.into_iter().map(|v| v.try_into().ok()).collect()
            }
            _ => None,
        })
    }

    /// `found`, or the error that names the key.
    ///
    /// # Errors
    /// [`FormatError::MissingKey`] for `None`.
    pub fn require<T>(&self, key: &str, expected: &'static str, found: Option<T>) -> Result<T> {
        found.ok_or_else(|| FormatError::MissingKey {
            path: self.path.clone(),
            key: key.to_owned(),
            expected,
        })
    }

    /// The error for a value that has the right type but makes no sense.
    pub(super) fn bad(&self, key: &str, expected: String) -> FormatError {
        FormatError::BadMetadata {
            path: self.path.clone(),
            key: key.to_owned(),
            expected,
            found: self.get(key).map_or_else(|| "nothing".to_owned(), GgufValue::describe),
        }
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(&'a GgufValue) -> Option<T>,
    ) -> Result<Option<T>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match convert(value) {
                Some(converted) => Ok(Some(converted)),
                None => Err(self.bad(key, expected.to_owned())),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> GgufMetadata {
        let mut metadata = GgufMetadata::new(Path::new("m.gguf"));
        for (key, value) in [
            ("int", GgufValue::I64(7)),
            ("negative", GgufValue::I8(-1)),
            ("name", GgufValue::String("x".to_owned())),
            ("list", GgufValue::Array(GgufArray::I32(vec![1, -2]))),
        ] {
            metadata.insert(key.to_owned(), value).unwrap();
        }
        metadata
    }

    #[test]
    fn getters_take_any_width_and_name_the_key() {
        let metadata = metadata();
        assert_eq!(metadata.u32("int").unwrap(), Some(7));
        assert_eq!(metadata.u32("absent").unwrap(), None);
        assert_eq!(metadata.integers("list").unwrap(), Some(vec![1, -2]));
        assert_eq!(
            metadata.u32("negative").unwrap_err().to_string(),
            "m.gguf: key negative: expected a whole number of 32 bits, found the i8 -1"
        );
        assert_eq!(
            metadata.f32("name").unwrap_err().to_string(),
            "m.gguf: key name: expected a float, found the string \"x\""
        );
        assert_eq!(
            metadata.strings("list").unwrap_err().to_string(),
            "m.gguf: key list: expected an array of strings, found array of i32 of 2 values"
        );
        assert_eq!(
            metadata.require::<u32>("absent", "a number", None).unwrap_err().to_string(),
            "m.gguf: key absent: expected a number, found no such key"
        );
    }

    #[test]
    fn a_key_occurs_once() {
        let error = metadata().insert("int".to_owned(), GgufValue::Bool(true)).unwrap_err();
        assert!(matches!(error, FormatError::DuplicateKey { key, .. } if key == "int"));
    }
}
