//! How a [`Recipe`] travels in files: as a list in postfix order, so that no file can make a reader recurse.
//!
//! `Concat([Tensor("q"), Transpose(Tensor("k"))])` is `Tensor q, Tensor k, Transpose, Concat 2`.

use serde::{Deserialize, Serialize};

use super::Recipe;

/// Deeper than any recipe that a graph file can hold.
const MAX_DEPTH: usize = 64;

/// A recipe in postfix order.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Postfix(Vec<Op>);

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Op {
    Tensor(String),
    AnyOf(u32),
    Concat(u32),
    Interleave(u32),
    Sum(u32),
    Slice { start: u64, count: u64 },
    Transpose,
    PairHalves(u64),
    Plus(u64),
}

impl From<Recipe> for Postfix {
    fn from(recipe: Recipe) -> Self {
        let mut ops = Vec::new();
        flatten(recipe, &mut ops);
        Self(ops)
    }
}

fn flatten(recipe: Recipe, ops: &mut Vec<Op>) {
    let mut list = |items: Vec<Recipe>, op: fn(u32) -> Op| {
        let count = items.len() as u32;
        items.into_iter().for_each(|item| flatten(item, ops));
        ops.push(op(count));
    };
    match recipe {
        Recipe::Tensor(name) => ops.push(Op::Tensor(name)),
        Recipe::AnyOf(items) => list(items, Op::AnyOf),
        Recipe::Concat(items) => list(items, Op::Concat),
        Recipe::Interleave(items) => list(items, Op::Interleave),
        Recipe::Sum(items) => list(items, Op::Sum),
        Recipe::Slice { of, start, count } => {
            flatten(*of, ops);
            ops.push(Op::Slice { start, count });
        }
        Recipe::Transpose(of) => {
            flatten(*of, ops);
            ops.push(Op::Transpose);
        }
        Recipe::PairHalves { of, group } => {
            flatten(*of, ops);
            ops.push(Op::PairHalves(group));
        }
        Recipe::Plus { of, bits } => {
            flatten(*of, ops);
            ops.push(Op::Plus(bits));
        }
    }
}

impl TryFrom<Postfix> for Recipe {
    type Error = String;

    fn try_from(postfix: Postfix) -> Result<Self, String> {
        let mut stack: Vec<(Recipe, usize)> = Vec::new();
        for op in postfix.0 {
            let wanted = match &op {
                Op::Tensor(_) => 0,
                Op::AnyOf(count) | Op::Concat(count) | Op::Interleave(count) | Op::Sum(count) => {
                    *count as usize
                }
                Op::Slice { .. } | Op::Transpose | Op::PairHalves(_) | Op::Plus(_) => 1,
            };
            let first = stack
                .len()
                .checked_sub(wanted)
                .ok_or("a recipe lacks an argument")?;
            let parts = stack.split_off(first);
            let depth = parts.iter().map(|(_, depth)| depth + 1).max().unwrap_or(0);
            if depth > MAX_DEPTH {
                return Err(format!("a recipe nests deeper than {MAX_DEPTH}"));
            }
            let mut parts: Vec<Recipe> = parts.into_iter().map(|(recipe, _)| recipe).collect();
            let mut only = || {
                parts
                    .pop()
                    .map(Box::new)
                    .ok_or("a recipe lacks an argument")
            };
            let recipe = match op {
                Op::Tensor(name) => Recipe::Tensor(name),
                Op::AnyOf(_) => Recipe::AnyOf(parts),
                Op::Concat(_) => Recipe::Concat(parts),
                Op::Interleave(_) => Recipe::Interleave(parts),
                Op::Sum(_) => Recipe::Sum(parts),
                Op::Slice { start, count } => Recipe::Slice {
                    of: only()?,
                    start,
                    count,
                },
                Op::Transpose => Recipe::Transpose(only()?),
                Op::PairHalves(group) => Recipe::PairHalves { of: only()?, group },
                Op::Plus(bits) => Recipe::Plus { of: only()?, bits },
            };
            stack.push((recipe, depth));
        }
        match (stack.pop(), stack.is_empty()) {
            (Some((recipe, _)), true) => Ok(recipe),
            _ => Err("not exactly one recipe".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tensor(name: &str) -> Recipe {
        Recipe::Tensor(name.into())
    }

    #[test]
    fn every_kind_comes_back() {
        let recipe = Recipe::AnyOf(vec![
            Recipe::Concat(vec![tensor("q"), Recipe::Transpose(Box::new(tensor("k")))]),
            Recipe::Interleave(vec![
                Recipe::Slice {
                    of: Box::new(tensor("g")),
                    start: 1,
                    count: 2,
                },
                tensor("u"),
            ]),
            Recipe::Plus {
                of: Box::new(Recipe::Tensor("t".into())),
                bits: 1.0_f64.to_bits(),
            },
            Recipe::Sum(vec![Recipe::PairHalves {
                of: Box::new(tensor("r")),
                group: 64,
            }]),
        ]);
        let bytes = postcard::to_stdvec(&recipe).unwrap();
        assert_eq!(postcard::from_bytes::<Recipe>(&bytes).unwrap(), recipe);
    }

    #[test]
    fn a_recipe_of_a_million_levels_is_refused() {
        let mut ops = vec![Op::Tensor("w".into())];
        ops.resize_with(1_000_000, || Op::Transpose);
        let bytes = postcard::to_stdvec(&Postfix(ops)).unwrap();
        assert!(postcard::from_bytes::<Recipe>(&bytes).is_err());
    }

    #[test]
    fn missing_and_left_over_arguments_are_refused() {
        for ops in [
            vec![Op::Transpose],
            vec![Op::Tensor("a".into()), Op::Concat(2)],
            vec![],
            { vec![Op::Tensor("a".into()), Op::Tensor("b".into())] },
        ] {
            assert!(Recipe::try_from(Postfix(ops)).is_err());
        }
    }
}
