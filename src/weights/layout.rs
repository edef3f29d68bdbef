//! Where each weight lies in the payload, and in which files that payload may be found.
//!
//! In: the plan's list of weights, which may come from an altered file. Out: ranges that are checked, and a hash
//! of everything that decides the payload's bytes.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::checkpoint::Checkpoint;
use super::pack::CachePlace;
use super::{WeightError, convert, shape_text};
use crate::dtype::DType;
use crate::graph::Recipe;
use crate::plan;

/// Deepest nesting of a recipe in a plan.
const MAX_DEPTH: u32 = 32;
/// Every weight begins at a multiple of this in the payload, so that a mapped f32 is aligned.
pub(super) const ALIGN: u64 = 64;
/// Where each weight lies in the payload.
#[derive(Debug)]
pub(super) struct Layout {
    /// One per weight.
    pub ranges: Vec<Range<usize>>,
    /// Of the whole payload.
    pub bytes: u64,
    /// Of every weight's type, shape and recipe.
    pub hash: [u8; 32],
}

impl Layout {
    /// The layout for these weights.
    pub fn of(weights: &[plan::Weight]) -> Result<Self, WeightError> {
        let mut hasher = blake3::Hasher::new();
        let mut ranges = Vec::with_capacity(weights.len());
        let mut end = 0u64;
        for weight in weights {
            let fault = |reason: String| WeightError::Plan {
                weight: weight.name.clone(),
                reason,
            };
            let too_large = || fault(format!("{} is too large", shape_text(&weight.shape)));
            if !convert::can_narrow(weight.dtype) && !weight.dtype.is_block() {
                let plain = DType::ALL
                    .into_iter()
                    .filter(|dtype| convert::can_narrow(*dtype));
                let all: Vec<&str> = plain
                    .chain(DType::block_formats())
                    .map(DType::name)
                    .collect();
                return Err(fault(format!(
                    "its type is {}; weights are {}",
                    weight.dtype,
                    all.join(", ")
                )));
            }
            let row = weight.shape.last().copied().unwrap_or(0);
            let group = weight.dtype.group();
            if weight.dtype.is_block() && (weight.shape.len() < 2 || !row.is_multiple_of(group)) {
                return Err(fault(format!(
                    "{} of shape {} has no rows of whole groups of {group}",
                    weight.dtype,
                    shape_text(&weight.shape)
                )));
            }
            if !shallow(&weight.recipe, 0) {
                return Err(fault(format!(
                    "its recipe is nested deeper than {MAX_DEPTH}"
                )));
            }
            let bytes = weight.dtype.size_of(&weight.shape).ok_or_else(too_large)?;
            let start = end.checked_next_multiple_of(ALIGN).ok_or_else(too_large)?;
            end = start
                .checked_add(bytes)
                .filter(|end| *end <= i64::MAX as u64)
                .ok_or_else(too_large)?;
            ranges.push(start as usize..end as usize);
            let identity = postcard::to_stdvec(&(weight.dtype, &weight.shape, &weight.recipe))
                .map_err(|error| fault(error.to_string()))?;
            hasher
                .update(&(identity.len() as u64).to_le_bytes())
                .update(&identity);
        }
        Ok(Self {
            ranges,
            bytes: end,
            hash: *hasher.finalize().as_bytes(),
        })
    }
}

/// Whether no part of the recipe is deeper than [`MAX_DEPTH`].
fn shallow(recipe: &Recipe, depth: u32) -> bool {
    depth <= MAX_DEPTH
        && match recipe {
            Recipe::Tensor(_) => true,
            Recipe::AnyOf(parts)
            | Recipe::Concat(parts)
            | Recipe::Interleave(parts)
            | Recipe::Sum(parts) => parts.iter().all(|part| shallow(part, depth + 1)),
            Recipe::Slice { of, .. }
            | Recipe::PairHalves { of, .. }
            | Recipe::Plus { of, .. }
            | Recipe::Transpose(of) => shallow(of, depth + 1),
        }
}

/// The cache files that may hold the weights, in order of preference.
pub(super) fn places(place: &CachePlace, checkpoint: &Checkpoint, layout: &Layout) -> Vec<PathBuf> {
    let layout = hex(&layout.hash);
    // A folder that several models share tells them apart by where they are.
    let path = checkpoint.path();
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let model = hex(blake3::hash(path.as_os_str().as_encoded_bytes()).as_bytes());
    let shared = |base: &Path| base.join(format!("weights-{model}-{layout}.pack"));
    match place {
        CachePlace::Memory => vec![],
        CachePlace::Folder(folder) => vec![shared(folder)],
        CachePlace::BesideModel { or_else } => {
            // A folder may have several GGUF files, but is only one safetensors checkpoint.
            let name = match checkpoint.path().is_dir() {
                true => format!("weights-{layout}.pack"),
                false => format!("weights-{model}-{layout}.pack"),
            };
            let mut places = vec![checkpoint.folder().join(".graphc").join(name)];
            places.extend(or_else.iter().map(|folder| shared(folder)));
            places
        }
    }
}

/// The first 64 bits of a hash, which tell file names apart; the whole hash is inside the file.
fn hex(hash: &[u8; 32]) -> String {
    hash.iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
