//! Formulas: what a kernel computes, as mathematics. A manifest's `reference` is a list of definitions
//! ([`Formula`]); evaluated in f64 they are a witness of the shader that shares no code and no rounding with it.
//!
//! ```text
//! acc[i<m, j<n] = sum(p<k: x[i,p] * w[j,p])
//! y[i<m, j<n] = if(has(bias), acc[i,j] + bias[j], acc[i,j])
//! ```
//! A definition gives a name a value at every index; the bounds stand at the indices. A name is, in this order:
//! an index around it, an earlier definition, a port, a dim, an option. The definition of a bound written port is
//! an output, every other one is an intermediate that exists only while the formula runs. Inside its own
//! definition the name of a port means what the port held before; later definitions see what was stored, rounded to the
//! port's type. A port shows its leading dimensions as one index, so `x[i,p]` serves every rank; `x[i]` of a matrix counts
//! all elements.
//!
//! Values are real numbers (f64). Where an integer is needed (an index, a bound, an operand of `//` or `%`) the
//! value must be one exactly. `/` is the real quotient, `//` and `%` are floor division and its remainder. A
//! branch of `if`, and the second operand of `&&` and `||`, is not looked at when options and `has` alone decide
//! against it, so it may use ports that are not bound.
//!
//! Functions: `exp log sqrt rsqrt tanh erf sin cos abs floor` of one number, `pow min max` of two, `if(c, a, b)`,
//! `has(port)`; of unsigned 32-bit integers `xor(a, b)` and `random(a, b, c)`, noise in (0, 1) that the three numbers
//! decide (`shaders/include/random.glsl` has the same bits). Both are not a number where an operand is no such integer. Reductions: `sum(p<k: e)`, `max(p<k: e)`, also over `p in a..b` with computed bounds and over
//! several indices; an empty `sum` is 0, an empty `max` is minus infinity.
//!
//! Always true: no text, whoever wrote it, makes parsing or evaluation recurse past [`MAX_DEPTH`] or read outside
//! a port; an index out of range is an error that names port and index.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::dtype::DType;
use crate::expr::Value;
use crate::kernel::Access;

mod check;
mod compile;
mod eval;
mod math;
mod parse;
mod store;

pub use math::erf;

/// The deepest nesting of a definition, operators included.
pub const MAX_DEPTH: u32 = 100;

/// The longest text of a formula, all definitions together, in bytes.
pub const MAX_TEXT: usize = 64 * 1024;

/// The most elements that one definition may have.
pub const MAX_ELEMENTS: u64 = 1 << 28;

/// What went wrong and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}, in `{excerpt}`")]
pub struct FormulaError {
    /// One sentence without the place.
    pub message: String,
    /// Index of the definition in the manifest's list.
    pub definition: usize,
    /// Byte range inside the definition's text.
    pub at: Range<usize>,
    /// The text at that range.
    pub excerpt: String,
    /// What to do about it, if there is something to say.
    pub help: Option<String>,
}

/// A bound port's contents as stored.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// Element type.
    pub dtype: DType,
    /// Sizes, outermost first.
    pub shape: &'a [u64],
    /// Little-endian elements, densely packed. Not looked at when `access` is [`Access::Write`].
    pub bytes: &'a [u8],
    /// How the kernel touches it.
    pub access: Access,
}

/// The parsed definitions of one kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Formula {
    definitions: Vec<parse::Definition>,
}

impl Formula {
    /// Parses definitions; names are not resolved yet.
    pub fn parse(definitions: &[String]) -> Result<Self, FormulaError> {
        parse::formula(definitions).map(|definitions| Self { definitions })
    }

    /// The names that are defined, in order.
    pub fn defines(&self) -> impl Iterator<Item = &str> {
        self.definitions.iter().map(|one| one.name.as_str())
    }

    /// Checks the definitions against their own manifest, for every way of binding it: all names are known, functions
    /// have as many arguments as they take, `has` asks for optional ports only, every written port is defined with the right number of indices.
    pub fn check(&self, manifest: &crate::kernel::Manifest) -> Result<(), FormulaError> {
        check::check(&self.definitions, manifest)
    }

    /// The values of all written ports that the formula defines, by port, row-major. A port that is only read and
    /// written (a counter that the kernel leaves as it was) may stay undefined, and so may a kernel's workspace; that
    /// every other [`Access::Write`] port is defined is the business of [`Formula::check`].
    pub fn eval(
        &self,
        ports: &BTreeMap<String, TensorView<'_>>,
        dims: &BTreeMap<String, i64>,
        options: &BTreeMap<String, Value>,
    ) -> Result<BTreeMap<String, Vec<f64>>, FormulaError> {
        let program = compile::compile(&self.definitions, ports, dims, options)?;
        eval::run(&program, &self.definitions)
    }
}

pub use store::{decode, encode};

#[cfg(test)]
mod tests;
