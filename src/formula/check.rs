//! Definitions against their manifest, before any pass binds them: spelling mistakes are found even in branches
//! that no graph takes.

use std::collections::BTreeMap;

use super::FormulaError;
use super::math::Function;
use super::parse::{Definition, Kind, Node};
use crate::diag::nearest;
use crate::kernel::{Access, Manifest, ShapeItem};

/// See [`super::Formula::check`].
pub(super) fn check(definitions: &[Definition], manifest: &Manifest) -> Result<(), FormulaError> {
    let mut checker = Checker {
        manifest,
        definition: 0,
        text: "",
        earlier: BTreeMap::new(),
        indices: Vec::new(),
    };
    for (index, one) in definitions.iter().enumerate() {
        checker.definition = index;
        checker.text = &one.text;
        checker.definition(one)?;
        checker.earlier.insert(&one.name, one.bounds.len());
    }
    for port in &manifest.ports {
        if port.access == Access::Write
            && !port.scratch
            && !checker.earlier.contains_key(port.name.as_str())
        {
            let message = format!(
                "port `{}` is written but no definition says what",
                port.name
            );
            return Err(FormulaError::new(
                0,
                &manifest.name,
                (0, manifest.name.len() as u32),
                message,
            ));
        }
    }
    Ok(())
}

struct Checker<'a> {
    manifest: &'a Manifest,
    definition: usize,
    text: &'a str,
    /// Names defined so far with their number of indices.
    earlier: BTreeMap<&'a str, usize>,
    /// Indices around the current node.
    indices: Vec<&'a str>,
}

impl<'a> Checker<'a> {
    fn fail<T>(&self, node: &Node, message: String) -> Result<T, FormulaError> {
        Err(FormulaError::new(
            self.definition,
            self.text,
            node.at,
            message,
        ))
    }

    fn definition(&mut self, one: &'a Definition) -> Result<(), FormulaError> {
        let name = (0, one.name.len() as u32);
        if let Some((_, port)) = self.manifest.port(&one.name) {
            if !port.access.writes() {
                let message = format!("`{}` is a port that the kernel only reads", one.name);
                return Err(FormulaError::new(self.definition, self.text, name, message));
            }
            if port.shape.len() != one.bounds.len() {
                let message = format!(
                    "port `{}` has {} dimensions but is defined over {} indices",
                    one.name,
                    port.shape.len(),
                    one.bounds.len()
                );
                return Err(FormulaError::new(self.definition, self.text, name, message));
            }
        }
        self.indices.clear();
        for (_, bound) in &one.bounds {
            self.node(bound)?;
        }
        self.indices
            .extend(one.bounds.iter().map(|(index, _)| index.as_str()));
        self.node(&one.body)
    }

    fn node(&mut self, node: &'a Node) -> Result<(), FormulaError> {
        match &node.kind {
            Kind::Number(_) | Kind::Text(_) => Ok(()),
            Kind::Name(name) => self.name(node, name),
            Kind::Element(name, indices) => {
                self.count(node, name, indices.len())?;
                indices.iter().try_for_each(|index| self.node(index))
            }
            Kind::Negate(a) | Kind::Not(a) => self.node(a),
            Kind::Binary(_, a, b) => {
                self.node(a)?;
                self.node(b)
            }
            Kind::Call(name, args) if name == "has" => match args.as_slice() {
                [
                    Node {
                        kind: Kind::Name(port),
                        ..
                    },
                ] => match self.manifest.port(port) {
                    Some((_, port)) if port.optional => Ok(()),
                    Some(_) => self.fail(node, format!("port `{port}` is not optional")),
                    None => self.fail(node, format!("the kernel has no port `{port}`")),
                },
                _ => self.fail(node, "`has` takes the name of a port".into()),
            },
            Kind::Call(name, args) => {
                self.call(node, name, args.len())?;
                args.iter().try_for_each(|arg| self.node(arg))
            }
            Kind::Reduce(_, index, range, body) => {
                range.start.iter().try_for_each(|start| self.node(start))?;
                self.node(&range.end)?;
                self.indices.push(index);
                let checked = self.node(body);
                self.indices.pop();
                checked
            }
        }
    }

    /// Whether there is such a function of that many arguments.
    fn call(&self, node: &Node, name: &str, count: usize) -> Result<(), FormulaError> {
        let error = |at, message: String, help: Option<String>| FormulaError {
            help,
            ..FormulaError::new(self.definition, self.text, at, message)
        };
        let Some(function) = Function::named(name) else {
            let at = (node.at.0, node.at.0 + name.len() as u32);
            let help = match nearest(name, Function::names()) {
                _ if self.earlier.contains_key(name) || self.manifest.port(name).is_some() => {
                    format!("elements stand in brackets: `{name}[..]`")
                }
                Some(near) => format!("did you mean `{near}`?"),
                None => format!(
                    "the functions are {}",
                    Function::names().collect::<Vec<_>>().join(", ")
                ),
            };
            return Err(error(at, format!("`{name}` is no function"), Some(help)));
        };
        let takes = match (function, function.takes()) {
            (Function::Sum, _) => "an index with its bound, found none".into(),
            (_, wanted) if wanted == count => return Ok(()),
            (_, 1) => format!("1 argument, found {count}"),
            (_, wanted) => format!("{wanted} arguments, found {count}"),
        };
        let reduces = ["sum", "max"].contains(&name);
        let help = reduces.then(|| format!("over an index it is `{name}(p<k: ..)`"));
        Err(error(node.at, format!("`{name}` takes {takes}"), help))
    }

    fn name(&self, node: &Node, name: &str) -> Result<(), FormulaError> {
        let is_dim = |item: &ShapeItem| match item {
            ShapeItem::Leading(dim) | ShapeItem::Dim(dim) => dim == name,
            ShapeItem::Is(_) => false,
        };
        let known = self.indices.contains(&name)
            || ["true", "false"].contains(&name)
            || self.manifest.options.contains_key(name)
            || self.manifest.derive.iter().any(|(dim, _)| dim == name)
            || self
                .manifest
                .ports
                .iter()
                .any(|port| port.shape.iter().any(is_dim));
        if known {
            return Ok(());
        }
        self.count(node, name, 0)
    }

    /// Whether `name` is an earlier definition or a readable port with that many indices.
    fn count(&self, node: &Node, name: &str, count: usize) -> Result<(), FormulaError> {
        let wanted = match (self.earlier.get(name), self.manifest.port(name)) {
            (Some(wanted), _) => *wanted,
            (None, Some((_, port))) if port.access.reads() => port.shape.len(),
            (None, Some(_)) => {
                return self.fail(node, format!("port `{name}` is read before it is defined"));
            }
            (None, None) => {
                return self.fail(
                    node,
                    format!("`{name}` is no index, definition, port, dim or option"),
                );
            }
        };
        if wanted == count {
            return Ok(());
        }
        self.fail(
            node,
            format!("`{name}` takes {wanted} indices, found {count}"),
        )
    }
}
