//! The typed graph: passes on values. Stages 2 to 5 work here: `expand` inlines blocks and repeats for one
//! entry, `infer` gives every value its type and shape from the kernels' interfaces, `check` proves that the
//! graph makes sense, `fuse` applies the rules of the fusion files.
//!
//! Always true of a [`Graph`] that left `check`: every value that is read is written by exactly one pass or is
//! an input, weight, state or carry; passes stand in an order in which definitions precede uses; the order of
//! passes that touch the same state is the order of the file.

mod check;
mod dump;
mod expand;
pub mod flat;
mod fuse;
mod infer;
mod order;
pub mod pattern;
mod recipe;
mod share;
mod split;
mod stages;
mod tensors;

use std::collections::BTreeMap;

use petgraph::graph::DiGraph;

use crate::dtype::DType;
use crate::expr::Value;
use crate::ids::{Id, IdVec, PassId, ValueId};
use crate::kernel::{Access, Binding, Given, Manifest};
use crate::span::Span;

pub use check::check;
pub use expand::{NativeTypes, Request, expand};
pub use flat::Flat;
pub use fuse::{FuseOptions, fuse};
pub use infer::infer;
pub use share::share_weights;
pub use split::split;
pub use stages::{Checked, Fired, Fused, Typed};
pub use tensors::Tensors;

/// Where a pass or value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The item itself.
    pub span: Span,
    /// The `Use` and `Repeat` items around it, innermost first, each with its index if it is a repeat
    /// (`("l", 3)`).
    pub via: Vec<(Span, Option<(String, i64)>)>,
}

/// How long a value lives and who writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Class {
    /// Written by the host before a submit.
    Input,
    /// Made from the checkpoint once.
    Weight,
    /// Survives submits, updated in place, zero before the first.
    State,
    /// Double-buffered over submits: read sides see the slot that was written in the submit before.
    Carry {
        /// The value of this submit that lands in the other slot.
        next: ValueId,
    },
    /// Bound to a `scratch` port: belongs to one pass, zero before the first submit and left zero by every submit.
    Scratch,
    /// Bound to a `scratch` port with `zero: false`: belongs to one pass while it runs, holds anything before.
    Workspace,
    /// Written by a pass, dead after its last reader.
    Transient,
    /// Written by a pass, read by the host after the submit.
    Output,
}

/// A packing recipe with all templates and sizes resolved.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(into = "recipe::Postfix", try_from = "recipe::Postfix")]
#[allow(missing_docs)]
pub enum Recipe {
    /// A tensor of the checkpoint.
    Tensor(String),
    AnyOf(Vec<Recipe>),
    Concat(Vec<Recipe>),
    Interleave(Vec<Recipe>),
    Slice {
        of: Box<Recipe>,
        start: u64,
        count: u64,
    },
    Transpose(Box<Recipe>),
    PairHalves {
        of: Box<Recipe>,
        group: u64,
    },
    Sum(Vec<Recipe>),
    /// A number added to every element. It is kept as the bits of an f64, so that recipes can be compared and hashed.
    Plus {
        of: Box<Recipe>,
        bits: u64,
    },
}

/// A value.
#[derive(Clone, Debug)]
pub struct ValueInfo {
    /// Its path, for example `l3/attn/qkv`.
    pub name: String,
    /// Who writes it and how long it lives.
    pub class: Class,
    /// Element type.
    pub dtype: DType,
    /// Sizes, outermost first.
    pub shape: Vec<u64>,
    /// If it is a view: the value it looks into (never itself a view) and the first byte there.
    pub view: Option<(ValueId, u64)>,
    /// If it is a weight: how it is made.
    pub recipe: Option<Recipe>,
    /// Where it is defined.
    pub origin: Origin,
}

impl ValueInfo {
    /// Bytes, or `None` past 2^64.
    pub fn bytes(&self) -> Option<u64> {
        self.dtype.size_of(&self.shape)
    }
}

/// One bound port of a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortUse {
    /// Index of the port in the kernel's manifest, which is its binding number.
    pub port: u32,
    /// The port's name.
    pub name: String,
    /// The value bound to it.
    pub value: ValueId,
    /// How the kernel touches it.
    pub access: Access,
    /// For a written port: the read port whose bytes it may take over, if its manifest allows that.
    pub in_place: Option<u32>,
}

/// One compute dispatch.
#[derive(Clone, Debug)]
pub struct Pass {
    /// Its path, for example `l3/attn/qkv`.
    pub path: String,
    /// The kernel's name.
    pub kernel: String,
    /// Bound ports in manifest order.
    pub ports: Vec<PortUse>,
    /// Dims, types and options.
    pub binding: Binding,
    /// Where it is written.
    pub origin: Origin,
    /// Paths of the passes that fusion folded into this one.
    pub fused: Vec<String>,
}

/// Why one pass must come after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// It reads what the other wrote.
    Data(ValueId),
    /// Both touch the same state and at least one writes it.
    Order(ValueId),
}

/// One entry of a graph: all sizes are numbers.
#[derive(Clone, Debug)]
pub struct Graph {
    /// The graph's name.
    pub name: String,
    /// The entry's name, for example `batch=32,seq=512`.
    pub entry: String,
    /// Resolved params and dims.
    pub env: BTreeMap<String, Value>,
    /// All values.
    pub values: IdVec<ValueId, ValueInfo>,
    /// All passes, definitions before uses.
    pub passes: IdVec<PassId, Pass>,
    /// How often one submit runs the passes.
    pub repeat: u32,
    /// The name of the state that guards a round: where its first u32 is 0 once the last pass that writes it has run,
    /// nobody needs what the passes behind it write, except outputs. Without effect where no pass writes it.
    pub guard: Option<String>,
    /// What the host writes, in file order.
    pub inputs: Vec<ValueId>,
    /// What the host reads, in file order.
    pub outputs: Vec<ValueId>,
}

impl Graph {
    /// The value that owns the bytes of `value`: itself unless it is a view.
    pub fn root(&self, value: ValueId) -> ValueId {
        self.values[value].view.map_or(value, |(root, _)| root)
    }

    /// What these values, one for each port of a kernel, give a pass to bind it by.
    fn given(&self, manifest: &Manifest, values: &[Option<ValueId>]) -> Vec<Given> {
        let ports = manifest.ports.iter().zip(values);
        ports
            .map(|(port, value)| match value {
                None => Given::Unbound,
                Some(_) if !port.access.reads() => Given::Written,
                Some(value) => {
                    let info = &self.values[*value];
                    Given::Read(info.dtype, info.shape.clone())
                }
            })
            .collect()
    }

    /// Who must come after whom: an edge from each pass to every pass that depends on it. Values are compared
    /// by root and, for state, by file order; byte-exact hazards are the business of [`crate::plan`].
    pub fn dependencies(&self) -> DiGraph<PassId, Edge> {
        let mut graph = DiGraph::with_capacity(self.passes.len(), self.passes.len() * 3);
        let nodes: Vec<_> = self.passes.ids().map(|pass| graph.add_node(pass)).collect();
        let mut writer: BTreeMap<ValueId, PassId> = BTreeMap::new();
        let mut readers: BTreeMap<ValueId, Vec<PassId>> = BTreeMap::new();
        for (pass, info) in self.passes.enumerate() {
            for port in &info.ports {
                let root = self.root(port.value);
                let kind = match self.values[root].class {
                    Class::State => Edge::Order(root),
                    _ => Edge::Data(root),
                };
                if let Some(from) = writer.get(&root).filter(|from| **from != pass) {
                    graph.update_edge(nodes[from.index()], nodes[pass.index()], kind);
                }
                if port.access.writes() {
                    for from in readers
                        .remove(&root)
                        .unwrap_or_default()
                        .into_iter()
                        .filter(|from| *from != pass)
                    {
                        graph.update_edge(
                            nodes[from.index()],
                            nodes[pass.index()],
                            Edge::Order(root),
                        );
                    }
                    writer.insert(root, pass);
                } else {
                    readers.entry(root).or_default().push(pass);
                }
            }
        }
        graph
    }
}
