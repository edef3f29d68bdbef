//! Dimension arithmetic: the small expressions that stand as strings in graph files and kernel manifests
//! (`"d_model / heads"`, `"ceil(n / 64)"`, `"if(l % 3 == 0, 0, 128)"`).
//!
//! Integers are checked 64-bit: overflow, division by zero and a remainder that `/` would drop are errors,
//! never wrapped values. `ceil(a / b)` is the ceiling of an exact quotient.

use std::fmt;

use serde::{Deserialize, Serialize};

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
}

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

/// The deepest nesting an expression may have.
const MAX_DEPTH: u32 = 64;

/// The highest tree an expression may make; a chain of operators grows by one with each.
const MAX_HEIGHT: u16 = 256;

/// The longest text that is read as an expression, in bytes.
const MAX_TEXT: usize = 4096;

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Expr {
    /// Parses `text`. Operators, loosest first: `||`, `&&`, comparisons, `+ -`, `* / %`, unary `- !`; calls
    /// `ceil(a / b)`, `min`, `max`, `if(c, a, b)`, `sqrt`, `pow`, `log2`; names, numbers, `'text'`.
    pub fn parse(text: &str) -> Result<Self, ExprError> {
        let mut parser = Parser {
            text,
            at: 0,
            depth: 0,
        };
        if text.len() > MAX_TEXT {
            return Err(parser.error(format!(
                "an expression of {} bytes; at most {MAX_TEXT} are read",
                text.len()
            )));
        }
        let root = parser.binary(0)?;
        parser.space();
        if parser.at < text.len() {
            return Err(parser.error("expected an operator or the end"));
        }
        Ok(Self {
            root,
            text: text.to_string(),
        })
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
        eval(&self.root, env)
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

    fn whole(&self, message: String) -> ExprError {
        ExprError {
            message,
            at: 0..self.text.len(),
        }
    }
}

fn fail(node: &Node, message: impl Into<String>) -> ExprError {
    ExprError {
        message: message.into(),
        at: node.start as usize..node.end as usize,
    }
}

fn eval(node: &Node, env: &dyn Env) -> Result<Value, ExprError> {
    match &node.kind {
        Kind::Literal(value) => Ok(value.clone()),
        Kind::Name(name) => env
            .get(name)
            .ok_or_else(|| fail(node, format!("unknown name `{name}`"))),
        Kind::Unary(op, a) => match (op, eval(a, env)?) {
            (Op::Neg, Value::Int(v)) => v
                .checked_neg()
                .map(Value::Int)
                .ok_or_else(|| fail(node, "integer overflow")),
            (Op::Neg, Value::Float(v)) => Ok(Value::Float(-v)),
            (Op::Not, Value::Bool(v)) => Ok(Value::Bool(!v)),
            (_, v) => Err(fail(
                node,
                format!("this operator does not apply to {}", v.kind()),
            )),
        },
        Kind::Binary(Op::And, a, b) => Ok(Value::Bool(condition(a, env)? && condition(b, env)?)),
        Kind::Binary(Op::Or, a, b) => Ok(Value::Bool(condition(a, env)? || condition(b, env)?)),
        Kind::Binary(op, a, b) => binary(node, *op, eval(a, env)?, eval(b, env)?),
        Kind::Call(name, args) => call(node, name, args, env),
    }
}

fn condition(node: &Node, env: &dyn Env) -> Result<bool, ExprError> {
    let value = eval(node, env)?;
    value
        .as_bool()
        .ok_or_else(|| fail(node, format!("expected a condition, got {}", value.kind())))
}

fn binary(node: &Node, op: Op, a: Value, b: Value) -> Result<Value, ExprError> {
    let overflow = || fail(node, format!("integer overflow in {a} and {b}"));
    if let (Value::Int(a), Value::Int(b)) = (&a, &b) {
        let (a, b) = (*a, *b);
        let int = |v: Option<i64>| v.map(Value::Int).ok_or_else(overflow);
        return match op {
            Op::Add => int(a.checked_add(b)),
            Op::Sub => int(a.checked_sub(b)),
            Op::Mul => int(a.checked_mul(b)),
            Op::Div | Op::Rem if b == 0 => Err(fail(node, format!("{a} divided by zero"))),
            Op::Rem => int(a.checked_rem(b)),
            // The one remainder that does not exist, `i64::MIN % -1`, belongs to the quotient that overflows.
            Op::Div if a.checked_rem(b).is_some_and(|rest| rest != 0) => {
                Err(fail(node, format!("{a} is not a multiple of {b}")))
            }
            Op::Div => int(a.checked_div(b)),
            _ => compare(node, op, a.partial_cmp(&b)),
        };
    }
    match (&a, &b) {
        (Value::Text(x), Value::Text(y)) => compare(node, op, x.partial_cmp(y)),
        (Value::Bool(x), Value::Bool(y)) if matches!(op, Op::Eq | Op::Ne) => {
            Ok(Value::Bool((x == y) == (op == Op::Eq)))
        }
        _ => {
            let (Some(x), Some(y)) = (a.as_float(), b.as_float()) else {
                return Err(fail(
                    node,
                    format!(
                        "this operator does not apply to {} and {}",
                        a.kind(),
                        b.kind()
                    ),
                ));
            };
            match op {
                Op::Add => Ok(Value::Float(x + y)),
                Op::Sub => Ok(Value::Float(x - y)),
                Op::Mul => Ok(Value::Float(x * y)),
                Op::Div if y == 0.0 => Err(fail(node, format!("{x} divided by zero"))),
                Op::Div => Ok(Value::Float(x / y)),
                Op::Rem => Err(fail(node, "`%` needs integers")),
                _ => compare(node, op, x.partial_cmp(&y)),
            }
        }
    }
}

fn compare(node: &Node, op: Op, order: Option<std::cmp::Ordering>) -> Result<Value, ExprError> {
    let order = order.ok_or_else(|| fail(node, "not a number"))?;
    let holds = match op {
        Op::Eq => order.is_eq(),
        Op::Ne => order.is_ne(),
        Op::Lt => order.is_lt(),
        Op::Le => order.is_le(),
        Op::Gt => order.is_gt(),
        Op::Ge => order.is_ge(),
        _ => return Err(fail(node, "this operator needs numbers")),
    };
    Ok(Value::Bool(holds))
}

fn call(node: &Node, name: &str, args: &[Node], env: &dyn Env) -> Result<Value, ExprError> {
    let arity = |n: usize| {
        if args.len() == n {
            Ok(())
        } else {
            Err(fail(
                node,
                format!("`{name}` takes {n} arguments, got {}", args.len()),
            ))
        }
    };
    match name {
        "if" => {
            arity(3)?;
            eval(&args[if condition(&args[0], env)? { 1 } else { 2 }], env)
        }
        "ceil" => {
            arity(1)?;
            ceil(node, &args[0], env)
        }
        "min" | "max" => {
            arity(2)?;
            let (a, b) = (eval(&args[0], env)?, eval(&args[1], env)?);
            let less = binary(node, Op::Lt, a.clone(), b.clone())? == Value::Bool(true);
            Ok(if less == (name == "min") { a } else { b })
        }
        "sqrt" => {
            arity(1)?;
            float(node, &args[0], env).map(|v| Value::Float(v.sqrt()))
        }
        "log2" => {
            arity(1)?;
            float(node, &args[0], env).map(|v| Value::Float(v.log2()))
        }
        "pow" => {
            arity(2)?;
            Ok(Value::Float(
                float(node, &args[0], env)?.powf(float(node, &args[1], env)?),
            ))
        }
        _ => Err(fail(node, format!("unknown function `{name}`"))),
    }
}

/// The ceiling of `arg`; of a quotient of integers the exact one. Each operand is evaluated once, or nested calls
/// would take exponential time.
fn ceil(node: &Node, arg: &Node, env: &dyn Env) -> Result<Value, ExprError> {
    let value = match &arg.kind {
        Kind::Binary(Op::Div, a, b) => match (eval(a, env)?, eval(b, env)?) {
            (Value::Int(a), Value::Int(b)) if b <= 0 || a < 0 => {
                return Err(fail(node, format!("ceil of {a} / {b}")));
            }
            (Value::Int(a), Value::Int(b)) => {
                return Ok(Value::Int(a / b + i64::from(a % b != 0)));
            }
            (a, b) => binary(arg, Op::Div, a, b)?,
        },
        _ => eval(arg, env)?,
    };
    match value {
        Value::Int(v) => Ok(Value::Int(v)),
        // 2^63 is the first float past the integers.
        Value::Float(v) if v.ceil().abs() < 9_223_372_036_854_775_808.0 => {
            Ok(Value::Int(v.ceil() as i64))
        }
        Value::Float(v) => Err(fail(node, format!("ceil of {v} is no 64-bit integer"))),
        other => Err(fail(
            node,
            format!("expected a number, got {}", other.kind()),
        )),
    }
}

fn float(node: &Node, arg: &Node, env: &dyn Env) -> Result<f64, ExprError> {
    let value = eval(arg, env)?;
    value
        .as_float()
        .ok_or_else(|| fail(node, format!("expected a number, got {}", value.kind())))
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: u32,
}

const LEVELS: [&[(&str, Op)]; 5] = [
    &[("||", Op::Or)],
    &[("&&", Op::And)],
    &[
        ("==", Op::Eq),
        ("!=", Op::Ne),
        ("<=", Op::Le),
        (">=", Op::Ge),
        ("<", Op::Lt),
        (">", Op::Gt),
    ],
    &[("+", Op::Add), ("-", Op::Sub)],
    &[("*", Op::Mul), ("/", Op::Div), ("%", Op::Rem)],
];

impl Parser<'_> {
    fn space(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
    }

    fn error(&self, message: impl Into<String>) -> ExprError {
        let end = self.text[self.at..]
            .chars()
            .next()
            .map_or(self.at, |c| self.at + c.len_utf8());
        ExprError {
            message: message.into(),
            at: self.at..end,
        }
    }

    fn eat(&mut self, token: &str) -> bool {
        self.space();
        let found = self.text[self.at..].starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn node(&self, start: usize, kind: Kind) -> Result<Node, ExprError> {
        let below = match &kind {
            Kind::Literal(_) | Kind::Name(_) => 0,
            Kind::Unary(_, a) => a.height,
            Kind::Binary(_, a, b) => a.height.max(b.height),
            Kind::Call(_, args) => args.iter().map(|arg| arg.height).max().unwrap_or(0),
        };
        if below >= MAX_HEIGHT {
            return Err(self.error(format!(
                "more than {MAX_HEIGHT} operations on one another: name a part as a dim"
            )));
        }
        Ok(Node {
            kind,
            start: start as u32,
            end: self.at as u32,
            height: below + 1,
        })
    }

    fn binary(&mut self, level: usize) -> Result<Node, ExprError> {
        let Some(operators) = LEVELS.get(level) else {
            return self.unary();
        };
        self.space();
        let start = self.at;
        let mut left = self.binary(level + 1)?;
        while let Some((_, op)) = operators.iter().find(|(token, _)| self.eat(token)) {
            let right = self.binary(level + 1)?;
            left = self.node(start, Kind::Binary(*op, Box::new(left), Box::new(right)))?;
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Node, ExprError> {
        self.space();
        let start = self.at;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error(format!("nested deeper than {MAX_DEPTH}")));
        }
        let node = if self.eat("-") {
            let operand = self.unary()?;
            self.node(start, Kind::Unary(Op::Neg, Box::new(operand)))?
        } else if self.eat("!") {
            let operand = self.unary()?;
            self.node(start, Kind::Unary(Op::Not, Box::new(operand)))?
        } else {
            self.primary()?
        };
        self.depth -= 1;
        Ok(node)
    }

    fn primary(&mut self) -> Result<Node, ExprError> {
        let start = self.at;
        if self.eat("(") {
            let inner = self.binary(0)?;
            if !self.eat(")") {
                return Err(self.error("expected `)`"));
            }
            return Ok(inner);
        }
        let rest = &self.text[self.at..];
        match rest.chars().next() {
            Some('\'') => {
                let Some(len) = rest[1..].find('\'') else {
                    return Err(self.error("unclosed `'`"));
                };
                let text = rest[1..1 + len].to_string();
                self.at += len + 2;
                self.node(start, Kind::Literal(Value::Text(text)))
            }
            Some(c) if c.is_ascii_digit() => self.number(),
            Some(c) if c.is_alphabetic() || c == '_' => self.name_or_call(),
            Some(_) => Err(self.error("expected a value")),
            None => Err(self.error("expected a value, found the end")),
        }
    }

    fn number(&mut self) -> Result<Node, ExprError> {
        let start = self.at;
        let rest = &self.text[start..];
        let mut len = 0;
        let mut last = ' ';
        for c in rest.chars() {
            let exponent_sign = matches!(c, '+' | '-') && matches!(last, 'e' | 'E');
            if !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_') || exponent_sign) {
                break;
            }
            len += c.len_utf8();
            last = c;
        }
        self.at += len;
        let digits = rest[..len].replace('_', "");
        let value = match (digits.parse::<i64>(), digits.parse::<f64>()) {
            (Ok(v), _) => Value::Int(v),
            (_, Ok(v)) if v.is_finite() && digits.contains(['.', 'e', 'E']) => Value::Float(v),
            _ => {
                return Err(ExprError {
                    message: format!("`{digits}` is not a number"),
                    at: start..self.at,
                });
            }
        };
        self.node(start, Kind::Literal(value))
    }

    fn name_or_call(&mut self) -> Result<Node, ExprError> {
        let start = self.at;
        let rest = &self.text[start..];
        let len = rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.'))
            .unwrap_or(rest.len());
        let name = rest[..len].to_string();
        self.at += len;
        match name.as_str() {
            "true" => return self.node(start, Kind::Literal(Value::Bool(true))),
            "false" => return self.node(start, Kind::Literal(Value::Bool(false))),
            _ => {}
        }
        if !self.eat("(") {
            return self.node(start, Kind::Name(name));
        }
        let mut args = Vec::new();
        if !self.eat(")") {
            loop {
                args.push(self.binary(0)?);
                if self.eat(")") {
                    break;
                }
                if !self.eat(",") {
                    return Err(self.error("expected `,` or `)`"));
                }
            }
        }
        self.node(start, Kind::Call(name, args))
    }
}

#[cfg(test)]
mod tests;
