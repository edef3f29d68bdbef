//! Element types.
//!
//! Most types store one element after another. The two *block formats*, [`DType::Int8`] and [`DType::Int4`], are for
//! weights, int8 also for caches of keys and values: groups of [`GROUP`] neighbours of the last dimension share a factor,
//! so such a tensor has bytes as a whole and its elements have none of their own. All small integers of the tensor come
//! first, then what the groups share:
//!
//! | format | an element is | bytes of `[rows, k]` |
//! |---|---|---|
//! | `int8` | `scale * q`, q in -128..=127 | `rows * k` of q, then `rows * k / 32` scales, f16 |
//! | `int4` | `scale * q + min`, q in 0..=15 | `rows * k / 2` of q, element 2i in the low half of byte i, then `rows * k / 32` pairs (scale, min), f16 |
//!
//! Caches have their groups row after row, weights in the order of [`tiles`].

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub mod tiles;

/// Neighbouring elements of a block format that share a scale.
pub const GROUP: u64 = 32;

/// The type of a tensor's elements. Names are the ones that graph files use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum DType {
    F32,
    F16,
    Bf16,
    I32,
    U32,
    I8,
    U8,
    Int8,
    Int4,
}

impl DType {
    /// Every type, in the order in which help texts list them.
    pub const ALL: [DType; 9] = [
        DType::F32,
        DType::F16,
        DType::Bf16,
        DType::I32,
        DType::U32,
        DType::I8,
        DType::U8,
        DType::Int8,
        DType::Int4,
    ];

    /// Whether groups of elements share a scale; see the module.
    pub fn is_block(self) -> bool {
        matches!(self, DType::Int8 | DType::Int4)
    }

    /// Bytes of a tensor, or `None` past 2^64 or if a block format meets rows that are no whole number of groups.
    pub fn size_of(self, shape: &[u64]) -> Option<u64> {
        let elements = || {
            shape
                .iter()
                .try_fold(1, |all: u64, size| all.checked_mul(*size))
        };
        if !self.is_block() {
            return shape
                .iter()
                .try_fold(self.bytes(), |all, size| all.checked_mul(*size));
        }
        let row = shape.last()?;
        row.is_multiple_of(GROUP).then_some(())?;
        (elements()? / GROUP).checked_mul(self.group_bytes())
    }

    /// Bytes that one more group adds to a tensor.
    pub fn group_bytes(self) -> u64 {
        match self {
            DType::Int8 => GROUP + 2,
            DType::Int4 => GROUP / 2 + 4,
            plain => GROUP * plain.bytes(),
        }
    }

    /// Bytes of one element. Those of a block format are counted in single bytes: [`Self::size_of`] knows how many.
    pub fn bytes(self) -> u64 {
        match self {
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::F16 | DType::Bf16 => 2,
            DType::I8 | DType::U8 | DType::Int8 | DType::Int4 => 1,
        }
    }

    /// The name in graph files.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
            DType::I32 => "i32",
            DType::U32 => "u32",
            DType::I8 => "i8",
            DType::U8 => "u8",
            DType::Int8 => "int8",
            DType::Int4 => "int4",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        DType::ALL
            .into_iter()
            .find(|dtype| dtype.name() == text)
            .ok_or_else(|| format!("unknown dtype `{text}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_formats_count_groups() {
        // 3 * 64 elements are 6 groups: 192 bytes and 6 f16; 96 bytes and 6 pairs.
        assert_eq!(DType::Int8.size_of(&[3, 64]), Some(192 + 12));
        assert_eq!(DType::Int4.size_of(&[3, 64]), Some(96 + 24));
        assert_eq!(DType::F16.size_of(&[3, 33]), Some(198));
        assert_eq!(DType::Int8.size_of(&[64, 33]), None);
        assert_eq!(DType::Int8.size_of(&[]), None);
        for dtype in DType::ALL {
            assert_eq!(dtype.size_of(&[1 << 40, 1 << 20, 32]), None, "{dtype}");
            assert_eq!(dtype.name().parse(), Ok(dtype));
        }
    }
}
