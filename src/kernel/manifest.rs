//! Reads `shaders/*.ron` into [`Manifest`]s. RON text comes in through [`Sources`]; what goes out is consistent in
//! itself: every name in an expression is known where it stands, no two ports share a name, and one variant runs
//! on any device. Whether the shaders keep the manifest's promises is the business of `kernel::check`.

mod ports;
mod variants;

use std::collections::BTreeMap;

use super::scope::{Scope, type_values};
use super::syntax::{RawKernel, RawOption, RawSplit};
use super::{Access, Library, Manifest, OptionDecl, Port, PushField, ShapeItem, Split};
use crate::codes::kernel as code;
use crate::diag::{Diagnostic, Diagnostics, nearest};
use crate::dtype::DType;
use crate::expr::Expr;
use crate::formula::Formula;
use crate::span::{FileId, SourceMap, Sources, Span};
use crate::text::ast::Name;

/// Reads every manifest directly under `shaders/`. The texts join `map`, so that the errors can show them.
pub fn load(sources: &dyn Sources, map: &mut SourceMap) -> Result<Library, Diagnostics> {
    let mut found = Diagnostics::default();
    let mut library = Library::default();
    let paths = match sources.list("shaders") {
        Ok(paths) => paths,
        Err(error) => {
            let message = format!("the kernel manifests cannot be listed: {error}");
            return Err(Diagnostic::error(code::UNREADABLE, message).into());
        }
    };
    for path in paths {
        match sources.read(&path) {
            Ok(text) => {
                let file = map.add(&path, &text);
                match parse(file, map) {
                    Ok(manifest) => {
                        library.manifests.insert(manifest.name.clone(), manifest);
                    }
                    Err(diagnostics) => found.extend(diagnostics),
                }
            }
            Err(error) => found.push(Diagnostic::error(
                code::UNREADABLE,
                format!("the kernel manifest cannot be read: {error}"),
            )),
        }
    }
    found.into_result().map(|_| library)
}

/// Reads one manifest of `map`.
pub fn parse(file: FileId, map: &SourceMap) -> Result<Manifest, Diagnostics> {
    let raw: RawKernel = crate::text::read(file, map)?;
    let path = &map.file(file).path;
    let mut reader = Reader::default();
    let manifest = reader.kernel(path, &raw);
    reader.found.into_result().map(|_| manifest)
}

#[derive(Default)]
struct Reader {
    found: Diagnostics,
}

impl Reader {
    fn report(
        &mut self,
        code: crate::diag::Code,
        at: &Name,
        message: String,
        help: Option<String>,
    ) {
        let mut diagnostic = Diagnostic::error(code, message).at(at.span, "");
        diagnostic.help.extend(help);
        self.found.push(diagnostic);
    }

    fn inconsistent(&mut self, at: &Name, message: String) {
        self.report(code::INCONSISTENT, at, message, None);
    }

    /// Parses an expression whose names must all be in `scope`. After an error a literal 1 stands in, so that
    /// the rest of the manifest is still looked at.
    fn expr(&mut self, text: &Name, scope: &Scope) -> Expr {
        let parsed = Expr::parse(text);
        let expr = match parsed {
            Ok(expr) => expr,
            Err(error) => {
                let span = inside(text, error.at);
                let message = format!("`{}` is not an expression: {}", text.value, error.message);
                let mut diagnostic = Diagnostic::error(code::EXPRESSION, message).at(span, "");
                diagnostic.help.extend(error.help);
                self.found.push(diagnostic);
                return Expr::int(1);
            }
        };
        for name in expr.names() {
            if !scope.contains(name) {
                let help = match nearest(name, scope.names()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!(
                        "known here: {}",
                        scope.names().collect::<Vec<_>>().join(", ")
                    ),
                };
                let help = Some(help);
                let message = format!("`{name}` in `{}` is not known here", text.value);
                self.report(code::EXPRESSION, text, message, help);
            }
        }
        expr
    }

    fn number<T: std::str::FromStr>(&mut self, text: &Name, wanted: &str) -> Option<T> {
        let number = text.value.replace('_', "").parse().ok();
        if number.is_none() {
            self.inconsistent(text, format!("`{}` is not {wanted}", text.value));
        }
        number
    }

    fn kernel(&mut self, path: &str, raw: &RawKernel) -> Manifest {
        let stem = path
            .rsplit('/')
            .next()
            .and_then(|name| name.strip_suffix(".ron"));
        if stem != Some(&raw.name.value) {
            let message = format!(
                "kernel `{}` must stand in `{}.ron`, not in `{path}`",
                raw.name.value, raw.name.value
            );
            self.inconsistent(&raw.name, message);
        }
        let mut scope = Scope::default();
        let types = self.types(&raw.types, &mut scope);
        let options = self.options(&raw.options, &mut scope);
        let derived: Vec<&str> = raw
            .derive
            .iter()
            .map(|(name, _)| name.value.as_str())
            .collect();
        self.port_names(&raw.ports, &derived, &mut scope);
        let mut derive = Vec::new();
        for (name, text) in &raw.derive {
            let expr = self.expr(text, &scope);
            self.define(name, &mut scope, "a derived dim");
            derive.push((name.value.clone(), expr));
        }
        let ports = self.ports(&raw.ports, &derived, &types, &scope);
        let require = raw
            .require
            .iter()
            .map(|text| self.expr(text, &scope))
            .collect();
        let flops = raw.flops.as_ref().map(|text| self.expr(text, &scope));
        let mut touched = Vec::new();
        for (name, text) in &raw.touched {
            let expr = self.expr(text, &scope);
            match ports.iter().position(|port| port.name == name.value) {
                Some(port) => touched.push((port as u32, expr)),
                None => self.inconsistent(
                    name,
                    format!("`touched` names `{}`, which is no port", name.value),
                ),
            }
        }
        let push = raw.push.iter().map(|(name, field)| {
            let (dtype, value) = field.parts();
            PushField {
                name: name.value.clone(),
                dtype,
                value: self.expr(value, &scope),
            }
        });
        let push = push.collect();
        let manifest = Manifest {
            name: raw.name.value.clone(),
            doc: raw.doc.value.clone(),
            path: path.to_string(),
            types,
            options,
            derive,
            ports,
            require,
            flops,
            touched,
            split: raw.split.as_ref().map(|split| Split {
                port: split.port.value.clone(),
                dim: split.dim.value.clone(),
                at: split.at.value.clone(),
                of: split.of.value.clone(),
                total: split.total.value.clone(),
                into: split.chain.0.value.clone(),
                out: split.chain.1.value.clone(),
            }),
            reference: raw
                .reference
                .iter()
                .map(|text| text.value.clone())
                .collect(),
            push,
            variants: self.variants(raw, &scope),
        };
        self.reference(&manifest, &raw.reference);
        if let Some(split) = &raw.split {
            self.split(&manifest, split);
        }
        manifest
    }

    /// `split` names ports and options of the kernel that fit together.
    fn split(&mut self, manifest: &Manifest, split: &RawSplit) {
        let (into, out) = &split.chain;
        let port = |name: &Name| manifest.port(&name.value).map(|(_, port)| port);
        let rows = |port: &Port| matches!(port.shape.first(), Some(ShapeItem::Dim(dim)) if *dim == split.dim.value);
        if !port(&split.port).is_some_and(|port| port.access == Access::Read && rows(port)) {
            let message = format!(
                "`{}` is no read port whose first dim is `{}`",
                split.port.value, split.dim.value
            );
            self.inconsistent(&split.port, message);
        }
        if !port(into).is_some_and(|port| port.optional && port.access == Access::Read) {
            self.inconsistent(into, format!("`{}` is no optional read port", into.value));
        }
        if port(out).is_none_or(|port| port.in_place.as_ref() != Some(&into.value)) {
            let message = format!("`{}` is no port in place of `{}`", out.value, into.value);
            self.inconsistent(out, message);
        }
        for option in [&split.at, &split.of] {
            let known = manifest.options.get(&option.value);
            if !matches!(known, Some(OptionDecl::Int { .. })) {
                self.inconsistent(option, format!("`{}` is no Int option", option.value));
            }
        }
    }

    /// The formulas must parse and fit the ports; an error points at its definition.
    fn reference(&mut self, manifest: &Manifest, texts: &[Name]) {
        let checked =
            Formula::parse(&manifest.reference).and_then(|formula| formula.check(manifest));
        let Err(error) = checked else { return };
        let whole = manifest.name.clone();
        let (span, text) = match texts.get(error.definition) {
            Some(text) => (inside(text, error.at.clone()), text.value.clone()),
            None => {
                return self.found.push(Diagnostic::error(
                    code::FORMULA,
                    format!("kernel `{whole}`: {error}"),
                ));
            }
        };
        let message = format!(
            "the reference formula `{text}` of kernel `{whole}` does not hold together: {}",
            error.message
        );
        let mut diagnostic = Diagnostic::error(code::FORMULA, message).at(span, "");
        diagnostic.help.extend(error.help);
        self.found.push(diagnostic);
    }

    fn define(&mut self, name: &Name, scope: &mut Scope, what: &str) {
        if let Err(other) = scope.define(&name.value, what) {
            let message = format!("`{}` is {what}, but it is already {other}", name.value);
            self.report(code::DUPLICATE, name, message, None);
        }
    }

    fn types(
        &mut self,
        raw: &[(Name, Vec<Name>)],
        scope: &mut Scope,
    ) -> BTreeMap<String, Vec<DType>> {
        let mut types = BTreeMap::new();
        for (name, list) in raw {
            self.define(name, scope, "a type variable");
            for (known, _) in &type_values(&name.value, DType::F32)[1..] {
                // The variable's own name was reported if it is not the first.
                let _ = scope.define(known, "a number of a type variable");
            }
            let dtypes: Vec<DType> = list.iter().filter_map(|text| self.dtype(text)).collect();
            if dtypes.is_empty() {
                self.inconsistent(
                    name,
                    format!("type variable `{}` can stand for no type", name.value),
                );
            }
            types.insert(name.value.clone(), dtypes);
        }
        types
    }

    fn dtype(&mut self, text: &Name) -> Option<DType> {
        let dtype = text.value.parse().ok();
        if dtype.is_none() {
            let all = DType::ALL.map(DType::name).join(", ");
            let message = format!("`{}` is no element type", text.value);
            self.report(
                code::INCONSISTENT,
                text,
                message,
                Some(format!("the types are {all}")),
            );
        }
        dtype
    }

    fn options(
        &mut self,
        raw: &[(Name, RawOption)],
        scope: &mut Scope,
    ) -> BTreeMap<String, OptionDecl> {
        let mut options = BTreeMap::new();
        for (name, decl) in raw {
            self.define(name, scope, "an option");
            if let Some(decl) = self.option(name, decl) {
                options.insert(name.value.clone(), decl);
            }
        }
        options
    }

    fn option(&mut self, name: &Name, decl: &RawOption) -> Option<OptionDecl> {
        Some(match decl {
            RawOption::Int { default, min, max } => {
                let (low, high) = (
                    self.number(min, "an integer")?,
                    self.number(max, "an integer")?,
                );
                let default = match default {
                    Some(text) => Some(self.number(text, "an integer")?),
                    None => None,
                };
                if low > high || default.is_some_and(|value| value < low || value > high) {
                    let message = format!(
                        "option `{}` allows {low} to {high}, which its default is not in or which is empty",
                        name.value
                    );
                    self.inconsistent(min, message);
                }
                OptionDecl::Int {
                    default,
                    min: low,
                    max: high,
                }
            }
            RawOption::Float { default } => OptionDecl::Float {
                default: match default {
                    Some(text) => Some(self.number(text, "a number")?),
                    None => None,
                },
            },
            RawOption::Bool { default } => OptionDecl::Bool {
                default: self.number(default, "`true` or `false`")?,
            },
            RawOption::Choice { of, default } => {
                if !of.iter().any(|choice| choice.value == default.value) {
                    self.inconsistent(
                        default,
                        format!(
                            "`{}` is none of the choices of `{}`",
                            default.value, name.value
                        ),
                    );
                }
                let of = of.iter().map(|choice| choice.value.clone()).collect();
                OptionDecl::Choice {
                    of,
                    default: default.value.clone(),
                }
            }
        })
    }
}

/// The place of a byte range of an expression's text. A text with escapes is pointed at as a whole.
fn inside(text: &Name, range: std::ops::Range<usize>) -> Span {
    let whole = text.span;
    if (whole.end - whole.start) as usize != text.value.len() + 2 {
        return whole;
    }
    let at = |offset: usize| whole.start + 1 + offset.min(text.value.len()) as u32;
    Span {
        start: at(range.start),
        end: at(range.end),
        ..whole
    }
}

fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_alphabetic() || c == '_')
        && chars.all(|c| c.is_alphanumeric() || c == '_')
}
