//! The tensors of low-rank modules as they turn up in a file, whatever its format.

use std::{collections::BTreeMap, fmt::Display, path::Path};

use super::{AdapterError, LowRankTensors};
use crate::formats::RawTensor;

/// What a tensor is to its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    A,
    B,
    Magnitude,
}

/// The tensors found so far.
#[derive(Default)]
pub(super) struct Parts {
    found: BTreeMap<String, BTreeMap<Part, RawTensor>>,
}

impl Parts {
    /// Adds a tensor; `false` if the module has had one like it.
    pub(super) fn insert(&mut self, module: &str, part: Part, tensor: RawTensor) -> bool {
        self.found.entry(module.to_owned()).or_default().insert(part, tensor).is_none()
    }

    /// The modules, each with both of its matrices. `name` tells what the file would call a tensor
    /// that is missing, `rank` which rank it should have.
    pub(super) fn modules(
        self,
        file: &Path,
        rank: impl Display,
        name: impl Fn(&str, Part) -> String,
    ) -> Result<BTreeMap<String, LowRankTensors>, AdapterError> {
        let complete = |(module, mut found): (String, BTreeMap<Part, RawTensor>)| {
            let mut take = |part, expected: String| {
                found.remove(&part).ok_or_else(|| AdapterError::Missing {
                    file: file.to_path_buf(),
                    tensor: name(&module, part),
                    expected,
                    why: "the file has other low-rank tensors of this module".to_owned(),
                })
            };
            let a = take(Part::A, format!("[{rank}, in]"))?;
            let b = take(Part::B, format!("[out, {rank}]"))?;
            let magnitude = found.remove(&Part::Magnitude);
            Ok((module, LowRankTensors { a, b, magnitude }))
        };
        self.found.into_iter().map(complete).collect()
    }
}
