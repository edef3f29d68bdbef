//! The syntax of graph files, field for field. No meaning yet: names are not resolved, expressions are text.

use serde::Deserialize;

use crate::span::Spanned;
use crate::text::place::{map, map_of_maps};

/// A text with its place.
pub type Name = Spanned<String>;

/// A map of a file in file order; the loader rejects duplicate keys.
pub type Map<T> = Vec<(Name, T)>;

/// What one `.ron` file under `graphs/` holds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum File {
    /// A model.
    Graph(Box<GraphFile>),
    /// Blocks to `Use`.
    Blocks(Vec<Block>),
    /// Fusion rules.
    Fusions(Vec<Fuse>),
}

/// A model: `Graph(name: .., body: [..], ..)`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename = "Graph")]
pub struct GraphFile {
    /// The graph's name.
    pub name: Name,
    /// One line for people.
    #[serde(default)]
    pub doc: Option<String>,
    /// Values of `model_type` (config.json) or `general.architecture` (GGUF) that this graph runs.
    #[serde(default)]
    pub accepts: Vec<String>,
    /// What keys of the model's metadata must be where they are there.
    #[serde(default)]
    pub requires: Vec<KeyRule>,
    /// Names of tensors, with `*` for any characters, that the graph leaves out on purpose.
    #[serde(default)]
    pub ignores: Vec<Name>,
    /// Files with blocks and fusions, relative to this file.
    #[serde(default)]
    pub include: Vec<Name>,
    /// Numbers and choices that a model's configuration or `--set` gives.
    #[serde(default, deserialize_with = "map")]
    pub params: Map<ParamDecl>,
    /// Element type aliases, for example `"act": "f32"`; `--dtype` replaces `act` and `weight`.
    #[serde(default, deserialize_with = "map")]
    pub dtypes: Map<Name>,
    /// Sizes, in order: later ones may use earlier ones and params.
    #[serde(default, deserialize_with = "map")]
    pub dims: Map<DimDecl>,
    /// What the host writes before each submit.
    #[serde(default, deserialize_with = "map")]
    pub inputs: Map<TensorDecl>,
    /// What survives a submit and is updated in place.
    #[serde(default, deserialize_with = "map")]
    pub state: Map<TensorDecl>,
    /// Double-buffered values that cross submits.
    #[serde(default, deserialize_with = "map")]
    pub carry: Map<CarryDecl>,
    /// The passes.
    pub body: Vec<Item>,
    /// What the host reads after each submit. An entry in which every item that binds such a name is switched off
    /// does not have that output.
    pub outputs: Vec<Name>,
    /// How often one submit runs the whole body, an expression; 0 and a missing one stand for once. Rounds share
    /// inputs and outputs, and hand on what is in state.
    #[serde(default)]
    pub repeat: Option<Name>,
    /// The state that says whether a round has anything to do: where its first u32 is 0, passes after the one that
    /// writes it, and that write no output, need not run.
    #[serde(default)]
    pub guard: Option<Name>,
    /// Conditions that must hold, over params and dims.
    #[serde(default)]
    pub asserts: Vec<Name>,
    /// Named entries: dimension values per entry.
    #[serde(default, deserialize_with = "map_of_maps")]
    pub entries: Map<Map<Name>>,
    /// Fusion rules that this graph switches off.
    #[serde(default)]
    pub disable: Vec<Name>,
}

/// `Int(from: ["num_hidden_layers"], default: "12")`.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "ParamFields")]
pub struct ParamDecl {
    /// What kind of value it is.
    pub kind: ParamKind,
    /// Keys of the model's metadata to read it from, first found wins.
    pub from: Vec<Name>,
    /// An expression over earlier params, used when no key is there.
    pub default: Option<Name>,
}

/// The kind of a parameter. In a file: `Int(..)`, `Float(..)`, `Bool(..)`, `Text(..)`, `Choice(of: [..], ..)`.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum ParamKind {
    Int,
    Float,
    Bool,
    Text,
    /// One of these texts.
    Choice(Vec<Name>),
}

/// `Key(names: ["attention_bias"], is: ["false"], why: "no projection has a bias")`: with any other value the model is
/// another one than the graph computes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename = "Key")]
pub struct KeyRule {
    /// Keys of the model's metadata, with `*` for any characters. Each that is there is looked at.
    pub names: Vec<Name>,
    /// What `is` calls the number that the one `*` of each name stands for: the place in a list.
    #[serde(default)]
    pub index: Option<Name>,
    /// The values that the graph computes: expressions over params, or words. Without any, the key must not be there.
    pub is: Vec<Name>,
    /// What the graph computes, in a few words.
    pub why: Name,
}

/// A size of the graph.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum DimDecl {
    /// `Var(max: "64")`: an entry gives it, up to the bound.
    Var {
        /// The bound, an expression.
        max: Name,
        /// The least value, an expression; 1 when missing. A dim that may be 0 is a switch for `when`.
        #[serde(default)]
        min: Option<Name>,
    },
    /// `Is("batch * seq")`.
    Is(Name),
}

/// `Tensor("u32", ["rows"])`.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "TensorFields")]
pub struct TensorDecl {
    /// An element type or an alias.
    pub dtype: Name,
    /// One expression per dimension.
    pub shape: Vec<Name>,
}

/// `Carry(tensor: Tensor("f32", ["n"]), next: "h_next")`: reads of the carry see the value that `next` had in the
/// submit before (zero in the first).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename = "Carry")]
pub struct CarryDecl {
    /// Element type and shape.
    pub tensor: TensorDecl,
    /// The value of this submit that the next one reads.
    pub next: Name,
}

/// One item of a body.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Item {
    /// One kernel on named values.
    Pass(PassItem),
    /// A block inlined.
    Use(UseItem),
    /// A body repeated.
    Repeat(RepeatItem),
    /// A weight declared where it is used.
    Weight(WeightItem),
    /// State declared where it is used.
    State(StateItem),
    /// Another shape of, or a contiguous range in, an existing value.
    View(ViewItem),
}

/// `Pass(kernel: "linear", in: {"x": "h", "w": "w_qkv"}, out: {"y": "qkv"})`.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "PassFields")]
pub struct PassItem {
    /// The last part of its path; the kernel's name (made unique) when missing.
    pub name: Option<Name>,
    /// A kernel manifest's name.
    pub kernel: Name,
    /// Port to value, for ports that the kernel reads.
    pub inputs: Map<Name>,
    /// Port to new value, for ports that the kernel writes. For a port of access `readwrite` the value is the
    /// state that is updated and stands under `out`.
    pub outputs: Map<Name>,
    /// Options: an expression, or one of the choices.
    pub set: Map<Name>,
    /// Type variables that inputs do not fix.
    pub types: Map<Name>,
    /// The pass is there only if this holds.
    pub when: Option<Name>,
    /// If it is not there: its output names stand for these values instead.
    pub otherwise: Map<Name>,
    /// Where the item starts.
    pub at: Name,
}

/// `Use(block: "encoder_layer", in: {"x": "h"}, with: {"w": "encoder.layer.{l}"}, out: {"y": "h"})`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename = "Use")]
pub struct UseItem {
    /// The last part of its path; the block's name when missing.
    #[serde(default)]
    pub name: Option<Name>,
    /// The block.
    pub block: Name,
    /// Block input to value.
    #[serde(rename = "in", default, deserialize_with = "map")]
    pub inputs: Map<Name>,
    /// Block output to new value. A name may be bound again: later items see the newer value.
    #[serde(rename = "out", default, deserialize_with = "map")]
    pub outputs: Map<Name>,
    /// Block parameter to expression (or, for `Text` parameters, a template).
    #[serde(default, deserialize_with = "map")]
    pub with: Map<Name>,
    /// The block is there only if this holds.
    #[serde(default)]
    pub when: Option<Name>,
    /// If it is not there: its output names stand for these values instead.
    #[serde(default, deserialize_with = "map")]
    pub otherwise: Map<Name>,
}

/// `Repeat(index: "l", count: "layers", carry: {"h": "h"}, body: [..])`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename = "Repeat")]
pub struct RepeatItem {
    /// The first part of the paths inside becomes `<index><number>`, for example `l3`.
    pub index: Name,
    /// How often.
    pub count: Name,
    /// Loop values: name inside to name outside. Round k + 1 sees what round k bound; after the loop the
    /// outside name stands for the last round's.
    #[serde(default, deserialize_with = "map")]
    pub carry: Map<Name>,
    /// What is repeated.
    pub body: Vec<Item>,
}

/// `Weight(name: "w", dtype: "weight", shape: ["n", "k"], from: Tensor("{w}.weight"))`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename = "Weight")]
pub struct WeightItem {
    /// The value's name in this body.
    pub name: Name,
    /// An element type or an alias.
    pub dtype: Name,
    /// One expression per dimension.
    pub shape: Vec<Name>,
    /// How it is made from the checkpoint's tensors.
    pub from: Recipe,
    /// The weight is there only if this holds; a pass that has it in `in` then leaves that optional port unbound.
    #[serde(default)]
    pub when: Option<Name>,
}

/// `State(name: "k_cache", dtype: "kv", shape: ["slots", "kv_heads", "ctx", "d_head"])`: survives submits, is zero
/// before the first and is updated in place. Its path, for example `l3/attn/k_cache`, is its name in every entry, so
/// entries share it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename = "State")]
pub struct StateItem {
    /// The value's name in this body.
    pub name: Name,
    /// An element type or an alias.
    pub dtype: Name,
    /// One expression per dimension.
    pub shape: Vec<Name>,
    /// The state is there only if this holds; a pass that has it in `in` or `out` then leaves that optional port
    /// unbound.
    #[serde(default)]
    pub when: Option<Name>,
}

/// A packing recipe. All of them work on rows (the first dimension) unless they say otherwise.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Recipe {
    /// `Tensor("{w}.query.weight")`: a tensor of the checkpoint; `{name}` is replaced by a param, dim or index.
    Tensor(Name),
    /// The first of these that the checkpoint has.
    AnyOf(Vec<Recipe>),
    /// Rows of the first, then rows of the second, ..
    Concat(Vec<Recipe>),
    /// Row 0 of the first, row 0 of the second, row 1 of the first, ..
    Interleave(Vec<Recipe>),
    /// `Slice(of, start, count)`: `count` rows from `start`.
    Slice(Box<Recipe>, Name, Name),
    /// Rows and columns exchanged.
    Transpose(Box<Recipe>),
    /// `PairHalves(of, d_head)`: in each group of `d_head` rows, row i and row i + d_head / 2 become neighbours,
    /// so that RoPE in the half-split convention turns into RoPE on adjacent pairs. Exact for attention, as
    /// query and key are permuted alike.
    PairHalves(Box<Recipe>, Name),
    /// The element-wise sum; a one-row operand is added to every row.
    Sum(Vec<Recipe>),
    /// `Plus(of, "1.0")`: a number added to every element.
    Plus(Box<Recipe>, Name),
}

/// `View(name: "q", of: "qkv", shape: ["n"], offset: "0")`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename = "View")]
pub struct ViewItem {
    /// The new name.
    pub name: Name,
    /// The value it looks into.
    pub of: Name,
    /// Its own shape.
    pub shape: Vec<Name>,
    /// The first element, counted in elements of `of`; 0 when missing.
    #[serde(default)]
    pub offset: Option<Name>,
}

/// `Block(name: .., in: [..], out: [..], params: {..}, body: [..])`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// The name that `Use` gives.
    pub name: Name,
    /// One line for people.
    #[serde(default)]
    pub doc: Option<String>,
    /// Names bound by the caller.
    #[serde(rename = "in", default)]
    pub inputs: Vec<Name>,
    /// Names handed back to the caller.
    #[serde(rename = "out", default)]
    pub outputs: Vec<Name>,
    /// Parameters bound by `with`. The graph's params and dims are visible too.
    #[serde(default, deserialize_with = "map")]
    pub params: Map<ParamDecl>,
    /// The items.
    pub body: Vec<Item>,
}

/// A fusion rule.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fuse {
    /// Its name, for `disable` and `--no-fusion`.
    pub name: Name,
    /// One line for people.
    #[serde(default)]
    pub doc: Option<String>,
    /// The passes it replaces, connected through pattern variables.
    #[serde(rename = "match")]
    pub pattern: Vec<PatternPass>,
    /// The pass it puts there.
    pub into: IntoPass,
    /// A condition over the matched passes' dims and options (`p0.n`, `p1.eps`) and the graph's params.
    #[serde(default)]
    pub when: Option<Name>,
}

/// One pass of a pattern. In a file: `Pass(kernel: .., in: {..}, out: {..}, set: {..}, absent: [..])`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename = "Pass")]
pub struct PatternPass {
    /// The kernel it must run.
    pub kernel: Name,
    /// Port to pattern variable. The same variable in two places means the same value.
    #[serde(rename = "in", default, deserialize_with = "map")]
    pub inputs: Map<Name>,
    /// Port to pattern variable.
    #[serde(rename = "out", default, deserialize_with = "map")]
    pub outputs: Map<Name>,
    /// Options that must have these values.
    #[serde(default, deserialize_with = "map")]
    pub set: Map<Name>,
    /// Optional ports that must be unbound.
    #[serde(default)]
    pub absent: Vec<Name>,
}

/// The replacement. In a file: `Pass(kernel: .., from: 0, in: {..}, out: {..}, set: {..})`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename = "Pass")]
pub struct IntoPass {
    /// The kernel that takes over.
    pub kernel: Name,
    /// The matched pass whose remaining ports, options and place are kept.
    #[serde(default)]
    pub from: Option<u32>,
    /// Port to pattern variable.
    #[serde(rename = "in", default, deserialize_with = "map")]
    pub inputs: Map<Name>,
    /// Port to pattern variable.
    #[serde(rename = "out", default, deserialize_with = "map")]
    pub outputs: Map<Name>,
    /// Options: an expression over `p0.eps` and the like, or one of the choices.
    #[serde(default, deserialize_with = "map")]
    pub set: Map<Name>,
}

// What stands in the file where it differs from the types above.

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
enum ParamFields {
    Int {
        #[serde(default)]
        from: Vec<Name>,
        default: Option<Name>,
    },
    Float {
        #[serde(default)]
        from: Vec<Name>,
        default: Option<Name>,
    },
    Bool {
        #[serde(default)]
        from: Vec<Name>,
        default: Option<Name>,
    },
    Text {
        #[serde(default)]
        from: Vec<Name>,
        default: Option<Name>,
    },
    Choice {
        of: Vec<Name>,
        #[serde(default)]
        from: Vec<Name>,
        default: Option<Name>,
    },
}

impl From<ParamFields> for ParamDecl {
    fn from(fields: ParamFields) -> Self {
        let (kind, from, default) = match fields {
            ParamFields::Int { from, default } => (ParamKind::Int, from, default),
            ParamFields::Float { from, default } => (ParamKind::Float, from, default),
            ParamFields::Bool { from, default } => (ParamKind::Bool, from, default),
            ParamFields::Text { from, default } => (ParamKind::Text, from, default),
            ParamFields::Choice { of, from, default } => (ParamKind::Choice(of), from, default),
        };
        Self {
            kind,
            from,
            default,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename = "Tensor")]
struct TensorFields(Name, Vec<Name>);

impl From<TensorFields> for TensorDecl {
    fn from(TensorFields(dtype, shape): TensorFields) -> Self {
        Self { dtype, shape }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename = "Pass")]
struct PassFields {
    name: Option<Name>,
    kernel: Name,
    #[serde(rename = "in", default, deserialize_with = "map")]
    inputs: Map<Name>,
    #[serde(rename = "out", deserialize_with = "map")]
    outputs: Map<Name>,
    #[serde(default, deserialize_with = "map")]
    set: Map<Name>,
    #[serde(default, deserialize_with = "map")]
    types: Map<Name>,
    when: Option<Name>,
    #[serde(default, deserialize_with = "map")]
    otherwise: Map<Name>,
}

impl From<PassFields> for PassItem {
    fn from(fields: PassFields) -> Self {
        Self {
            at: fields.kernel.clone(),
            name: fields.name,
            kernel: fields.kernel,
            inputs: fields.inputs,
            outputs: fields.outputs,
            set: fields.set,
            types: fields.types,
            when: fields.when,
            otherwise: fields.otherwise,
        }
    }
}
