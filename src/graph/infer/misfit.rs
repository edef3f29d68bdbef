//! A pass that does not fit its kernel, as a diagnostic: the pass and its value, what the kernel wants, and where both
//! numbers come from.

use std::collections::{BTreeSet, VecDeque};

use super::Typer;
use crate::codes::graph as codes;
use crate::diag::Diagnostic;
use crate::expr::Expr;
use crate::graph::flat::{Declared, FlatKind, FlatPass};
use crate::ids::ValueId;
use crate::kernel::{BindError, Manifest, shape_text};
use crate::span::Span;

impl Typer<'_> {
    pub(super) fn bind_error(
        &self,
        pass: &FlatPass,
        manifest: &Manifest,
        error: &BindError,
    ) -> Box<Diagnostic> {
        let bound = |port: &str| {
            pass.reads
                .iter()
                .chain(&pass.writes)
                .find(|(name, _)| name.value == port)
        };
        let subject = |port: &str, verb: &str| match bound(port) {
            Some((_, value)) => {
                let ty = self
                    .type_of(*value)
                    .map_or_else(String::new, |(dtype, shape)| {
                        format!(" {dtype} {}", shape_text(&shape))
                    });
                format!(
                    "`{}` {verb} `{}`{ty}",
                    pass.path, self.flat.values[*value].name
                )
            }
            None => format!("`{}`", pass.path),
        };
        let kernel = &manifest.name;
        let mut diagnostic = match error {
            BindError::Unbound { port } => {
                let message = format!(
                    "`{}` does not bind port `{port}` of kernel `{kernel}`",
                    pass.path
                );
                Diagnostic::error(codes::UNBOUND_PORT, message).at(pass.kernel.span, "")
            }
            BindError::Type { port, expected, .. } => {
                let message = format!(
                    "{} but port `{port}` of kernel `{kernel}` wants {expected}",
                    subject(port, "reads")
                );
                Diagnostic::error(codes::DTYPE, message).at(pass.place(port), "")
            }
            BindError::Shape {
                port,
                expected,
                arithmetic,
                ..
            } => {
                let message = format!(
                    "{} but port `{port}` of kernel `{kernel}` wants {expected}",
                    subject(port, "reads")
                );
                let error = Diagnostic::error(codes::SHAPE, message).at(pass.place(port), "");
                let error = arithmetic
                    .iter()
                    .fold(error, |error, line| error.note(format!("kernel: {line}")));
                bound(port)
                    .map_or(vec![], |(_, value)| self.sizes(*value))
                    .into_iter()
                    .fold(error, Diagnostic::note)
            }
            BindError::Option {
                option,
                problem,
                nearest,
            } => {
                let setting = pass
                    .set
                    .iter()
                    .find(|setting| setting.name.value == *option);
                let message = format!("option `{option}` of kernel `{kernel}` {problem}");
                let error = Diagnostic::error(codes::OPTION, message)
                    .at(setting.map_or(pass.kernel.span, |s| s.name.span), "");
                let error = match setting {
                    Some(setting) if setting.bare => error.note(format!(
                        "`{}` is no param or dim, so it is taken as a choice",
                        setting.value
                    )),
                    _ => error,
                };
                nearest.iter().fold(error, |error, near| {
                    error.help(format!("did you mean `{near}`?"))
                })
            }
            BindError::TypeVariable { variable, problem } => {
                let message = format!("type variable `{variable}` of kernel `{kernel}` {problem}");
                Diagnostic::error(codes::TYPE_VARIABLE, message).at(pass.kernel.span, "")
            }
            BindError::Require {
                condition,
                arithmetic,
            } => {
                let message = format!("`{}`: kernel `{kernel}` requires `{condition}`", pass.path);
                let error = Diagnostic::error(codes::REQUIRE, message).at(pass.kernel.span, "");
                arithmetic
                    .iter()
                    .fold(error, |error, line| error.note(line.clone()))
            }
            BindError::Expression { arithmetic, .. } => {
                let message = format!("`{}` on kernel `{kernel}`: {error}", pass.path);
                let error = Diagnostic::error(codes::MANIFEST, message).at(pass.kernel.span, "");
                arithmetic
                    .iter()
                    .fold(error, |error, line| error.note(line.clone()))
            }
        };
        if diagnostic.help.is_empty() {
            diagnostic = diagnostic.help(format!("the kernel's interface is in {}", manifest.path));
        }
        diagnostic.into()
    }

    /// `graph: d_head = d_model / heads = 64` for each size in the declaration of a value.
    fn sizes(&self, value: ValueId) -> Vec<String> {
        let declared: Option<&Declared> = match &self.flat.values[self.flat.root(value)].kind {
            FlatKind::Input(d)
            | FlatKind::Weight(d, _)
            | FlatKind::State(d)
            | FlatKind::Carry(d, _) => Some(d),
            FlatKind::Written | FlatKind::View { .. } => None,
        };
        let Some(declared) = declared else {
            return vec![];
        };
        let mut queue: VecDeque<String> = declared.text.iter().cloned().collect();
        let (mut lines, mut seen) = (vec![], BTreeSet::new());
        while let Some(text) = queue.pop_front() {
            let Ok(expr) = Expr::parse(&text) else {
                continue;
            };
            if let Some(name) = expr.as_name()
                && let Some(number) = self.flat.env.get(name)
                && seen.insert(name.to_string())
            {
                match self.flat.arithmetic.get(name) {
                    Some(of) if *of != number.to_string() => {
                        lines.push(format!("graph: {name} = {of} = {number}"));
                    }
                    _ => lines.push(format!("graph: {name} = {number}")),
                }
                queue.extend(self.flat.arithmetic.get(name).cloned());
            } else if expr.as_name().is_none() {
                queue.extend(expr.names().into_iter().map(String::from));
            }
        }
        lines
    }
}

impl FlatPass {
    /// The place that names a port, or else the kernel.
    pub(super) fn place(&self, port: &str) -> Span {
        let named = self
            .reads
            .iter()
            .chain(&self.writes)
            .find(|(name, _)| name.value == port);
        named.map_or(self.kernel.span, |(name, _)| name.span)
    }
}
