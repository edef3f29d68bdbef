//! One file: RON to syntax. ron's errors become diagnostics with a code, a place and advice.

use ron::error::Error as RonError;
use ron::extensions::Extensions;
use serde::de::DeserializeOwned;

use crate::codes::text as codes;
use crate::diag::{Code, Diagnostic, Diagnostics, nearest};
use crate::span::{FileId, SourceMap, Span};
use crate::text::ast::File;
use crate::text::place;

/// The largest file that is read, in bytes.
pub const MAX_FILE_BYTES: usize = 1 << 20;

/// The deepest nesting, as ron counts it: brackets, items and optional fields, about six for a `Repeat` in a
/// `Repeat`. Each level costs a few frames of the reader's stack, so that this also bounds the stack.
const MAX_NESTING: usize = 96;

/// The options of every RON file of the project: `Some` is implied, newtypes and newtype variants need no second
/// pair of parentheses.
pub fn options() -> ron::Options {
    ron::Options::default()
        .with_default_extension(Extensions::IMPLICIT_SOME)
        .with_default_extension(Extensions::UNWRAP_NEWTYPES)
        .with_default_extension(Extensions::UNWRAP_VARIANT_NEWTYPES)
        .with_recursion_limit(MAX_NESTING)
}

/// The syntax of a graph file of `map`.
pub fn parse(file: FileId, map: &SourceMap) -> Result<File, Diagnostics> {
    read(file, map)
}

/// A file of `map` as any syntax made of texts with places ([`crate::text::ast::Name`]): graph files and kernel
/// manifests follow the same rules. Stops at the first problem: RON has no safe place to go on from.
pub(crate) fn read<T: DeserializeOwned>(file: FileId, map: &SourceMap) -> Result<T, Diagnostics> {
    let text = map.file(file).text.as_str();
    let whole = Span {
        file,
        start: 0,
        end: 0,
    };
    if text.len() > MAX_FILE_BYTES {
        let message = format!(
            "`{}` has {} bytes; a file may have {MAX_FILE_BYTES}",
            map.file(file).path,
            text.len()
        );
        return Err(Diagnostic::error(codes::TOO_BIG, message)
            .at(whole, "")
            .help("move blocks into files of their own and include them")
            .into());
    }
    let (result, problem) = place::reading(file, text, || options().from_str::<T>(text));
    result.map_err(|error| match problem {
        Some(problem) => problem.into(),
        None => diagnose(&error, file, text).into(),
    })
}

/// What ron says, as a diagnostic.
fn diagnose(error: &ron::error::SpannedError, file: FileId, text: &str) -> Diagnostic {
    let start = offset(text, error.span.start.line, error.span.start.col);
    let end = offset(text, error.span.end.line, error.span.end.col).max(start);
    let inside = text.get(start..end).unwrap_or_default();
    let blank = inside.len() - inside.trim_start().len();
    let span = Span {
        file,
        start: (start + blank) as u32,
        end: end as u32,
    };
    let (code, message, help) = match text.trim().is_empty() {
        true => syntax("there is nothing in this file"),
        false => describe(&error.code),
    };
    let problem = Diagnostic::error(code, message).at(span, "");
    match help {
        Some(help) => problem.help(help),
        None => problem,
    }
}

/// The byte at a 1-based line and column, counted in characters.
fn offset(text: &str, line: usize, col: usize) -> usize {
    let start: usize = text
        .split_inclusive('\n')
        .take(line.saturating_sub(1))
        .map(str::len)
        .sum();
    let rest = text.get(start..).unwrap_or_default();
    let within = rest
        .char_indices()
        .nth(col.saturating_sub(1))
        .map_or(rest.len(), |(at, _)| at);
    start + within
}

fn describe(error: &RonError) -> (Code, String, Option<String>) {
    let in_outer = |outer: &Option<String>| match outer {
        Some(outer) => format!(" in `{outer}`"),
        None => String::new(),
    };
    match error {
        RonError::NoSuchStructField {
            expected,
            found,
            outer,
        } => (
            codes::UNKNOWN_FIELD,
            format!("unknown field `{found}`{}", in_outer(outer)),
            Some(meant(found, expected)),
        ),
        RonError::NoSuchEnumVariant {
            expected,
            found,
            outer: _,
        } => (
            codes::UNKNOWN_ITEM,
            format!("unknown item `{found}`"),
            Some(meant(found, expected)),
        ),
        RonError::MissingStructField { field, outer } => (
            codes::MISSING_FIELD,
            format!("field `{field}` is missing{}", in_outer(outer)),
            None,
        ),
        RonError::DuplicateStructField { field, outer } => (
            codes::DUPLICATE_KEY,
            format!("field `{field}` stands twice{}", in_outer(outer)),
            Some("remove one of the two".into()),
        ),
        RonError::ExceededRecursionLimit => (
            codes::TOO_DEEP,
            "items stand too deeply inside each other".into(),
            Some("move inner items into a block and `Use` it".into()),
        ),
        RonError::ExpectedArray => wrong("expected a list `[..]`"),
        RonError::ExpectedMap => wrong("expected a map `{ \"key\": value }`"),
        RonError::ExpectedStructLike => wrong("expected `(`"),
        RonError::ExpectedNamedStructLike(name) => wrong(&format!("expected `{name}(..)`")),
        RonError::ExpectedDifferentStructName { expected, found } => {
            wrong(&format!("expected `{expected}(..)`, found `{found}`"))
        }
        RonError::ExpectedInteger | RonError::IntegerOutOfBounds => {
            wrong("expected an integer without quotes")
        }
        RonError::ExpectedString => wrong("expected a text in quotes"),
        RonError::InvalidValueForType { expected, found } => {
            wrong(&format!("expected {expected}, found {found}"))
        }
        RonError::ExpectedDifferentLength { expected, found } => {
            wrong(&format!("expected {expected}, found {found} values"))
        }
        RonError::ExpectedComma => syntax("expected `,` before this"),
        RonError::ExpectedStringEnd => syntax("this text has no closing quote"),
        RonError::Eof => syntax("the file ends too early: a bracket or a quote is still open"),
        RonError::TrailingCharacters => syntax("a file holds one item; this comes after its end"),
        RonError::ExpectedArrayEnd => syntax("expected `]`"),
        RonError::ExpectedMapEnd => syntax("expected `}`"),
        RonError::ExpectedStructLikeEnd | RonError::ExpectedOptionEnd => syntax("expected `)`"),
        RonError::ExpectedMapColon => syntax("expected `:`"),
        RonError::UnclosedBlockComment => syntax("a comment `/*` has no `*/`"),
        other => (codes::SYNTAX, sentence(&other.to_string()), None),
    }
}

fn syntax(message: &str) -> (Code, String, Option<String>) {
    (codes::SYNTAX, message.into(), None)
}

fn wrong(message: &str) -> (Code, String, Option<String>) {
    (codes::WRONG_TYPE, message.into(), None)
}

/// `did you mean` or the list of what could stand here.
fn meant(found: &str, expected: &[&str]) -> String {
    if let Some(near) = nearest(found, expected.iter().copied()) {
        return format!("did you mean `{near}`?");
    }
    match expected {
        [] => "nothing can stand here".into(),
        [only] => format!("`{only}` can stand here"),
        many => format!("one of {} can stand here", quoted(many)),
    }
}

fn quoted(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

/// ron starts its messages with a capital letter; ours do not.
fn sentence(message: &str) -> String {
    let mut chars = message.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
