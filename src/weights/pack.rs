//! The packer: every weight of a plan, made by its recipe, one after another in one piece of memory.
//!
//! In: a plan's weights and a checkpoint. Out: [`PackedWeights`], mapped from the cache file (see
//! [`super::cache`]) that this or an earlier run wrote.
//! Always: recipes are all resolved, and every error about the checkpoint found, before the first byte is
//! written; at most [`TASKS_AT_ONCE`] blocks are in memory; the same plan and checkpoint give the same payload.
//!
//! The payload depends on the weights' types, shapes and recipes, not on their places in arenas, so plans for
//! other devices or entries share it.

use std::io::{self, Seek, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use rayon::prelude::*;

use super::WeightError;
use super::cache::{self, CacheFile, Description, Lock, Refusal};
use super::checkpoint::Checkpoint;
use super::convert::{self, Losses};
use super::layout::{ALIGN, Layout, places};
use super::recipe::ResolvedRecipe;
use crate::plan::{self, Plan};

/// Elements of one block: 1 MiB of f32.
const BLOCK: u64 = 1 << 18;
/// Blocks that are made in parallel before they are written.
const TASKS_AT_ONCE: usize = 32;
/// If no cache file can be written, weights up to this size are kept in memory instead.
const MAX_MEMORY_BYTES: u64 = 2 << 30;

/// Where the packed weights are kept between runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CachePlace {
    /// In `.graphc` beside the model if that can be written, else in this folder, which models share.
    BesideModel {
        /// The shared folder, if there is one.
        or_else: Option<PathBuf>,
    },
    /// In this folder, which models share.
    Folder(PathBuf),
    /// Nowhere: they are packed into memory at every start.
    Memory,
}

impl Default for CachePlace {
    fn default() -> Self {
        CachePlace::BesideModel { or_else: None }
    }
}

/// How to pack.
#[derive(Clone, Debug, Default)]
pub struct PackOptions {
    /// Where the packed weights are kept.
    pub place: CachePlace,
    /// Whether a value that the wanted type cannot hold is an error.
    pub strict: bool,
}

/// A weight with values that its type cannot hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LossyWeight {
    /// The plan's weight.
    pub weight: String,
    /// How many of which kind.
    pub losses: Losses,
}

/// The bytes of all weights of a plan.
#[derive(Debug)]
pub struct PackedWeights {
    ranges: Vec<Range<usize>>,
    bytes: Storage,
    /// Weights that lost values, for a warning.
    pub lossy: Vec<LossyWeight>,
    /// What happened around the cache that people may want to know.
    pub notes: Vec<String>,
    /// Whether an earlier run's file was used.
    pub from_cache: bool,
}

#[derive(Debug)]
enum Storage {
    Mapped(Mmap, Range<usize>),
    Memory(Vec<u8>),
}

impl PackedWeights {
    /// The weights of `plan` from the cache, or made from `checkpoint` and put there. `progress` gets the bytes
    /// that are done and the bytes in all, first with nothing done.
    pub fn open_or_pack(
        plan: &Plan,
        checkpoint: &Checkpoint,
        options: &PackOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<PackedWeights, WeightError> {
        let layout = Layout::of(&plan.weights)?;
        let mut notes = Vec::new();
        let places = places(&options.place, checkpoint, &layout);
        for path in &places {
            match cache::open(path, &layout.hash, layout.bytes, checkpoint) {
                Ok(file) => return Self::from_file(plan, &layout, file, options, notes, true),
                Err(Refusal::Missing) => {}
                Err(Refusal::Because(reason)) => {
                    notes.push(format!("{}: packing again: {reason}", path.display()));
                }
            }
        }
        let packer = Packer::new(&plan.weights, checkpoint, &layout, options)?;
        let mut failure = None;
        for path in &places {
            match packer.pack_to(path, progress) {
                Ok((file, made)) => {
                    return Self::from_file(plan, &layout, file, options, notes, !made);
                }
                Err(PackFailure::Weight(error)) => return Err(error),
                Err(PackFailure::Io(error)) => {
                    let reason = write_reason(&error);
                    notes.push(format!("{}: not kept: {reason}", path.display()));
                    failure = Some(WeightError::Cache {
                        path: path.clone(),
                        reason,
                    });
                }
            }
        }
        if let Some(failure) = failure.filter(|_| layout.bytes > MAX_MEMORY_BYTES) {
            return Err(failure);
        }
        let mut memory = io::Cursor::new(Vec::new());
        let (_, losses) =
            packer
                .payload(&mut memory, progress)
                .map_err(|failure| match failure {
                    PackFailure::Weight(error) => error,
                    PackFailure::Io(error) => WeightError::Cache {
                        path: PathBuf::from("memory"),
                        reason: error.to_string(),
                    },
                })?;
        checkpoint.unchanged()?;
        Ok(PackedWeights {
            ranges: layout.ranges.clone(),
            bytes: Storage::Memory(memory.into_inner()),
            lossy: named(&plan.weights, &losses),
            notes,
            from_cache: false,
        })
    }

    /// The bytes of `plan.weights[index]`; empty for a number that the plan does not have.
    pub fn bytes(&self, index: usize) -> &[u8] {
        let all = match &self.bytes {
            Storage::Mapped(map, payload) => map.get(payload.clone()).unwrap_or_default(),
            Storage::Memory(bytes) => bytes,
        };
        self.ranges
            .get(index)
            .and_then(|range| all.get(range.clone()))
            .unwrap_or_default()
    }

    /// The number of weights.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether the plan has no weights.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    fn from_file(
        plan: &Plan,
        layout: &Layout,
        file: CacheFile,
        options: &PackOptions,
        notes: Vec<String>,
        from_cache: bool,
    ) -> Result<Self, WeightError> {
        let lossy = named(&plan.weights, &file.description.losses);
        if let Some(first) = lossy.first().filter(|_| options.strict) {
            return Err(WeightError::Values {
                weight: first.weight.clone(),
                losses: first.losses,
            });
        }
        Ok(Self {
            ranges: layout.ranges.clone(),
            bytes: Storage::Mapped(file.map, file.payload),
            lossy,
            notes,
            from_cache,
        })
    }
}

fn named(weights: &[plan::Weight], losses: &[(u32, Losses)]) -> Vec<LossyWeight> {
    let name = |index: u32| {
        weights
            .get(index as usize)
            .map_or(String::new(), |weight| weight.name.clone())
    };
    losses
        .iter()
        .map(|(index, losses)| LossyWeight {
            weight: name(*index),
            losses: *losses,
        })
        .collect()
}

fn write_reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!("{error}; free some space or name a cache folder on another disk")
        }
        _ => error.to_string(),
    }
}

/// A rectangle of one weight whose bytes are contiguous: whole rows, or a part of one row.
struct Task {
    weight: usize,
    rows: Range<u64>,
    cols: Range<u64>,
}

#[derive(Debug)]
enum PackFailure {
    Weight(WeightError),
    Io(io::Error),
}

impl From<io::Error> for PackFailure {
    fn from(error: io::Error) -> Self {
        PackFailure::Io(error)
    }
}

/// Weights by number, with what they lost.
type NumberedLosses = Vec<(u32, Losses)>;

struct Packer<'a> {
    weights: &'a [plan::Weight],
    resolved: Vec<ResolvedRecipe<'a>>,
    checkpoint: &'a Checkpoint,
    layout: &'a Layout,
    strict: bool,
}

impl<'a> Packer<'a> {
    fn new(
        weights: &'a [plan::Weight],
        checkpoint: &'a Checkpoint,
        layout: &'a Layout,
        options: &PackOptions,
    ) -> Result<Self, WeightError> {
        let resolved = weights
            .iter()
            .map(|weight| {
                ResolvedRecipe::new(&weight.recipe, &weight.shape, &weight.name, checkpoint)
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            weights,
            resolved,
            checkpoint,
            layout,
            strict: options.strict,
        })
    }

    /// Makes the cache file `path`, or finds that another process has just made it. The flag says which: `true`
    /// for made here.
    fn pack_to(
        &self,
        path: &Path,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(CacheFile, bool), PackFailure> {
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        let _lock = Lock::take(path)?;
        if let Ok(file) = self.open(path) {
            return Ok((file, false));
        }
        let mut aside = tempfile::Builder::new()
            .prefix(".weights-")
            .suffix(".part")
            .tempfile_in(folder)?;
        self.write(&mut io::BufWriter::new(aside.as_file_mut()), progress)?;
        aside.as_file().sync_all()?;
        aside.persist(path).map_err(|error| error.error)?;
        match self.open(path) {
            Ok(file) => Ok((file, true)),
            Err(Refusal::Because(reason)) => Err(io::Error::other(reason).into()),
            Err(Refusal::Missing) => Err(io::Error::from(io::ErrorKind::NotFound).into()),
        }
    }

    fn open(&self, path: &Path) -> Result<CacheFile, Refusal> {
        cache::open(path, &self.layout.hash, self.layout.bytes, self.checkpoint)
    }

    /// A whole cache file.
    fn write<W: Write + Seek>(
        &self,
        out: &mut W,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), PackFailure> {
        cache::write(out, self.layout.bytes, |out| {
            let source = cache::source_of(self.checkpoint);
            let (payload, losses) = self.payload(out, progress)?;
            self.checkpoint.unchanged().map_err(PackFailure::Weight)?;
            Ok(Description {
                layout: self.layout.hash,
                source,
                payload,
                losses,
            })
        })
    }

    /// The payload alone; returns its hash and the weights that lost values.
    fn payload<W: Write>(
        &self,
        out: &mut W,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<([u8; 32], NumberedLosses), PackFailure> {
        let mut hasher = blake3::Hasher::new();
        let mut losses = vec![Losses::default(); self.weights.len()];
        let mut done = 0u64;
        progress(0, self.layout.bytes);
        let tasks: Vec<Task> = (0..self.weights.len())
            .flat_map(|weight| self.tasks(weight))
            .collect();
        for batch in tasks.chunks(TASKS_AT_ONCE) {
            let blocks: Vec<_> = batch.par_iter().map(|task| self.block(task)).collect();
            for (task, (bytes, lost)) in batch.iter().zip(blocks) {
                losses[task.weight].add(lost);
                if self.strict && !lost.none() {
                    return Err(PackFailure::Weight(WeightError::Values {
                        weight: self.weights[task.weight].name.clone(),
                        losses: lost,
                    }));
                }
                // Zeros up to where this weight begins; nothing between the blocks of one weight.
                let start = self.layout.ranges[task.weight].start as u64;
                let gap = start.saturating_sub(done) as usize;
                for part in [&[0; ALIGN as usize][..gap], &bytes] {
                    hasher.update(part);
                    out.write_all(part)?;
                    done += part.len() as u64;
                }
                progress(done, self.layout.bytes);
            }
        }
        // Empty weights at the end may lie behind padding that no block has written.
        let rest = vec![0; self.layout.bytes.saturating_sub(done) as usize];
        hasher.update(&rest);
        out.write_all(&rest)?;
        let numbered = (0u32..)
            .zip(losses)
            .filter(|(_, lost)| !lost.none())
            .collect();
        Ok((*hasher.finalize().as_bytes(), numbered))
    }

    /// The tasks that make one weight, in the order of its bytes.
    fn tasks(&self, weight: usize) -> Vec<Task> {
        let recipe = &self.resolved[weight];
        let (rows, cols) = (recipe.rows(), recipe.cols());
        if rows == 0 || cols == 0 {
            return vec![];
        }
        let high = (BLOCK / cols).max(1);
        let wide = if high > 1 { cols } else { BLOCK.min(cols) };
        let pieces = |all: u64, size: u64| {
            (0..all.div_ceil(size)).map(move |piece| piece * size..all.min((piece + 1) * size))
        };
        pieces(rows, high)
            .flat_map(|rows| {
                pieces(cols, wide).map(move |cols| Task {
                    weight,
                    rows: rows.clone(),
                    cols,
                })
            })
            .collect()
    }

    fn block(&self, task: &Task) -> (Vec<u8>, Losses) {
        let elements =
            ((task.rows.end - task.rows.start) * (task.cols.end - task.cols.start)) as usize;
        let mut values = vec![0.0; elements];
        self.resolved[task.weight].fill(task.rows.clone(), task.cols.clone(), &mut values);
        let dtype = self.weights[task.weight].dtype;
        let mut bytes = vec![0; elements * dtype.bytes() as usize];
        let losses = convert::narrow(&values, dtype, &mut bytes);
        (bytes, losses)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::graph::Recipe;
    use crate::ids::ArenaId;
    use std::io::{Cursor, SeekFrom};

    /// A disk with room for `left` more bytes.
    struct SmallDisk {
        file: Cursor<Vec<u8>>,
        left: usize,
    }

    impl Write for SmallDisk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.left);
            if count == 0 && !bytes.is_empty() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.left -= count;
            self.file.write(&bytes[..count])
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Seek for SmallDisk {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.file.seek(to)
        }
    }

    #[test]
    fn a_full_disk_never_leaves_a_usable_file() {
        let folder = tempfile::tempdir().unwrap();
        let header = r#"{"w":{"dtype":"F32","shape":[100],"data_offsets":[0,400]}}"#;
        let mut model = (header.len() as u64).to_le_bytes().to_vec();
        model.extend(header.bytes());
        model.extend([0; 400]);
        std::fs::write(folder.path().join("model.safetensors"), model).unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let weights = [plan::Weight {
            name: "w".into(),
            dtype: DType::F32,
            shape: vec![100],
            recipe: Recipe::Tensor("w".into()),
            arena: ArenaId(0),
            offset: 0,
        }];
        let layout = Layout::of(&weights).unwrap();
        let packer = Packer::new(&weights, &checkpoint, &layout, &PackOptions::default()).unwrap();
        let write = |left: usize| {
            let mut disk = SmallDisk {
                file: Cursor::new(Vec::new()),
                left,
            };
            let result = packer.write(&mut disk, &mut |_, _| {});
            (result, disk.file.into_inner())
        };
        let (result, whole) = write(usize::MAX);
        assert!(result.is_ok());
        let path = folder.path().join("cache");
        let opens = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            packer.open(&path).is_ok()
        };
        assert!(opens(&whole));
        // The first page is written twice: zeros at the start, the real one at the end.
        for left in (0..whole.len() + 4096).step_by(61) {
            let (result, part) = write(left);
            assert!(
                matches!(result, Err(PackFailure::Io(error)) if error.kind() == io::ErrorKind::StorageFull)
            );
            // Once the fields at the head of the first page are there, the zeros after them are too.
            assert!(left > whole.len() || !opens(&part), "{left}");
        }
    }
}
