//! One weight, whatever entry reads it. Entries are expanded apart, so what is switched on in one may give a weight
//! another path there, or give its path to another weight. Afterwards equal recipes of equal type and shape have one
//! name in all entries, and different ones have different names.

use std::collections::{BTreeMap, BTreeSet};

use super::{Fused, Graph};

/// Gives every weight of `entries` the name it has in the first entry that reads it.
pub fn share_weights(entries: &mut [Fused]) {
    share(entries.iter_mut().map(|entry| &mut entry.graph));
}

fn share<'g>(graphs: impl Iterator<Item = &'g mut Graph>) {
    // What a weight is made of, spelled out: recipes have no order.
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for graph in graphs {
        for value in graph.values.iter_mut().filter(|value| value.view.is_none()) {
            let Some(recipe) = &value.recipe else {
                continue;
            };
            let key = format!("{} {:?} {recipe:?}", value.dtype, value.shape);
            let name = names
                .entry(key)
                .or_insert_with(|| free(&value.name, &mut taken));
            value.name.clone_from(name);
        }
    }
}

/// `name`, or `name_2`, `name_3`, .. if another weight has it.
fn free(name: &str, taken: &mut BTreeSet<String>) -> String {
    let numbered = (2u32..).map(|number| format!("{name}_{number}"));
    let free = std::iter::once(name.to_string())
        .chain(numbered)
        .find(|name| !taken.contains(name))
        .unwrap_or_default();
    taken.insert(free.clone());
    free
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::graph::{Class, Origin, Recipe, ValueInfo};
    use crate::ids::IdVec;
    use crate::span::{FileId, Span};

    fn graph(weights: &[(&str, &str, DType)]) -> Graph {
        let span = Span {
            file: FileId(0),
            start: 0,
            end: 0,
        };
        let value = |(name, tensor, dtype): &(&str, &str, DType)| ValueInfo {
            name: (*name).into(),
            class: Class::Weight,
            dtype: *dtype,
            shape: vec![4, 32],
            view: None,
            recipe: Some(Recipe::Tensor((*tensor).into())),
            origin: Origin { span, via: vec![] },
        };
        Graph {
            name: String::new(),
            entry: String::new(),
            env: BTreeMap::new(),
            values: weights.iter().map(value).collect(),
            passes: IdVec::new(),
            repeat: 1,
            guard: None,
            inputs: vec![],
            outputs: vec![],
        }
    }

    #[test]
    fn one_recipe_one_name_two_recipes_two_names() {
        let mut graphs = [
            graph(&[("embed", "emb", DType::F16), ("w", "a", DType::F16)]),
            graph(&[
                ("head", "emb", DType::F16),
                ("w", "b", DType::F16),
                ("w8", "a", DType::Int8),
            ]),
        ];
        share(graphs.iter_mut());
        let names = |graph: &Graph| -> Vec<String> {
            graph
                .values
                .iter()
                .map(|value| value.name.clone())
                .collect()
        };
        assert_eq!(names(&graphs[0]), ["embed", "w"]);
        assert_eq!(names(&graphs[1]), ["embed", "w_2", "w8"]);
    }
}
