//! The text of an expression to its tree, by recursive descent with one function for all binary operators.

use super::number::number;
use super::{ExprError, FUNCTIONS, Kind, Node, Op, Value};
use crate::diag::nearest;

/// The deepest nesting an expression may have.
const MAX_DEPTH: u32 = 64;

/// The highest tree an expression may make; a chain of operators grows by one with each.
const MAX_HEIGHT: u16 = 256;

/// The longest text that is read as an expression, in bytes.
const MAX_TEXT: usize = 4096;

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

/// Reads all of `text`.
pub(super) fn parse(text: &str) -> Result<Node, ExprError> {
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
    Ok(root)
}

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
            help: None,
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
        let (len, value) = number(&self.text[start..]);
        self.at += len;
        match value {
            Some(value) => self.node(start, Kind::Literal(value)),
            None => Err(ExprError {
                message: format!("`{}` is not a number", &self.text[start..self.at]),
                at: start..self.at,
                help: None,
            }),
        }
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
        self.known(start, &name, args.len())?;
        self.node(start, Kind::Call(name, args))
    }

    /// Whether there is such a function of that many arguments.
    fn known(&self, start: usize, name: &str, count: usize) -> Result<(), ExprError> {
        let names = || FUNCTIONS.iter().map(|(name, _)| *name);
        match FUNCTIONS.iter().find(|(known, _)| *known == name) {
            Some((_, wanted)) if *wanted == count => Ok(()),
            Some((_, wanted)) => Err(ExprError {
                message: format!(
                    "`{name}` takes {wanted} argument{}, found {count}",
                    if *wanted == 1 { "" } else { "s" }
                ),
                at: start..self.at,
                help: None,
            }),
            None => Err(ExprError {
                message: format!("unknown function `{name}`"),
                at: start..start + name.len(),
                help: Some(match nearest(name, names()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!(
                        "the functions are {}",
                        names().collect::<Vec<_>>().join(", ")
                    ),
                }),
            }),
        }
    }
}
