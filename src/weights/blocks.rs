//! Rows of a weight in a block format (see [`crate::dtype`]).
//!
//! In: a resolved recipe and a rectangle of it whose sides lie on tiles. Out: the integers and what their groups
//! share, in the order of [`tiles`]. A row that is a copy of a tensor's row, whose blocks are groups of the wanted
//! format, keeps its integers and scales; every other row is decoded to f32 and quantised here, and the error of that
//! is measured.

use std::ops::Range;

use half::f16;
use serde::{Deserialize, Serialize};

use super::quants::{self, Group};
use super::recipe::ResolvedRecipe;
use super::types::SourceType;
use crate::dtype::{DType, tiles};

/// What quantising changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Rounding {
    /// The squares of the values that changed, summed.
    pub squares: f64,
    /// The squares of their changes, summed.
    pub errors: f64,
}

impl Rounding {
    pub fn add(&mut self, other: Rounding) {
        self.squares += other.squares;
        self.errors += other.errors;
    }

    /// The root of the mean squared change, relative to that of the values; 0 if nothing changed.
    pub fn relative(self) -> f32 {
        if self.errors > 0.0 {
            (self.errors / self.squares).sqrt() as f32
        } else {
            0.0
        }
    }
}

/// Quantised rows, or the place in them of a value that is not finite.
pub(super) struct Quantised {
    /// The integers of all rows.
    pub quants: Vec<u8>,
    /// What the groups share, of all rows.
    pub shared: Vec<u8>,
    /// What changed.
    pub rounding: Rounding,
    /// Values beyond what a scale in f16 reaches.
    pub overflowed: u64,
}

/// The rectangle `rows` x `cols` of a weight with rows of `k` elements, of which several may make a row of `recipe`; the
/// error is the recipe's row and column of a value that is not finite.
pub(super) fn make(
    recipe: &ResolvedRecipe<'_>,
    dtype: DType,
    k: u64,
    rows: Range<u64>,
    cols: Range<u64>,
) -> Result<Quantised, (u64, u64)> {
    let (in_group, share) = sizes(dtype);
    let width = (cols.end - cols.start) as usize;
    let groups = width / dtype.group() as usize;
    let height = (rows.end - rows.start) as usize;
    let shape = [height as u64, width as u64];
    let in_row = recipe.cols() / k;
    let mut out = Quantised {
        quants: vec![0; height * groups * in_group],
        shared: vec![0; height * groups * share],
        rounding: Rounding::default(),
        overflowed: 0,
    };
    let mut values = vec![0.0; width];
    let lines = out
        .quants
        .chunks_exact_mut(groups * in_group)
        .zip(out.shared.chunks_exact_mut(groups * share));
    for (row, (quants, shared)) in rows.zip(lines) {
        let (row, before) = (row / in_row, row % in_row * k);
        let cols = before + cols.start..before + cols.end;
        let kept = recipe.origin(row).and_then(|(tensor, at)| {
            let start = at * recipe.cols();
            let bytes = tensor.part(start + cols.start..start + cols.end);
            let done = match dtype {
                DType::Int8 => quants::to_int8(tensor.dtype, bytes, pairs(dtype, quants, shared)),
                DType::Int4 => quants::to_int4(tensor.dtype, bytes, pairs(dtype, quants, shared)),
                // No type of a checkpoint has groups of these sizes.
                _ => false,
            };
            done.then_some(tensor.dtype)
        });
        // Products of K scales can leave the range of f16, and a damaged block can have any scale.
        let kept = kept.filter(|_| finite(shared));
        if kept.is_some_and(|source| source != SourceType::Q4K) {
            continue;
        }
        recipe.fill(row..row + 1, cols.clone(), &mut values);
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err((row, cols.start + at as u64));
        }
        let pairs = pairs(dtype, quants, shared);
        for (values, group) in values.chunks_exact(dtype.group() as usize).zip(pairs) {
            if kept.is_none() {
                out.overflowed += quantise(dtype, values, &mut *group.quants, &mut *group.shared);
            }
            measure(dtype, values, group.quants, group.shared, &mut out.rounding);
        }
    }
    out.quants = tiles::tile_groups(dtype, &shape, &out.quants, in_group);
    out.shared = tiles::tile_groups(dtype, &shape, &out.shared, share);
    Ok(out)
}

/// Bytes of a group's integers, and of what it shares.
fn sizes(dtype: DType) -> (usize, usize) {
    (dtype.quant_bytes() as usize, dtype.shared_bytes() as usize)
}

/// Writes the integers of a group and what it shares; returns how many values are out of reach.
fn quantise(dtype: DType, values: &[f32], q: &mut [u8], shared: &mut [u8]) -> u64 {
    match dtype.narrow() {
        DType::Int8 => to_int8(values, q, shared),
        _ => to_int4(values, q, shared),
    }
}

/// The groups of one row.
fn pairs<'g>(
    dtype: DType,
    quants: &'g mut [u8],
    shared: &'g mut [u8],
) -> impl Iterator<Item = Group<'g>> {
    let (in_group, share) = sizes(dtype);
    let shared = shared.chunks_exact_mut(share);
    let groups = quants.chunks_exact_mut(in_group).zip(shared);
    groups.map(|(quants, shared)| Group { quants, shared })
}

fn half_at(bytes: &[u8], at: usize) -> f32 {
    match bytes.get(at..at + 2) {
        Some(&[low, high]) => f16::from_le_bytes([low, high]).to_f32(),
        _ => 0.0,
    }
}

fn finite(halves: &[u8]) -> bool {
    let (halves, _) = halves.as_chunks::<2>();
    halves
        .iter()
        .all(|bytes| f16::from_le_bytes(*bytes).is_finite())
}

fn measure(dtype: DType, values: &[f32], q: &[u8], shared: &[u8], rounding: &mut Rounding) {
    let scale = half_at(shared, 0);
    for (at, value) in values.iter().enumerate() {
        let got = match dtype.narrow() {
            DType::Int8 => scale * f32::from(q[at] as i8),
            _ => scale * f32::from(q[at / 2] >> (at % 2 * 4) & 15) + half_at(shared, 2),
        };
        let (value, got) = (f64::from(*value), f64::from(got));
        rounding.squares += value * value;
        rounding.errors += (got - value) * (got - value);
    }
}

/// The nearest f16 that is finite.
fn near(value: f32) -> f16 {
    f16::from_f32(value.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()))
}

/// The largest magnitude becomes 127. The scale is rounded to f16 first and that one used, so that its rounding is
/// not an error of its own. Returns how many values are out of reach.
fn to_int8(values: &[f32], q: &mut [u8], shared: &mut [u8]) -> u64 {
    let largest = values
        .iter()
        .fold(0f32, |most, value| most.max(value.abs()));
    let scale = near(largest / 127.0);
    shared.copy_from_slice(&scale.to_le_bytes());
    let scale = scale.to_f32();
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    for (q, value) in q.iter_mut().zip(values) {
        *q = (value * inverse).round().clamp(-127.0, 127.0) as i8 as u8;
    }
    let reach = f16::MAX.to_f32() * 127.5;
    values.iter().filter(|value| value.abs() > reach).count() as u64
}

/// Numbers of levels that are laid over the range from the smallest to the largest value: the sixteen that there are,
/// and a few less and more, which leaves out or reaches beyond the ends.
const LEVELS: [f32; 5] = [14.0, 14.5, 15.0, 15.5, 16.0];

/// Scale and minimum with a small squared error. Every number of [`LEVELS`] gives integers, and linear regression the
/// scale and minimum that fit those best; the best of them competes with the plain range, both rounded to f16. Returns
/// how many values are out of reach.
fn to_int4(values: &[f32], q: &mut [u8], shared: &mut [u8]) -> u64 {
    let low = values.iter().copied().fold(f32::INFINITY, f32::min);
    let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let range = high - low;
    let mut best = Fit::of(values, range / 15.0, low);
    let lines = LEVELS
        .iter()
        .filter_map(|levels| regression(values, levels / range, low));
    if let Some(line) = lines.min_by(|a, b| a.residual.total_cmp(&b.residual)) {
        let fit = Fit::of(values, line.scale, line.min);
        if fit.error < best.error {
            best = fit;
        }
    }
    quants::put_shared(shared, best.scale, best.min);
    quants::pack_nibbles(values.iter().map(|value| best.level(*value)), q);
    let reach = f16::MAX.to_f32();
    values.iter().filter(|value| value.abs() > reach).count() as u64
}

/// A scale and a minimum for a group, and the squared error with them.
struct Fit {
    scale: f16,
    min: f16,
    inverse: f32,
    error: f32,
}

impl Fit {
    fn of(values: &[f32], scale: f32, min: f32) -> Self {
        let (scale, min) = (near(scale), near(min));
        let (s, m) = (scale.to_f32(), min.to_f32());
        let mut fit = Self {
            scale,
            min,
            inverse: if s > 0.0 { 1.0 / s } else { 0.0 },
            error: 0.0,
        };
        for value in values {
            let off = s * f32::from(fit.level(*value)) + m - value;
            fit.error += off * off;
        }
        fit
    }

    fn level(&self, value: f32) -> u8 {
        ((value - self.min.to_f32()) * self.inverse + 0.5).clamp(0.0, 15.0) as u8
    }
}

/// A scale and a minimum for integers that are given, and the squared error that is left.
struct Line {
    scale: f32,
    min: f32,
    residual: f32,
}

/// The line that fits the integers `(value - low) * inverse` best.
fn regression(values: &[f32], inverse: f32, low: f32) -> Option<Line> {
    if !inverse.is_finite() {
        return None;
    }
    let (mut q1, mut q2, mut x1, mut x2, mut qx) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for value in values {
        // Relative to the smallest value, so that a large common part costs no precision.
        let value = value - low;
        let level = f32::from((value * inverse + 0.5).min(15.0) as u8);
        q1 += level;
        q2 += level * level;
        x1 += value;
        x2 += value * value;
        qx += level * value;
    }
    let count = values.len() as f32;
    let determinant = count * q2 - q1 * q1;
    let scale = (count * qx - q1 * x1) / determinant;
    let min = (q2 * x1 - q1 * qx) / determinant;
    let line = Line {
        scale,
        min: min + low,
        residual: x2 - scale * qx - min * x1,
    };
    (determinant > 0.0 && scale > 0.0 && line.min.is_finite()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of a bell, from a generator without state.
    fn bell(count: u64) -> Vec<f32> {
        let uniform = |at: u64| {
            let mut z = at.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z >> 40) as f32 / (1u64 << 24) as f32
        };
        let sum = |at: u64| (0..12).map(|term| uniform(at * 12 + term)).sum::<f32>() - 6.0;
        (0..count).map(|at| sum(at) * 0.02).collect()
    }

    /// The relative error of these values, and the integers of the last group.
    fn quantised(dtype: DType, values: &[f32]) -> (f32, Vec<u8>) {
        let mut rounding = Rounding::default();
        let (in_group, share) = sizes(dtype);
        let (mut q, mut shared) = (vec![0; in_group], vec![0; share]);
        for values in values.chunks_exact(dtype.group() as usize) {
            assert_eq!(quantise(dtype, values, &mut q, &mut shared), 0);
            assert!(finite(&shared));
            measure(dtype, values, &q, &shared, &mut rounding);
        }
        (rounding.relative(), q)
    }

    fn rms(dtype: DType, values: &[f32]) -> f32 {
        quantised(dtype, values).0
    }

    #[test]
    fn errors_are_as_small_as_the_formats_allow() {
        let values = bell(128 * 200);
        // A uniform error within one step of largest / 127 has a deviation of step / sqrt(12); the largest of 32 is
        // about 2.1 deviations, of 64 about 2.4.
        let int8 = rms(DType::Int8, &values);
        assert!((0.0040..0.0055).contains(&int8), "{int8}");
        let int8g64 = rms(DType::Int8g64, &values);
        assert!((0.0048..0.0062).contains(&int8g64), "{int8g64}");
        // Steps of range / 15, about 4.1 deviations: 0.079 without the search. Of 128 about 5.2: 0.1 without it.
        let int4 = rms(DType::Int4, &values);
        assert!((0.060..0.0765).contains(&int4), "{int4}");
        let int4g128 = rms(DType::Int4g128, &values);
        assert!((0.080..0.0975).contains(&int4g128), "{int4g128}");
    }

    #[test]
    fn plain_levels_come_back_exactly() {
        for dtype in DType::block_formats() {
            let numbers = 0..dtype.group();
            let levels: Vec<f32> = match dtype.narrow() {
                DType::Int8 => numbers
                    .map(|at| (at as f32 * 4.0 - 127.0).clamp(-127.0, 127.0))
                    .collect(),
                _ => numbers.map(|at| 0.25 * (at % 16) as f32 - 1.5).collect(),
            };
            assert_eq!(rms(dtype, &levels), 0.0, "{dtype}");
            for same in [0.0, 0.5, -3.0] {
                let error = rms(dtype, &vec![same; dtype.group() as usize]);
                let most = if dtype.narrow() == DType::Int8 {
                    1e-3
                } else {
                    0.0
                };
                assert!(error <= most, "{dtype}: {error}");
            }
        }
    }

    #[test]
    fn nothing_becomes_infinite() {
        for dtype in DType::block_formats() {
            let mut values = vec![0.0; dtype.group() as usize];
            (values[0], values[1]) = (3e38, -3e38);
            let (in_group, share) = sizes(dtype);
            let (mut q, mut shared) = (vec![0; in_group], vec![0; share]);
            assert_eq!(quantise(dtype, &values, &mut q, &mut shared), 2, "{dtype}");
            assert!(finite(&shared), "{dtype}");
        }
        // Below the smallest f16: everything is zero.
        let (_, q) = quantised(DType::Int8, &[1e-12; 32]);
        assert_eq!(q, [0; 32]);
    }
}
