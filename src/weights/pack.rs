//! The packed weights of a plan: from the cache file of an earlier run, or made now.
//!
//! In: a plan's weights and a checkpoint. Out: [`PackedWeights`], mapped from the cache file (see
//! [`super::cache`]) that this run's [`super::packer`] or an earlier one wrote, or in memory where no file can be.
//!
//! The payload depends on the weights' types, shapes and recipes, not on their places in arenas, so plans for
//! other devices or entries share it.

use std::io;
use std::ops::Range;
use std::path::PathBuf;

use memmap2::Mmap;

use super::WeightError;
use super::cache::{self, CacheFile, Refusal};
use super::checkpoint::Checkpoint;
use super::convert::Losses;
use super::layout::{Layout, places};
use super::packer::{PackFailure, Packer};
use crate::plan::{self, Plan};

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
    /// For every weight, what quantising it here changed: the root of the mean squared error relative to that of the
    /// values. 0 for weights that are not quantised or keep the integers of the checkpoint.
    pub rms_errors: Vec<f32>,
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
        let _span = tracing::info_span!("pack weights").entered();
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
        let made = packer
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
            lossy: named(&plan.weights, &made.losses),
            rms_errors: made.rms_errors,
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
            rms_errors: file.description.rms_errors,
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
