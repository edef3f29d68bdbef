//! Dimension arithmetic: the small expressions that stand as strings in graph files and kernel manifests
//! (`"d_model / heads"`, `"ceil(n / 64)"`, `"if(l % 3 == 0, 0, 128)"`).
//!
//! Integers are checked 64-bit: overflow, division by zero and a remainder that `/` would drop are errors,
//! never wrapped values. `ceil(a / b)` is the ceiling of an exact quotient.

mod eval;
mod number;
mod parse;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

pub(crate) use number::number;

/// What an expression can be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// A dimension, a count, an index.
    Int(i64),
    /// An epsilon, a scale, an angle base.
    Float(f64),
    /// A condition.
    Bool(bool),
    /// A choice or a text.
    Text(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Int(v) => write!(f, "{v}"),
            Value::Float(v) => write!(f, "{v:?}"),
            Value::Bool(v) => write!(f, "{v}"),
            Value::Text(v) => write!(f, "{v}"),
        }
    }
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Value::Int(_) => "an integer",
            Value::Float(_) => "a float",
            Value::Bool(_) => "a condition",
            Value::Text(_) => "a text",
        }
    }
    /// The integer, if it is one.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(v) => Some(*v),
            _ => None,
        }
    }
    /// The number as a float; integers convert.
    pub fn as_float(&self) -> Option<f64> {
        match self {
            Value::Int(v) => Some(*v as f64),
            Value::Float(v) => Some(*v),
            _ => None,
        }
    }
    /// The condition, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(v) => Some(*v),
            _ => None,
        }
    }
    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(v) => Some(v),
            _ => None,
        }
    }
}

/// What went wrong, and where in the expression's own text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExprError {
    /// One sentence without the place.
    pub message: String,
    /// Byte range inside the expression's text.
    pub at: std::ops::Range<usize>,
    /// What to do about it, if there is something to say.
    pub help: Option<String>,
}

/// Functions and how many arguments each takes.
const FUNCTIONS: [(&str, usize); 7] = [
    ("ceil", 1),
    ("if", 3),
    ("log2", 1),
    ("max", 2),
    ("min", 2),
    ("pow", 2),
    ("sqrt", 1),
];

/// A parsed expression. Equality ignores nothing: two expressions are equal if their texts parse alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expr {
    root: Node,
    text: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Node {
    kind: Kind,
    start: u32,
    end: u32,
    /// Height of the tree below, which bounds every recursion over it.
    height: u16,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Kind {
    Literal(Value),
    Name(String),
    Unary(Op, Box<Node>),
    Binary(Op, Box<Node>, Box<Node>),
    Call(String, Vec<Node>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Op {
    Or,
    And,
    Not,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Add,
    Sub,
    Mul,
    Div,
    Rem,
    Neg,
}

/// Gives the value of a name, or `None` if there is no such name.
pub trait Env {
    /// The value of `name`.
    fn get(&self, name: &str) -> Option<Value>;
}

impl<F: Fn(&str) -> Option<Value>> Env for F {
    fn get(&self, name: &str) -> Option<Value> {
        self(name)
    }
}

impl Env for std::collections::BTreeMap<String, Value> {
    fn get(&self, name: &str) -> Option<Value> {
        std::collections::BTreeMap::get(self, name).cloned()
    }
}

impl Env for std::collections::BTreeMap<String, i64> {
    fn get(&self, name: &str) -> Option<Value> {
        std::collections::BTreeMap::get(self, name).map(|v| Value::Int(*v))
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Expr {
    /// Parses `text`. Operators, loosest first: `||`, `&&`, comparisons, `+ -`, `* / %`, unary `- !`; calls
    /// `ceil(a / b)`, `min`, `max`, `if(c, a, b)`, `sqrt`, `pow`, `log2`; names, numbers, `'text'`. A function that
    /// there is not, or that takes another number of arguments, is an error here, even where no value asks for it.
    pub fn parse(text: &str) -> Result<Self, ExprError> {
        let root = parse::parse(text)?;
        Ok(Self {
            root,
            text: text.to_string(),
        })
    }

    /// An expression that is just this number, which is at least 0.
    pub fn int(value: u32) -> Self {
        let text = value.to_string();
        let kind = Kind::Literal(Value::Int(value.into()));
        let end = text.len() as u32;
        let root = Node {
            kind,
            start: 0,
            end,
            height: 1,
        };
        Self { root, text }
    }

    /// The text it was parsed from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The name, if the expression is just a name.
    pub fn as_name(&self) -> Option<&str> {
        match &self.root.kind {
            Kind::Name(name) => Some(name),
            _ => None,
        }
    }

    /// Every name the expression mentions, in order, with repeats.
    pub fn names(&self) -> Vec<&str> {
        fn walk<'a>(node: &'a Node, out: &mut Vec<&'a str>) {
            match &node.kind {
                Kind::Literal(_) => {}
                Kind::Name(name) => out.push(name),
                Kind::Unary(_, a) => walk(a, out),
                Kind::Binary(_, a, b) => {
                    walk(a, out);
                    walk(b, out);
                }
                Kind::Call(_, args) => args.iter().for_each(|arg| walk(arg, out)),
            }
        }
        let mut out = Vec::new();
        walk(&self.root, &mut out);
        out
    }

    /// The value with names from `env`.
    pub fn eval(&self, env: &dyn Env) -> Result<Value, ExprError> {
        eval::eval(&self.root, env)
    }

    /// The value, which must be an integer.
    pub fn eval_int(&self, env: &dyn Env) -> Result<i64, ExprError> {
        let value = self.eval(env)?;
        value.as_int().ok_or_else(|| {
            self.whole(format!(
                "expected an integer, got {} ({value})",
                value.kind()
            ))
        })
    }

    /// The value, which must be an integer of at least 0.
    pub fn eval_size(&self, env: &dyn Env) -> Result<u64, ExprError> {
        let value = self.eval_int(env)?;
        u64::try_from(value).map_err(|_| self.whole(format!("expected a size, got {value}")))
    }

    /// The value, which must be a condition.
    pub fn eval_bool(&self, env: &dyn Env) -> Result<bool, ExprError> {
        let value = self.eval(env)?;
        value.as_bool().ok_or_else(|| {
            self.whole(format!(
                "expected a condition, got {} ({value})",
                value.kind()
            ))
        })
    }

    /// The value as a finite number.
    pub fn eval_float(&self, env: &dyn Env) -> Result<f64, ExprError> {
        let value = self.eval(env)?;
        value
            .as_float()
            .filter(|number| number.is_finite())
            .ok_or_else(|| self.whole(format!("expected a number, got {} ({value})", value.kind())))
    }

    fn whole(&self, message: String) -> ExprError {
        ExprError {
            message,
            at: 0..self.text.len(),
            help: None,
        }
    }
}
