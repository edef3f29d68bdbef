//! `--weights native`: the element type in which a weight keeps what its tensors have.
//!
//! In: a recipe. Out: the narrowest type whose layout holds the values of every part. Blocks of 4 bits go into int4, of
//! 5 and 8 bits with a scale alone into int8 (so does Q4_0, beside such a part); Q4_K counts as 4 bits, though the
//! products of its scales are rounded to f16. What has no block format of ours (Q5_1, Q5_K, Q6_K) becomes f16, the
//! nearest wider type. F32 and BF16 become f16 if that changes no value, and f32 otherwise.

use half::f16;

use super::checkpoint::Checkpoint;
use super::convert;
use super::quants;
use super::types::SourceType;
use crate::dtype::DType;
use crate::graph::Recipe;

/// Deeper than any recipe that a graph file can hold.
const MAX_DEPTH: u32 = 64;

/// What can hold a weight's values: int4, int8, and the plain type that always can.
#[derive(Clone, Copy)]
struct Holds {
    int4: bool,
    int8: bool,
    plain: DType,
}

impl Holds {
    fn both(self, other: Self) -> Self {
        Self {
            int4: self.int4 && other.int4,
            int8: self.int8 && other.int8,
            plain: match (self.plain, other.plain) {
                (DType::F16, DType::F16) => DType::F16,
                _ => DType::F32,
            },
        }
    }

    /// For values that are computed, or groups that are torn apart.
    fn plain(self) -> Self {
        Self {
            int4: false,
            int8: false,
            ..self
        }
    }
}

impl Checkpoint {
    /// The type that keeps what the tensors of `recipe` have; `None` if one is missing.
    pub fn native_dtype(&self, recipe: &Recipe) -> Option<DType> {
        let holds = self.holds(recipe, 0)?;
        Some(match holds {
            Holds { int4: true, .. } => DType::Int4,
            Holds { int8: true, .. } => DType::Int8,
            Holds { plain, .. } => plain,
        })
    }

    fn holds(&self, recipe: &Recipe, depth: u32) -> Option<Holds> {
        if depth > MAX_DEPTH {
            return None;
        }
        let inner = |recipe: &Recipe| self.holds(recipe, depth + 1);
        let all = |parts: &[Recipe]| -> Option<Holds> {
            let mut parts = parts.iter();
            let first = inner(parts.next()?)?;
            parts.try_fold(first, |holds, part| Some(holds.both(inner(part)?)))
        };
        match recipe {
            Recipe::Tensor(name) => self.tensor_holds(name),
            Recipe::AnyOf(parts) => parts.iter().find_map(inner),
            Recipe::Concat(parts) | Recipe::Interleave(parts) => all(parts),
            Recipe::Slice { of, .. } | Recipe::PairHalves { of, .. } => inner(of),
            Recipe::Sum(parts) => all(parts).map(Holds::plain),
            Recipe::Transpose(of) | Recipe::Plus { of, .. } => inner(of).map(Holds::plain),
        }
    }

    fn tensor_holds(&self, name: &str) -> Option<Holds> {
        let tensor = self.tensor(name)?;
        // A list of numbers has a row for each, and groups lie in rows.
        let grouped = tensor.shape.len() > 1
            && tensor
                .shape
                .last()
                .is_some_and(|row| row.is_multiple_of(quants::GROUP as u64));
        let plain = match tensor.dtype {
            SourceType::F32 | SourceType::Bf16 if !self.exact_in_f16(name) => DType::F32,
            _ => DType::F16,
        };
        let in4 = matches!(
            tensor.dtype,
            SourceType::Q4_0 | SourceType::Q4_1 | SourceType::Q4K
        );
        let in8 = matches!(
            tensor.dtype,
            SourceType::Q4_0 | SourceType::Q5_0 | SourceType::Q8_0
        );
        Some(Holds {
            int4: grouped && in4,
            int8: grouped && in8,
            plain,
        })
    }
}

/// Whether f16 holds every one of these elements.
pub(super) fn all_in_f16(dtype: SourceType, bytes: &[u8]) -> bool {
    const PIECE: usize = 1024;
    let size = dtype.block().map_or(1, |block| block.bytes as usize);
    let mut values = [0.0f32; PIECE];
    bytes.chunks(PIECE * size).all(|bytes| {
        let values = &mut values[..bytes.len() / size];
        convert::widen(dtype, bytes, values);
        let same = |value: &f32| f16::from_f32(*value).to_f32().to_bits() == value.to_bits();
        values.iter().all(same)
    })
}
