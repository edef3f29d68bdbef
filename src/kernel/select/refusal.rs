//! Why a variant is not taken: ruled out by the device or the sizes, or wrong in its manifest.

use std::collections::BTreeMap;

use crate::codes::kernel as code;
use crate::diag::Diagnostic;
use crate::expr::{Expr, ExprError, Value};
use crate::kernel::{Manifest, Variant};

/// Why a variant is not possible, in words that continue `variant x: `.
pub(super) type Reason = String;

/// Why a variant is not taken.
pub(super) enum Refusal {
    /// The device or these sizes rule it out.
    Impossible(Reason),
    /// Nothing rules it out, but an expression has no value.
    NoValue(NoValue),
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self::Impossible(reason)
    }
}

impl From<NoValue> for Refusal {
    fn from(missing: NoValue) -> Self {
        Self::NoValue(missing)
    }
}

/// An expression without a value.
pub(super) struct NoValue {
    /// Where in the manifest it stands.
    place: String,
    expr: String,
    said: String,
    /// The value of every name in it.
    names: Vec<String>,
}

impl NoValue {
    pub(super) fn new(
        place: &str,
        expr: &Expr,
        error: &ExprError,
        env: &BTreeMap<String, Value>,
    ) -> Self {
        let mut names = expr.names();
        names.sort_unstable();
        names.dedup();
        let known = |name: &&str| match env.get(*name) {
            Some(value) => format!("{name} = {value}"),
            None => format!("{name} has no value here"),
        };
        Self {
            place: place.into(),
            expr: expr.text().into(),
            said: error.message.clone(),
            names: names.iter().map(known).collect(),
        }
    }

    /// The mistake of a manifest whose variant nothing else rules out.
    pub(super) fn diagnostic(self, variant: &Variant, manifest: &Manifest) -> Diagnostic {
        let message = format!(
            "nothing rules out variant `{}` of kernel `{}` here, but {} has no value: `{}`: {}",
            variant.name, manifest.name, self.place, self.expr, self.said
        );
        let mut diagnostic = Diagnostic::error(code::NO_VALUE, message);
        if !self.names.is_empty() {
            diagnostic = diagnostic.note(self.names.join(", "));
        }
        diagnostic.help(format!(
            "say in `when` of the variant which sizes it is for, or correct the expression, in `{}`",
            manifest.path
        ))
    }
}
