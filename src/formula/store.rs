//! Between stored elements and the f64 that formulas count in.

use std::slice::ChunksExact;

use half::f16;

use crate::dtype::DType;

/// The elements of a tensor as f64; every storage type converts exactly. `None` if the bytes are not a whole
/// number of elements, or of groups.
pub fn decode(dtype: DType, bytes: &[u8]) -> Option<Vec<f64>> {
    fn each<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f64) -> Option<Vec<f64>> {
        let (elements, rest) = bytes.as_chunks::<N>();
        rest.is_empty()
            .then(|| elements.iter().map(|element| value(*element)).collect())
    }
    match dtype {
        DType::F32 => each(bytes, |b| f32::from_le_bytes(b).into()),
        DType::F16 => each(bytes, |b| f16::from_le_bytes(b).to_f64()),
        DType::Bf16 => each(bytes, |b| half::bf16::from_le_bytes(b).to_f64()),
        DType::I32 => each(bytes, |b| i32::from_le_bytes(b).into()),
        DType::U32 => each(bytes, |b| u32::from_le_bytes(b).into()),
        DType::I8 => each(bytes, |b| i8::from_le_bytes(b).into()),
        DType::U8 => each(bytes, |b: [u8; 1]| b[0].into()),
        DType::Int8 | DType::Int8g64 => decode_int8(dtype, bytes),
        DType::Int4 | DType::Int4g128 => decode_int4(dtype, bytes),
    }
}

/// The integers of each group of a tensor, and what all groups share.
fn groups(dtype: DType, bytes: &[u8]) -> Option<(ChunksExact<'_, u8>, &[u8])> {
    let (size, quants) = (dtype.group_bytes() as usize, dtype.quant_bytes() as usize);
    let count = bytes.len() / size;
    let (first, shared) = bytes.split_at_checked(count * quants)?;
    let whole = bytes.len().is_multiple_of(size);
    whole.then_some((first.chunks_exact(quants), shared))
}

fn decode_int8(dtype: DType, bytes: &[u8]) -> Option<Vec<f64>> {
    let (groups, scales) = groups(dtype, bytes)?;
    let pairs = groups.zip(scales.as_chunks::<2>().0);
    let values = pairs.flat_map(|(quants, scale)| {
        let scale = f16::from_le_bytes(*scale).to_f64();
        quants
            .iter()
            .map(move |quant| scale * f64::from(*quant as i8))
    });
    Some(values.collect())
}

fn decode_int4(dtype: DType, bytes: &[u8]) -> Option<Vec<f64>> {
    let (groups, shared) = groups(dtype, bytes)?;
    let values = groups
        .zip(shared.as_chunks::<4>().0)
        .flat_map(|(quants, [s0, s1, m0, m1])| {
            let scale = f16::from_le_bytes([*s0, *s1]).to_f64();
            let min = f16::from_le_bytes([*m0, *m1]).to_f64();
            let pairs = quants.iter().flat_map(|pair| [pair & 15, pair >> 4]);
            pairs.map(move |quant| scale * f64::from(quant) + min)
        });
    Some(values.collect())
}

/// Stores values with the rounding of the storage type: to nearest for floats, truncated and clamped for integers.
/// A block format takes the smallest scale that reaches every value of a group; a last group that is not whole is
/// filled up with zeros.
pub fn encode(dtype: DType, values: &[f64]) -> Vec<u8> {
    fn each<const N: usize>(values: &[f64], bytes: impl Fn(f64) -> [u8; N]) -> Vec<u8> {
        values.iter().flat_map(|value| bytes(*value)).collect()
    }
    match dtype {
        DType::F32 => each(values, |v| (v as f32).to_le_bytes()),
        DType::F16 => each(values, |v| f16::from_f64(v).to_le_bytes()),
        DType::Bf16 => each(values, |v| half::bf16::from_f64(v).to_le_bytes()),
        DType::I32 => each(values, |v| (v as i32).to_le_bytes()),
        DType::U32 => each(values, |v| (v as u32).to_le_bytes()),
        DType::I8 => each(values, |v| (v as i8).to_le_bytes()),
        DType::U8 => each(values, |v| (v as u8).to_le_bytes()),
        DType::Int8 | DType::Int8g64 => encode_int8(dtype, values),
        DType::Int4 | DType::Int4g128 => encode_int4(dtype, values),
    }
}

fn encode_int8(dtype: DType, values: &[f64]) -> Vec<u8> {
    let size = dtype.group() as usize;
    let (mut quants, mut scales) = (Vec::with_capacity(values.len()), Vec::new());
    for group in values.chunks(size) {
        let largest = group
            .iter()
            .fold(0.0, |max: f64, value| max.max(value.abs()));
        let scale = f16::from_f64(largest / 127.0);
        let by = reciprocal(scale);
        quants.extend(group.iter().map(|value| (value * by).round() as i8 as u8));
        scales.extend(scale.to_le_bytes());
    }
    quants.resize(quants.len().next_multiple_of(size), 0);
    quants.extend(scales);
    quants
}

fn encode_int4(dtype: DType, values: &[f64]) -> Vec<u8> {
    let size = dtype.group() as usize;
    let (mut quants, mut shared) = (Vec::with_capacity(values.len() / 2), Vec::new());
    let mut whole = vec![0.0; size];
    for group in values.chunks(size) {
        whole.fill(0.0);
        whole[..group.len()].copy_from_slice(group);
        let low = whole
            .iter()
            .fold(f64::INFINITY, |min, value| min.min(*value));
        let high = whole
            .iter()
            .fold(f64::NEG_INFINITY, |max, value| max.max(*value));
        let (scale, min) = (f16::from_f64((high - low) / 15.0), f16::from_f64(low));
        let by = reciprocal(scale);
        let quant = |value: f64| ((value - min.to_f64()) * by).round().clamp(0.0, 15.0) as u8;
        quants.extend(
            whole
                .as_chunks::<2>()
                .0
                .iter()
                .map(|[a, b]| quant(*a) | quant(*b) << 4),
        );
        shared.extend([scale.to_le_bytes(), min.to_le_bytes()].concat());
    }
    quants.extend(shared);
    quants
}

fn reciprocal(scale: f16) -> f64 {
    if scale == f16::ZERO {
        0.0
    } else {
        1.0 / scale.to_f64()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Two groups each, written out: quants of the whole tensor, then what the groups share.
    #[test]
    fn block_formats_are_laid_out_as_they_say() {
        let f16s = |values: &[f64]| encode(DType::F16, values);
        let mut int8 = vec![0_u8; 64];
        (int8[0], int8[31], int8[32], int8[63]) = (1, 0x80, 0xff, 127);
        int8.extend(f16s(&[0.5, 2.0]));
        let values = decode(DType::Int8, &int8).unwrap();
        assert_eq!(
            (values[0], values[31], values[32], values[63]),
            (0.5, -64.0, -2.0, 254.0)
        );
        assert_eq!(values.len(), 64);
        let mut int4 = vec![0_u8; 32];
        (int4[0], int4[16], int4[31]) = (0x21, 0x0f, 0xf0);
        int4.extend(f16s(&[0.5, -1.0, 2.0, 3.0]));
        let values = decode(DType::Int4, &int4).unwrap();
        assert_eq!(values[..3], [-0.5, 0.0, -1.0]);
        assert_eq!(
            (values[32], values[33], values[62], values[63]),
            (33.0, 3.0, 3.0, 33.0)
        );
        // One scale for all of them, and one pair for four times 32.
        let mut wide = int8[..64].to_vec();
        wide.extend(f16s(&[0.5]));
        let values = decode(DType::Int8g64, &wide).unwrap();
        assert_eq!((values[0], values[32], values[63]), (0.5, -0.5, 63.5));
        let mut wide = int4[..32].repeat(2);
        wide.extend(f16s(&[0.5, -1.0]));
        let values = decode(DType::Int4g128, &wide).unwrap();
        assert_eq!(
            (values[0], values[32], values[65], values[127]),
            (-0.5, 6.5, 0.0, 6.5)
        );
        assert_eq!(decode(DType::Int8, &int8[1..]), None);
        assert_eq!(decode(DType::Int4, &int4[1..]), None);
    }

    #[test]
    fn encoding_is_as_close_as_the_format_allows() {
        let values: Vec<f64> = (0..384)
            .map(|i| f64::from(i * 37 % 101) / 50.0 - 1.0)
            .collect();
        for dtype in DType::block_formats() {
            let step = match dtype.narrow() {
                DType::Int8 => 1.0 / 127.0,
                _ => 2.0 / 15.0,
            };
            let bytes = encode(dtype, &values);
            assert_eq!(Some(bytes.len() as u64), dtype.size_of(&[3, 128]));
            let back = decode(dtype, &bytes).unwrap();
            for (value, back) in values.iter().zip(&back) {
                // Half a step, and the rounding of scale and minimum to f16 over 127 or 15 steps.
                assert!(
                    (value - back).abs() <= 0.5 * step + 2e-3,
                    "{dtype}: {value} became {back}"
                );
            }
        }
    }
}
