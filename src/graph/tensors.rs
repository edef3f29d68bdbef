//! Which tensors of a checkpoint a graph can read, so that those it leaves can be told.

use std::collections::BTreeSet;

use super::flat::FlatKind;
use super::{Recipe, Request, expand, pattern};
use crate::expr::Expr;
use crate::text::Loaded;
use crate::text::ast::Item;

/// The tensors that the weights of a graph may be made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tensors {
    /// The graph's name.
    pub graph: String,
    /// Their names, all alternatives of a weight among them.
    pub names: BTreeSet<String>,
    /// Patterns of names that the graph leaves out on purpose.
    pub ignored: Vec<String>,
    /// What counts the graph's layers, as the file has it.
    pub count: Option<String>,
    /// Whether `--set` gives that number: then layers that are left out are meant.
    pub counted_by_hand: bool,
}

impl Tensors {
    /// Those of the entries in `requests` and of all entries that the file names: what an entry leaves out because of
    /// its shape is still a part of the model.
    pub fn of(loaded: &Loaded, requests: &[Request]) -> Self {
        let mut tensors = Self::asked(loaded, requests);
        let named = requests.first().map(|request| Request {
            entry: None,
            dims: Default::default(),
            ..request.clone()
        });
        named.iter().for_each(|named| tensors.add(loaded, named));
        tensors
    }

    /// Those of the entries in `requests` alone.
    pub fn asked(loaded: &Loaded, requests: &[Request]) -> Self {
        let graph = &loaded.graph;
        let mut tensors = Self {
            graph: graph.name.value.clone(),
            ignored: graph
                .ignores
                .iter()
                .map(|name| name.value.clone())
                .collect(),
            ..Self::default()
        };
        let repeats = graph.body.iter().filter_map(|item| match item {
            Item::Repeat(repeat) => Some(&repeat.count.value),
            _ => None,
        });
        for count in repeats {
            let names = Expr::parse(count).ok();
            let names = names.as_ref().map(Expr::names).unwrap_or_default();
            let set = |request: &Request| names.iter().any(|name| request.set.contains_key(*name));
            tensors.counted_by_hand |= requests.iter().any(set);
            tensors.count.get_or_insert_with(|| count.clone());
        }
        for request in requests {
            tensors.add(loaded, request);
        }
        tensors
    }

    fn add(&mut self, loaded: &Loaded, request: &Request) {
        for shape in request.shapes(loaded) {
            // An entry of the file may not fit this model; nobody asked for it.
            let Ok(flat) = expand(loaded, &shape) else {
                continue;
            };
            for value in flat.values.iter() {
                if let FlatKind::Weight(_, recipe) = &value.kind {
                    add(recipe, &mut self.names);
                }
            }
        }
    }

    /// Whether the graph leaves a tensor out on purpose.
    pub fn ignores(&self, name: &str) -> bool {
        let mut patterns = self.ignored.iter();
        patterns.any(|pattern| pattern::matches(pattern, name))
    }
}

/// All tensors of a recipe. Recipes of graph files are not deep.
fn add(recipe: &Recipe, names: &mut BTreeSet<String>) {
    match recipe {
        Recipe::Tensor(name) => {
            names.insert(name.clone());
        }
        Recipe::AnyOf(parts)
        | Recipe::Concat(parts)
        | Recipe::Interleave(parts)
        | Recipe::Sum(parts) => parts.iter().for_each(|part| add(part, names)),
        Recipe::Slice { of, .. }
        | Recipe::PairHalves { of, .. }
        | Recipe::Plus { of, .. }
        | Recipe::Transpose(of) => add(of, names),
    }
}
