//! Where a computation went wrong: NaN and infinity among the values that a pass wrote.
//!
//! In: a tensor of a plan and some of its stored bytes. Out: the first element there that is no finite number, and
//! in words which pass of which line wrote it.

use half::{bf16, f16};

use super::{Entry, Plan, Role, Tensor};
use crate::dtype::DType;
use crate::ids::{PassId, TensorId};
use crate::kernel::Access;

/// A value that is no finite number, and the pass that wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct NotFinite {
    /// The entry.
    pub entry: String,
    /// The pass.
    pub pass: String,
    /// The kernel and its variant.
    pub kernel: String,
    /// RON file, line and column of the pass.
    pub source: (String, u32, u32),
    /// The tensor.
    pub tensor: String,
    /// Where in the tensor, outermost first.
    pub index: Vec<u64>,
    /// NaN or an infinity.
    pub value: f32,
}

impl NotFinite {
    /// `value`, which `pass` wrote as the element of that number of `tensor`.
    pub fn new(
        plan: &Plan,
        entry: &Entry,
        (pass, tensor): (PassId, TensorId),
        (element, value): (u64, f32),
    ) -> Self {
        let (pass, tensor) = (&entry.passes[pass], &entry.tensors[tensor]);
        let kernel = &plan.kernels[pass.kernel];
        Self {
            entry: entry.name.clone(),
            pass: pass.path.clone(),
            kernel: format!("{}/{}", kernel.name, kernel.variant),
            source: pass.source.clone(),
            tensor: tensor.name.clone(),
            index: index(element, &tensor.shape),
            value,
        }
    }
}

impl std::fmt::Display for NotFinite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (file, line, column) = &self.source;
        let index: Vec<String> = self.index.iter().map(u64::to_string).collect();
        write!(
            f,
            "pass `{}` (kernel {}, {file}:{line}:{column}) of entry `{}` wrote {}: `{}`[{}]",
            self.pass,
            self.kernel,
            self.entry,
            self.value,
            self.tensor,
            index.join(", ")
        )
    }
}

fn index(mut element: u64, shape: &[u64]) -> Vec<u64> {
    let mut index: Vec<u64> = shape
        .iter()
        .rev()
        .map(|size| {
            let size = (*size).max(1);
            let at = element % size;
            element /= size;
            at
        })
        .collect();
    index.reverse();
    index
}

/// What a pass writes for others to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The tensor.
    pub tensor: TensorId,
    /// Whether nothing that was there before may be left: it is neither state nor written in place.
    pub whole: bool,
}

/// The results of a pass. What it keeps to itself may hold anything; that is bound to be read and written, as state is.
pub fn written(entry: &Entry, pass: PassId) -> Vec<Written> {
    let binds = entry.passes[pass].binds.iter();
    let results = binds.filter(|bind| match bind.access {
        Access::Read => false,
        Access::Write => true,
        Access::ReadWrite => entry.tensors[bind.tensor].role == Role::State,
    });
    let written = results.map(|bind| Written {
        tensor: bind.tensor,
        whole: bind.access == Access::Write && bind.in_place.is_none(),
    });
    written.collect()
}

/// Whether elements of this type can be NaN or infinite.
pub fn may_fail(dtype: DType) -> bool {
    !matches!(dtype, DType::I32 | DType::U32 | DType::I8 | DType::U8)
}

/// The first element that is NaN or infinite among `bytes`, which begin at byte `start` of the tensor, with its
/// number. Both are whole elements. Of a block format it is the first of a group with such a scale or minimum.
pub fn first(tensor: &Tensor, start: u64, bytes: &[u8]) -> Option<(u64, f32)> {
    let find = |width: u64, value: &dyn Fn(&[u8]) -> f32| {
        let values = bytes.chunks_exact(width as usize).map(value);
        let found = values.zip(0u64..).find(|(value, _)| !value.is_finite());
        found.map(|(value, at)| (start / width + at, value))
    };
    let half = |b: &[u8]| f16::from_le_bytes([b[0], b[1]]).to_f32();
    match tensor.dtype {
        DType::F32 => find(4, &|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        DType::F16 => find(2, &half),
        DType::Bf16 => find(2, &|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()),
        dtype @ (DType::Int8 | DType::Int4 | DType::Int8g64 | DType::Int4g128) => {
            let width = dtype.shared_bytes();
            let groups = tensor.bytes / dtype.group_bytes();
            let shared = tensor.bytes - groups * width;
            let skipped = usize::try_from(shared.saturating_sub(start)).ok()?;
            let group = start.saturating_sub(shared) / width;
            let halves = bytes.get(skipped..)?.chunks_exact(2).map(half).zip(0u64..);
            let mut bad = halves.filter(|(value, _)| !value.is_finite());
            bad.next()
                .map(|(value, at)| ((group + at * 2 / width) * dtype.group(), value))
        }
        DType::I32 | DType::U32 | DType::I8 | DType::U8 => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::super::Slot;
    use super::*;
    use crate::ids::ArenaId;

    fn tensor(dtype: DType, shape: &[u64]) -> Tensor {
        Tensor {
            name: "h".into(),
            role: Role::Transient,
            dtype,
            shape: shape.to_vec(),
            view_of: None,
            arena: ArenaId(0),
            offset: 0,
            bytes: dtype.size_of(shape).unwrap(),
            slot: Slot::Fixed,
        }
    }

    #[test]
    fn the_first_of_several_is_found_from_any_start() {
        let bytes = |values: &[f32]| -> Vec<u8> {
            let each = values.iter().flat_map(|value| value.to_le_bytes());
            each.collect()
        };
        let tensor_f32 = tensor(DType::F32, &[2, 3]);
        let values = bytes(&[1.0, f32::MAX, -2.0, 0.0, f32::NEG_INFINITY, f32::NAN]);
        let found = first(&tensor_f32, 0, &values).unwrap();
        assert_eq!(found, (4, f32::NEG_INFINITY));
        assert_eq!(index(found.0, &tensor_f32.shape), [1, 1]);
        assert_eq!(first(&tensor_f32, 0, &values[..16]), None);
        assert!(first(&tensor_f32, 20, &values[20..]).unwrap().1.is_nan());
        // The same bits are a large number of an index type.
        assert_eq!(first(&tensor(DType::U32, &[2, 3]), 0, &values), None);
    }

    #[test]
    fn a_group_of_a_block_format_is_found_by_what_it_shares() {
        let inf = f16::INFINITY.to_le_bytes();
        // Four groups: their quants, 0xff each, are no floats.
        for dtype in DType::block_formats() {
            let tensor = tensor(dtype, &[2, 2 * dtype.group()]);
            let (quants, width) = (
                4 * dtype.quant_bytes() as usize,
                dtype.shared_bytes() as usize,
            );
            let mut bytes = vec![0xff; quants];
            bytes.resize(quants + 4 * width, 0);
            assert_eq!(first(&tensor, 0, &bytes), None, "{dtype}");
            bytes[quants + 3 * width - 2..][..2].copy_from_slice(&inf);
            for start in [0, quants - 32, quants, quants + width] {
                let found = first(&tensor, start as u64, &bytes[start..]);
                let wanted = Some((2 * dtype.group(), f32::INFINITY));
                assert_eq!(found, wanted, "{dtype} from {start}");
            }
        }
    }
}
