//! Weights: from the tensors of a checkpoint to the bytes that the plan's weight arenas hold.
//!
//! In: a folder with a checkpoint ([`Checkpoint`]) and the weights of a [`crate::plan::Plan`], each with a
//! [`crate::graph::Recipe`]. Out: the bytes of every weight in the plan's own element type and order
//! ([`PackedWeights`]), cached in one file that later starts map into memory; or made-up ones
//! ([`RandomWeights`]) for runs that need only shapes.
//!
//! Always true:
//! - A checkpoint is hostile until proven otherwise: its header is bounded before it is parsed, every byte range
//!   is checked against the file, and no allocation follows a number that was only read, never checked.
//! - Packing holds a bounded number of blocks in memory, however large the model is.
//! - A cache file is complete and verified, or it is not used: it is written aside, renamed when finished, and
//!   checked (magic, version, layout, source, length, blake3) before a byte of it is handed out.
//!
//! Absent on purpose: nothing here knows what a model is or which tensors it should have; the plan says so.

use std::path::PathBuf;

use crate::diag::{Code, Diagnostic};

mod blocks;
mod cache;
mod checkpoint;
mod convert;
mod gguf;
mod layout;
mod native;
mod pack;
mod packer;
mod quants;
mod random;
mod recipe;
mod rope;
mod safetensors;
mod types;
mod unread;

pub use checkpoint::{Checkpoint, TensorRef, read_bounded};
pub use convert::Losses;
pub use gguf::{Gguf, GgufList, GgufValue, gguf_file};
pub use pack::{CachePlace, LossyWeight, PackOptions, PackedWeights};
pub use random::RandomWeights;
pub use recipe::ResolvedRecipe;
pub use types::SourceType;

/// Where the bytes of a plan's weights come from.
#[derive(Debug)]
pub enum Weights {
    /// A checkpoint's.
    Packed(PackedWeights),
    /// Made up.
    Random(RandomWeights),
}

impl Weights {
    /// Writes the bytes of `plan.weights[index]`, beginning with its byte `start`, over all of `out`.
    pub fn write(
        &self,
        plan: &crate::plan::Plan,
        index: usize,
        start: u64,
        out: &mut [u8],
    ) -> Result<(), WeightError> {
        let Some(weight) = plan.weights.get(index) else {
            return Err(WeightError::Plan {
                weight: format!("number {index}"),
                reason: format!("the plan has {} weights", plan.weights.len()),
            });
        };
        match self {
            Weights::Random(random) => random.write(weight, start, out),
            Weights::Packed(packed) => {
                let bytes = packed.bytes(index);
                let part = usize::try_from(start)
                    .ok()
                    .and_then(|start| bytes.get(start..start.checked_add(out.len())?));
                let Some(part) = part else {
                    return Err(WeightError::Plan {
                        weight: weight.name.clone(),
                        reason: format!(
                            "bytes {start}..+{} of {} were asked for",
                            out.len(),
                            bytes.len()
                        ),
                    });
                };
                out.copy_from_slice(part);
                Ok(())
            }
        }
    }
}

/// Why a checkpoint cannot be used or packed. Each kind has a stable code, see [`WeightError::code`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeightError {
    /// A file cannot be opened, read or mapped.
    #[error("{path}: {reason}", path = path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What happened and what would help.
        reason: String,
    },
    /// The header of a file is not what its format says.
    #[error("{path}: damaged {format} file: {reason}", path = path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// `safetensors` or `GGUF`.
        format: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor's byte range contradicts its shape, its neighbours or the file.
    #[error("{path}: tensor `{tensor}` {reason}", path = path.display())]
    Layout {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Both sides of the conflict.
        reason: String,
    },
    /// The index of a sharded checkpoint is damaged or does not fit its shards.
    #[error("{path}: {reason}", path = path.display())]
    Index {
        /// The index file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The checkpoint lacks a tensor.
    #[error("weight `{weight}` needs {wanted}, which {folder} does not have", folder = folder.display())]
    MissingTensor {
        /// The plan's weight.
        weight: String,
        /// The tensor, or all alternatives.
        wanted: String,
        /// The checkpoint.
        folder: PathBuf,
        /// Similar names that it does have.
        nearest: Vec<String>,
    },
    /// A recipe meets a tensor of the wrong shape.
    #[error("weight `{weight}`, {part}: wanted {wanted}, found {found}")]
    Shape {
        /// The plan's weight.
        weight: String,
        /// The part of the recipe.
        part: String,
        /// The shape it needs and why.
        wanted: String,
        /// The shape that is there, with tensor and file.
        found: String,
    },
    /// A recipe cannot be carried out on what it is given.
    #[error("weight `{weight}`, {part}: {reason}")]
    Recipe {
        /// The plan's weight.
        weight: String,
        /// The part of the recipe.
        part: String,
        /// Why not.
        reason: String,
    },
    /// Values that the wanted element type cannot hold, with `strict`.
    #[error("weight `{weight}`: {losses}")]
    Values {
        /// The plan's weight and its tensors.
        weight: String,
        /// How many of which kind.
        losses: Losses,
    },
    /// A tensor has a value that is NaN or infinite.
    #[error("weight `{weight}`: {tensor} is {value}")]
    NotFinite {
        /// The plan's weight.
        weight: String,
        /// The tensor, the element and the file; or the weight's own element where it is computed from several.
        tensor: String,
        /// What is there.
        value: String,
    },
    /// The packed weights cannot be stored.
    #[error("{path}: packed weights cannot be written: {reason}", path = path.display())]
    Cache {
        /// The cache file.
        path: PathBuf,
        /// What happened and what would help.
        reason: String,
    },
    /// The plan's list of weights contradicts itself.
    #[error("the plan's weight `{weight}` is not usable: {reason}")]
    Plan {
        /// The plan's weight.
        weight: String,
        /// Why.
        reason: String,
    },
}

impl WeightError {
    /// Its stable code, for `graphc explain`.
    pub fn code(&self) -> Code {
        Code(match self {
            WeightError::File { .. } => "G0601",
            WeightError::Header { .. } => "G0602",
            WeightError::Layout { .. } => "G0603",
            WeightError::Index { .. } => "G0604",
            WeightError::MissingTensor { .. } => "G0605",
            WeightError::Shape { .. } => "G0606",
            WeightError::Recipe { .. } => "G0607",
            WeightError::Values { .. } => "G0608",
            WeightError::Cache { .. } => "G0609",
            WeightError::Plan { .. } => "G0610",
            WeightError::NotFinite { .. } => "G0611",
        })
    }

    /// The same as a diagnostic, with advice where there is some.
    pub fn diagnostic(&self) -> Diagnostic {
        let diagnostic = Diagnostic::error(self.code(), self.to_string());
        match self {
            WeightError::MissingTensor { nearest, .. } if !nearest.is_empty() => {
                let names: Vec<_> = nearest.iter().map(|name| format!("`{name}`")).collect();
                diagnostic.help(format!("it has {}", names.join(", ")))
            }
            WeightError::Header { .. } | WeightError::Layout { .. } | WeightError::Index { .. } => {
                diagnostic
                    .help("fetch the checkpoint again; a download that broke off looks like this")
            }
            WeightError::Values { .. } => diagnostic
                .help("pack with --dtype f32, or without --strict to go on with a warning"),
            WeightError::Plan { .. } => diagnostic.help("compile the graph again"),
            WeightError::NotFinite { .. } => diagnostic
                .help("the model was damaged or never finished training; fetch it again, or ask who made it"),
            _ => diagnostic,
        }
    }
}

/// `[384, 1536]`.
fn shape_text(shape: &[u64]) -> String {
    let sizes: Vec<_> = shape.iter().map(u64::to_string).collect();
    format!("[{}]", sizes.join(", "))
}
