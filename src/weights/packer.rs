//! The packer: every weight of a plan, made by its recipe, one after another in one piece.
//!
//! In: a plan's weights and a checkpoint. Out: a cache file, or the same payload in memory.
//! Always: recipes are all resolved, and every error about the checkpoint's tensors found, before the first byte is
//! written; the same plan and checkpoint give the same payload; a value that is not finite ends the packing.
//!
//! Weights are cut into blocks of rows, in a block format of whole tiles. Blocks are made in parallel, a batch at a
//! time, while the batch before is hashed and written, so two batches are in memory. In a block format the parts that
//! groups share come after all integers of the weight, so those are held until the weight's last block: a seventeenth
//! of it in int8, a fifth in int4.

use std::io::{self, Seek, Write};
use std::ops::Range;
use std::path::Path;

use rayon::prelude::*;

use super::blocks::{self, Rounding};
use super::cache::{self, CacheFile, Description, Lock, Refusal};
use super::checkpoint::Checkpoint;
use super::convert::{self, Losses};
use super::layout::{ALIGN, Layout};
use super::pack::PackOptions;
use super::recipe::ResolvedRecipe;
use super::{WeightError, shape_text};
use crate::dtype::tiles;
use crate::plan;

/// Elements of one block: 1 MiB of f32. An eighth of it, which rows of tiles have of a long row, is a multiple of a
/// tile's width and of the largest block of a quantised type.
const BLOCK: u64 = 1 << 18;
/// Pieces longer than this are hashed on all cores.
const PARALLEL_HASH: usize = 128 << 10;

/// A rectangle of one weight whose bytes are contiguous: whole rows, or a part of one row; in a block format the same
/// of rows of tiles.
struct Task {
    weight: usize,
    rows: Range<u64>,
    cols: Range<u64>,
}

/// What a task makes.
struct Made {
    bytes: Vec<u8>,
    /// What groups share, in a block format.
    shared: Vec<u8>,
    losses: Losses,
    rounding: Rounding,
}

#[derive(Debug)]
pub(super) enum PackFailure {
    Weight(WeightError),
    Io(io::Error),
}

impl From<io::Error> for PackFailure {
    fn from(error: io::Error) -> Self {
        PackFailure::Io(error)
    }
}

/// What is known about a payload once it is written.
pub(super) struct Payload {
    /// blake3 of it.
    pub hash: [u8; 32],
    /// Weights by number, with what they lost.
    pub losses: Vec<(u32, Losses)>,
    /// The relative RMS error of every weight.
    pub rms_errors: Vec<f32>,
}

pub(super) struct Packer<'a> {
    weights: &'a [plan::Weight],
    resolved: Vec<ResolvedRecipe<'a>>,
    checkpoint: &'a Checkpoint,
    layout: &'a Layout,
    strict: bool,
}

impl<'a> Packer<'a> {
    pub fn new(
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
    pub fn pack_to(
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
            let payload = self.payload(out, progress)?;
            self.checkpoint.unchanged().map_err(PackFailure::Weight)?;
            Ok(Description {
                layout: self.layout.hash,
                source,
                payload: payload.hash,
                losses: payload.losses,
                rms_errors: payload.rms_errors,
            })
        })
    }

    /// The payload alone.
    pub fn payload<W: Write>(
        &self,
        out: &mut W,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Payload, PackFailure> {
        let tasks: Vec<Task> = (0..self.weights.len())
            .flat_map(|weight| self.tasks(weight))
            .collect();
        let batch = (2 * rayon::current_num_threads()).max(16);
        let mut batches = tasks.chunks(batch);
        let mut sink = Sink::new(self, out, progress);
        let make = |tasks: &'_ [Task]| -> Vec<Result<Made, WeightError>> {
            tasks.par_iter().map(|task| self.make(task)).collect()
        };
        let mut current = batches.next().map(|tasks| (tasks, make(tasks)));
        while let Some((tasks, made)) = current {
            let next = batches.next();
            current = std::thread::scope(|scope| {
                let ahead = next.map(|tasks| (tasks, scope.spawn(|| make(tasks))));
                for (task, made) in tasks.iter().zip(made) {
                    sink.take(task.weight, made.map_err(PackFailure::Weight)?)?;
                }
                let join = |(tasks, made): (_, std::thread::ScopedJoinHandle<'_, _>)| {
                    let made = made.join();
                    made.map(|made| (tasks, made))
                        .map_err(|_| io::Error::other("a thread that packs weights died"))
                };
                ahead.map(join).transpose().map_err(PackFailure::Io)
            })?;
        }
        sink.finish()
    }

    /// The tasks that make one weight, in the order of its bytes.
    fn tasks(&self, weight: usize) -> Vec<Task> {
        let info = &self.weights[weight];
        let recipe = &self.resolved[weight];
        let ((rows, cols), line) = match info.dtype.is_block() {
            true => (tiles::rows_of(&info.shape), tiles::ROWS),
            false => ((recipe.rows(), recipe.cols()), 1),
        };
        if rows == 0 || cols == 0 {
            return vec![];
        }
        let high = (BLOCK / cols / line * line).max(line);
        let wide = cols.min(BLOCK / line);
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

    fn make(&self, task: &Task) -> Result<Made, WeightError> {
        let recipe = &self.resolved[task.weight];
        let dtype = self.weights[task.weight].dtype;
        let (rows, cols) = (task.rows.clone(), task.cols.clone());
        if dtype.is_block() {
            let (_, k) = tiles::rows_of(&self.weights[task.weight].shape);
            let made = blocks::make(recipe, dtype, k, rows, cols)
                .map_err(|(row, col)| self.not_finite(task.weight, row, col))?;
            return Ok(Made {
                bytes: made.quants,
                shared: made.shared,
                losses: Losses {
                    overflowed: made.overflowed,
                },
                rounding: made.rounding,
            });
        }
        let width = cols.end - cols.start;
        let elements = ((rows.end - rows.start) * width) as usize;
        let mut values = vec![0.0; elements];
        recipe.fill(rows.clone(), cols.clone(), &mut values);
        if let Some(at) = values.iter().position(|value: &f32| !value.is_finite()) {
            let (row, col) = (at as u64 / width, at as u64 % width);
            return Err(self.not_finite(task.weight, rows.start + row, cols.start + col));
        }
        let mut bytes = vec![0; elements * dtype.bytes() as usize];
        let losses = convert::narrow(&values, dtype, &mut bytes);
        Ok(Made {
            bytes,
            shared: Vec::new(),
            losses,
            rounding: Rounding::default(),
        })
    }

    fn not_finite(&self, weight: usize, row: u64, col: u64) -> WeightError {
        let recipe = &self.resolved[weight];
        let mut value = [f32::NAN];
        recipe.fill(row..row + 1, col..col + 1, &mut value);
        WeightError::NotFinite {
            weight: self.weights[weight].name.clone(),
            tensor: match recipe.source(row, col) {
                Some((tensor, index)) => format!(
                    "element {} of tensor `{}` in {}",
                    shape_text(&index),
                    tensor.name,
                    tensor.file.display()
                ),
                None => format!("row {row}, column {col} of what its recipe computes"),
            },
            value: match value {
                [value] if value.is_nan() => "NaN".into(),
                [value] if value > 0.0 => "infinite".into(),
                _ => "minus infinity".into(),
            },
        }
    }
}

/// Takes blocks in order and writes them, with what lies between and behind them.
struct Sink<'p, 'a, W> {
    packer: &'p Packer<'a>,
    out: &'p mut W,
    progress: &'p mut dyn FnMut(u64, u64),
    hasher: blake3::Hasher,
    done: u64,
    /// The weight that the last block belonged to, and what its groups share so far.
    weight: usize,
    shared: Vec<u8>,
    losses: Vec<Losses>,
    rounding: Vec<Rounding>,
}

impl<'p, 'a, W: Write> Sink<'p, 'a, W> {
    fn new(packer: &'p Packer<'a>, out: &'p mut W, progress: &'p mut dyn FnMut(u64, u64)) -> Self {
        let count = packer.weights.len();
        progress(0, packer.layout.bytes);
        Self {
            packer,
            out,
            progress,
            hasher: blake3::Hasher::new(),
            done: 0,
            weight: 0,
            shared: Vec::new(),
            losses: vec![Losses::default(); count],
            rounding: vec![Rounding::default(); count],
        }
    }

    fn take(&mut self, weight: usize, made: Made) -> Result<(), PackFailure> {
        self.losses[weight].add(made.losses);
        self.rounding[weight].add(made.rounding);
        if self.packer.strict && !made.losses.none() {
            return Err(PackFailure::Weight(WeightError::Values {
                weight: self.packer.weights[weight].name.clone(),
                losses: made.losses,
            }));
        }
        if weight != self.weight {
            self.end_weight()?;
            self.weight = weight;
        }
        // Zeros up to where this weight begins; nothing between the blocks of one weight.
        let start = self.packer.layout.ranges[weight].start as u64;
        let gap = start.saturating_sub(self.done) as usize;
        self.put(&[0; ALIGN as usize][..gap])?;
        self.put(&made.bytes)?;
        self.shared.extend(made.shared);
        (self.progress)(self.done, self.packer.layout.bytes);
        Ok(())
    }

    fn end_weight(&mut self) -> Result<(), PackFailure> {
        let shared = std::mem::take(&mut self.shared);
        self.put(&shared)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), PackFailure> {
        if bytes.len() > PARALLEL_HASH {
            self.hasher.update_rayon(bytes);
        } else {
            self.hasher.update(bytes);
        }
        self.out.write_all(bytes)?;
        self.done += bytes.len() as u64;
        Ok(())
    }

    fn finish(mut self) -> Result<Payload, PackFailure> {
        self.end_weight()?;
        // Empty weights at the end may lie behind padding that no block has written.
        let rest = vec![0; self.packer.layout.bytes.saturating_sub(self.done) as usize];
        self.put(&rest)?;
        (self.progress)(self.done, self.packer.layout.bytes);
        Ok(Payload {
            hash: *self.hasher.finalize().as_bytes(),
            losses: (0u32..)
                .zip(self.losses)
                .filter(|(_, lost)| !lost.none())
                .collect(),
            rms_errors: self.rounding.into_iter().map(Rounding::relative).collect(),
        })
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
