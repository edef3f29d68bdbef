//! What `expand` makes: one list of passes and values with no blocks, repeats, templates or conditions left. Values
//! that a kernel writes have no type yet; [`super::infer()`] asks the kernels.
//!
//! Always true of a [`Flat`]: every pass's reads are inputs, weights, state, carries, views, or written by an
//! earlier pass; each written value has one writer (state may have several, in file order); paths are unique.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Origin, Recipe};
use crate::dtype::DType;
use crate::expr::Value;
use crate::ids::{IdVec, PassId, ValueId};
use crate::kernel::shape_text;
use crate::text::ast::Name;

/// One entry of a graph, before its values are typed.
#[derive(Clone, Debug)]
pub struct Flat {
    /// The graph's name.
    pub name: String,
    /// The entry's name.
    pub entry: String,
    /// Params and dims.
    pub env: BTreeMap<String, Value>,
    /// The text of each dim that is computed from others, for messages.
    pub arithmetic: BTreeMap<String, String>,
    /// Element type aliases.
    pub dtypes: BTreeMap<String, DType>,
    /// All values.
    pub values: IdVec<ValueId, FlatValue>,
    /// All passes, definitions before uses.
    pub passes: IdVec<PassId, FlatPass>,
    /// How often one submit runs the passes.
    pub repeat: u32,
    /// The state that guards a round, see [`super::Graph::guard`].
    pub guard: Option<String>,
    /// What the host writes, in file order.
    pub inputs: Vec<ValueId>,
    /// What the host reads, in file order, with the place that says so.
    pub outputs: Vec<(Name, ValueId)>,
}

/// A value before typing.
#[derive(Clone, Debug)]
pub struct FlatValue {
    /// Its path.
    pub name: String,
    /// What it is.
    pub kind: FlatKind,
    /// Whether an item of its body takes it by name, also one that is switched off in this entry.
    pub named: bool,
    /// Where it is defined.
    pub origin: Origin,
}

/// A declared element type and shape, with the text of each size for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Element type.
    pub dtype: DType,
    /// Sizes, outermost first.
    pub shape: Vec<u64>,
    /// The expressions behind the sizes.
    pub text: Vec<String>,
}

/// What a value is.
#[derive(Clone, Debug)]
pub enum FlatKind {
    /// Written by the host.
    Input(Declared),
    /// Made from the checkpoint.
    Weight(Declared, Recipe),
    /// Survives submits.
    State(Declared),
    /// Double-buffered; `next` is the value that the next submit reads.
    Carry(Declared, ValueId),
    /// Written by a pass; its kernel decides the type.
    Written,
    /// Another shape of, or a range in, another value.
    View {
        /// The value it looks into, which may itself be a view.
        of: ValueId,
        /// Its shape.
        shape: Vec<u64>,
        /// The first element.
        offset: u64,
    },
}

/// An option's value as written.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The option and its place.
    pub name: Name,
    /// Its value.
    pub value: Value,
    /// A bare word that names no param or dim: one of the option's choices, or a mistake.
    pub bare: bool,
}

/// A pass before typing.
#[derive(Clone, Debug)]
pub struct FlatPass {
    /// Its path.
    pub path: String,
    /// The kernel and the place that names it.
    pub kernel: Name,
    /// Port and value, for what stands under `in`.
    pub reads: Vec<(Name, ValueId)>,
    /// Port and value, for what stands under `out`.
    pub writes: Vec<(Name, ValueId)>,
    /// Options.
    pub set: Vec<Setting>,
    /// Explicit type variables.
    pub types: Vec<(Name, DType)>,
    /// Where it is written.
    pub origin: Origin,
}

impl Flat {
    /// The value that owns the bytes of `value`: itself unless it is a view. Views that look into each other have
    /// been refused by then; the walk is bounded anyway.
    pub fn root(&self, value: ValueId) -> ValueId {
        let mut at = value;
        for _ in 0..self.values.len() {
            match self.values[at].kind {
                FlatKind::View { of, .. } => at = of,
                _ => break,
            }
        }
        at
    }

    /// The graph as text for people (`--emit flat`).
    pub fn dump(&self) -> String {
        let mut out = format!("flat {} ({})\n", self.name, self.entry);
        for (name, value) in &self.env {
            // Writing to a String cannot fail.
            let _ = match self.arithmetic.get(name) {
                Some(text) => writeln!(out, "  {name} = {text} = {value}"),
                None => writeln!(out, "  {name} = {value}"),
            };
        }
        for value in &self.values {
            if let Some(line) = value.line(self) {
                let _ = writeln!(out, "{line}");
            }
        }
        for pass in &self.passes {
            let _ = writeln!(out, "{}", pass.line(self));
        }
        let outputs = self.outputs.iter().map(|(name, value)| {
            let path = &self.values[*value].name;
            if path == &name.value {
                path.clone()
            } else {
                format!("{} = {path}", name.value)
            }
        });
        let _ = writeln!(out, "output {}", outputs.collect::<Vec<_>>().join(", "));
        out
    }
}

impl FlatValue {
    fn line(&self, flat: &Flat) -> Option<String> {
        let declared = |d: &Declared| format!("{} {}", d.dtype, shape_text(&d.shape));
        let name = &self.name;
        Some(match &self.kind {
            FlatKind::Input(d) => format!("input {name}: {}", declared(d)),
            FlatKind::Weight(d, recipe) => format!("weight {name}: {} = {recipe}", declared(d)),
            FlatKind::State(d) => format!("state {name}: {}", declared(d)),
            FlatKind::Carry(d, next) => {
                format!(
                    "carry {name}: {}, next {}",
                    declared(d),
                    flat.values[*next].name
                )
            }
            FlatKind::Written => return None,
            FlatKind::View { of, shape, offset } => {
                let of = &flat.values[*of].name;
                format!("view {name}: {of} from {offset} as {}", shape_text(shape))
            }
        })
    }
}

impl FlatPass {
    fn line(&self, flat: &Flat) -> String {
        let ports = |list: &[(Name, ValueId)]| {
            let items = list
                .iter()
                .map(|(port, value)| format!("{}: {}", port.value, flat.values[*value].name));
            items.collect::<Vec<_>>().join(", ")
        };
        let mut line = format!(
            "{}: {}({}) -> {}",
            self.path,
            self.kernel.value,
            ports(&self.reads),
            ports(&self.writes)
        );
        for setting in &self.set {
            let _ = write!(line, ", {} = {}", setting.name.value, setting.value);
        }
        for (name, dtype) in &self.types {
            let _ = write!(line, ", {} is {dtype}", name.value);
        }
        line
    }
}
