//! The file that packed weights are kept in.
//!
//! ```text
//! 0     magic, version, lengths, blake3 of the description     one page
//! 4096  payload: the weights in the plan's order, each aligned to 64 bytes
//! ..    description (postcard): what it was made from and for
//! ```
//! The first page is written last, so a file that was cut off at any moment has no magic. Integers are
//! little-endian. [`open`] checks everything, the payload's hash included, before it hands the file out: reading
//! the weights once is needed anyway to upload them, and blake3 runs at memory speed on all cores.
//!
//! **How a changed checkpoint is noticed.** The description records size, time of change, header hash and full
//! hash of every source file. Up to [`FULL_HASH_BYTES`] the full hash is computed at every start, which takes
//! some milliseconds and also sees an edit that kept size and time. Larger checkpoints are not read at all while
//! size, time and header are the same, because the full hash would double what a start has to read; if only the
//! time differs (a copy, a `touch`) the full hash decides.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use super::checkpoint::{Checkpoint, MappedFile, map};
use super::convert::Losses;

const MAGIC: [u8; 8] = *b"graphcwp";
/// Changes whenever the bytes of a payload or the meaning of the description change.
const VERSION: u32 = 3;
const PAGE: u64 = 4096;
/// Longest description that is read.
const MAX_DESCRIPTION_BYTES: u64 = 64 << 20;
/// Up to this size a checkpoint's full hash is computed at every start.
const FULL_HASH_BYTES: u64 = 16 << 20;

/// What a payload was made from and for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Description {
    /// blake3 of every weight's type, shape and recipe.
    pub layout: [u8; 32],
    /// The checkpoint's files.
    pub source: Vec<SourceFile>,
    /// blake3 of the payload.
    pub payload: [u8; 32],
    /// Weights (by number) that lost values.
    pub losses: Vec<(u32, Losses)>,
    /// The relative RMS error of every weight.
    pub rms_errors: Vec<f32>,
}

/// The identity of one file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SourceFile {
    name: String,
    bytes: u64,
    changed: u128,
    header: [u8; 32],
    content: [u8; 32],
}

/// A checked cache file.
#[derive(Debug)]
pub(super) struct CacheFile {
    /// All of it, mapped.
    pub map: Mmap,
    /// Where the payload lies in it.
    pub payload: Range<usize>,
    /// What it says about itself.
    pub description: Description,
}

/// The identity of a checkpoint, with the full hash of every file.
pub(super) fn source_of(checkpoint: &Checkpoint) -> Vec<SourceFile> {
    let files = checkpoint.files().iter().map(|file| SourceFile {
        content: full_hash(file),
        ..quick_identity(file)
    });
    files.chain(made(checkpoint)).collect()
}

fn full_hash(file: &MappedFile) -> [u8; 32] {
    *blake3::Hasher::new()
        .update_rayon(&file.map)
        .finalize()
        .as_bytes()
}

/// Tensors that were computed from config.json: each counts as a file that never changes its time.
fn made(checkpoint: &Checkpoint) -> impl Iterator<Item = SourceFile> {
    checkpoint.made().map(|(name, bytes)| {
        let content = *blake3::hash(bytes).as_bytes();
        SourceFile {
            name: name.into(),
            bytes: bytes.len() as u64,
            changed: 0,
            header: content,
            content,
        }
    })
}

fn quick_identity(file: &MappedFile) -> SourceFile {
    let header = file.map.get(..file.header_bytes).unwrap_or_default();
    SourceFile {
        name: file
            .path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
        bytes: file.stamp.0,
        changed: file.stamp.1,
        header: *blake3::hash(header).as_bytes(),
        content: [0; 32],
    }
}

/// Whether `checkpoint` is still what `recorded` was taken from. See the module's page for the rule.
fn same_source(recorded: &[SourceFile], checkpoint: &Checkpoint, full_hash_bytes: u64) -> bool {
    let files = checkpoint.files();
    let Some((recorded, recorded_made)) = recorded.split_at_checked(files.len()) else {
        return false;
    };
    let alike = recorded_made.iter().cloned().eq(made(checkpoint))
        && files
            .iter()
            .map(quick_identity)
            .zip(recorded)
            .all(|(now, then)| {
                (&now.name, now.bytes, now.header) == (&then.name, then.bytes, then.header)
            });
    let same_times = files
        .iter()
        .zip(recorded)
        .all(|(now, then)| now.stamp.1 == then.changed);
    if !alike {
        false
    } else if same_times && checkpoint.file_bytes() > full_hash_bytes {
        true
    } else {
        let mut pairs = files.iter().zip(recorded);
        pairs.all(|(now, then)| full_hash(now) == then.content)
    }
}

/// The cache file at `path`, if it is there, complete, undamaged and made from `checkpoint` for `layout`; else
/// why not.
pub(super) fn open(
    path: &Path,
    layout: &[u8; 32],
    payload_bytes: u64,
    checkpoint: &Checkpoint,
) -> Result<CacheFile, Refusal> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Refusal::Missing),
        Err(error) => return Err(Refusal::Because(error.to_string())),
    };
    let metadata = file
        .metadata()
        .map_err(|error| Refusal::Because(error.to_string()))?;
    if !metadata.is_file() || metadata.len() < PAGE {
        return Err(Refusal::Because("it is cut off".into()));
    }
    let map = map(&file).map_err(|error| Refusal::Because(error.to_string()))?;
    let (payload, description) = check(&map).map_err(Refusal::Because)?;
    if description.layout != *layout || (payload.end - payload.start) as u64 != payload_bytes {
        return Err(Refusal::Because("it was made for another layout".into()));
    }
    if !same_source(&description.source, checkpoint, FULL_HASH_BYTES) {
        return Err(Refusal::Because(
            "the checkpoint has changed since it was made".into(),
        ));
    }
    Ok(CacheFile {
        map,
        payload,
        description,
    })
}

/// Why a cache file is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is none.
    Missing,
    /// It is damaged or foreign.
    Because(String),
}

/// Everything that can be said about the bytes of a cache file alone.
fn check(file: &[u8]) -> Result<(Range<usize>, Description), String> {
    let cut_off = || "it is cut off".to_string();
    let page = FirstPage::read(file).ok_or_else(cut_off)?;
    if page.magic != MAGIC {
        return Err("it is not a file of packed weights, or was never finished".into());
    }
    if page.version != VERSION {
        return Err(format!(
            "it has format version {}, this program writes {VERSION}",
            page.version
        ));
    }
    let end = PAGE.checked_add(page.payload_bytes).ok_or_else(cut_off)?;
    let all = end
        .checked_add(page.description_bytes)
        .ok_or_else(cut_off)?;
    if all != file.len() as u64 || page.description_bytes > MAX_DESCRIPTION_BYTES {
        return Err(format!("it has {} bytes and should have {all}", file.len()));
    }
    let payload = PAGE as usize..end as usize;
    let description = &file[end as usize..];
    if *blake3::hash(description).as_bytes() != page.description_hash {
        return Err("its description does not match its hash".into());
    }
    let description: Description = postcard::from_bytes(description)
        .map_err(|error| format!("its description is damaged: {error}"))?;
    let hash = blake3::Hasher::new()
        .update_rayon(&file[payload.clone()])
        .finalize();
    if *hash.as_bytes() != description.payload {
        return Err("its weights do not match their hash".into());
    }
    Ok((payload, description))
}

/// The fields of the first page.
struct FirstPage {
    magic: [u8; 8],
    version: u32,
    payload_bytes: u64,
    description_bytes: u64,
    description_hash: [u8; 32],
}

impl FirstPage {
    fn read(file: &[u8]) -> Option<Self> {
        let (magic, rest) = file.split_first_chunk::<8>()?;
        let (version, rest) = rest.split_first_chunk::<4>()?;
        let (payload_bytes, rest) = rest.split_first_chunk::<8>()?;
        let (description_bytes, rest) = rest.split_first_chunk::<8>()?;
        let (description_hash, _) = rest.split_first_chunk::<32>()?;
        Some(Self {
            magic: *magic,
            version: u32::from_le_bytes(*version),
            payload_bytes: u64::from_le_bytes(*payload_bytes),
            description_bytes: u64::from_le_bytes(*description_bytes),
            description_hash: *description_hash,
        })
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(PAGE as usize);
        bytes.extend(self.magic);
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.payload_bytes.to_le_bytes());
        bytes.extend(self.description_bytes.to_le_bytes());
        bytes.extend(self.description_hash);
        bytes.resize(PAGE as usize, 0);
        bytes
    }
}

/// Writes a cache file to `out`: `payload` writes the payload and returns its description.
pub(super) fn write<W: Write + Seek, E: From<io::Error>>(
    out: &mut W,
    payload_bytes: u64,
    payload: impl FnOnce(&mut W) -> Result<Description, E>,
) -> Result<(), E> {
    out.write_all(&[0; PAGE as usize])?;
    let description = payload(out)?;
    let description = postcard::to_stdvec(&description).map_err(io::Error::other)?;
    out.write_all(&description)?;
    let page = FirstPage {
        magic: MAGIC,
        version: VERSION,
        payload_bytes,
        description_bytes: description.len() as u64,
        description_hash: *blake3::hash(&description).as_bytes(),
    };
    out.seek(SeekFrom::Start(0))?;
    out.write_all(&page.bytes())?;
    out.flush()?;
    Ok(())
}

/// Keeps other writers of `path` out while it lives, other processes included. The lock is advisory and ends with
/// the process; its empty file stays, since removing it would let two writers in.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits until this is the only writer of `path`.
    pub fn take(path: &Path) -> io::Result<Self> {
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.with_extension("lock"))?;
        match file.lock() {
            // A file system without locks: two writers then do the same work twice, and the rename decides.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            other => other?,
        }
        Ok(Self { _file: file })
    }
}
