//! The types between stages. Each wraps a [`Graph`] and can only be made by its stage, so leaving a stage out does not
//! compile.

use std::collections::{BTreeMap, BTreeSet};

use super::Graph;
use crate::diag::Diagnostic;
use crate::dtype::DType;
use crate::ids::ValueId;
use crate::text::ast::Name;

/// A graph whose values have types and shapes. Made by [`super::infer()`].
#[derive(Clone, Debug)]
pub struct Typed {
    pub(super) graph: Graph,
    /// Element type aliases, for passes that fusion makes.
    pub(super) dtypes: BTreeMap<String, DType>,
    /// What the file calls each output, and where.
    pub(super) output_names: Vec<Name>,
    /// Inputs and weights that no item of their body takes, whatever is switched on.
    pub(super) unnamed: BTreeSet<ValueId>,
}

/// A graph that makes sense: no dead passes or weights, outputs and carries in order. Made by [`super::check()`].
#[derive(Clone, Debug)]
pub struct Checked {
    pub(super) graph: Graph,
    pub(super) dtypes: BTreeMap<String, DType>,
    pub(super) warnings: Vec<Diagnostic>,
}

/// A graph with the fusion rules applied. Made by [`super::fuse()`].
#[derive(Clone, Debug)]
pub struct Fused {
    pub(super) graph: Graph,
    pub(super) fired: Vec<Fired>,
    pub(super) warnings: Vec<Diagnostic>,
}

/// One application of a fusion rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fired {
    /// The rule.
    pub rule: String,
    /// The pass that took over.
    pub path: String,
    /// The passes it replaced.
    pub replaced: Vec<String>,
}

impl Typed {
    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }
    /// The graph as text (`--emit typed`).
    pub fn dump(&self) -> String {
        self.graph.dump("typed")
    }
}

impl Checked {
    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }
    /// What is odd but not wrong: unused inputs and weights, passes without effect.
    pub fn warnings(&self) -> &[Diagnostic] {
        &self.warnings
    }
    /// The graph as text.
    pub fn dump(&self) -> String {
        self.graph.dump("checked")
    }
}

impl Fused {
    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }
    /// The graph itself.
    pub fn into_graph(self) -> Graph {
        self.graph
    }
    /// Which rules fired where, in order.
    pub fn fired(&self) -> &[Fired] {
        &self.fired
    }
    /// What `check` found odd.
    pub fn warnings(&self) -> &[Diagnostic] {
        &self.warnings
    }
    /// The rules that fired and the graph they left, as text (`--emit fused`).
    pub fn dump(&self) -> String {
        let mut out = String::new();
        for fired in &self.fired {
            out += &format!(
                "{}: {} took over {}\n",
                fired.rule,
                fired.path,
                fired.replaced.join(", ")
            );
        }
        out + &self.graph.dump("fused")
    }
}
