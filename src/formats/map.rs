//! A read-only memory map: the one place of this module tree that needs `unsafe`.

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use memmap2::Mmap;

use super::{FormatError, Result};

/// The bytes of a regular file.
#[derive(Debug)]
pub(crate) struct FileMap {
    path: PathBuf,
    /// Whoever holds a part of it keeps all of it mapped, which costs addresses only.
    map: Arc<Mmap>,
}

/// A part of a map that is held for its own sake. When it is let go, so is the memory that reading it took:
/// a weight that was copied to a device, or put into another order, would be there twice otherwise.
struct Part {
    map: Arc<Mmap>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.map[self.range.clone()]
    }
}

#[cfg(unix)]
impl Drop for Part {
    fn drop(&mut self) {
        use memmap2::UncheckedAdvice::DontNeed;
        // SAFETY: the map is read-only and of a file, so that its pages come back as they were where
        // somebody still reads them. The advice may fail, which changes nothing.
        #[allow(unsafe_code)]
        let _ = unsafe {
            self.map.unchecked_advise_range(DontNeed, self.range.start, self.range.len())
        };
    }
}

impl FileMap {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// When it cannot be opened, or is a folder, pipe or device (opening a pipe would block).
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let io = |source| FormatError::Io { path: path.to_path_buf(), source };
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(FormatError::MissingFile {
                path: path.to_path_buf(),
                expected: "a regular file".to_owned(),
            });
        }
        let file = File::open(path).map_err(io)?;
        // SAFETY: the map is private to this type, read-only, and handed out as bytes that keep it
        // alive. What cannot be ruled out is another process that shortens or
        // rewrites the file meanwhile; as with every program that maps model files, that is the
        // user's to avoid, and the parsers copy what they check out of the map before using it.
        #[allow(unsafe_code)]
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(Self { path: path.to_path_buf(), map: Arc::new(map) })
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Part of the map, to keep.
    ///
    /// # Panics
    /// If it is no part of it.
    pub(crate) fn share(&self, part: &[u8]) -> Bytes {
        // An empty part lies nowhere.
        if part.is_empty() {
            return Bytes::new();
        }
        let start = part.as_ptr().addr().wrapping_sub(self.map.as_ptr().addr());
        assert!(
            start < self.map.len() && part.len() <= self.map.len() - start,
            "a part of the map"
        );
        Bytes::from_owner(Part { map: Arc::clone(&self.map), range: start..start + part.len() })
    }
}

impl Deref for FileMap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_outlive_the_map_and_come_back() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let bytes: Vec<u8> = (0..40_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(file.path(), &bytes).expect("written");
        let map = FileMap::open(file.path()).expect("a map");
        let (first, second) = (map.share(&map[100..30_000]), map.share(&map[20_000..]));
        assert!(map.share(&map[7..7]).is_empty());
        assert_eq!(first, bytes[100..30_000]);
        // Letting one part go takes nothing from the other, nor from the map.
        drop(first);
        assert_eq!(second, bytes[20_000..]);
        assert_eq!(map[..], bytes);
        drop(map);
        assert_eq!(second, bytes[20_000..]);
    }
}
