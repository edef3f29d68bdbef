//! Errors for people: a stable code, one sentence, the places involved, and what to do about it.
//!
//! A stage collects as many [`Diagnostic`]s as it can and stops at its end if any of them is an error.

use crate::span::{SourceMap, Span};

/// A stable code such as `G0207`. [`crate::codes`] holds the long explanation of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(pub &'static str);

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Compilation stops after the current stage.
    Error,
    /// Worth saying; compilation goes on.
    Warning,
}

/// A place with a few words about its part in the problem.
#[derive(Clone, Debug)]
pub struct Label {
    /// Where.
    pub span: Span,
    /// What is there; may be empty.
    pub text: String,
}

/// One problem.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    /// Its stable code.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// One sentence that names the pass or tensor and both sides of the conflict.
    pub message: String,
    /// The place it is about (first) and other places that take part.
    pub labels: Vec<Label>,
    /// Facts: how a place was reached, the arithmetic behind a number.
    pub notes: Vec<String>,
    /// What to do.
    pub help: Vec<String>,
}

impl Diagnostic {
    /// An error with no place yet.
    pub fn error(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            severity: Severity::Error,
            message: message.into(),
            labels: vec![],
            notes: vec![],
            help: vec![],
        }
    }
    /// A warning with no place yet.
    pub fn warning(code: Code, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(code, message)
        }
    }
    /// Adds a place; the first one added is the primary one.
    pub fn at(mut self, span: Span, text: impl Into<String>) -> Self {
        self.labels.push(Label {
            span,
            text: text.into(),
        });
        self
    }
    /// Adds a fact.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }
    /// Adds advice.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }
}

/// What a stage found. Returned as the error of a stage that found at least one [`Severity::Error`].
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    items: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Adds one.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.items.push(diagnostic);
    }
    /// Adds all of another collection.
    pub fn extend(&mut self, other: Diagnostics) {
        self.items.extend(other.items);
    }
    /// All of them in the order they were found.
    pub fn items(&self) -> &[Diagnostic] {
        &self.items
    }
    /// Whether any of them is an error.
    pub fn has_errors(&self) -> bool {
        self.items
            .iter()
            .any(|item| item.severity == Severity::Error)
    }
    /// `Err(self)` if any of them is an error.
    pub fn into_result(self) -> Result<Vec<Diagnostic>, Diagnostics> {
        if self.has_errors() {
            Err(self)
        } else {
            Ok(self.items)
        }
    }
    /// The text that people see; `color` adds terminal colours.
    pub fn render(&self, sources: &SourceMap, color: bool) -> String {
        render::all(&self.items, sources, color)
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(item: Diagnostic) -> Self {
        Self { items: vec![item] }
    }
}

/// The name among `candidates` nearest to `wanted` by edit distance, if it is near enough to be meant.
pub fn nearest<'a>(wanted: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (wanted.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (edit_distance(wanted, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many letters are wrong, too many or missing, or stand in each other's place (optimal string alignment: Wagner and
/// Fischer 1974, with neighbours that changed places as one mistake).
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before = vec![0; b.len() + 1];
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut next = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let substitute = row[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            next[j] = substitute.min(next[j - 1] + 1).min(row[j] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                next[j] = next[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut row, next);
    }
    row[b.len()]
}

mod render {
    //! Diagnostics to text through codespan-reporting.
    use super::{Diagnostic, Severity};
    use crate::span::SourceMap;
    use codespan_reporting::diagnostic::{self as cs, LabelStyle};
    use codespan_reporting::files::SimpleFiles;
    use codespan_reporting::term;

    pub(super) fn all(items: &[Diagnostic], sources: &SourceMap, color: bool) -> String {
        let mut files = SimpleFiles::new();
        for file in sources.files() {
            files.add(file.path.clone(), file.text.clone());
        }
        let config = term::Config::default();
        let mut buffer = if color {
            term::termcolor::Buffer::ansi()
        } else {
            term::termcolor::Buffer::no_color()
        };
        for item in items {
            // Writing to memory fails only for a label outside its file, which would be our own mistake:
            // then the message alone is still better than nothing.
            if term::emit_to_write_style(&mut buffer, &config, &files, &convert(item)).is_err() {
                use std::io::Write as _;
                let _ = writeln!(buffer, "{}: {}", item.code.0, item.message);
            }
        }
        String::from_utf8_lossy(buffer.as_slice()).into_owned()
    }

    fn convert(item: &Diagnostic) -> cs::Diagnostic<usize> {
        let severity = match item.severity {
            Severity::Error => cs::Severity::Error,
            Severity::Warning => cs::Severity::Warning,
        };
        let labels = item.labels.iter().enumerate().map(|(index, label)| {
            let style = if index == 0 {
                LabelStyle::Primary
            } else {
                LabelStyle::Secondary
            };
            let range = label.span.start as usize..label.span.end as usize;
            cs::Label::new(style, label.span.file.0 as usize, range).with_message(&label.text)
        });
        let notes = item
            .notes
            .iter()
            .cloned()
            .chain(item.help.iter().map(|help| format!("help: {help}")));
        cs::Diagnostic::new(severity)
            .with_code(item.code.0)
            .with_message(&item.message)
            .with_labels(labels.collect())
            .with_notes(notes.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_near_enough() {
        for (wanted, near) in [
            ("tahn", Some("tanh")),
            ("tan", Some("tanh")),
            ("tanhh", Some("tanh")),
            ("hnat", None),
            ("", None),
        ] {
            assert_eq!(nearest(wanted, ["linear", "tanh"]), near, "{wanted}");
        }
        assert_eq!(edit_distance("ab", "ba"), 1);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
    }
}
