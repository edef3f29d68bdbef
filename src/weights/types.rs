//! The element types of checkpoints.
//!
//! A type is known by its blocks: so many elements in so many bytes. Plain types have blocks of one element. Which
//! blocks can be decoded is said by [`SourceType::block`]; how is in [`super::quants`].

use std::fmt;

use ::safetensors::Dtype;

/// The element type of a tensor in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// Blocks of 32 with a scale: 4 bits, offset by 8.
    Q4_0,
    /// Blocks of 32 with a scale and a minimum: 4 bits.
    Q4_1,
    /// Blocks of 32 with a scale: 5 bits, offset by 16.
    Q5_0,
    /// Blocks of 32 with a scale and a minimum: 5 bits.
    Q5_1,
    /// Blocks of 32 with a scale: 8 bits, signed.
    Q8_0,
    /// Blocks of 256: eight groups of 4 bits, scales and minimums of 6 bits.
    Q4K,
    /// Blocks of 256: eight groups of 5 bits, scales and minimums of 6 bits.
    Q5K,
    /// Blocks of 256: sixteen groups of 6 bits, scales of 8 bits.
    Q6K,
    /// Another type of safetensors: listed, but no recipe can read it.
    Other(Dtype),
    /// Another type of GGUF: listed, but no recipe can read it.
    Foreign(&'static str),
}

/// The types that recipes read, for messages.
pub(super) const READABLE: &str =
    "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K and Q6_K";

/// Elements and bytes of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// Elements; at least 1.
    pub elements: u64,
    /// Bytes.
    pub bytes: u64,
}

/// GGUF's number, our type, elements and bytes of a block. From the format's description; numbers that are missing
/// were withdrawn from it.
const GGUF: &[(u32, SourceType, u64, u64)] = &[
    (0, SourceType::F32, 1, 4),
    (1, SourceType::F16, 1, 2),
    (2, SourceType::Q4_0, 32, 18),
    (3, SourceType::Q4_1, 32, 20),
    (6, SourceType::Q5_0, 32, 22),
    (7, SourceType::Q5_1, 32, 24),
    (8, SourceType::Q8_0, 32, 34),
    (9, SourceType::Foreign("Q8_1"), 32, 40),
    (10, SourceType::Foreign("Q2_K"), 256, 84),
    (11, SourceType::Foreign("Q3_K"), 256, 110),
    (12, SourceType::Q4K, 256, 144),
    (13, SourceType::Q5K, 256, 176),
    (14, SourceType::Q6K, 256, 210),
    (15, SourceType::Foreign("Q8_K"), 256, 292),
    (16, SourceType::Foreign("IQ2_XXS"), 256, 66),
    (17, SourceType::Foreign("IQ2_XS"), 256, 74),
    (18, SourceType::Foreign("IQ3_XXS"), 256, 98),
    (19, SourceType::Foreign("IQ1_S"), 256, 50),
    (20, SourceType::Foreign("IQ4_NL"), 32, 18),
    (21, SourceType::Foreign("IQ3_S"), 256, 110),
    (22, SourceType::Foreign("IQ2_S"), 256, 82),
    (23, SourceType::Foreign("IQ4_XS"), 256, 136),
    (24, SourceType::Foreign("I8"), 1, 1),
    (25, SourceType::Foreign("I16"), 1, 2),
    (26, SourceType::Foreign("I32"), 1, 4),
    (27, SourceType::Foreign("I64"), 1, 8),
    (28, SourceType::Foreign("F64"), 1, 8),
    (29, SourceType::Foreign("IQ1_M"), 256, 56),
    (30, SourceType::Bf16, 1, 2),
    (34, SourceType::Foreign("TQ1_0"), 256, 54),
    (35, SourceType::Foreign("TQ2_0"), 256, 66),
    (39, SourceType::Foreign("MXFP4"), 32, 17),
    (40, SourceType::Foreign("NVFP4"), 64, 36),
    (41, SourceType::Foreign("Q1_0"), 128, 18),
];

impl SourceType {
    /// The type with that number in GGUF, and its blocks; those of types that no recipe reads included.
    pub(super) fn of_gguf(number: u32) -> Option<(Self, Block)> {
        GGUF.iter()
            .find(|(known, ..)| *known == number)
            .map(|&(_, dtype, elements, bytes)| (dtype, Block { elements, bytes }))
    }

    /// Its blocks, for the types that a recipe can read.
    pub(super) fn block(self) -> Option<Block> {
        if matches!(self, SourceType::Other(_) | SourceType::Foreign(_)) {
            return None;
        }
        GGUF.iter()
            .find(|(_, dtype, ..)| *dtype == self)
            .map(|&(_, _, elements, bytes)| Block { elements, bytes })
    }

    /// Whether a recipe can read it.
    pub fn readable(self) -> bool {
        self.block().is_some()
    }
}

impl From<Dtype> for SourceType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => SourceType::F32,
            Dtype::F16 => SourceType::F16,
            Dtype::BF16 => SourceType::Bf16,
            other => SourceType::Other(other),
        }
    }
}

impl fmt::Display for SourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SourceType::F32 => f.write_str("F32"),
            SourceType::F16 => f.write_str("F16"),
            SourceType::Bf16 => f.write_str("BF16"),
            SourceType::Q4_0 => f.write_str("Q4_0"),
            SourceType::Q4_1 => f.write_str("Q4_1"),
            SourceType::Q5_0 => f.write_str("Q5_0"),
            SourceType::Q5_1 => f.write_str("Q5_1"),
            SourceType::Q8_0 => f.write_str("Q8_0"),
            SourceType::Q4K => f.write_str("Q4_K"),
            SourceType::Q5K => f.write_str("Q5_K"),
            SourceType::Q6K => f.write_str("Q6_K"),
            SourceType::Other(dtype) => write!(f, "{dtype}"),
            SourceType::Foreign(name) => f.write_str(name),
        }
    }
}
