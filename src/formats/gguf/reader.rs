//! The binary layout of GGUF: a cursor that never reads past the end, and the parse of header,
//! metadata and tensor descriptions (source: ggml's `docs/gguf.md`, `gguf.cpp`).
//!
//! Nothing is allocated for what a count merely claims: counts are first held against the bytes
//! that so many entries need at the least, and vectors grow as entries are read.

use std::path::Path;

use super::types::{GgmlType, TypeId};
use super::value::{GgufArray, GgufMetadata, GgufValue};
use crate::formats::{FormatError, Result};

pub(super) const MAGIC: &[u8; 4] = b"GGUF";
/// ggml's `GGML_MAX_DIMS`.
const MAX_DIMS: u32 = 4;
/// Key length, type, one byte of value.
const MIN_ENTRY_BYTES: u64 = 8 + 4 + 1;
/// Name length, number of dimensions, type, offset.
const MIN_TENSOR_BYTES: u64 = 8 + 4 + 4 + 8;
/// Vectors start with room for so many values at most.
const FIRST_ROOM: usize = 4096;

/// A tensor's description as the file gives it, its sizes checked but not its place.
pub(super) struct Description {
    pub name: String,
    /// Row-major; the file has the fastest dimension first.
    pub shape: Vec<usize>,
    pub ty: &'static GgmlType,
    pub bytes: u64,
    pub offset: u64,
}

/// Everything before the tensor data.
pub(super) struct Header {
    pub version: u32,
    pub metadata: GgufMetadata,
    pub tensors: Vec<Description>,
    /// Where the header ends, before padding.
    pub end: u64,
}

/// Reads the header of the GGUF file `bytes`.
pub(super) fn read_header(path: &Path, bytes: &[u8]) -> Result<Header> {
    let mut cursor = Cursor { path, rest: bytes };
    let version = read_version(&mut cursor)?;
    let tensor_count = cursor.u64("the tensor count")?;
    let entry_count = cursor.u64("the metadata count")?;
    let needed = tensor_count
        .saturating_mul(MIN_TENSOR_BYTES)
        .saturating_add(entry_count.saturating_mul(MIN_ENTRY_BYTES));
    cursor.check_room(needed, || {
        format!("a header of {entry_count} metadata entries and {tensor_count} tensors")
    })?;

    let mut metadata = GgufMetadata::new(path);
    for _ in 0..entry_count {
        let key = read_key(&mut cursor)?;
        let value = read_value(&mut cursor, &key)?;
        metadata.insert(key, value)?;
    }
    let mut tensors = Vec::new();
    for _ in 0..tensor_count {
        tensors.push(read_description(&mut cursor)?);
    }
    Ok(Header { version, metadata, tensors, end: bytes.len() as u64 - cursor.rest.len() as u64 })
}

fn read_version(cursor: &mut Cursor<'_>) -> Result<u32> {
    let path = || cursor.path.to_path_buf();
    let magic: [u8; 4] = cursor.array("the magic bytes")?;
    if &magic != MAGIC {
        return Err(FormatError::BadMagic {
            path: path(),
            expected: "a GGUF file, beginning with \"GGUF\"",
            found: format!("\"{}\"", magic.escape_ascii()),
        });
    }
    let version = cursor.u32("the version")?;
    match version {
        2 | 3 => Ok(version),
        // In the other byte order a small number: a big-endian file.
        _ if (1..=0xffff).contains(&version.swap_bytes()) => Err(FormatError::UnsupportedVersion {
            path: path(),
            found: format!("version {}, big-endian", version.swap_bytes()),
        }),
        _ => Err(FormatError::UnsupportedVersion {
            path: path(),
            found: format!("version {version}"),
        }),
    }
}

fn read_key(cursor: &mut Cursor<'_>) -> Result<String> {
    let bytes = cursor.string_bytes("a metadata key")?;
    match std::str::from_utf8(bytes) {
        Ok(key) => Ok(key.to_owned()),
        Err(_) => Err(FormatError::BadMetadata {
            path: cursor.path.to_path_buf(),
            key: String::from_utf8_lossy(bytes).into_owned(),
            expected: "a key in UTF-8".to_owned(),
            found: "other bytes".to_owned(),
        }),
    }
}

fn bad_value(cursor: &Cursor<'_>, key: &str, expected: &str, found: String) -> FormatError {
    FormatError::BadMetadata {
        path: cursor.path.to_path_buf(),
        key: key.to_owned(),
        expected: expected.to_owned(),
        found,
    }
}

/// `found` as a bool: the format defines 0 and 1 only.
fn to_bool(cursor: &Cursor<'_>, key: &str, found: u8) -> Result<bool> {
    match found {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(bad_value(cursor, key, "a bool of 0 or 1", other.to_string())),
    }
}

fn to_string(cursor: &Cursor<'_>, key: &str, found: &[u8]) -> Result<String> {
    std::str::from_utf8(found)
        .map(ToOwned::to_owned)
        .map_err(|error| bad_value(cursor, key, "a string in UTF-8", error.to_string()))
}

fn read_value(cursor: &mut Cursor<'_>, key: &str) -> Result<GgufValue> {
    let ty = cursor.u32("a metadata type")?;
    let what = "a metadata value";
    Ok(match ty {
        0 => GgufValue::U8(u8::from_le_bytes(cursor.array(what)?)),
        1 => GgufValue::I8(i8::from_le_bytes(cursor.array(what)?)),
        2 => GgufValue::U16(u16::from_le_bytes(cursor.array(what)?)),
        3 => GgufValue::I16(i16::from_le_bytes(cursor.array(what)?)),
        4 => GgufValue::U32(u32::from_le_bytes(cursor.array(what)?)),
        5 => GgufValue::I32(i32::from_le_bytes(cursor.array(what)?)),
        6 => GgufValue::F32(f32::from_le_bytes(cursor.array(what)?)),
        7 => {
            let [byte] = cursor.array(what)?;
            GgufValue::Bool(to_bool(cursor, key, byte)?)
        }
        8 => {
            let bytes = cursor.string_bytes(what)?;
            GgufValue::String(to_string(cursor, key, bytes)?)
        }
        9 => GgufValue::Array(read_array(cursor, key)?),
        10 => GgufValue::U64(u64::from_le_bytes(cursor.array(what)?)),
        11 => GgufValue::I64(i64::from_le_bytes(cursor.array(what)?)),
        12 => GgufValue::F64(f64::from_le_bytes(cursor.array(what)?)),
        _ => {
            return Err(bad_value(cursor, key, "a value type of 0 to 12", format!("type {ty}")));
        }
    })
}

fn read_array(cursor: &mut Cursor<'_>, key: &str) -> Result<GgufArray> {
    let ty = cursor.u32("an array type")?;
    let count = cursor.u64("an array length")?;
    Ok(match ty {
        0 => GgufArray::U8(cursor.values(count, u8::from_le_bytes)?),
        1 => GgufArray::I8(cursor.values(count, i8::from_le_bytes)?),
        2 => GgufArray::U16(cursor.values(count, u16::from_le_bytes)?),
        3 => GgufArray::I16(cursor.values(count, i16::from_le_bytes)?),
        4 => GgufArray::U32(cursor.values(count, u32::from_le_bytes)?),
        5 => GgufArray::I32(cursor.values(count, i32::from_le_bytes)?),
        6 => GgufArray::F32(cursor.values(count, f32::from_le_bytes)?),
        7 => {
            let bytes = cursor.values(count, u8::from_le_bytes)?;
            let bools: Result<Vec<bool>> =
                bytes.into_iter().map(|byte| to_bool(cursor, key, byte)).collect();
            GgufArray::Bool(bools?)
        }
        8 => GgufArray::String(read_strings(cursor, key, count)?),
        // One level only, as in ggml: no recursion, so no stack to overflow.
        9 => {
            return Err(bad_value(
                cursor,
                key,
                "an array of plain values",
                "nested arrays".to_owned(),
            ));
        }
        10 => GgufArray::U64(cursor.values(count, u64::from_le_bytes)?),
        11 => GgufArray::I64(cursor.values(count, i64::from_le_bytes)?),
        12 => GgufArray::F64(cursor.values(count, f64::from_le_bytes)?),
        _ => {
            return Err(bad_value(cursor, key, "an array type of 0 to 12", format!("type {ty}")));
        }
    })
}

fn read_strings(cursor: &mut Cursor<'_>, key: &str, count: u64) -> Result<Vec<String>> {
    cursor.check_room(count.saturating_mul(8), || format!("an array of {count} strings"))?;
    let room = usize::try_from(count).unwrap_or(usize::MAX).min(FIRST_ROOM);
    let mut strings = Vec::with_capacity(room);
    for _ in 0..count {
        let bytes = cursor.string_bytes("a string of an array")?;
        strings.push(to_string(cursor, key, bytes)?);
    }
    Ok(strings)
}

fn read_description(cursor: &mut Cursor<'_>) -> Result<Description> {
    let bytes = cursor.string_bytes("a tensor name")?;
    let name = String::from_utf8_lossy(bytes).into_owned();
    let path = cursor.path;
    let bad = |expected: &str, found: String| FormatError::BadTensor {
        path: path.to_path_buf(),
        tensor: name.clone(),
        expected: expected.to_owned(),
        found,
    };
    if std::str::from_utf8(bytes).is_err() {
        return Err(bad("a name in UTF-8", "other bytes".to_owned()));
    }
    let count = cursor.u32("a number of dimensions")?;
    if count > MAX_DIMS {
        return Err(bad("at most 4 dimensions", count.to_string()));
    }
    let (mut shape, mut elements, mut row) = (Vec::new(), 1u64, 1);
    for i in 0..count {
        let dim = cursor.u64("a dimension")?;
        if dim == 0 || i64::try_from(dim).is_err() {
            return Err(bad("positive dimensions", dim.cast_signed().to_string()));
        }
        if i == 0 {
            row = dim;
        }
        elements = elements
            .checked_mul(dim)
            .filter(|&elements| i64::try_from(elements).is_ok())
            .ok_or_else(|| bad("a number of values below 2^63", "more".to_owned()))?;
        shape.push(
            usize::try_from(dim)
                .map_err(|_| bad("dimensions that this machine can address", dim.to_string()))?,
        );
    }
    shape.reverse();

    let id = cursor.u32("a tensor type")?;
    let ty = match GgmlType::from_id(id) {
        TypeId::Known(ty) => ty,
        TypeId::Removed(removed) => {
            return Err(bad("a tensor type of today's ggml", format!("the removed {removed}")));
        }
        TypeId::Unknown => return Err(bad("a known tensor type", format!("number {id}"))),
    };
    if !row.is_multiple_of(ty.block_len) {
        let expected = format!("rows of a multiple of {} values for {}", ty.block_len, ty.name);
        return Err(bad(&expected, format!("{row} values")));
    }
    let bytes = ty.bytes_for(elements).ok_or_else(|| {
        bad("a size that fits 64 bits", format!("{elements} values of {}", ty.name))
    })?;
    let offset = cursor.u64("a tensor offset")?;
    Ok(Description { name, shape, ty, bytes, offset })
}

/// Reads little-endian values from the front of `rest`.
struct Cursor<'a> {
    path: &'a Path,
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn truncated(&self, what: String, needed: u64) -> FormatError {
        FormatError::Truncated {
            path: self.path.to_path_buf(),
            what,
            needed,
            have: self.rest.len() as u64,
        }
    }

    fn check_room(&self, needed: u64, what: impl FnOnce() -> String) -> Result<()> {
        if needed > self.rest.len() as u64 { Err(self.truncated(what(), needed)) } else { Ok(()) }
    }

    fn take(&mut self, count: u64, what: &str) -> Result<&'a [u8]> {
        match usize::try_from(count).ok().and_then(|count| self.rest.split_at_checked(count)) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(self.truncated(what.to_owned(), count)),
        }
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        match self.rest.split_first_chunk() {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(*taken)
            }
            None => Err(self.truncated(what.to_owned(), N as u64)),
        }
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn string_bytes(&mut self, what: &str) -> Result<&'a [u8]> {
        let length = self.u64(what)?;
        self.take(length, what)
    }

    fn values<T, const N: usize>(
        &mut self,
        count: u64,
        convert: fn([u8; N]) -> T,
    ) -> Result<Vec<T>> {
        let what = "the values of an array";
        let needed =
            count.checked_mul(N as u64).ok_or_else(|| self.truncated(what.to_owned(), u64::MAX))?;
        let (values, _) = self.take(needed, what)?.as_chunks::<N>();
        Ok(values.iter().map(|&value| convert(value)).collect())
    }
}
