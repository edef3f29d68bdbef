//! The ports of a manifest: their names and dims come into scope, then each gets its type, access and shape.

use std::collections::BTreeMap;

use super::{Reader, is_name};
use crate::codes::kernel as code;
use crate::dtype::DType;
use crate::kernel::scope::Scope;
use crate::kernel::syntax::RawPort;
use crate::kernel::{Access, Port, PortType, ShapeItem};
use crate::span::Spanned;
use crate::text::ast::Name;

impl Reader {
    /// Port names, `has_<port>` and the dims that ports bind come into scope before any expression is read.
    pub(super) fn port_names(
        &mut self,
        raw: &[(Name, RawPort)],
        derived: &[&str],
        scope: &mut Scope,
    ) {
        let mut dims = Vec::new();
        for (name, port) in raw {
            if let Err(other) = scope.define(&format!("has_{}", name.value), "a port's presence") {
                self.report(
                    code::DUPLICATE,
                    name,
                    format!("`has_{}` is already {other}", name.value),
                    None,
                );
            }
            for item in &port.decl().shape {
                let dim = item.value.strip_suffix("...").unwrap_or(&item.value);
                // A plain item may use an option as a size; a leading one always binds its name.
                let leading = item.value.ends_with("...");
                if is_name(dim)
                    && !derived.contains(&dim)
                    && !dims.contains(&dim)
                    && (leading || !scope.contains(dim))
                {
                    dims.push(dim);
                    self.define(
                        &Spanned {
                            value: dim.to_string(),
                            span: item.span,
                        },
                        scope,
                        "a dim",
                    );
                }
            }
        }
    }

    pub(super) fn ports(
        &mut self,
        raw: &[(Name, RawPort)],
        derived: &[&str],
        types: &BTreeMap<String, Vec<DType>>,
        scope: &Scope,
    ) -> Vec<Port> {
        let mut ports: Vec<Port> = Vec::new();
        for (name, port) in raw {
            let decl = port.decl();
            let dtype = match types.get(&decl.of.value) {
                Some(_) => PortType::Var(decl.of.value.clone()),
                None => match self.dtype(&decl.of) {
                    Some(dtype) => PortType::Fixed(dtype),
                    None => continue,
                },
            };
            let access = port.access();
            let scratch = matches!(port, RawPort::Scratch(_));
            if let Some(source) = &decl.in_place {
                let fits = ports.iter().any(|other| {
                    other.name == source.value
                        && other.access == Access::Read
                        && other.dtype == dtype
                });
                if access != Access::Write || !fits {
                    self.inconsistent(source, format!("`{}` cannot take over `{}`: that is no earlier port that is read and has the same type", name.value, source.value));
                }
            }
            if !decl.zero && !scratch {
                self.inconsistent(
                    name,
                    format!("port `{}`: `zero` is for scratch", name.value),
                );
            }
            if (decl.rereads && (access != Access::Write || scratch)) || (decl.optional && scratch)
            {
                self.inconsistent(name, format!("port `{}`: `rereads` is for ports that are written, `optional` is not for scratch", name.value));
            }
            if decl.tiles && (access != Access::Read || scratch) {
                self.inconsistent(
                    name,
                    format!("port `{}`: `tiles` is for ports that are read", name.value),
                );
            }
            let shape = decl
                .shape
                .iter()
                .enumerate()
                .map(|(index, item)| self.shape_item(index, item, derived, scope))
                .collect();
            ports.push(Port {
                name: name.value.clone(),
                access,
                dtype,
                shape,
                optional: decl.optional,
                in_place: decl.in_place.as_ref().map(|text| text.value.clone()),
                rereads: decl.rereads || !decl.zero,
                tiles: decl.tiles,
                scratch,
                zero: decl.zero,
            });
        }
        ports
    }

    fn shape_item(
        &mut self,
        index: usize,
        item: &Name,
        derived: &[&str],
        scope: &Scope,
    ) -> ShapeItem {
        if let Some(name) = item.value.strip_suffix("...") {
            if index > 0 || !is_name(name) {
                self.inconsistent(
                    item,
                    format!(
                        "`{}`: only the first item of a shape can stand for several dimensions",
                        item.value
                    ),
                );
            }
            return ShapeItem::Leading(name.to_string());
        }
        let expr = self.expr(item, scope);
        match expr.as_name() {
            Some(name) if !derived.contains(&name) && scope.is_dim(name) => {
                ShapeItem::Dim(name.to_string())
            }
            _ => ShapeItem::Is(expr),
        }
    }
}
