//! Expressions and templates of graph files, with their places in errors.

use std::collections::BTreeMap;

use crate::codes::graph as codes;
use crate::diag::{Diagnostic, nearest};
use crate::expr::{Expr, ExprError, Value};
use crate::span::Span;
use crate::text::ast::Name;

/// Names that expressions see: params, dims, indices, block params.
pub(super) type Scope = BTreeMap<String, Value>;

/// The longest text that a template may become.
const MAX_TEXT: usize = 4096;

/// The value of an expression.
pub(super) fn value(text: &Name, env: &Scope) -> Result<Value, Box<Diagnostic>> {
    let expr = parse(text)?;
    expr.eval(env)
        .map_err(|error| failed(text, 0, &error, Some(&expr), env))
}

/// The value of an expression that must be a size of at least 1.
pub(super) fn size(text: &Name, env: &Scope) -> Result<u64, Box<Diagnostic>> {
    let expr = parse(text)?;
    let size = expr
        .eval_size(env)
        .map_err(|error| failed(text, 0, &error, Some(&expr), env))?;
    if size == 0 {
        let message = format!("`{}` is 0; a dimension is at least 1", text.value);
        return Err(with_numbers(
            Diagnostic::error(codes::BAD_SIZE, message).at(text.span, ""),
            &expr,
            env,
        )
        .into());
    }
    Ok(size)
}

/// The value of an expression that must be a number of at least 0.
pub(super) fn count(text: &Name, env: &Scope) -> Result<u64, Box<Diagnostic>> {
    let expr = parse(text)?;
    expr.eval_size(env)
        .map_err(|error| failed(text, 0, &error, Some(&expr), env))
}

/// The value of an expression that must be a number.
pub(super) fn float(text: &Name, env: &Scope) -> Result<f64, Box<Diagnostic>> {
    let expr = parse(text)?;
    expr.eval_float(env)
        .map_err(|error| failed(text, 0, &error, Some(&expr), env))
}

/// The value of an expression that must be a condition; a missing one holds.
pub(super) fn holds(text: Option<&Name>, env: &Scope) -> Result<bool, Box<Diagnostic>> {
    let Some(text) = text else { return Ok(true) };
    let expr = parse(text)?;
    expr.eval_bool(env)
        .map_err(|error| failed(text, 0, &error, Some(&expr), env))
}

/// The value of an expression, or the bare word itself if no name of the environment is meant: `(value, bare)`.
pub(super) fn word(text: &Name, env: &Scope) -> Result<(Value, bool), Box<Diagnostic>> {
    let expr = parse(text)?;
    match expr.as_name() {
        Some(name) if !env.contains_key(name) => Ok((Value::Text(name.into()), true)),
        _ => Ok((value(text, env)?, false)),
    }
}

/// A template with its holes filled.
pub(super) fn template(text: &Name, env: &Scope) -> Result<String, Box<Diagnostic>> {
    let mut out = String::new();
    let mut at = 0;
    let broken = |problem: &str| {
        let message = format!("template `{}` {problem}", text.value);
        Box::new(Diagnostic::error(codes::BAD_TEMPLATE, message).at(text.span, ""))
    };
    while let Some(open) = text.value[at..].find('{').map(|found| at + found) {
        out += &text.value[at..open];
        let Some(close) = text.value[open..].find('}').map(|found| open + found) else {
            return Err(broken(
                "has a `{` without `}` (write `{name}` for the value of a name)",
            ));
        };
        let hole = &text.value[open + 1..close];
        let expr = Expr::parse(hole).map_err(|error| failed(text, open + 1, &error, None, env))?;
        let value = expr
            .eval(env)
            .map_err(|error| failed(text, open + 1, &error, Some(&expr), env))?;
        out += &value.to_string();
        at = close + 1;
        if out.len() > MAX_TEXT {
            return Err(broken(&format!("becomes longer than {MAX_TEXT} bytes")));
        }
    }
    if text.value[at..].contains('}') {
        return Err(broken("has a `}` without `{`"));
    }
    out += &text.value[at..];
    Ok(out)
}

/// Parses an expression.
pub(super) fn parse(text: &Name) -> Result<Expr, Box<Diagnostic>> {
    Expr::parse(&text.value).map_err(|error| failed(text, 0, &error, None, &Scope::new()))
}

/// The error for an expression that stands `offset` bytes inside `text`.
fn failed(
    text: &Name,
    offset: usize,
    error: &ExprError,
    expr: Option<&Expr>,
    env: &Scope,
) -> Box<Diagnostic> {
    let message = format!("`{}`: {}", text.value, error.message);
    let mut diagnostic =
        Diagnostic::error(codes::BAD_EXPRESSION, message).at(inside(text, offset, error), "");
    diagnostic.help.extend(error.help.clone());
    let Some(expr) = expr else {
        return diagnostic.into();
    };
    for name in expr
        .names()
        .into_iter()
        .filter(|name| !env.contains_key(*name))
    {
        diagnostic = match nearest(name, env.keys().map(String::as_str)) {
            Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
            None => diagnostic.help(format!("`{name}` is no param, dim or index here")),
        };
    }
    with_numbers(diagnostic, expr, env).into()
}

/// Adds the value of every name of the expression.
pub(super) fn with_numbers(diagnostic: Diagnostic, expr: &Expr, env: &Scope) -> Diagnostic {
    let mut names = expr.names();
    names.sort_unstable();
    names.dedup();
    let numbers = names
        .iter()
        .filter_map(|name| Some(format!("{name} = {}", env.get(*name)?)));
    let numbers: Vec<String> = numbers.collect();
    if numbers.is_empty() {
        diagnostic
    } else {
        diagnostic.note(numbers.join(", "))
    }
}

/// The part of a text's span that an error is about. A span may include the quotes; a text with escapes has no
/// byte-for-byte place, and then the whole is meant.
fn inside(text: &Name, offset: usize, error: &ExprError) -> Span {
    let length = (text.span.end - text.span.start) as usize;
    let quotes = match length.checked_sub(text.value.len()) {
        Some(0) => 0,
        Some(2) => 1,
        _ => return text.span,
    };
    let from = (quotes + offset + error.at.start).min(length);
    let to = (quotes + offset + error.at.end).clamp(from, length);
    Span {
        file: text.span.file,
        start: text.span.start + from as u32,
        end: text.span.start + to as u32,
    }
}
