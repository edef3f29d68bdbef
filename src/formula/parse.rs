//! Definitions: text to tree. Names stay names. Recursive descent with a depth limit; there is no backtracking, so
//! the work is linear in the text.
//!
//! The operators are those of `expr`, whose parser has the same shape. They share the reading of numbers alone: names,
//! nodes, limits and errors differ, and one descent over all of these would be a trait for forty lines.

use super::{FormulaError, MAX_DEPTH, MAX_TEXT};
use crate::expr::number;

/// `name[i<m, j<n] = body`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Definition {
    pub(super) name: String,
    /// Index names with their bounds.
    pub(super) bounds: Vec<(String, Node)>,
    pub(super) body: Node,
    /// The whole text, for messages.
    pub(super) text: String,
}

/// A part of a definition with its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) at: (u32, u32),
    /// Height of the tree below: what bounds every later recursion.
    depth: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Number(f64),
    Text(String),
    Name(String),
    /// `name[index, ..]`
    Element(String, Vec<Node>),
    Negate(Box<Node>),
    Not(Box<Node>),
    Binary(Op, Box<Node>, Box<Node>),
    Call(String, Vec<Node>),
    /// `sum(p<k: body)` or `max(p in a..b: body)`
    Reduce(Reduction, String, Box<Range>, Box<Node>),
}

/// Where a reduction's index runs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Range {
    /// First value, 0 if `None`.
    pub(super) start: Option<Node>,
    /// One past the last value.
    pub(super) end: Node,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reduction {
    Sum,
    Max,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Or,
    And,
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
    FloorDiv,
    Rem,
}

/// Parses all definitions of a formula.
pub(super) fn formula(texts: &[String]) -> Result<Vec<Definition>, FormulaError> {
    let size: usize = texts.iter().map(String::len).sum();
    let mut definitions: Vec<Definition> = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let mut parser = Parser {
            text,
            definition: index,
            at: 0,
            depth: 0,
        };
        if size > MAX_TEXT {
            return Err(parser.error(format!(
                "formula of {size} bytes, at most {MAX_TEXT} are read"
            )));
        }
        let definition = parser.definition()?;
        if definitions
            .iter()
            .any(|other| other.name == definition.name)
        {
            return Err(parser.error_at(0, format!("`{}` is defined twice", definition.name)));
        }
        definitions.push(definition);
    }
    Ok(definitions)
}

impl FormulaError {
    /// An error at a byte range of a definition's text.
    pub(super) fn new(
        definition: usize,
        text: &str,
        at: (u32, u32),
        message: impl Into<String>,
    ) -> Self {
        let mut at = at.0 as usize..at.1 as usize;
        let excerpt = text.get(at.clone()).unwrap_or(text).trim_end();
        at.end = at.start + excerpt.len();
        Self {
            message: message.into(),
            definition,
            excerpt: excerpt.to_string(),
            at,
            help: None,
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    definition: usize,
    at: usize,
    depth: u32,
}

/// Binary operators, loosest first. A longer token stands before its prefix.
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
    &[
        ("*", Op::Mul),
        ("//", Op::FloorDiv),
        ("/", Op::Div),
        ("%", Op::Rem),
    ],
];

/// The level of `LEVELS` whose operands a bound may be made of.
const ADDITIVE: usize = 3;

impl Parser<'_> {
    fn definition(&mut self) -> Result<Definition, FormulaError> {
        let name = self.name("a name to define")?;
        let mut bounds: Vec<(String, Node)> = Vec::new();
        if self.eat("[") {
            loop {
                let index = self.name("an index with its bound, such as `i<m`")?;
                self.expect("<")?;
                let bound = self.binary(ADDITIVE)?;
                if bounds.iter().any(|(other, _)| *other == index) {
                    return Err(self.error(format!("index `{index}` stands twice")));
                }
                bounds.push((index, bound));
                if self.eat("]") {
                    break;
                }
                self.expect(",")?;
            }
        }
        self.expect("=")?;
        let body = self.binary(0)?;
        self.space();
        if self.at < self.text.len() {
            return Err(self.error("expected an operator or the end"));
        }
        Ok(Definition {
            name,
            bounds,
            body,
            text: self.text.to_string(),
        })
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn error(&self, message: impl Into<String>) -> FormulaError {
        let end = self
            .rest()
            .chars()
            .next()
            .map_or(self.at, |c| self.at + c.len_utf8());
        // At the end of the text the whole definition is the best excerpt.
        let start = if end == self.at { 0 } else { self.at };
        FormulaError::new(
            self.definition,
            self.text,
            (start as u32, end as u32),
            message,
        )
    }

    fn error_at(&self, start: usize, message: impl Into<String>) -> FormulaError {
        let at = (start as u32, self.at as u32);
        FormulaError::new(self.definition, self.text, at, message)
    }

    fn eat(&mut self, token: &str) -> bool {
        self.space();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn expect(&mut self, token: &str) -> Result<(), FormulaError> {
        if self.eat(token) {
            Ok(())
        } else {
            Err(self.error(format!("expected `{token}`")))
        }
    }

    fn name(&mut self, what: &str) -> Result<String, FormulaError> {
        self.space();
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let len = self
            .rest()
            .find(|c| !is_part(c))
            .unwrap_or(self.rest().len());
        if len == 0 || self.rest().starts_with(|c: char| c.is_ascii_digit()) {
            return Err(self.error(format!("expected {what}")));
        }
        let name = self.rest()[..len].to_string();
        self.at += len;
        Ok(name)
    }

    fn node(&self, start: usize, kind: Kind) -> Result<Node, FormulaError> {
        let below = |nodes: &[Node]| nodes.iter().map(|node| node.depth).max().unwrap_or(0);
        let depth = 1 + match &kind {
            Kind::Number(_) | Kind::Text(_) | Kind::Name(_) => 0,
            Kind::Element(_, nodes) | Kind::Call(_, nodes) => below(nodes),
            Kind::Negate(a) | Kind::Not(a) => a.depth,
            Kind::Binary(_, a, b) => a.depth.max(b.depth),
            Kind::Reduce(_, _, range, body) => {
                let start = range.start.as_ref().map_or(0, |node| node.depth);
                body.depth.max(range.end.depth).max(start)
            }
        };
        if depth > MAX_DEPTH {
            return Err(self.error_at(start, format!("nested deeper than {MAX_DEPTH}")));
        }
        let at = (start as u32, self.at as u32);
        Ok(Node { kind, at, depth })
    }

    fn binary(&mut self, level: usize) -> Result<Node, FormulaError> {
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

    fn unary(&mut self) -> Result<Node, FormulaError> {
        self.space();
        let start = self.at;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error(format!("nested deeper than {MAX_DEPTH}")));
        }
        let node = if self.eat("-") {
            let operand = self.unary()?;
            self.node(start, Kind::Negate(Box::new(operand)))?
        } else if self.eat("!") {
            let operand = self.unary()?;
            self.node(start, Kind::Not(Box::new(operand)))?
        } else {
            self.primary()?
        };
        self.depth -= 1;
        Ok(node)
    }

    fn primary(&mut self) -> Result<Node, FormulaError> {
        let start = self.at;
        if self.eat("(") {
            let inner = self.binary(0)?;
            self.expect(")")?;
            return Ok(inner);
        }
        match self.rest().chars().next() {
            Some('\'') => {
                let Some(len) = self.rest()[1..].find('\'') else {
                    return Err(self.error("unclosed `'`"));
                };
                let text = self.rest()[1..1 + len].to_string();
                self.at += len + 2;
                self.node(start, Kind::Text(text))
            }
            Some(c) if c.is_ascii_digit() => self.number(),
            _ => {
                let name = self.name("a value")?;
                self.after_name(start, name)
            }
        }
    }

    fn number(&mut self) -> Result<Node, FormulaError> {
        let start = self.at;
        let (len, value) = number(&self.text[start..]);
        self.at += len;
        match value.and_then(|value| value.as_float()) {
            Some(value) => self.node(start, Kind::Number(value)),
            None => Err(self.error_at(start, "not a number")),
        }
    }

    fn after_name(&mut self, start: usize, name: String) -> Result<Node, FormulaError> {
        if self.eat("[") {
            let mut indices = Vec::new();
            loop {
                indices.push(self.binary(0)?);
                if self.eat("]") {
                    break;
                }
                if !self.eat(",") {
                    return Err(self.error("expected `,` or `]`"));
                }
            }
            return self.node(start, Kind::Element(name, indices));
        }
        if !self.eat("(") {
            return self.node(start, Kind::Name(name));
        }
        let reduction = match name.as_str() {
            "sum" => Some(Reduction::Sum),
            "max" => Some(Reduction::Max),
            _ => None,
        };
        if let Some(reduction) = reduction
            && let Some(index) = self.range_index()
        {
            let first = self.binary(ADDITIVE)?;
            self.expect("..")?;
            let range = Range {
                start: Some(first),
                end: self.binary(ADDITIVE)?,
            };
            self.expect(":")?;
            return self.reduction_body(start, reduction, vec![(index, range)]);
        }
        let mut args = Vec::new();
        if !self.eat(")") {
            loop {
                args.push(self.binary(0)?);
                if self.eat(")") {
                    break;
                }
                if let Some(reduction) = reduction
                    && self.eat(":")
                {
                    let indices = args
                        .into_iter()
                        .map(|arg| self.bounded(arg))
                        .collect::<Result<_, _>>()?;
                    return self.reduction_body(start, reduction, indices);
                }
                if !self.eat(",") {
                    return Err(self.error("expected `,` or `)`"));
                }
            }
        }
        self.node(start, Kind::Call(name, args))
    }

    /// Eats `p in` and gives `p`, or eats nothing.
    fn range_index(&mut self) -> Option<String> {
        let before = self.at;
        let index = self.name("an index").ok();
        if index.is_some() && self.name("`in`").is_ok_and(|word| word == "in") {
            return index;
        }
        self.at = before;
        None
    }

    /// `p < bound`, read as a comparison before the `:` showed that it is an index with its bound.
    fn bounded(&self, arg: Node) -> Result<(String, Range), FormulaError> {
        if let Kind::Binary(Op::Lt, index, bound) = arg.kind
            && let Kind::Name(index) = index.kind
        {
            return Ok((
                index,
                Range {
                    start: None,
                    end: *bound,
                },
            ));
        }
        let message = "expected an index with its bound, such as `p<k`";
        Err(FormulaError::new(
            self.definition,
            self.text,
            arg.at,
            message,
        ))
    }

    fn reduction_body(
        &mut self,
        start: usize,
        reduction: Reduction,
        indices: Vec<(String, Range)>,
    ) -> Result<Node, FormulaError> {
        let mut body = self.binary(0)?;
        self.expect(")")?;
        for (index, range) in indices.into_iter().rev() {
            let kind = Kind::Reduce(reduction, index, Box::new(range), Box::new(body));
            body = self.node(start, kind)?;
        }
        Ok(body)
    }
}
