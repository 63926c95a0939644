//! Models by their Hugging Face id: from the local cache, which is shared with Hugging Face's own
//! tools, or downloaded into it.
//!
//! The usual variables hold: `HF_HOME` and `HF_HUB_CACHE` (where the cache is), `HF_ENDPOINT`,
//! `HF_TOKEN` (else the token that `hf auth login` left), `HF_HUB_OFFLINE=1` (the cache only).
//! A model that is whole in the cache is used as it is, without asking the Hub for a newer one.

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use hf_hub::{
    Cache, Repo,
    api::sync::{ApiBuilder, ApiError, ApiRepo},
};
use thiserror::Error;

use crate::formats::{
    FormatError,
    gguf::PartName,
    safetensors::{INDEX, SINGLE, read_index},
};

/// Files that a model may have beside its weights.
const COMPANIONS: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
];

/// Why a model could not be had from the Hub.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HubError {
    /// Not the form of an id.
    #[error(
        "{0:?} is not the id of a model on the Hub: expected organisation/name, or \
         organisation/name/file.gguf"
    )]
    Id(String),
    /// Nowhere to keep models.
    #[error("no home folder to keep models in: set HF_HOME")]
    NoHome,
    /// The cache does not have it, and nothing may be downloaded.
    #[error("{id} is not in the cache {}, and HF_HUB_OFFLINE is set", cache.display())]
    Offline {
        /// The model.
        id: HubId,
        /// The cache.
        cache: PathBuf,
    },
    /// The Hub does not know it, or does not show it to this user.
    #[error(
        "{endpoint} has no {what} of {id}, or not for everyone (a gated or private model needs \
         HF_TOKEN)"
    )]
    NotFound {
        /// The model.
        id: HubId,
        /// The file, or `model`.
        what: String,
        /// The Hub that was asked.
        endpoint: String,
    },
    /// Anything else that went wrong on the way.
    #[error("{id}: downloading {what} from {endpoint}: {reason}")]
    Download {
        /// The model.
        id: HubId,
        /// The file, or `the list of files`.
        what: String,
        /// The Hub that was asked.
        endpoint: String,
        /// What went wrong.
        reason: String,
    },
    /// The model is there, but in no form that can be read here.
    #[error("{id} has neither {SINGLE}, nor {INDEX}, nor a .gguf file")]
    NoWeights {
        /// The model.
        id: HubId,
    },
    /// Several GGUF files, usually of several types: the user chooses.
    #[error("{id} has several .gguf files; name one of them: {}", list(id, files))]
    Several {
        /// The model.
        id: HubId,
        /// The files.
        files: Vec<String>,
    },
    /// The index of the shards makes no sense.
    #[error(transparent)]
    Index(#[from] FormatError),
}

fn list(id: &HubId, files: &[String]) -> String {
    files.iter().map(|file| format!("{id}/{file}")).collect::<Vec<_>>().join(", ")
}

/// `organisation/name`, or one GGUF file of it, `organisation/name/file.gguf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubId {
    model: String,
    file: Option<String>,
}

impl FromStr for HubId {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let wrong = || HubError::Id(text.chars().take(120).collect());
        let plain = |part: &str| {
            !part.is_empty()
                && part.len() <= 96
                && !part.starts_with(['.', '-'])
                && !part.contains("..")
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        let parts: Vec<&str> = text.split('/').collect();
        let (true, [organisation, name, rest @ ..]) = (parts.iter().all(|p| plain(p)), &parts[..])
        else {
            return Err(wrong());
        };
        let file = rest.join("/");
        if !rest.is_empty() && !is_gguf(&file) {
            return Err(wrong());
        }
        Ok(Self {
            model: format!("{organisation}/{name}"),
            file: Some(file).filter(|f| !f.is_empty()),
        })
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.model)
    }
}

/// The Hub and the local cache.
#[derive(Debug)]
pub struct Hub {
    cache: Cache,
    endpoint: String,
    token: Option<String>,
    offline: bool,
    progress: bool,
}

impl Hub {
    /// As the environment says.
    ///
    /// # Errors
    /// [`HubError::NoHome`] when there is no place for a cache.
    pub fn from_env() -> Result<Self, HubError> {
        let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let folder = match (var("HF_HUB_CACHE"), var("HF_HOME")) {
            (Some(folder), _) => PathBuf::from(folder),
            (None, Some(home)) => Path::new(&home).join("hub"),
            (None, None) => {
                std::env::home_dir().ok_or(HubError::NoHome)?.join(".cache/huggingface/hub")
            }
        };
        let endpoint = var("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let cache = Cache::new(folder);
        Ok(Self {
            token: var("HF_TOKEN").or_else(|| cache.token()),
            cache,
            endpoint: endpoint.trim_end_matches('/').into(),
            offline: var("HF_HUB_OFFLINE")
                .is_some_and(|v| ["1", "on", "true", "yes"].contains(&&*v.to_lowercase())),
            progress: false,
        })
    }

    /// Whether downloads draw a bar on standard error.
    #[must_use]
    pub fn with_progress(mut self, progress: bool) -> Self {
        self.progress = progress;
        self
    }

    /// The folder (or the GGUF file) of a model, downloaded where the cache does not have it whole.
    ///
    /// # Errors
    /// [`HubError`].
    pub fn get(&self, id: &HubId) -> Result<PathBuf, HubError> {
        if let Some(path) = self.cached(id) {
            return Ok(path);
        }
        if self.offline {
            return Err(HubError::Offline { id: id.clone(), cache: self.cache.path().clone() });
        }
        let repo = ApiBuilder::from_cache(self.cache.clone())
            .with_endpoint(self.endpoint.clone())
            .with_token(self.token.clone())
            .with_progress(self.progress)
            .with_retries(3)
            .build()
            .map_err(|error| self.failure(id, "anything", &error))?
            .repo(Repo::model(id.model.clone()));
        if let Some(file) = &id.file {
            return self.download_parts(&repo, id, file);
        }
        let info = repo.info().map_err(|error| self.failure(id, "model", &error))?;
        let files: BTreeSet<&str> = info.siblings.iter().map(|s| s.rfilename.as_str()).collect();
        self.fetch(&repo, id, &files)
    }

    /// What the cache has, if it has all of it.
    fn cached(&self, id: &HubId) -> Option<PathBuf> {
        let repo = self.cache.repo(Repo::model(id.model.clone()));
        if let Some(file) = &id.file {
            let parts: Option<Vec<_>> = parts(file).iter().map(|part| repo.get(part)).collect();
            return parts.and(repo.get(file));
        }
        let model = self.cache.path().join(Repo::model(id.model.clone()).folder_name());
        let commit = std::fs::read_to_string(model.join("refs/main")).ok()?;
        let snapshot = model.join("snapshots").join(commit.trim());
        let has = |name: &str| snapshot.join(name).is_file();
        if has(SINGLE) {
            return has("config.json").then_some(snapshot);
        }
        if has(INDEX) {
            let shards = shards(&snapshot.join(INDEX)).ok()?;
            let whole = has("config.json") && shards.iter().all(|shard| has(shard));
            return whole.then_some(snapshot);
        }
        let names = std::fs::read_dir(&snapshot)
            .ok()?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| is_gguf(name));
        let found: BTreeSet<String> = names.collect();
        let first = found.first()?;
        let whole = parts(first).into_iter().collect::<BTreeSet<_>>() == found;
        whole.then(|| snapshot.join(first))
    }

    /// Everything that is needed of a model, the weights last: a snapshot that has its weights is
    /// whole.
    fn fetch(
        &self,
        repo: &ApiRepo,
        id: &HubId,
        files: &BTreeSet<&str>,
    ) -> Result<PathBuf, HubError> {
        let weights = if files.contains(SINGLE) {
            BTreeSet::from([SINGLE.to_string()])
        } else if files.contains(INDEX) {
            shards(&self.download(repo, id, INDEX)?)?
        } else {
            let ggufs: Vec<&str> = files.iter().copied().filter(|f| is_gguf(f)).collect();
            return match ggufs[..] {
                [] => Err(HubError::NoWeights { id: id.clone() }),
                [first, ..] if parts(first) == ggufs => self.download_parts(repo, id, first),
                _ => {
                    // The first part stands for a model in parts.
                    let names = |file: &&str| parts(file).first().is_some_and(|f| f == *file);
                    let files = ggufs.into_iter().filter(names).map(String::from).collect();
                    Err(HubError::Several { id: id.clone(), files })
                }
            };
        };
        for name in COMPANIONS.into_iter().filter(|name| files.contains(name)) {
            self.download(repo, id, name)?;
        }
        let mut last = PathBuf::new();
        for name in &weights {
            last = self.download(repo, id, name)?;
        }
        last.pop();
        Ok(last)
    }

    /// A GGUF file, with the others if it is one part of several.
    fn download_parts(&self, repo: &ApiRepo, id: &HubId, file: &str) -> Result<PathBuf, HubError> {
        for part in parts(file).iter().filter(|part| *part != file) {
            self.download(repo, id, part)?;
        }
        self.download(repo, id, file)
    }

    fn download(&self, repo: &ApiRepo, id: &HubId, file: &str) -> Result<PathBuf, HubError> {
        // A name that the Hub gives becomes a path here.
        let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        if file.contains('\\') || !file.split('/').all(plain) {
            return Err(HubError::Id(format!("{id}/{file}")));
        }
        repo.get(file).map_err(|error| self.failure(id, file, &error))
    }

    fn failure(&self, id: &HubId, what: &str, error: &ApiError) -> HubError {
        let (id, what, endpoint) = (id.clone(), what.to_string(), self.endpoint.clone());
        match error {
            ApiError::RequestError(cause)
                if matches!(**cause, ureq::Error::StatusCode(401 | 403 | 404)) =>
            {
                HubError::NotFound { id, what, endpoint }
            }
            _ => HubError::Download { id, what, endpoint, reason: error.to_string() },
        }
    }
}

fn is_gguf(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
}

/// The files of the model that a GGUF file is, or is a part of.
fn parts(file: &str) -> Vec<String> {
    PartName::parse(file).map_or_else(|| vec![file.to_string()], |name| name.all().collect())
}

/// The files that an index of shards names.
fn shards(index: &Path) -> Result<BTreeSet<String>, FormatError> {
    Ok(read_index(index)?.into_iter().map(|(_, shard)| shard).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_from_text() {
        let id: HubId = "HuggingFaceTB/SmolLM2-135M".parse().unwrap();
        assert_eq!((id.to_string().as_str(), &id.file), ("HuggingFaceTB/SmolLM2-135M", &None));
        let id: HubId = "org/name/sub/x.Q4_0.gguf".parse().unwrap();
        assert_eq!(
            (id.to_string().as_str(), id.file.as_deref()),
            ("org/name", Some("sub/x.Q4_0.gguf"))
        );
        for wrong in
            ["name", "", "/", "a/", "/b", "../b", "a/b/c", "a/b/../c.gguf", "a b/c", "a/b?x"]
        {
            assert!(wrong.parse::<HubId>().is_err(), "{wrong}");
        }
    }
}
