//! Element types.
//!
//! Most types store one element after another. The *block formats* are for weights, int8 also for caches of keys and
//! values: groups of [`DType::group`] neighbours of the last dimension share a factor, so such a tensor has bytes as a whole
//! and its elements have none of their own. All small integers of the tensor come first, then what the groups share:
//!
//! | format | an element is | group | bytes of `[rows, k]` |
//! |---|---|---|---|
//! | `int8` | `scale * q`, q in -128..=127 | 32 | `rows * k` of q, then `rows * k / 32` scales, f16: 8.5 bits an element |
//! | `int8g64` | the same | 64 | 8.25 bits an element |
//! | `int4` | `scale * q + min`, q in 0..=15 | 32 | `rows * k / 2` of q, element 2i in the low half of byte i, then `rows * k / 32` pairs (scale, min), f16: 5 bits an element |
//! | `int4g128` | the same | 128 | 4.25 bits an element |
//!
//! The wide groups are those that have 64 bytes of integers. Caches have their groups row after row, weights in the order
//! of [`tiles`].

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub mod tiles;

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
    Int8g64,
    Int4g128,
}

impl DType {
    /// Every type, in the order in which help texts list them.
    pub const ALL: [DType; 11] = [
        DType::F32,
        DType::F16,
        DType::Bf16,
        DType::I32,
        DType::U32,
        DType::I8,
        DType::U8,
        DType::Int8,
        DType::Int4,
        DType::Int8g64,
        DType::Int4g128,
    ];

    /// Those of them whose groups share a scale.
    pub fn block_formats() -> impl Iterator<Item = DType> {
        DType::ALL.into_iter().filter(|dtype| dtype.is_block())
    }

    /// Whether groups of elements share a scale; see the module.
    pub fn is_block(self) -> bool {
        self.group() > 1
    }

    /// Neighbouring elements that share a scale; 1 where none do.
    pub fn group(self) -> u64 {
        match self {
            DType::Int8 | DType::Int4 => 32,
            DType::Int8g64 => 64,
            DType::Int4g128 => 128,
            _ => 1,
        }
    }

    /// The type whose elements look the same and have the smallest groups; itself where there is one such type.
    pub fn narrow(self) -> Self {
        match self {
            DType::Int8g64 => DType::Int8,
            DType::Int4g128 => DType::Int4,
            same => same,
        }
    }

    /// The type with these elements whose groups are the largest, up to its own, that rows of `row` elements are made of.
    /// `None` if they are made of none.
    pub fn in_rows_of(self, row: u64) -> Option<Self> {
        [self, self.narrow()]
            .into_iter()
            .find(|dtype| row.is_multiple_of(dtype.group()))
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
        row.is_multiple_of(self.group()).then_some(())?;
        (elements()? / self.group()).checked_mul(self.group_bytes())
    }

    /// Bytes that one more group adds to a tensor.
    pub fn group_bytes(self) -> u64 {
        self.quant_bytes() + self.shared_bytes()
    }

    /// Bytes of the elements of a group, without what they share.
    pub fn quant_bytes(self) -> u64 {
        match self.narrow() {
            DType::Int4 => self.group() / 2,
            _ => self.group() * self.bytes(),
        }
    }

    /// Bits of an element, without what it shares.
    pub fn bits(self) -> u64 {
        8 * self.quant_bytes() / self.group()
    }

    /// Bytes of what a group shares.
    pub fn shared_bytes(self) -> u64 {
        match self.narrow() {
            DType::Int8 => 2,
            DType::Int4 => 4,
            _ => 0,
        }
    }

    /// Bytes of one element. Those of a block format are counted in single bytes: [`Self::size_of`] knows how many.
    pub fn bytes(self) -> u64 {
        match self {
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::F16 | DType::Bf16 => 2,
            DType::I8 | DType::U8 => 1,
            DType::Int8 | DType::Int4 | DType::Int8g64 | DType::Int4g128 => 1,
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
            DType::Int8g64 => "int8g64",
            DType::Int4g128 => "int4g128",
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
        // 3 groups of 64, and 6 of 128.
        assert_eq!(DType::Int8g64.size_of(&[3, 64]), Some(192 + 6));
        assert_eq!(DType::Int4g128.size_of(&[3, 256]), Some(384 + 24));
        assert_eq!(DType::Int4g128.size_of(&[3, 64]), None);
        let bits = [DType::Int4g128, DType::Int8g64, DType::Bf16, DType::F32].map(DType::bits);
        assert_eq!(bits, [4, 8, 16, 32]);
        assert_eq!(DType::F16.size_of(&[3, 33]), Some(198));
        assert_eq!(DType::Int8.size_of(&[64, 33]), None);
        assert_eq!(DType::Int8.size_of(&[]), None);
        for dtype in DType::ALL {
            assert_eq!(dtype.size_of(&[1 << 40, 1 << 20, 128]), None, "{dtype}");
            assert_eq!(dtype.name().parse(), Ok(dtype));
        }
    }

    #[test]
    fn rows_get_the_largest_groups_that_they_are_made_of() {
        let of = |dtype: DType, row| dtype.in_rows_of(row);
        assert_eq!(of(DType::Int4g128, 640), Some(DType::Int4g128));
        assert_eq!(of(DType::Int4g128, 576), Some(DType::Int4));
        assert_eq!(of(DType::Int8g64, 576), Some(DType::Int8g64));
        assert_eq!(of(DType::Int8g64, 96), Some(DType::Int8));
        assert_eq!(of(DType::Int8g64, 33), None);
        assert_eq!(of(DType::Int8, 128), Some(DType::Int8));
        assert_eq!(of(DType::F16, 33), Some(DType::F16));
    }
}
