//! Every recipe against a second, plainer implementation on random tensors: whole matrices in memory, one index
//! formula per step, no blocks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod model_files;

use std::collections::BTreeMap;

use arbtest::arbitrary::{Result, Unstructured};
use graphc::dtype::DType;
use graphc::graph::Recipe;
use graphc::weights::{CachePlace, Checkpoint, PackOptions, PackedWeights, ResolvedRecipe};
use model_files::*;

#[derive(Clone, Debug)]
struct Matrix {
    rows: u64,
    cols: u64,
    values: Vec<f32>,
}

impl Matrix {
    fn make(rows: u64, cols: u64, at: impl Fn(u64, u64) -> f32) -> Self {
        let values = (0..rows * cols)
            .map(|index| at(index / cols, index % cols))
            .collect();
        Self { rows, cols, values }
    }
    fn at(&self, row: u64, col: u64) -> f32 {
        self.values[(row * self.cols + col) as usize]
    }
}

/// What a recipe means, straight from the words in `text::ast::Recipe`.
fn naive(recipe: &Recipe, tensors: &BTreeMap<String, Matrix>) -> Matrix {
    let all = |parts: &[Recipe]| -> Vec<Matrix> {
        parts.iter().map(|part| naive(part, tensors)).collect()
    };
    match recipe {
        Recipe::Tensor(name) => tensors[name].clone(),
        Recipe::AnyOf(parts) => {
            let has = |part: &&Recipe| !matches!(part, Recipe::Tensor(name) if !tensors.contains_key(name));
            naive(parts.iter().find(has).unwrap(), tensors)
        }
        Recipe::Concat(parts) => {
            let parts = all(parts);
            let values = parts.iter().flat_map(|part| part.values.clone()).collect();
            Matrix {
                rows: parts.iter().map(|part| part.rows).sum(),
                cols: parts[0].cols,
                values,
            }
        }
        Recipe::Interleave(parts) => {
            let parts = all(parts);
            let n = parts.len() as u64;
            Matrix::make(parts[0].rows * n, parts[0].cols, |r, c| {
                parts[(r % n) as usize].at(r / n, c)
            })
        }
        Recipe::Slice { of, start, count } => {
            let of = naive(of, tensors);
            Matrix::make(*count, of.cols, |r, c| of.at(r + start, c))
        }
        Recipe::Transpose(of) => {
            let of = naive(of, tensors);
            Matrix::make(of.cols, of.rows, |r, c| of.at(c, r))
        }
        Recipe::PairHalves { of, group } => {
            let of = naive(of, tensors);
            let mut values = Vec::new();
            for first in (0..of.rows).step_by(*group as usize) {
                for i in 0..group / 2 {
                    for row in [first + i, first + i + group / 2] {
                        values.extend((0..of.cols).map(|c| of.at(row, c)));
                    }
                }
            }
            Matrix { values, ..of }
        }
        Recipe::Plus { of, bits } => {
            let of = naive(of, tensors);
            Matrix::make(of.rows, of.cols, |r, c| {
                of.at(r, c) + f64::from_bits(*bits) as f32
            })
        }
        Recipe::Sum(parts) => {
            let parts = all(parts);
            let rows = parts.iter().map(|part| part.rows).max().unwrap();
            Matrix::make(rows, parts[0].cols, |r, c| {
                parts.iter().fold(0.0, |sum, part| {
                    sum + part.at(if part.rows == 1 { 0 } else { r }, c)
                })
            })
        }
    }
}

/// A random recipe that makes `rows` x `cols`, and the tensors it needs.
fn recipe(
    u: &mut Unstructured<'_>,
    rows: u64,
    cols: u64,
    depth: u32,
    tensors: &mut BTreeMap<String, Matrix>,
) -> Result<Recipe> {
    let kind = if depth == 0 {
        0
    } else {
        u.int_in_range(0..=9)?
    };
    let mut inner =
        |rows, cols, u: &mut Unstructured<'_>| recipe(u, rows, cols, depth - 1, tensors);
    Ok(match kind {
        1 => Recipe::AnyOf(vec![tensor("absent"), inner(rows, cols, u)?]),
        2 if rows > 1 => {
            let first = u.int_in_range(1..=rows - 1)?;
            Recipe::Concat(vec![inner(first, cols, u)?, inner(rows - first, cols, u)?])
        }
        3 if rows.is_multiple_of(2) => {
            Recipe::Interleave(vec![inner(rows / 2, cols, u)?, inner(rows / 2, cols, u)?])
        }
        4 if rows.is_multiple_of(3) => {
            let part = rows / 3;
            Recipe::Interleave(vec![
                inner(part, cols, u)?,
                inner(part, cols, u)?,
                inner(part, cols, u)?,
            ])
        }
        5 => {
            let (start, after) = (u.int_in_range(0..=3)?, u.int_in_range(0..=3)?);
            Recipe::Slice {
                of: Box::new(inner(rows + start + after, cols, u)?),
                start,
                count: rows,
            }
        }
        9 => Recipe::Plus {
            of: Box::new(inner(rows, cols, u)?),
            bits: 0.5_f64.to_bits(),
        },
        6 => Recipe::Transpose(Box::new(inner(cols, rows, u)?)),
        7 if rows.is_multiple_of(2) => {
            let group = if rows.is_multiple_of(4) { 4 } else { 2 };
            Recipe::PairHalves {
                of: Box::new(inner(rows, cols, u)?),
                group,
            }
        }
        8 => {
            let one = if u.arbitrary()? { 1 } else { rows };
            Recipe::Sum(vec![inner(rows, cols, u)?, inner(one, cols, u)?])
        }
        _ => {
            let name = format!("t{}", tensors.len());
            // Small whole numbers: sums are exact in any order and in every type.
            let values = (0..rows * cols).map(|_| Ok(f32::from(u.arbitrary::<i8>()?) / 4.0));
            let values = values.collect::<Result<_>>()?;
            tensors.insert(name.clone(), Matrix { rows, cols, values });
            tensor(&name)
        }
    })
}

/// The tensors as a file, in the types F32, F16 and BF16 by turns. Multiples of 1/4 up to 32 are exact in all.
fn checkpoint(tensors: &BTreeMap<String, Matrix>) -> (tempfile::TempDir, Checkpoint) {
    let shapes: Vec<[u64; 2]> = tensors
        .values()
        .map(|matrix| [matrix.rows, matrix.cols])
        .collect();
    let mut listed = Vec::new();
    for (number, (name, matrix)) in tensors.iter().enumerate() {
        let values = matrix.values.iter();
        let (dtype, bytes) = match number % 3 {
            0 => ("F32", f32_bytes(&matrix.values)),
            1 => (
                "F16",
                values
                    .flat_map(|value| half::f16::from_f32(*value).to_le_bytes())
                    .collect(),
            ),
            _ => (
                "BF16",
                values
                    .flat_map(|value| half::bf16::from_f32(*value).to_le_bytes())
                    .collect(),
            ),
        };
        listed.push((name.as_str(), dtype, &shapes[number][..], bytes));
    }
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "model.safetensors", safetensors(&listed));
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    (folder, checkpoint)
}

#[test]
fn recipes_mean_what_they_say() {
    arbtest::arbtest(|u| {
        let (rows, cols) = (u.int_in_range(1..=12)?, u.int_in_range(1..=7)?);
        let mut tensors = BTreeMap::new();
        let recipe = recipe(u, rows, cols, 4, &mut tensors)?;
        let wanted = naive(&recipe, &tensors);
        let (_folder, checkpoint) = checkpoint(&tensors);
        let resolved = ResolvedRecipe::new(&recipe, &[rows, cols], "w", &checkpoint)
            .unwrap_or_else(|error| panic!("{recipe:?}: {error}"));
        let mut whole = vec![f32::NAN; (rows * cols) as usize];
        resolved.fill(0..rows, 0..cols, &mut whole);
        assert_eq!(whole, wanted.values, "{recipe:?}");
        // Any rectangle is the same part of the whole.
        let (top, left) = (u.int_in_range(0..=rows - 1)?, u.int_in_range(0..=cols - 1)?);
        let (bottom, right) = (
            u.int_in_range(top + 1..=rows)?,
            u.int_in_range(left + 1..=cols)?,
        );
        let mut part = vec![f32::NAN; ((bottom - top) * (right - left)) as usize];
        resolved.fill(top..bottom, left..right, &mut part);
        let inside = Matrix::make(bottom - top, right - left, |r, c| {
            wanted.at(r + top, c + left)
        });
        assert_eq!(
            part, inside.values,
            "{recipe:?} {top}..{bottom} x {left}..{right}"
        );
        Ok(())
    })
    .budget_ms(3_000);
}

/// Weights larger than one block, higher and wider than it, packed in parallel.
#[test]
fn blocks_join_without_a_seam() {
    let (rows, cols) = (3, 300_000);
    let wide = Matrix::make(rows, cols, |r, c| ((r * 7 + c) % 251) as f32);
    let tall = Matrix::make(cols, rows, |r, c| ((r * 5 + c) % 241) as f32);
    let tensors = BTreeMap::from([("tall".to_string(), tall), ("wide".to_string(), wide)]);
    let turned = |name: &str| Recipe::Transpose(Box::new(tensor(name)));
    let paired = Recipe::PairHalves {
        of: Box::new(tensor("tall")),
        group: 100,
    };
    let weights = vec![
        weight("wide", DType::F32, &[rows, cols], tensor("wide")),
        weight("turned", DType::F32, &[rows, cols], turned("tall")),
        weight("tall", DType::F16, &[cols, rows], paired),
        weight("turned_wide", DType::F32, &[cols, rows], turned("wide")),
    ];
    let (_folder, checkpoint) = checkpoint(&tensors);
    let options = PackOptions {
        place: CachePlace::Memory,
        strict: true,
    };
    let plan = plan(weights);
    let packed = PackedWeights::open_or_pack(&plan, &checkpoint, &options, &mut |_, _| {}).unwrap();
    for (index, weight) in plan.weights.iter().enumerate() {
        let wanted = naive(&weight.recipe, &tensors).values;
        let bytes = packed.bytes(index);
        let got: Vec<f32> = match weight.dtype {
            DType::F16 => bytes
                .chunks(2)
                .map(|b| half::f16::from_le_bytes(b.try_into().unwrap()).to_f32())
                .collect(),
            _ => bytes
                .chunks(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                .collect(),
        };
        assert!(got == wanted, "{}", weight.name);
    }
}
