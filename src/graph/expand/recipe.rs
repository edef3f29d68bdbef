//! Packing recipes with templates and sizes resolved.

use super::eval::{self, Scope};
use crate::diag::Diagnostic;
use crate::graph::Recipe;
use crate::text::ast;

/// Resolves a recipe. Its nesting is bounded by the reader's limit on brackets.
pub(super) fn resolve(recipe: &ast::Recipe, env: &Scope) -> Result<Recipe, Box<Diagnostic>> {
    let all = |list: &[ast::Recipe]| {
        list.iter()
            .map(|recipe| resolve(recipe, env))
            .collect::<Result<Vec<_>, _>>()
    };
    let one = |recipe: &ast::Recipe| resolve(recipe, env).map(Box::new);
    Ok(match recipe {
        ast::Recipe::Tensor(name) => Recipe::Tensor(eval::template(name, env)?),
        ast::Recipe::AnyOf(list) => Recipe::AnyOf(all(list)?),
        ast::Recipe::Concat(list) => Recipe::Concat(all(list)?),
        ast::Recipe::Interleave(list) => Recipe::Interleave(all(list)?),
        ast::Recipe::Slice(of, start, count) => Recipe::Slice {
            of: one(of)?,
            start: eval::count(start, env)?,
            count: eval::size(count, env)?,
        },
        ast::Recipe::Transpose(of) => Recipe::Transpose(one(of)?),
        ast::Recipe::PairHalves(of, group) => Recipe::PairHalves {
            of: one(of)?,
            group: eval::size(group, env)?,
        },
        ast::Recipe::Sum(list) => Recipe::Sum(all(list)?),
        ast::Recipe::Plus(of, number) => Recipe::Plus {
            of: one(of)?,
            bits: eval::float(number, env)?.to_bits(),
        },
    })
}
