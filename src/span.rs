//! Places in source text. All text that a compilation reads lives in one [`SourceMap`]; everything else
//! holds [`Span`]s into it.

use serde::{Deserialize, Serialize};

/// A file of a [`SourceMap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileId(pub u32);

/// A byte range `start..end` of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Span {
    /// The file the range is in.
    pub file: FileId,
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// A value and the place it was read from. Only names, references and expressions are wrapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spanned<T> {
    /// What was read.
    pub value: T,
    /// Where it was read.
    pub span: Span,
}

impl<T> std::ops::Deref for Spanned<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

/// Why a source could not be had.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct SourceError {
    /// The path as asked for.
    pub path: String,
    /// What the reader said.
    pub reason: String,
}

/// Gives text by path. The compiler never opens files: the command line passes a reader of a folder, tests
/// pass a map in memory.
pub trait Sources {
    /// The text of `path` (with `/` separators, relative to the reader's root, already normalised).
    fn read(&self, path: &str) -> Result<String, SourceError>;
    /// The paths of all `.ron` files directly under the folder `path`, sorted.
    fn list(&self, path: &str) -> Result<Vec<String>, SourceError>;
}

impl Sources for std::collections::BTreeMap<String, String> {
    fn read(&self, path: &str) -> Result<String, SourceError> {
        self.get(path).cloned().ok_or_else(|| SourceError {
            path: path.into(),
            reason: "no such source".into(),
        })
    }
    fn list(&self, path: &str) -> Result<Vec<String>, SourceError> {
        let inside = |key: &&String| {
            key.strip_prefix(path)
                .and_then(|rest| rest.strip_prefix('/'))
                .is_some_and(|rest| rest.ends_with(".ron") && !rest.contains('/'))
        };
        Ok(self.keys().filter(inside).cloned().collect())
    }
}

/// One text.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// Its path as shown to people.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// Every text of a compilation.
#[derive(Clone, Debug, Default)]
pub struct SourceMap {
    files: Vec<SourceFile>,
}

impl SourceMap {
    /// Adds a text and returns its id.
    pub fn add(&mut self, path: impl Into<String>, text: impl Into<String>) -> FileId {
        self.files.push(SourceFile {
            path: path.into(),
            text: text.into(),
        });
        FileId((self.files.len() - 1) as u32)
    }
    /// The file behind an id of this map.
    pub fn file(&self, id: FileId) -> &SourceFile {
        &self.files[id.0 as usize]
    }
    /// All files in the order of their ids.
    pub fn files(&self) -> &[SourceFile] {
        &self.files
    }
    /// 1-based line and column (in characters) of a span's start.
    pub fn line_col(&self, span: Span) -> (u32, u32) {
        let text = &self.file(span.file).text;
        let before = text.get(..span.start as usize).unwrap_or(text);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() as u32 + 1;
        let col = before
            .rsplit('\n')
            .next()
            .map_or(0, |last| last.chars().count()) as u32
            + 1;
        (line, col)
    }
    /// `file:line:col` of a span's start.
    pub fn place(&self, span: Span) -> String {
        let (line, col) = self.line_col(span);
        format!("{}:{line}:{col}", self.file(span.file).path)
    }
}
