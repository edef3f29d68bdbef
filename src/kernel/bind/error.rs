//! Why a pass does not fit its kernel, with the arithmetic behind both sides: where each name of a pattern or an
//! expression has its number from.

use std::collections::{BTreeSet, VecDeque};

use super::{Binder, shape_text};
use crate::dtype::DType;
use crate::expr::{Env, Expr, ExprError};
use crate::kernel::{Port, ShapeItem};

/// Why a pass does not fit its kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// A port that is not optional has no value.
    #[error("port `{port}` is not bound")]
    Unbound {
        /// The port.
        port: String,
    },
    /// The element type is not what the port takes.
    #[error("port `{port}` wants {expected}, got {found}")]
    Type {
        /// The port.
        port: String,
        /// What it takes and why.
        expected: String,
        /// What the value has.
        found: DType,
    },
    /// The shape is not what the port takes.
    #[error("port `{port}` wants {expected}, got {found}")]
    Shape {
        /// The port.
        port: String,
        /// The pattern with the numbers that are known.
        expected: String,
        /// The value's shape.
        found: String,
        /// Where each number of the pattern comes from.
        arithmetic: Vec<String>,
    },
    /// An option is unknown, missing, of the wrong kind or out of range.
    #[error("option `{option}` {problem}")]
    Option {
        /// The option.
        option: String,
        /// What is wrong, as the end of a sentence.
        problem: String,
        /// A name that may have been meant.
        nearest: Option<String>,
    },
    /// A type variable that nothing fixes, or that a pass sets to a type it cannot be.
    #[error("type variable `{variable}` {problem}")]
    TypeVariable {
        /// The variable.
        variable: String,
        /// What is wrong, as the end of a sentence.
        problem: String,
    },
    /// A condition of the kernel does not hold.
    #[error("the kernel requires `{condition}`")]
    Require {
        /// The condition.
        condition: String,
        /// The value of every name in it.
        arithmetic: Vec<String>,
    },
    /// An expression of the manifest has no value here.
    #[error("`{expression}` of {place} has no value: {reason}")]
    Expression {
        /// Which part of the manifest it stands in.
        place: String,
        /// The expression.
        expression: String,
        /// What the evaluation said.
        reason: String,
        /// The value of every name in it.
        arithmetic: Vec<String>,
    },
}

impl Binder<'_> {
    pub(super) fn expression(&self, place: &str, expr: &Expr, error: &ExprError) -> BindError {
        BindError::Expression {
            place: place.into(),
            expression: expr.text().into(),
            reason: error.message.clone(),
            arithmetic: self.arithmetic(expr.names()),
        }
    }

    pub(super) fn shape_error(&self, port: &Port, found: &[u64]) -> BindError {
        let mut names = Vec::new();
        let pattern = port.shape.iter().map(|item| match item {
            ShapeItem::Leading(name) => {
                names.push(name.as_str());
                format!("{name}...")
            }
            ShapeItem::Dim(name) => {
                names.push(name.as_str());
                name.clone()
            }
            ShapeItem::Is(expr) => {
                names.extend(expr.names());
                expr.text().into()
            }
        });
        let mut expected = format!("[{}]", pattern.collect::<Vec<_>>().join(", "));
        let numbers = port.shape.iter().map(|item| match item {
            ShapeItem::Leading(name) => {
                self.dims.get(name).map_or("..".into(), ToString::to_string)
            }
            item => self
                .size(port, item)
                .map_or("?".into(), |size| size.to_string()),
        });
        expected += &format!(" = [{}]", numbers.collect::<Vec<_>>().join(", "));
        BindError::Shape {
            port: port.name.clone(),
            expected,
            found: shape_text(found),
            arithmetic: self.arithmetic(names),
        }
    }

    /// `n_out = n / 2 = 192`, `k = 384 (from x)` for each name, following derived dims to what they are made of.
    pub(super) fn arithmetic(&self, names: Vec<&str>) -> Vec<String> {
        let mut lines = Vec::new();
        let mut seen = BTreeSet::new();
        let mut queue: VecDeque<String> = names.into_iter().map(String::from).collect();
        while let Some(name) = queue.pop_front() {
            let Some(value) = self.get(&name).filter(|_| seen.insert(name.clone())) else {
                continue;
            };
            let derived = self
                .manifest
                .derive
                .iter()
                .find(|(derived, _)| *derived == name);
            lines.push(match (derived, self.source.get(&name)) {
                (Some((_, expr)), _) => {
                    queue.extend(expr.names().into_iter().map(String::from));
                    format!("{name} = {expr} = {value}")
                }
                (None, Some(port)) => format!("{name} = {value} (from port `{port}`)"),
                (None, None) if self.options.contains_key(&name) => {
                    format!("{name} = {value} (an option)")
                }
                (None, None) => format!("{name} = {value}"),
            });
        }
        lines
    }
}
