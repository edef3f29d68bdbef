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

/// The `index`-th number of a stream of about N(0, 1): a sum of four 16-bit uniforms (Irwin-Hall, within 3.5
/// deviations) from one output of SplitMix64 (Steele, Lea, Flood 2014) at that position.
fn normal(key: u64, index: u64) -> f32 {
    let mut bits = key.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^= bits >> 31;
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
