//! GGUF files: a header with typed metadata and the places of tensors, then the tensors' data.
//!
//! In: a file. Out: [`Gguf`], which hands out metadata as views of the mapped file, so that a vocabulary of 262,144
//! texts costs nothing until somebody walks over it.
//! Always: every length and place was checked against the file when it was opened, texts are UTF-8, keys and tensors
//! are unique; see [`header`] for the bounds.
//!
//! The reader is our own. The crates for this format (gguf-rs-lib 0.3 was looked at) copy every value into memory of
//! its own, take counts from the file as they come, and their errors do not name the key or tensor.

mod header;
mod value;

use std::path::{Path, PathBuf};

pub(super) use header::Entry;
pub use value::{GgufList, GgufValue};

use super::WeightError;
use super::checkpoint::{MappedFile, map_file};
use super::safetensors::Fault;
use header::Header;

/// An opened GGUF file.
#[derive(Debug)]
pub struct Gguf {
    file: MappedFile,
    header: Header,
}

impl Gguf {
    /// Maps the file and checks its header.
    pub fn open(path: &Path) -> Result<Self, WeightError> {
        let mut file = map_file(path)?;
        let header = header::parse(&file.map).map_err(|fault| match fault {
            Fault::Header(reason) => WeightError::Header {
                path: path.to_path_buf(),
                format: "GGUF",
                reason,
            },
            Fault::Tensor(tensor, reason) => WeightError::Layout {
                path: path.to_path_buf(),
                tensor,
                reason,
            },
        })?;
        file.header_bytes = header.bytes;
        Ok(Self { file, header })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// The version of the format, 2 or 3.
    pub fn version(&self) -> u32 {
        self.header.version
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<GgufValue<'_>> {
        let item = self.header.keys.get(key)?;
        value::read(&self.file.map, item)
    }

    /// All keys and values, in file order.
    pub fn values(&self) -> impl Iterator<Item = (&str, GgufValue<'_>)> {
        self.header
            .keys
            .iter()
            .filter_map(|(key, item)| Some((key.as_str(), value::read(&self.file.map, item)?)))
    }

    /// The shape of a tensor, outermost size first.
    pub fn shape(&self, tensor: &str) -> Option<&[u64]> {
        let entry = self
            .header
            .entries
            .iter()
            .find(|entry| entry.name == tensor)?;
        Some(&entry.shape)
    }

    /// The names of its tensors, in the order of their data.
    pub fn tensors(&self) -> impl Iterator<Item = &str> {
        self.header.entries.iter().map(|entry| entry.name.as_str())
    }

    pub(super) fn into_parts(self) -> (MappedFile, Vec<Entry>) {
        (self.file, self.header.entries)
    }
}

/// The GGUF file that `path` names: itself if it is a file, the only one in it if it is a folder without a
/// safetensors checkpoint. `None` for every other folder.
pub fn gguf_file(path: &Path) -> Result<Option<PathBuf>, WeightError> {
    if !path.is_dir() {
        let part = path.extension().is_some_and(|ending| {
            ["safetensors", "json"]
                .iter()
                .any(|part| ending.eq_ignore_ascii_case(part))
        });
        if part && path.is_file() {
            let folder = path.parent().filter(|folder| *folder != Path::new(""));
            return Err(WeightError::File {
                path: path.to_path_buf(),
                reason: format!(
                    "it is one file of a model in the Hugging Face layout; name its folder, {}",
                    folder.unwrap_or(Path::new(".")).display()
                ),
            });
        }
        return Ok(path.is_file().then(|| path.to_path_buf()));
    }
    if super::checkpoint::SAFETENSORS
        .iter()
        .any(|name| path.join(name).exists())
    {
        return Ok(None);
    }
    let fault = |reason: String| WeightError::File {
        path: path.to_path_buf(),
        reason,
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|error| fault(error.to_string()))? {
        let file = entry.map_err(|error| fault(error.to_string()))?.path();
        let named = file
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
        if named && file.is_file() {
            found.push(file);
        }
    }
    found.sort();
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        [first, second, ..] => {
            let name = |path: &Path| {
                path.file_name()
                    .map(|name| name.to_string_lossy().into_owned())
                    .unwrap_or_default()
            };
            Err(fault(format!(
                "it has {} GGUF files, among them {} and {}; name the one that is meant",
                found.len(),
                name(first),
                name(second)
            )))
        }
    }
}
