//! A checkpoint: the named tensors of a Hugging Face folder, mapped into memory.
//!
//! In: a folder with `model.safetensors`, or with `model.safetensors.index.json` and the shards it names.
//! Out: an index from name to type, shape and bytes. All formats end in the same index, so another one (GGUF) is
//! another way to fill it.
//!
//! The files stay mapped while the checkpoint lives. A file that another process cuts short meanwhile ends this
//! process with a bus error, as with every memory map; a file that is changed is noticed after packing
//! ([`Checkpoint::unchanged`]).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};
use std::time::UNIX_EPOCH;

use ::safetensors::Dtype;
use memmap2::Mmap;
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use super::WeightError;
use super::safetensors::{self, Fault, MAX_NAME_BYTES, MAX_TENSORS};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Longest index file that is read.
const MAX_INDEX_BYTES: u64 = 16 << 20;

/// The element type of a tensor in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// Anything else: listed, but no recipe can read it.
    Other(Dtype),
}

impl SourceType {
    /// Bytes of one element, for the types that a recipe can read.
    pub fn bytes(self) -> Option<u64> {
        match self {
            SourceType::F32 => Some(4),
            SourceType::F16 | SourceType::Bf16 => Some(2),
            SourceType::Other(_) => None,
        }
    }
}

impl From<Dtype> for SourceType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => SourceType::F32,
            Dtype::F16 => SourceType::F16,
            Dtype::BF16 => SourceType::Bf16,
            other => SourceType::Other(other),
        }
    }
}

impl fmt::Display for SourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SourceType::F32 => f.write_str("F32"),
            SourceType::F16 => f.write_str("F16"),
            SourceType::Bf16 => f.write_str("BF16"),
            SourceType::Other(dtype) => write!(f, "{dtype}"),
        }
    }
}

/// One tensor of a checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct TensorRef<'a> {
    /// The type of its elements.
    pub dtype: SourceType,
    /// Its sizes, outermost first.
    pub shape: &'a [u64],
    /// Its elements, little-endian, the last dimension running fastest; not aligned.
    pub bytes: &'a [u8],
    /// The file it lies in.
    pub file: &'a Path,
}

/// A mapped file.
#[derive(Debug)]
pub(super) struct MappedFile {
    /// Where it was found.
    pub path: PathBuf,
    /// Its size and its time of change in nanoseconds, when it was mapped.
    pub stamp: (u64, u128),
    /// Its header's bytes.
    pub header_bytes: usize,
    /// All of it.
    pub map: Mmap,
}

#[derive(Debug)]
struct Place {
    file: usize,
    dtype: SourceType,
    shape: Vec<u64>,
    range: std::ops::Range<usize>,
}

/// The tensors of a model, by name.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    files: Vec<MappedFile>,
    tensors: BTreeMap<String, Place>,
}

impl Checkpoint {
    /// Maps the checkpoint in `folder` and checks every header.
    pub fn open(folder: &Path) -> Result<Self, WeightError> {
        let mut checkpoint = Checkpoint {
            folder: folder.to_path_buf(),
            files: Vec::new(),
            tensors: BTreeMap::new(),
        };
        let single = folder.join(SINGLE);
        let index = folder.join(INDEX);
        if single.exists() {
            checkpoint.add(&single)?;
        } else if index.exists() {
            checkpoint.add_shards(&index)?;
        } else {
            return Err(WeightError::File {
                path: folder.to_path_buf(),
                reason: nothing_there(folder),
            });
        }
        Ok(checkpoint)
    }

    /// The folder it was opened from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<TensorRef<'_>> {
        let place = self.tensors.get(name)?;
        let file = self.files.get(place.file)?;
        Some(TensorRef {
            dtype: place.dtype,
            shape: &place.shape,
            bytes: file.map.get(place.range.clone())?,
            file: &file.path,
        })
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Bytes of all its files.
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.stamp.0).sum()
    }

    pub(super) fn files(&self) -> &[MappedFile] {
        &self.files
    }

    /// Whether every file still has the size and the time of change that it had when it was mapped.
    pub fn unchanged(&self) -> Result<(), WeightError> {
        for file in &self.files {
            let now = std::fs::metadata(&file.path).map(|metadata| stamp(&metadata));
            if now.ok() != Some(file.stamp) {
                return Err(WeightError::File {
                    path: file.path.clone(),
                    reason: "it was changed while it was being read; start again".into(),
                });
            }
        }
        Ok(())
    }

    /// Names that somebody who wrote `wanted` may have meant: those that differ by a prefix, then the one with
    /// the smallest edit distance. At most three.
    pub fn nearest(&self, wanted: &str) -> Vec<String> {
        /// Edit distance is quadratic; names longer than this are left out.
        const MAX_COMPARED: usize = 128;
        let by_prefix = |name: &&str| {
            let (long, short) = if name.len() > wanted.len() {
                (*name, wanted)
            } else {
                (wanted, *name)
            };
            long.strip_suffix(short)
                .is_some_and(|prefix| prefix.ends_with('.'))
        };
        let mut found: Vec<String> = self
            .names()
            .filter(by_prefix)
            .take(3)
            .map(String::from)
            .collect();
        let limit = (wanted.len() / 3).max(1);
        let near = self.names().filter(|name| {
            name.len() <= MAX_COMPARED && name.len().abs_diff(wanted.len()) <= limit
        });
        if wanted.len() <= MAX_COMPARED
            && found.len() < 3
            && let Some(name) = crate::diag::nearest(wanted, near)
            && !found.iter().any(|known| known == name)
        {
            found.push(name.to_string());
        }
        found
    }

    /// Maps one file and puts its tensors in the index.
    fn add(&mut self, path: &Path) -> Result<(), WeightError> {
        let (file, entries) = map_safetensors(path)?;
        let number = self.files.len();
        self.files.push(file);
        for entry in entries {
            let place = Place {
                file: number,
                dtype: entry.dtype.into(),
                shape: entry.shape,
                range: entry.range,
            };
            self.tensors.insert(entry.name, place);
        }
        Ok(())
    }

    /// Maps every shard of an index. A tensor comes from the shard that the index names; others that a shard
    /// happens to hold are not part of the model.
    fn add_shards(&mut self, index: &Path) -> Result<(), WeightError> {
        let fault = |reason: String| WeightError::Index {
            path: index.to_path_buf(),
            reason,
        };
        let text = read_bounded(index, MAX_INDEX_BYTES)?;
        let raw: RawIndex =
            serde_json::from_slice(&text).map_err(|error| fault(error.to_string()))?;
        let mut shards: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (tensor, shard) in raw.weight_map.0 {
            shards.entry(shard).or_default().push(tensor);
        }
        for (shard, names) in shards {
            let first = names.first().map_or("", String::as_str);
            let mut parts = Path::new(&shard).components();
            if !matches!(
                (parts.next(), parts.next()),
                (Some(Component::Normal(_)), None)
            ) || shard.contains('\\')
            {
                return Err(fault(format!(
                    "tensor `{first}` is said to be in `{shard}`, which is not a file of this folder"
                )));
            }
            let path = self.folder.join(&shard);
            if !path.exists() {
                return Err(fault(format!(
                    "shard `{shard}` is missing; it has {} tensors, the first is `{first}`",
                    names.len()
                )));
            }
            let (file, entries) = map_safetensors(&path)?;
            let mut entries: BTreeMap<String, safetensors::Entry> = entries
                .into_iter()
                .map(|entry| (entry.name.clone(), entry))
                .collect();
            for name in names {
                let Some(entry) = entries.remove(&name) else {
                    return Err(fault(format!("tensor `{name}` is not in shard `{shard}`")));
                };
                let place = Place {
                    file: self.files.len(),
                    dtype: entry.dtype.into(),
                    shape: entry.shape,
                    range: entry.range,
                };
                self.tensors.insert(name, place);
            }
            self.files.push(file);
        }
        Ok(())
    }
}

fn nothing_there(folder: &Path) -> String {
    if !folder.is_dir() {
        return "there is no such folder".into();
    }
    let other = [
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "tf_model.h5",
        "flax_model.msgpack",
    ]
    .into_iter()
    .find(|name| folder.join(name).exists());
    match other {
        Some(name) => format!(
            "it has {name} but no {SINGLE}; save the model again with `save_pretrained(.., safe_serialization=True)`"
        ),
        None => format!("it has neither {SINGLE} nor {INDEX}"),
    }
}

fn stamp(metadata: &std::fs::Metadata) -> (u64, u128) {
    let changed = metadata
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    (metadata.len(), changed.map_or(0, |time| time.as_nanos()))
}

fn map_safetensors(path: &Path) -> Result<(MappedFile, Vec<safetensors::Entry>), WeightError> {
    let fault = |reason: String| WeightError::File {
        path: path.to_path_buf(),
        reason,
    };
    let file = open_regular(path)?;
    let metadata = file.metadata().map_err(|error| fault(error.to_string()))?;
    if metadata.len() < 8 {
        return Err(WeightError::Header {
            path: path.to_path_buf(),
            reason: format!("it has only {} bytes", metadata.len()),
        });
    }
    let map = map(&file).map_err(|error| fault(error.to_string()))?;
    let (entries, header_bytes) = safetensors::parse(&map).map_err(|found| match found {
        Fault::Header(reason) => WeightError::Header {
            path: path.to_path_buf(),
            reason,
        },
        Fault::Tensor(tensor, reason) => WeightError::Layout {
            path: path.to_path_buf(),
            tensor,
            reason,
        },
    })?;
    let file = MappedFile {
        path: path.to_path_buf(),
        stamp: stamp(&metadata),
        header_bytes,
        map,
    };
    Ok((file, entries))
}

/// Opens a file that is really a file: a pipe or a device would block or never end.
fn open_regular(path: &Path) -> Result<File, WeightError> {
    let fault = |reason: String| WeightError::File {
        path: path.to_path_buf(),
        reason,
    };
    let metadata = std::fs::metadata(path).map_err(|error| fault(error.to_string()))?;
    if !metadata.is_file() {
        return Err(fault("it is not a regular file".into()));
    }
    File::open(path).map_err(|error| fault(error.to_string()))
}

/// The bytes of a file that has at most `limit` of them.
pub fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, WeightError> {
    let fault = |reason: String| WeightError::File {
        path: path.to_path_buf(),
        reason,
    };
    let mut bytes = Vec::new();
    open_regular(path)?
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| fault(error.to_string()))?;
    if bytes.len() as u64 > limit {
        return Err(fault(format!(
            "it has more than {limit} bytes, which is more than such a file needs"
        )));
    }
    Ok(bytes)
}

/// Maps all of `file` for reading.
pub(super) fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the map is only read, as plain bytes for which every bit pattern is valid. That nobody changes the
    // file meanwhile cannot be had from the operating system; whoever does makes us read other bytes or, by
    // cutting it short, ends the process. Neither reaches memory outside the map.
    #[allow(unsafe_code)]
    unsafe {
        Mmap::map(file)
    }
}

/// The part of `model.safetensors.index.json` that matters.
#[derive(Deserialize)]
struct RawIndex {
    weight_map: WeightMap,
}

/// Tensor name to shard, in file order, without duplicates.
struct WeightMap(Vec<(String, String)>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = WeightMap;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from tensor names to file names")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
                let mut names: BTreeMap<String, String> = BTreeMap::new();
                while let Some((name, shard)) = map.next_entry::<Cow<'de, str>, String>()? {
                    if name.len() > MAX_NAME_BYTES || names.len() == MAX_TENSORS {
                        return Err(de::Error::custom(format!(
                            "it has more than {MAX_TENSORS} names or one of more than {MAX_NAME_BYTES} bytes"
                        )));
                    }
                    if let Some(other) = names.get(&*name) {
                        return Err(de::Error::custom(format!(
                            "tensor `{name}` appears twice, in `{other}` and in `{shard}`"
                        )));
                    }
                    names.insert(name.into_owned(), shard);
                }
                Ok(WeightMap(names.into_iter().collect()))
            }
        }
        deserializer.deserialize_map(Names)
    }
}
