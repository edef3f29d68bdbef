//! A checkpoint: the named tensors of a model, mapped into memory.
//!
//! In: a folder with `model.safetensors`, or with `model.safetensors.index.json` and the shards it names; or a GGUF
//! file, or a folder with one. Out: an index from name to type, shape and bytes, the same for all formats.
//!
//! One tensor may be made and not read: GGUF files keep the factors that Llama 3 divides its rotation angles by as a
//! tensor, [`rope::TENSOR`]; for a safetensors folder it is computed from config.json, so that graphs need one way.
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
use std::sync::OnceLock;
use std::time::UNIX_EPOCH;

use memmap2::Mmap;
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use super::gguf::{Gguf, gguf_file};
use super::safetensors::{self, Fault, MAX_NAME_BYTES, MAX_TENSORS};
use super::types::SourceType;
use super::{WeightError, native, rope};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// What makes a folder a safetensors checkpoint, best first.
pub(super) const SAFETENSORS: [&str; 2] = [SINGLE, INDEX];
/// Longest index file that is read.
const MAX_INDEX_BYTES: u64 = 16 << 20;

/// One tensor of a checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct TensorRef<'a> {
    /// Its name.
    pub name: &'a str,
    /// The type of its elements.
    pub dtype: SourceType,
    /// Its sizes, outermost first.
    pub shape: &'a [u64],
    /// Its elements or blocks, little-endian, the last dimension running fastest; not aligned.
    pub bytes: &'a [u8],
    /// The file it lies in.
    pub file: &'a Path,
}

impl TensorRef<'_> {
    /// The bytes of a range of elements that begins and ends with a block.
    pub(super) fn part(&self, elements: std::ops::Range<u64>) -> &[u8] {
        let Some(block) = self.dtype.block() else {
            return &[];
        };
        let at = |element: u64| (element / block.elements * block.bytes) as usize;
        self.bytes
            .get(at(elements.start)..at(elements.end))
            .unwrap_or_default()
    }
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
    bytes: Bytes,
    dtype: SourceType,
    shape: Vec<u64>,
    /// Whether f16 holds every element, once somebody has asked.
    in_f16: OnceLock<bool>,
}

impl Place {
    fn new(bytes: Bytes, dtype: SourceType, shape: Vec<u64>) -> Self {
        Self {
            bytes,
            dtype,
            shape,
            in_f16: OnceLock::new(),
        }
    }
}

#[derive(Debug)]
enum Bytes {
    /// This part of the file with that number.
    Mapped(usize, std::ops::Range<usize>),
    /// Computed from the folder's config.json.
    Made(Vec<u8>),
}

/// The tensors of a model, by name.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<MappedFile>,
    tensors: BTreeMap<String, Place>,
}

impl Checkpoint {
    /// Maps the checkpoint that `path` names, a folder or a GGUF file, and checks every header.
    pub fn open(path: &Path) -> Result<Self, WeightError> {
        let mut checkpoint = Checkpoint {
            path: path.to_path_buf(),
            files: Vec::new(),
            tensors: BTreeMap::new(),
        };
        if let Some(file) = gguf_file(path)? {
            let (file, entries) = Gguf::open(&file)?.into_parts();
            for entry in entries {
                let place = Place::new(Bytes::Mapped(0, entry.range), entry.dtype, entry.shape);
                checkpoint.tensors.insert(entry.name, place);
            }
            checkpoint.files.push(file);
            return Ok(checkpoint);
        }
        let single = path.join(SINGLE);
        let index = path.join(INDEX);
        if single.exists() {
            checkpoint.add(&single)?;
        } else if index.exists() {
            checkpoint.add_shards(&index)?;
        } else {
            return Err(WeightError::File {
                path: path.to_path_buf(),
                reason: nothing_there(path),
            });
        }
        checkpoint.add_rope_factors()?;
        Ok(checkpoint)
    }

    /// The folder or file that it was opened as.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder that it lies in.
    pub fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if !self.path.is_dir() => parent,
            _ => &self.path,
        }
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<TensorRef<'_>> {
        let (name, place) = self.tensors.get_key_value(name)?;
        let (bytes, file) = match &place.bytes {
            Bytes::Mapped(file, range) => {
                let file = self.files.get(*file)?;
                (file.map.get(range.clone())?, file.path.as_path())
            }
            Bytes::Made(bytes) => (bytes.as_slice(), self.path.as_path()),
        };
        Some(TensorRef {
            name,
            dtype: place.dtype,
            shape: &place.shape,
            bytes,
            file,
        })
    }

    /// Whether it has a tensor of that name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// All names with their types, sorted.
    pub fn types(&self) -> impl Iterator<Item = (&str, SourceType)> {
        self.tensors
            .iter()
            .map(|(name, place)| (name.as_str(), place.dtype))
    }

    /// Whether f16 holds every element of a tensor. Reads all of it, once.
    pub(super) fn exact_in_f16(&self, name: &str) -> bool {
        let (Some(place), Some(tensor)) = (self.tensors.get(name), self.tensor(name)) else {
            return false;
        };
        *place
            .in_f16
            .get_or_init(|| native::all_in_f16(tensor.dtype, tensor.bytes))
    }

    /// The bytes that were computed and not read, by name.
    pub(super) fn made(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.tensors
            .iter()
            .filter_map(|(name, place)| match &place.bytes {
                Bytes::Made(bytes) => Some((name.as_str(), bytes.as_slice())),
                Bytes::Mapped(..) => None,
            })
    }

    fn add_rope_factors(&mut self) -> Result<(), WeightError> {
        if self.has(rope::TENSOR) {
            return Ok(());
        }
        if let Some(factors) = rope::factors_of(&self.path)? {
            let bytes = factors
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            let shape = vec![factors.len() as u64];
            let place = Place::new(Bytes::Made(bytes), SourceType::F32, shape);
            self.tensors.insert(rope::TENSOR.into(), place);
        }
        Ok(())
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
            let place = Place::new(
                Bytes::Mapped(number, entry.range),
                entry.dtype.into(),
                entry.shape,
            );
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
            let path = self.path.join(&shard);
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
                let place = Place::new(
                    Bytes::Mapped(self.files.len(), entry.range),
                    entry.dtype.into(),
                    entry.shape,
                );
                self.tensors.insert(name, place);
            }
            self.files.push(file);
        }
        Ok(())
    }
}

fn nothing_there(folder: &Path) -> String {
    if !folder.is_dir() {
        return "there is no such folder or file".into();
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
        None => format!("it has neither {SINGLE} nor {INDEX} nor a .gguf file"),
    }
}

fn stamp(metadata: &std::fs::Metadata) -> (u64, u128) {
    let changed = metadata
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    (metadata.len(), changed.map_or(0, |time| time.as_nanos()))
}

/// Maps a file whose header is still to be read.
pub(super) fn map_file(path: &Path) -> Result<MappedFile, WeightError> {
    let fault = |reason: String| WeightError::File {
        path: path.to_path_buf(),
        reason,
    };
    let file = open_regular(path)?;
    let metadata = file.metadata().map_err(|error| fault(error.to_string()))?;
    Ok(MappedFile {
        path: path.to_path_buf(),
        stamp: stamp(&metadata),
        header_bytes: 0,
        map: map(&file).map_err(|error| fault(error.to_string()))?,
    })
}

fn map_safetensors(path: &Path) -> Result<(MappedFile, Vec<safetensors::Entry>), WeightError> {
    let mut file = map_file(path)?;
    let (entries, header_bytes) = safetensors::parse(&file.map).map_err(|found| match found {
        Fault::Header(reason) => WeightError::Header {
            path: path.to_path_buf(),
            format: "safetensors",
            reason,
        },
        Fault::Tensor(tensor, reason) => WeightError::Layout {
            path: path.to_path_buf(),
            tensor,
            reason,
        },
    })?;
    file.header_bytes = header_bytes;
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
