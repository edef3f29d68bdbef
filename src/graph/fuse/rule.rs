//! Fusion rules checked against the kernels' interfaces, before any graph is looked at.
//!
//! Always true of a [`Rule`]: its kernels, ports and options exist; each pattern pass after the first shares a
//! variable with an earlier one; `into` reads and writes only variables of the pattern; no option of a pass that
//! disappears is forgotten. In a pattern, `"bias?": "b"` matches whether the port is bound or not, and binds the
//! replacement's port the same way.

use std::collections::{BTreeMap, BTreeSet};

use crate::codes::fuse as codes;
use crate::diag::{Code, Diagnostic, Diagnostics, nearest};
use crate::expr::{Expr, Value};
use crate::kernel::{Library, Manifest, OptionDecl};
use crate::span::Span;
use crate::text::ast::{Fuse, IntoPass, Name, PatternPass};

/// One port of a pattern pass.
#[derive(Clone, Debug)]
pub(super) struct PatternPort {
    pub port: String,
    pub variable: String,
    /// Written `"port?"`: may be unbound.
    pub optional: bool,
}

/// One pass of a pattern.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    pub kernel: String,
    pub reads: Vec<PatternPort>,
    pub writes: Vec<PatternPort>,
    pub set: BTreeMap<String, Value>,
    pub absent: Vec<String>,
}

/// An option of the replacement: a choice as written, or an expression.
#[derive(Clone, Debug)]
pub(super) enum Setting {
    Word(String),
    Expr(Expr),
}

/// A rule whose names all exist.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub name: String,
    pub span: Span,
    pub patterns: Vec<Pattern>,
    pub kernel: String,
    pub from: Option<usize>,
    pub reads: Vec<(String, String)>,
    pub writes: Vec<(String, String)>,
    pub set: Vec<(String, Setting, Span)>,
    pub when: Option<(Expr, Span)>,
}

/// Checks one rule of a file.
pub(super) fn read(fuse: &Fuse, library: &Library) -> Result<Rule, Diagnostics> {
    let mut reader = Reader {
        fuse,
        library,
        problems: Diagnostics::default(),
        read: BTreeSet::new(),
        written: BTreeSet::new(),
    };
    if fuse.pattern.is_empty() {
        reader.fail(
            codes::RULE_PATTERN,
            &fuse.name,
            "matches no pass: `match` is empty".into(),
        );
    }
    let patterns: Vec<Pattern> = fuse
        .pattern
        .iter()
        .enumerate()
        .filter_map(|(index, pass)| reader.pattern(index, pass))
        .collect();
    let when = fuse
        .when
        .as_ref()
        .and_then(|when| Some((reader.expression(when)?, when.span)));
    let (reads, writes, set) = reader.replacement(&fuse.into);
    if !reader.problems.has_errors() {
        reader.loses(&patterns, &set, when.as_ref().map(|(expr, _)| expr));
        reader.loses_values(&reads);
    }
    reader.problems.into_result()?;
    Ok(Rule {
        name: fuse.name.value.clone(),
        span: fuse.name.span,
        patterns,
        kernel: fuse.into.kernel.value.clone(),
        from: fuse.into.from.map(|from| from as usize),
        reads,
        writes,
        set,
        when,
    })
}

type Into = (
    Vec<(String, String)>,
    Vec<(String, String)>,
    Vec<(String, Setting, Span)>,
);

struct Reader<'a> {
    fuse: &'a Fuse,
    library: &'a Library,
    problems: Diagnostics,
    /// Variables that pattern passes read, and those that they write.
    read: BTreeSet<&'a str>,
    written: BTreeSet<&'a str>,
}

impl<'a> Reader<'a> {
    fn fail(&mut self, code: Code, at: &Name, problem: String) {
        let message = format!("fusion rule `{}` {problem}", self.fuse.name.value);
        self.problems
            .push(Diagnostic::error(code, message).at(at.span, ""));
    }

    fn unknown<'b>(
        &mut self,
        at: &Name,
        problem: String,
        known: impl IntoIterator<Item = &'b str>,
    ) {
        let message = format!("fusion rule `{}` {problem}", self.fuse.name.value);
        let error = Diagnostic::error(codes::RULE_NAMES, message).at(at.span, "");
        self.problems
            .push(match nearest(at.value.trim_end_matches('?'), known) {
                Some(near) => error.help(format!("did you mean `{near}`?")),
                None => error,
            });
    }

    fn manifest(&mut self, kernel: &Name) -> Option<&'a Manifest> {
        let library = self.library;
        let found = library.manifests.get(&kernel.value);
        if found.is_none() {
            let known = library.manifests.keys().map(String::as_str);
            self.unknown(
                kernel,
                format!("names unknown kernel `{}`", kernel.value),
                known,
            );
        }
        found
    }

    fn pattern(&mut self, index: usize, pass: &'a PatternPass) -> Option<Pattern> {
        let manifest = self.manifest(&pass.kernel)?;
        let reads = self.ports(manifest, &pass.inputs, false);
        let writes = self.ports(manifest, &pass.outputs, true);
        let variables = || {
            pass.inputs
                .iter()
                .chain(&pass.outputs)
                .map(|(_, variable)| variable.value.as_str())
        };
        if index > 0
            && !variables().any(|name| self.read.contains(name) || self.written.contains(name))
        {
            let problem = format!(
                "matches `{}` as pass {index}, which shares no variable with the passes before it",
                pass.kernel.value
            );
            self.fail(codes::RULE_PATTERN, &pass.kernel, problem);
        }
        self.read.extend(
            pass.inputs
                .iter()
                .map(|(_, variable)| variable.value.as_str()),
        );
        for (_, variable) in &pass.outputs {
            if !self.written.insert(&variable.value) {
                let problem = format!("has two passes that write variable `{}`", variable.value);
                self.fail(codes::RULE_PATTERN, variable, problem);
            }
        }
        let mut set = BTreeMap::new();
        for (name, text) in &pass.set {
            if let Some(value) = self.fixed(manifest, name, text) {
                set.insert(name.value.clone(), value);
            }
        }
        for port in &pass.absent {
            if !manifest
                .port(&port.value)
                .is_some_and(|(_, port)| port.optional)
            {
                let known = manifest
                    .ports
                    .iter()
                    .filter(|port| port.optional)
                    .map(|port| port.name.as_str());
                let problem = format!(
                    "lists `{}` as absent, which is no optional port of `{}`",
                    port.value, manifest.name
                );
                self.unknown(port, problem, known);
            }
        }
        let absent = pass.absent.iter().map(|port| port.value.clone()).collect();
        Some(Pattern {
            kernel: manifest.name.clone(),
            reads,
            writes,
            set,
            absent,
        })
    }

    fn ports(
        &mut self,
        manifest: &Manifest,
        ports: &[(Name, Name)],
        written: bool,
    ) -> Vec<PatternPort> {
        let mut out = Vec::new();
        for (port, variable) in ports {
            let name = port.value.strip_suffix('?').unwrap_or(&port.value);
            if self.port(manifest, port, name, written) {
                out.push(PatternPort {
                    port: name.into(),
                    variable: variable.value.clone(),
                    optional: name != port.value,
                });
            }
        }
        out
    }

    fn port(&mut self, manifest: &Manifest, at: &Name, name: &str, written: bool) -> bool {
        let side = |port: &&crate::kernel::Port| !port.scratch && port.access.writes() == written;
        let known = || {
            manifest
                .ports
                .iter()
                .filter(side)
                .map(|port| port.name.as_str())
        };
        let found = known().any(|known| known == name);
        if !found {
            let verb = if written { "writes" } else { "reads" };
            let problem = format!(
                "names port `{name}`, but kernel `{}` {verb} no such port",
                manifest.name
            );
            self.unknown(at, problem, known());
        }
        found
    }

    /// The value that an option must have; a bare word is a choice, anything else is an expression without names.
    fn fixed(&mut self, manifest: &'a Manifest, name: &Name, text: &Name) -> Option<Value> {
        let decl = self.option(manifest, name)?;
        let expr = self.expression(text)?;
        let value = match (decl, expr.as_name()) {
            (OptionDecl::Choice { .. }, Some(word)) => Value::Text(word.into()),
            _ => match expr.eval(&BTreeMap::<String, Value>::new()) {
                Ok(value) => value,
                Err(error) => {
                    self.fail(
                        codes::RULE_EXPRESSION,
                        text,
                        format!("cannot compute `{}`: {}", text.value, error.message),
                    );
                    return None;
                }
            },
        };
        Some(match (decl, value) {
            (OptionDecl::Float { .. }, Value::Int(int)) => Value::Float(int as f64),
            (_, value) => value,
        })
    }

    fn option(&mut self, manifest: &'a Manifest, name: &Name) -> Option<&'a OptionDecl> {
        let found = manifest.options.get(&name.value);
        if found.is_none() {
            let problem = format!(
                "sets `{}`, which is no option of kernel `{}`",
                name.value, manifest.name
            );
            self.unknown(name, problem, manifest.options.keys().map(String::as_str));
        }
        found
    }

    fn expression(&mut self, text: &Name) -> Option<Expr> {
        match Expr::parse(&text.value) {
            Ok(expr) => Some(expr),
            Err(error) => {
                let message = format!(
                    "fusion rule `{}` cannot read `{}`: {}",
                    self.fuse.name.value, text.value, error.message
                );
                let mut diagnostic =
                    Diagnostic::error(codes::RULE_EXPRESSION, message).at(text.span, "");
                diagnostic.help.extend(error.help);
                self.problems.push(diagnostic);
                None
            }
        }
    }

    /// The variables of the pattern, for messages.
    fn bound_names(&self) -> String {
        let names: BTreeSet<String> = self
            .read
            .iter()
            .chain(&self.written)
            .map(|name| format!("`{name}`"))
            .collect();
        names.into_iter().collect::<Vec<_>>().join(", ")
    }

    fn replacement(&mut self, into: &'a IntoPass) -> Into {
        let mut out = (vec![], vec![], vec![]);
        if into
            .from
            .is_some_and(|from| from as usize >= self.fuse.pattern.len())
        {
            self.fail(
                codes::RULE_PATTERN,
                &into.kernel,
                "takes `from` a pass that its pattern does not have".into(),
            );
        }
        let Some(manifest) = self.manifest(&into.kernel) else {
            return out;
        };
        for (port, variable) in &into.inputs {
            if !self.port(manifest, port, &port.value, false) {
                continue;
            }
            let name = variable.value.as_str();
            if !self.read.contains(name) && !self.written.contains(name) {
                self.fail(
                    codes::RULE_PATTERN,
                    variable,
                    format!(
                        "reads variable `{name}`, which its pattern does not bind (it binds {})",
                        self.bound_names()
                    ),
                );
            }
            out.0.push((port.value.clone(), variable.value.clone()));
        }
        for (port, variable) in &into.outputs {
            if !self.port(manifest, port, &port.value, true) {
                continue;
            }
            if !self.written.contains(variable.value.as_str()) {
                self.fail(
                    codes::RULE_PATTERN,
                    variable,
                    format!(
                        "writes variable `{}`, which no matched pass writes",
                        variable.value
                    ),
                );
            }
            out.1.push((port.value.clone(), variable.value.clone()));
        }
        if out.1.is_empty() {
            self.fail(
                codes::RULE_PATTERN,
                &into.kernel,
                "makes a pass that writes nothing".into(),
            );
        }
        for (name, text) in &into.set {
            let Some(decl) = self.option(manifest, name) else {
                continue;
            };
            let Some(expr) = self.expression(text) else {
                continue;
            };
            let setting = match (decl, expr.as_name()) {
                (OptionDecl::Choice { of, .. }, Some(word))
                    if of.iter().any(|choice| choice == word) =>
                {
                    Setting::Word(word.into())
                }
                _ => Setting::Expr(expr),
            };
            out.2.push((name.value.clone(), setting, text.span));
        }
        out
    }

    /// What the matched passes read from outside the pattern, the replacement must read, too.
    fn loses_values(&mut self, reads: &[(String, String)]) {
        let used: BTreeSet<&str> = reads
            .iter()
            .map(|(_, variable)| variable.as_str())
            .collect();
        let lost = self
            .read
            .iter()
            .find(|name| !self.written.contains(*name) && !used.contains(*name));
        if let Some(name) = lost {
            let problem =
                format!("loses variable `{name}`: the matched passes read it and `into` does not");
            self.fail(codes::RULE_LOSES, &self.fuse.name, problem);
        }
    }

    /// Options of passes that disappear must be fixed by the pattern or used by the rule.
    fn loses(
        &mut self,
        patterns: &[Pattern],
        set: &[(String, Setting, Span)],
        when: Option<&Expr>,
    ) {
        let exprs = set.iter().filter_map(|(_, setting, _)| match setting {
            Setting::Expr(expr) => Some(expr),
            Setting::Word(_) => None,
        });
        let used: BTreeSet<String> = exprs
            .chain(when)
            .flat_map(|expr| expr.names())
            .map(String::from)
            .collect();
        for (index, pattern) in patterns.iter().enumerate() {
            if self.fuse.into.from == Some(index as u32) {
                continue;
            }
            let library = self.library;
            let Some(manifest) = library.manifests.get(&pattern.kernel) else {
                continue;
            };
            for option in manifest.options.keys() {
                if !pattern.set.contains_key(option)
                    && !used.contains(&format!("p{index}.{option}"))
                {
                    let problem = format!(
                        "loses option `{option}` of matched pass {index} (`{}`): use `p{index}.{option}`",
                        pattern.kernel
                    );
                    self.fail(codes::RULE_LOSES, &self.fuse.name, problem);
                }
            }
        }
    }
}
