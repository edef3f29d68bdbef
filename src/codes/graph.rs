//! Codes of expanding, typing and checking graphs (G01xx, G02xx).

use super::Explained;
use crate::diag::Code;

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $name:ident $code:literal $title:literal: $text:literal;)*) => {
        $($(#[doc = $doc])* pub const $name: Code = Code($code);)*
        pub(super) const CODES: &[Explained] = &[
            $(Explained { code: $name, title: $title, text: $text },)*
        ];
    };
}

codes! {
    /// A name that no value has.
    UNKNOWN_VALUE "G0101" "unknown value":
        "A pass, view, block use or output names a value that nothing binds in this body. A block sees only what \
stands under its `in`; a repeat sees the names around it. The help line offers the nearest name.";
    /// A block that no included file has.
    UNKNOWN_BLOCK "G0102" "unknown block":
        "`Use(block: ..)` names a block that none of the included files defines. Add its file to `include`.";
    /// A param without a value.
    MISSING_PARAM "G0103" "a param has no value":
        "The param has no default, the model's metadata has none of the keys under `from`, and `--set` does not \
give it. Name the model with `--model DIR` or give the value with `--set name=value`.";
    /// A param of the wrong kind, or a choice that does not exist.
    BAD_PARAM "G0104" "a param's value does not fit":
        "The value that `--set`, the model's metadata, a default or a block's `with` gives is not of the param's \
kind, or is not one of its choices. A choice that a model has and a graph lacks usually means that another graph \
or kernel is needed.";
    /// A param that does not exist.
    UNKNOWN_PARAM "G0105" "unknown param":
        "`--set` or a block's `with` names a param that the graph or block does not declare. Nothing is ignored \
silently: a misspelt name would otherwise leave the default in force.";
    /// An expression that cannot be read or has no value.
    BAD_EXPRESSION "G0106" "an expression has no value":
        "An expression is misspelt, names something that is not a param, dim or index, or cannot be computed \
exactly: integers are checked, `/` must leave no remainder (use `ceil(a / b)`), and nothing wraps around.";
    /// A template with a broken hole.
    BAD_TEMPLATE "G0107" "a template cannot be filled":
        "In `\"encoder.layer.{l}.weight\"` each `{..}` holds an expression over params, dims and indices. A brace \
is not closed, or the text grew too long. Or a `Key` has an `index` and a name without the one `*` that it stands for.";
    /// An entry that names no dim, or lacks one.
    BAD_ENTRY "G0108" "an entry does not name the graph's variable dims":
        "An entry gives one number to every dim that is declared as `Var(max: ..)`, and to no other: \
`--entry batch=32,seq=128`.";
    /// A dim outside its bound.
    OUT_OF_BOUND "G0109" "an entry is outside its bound":
        "A variable dim must be at least 1 and at most its `max`. The bound may come from the model: `seq` can be \
no longer than the position table.";
    /// An assertion of the graph that does not hold.
    ASSERT "G0110" "an assertion does not hold":
        "The graph states a condition under `asserts` that the params and dims of this model and entry violate. \
The notes show the value of every name in it.";
    /// A block that uses itself.
    RECURSION "G0111" "a block uses itself":
        "Blocks are inlined, so a block cannot use itself, directly or through others. The message names the \
whole way round. Use `Repeat` to run a body several times.";
    /// A name with two definitions where one is allowed.
    TWO_WRITERS "G0112" "two writers":
        "A name may be bound again by a later item, and later reads see the newer value. That is ambiguous, and \
refused, where two ports of one item bind the same name, where a pass reads a name before its first and second \
binding, and where two declarations of a graph share a name.";
    /// A value that does not exist yet.
    TOO_EARLY "G0113" "a value is used before it exists":
        "A loop's `carry` needs a value to start from, and a body inside a repeat or block cannot see what the \
bodies around it bind later. Move the item that binds the value up.";
    /// More passes, rounds or nesting than is sensible.
    LIMIT "G0114" "the graph is too large":
        "Expanding the graph made more passes, repeat rounds or nested blocks than any real model has. Usually a \
`count` took its number from the wrong key.";
    /// A dtype or alias that does not exist.
    UNKNOWN_DTYPE "G0115" "unknown element type":
        "An element type is `f32`, `f16`, `bf16`, `i32`, `u32`, `i8` or `u8`, or an alias that the graph declares \
under `dtypes`.";
    /// A block used with the wrong inputs or outputs.
    BAD_CALL "G0116" "a block is used with the wrong names":
        "`in` must bind every input of the block and nothing else; `out` may name only outputs of the block; the \
block's body must bind each of its outputs.";
    /// A size that is negative, zero or too large.
    BAD_SIZE "G0117" "a size is not possible":
        "Every dimension is at least 1, and a tensor's bytes are counted in 64 bits without overflow. The notes \
show the numbers.";
    /// Passes that wait for each other.
    CYCLE "G0118" "passes wait for each other":
        "A body may read a name that a later item binds, and the compiler puts passes in order. If they wait for \
each other there is no order. To read a value of the submit before, declare it under `carry`.";
    /// State whose path is not its own.
    STATE_PATH "G0119" "two states would share a path":
        "Entries share state by its path, for example `l3/attn/k_cache`. A second block of one name gets a number \
behind its path, and which one that is depends on what an entry switches on, so state in such a block could be \
mixed up. Give one of the `Use` items, or the state, another `name`.";
    /// A carry in a body that runs several times a submit.
    REPEATED_CARRY "G0120" "a carry in a repeated body":
        "A carry has two slots that turn with every submit; the rounds of one submit share a recording, so they \
would all read the same slot. Values that go from round to round belong into `state`.";
    /// A guard that cannot be one.
    GUARD "G0121" "a guard that decides nothing":
        "`guard` names a state of u32. Where its first element is 0 after the pass that writes it, the passes behind \
that one need not run. Declare the state under `state: {..}`, and bind it under `out` of the pass that decides.";

    /// Metadata of a model that the graph does not compute.
    OTHER_MODEL "G0122" "the model is not one that the graph computes":
        "Under `requires` a graph says what keys of config.json or of a GGUF file must be where they are there: \
`attention_bias` false, because no projection has a bias; `rope_scaling.type` one of the scalings that it knows. A \
model with another value would run and give wrong results, so it is refused. The note beside the key says what the \
graph computes. Extend the graph or write one for that model: a graph is a text file.";

    /// A kernel without a manifest.
    UNKNOWN_KERNEL "G0201" "unknown kernel":
        "No manifest under `shaders/` has this name. A kernel is a shader `shaders/x.comp` with its manifest \
`shaders/x.ron`.";
    /// A port that the kernel does not have, or has on the other side.
    UNKNOWN_PORT "G0202" "unknown port":
        "The kernel's manifest has no such port, or the port stands on the other side: what a kernel reads stands \
under `in`, what it writes or updates under `out`.";
    /// A port without a value.
    UNBOUND_PORT "G0203" "a port is not bound":
        "The kernel cannot run without this port. It may have been bound to a weight whose `when` is false: then \
the pass needs the same `when`.";
    /// A value of the wrong element type.
    DTYPE "G0204" "element types do not match":
        "A port takes a fixed element type or a type variable. All ports of one type variable have the same \
type. `--dtype` sets the aliases `act` and `weight`; biases, norm weights and embeddings that leave the graph are \
`f32`. Weights in `int8` and `int4` are packed in tiles, which ports for weights read; other values in `int8`, such as \
caches, have their rows one after another, and go to ports that read those.";
    /// An option that does not exist or does not fit.
    OPTION "G0205" "an option does not fit":
        "The kernel has no such option, or its value is of the wrong kind or out of range. A bare word in `set` \
is a param or dim if there is one of that name, else one of the option's choices.";
    /// A type variable that cannot be decided.
    TYPE_VARIABLE "G0206" "a type variable does not fit":
        "No input fixes the type variable and no default exists, or the type is not one that the kernel supports. \
Set it in the pass: `types: { \"A\": \"f32\" }`.";
    /// A value of the wrong shape.
    SHAPE "G0207" "shapes do not match":
        "The value's shape does not match the port's pattern. The notes show where each number comes from, in the \
kernel's names and in the graph's.";
    /// A condition of a kernel that does not hold.
    REQUIRE "G0208" "a condition of the kernel does not hold":
        "The kernel's manifest lists conditions over its dims and options under `require`. The notes show the \
value of every name.";
    /// An expression of a manifest without a value.
    MANIFEST "G0209" "an expression of the kernel has no value":
        "A derived dim or shape of the kernel cannot be computed for these inputs, for example because a division \
leaves a remainder.";
    /// A view that does not lie in its value.
    VIEW "G0210" "a view does not fit its value":
        "A view shows `offset .. offset + product of its shape` elements of another value, and all of them must \
be there.";
    /// A written value of the wrong kind.
    NOT_STATE "G0211" "a port updates what is not state":
        "A port of access `readwrite` updates a value in place: under `out` it needs a name declared under `state` \
(or a view of one). Any other value is written once, by the pass that makes it.";
    /// An input that nothing reads.
    UNUSED_INPUT "G0220" "an input is not used":
        "No item of the graph names this input, so it is left out. (An input that is read in other entries only is left \
out without a warning.)";
    /// A weight that nothing reads.
    UNUSED_WEIGHT "G0221" "a weight is not used":
        "No item names this weight, so it is left out of the plan and never loaded. (A weight whose readers are switched \
off is left out without a warning.)";
    /// A pass whose result nothing reads.
    DEAD_PASS "G0222" "a pass has no effect":
        "Nothing that leaves the graph depends on this pass, so it is left out.";
    /// An output that cannot be one.
    OUTPUT "G0223" "this value cannot be an output":
        "An output is a whole value that a pass writes, named once. Inputs, weights, state and views are not: the \
host has them already, or reads the whole value.";
    /// A carry whose next value does not fit.
    CARRY "G0224" "a carry does not fit its next value":
        "The value that `next` names lands in the carry's other slot, so it is a whole value that a pass writes, \
of the carry's type and shape, and neither an output nor another carry's next value.";
    /// An entry in which nothing is left to do.
    NO_EFFECT "G0227" "an entry does nothing":
        "In this entry every output is switched off and no pass updates state, so there is nothing to run. Check \
the `when` conditions, or leave the entry out.";
    /// One pass that reaches the same bytes through two ports.
    ALIAS "G0225" "a pass writes what it binds twice":
        "A pass binds the same state through two ports and writes it through at least one. The shader could read \
what it has just overwritten.";
    /// A tensor that 32-bit indices cannot reach.
    TOO_LARGE "G0226" "a tensor is too large":
        "Shaders count elements in 32 bits, so a tensor has at most 4294967295 of them. Use a smaller entry, or \
split the value.";
}
