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

use std::collections::BTreeMap;

pub(super) use body::expanded_from;

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
    /// Params set by hand, by name; they win over metadata. A name that the graph does not have is an error.
    pub set: BTreeMap<String, Value>,
    /// An entry that the graph file names.
    pub entry: Option<String>,
    /// Variable dims of the entry.
    pub dims: BTreeMap<String, i64>,
    /// Replacements of element type aliases (`--dtype`).
    pub dtypes: BTreeMap<String, DType>,
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
    let flat = Flat {
        name: loaded.graph.name.value.clone(),
        entry: params::entry_name(&loaded.graph, request, &env),
        env,
        arithmetic,
        dtypes,
        values: Default::default(),
        passes: Default::default(),
        repeat,
        inputs: vec![],
        outputs: vec![],
    };
    order::order(body::unroll(loaded, flat)?)
}

#[cfg(test)]
mod tests;
