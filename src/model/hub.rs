//! The local Hugging Face cache: `org/name` to a folder of model files.
//!
//! ```text
//! <cache>/models--org--name/refs/main                a commit hash
//! <cache>/models--org--name/snapshots/<hash>/...     the files, links into blobs/
//! ```
//! In: `org/name` or `org/name@revision`. Out: a snapshot's folder. Nothing is downloaded except by [`download`].

use std::path::{Path, PathBuf};

/// The files that a model may need, in the order in which they are fetched. The first one must exist.
#[cfg(feature = "hf-hub")]
const FILES: [&str; 6] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "sentence_bert_config.json",
    "modules.json",
    "config_sentence_transformers.json",
];

/// Why a model is not at hand. All have the code G0807.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Not of the form `org/name` or `org/name@revision`.
    #[error("`hf:{0}` is not of the form hf:org/name or hf:org/name@revision")]
    Name(String),
    /// There is no home folder and no variable that names a cache.
    #[error("no home folder for the Hugging Face cache; set HF_HUB_CACHE")]
    NoCache,
    /// It was never downloaded.
    #[error(
        "`hf:{name}` is not in the Hugging Face cache ({} does not hold it)\n\
         help: add --download to fetch it, or name a folder with the model's files", folder.display()
    )]
    Missing {
        /// As asked for.
        name: String,
        /// Where it would be.
        folder: PathBuf,
    },
    /// Downloading failed, or this build cannot.
    #[error("cannot download `hf:{name}`: {reason}")]
    Download {
        /// As asked for.
        name: String,
        /// Why.
        reason: String,
    },
}

/// `org/name` or `name`, and the revision, `main` if none is given.
struct Name<'n> {
    repo: &'n str,
    revision: &'n str,
}

impl<'n> Name<'n> {
    /// Names become parts of a path, so only the characters that the hub itself allows are taken.
    fn parse(text: &'n str) -> Result<Self, HubError> {
        let (repo, revision) = text.split_once('@').unwrap_or((text, "main"));
        let plain = |part: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !part.is_empty() && part.chars().all(allowed) && part != "." && part != ".."
        };
        let parts = repo.split('/').count();
        if (1..=2).contains(&parts) && repo.split('/').all(plain) && revision.split('/').all(plain)
        {
            Ok(Self { repo, revision })
        } else {
            Err(HubError::Name(text.into()))
        }
    }

    fn folder(&self, cache: &Path) -> PathBuf {
        cache.join(format!("models--{}", self.repo.replace('/', "--")))
    }
}

/// The cache folder that the environment names, as Hugging Face's own tools read it.
pub fn cache_folder(variable: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf, HubError> {
    let given = |name: &str| variable(name).filter(|path| !path.as_os_str().is_empty());
    given("HF_HUB_CACHE")
        .or_else(|| given("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| given("HF_HOME").map(|home| home.join("hub")))
        .or_else(|| given("XDG_CACHE_HOME").map(|cache| cache.join("huggingface/hub")))
        .or_else(|| given("HOME").map(|home| home.join(".cache/huggingface/hub")))
        .or_else(|| given("USERPROFILE").map(|home| home.join(".cache/huggingface/hub")))
        .ok_or(HubError::NoCache)
}

/// The snapshot of `name` in the cache.
pub fn resolve(cache: &Path, name: &str) -> Result<PathBuf, HubError> {
    let parsed = Name::parse(name)?;
    let folder = parsed.folder(cache);
    let missing = || HubError::Missing {
        name: name.into(),
        folder: folder.clone(),
    };
    let commit = match std::fs::read_to_string(folder.join("refs").join(parsed.revision)) {
        Ok(commit) => commit.trim().to_string(),
        // A revision may be the commit itself.
        Err(_) => parsed.revision.to_string(),
    };
    // The file is data: only a plain hash may become a part of the path.
    if commit.is_empty() || !commit.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Err(missing());
    }
    let snapshot = folder.join("snapshots").join(commit);
    if snapshot.join("config.json").is_file() {
        Ok(snapshot)
    } else {
        Err(missing())
    }
}

/// Fetches the files of `name` into the cache and resolves it.
#[cfg(not(feature = "hf-hub"))]
pub fn download(_cache: &Path, name: &str) -> Result<PathBuf, HubError> {
    Name::parse(name)?;
    let reason = "this graphc was built without the feature `hf-hub`\n\
                  help: build it with --features hf-hub, or fetch the model with Hugging Face's own tools";
    Err(HubError::Download {
        name: name.into(),
        reason: reason.into(),
    })
}

/// Fetches the files of `name` into the cache and resolves it.
#[cfg(feature = "hf-hub")]
pub fn download(cache: &Path, name: &str) -> Result<PathBuf, HubError> {
    use hf_hub::api::sync::{ApiBuilder, ApiError};
    use hf_hub::{Repo, RepoType};

    let parsed = Name::parse(name)?;
    let failed = |error: ApiError| HubError::Download {
        name: name.into(),
        reason: error.to_string(),
    };
    let api = ApiBuilder::from_env()
        .with_cache_dir(cache.into())
        .build()
        .map_err(failed)?;
    let repo = Repo::with_revision(parsed.repo.into(), RepoType::Model, parsed.revision.into());
    let repo = api.repo(repo);
    // The list of files says which of the optional ones exist and how the weights are cut.
    let there = repo.info().map_err(failed)?.siblings;
    let wanted = |file: &str| {
        FILES.contains(&file)
            || (file.ends_with("/config.json") && file.matches('/').count() == 1)
            || (!file.contains('/')
                && (file.ends_with(".safetensors") || file.ends_with(".safetensors.index.json")))
            || (file.ends_with("/model.safetensors") && file.contains("_Dense/"))
    };
    // config.json comes last: `resolve` takes its presence as a sign that the snapshot is complete.
    let mut files: Vec<String> = there
        .into_iter()
        .map(|file| file.rfilename)
        .filter(|file| wanted(file) && !file.contains(".."))
        .collect();
    files.sort_by_key(|file| file == FILES[0]);
    for file in &files {
        repo.get(file).map_err(failed)?;
    }
    resolve(cache, name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn cached(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn finds_a_snapshot_by_branch_and_by_commit() {
        let dir = cached(&[
            ("models--org--name/refs/main", "abc123\n"),
            ("models--org--name/snapshots/abc123/config.json", "{}"),
            ("models--org--name/snapshots/def456/config.json", "{}"),
        ]);
        let snapshot = |commit| dir.path().join("models--org--name/snapshots").join(commit);
        assert_eq!(resolve(dir.path(), "org/name").unwrap(), snapshot("abc123"));
        assert_eq!(
            resolve(dir.path(), "org/name@def456").unwrap(),
            snapshot("def456")
        );
        let error = resolve(dir.path(), "org/name@old").unwrap_err().to_string();
        assert!(
            error.contains("--download") && error.contains("models--org--name"),
            "{error}"
        );
    }

    #[test]
    fn neither_names_nor_refs_leave_the_cache() {
        let dir = cached(&[
            ("models--org--name/refs/main", "../../elsewhere"),
            ("elsewhere/config.json", "{}"),
        ]);
        assert!(matches!(
            resolve(dir.path(), "org/name"),
            Err(HubError::Missing { .. })
        ));
        for name in [
            "",
            "/",
            "a/b/c",
            "../x",
            "org/..",
            "org/name@../x",
            "org/na me",
        ] {
            assert!(
                matches!(resolve(dir.path(), name), Err(HubError::Name(_))),
                "{name}"
            );
        }
    }

    #[test]
    fn the_environment_names_the_cache() {
        let folder = |set: &[(&str, &str)]| {
            cache_folder(|name| {
                set.iter()
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| value.into())
            })
        };
        assert_eq!(
            folder(&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/h")]).unwrap(),
            PathBuf::from("/c")
        );
        assert_eq!(
            folder(&[("HF_HOME", "/h"), ("HOME", "/u")]).unwrap(),
            PathBuf::from("/h/hub")
        );
        assert_eq!(
            folder(&[("HF_HOME", ""), ("HOME", "/u")]).unwrap(),
            PathBuf::from("/u/.cache/huggingface/hub")
        );
        assert!(matches!(folder(&[]), Err(HubError::NoCache)));
    }

    #[cfg(not(feature = "hf-hub"))]
    #[test]
    fn a_build_without_the_feature_says_so() {
        let error = download(Path::new("/nowhere"), "org/name")
            .unwrap_err()
            .to_string();
        assert!(error.contains("--features hf-hub"), "{error}");
    }
}
