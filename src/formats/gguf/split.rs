//! The parts of a model that llama.cpp's `gguf-split` cut into several files (source: llama.cpp's
//! `gguf-split.cpp`, `llama_split_path` and `llama_model_loader`).
//!
//! The first part has the model's metadata; every part says which it is (`split.no`, from 0), of how
//! many (`split.count`), and how many tensors all of them hold (`split.tensors.count`). Where the
//! others are follows from a part's name. All that is checked, but a part of another model that has
//! as many parts and tensors, and other names, cannot be told from the right one.

use std::path::{Path, PathBuf};

use super::{GgufMetadata, Part};
use crate::formats::{FormatError, Result};

const NUMBER: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

/// The name of a part: `PREFIX-00002-of-00003.gguf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartName {
    prefix: String,
    number: u32,
    count: u32,
}

impl PartName {
    /// Reads a name, with or without folders before it.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let digits = |text: &str| {
            let five = text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
            five.then(|| text.parse().ok()).flatten()
        };
        let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (prefix, number) = rest.rsplit_once('-')?;
        let (number, count) = (digits(number)?, digits(count)?);
        let prefix = prefix.to_owned();
        (1..=count).contains(&number).then_some(Self { prefix, number, count })
    }

    /// Whether both are parts of one model.
    pub(crate) fn is_beside(&self, other: &Self) -> bool {
        (&self.prefix, self.count) == (&other.prefix, other.count)
    }

    /// The names of all parts, in their order.
    pub(crate) fn all(&self) -> impl Iterator<Item = String> + use<'_> {
        let Self { prefix, count, .. } = self;
        (1..=*count).map(move |number| format!("{prefix}-{number:05}-of-{count:05}.gguf"))
    }
}

/// What a part says about its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// From 0.
    number: u32,
    count: u32,
    /// In all parts.
    tensors: u32,
}

impl Place {
    /// `None` for a file that is no part, or the only one.
    fn of(metadata: &GgufMetadata) -> Result<Option<Self>> {
        let Some(count @ 2..) = metadata.u32(COUNT)? else { return Ok(None) };
        let whole = |key| metadata.require(key, "a whole number", metadata.u32(key)?);
        let place = Self { number: whole(NUMBER)?, count, tensors: whole(TENSORS)? };
        if place.number >= count {
            return Err(metadata.bad(NUMBER, format!("less than the {count} of {COUNT}")));
        }
        Ok(Some(place))
    }
}

/// The parts of the model that `opened` is a part of, in their order; itself if it is whole.
///
/// # Errors
/// [`FormatError`] naming the part that is missing, or does not belong to the others.
pub(super) fn all_parts(opened: Part) -> Result<Vec<Part>> {
    let Some(place) = Place::of(&opened.metadata)? else { return Ok(vec![opened]) };
    let path = opened.map.path().to_path_buf();
    let name = path.file_name().and_then(|name| name.to_str()).and_then(PartName::parse);
    let of_it = |name: &PartName| (name.number, name.count) == (place.number + 1, place.count);
    let Some(name) = name.filter(of_it) else {
        return Err(FormatError::BadPart {
            path,
            expected: format!("a name that ends in {}", ending(place)),
            found: "another name".to_owned(),
        });
    };

    let mut opened = Some(opened);
    let mut parts = Vec::new();
    for (number, name) in (0..).zip(name.all()) {
        let part = match opened.take_if(|_| number == place.number) {
            Some(part) => part,
            None => open_beside(&path, &name)?,
        };
        let expected = Place { number, ..place };
        match Place::of(&part.metadata)? {
            Some(found) if found == expected => parts.push(part),
            found => return Err(stranger(&part, expected, found)),
        }
    }
    check_whole(&parts, place)?;
    Ok(parts)
}

fn ending(place: Place) -> String {
    format!("-{:05}-of-{:05}.gguf", place.number + 1, place.count)
}

fn open_beside(path: &Path, name: &str) -> Result<Part> {
    let part: PathBuf = path.with_file_name(name);
    if part.exists() {
        return Part::open(&part);
    }
    Err(FormatError::MissingFile {
        path: part,
        expected: format!("this part of the model beside {}", path.display()),
    })
}

fn stranger(part: &Part, expected: Place, found: Option<Place>) -> FormatError {
    let describe = |place: Place| {
        let Place { number, count, tensors } = place;
        format!("part {} of {count} with {tensors} tensors in all", number + 1)
    };
    FormatError::BadPart {
        path: part.map.path().to_path_buf(),
        expected: describe(expected),
        found: found.map_or_else(|| "a whole model".to_owned(), describe),
    }
}

/// Holds the parts against each other: the tensors that they promise, and whose they are.
fn check_whole(parts: &[Part], place: Place) -> Result<()> {
    let [first, rest @ ..] = parts else { return Ok(()) };
    let tensors: usize = parts.iter().map(|part| part.tensors.len()).sum();
    if tensors as u64 != u64::from(place.tensors) {
        return Err(first.metadata.bad(TENSORS, format!("the {tensors} that its parts hold")));
    }
    // Parts after the first need not repeat what the model is; where one does, it is the same.
    for part in rest {
        for key in ["general.architecture", "general.name"] {
            let found = part.metadata.get(key);
            if found.is_some() && found != first.metadata.get(key) {
                let expected = format!("what {} has", first.map.path().display());
                return Err(part.metadata.bad(key, expected));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_made() {
        let name = PartName::parse("sub/m-x-00002-of-00003.gguf").unwrap();
        assert_eq!((name.prefix.as_str(), name.number, name.count), ("sub/m-x", 2, 3));
        assert_eq!(
            name.all().collect::<Vec<_>>(),
            [1, 2, 3].map(|i| format!("sub/m-x-0000{i}-of-00003.gguf"))
        );
        assert!(name.is_beside(&PartName::parse("sub/m-x-00001-of-00003.gguf").unwrap()));
        assert!(!name.is_beside(&PartName::parse("sub/m-00001-of-00003.gguf").unwrap()));
        for none in [
            "m.gguf",
            "m-00001-of-00003",
            "m-0001-of-0003.gguf",
            "m-00000-of-00003.gguf",
            "m-00004-of-00003.gguf",
            "m-+0001-of-00003.gguf",
            "00001-of-00003.gguf",
        ] {
            assert_eq!(PartName::parse(none), None, "{none}");
        }
    }
}
