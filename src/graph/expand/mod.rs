//! Stage 2: syntax to a flat list of passes for one entry. Params and dims become numbers, blocks are inlined with
//! their own scopes, repeats are unrolled, templates filled, conditions decided.
//!
//! A name may be bound again; every binding is a value of its own (single assignment), and a read sees the newest
//! one before it. A name that has no binding yet stands for the first later one of the same body, so passes may
//! be written in any order; what waits for itself is a cycle, reported with every pass on it.

mod body;
mod eval;
mod params;
mod recipe;
mod requires;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub(super) use body::expanded_from;

use super::Recipe;
use super::flat::Flat;
use super::order;
use crate::diag::Diagnostics;
use crate::dtype::DType;
use crate::expr::Value;
use crate::text::Loaded;

/// What a compilation asks of a graph.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The model's metadata: by the keys under `from`, or by the name of a param. Keys that the graph does not ask
    /// for are ignored.
    pub params: BTreeMap<String, Value>,
    /// The file that `params` are from, for messages.
    pub file: Option<String>,
    /// Params set by hand, by name; they win over metadata. A name that the graph does not have is an error.
    pub set: BTreeMap<String, Value>,
    /// An entry that the graph file names.
    pub entry: Option<String>,
    /// Variable dims of the entry.
    pub dims: BTreeMap<String, i64>,
    /// What the aliases `act` and `weight` stand for, those of the two that the graph has (`--dtype`).
    pub dtype: Option<DType>,
    /// Replacements of element type aliases, which must be there (`--weights`); they win over `dtype`.
    pub dtypes: BTreeMap<String, DType>,
    /// Gives each weight of the alias `weight` a type of its own (`--weights native`).
    pub native: Option<NativeTypes>,
}

/// Finds the element type in which a weight keeps what the checkpoint's tensors have; `None` if it does not know
/// better than the alias.
#[derive(Clone)]
pub struct NativeTypes(Arc<FindType>);

type FindType = dyn Fn(&Recipe) -> Option<DType> + Send + Sync;

impl NativeTypes {
    /// The types that `find` gives.
    pub fn new(find: impl Fn(&Recipe) -> Option<DType> + Send + Sync + 'static) -> Self {
        Self(Arc::new(find))
    }

    /// The type of the weight that `recipe` makes.
    pub fn of(&self, recipe: &Recipe) -> Option<DType> {
        (self.0)(recipe)
    }
}

impl fmt::Debug for NativeTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NativeTypes")
    }
}

impl Request {
    /// The shapes that this request stands for: itself, or, if it gives no shape, one request for each entry that the
    /// graph file names.
    pub fn shapes(&self, loaded: &Loaded) -> Vec<Request> {
        let open = self.entry.is_none() && self.dims.is_empty();
        if !open || loaded.graph.entries.is_empty() {
            return vec![self.clone()];
        }
        let named = loaded.graph.entries.iter().map(|(name, _)| Request {
            entry: Some(name.value.clone()),
            ..self.clone()
        });
        named.collect()
    }
}

/// Expands `loaded` for the entry and model of `request`.
pub fn expand(loaded: &Loaded, request: &Request) -> Result<Flat, Diagnostics> {
    let (env, arithmetic) = params::environment(&loaded.graph, request)?;
    let dtypes = params::dtypes(&loaded.graph, request)?;
    let repeat = params::repeat(&loaded.graph, &env)?;
    let guard = params::guard(&loaded.graph)?;
    let flat = Flat {
        name: loaded.graph.name.value.clone(),
        entry: params::entry_name(&loaded.graph, request, &env),
        env,
        arithmetic,
        dtypes,
        values: Default::default(),
        passes: Default::default(),
        repeat,
        guard,
        inputs: vec![],
        outputs: vec![],
    };
    order::order(body::unroll(loaded, request, flat)?)
}

#[cfg(test)]
mod tests;
