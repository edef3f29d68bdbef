//! Kernels: a shader with a typed interface. `shaders/<name>.ron` is the manifest ([`Manifest`]); a graph's
//! pass binds it to values ([`mod@bind`]); a device's features choose a variant; `build` turns GLSL into SPIR-V;
//! `reflect` reads the SPIR-V back and checks that the manifest told the truth.

pub mod bind;
pub mod build;
pub mod check;
pub mod manifest;
pub mod reflect;
mod scope;
pub mod select;
mod syntax;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::device::Feature;
use crate::dtype::DType;
use crate::expr::{Expr, Value};

pub use bind::{BindError, Given, bind, shape_text};
pub use manifest::load;
pub(crate) use scope::type_value;
pub use scope::type_values;

/// The binding number of the cells of relays (`shaders/include/relay.glsl`), in modules that wait for the pass before them.
pub const RELAY_BINDING: u32 = 32;

/// Push constants of such modules behind those of the manifest, u32 each: the cell to wait for and how far, the cell to add
/// to, the cell to clear.
pub const RELAY_WORDS: usize = 4;

/// Bytes of push constants of a module: those of the manifest, and behind them those of relays if it relays.
pub fn push_size(declared: u32, relays: bool) -> u32 {
    declared.saturating_add(if relays { 4 * RELAY_WORDS as u32 } else { 0 })
}

/// How a pass touches a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Access {
    /// Only reads.
    Read,
    /// Writes every byte, reads none.
    Write,
    /// Reads what was there and writes some or all of it.
    ReadWrite,
}

impl Access {
    /// Whether it reads.
    pub fn reads(self) -> bool {
        self != Access::Write
    }
    /// Whether it writes.
    pub fn writes(self) -> bool {
        self != Access::Read
    }
}

/// A kernel's manifest, parsed and checked for its own consistency.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The name that passes give.
    pub name: String,
    /// What it computes, with source.
    pub doc: String,
    /// Where it was read, for messages.
    pub path: String,
    /// Type variables and the types each may stand for.
    pub types: BTreeMap<String, Vec<DType>>,
    /// Options that a pass may set, with defaults.
    pub options: BTreeMap<String, OptionDecl>,
    /// Dims computed from port dims and options, in order.
    pub derive: Vec<(String, Expr)>,
    /// Bindings; the binding number is the index here, also when an optional port is unbound.
    pub ports: Vec<Port>,
    /// Conditions over dims and options that must hold.
    pub require: Vec<Expr>,
    /// Floating-point operations, an expression over dims and options.
    pub flops: Option<Expr>,
    /// Bindings of which a pass reads or writes a part alone, such as the rows of a table: how many elements, an
    /// expression over dims and options.
    pub touched: Vec<(u32, Expr)>,
    /// How a binding that is too large for the device is cut into several passes.
    pub split: Option<Split>,
    /// What the kernel computes, as formulas (see [`crate::formula`]); the CPU interpreter runs these.
    pub reference: Vec<String>,
    /// Push constant block, 4-byte fields in order, frozen when the plan is made.
    pub push: Vec<PushField>,
    /// Shaders that compute it; at least one needs nothing.
    pub variants: Vec<Variant>,
}

/// How passes share the rows of one binding: each takes a range of the rows of `port` and writes its part of `out`
/// in place of what the pass before left there, which it gets as `into`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// The port whose rows are cut.
    pub port: String,
    /// Its first dim. Other weights whose first dim this is are cut alike.
    pub dim: String,
    /// The option that says where the range starts, in units of which `total` are `dim` rows.
    pub at: String,
    /// The option that says how many of these units there are in all.
    pub of: String,
    /// The dim that is their number when nothing is cut.
    pub total: String,
    /// The port for what the pass before left.
    pub into: String,
    /// The written port, which takes over the bytes of `into`.
    pub out: String,
}

/// An option of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub enum OptionDecl {
    /// An integer in a range.
    Int {
        /// Used when a pass does not set it; `None` makes it mandatory.
        default: Option<i64>,
        /// Smallest value.
        min: i64,
        /// Largest value.
        max: i64,
    },
    /// A float.
    Float {
        /// Used when a pass does not set it; `None` makes it mandatory.
        default: Option<f64>,
    },
    /// A condition.
    Bool {
        /// Used when a pass does not set it.
        default: bool,
    },
    /// One of several texts.
    Choice {
        /// The choices.
        of: Vec<String>,
        /// Used when a pass does not set it.
        default: String,
    },
}

/// The element type of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortType {
    /// Always this type.
    Fixed(DType),
    /// What the type variable stands for.
    Var(String),
}

/// One binding of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Its name in `in` or `out`.
    pub name: String,
    /// How the shader touches it.
    pub access: Access,
    /// Element type.
    pub dtype: PortType,
    /// Shape pattern.
    pub shape: Vec<ShapeItem>,
    /// May be left unbound; the shader then sees no `HAS_<port>`.
    pub optional: bool,
    /// A written port that may share the bytes of this read port, element for element.
    pub in_place: Option<String>,
    /// A written port whose own bytes the shader reads back after writing them (a norm over a finished row): the
    /// shader may then declare it without `writeonly`. Nothing is read before it was written.
    pub rereads: bool,
    /// A read port whose shader looks for block formats in the tiles that weights are packed in ([`crate::dtype::tiles`]);
    /// without it, row after row. It takes weights alone in these formats, and other ports take none.
    pub tiles: bool,
    /// Not bound by passes: the compiler gives the pass its own range.
    pub scratch: bool,
    /// Of a scratch port: whether its range is zero before the first submit and left zero by the kernel. If not, it
    /// holds anything when the pass starts, and other passes use the same bytes before and after.
    pub zero: bool,
}

/// One item of a port's shape pattern.
#[derive(Clone, Debug, PartialEq)]
pub enum ShapeItem {
    /// `"m..."`: all leading dimensions; the name stands for their product. Only the first item can be one.
    Leading(String),
    /// `"k"`: one dimension, bound to the name on its first appearance.
    Dim(String),
    /// Any other expression: its value must be the dimension.
    Is(Expr),
}

/// One 4-byte field of the push constant block.
#[derive(Clone, Debug, PartialEq)]
pub struct PushField {
    /// Its name in the shader, for messages.
    pub name: String,
    /// U32, I32 or F32.
    pub dtype: DType,
    /// Its value over dims and options.
    pub value: Expr,
}

/// One shader that computes the kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    /// Its name, unique in the manifest.
    pub name: String,
    /// GLSL file under `shaders/`.
    pub shader: String,
    /// Device features it needs.
    pub needs: Vec<Feature>,
    /// A condition over dims, options and types (`T == 'f16'`) under which it may be used.
    pub when: Option<Expr>,
    /// Higher is chosen first among those that are possible.
    pub prefer: i32,
    /// Specialisation constants: `constant_id` is the index here.
    pub spec: Vec<SpecConst>,
    /// Extra preprocessor definitions.
    pub defines: BTreeMap<String, Expr>,
    /// Workgroup size, over spec constants and dims.
    pub local_size: [Expr; 3],
    /// Workgroup count, over spec constants, dims and options.
    pub dispatch: [Expr; 3],
    /// Bytes of shared memory, over spec constants and defines; checked against the device before a pipeline is
    /// made.
    pub shared_bytes: Option<Expr>,
    /// If its shader can wait for the pass before it and say when it is done (`include/relay.glsl`), on devices with the
    /// feature `relay`.
    pub relays: Option<Relays>,
}

/// How a variant waits for the pass before it.
#[derive(Clone, Debug, PartialEq)]
pub struct Relays {
    /// The numbers of the ports that no earlier pass of a chain may write: what it may read before it waits, or from a
    /// cache.
    pub before: Vec<u32>,
    /// A condition over dims, options and types under which it does, since that costs it something.
    pub when: Option<Expr>,
}

/// A specialisation constant.
#[derive(Clone, Debug, PartialEq)]
pub struct SpecConst {
    /// Its name in expressions and profiles.
    pub name: String,
    /// Value unless a profile chooses another, over dims, options and `subgroup_size`.
    pub default: Expr,
    /// Smallest value a profile may choose.
    pub min: u32,
    /// Largest value a profile may choose.
    pub max: u32,
}

/// A manifest bound to a pass's values: every name has its number.
#[derive(Clone, Debug, PartialEq)]
pub struct Binding {
    /// Dims from shapes and `derive`.
    pub dims: BTreeMap<String, i64>,
    /// What each type variable stands for.
    pub types: BTreeMap<String, DType>,
    /// Options with defaults filled in.
    pub options: BTreeMap<String, Value>,
    /// Element type and shape of every bound port, outputs and scratch included, in manifest order (`None`:
    /// optional and unbound).
    pub ports: Vec<Option<(DType, Vec<u64>)>>,
}

/// Kernels by name.
#[derive(Clone, Debug, Default)]
pub struct Library {
    /// Name to manifest.
    pub manifests: BTreeMap<String, Manifest>,
}

impl Manifest {
    /// The port of that name, with its binding number.
    pub fn port(&self, name: &str) -> Option<(usize, &Port)> {
        self.ports
            .iter()
            .enumerate()
            .find(|(_, port)| port.name == name)
    }
}
