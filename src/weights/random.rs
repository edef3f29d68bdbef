//! Made-up weights, for runs that need shapes and no model: benchmarks, tests.
//!
//! The same seed, tensor and element give the same number everywhere: the generator has no state, so any part of
//! any tensor can be made alone, in parallel, and the layout of the plan plays no role.

use rayon::prelude::*;

use super::recipe::leaves;
use super::{WeightError, convert};
use crate::dtype::DType;
use crate::plan;

/// Elements that one task makes.
const BLOCK: usize = 1 << 16;
/// The standard deviation that BERT-like models are initialised with.
const DEVIATION: f32 = 0.02;

/// Weights that look like those of a fresh model: N(0, 0.02), and ones for the scale of a norm.
#[derive(Clone, Copy, Debug)]
pub struct RandomWeights {
    seed: u64,
}

impl RandomWeights {
    /// Weights for a seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Writes the bytes of `weight` from its byte `start` on over all of `out`; both lie on element boundaries.
    pub fn write(
        &self,
        weight: &plan::Weight,
        start: u64,
        out: &mut [u8],
    ) -> Result<(), WeightError> {
        let size = weight.dtype.bytes();
        let fault = |reason: String| WeightError::Plan {
            weight: weight.name.clone(),
            reason,
        };
        if weight.dtype.is_block() {
            let elements = weight.shape.iter().product();
            fill_blocks(weight.dtype, elements, self.key(&weight.name), start, out);
            return Ok(());
        }
        if !convert::can_narrow(weight.dtype) {
            return Err(fault(format!(
                "its type is {}; weights are f32, f16 or bf16",
                weight.dtype
            )));
        }
        if !start.is_multiple_of(size) || !(out.len() as u64).is_multiple_of(size) {
            return Err(fault(format!(
                "bytes {start}..+{} cut an element",
                out.len()
            )));
        }
        if is_norm_scale(weight) {
            fill_constant(1.0, weight.dtype, out);
            return Ok(());
        }
        let key = self.key(&weight.name);
        let first = start / size;
        out.par_chunks_mut(BLOCK * size as usize)
            .enumerate()
            .for_each(|(block, out)| {
                let first = first + (block * BLOCK) as u64;
                let mut values = [0.0; 256];
                for (piece, out) in out.chunks_mut(256 * size as usize).enumerate() {
                    let values = &mut values[..out.len() / size as usize];
                    for (index, value) in values.iter_mut().enumerate() {
                        *value = normal(key, first + (piece * 256 + index) as u64) * DEVIATION;
                    }
                    convert::narrow(values, weight.dtype, out);
                }
            });
        Ok(())
    }

    fn key(&self, name: &str) -> u64 {
        let hash = blake3::Hasher::new()
            .update(&self.seed.to_le_bytes())
            .update(name.as_bytes())
            .finalize();
        hash.as_bytes()
            .first_chunk()
            .map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}

/// The bytes from `start` on of a tensor in a block format: any integers, and scales around the one that gives them
/// the deviation of other weights.
fn fill_blocks(dtype: DType, elements: u64, key: u64, start: u64, out: &mut [u8]) {
    let quants = elements / dtype.group() * dtype.quant_bytes();
    out.par_chunks_mut(BLOCK)
        .enumerate()
        .for_each(|(block, out)| {
            let mut at = start + (block * BLOCK) as u64;
            let mut rest = out;
            while !rest.is_empty() {
                let word = if at < quants {
                    bits(key, at / 8).to_le_bytes()
                } else {
                    shared_word(dtype, bits(key, at / 8))
                };
                let skip = (at % 8) as usize;
                let now = rest.len().min(8 - skip);
                let (piece, after) = rest.split_at_mut(now);
                piece.copy_from_slice(&word[skip..skip + now]);
                (rest, at) = (after, at + now as u64);
            }
        });
}

/// Eight bytes of what groups share: four scales, or two pairs of scale and minimum.
fn shared_word(dtype: DType, bits: u64) -> [u8; 8] {
    let mut word = [0; 8];
    // Integers spread evenly over 256 values deviate by 73.9, over 16 values by 4.61.
    let (step, groups) = match dtype.narrow() {
        DType::Int8 => (DEVIATION / 73.9, 4),
        _ => (DEVIATION / 4.61, 2),
    };
    let size = 8 / groups;
    for (group, out) in word.chunks_exact_mut(size).enumerate() {
        let part = (bits >> (16 * group) & 0xffff) as f32 / 65535.0;
        let scale = step * (0.75 + 0.5 * part);
        convert::narrow(&[scale, -7.5 * scale][..size / 2], DType::F16, out);
    }
    word
}

/// Whether it is the factor of a norm, which is 1 in a fresh model: a list of numbers whose tensor is called
/// `..norm..`, and not `..bias` or `..beta`.
fn is_norm_scale(weight: &plan::Weight) -> bool {
    let mut names = vec![weight.name.as_str()];
    leaves(&weight.recipe, 0, &mut names);
    let is_scale = |name: &&str| {
        let name = name.to_ascii_lowercase();
        name.contains("norm") && !name.ends_with("bias") && !name.ends_with("beta")
    };
    weight.shape.len() == 1 && names.last().is_some_and(is_scale)
}

fn fill_constant(value: f32, dtype: DType, out: &mut [u8]) {
    let size = dtype.bytes() as usize;
    let mut one = [0; 4];
    convert::narrow(&[value], dtype, &mut one[..size]);
    out.chunks_exact_mut(size)
        .for_each(|out| out.copy_from_slice(&one[..size]));
}

/// The `index`-th output of SplitMix64 (Steele, Lea, Flood 2014).
fn bits(key: u64, index: u64) -> u64 {
    let mut bits = key.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// The `index`-th number of a stream of about N(0, 1): a sum of four 16-bit uniforms (Irwin-Hall, within 3.5
/// deviations) from one random word.
fn normal(key: u64, index: u64) -> f32 {
    let bits = bits(key, index);
    let sum = (bits & 0xffff) + ((bits >> 16) & 0xffff) + ((bits >> 32) & 0xffff) + (bits >> 48);
    // Mean 2 x 65535, variance 4 x (65536^2 - 1) / 12.
    (sum as f32 - 131_070.0) / 37_837.23
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::graph::Recipe;
    use crate::ids::ArenaId;

    fn weight(name: &str, dtype: DType, shape: &[u64]) -> plan::Weight {
        plan::Weight {
            name: name.into(),
            dtype,
            shape: shape.to_vec(),
            recipe: Recipe::Tensor(name.into()),
            arena: ArenaId(0),
            offset: 0,
        }
    }

    fn floats(bytes: &[u8]) -> Vec<f32> {
        bytes
            .chunks(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
            .collect()
    }

    #[test]
    fn numbers_look_normal() {
        let w = weight("w", DType::F32, &[1000, 300]);
        let mut bytes = vec![0; 1_200_000];
        RandomWeights::new(1).write(&w, 0, &mut bytes).unwrap();
        let values = floats(&bytes);
        let n = values.len() as f64;
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let deviation = (values
            .iter()
            .map(|v| (f64::from(*v) - mean).powi(2))
            .sum::<f64>()
            / n)
            .sqrt();
        // 300,000 samples: the mean is within 5 standard errors of 0, which are 0.02 / sqrt(n) each.
        assert!(mean.abs() < 5.0 * 0.02 / n.sqrt(), "{mean}");
        assert!((deviation - 0.02).abs() < 0.0002, "{deviation}");
        let neighbours = values
            .windows(2)
            .map(|w| f64::from(w[0]) * f64::from(w[1]))
            .sum::<f64>()
            / n;
        assert!(
            neighbours.abs() < 5.0 * 0.02 * 0.02 / n.sqrt(),
            "{neighbours}"
        );
    }

    #[test]
    fn a_part_is_the_same_as_in_the_whole() {
        let w = weight("w", DType::F16, &[200_000]);
        let mut whole = vec![0; 400_000];
        RandomWeights::new(7).write(&w, 0, &mut whole).unwrap();
        let mut part = vec![0; 150_002];
        RandomWeights::new(7).write(&w, 131_100, &mut part).unwrap();
        assert_eq!(part, whole[131_100..131_100 + 150_002]);
        RandomWeights::new(8).write(&w, 131_100, &mut part).unwrap();
        assert_ne!(part, whole[131_100..131_100 + 150_002]);
        assert!(RandomWeights::new(7).write(&w, 1, &mut part).is_err());
    }

    #[test]
    fn block_formats_look_normal_and_come_in_parts() {
        for dtype in DType::block_formats() {
            let w = weight("w", dtype, &[300, 1024]);
            let mut whole = vec![0; dtype.size_of(&w.shape).unwrap() as usize];
            RandomWeights::new(1).write(&w, 0, &mut whole).unwrap();
            let values = crate::formula::decode(dtype, &whole).unwrap();
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
            // The mean of -128..=127 is -0.5, 0.007 deviations.
            assert!(
                mean.abs() < (5.0 / n.sqrt() + 0.01) * 0.02,
                "{dtype}: {mean}"
            );
            // Scales of 0.75 to 1.25 times the middle widen it by 1%.
            assert!((deviation - 0.0202).abs() < 0.0003, "{dtype}: {deviation}");
            for start in [1, 4095, whole.len() - 77] {
                let mut part = vec![0; (whole.len() - start).min(100_003)];
                RandomWeights::new(1)
                    .write(&w, start as u64, &mut part)
                    .unwrap();
                assert_eq!(part, whole[start..start + part.len()]);
            }
        }
    }

    #[test]
    fn norm_scales_are_ones() {
        let mut bytes = vec![0; 12];
        let random = RandomWeights::new(1);
        random
            .write(
                &weight("encoder.LayerNorm.weight", DType::F32, &[3]),
                0,
                &mut bytes,
            )
            .unwrap();
        assert_eq!(floats(&bytes), [1.0; 3]);
        random
            .write(
                &weight("encoder.LayerNorm.bias", DType::F32, &[3]),
                0,
                &mut bytes,
            )
            .unwrap();
        assert!(floats(&bytes).iter().all(|value| value.abs() < 0.1));
    }
}
