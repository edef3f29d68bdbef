//! Between element types, block by block: a checkpoint's bytes to f32, f32 to a plan's bytes.
//!
//! Widening is exact; quantised blocks are decoded by [`super::quants`]. Narrowing rounds to nearest, ties to even (IEEE 754), and counts what overflows.

use std::fmt;

use half::slice::HalfFloatSliceExt as _;
use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use super::quants;
use super::types::SourceType;
use crate::dtype::DType;

/// Values that lost their meaning on the way into the plan's element type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses {
    /// Finite in the checkpoint, but too large for the wanted type.
    pub overflowed: u64,
}

impl Losses {
    /// Whether nothing was lost.
    pub fn none(self) -> bool {
        self == Losses::default()
    }
    pub(super) fn add(&mut self, other: Losses) {
        self.overflowed += other.overflowed;
    }
}

impl fmt::Display for Losses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.overflowed {
            1 => f.write_str("1 value is")?,
            count => write!(f, "{count} values are")?,
        }
        f.write_str(" too large for the wanted type")
    }
}

/// Widens little-endian elements to f32. `bytes` has exactly `out.len()` elements; a type that recipes refuse
/// leaves `out` as it is.
pub(super) fn widen(dtype: SourceType, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        SourceType::F32 => {
            for (value, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*bytes);
            }
        }
        SourceType::F16 => {
            // In pieces on the stack, so that the conversion can use the processor's own instructions.
            let mut halves = [f16::ZERO; 256];
            for (out, bytes) in out.chunks_mut(256).zip(bytes.chunks(512)) {
                let halves = &mut halves[..out.len()];
                for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *half = f16::from_le_bytes(*bytes);
                }
                halves.convert_to_f32_slice(out);
            }
        }
        SourceType::Bf16 => {
            for (value, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *value = bf16::from_le_bytes(*bytes).to_f32();
            }
        }
        blocks => quants::decode(blocks, bytes, out),
    }
}

/// Whether [`narrow`] can produce this type.
pub(super) fn can_narrow(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::Bf16)
}

/// Writes `values`, which are finite, in the type `dtype` to `out`, little-endian, which has exactly the bytes for
/// that.
pub(super) fn narrow(values: &[f32], dtype: DType, out: &mut [u8]) -> Losses {
    let mut overflowed = 0;
    match dtype {
        DType::F16 => {
            let mut halves = [f16::ZERO; 256];
            for (values, out) in values.chunks(256).zip(out.chunks_mut(512)) {
                let halves = &mut halves[..values.len()];
                halves.convert_from_f32_slice(values);
                for (half, out) in halves.iter().zip(out.as_chunks_mut::<2>().0) {
                    *out = half.to_le_bytes();
                    overflowed += u64::from(!half.is_finite());
                }
            }
        }
        DType::Bf16 => {
            for (value, out) in values.iter().zip(out.as_chunks_mut::<2>().0) {
                let narrowed = bf16::from_f32(*value);
                *out = narrowed.to_le_bytes();
                overflowed += u64::from(!narrowed.is_finite());
            }
        }
        _ => {
            for (value, out) in values.iter().zip(out.as_chunks_mut::<4>().0) {
                *out = value.to_le_bytes();
            }
        }
    }
    Losses { overflowed }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// IEEE 754 by search: the representable value with the smallest distance, the even one of two.
    fn nearest_f16(value: f32) -> u16 {
        let sign = u16::from(value.is_sign_negative()) << 15;
        // 65520 is half-way between the largest f16 and the next power-of-two step, which is infinity's place.
        let magnitude = |bits: u16| {
            if bits == 0x7c00 {
                65536.0
            } else {
                f64::from(f16::from_bits(bits).to_f32())
            }
        };
        let wanted = f64::from(value.abs());
        let (mut low, mut high) = (0u16, 0x7c00u16);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if magnitude(middle) <= wanted {
                low = middle
            } else {
                high = middle
            }
        }
        let (below, above) = (wanted - magnitude(low), magnitude(high) - wanted);
        let bits = if below < above || (below == above && low % 2 == 0) {
            low
        } else {
            high
        };
        sign | bits
    }

    #[test]
    fn f16_rounds_to_nearest_even() {
        let mut values = vec![
            0.0, -0.0, 1.0, 65504.0, 65519.996, 65520.0, 65536.0, 1e-8, 2.98e-8, 2.99e-8, 6.1e-5,
        ];
        // Half-way points on both sides of an even and an odd neighbour, and a spread over all exponents.
        values.extend([1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, 2049.0, 2051.0]);
        values.extend(
            (0u32..2000).map(|step| f32::from_bits(step.wrapping_mul(0x9e37_79b9) & 0x7fff_ffff)),
        );
        values.retain(|value| value.is_finite());
        values.extend(values.clone().iter().map(|value| -value));
        let mut out = vec![0; values.len() * 2];
        let losses = narrow(&values, DType::F16, &mut out);
        for (value, bytes) in values.iter().zip(out.chunks(2)) {
            let got = u16::from_le_bytes(bytes.try_into().unwrap());
            assert_eq!(got, nearest_f16(*value), "{value:?}");
        }
        let expected = values.iter().filter(|value| value.abs() >= 65520.0).count() as u64;
        assert_eq!(
            losses,
            Losses {
                overflowed: expected
            }
        );
    }

    #[test]
    fn overflow_is_counted() {
        let values = [1.0, 65519.0, 1e30, -70000.0];
        let mut out = [0; 16];
        let overflowed = |dtype, out: &mut [u8]| narrow(&values, dtype, out).overflowed;
        assert_eq!(overflowed(DType::F32, &mut out), 0);
        assert_eq!(overflowed(DType::F16, &mut out[..8]), 2);
        assert_eq!(overflowed(DType::Bf16, &mut out[..8]), 0);
    }

    #[test]
    fn widening_is_exact_at_any_alignment() {
        let mut bytes = vec![0u8];
        let values: Vec<u16> = (0..=u16::MAX).collect();
        bytes.extend(values.iter().flat_map(|bits| bits.to_le_bytes()));
        let mut out = vec![0.0; values.len()];
        widen(SourceType::F16, &bytes[1..], &mut out);
        for (bits, value) in values.iter().zip(&out) {
            assert!(f16::from_bits(*bits).to_f32().to_bits() == value.to_bits() || value.is_nan());
        }
        widen(SourceType::Bf16, &bytes[1..], &mut out);
        for (bits, value) in values.iter().zip(&out) {
            assert!(u32::from(*bits) << 16 == value.to_bits() || value.is_nan());
        }
    }
}
