//! A read-only memory map: the one place of this module tree that needs `unsafe`.

use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use memmap2::Mmap;

use super::{FormatError, Result};

/// The bytes of a regular file.
#[derive(Debug)]
pub(crate) struct FileMap {
    path: PathBuf,
    /// The map. Whoever holds a part of it keeps all of it mapped, which costs addresses only.
    bytes: Bytes,
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
        Ok(Self { path: path.to_path_buf(), bytes: Bytes::from_owner(map) })
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A part of the map, to keep.
    pub(crate) fn share(&self, part: &[u8]) -> Bytes {
        // An empty part lies nowhere.
        if part.is_empty() { Bytes::new() } else { self.bytes.slice_ref(part) }
    }
}

impl Deref for FileMap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}
