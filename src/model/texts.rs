//! Texts from lines: plain ones, or a field of JSON objects.
//!
//! In: a reader. Out: one text for each line, an empty one included; a line is ended by `\n` or `\r\n`, and the
//! last one may lack it. What always holds: a line is read into memory only up to the longest text allowed.

use std::io::{BufRead, Read as _};

use super::embed::BoxError;
use super::tokenizer::MAX_TEXT_BYTES;

/// JSON may escape each byte of a text with six.
const MAX_LINE_BYTES: usize = 6 * MAX_TEXT_BYTES;

/// Why a line is no text. All have the code G0806.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The reader failed.
    #[error("line {line} cannot be read: {reason}")]
    Read {
        /// From 1.
        line: u64,
        /// What the reader said.
        reason: std::io::Error,
    },
    /// Longer than any text may be.
    #[error("line {line} is longer than {MAX_LINE_BYTES} bytes")]
    TooLong {
        /// From 1.
        line: u64,
    },
    /// Not text.
    #[error("line {line} is not UTF-8 (its byte {at} is not)")]
    NotUtf8 {
        /// From 1.
        line: u64,
        /// From 1.
        at: usize,
    },
    /// Not JSON.
    #[error("line {line} is not JSON: {reason}")]
    NotJson {
        /// From 1.
        line: u64,
        /// What the parser said.
        reason: String,
    },
    /// JSON, but not an object with that field.
    #[error("line {line} has no text in the field `{field}`: it is {found}")]
    NoField {
        /// From 1.
        line: u64,
        /// As asked for.
        field: String,
        /// What is there.
        found: &'static str,
    },
}

/// The lines of a reader as texts; with a field, the texts in that field of JSON objects.
pub struct Texts<R> {
    reader: R,
    field: Option<String>,
    line: u64,
}

impl<R: BufRead> Texts<R> {
    /// From the start of the reader.
    pub fn new(reader: R, field: Option<String>) -> Self {
        Self {
            reader,
            field,
            line: 0,
        }
    }

    fn read(&mut self) -> Result<Option<String>, LineError> {
        self.line += 1;
        let line = self.line;
        let mut bytes = vec![];
        let limit = MAX_LINE_BYTES as u64 + 1;
        let count = (&mut self.reader)
            .take(limit)
            .read_until(b'\n', &mut bytes)
            .map_err(|reason| LineError::Read { line, reason })?;
        if count == 0 {
            return Ok(None);
        }
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        if bytes.len() > MAX_LINE_BYTES {
            return Err(LineError::TooLong { line });
        }
        let text = String::from_utf8(bytes).map_err(|error| LineError::NotUtf8 {
            line,
            at: error.utf8_error().valid_up_to() + 1,
        })?;
        match &self.field {
            None => Ok(Some(text)),
            Some(field) => in_field(&text, field, line).map(Some),
        }
    }
}

fn in_field(text: &str, field: &str, line: u64) -> Result<String, LineError> {
    use serde_json::Value;
    let value: Value = serde_json::from_str(text).map_err(|error| LineError::NotJson {
        line,
        reason: error.to_string(),
    })?;
    let found = match value {
        Value::Object(mut object) => match object.remove(field) {
            Some(Value::String(text)) => return Ok(text),
            Some(_) => "not a string",
            None => "missing",
        },
        _ => "missing, because the line is not an object",
    };
    Err(LineError::NoField {
        line,
        field: field.into(),
        found,
    })
}

impl<R: BufRead> Iterator for Texts<R> {
    type Item = Result<String, BoxError>;
    fn next(&mut self) -> Option<Self::Item> {
        self.read().map_err(BoxError::from).transpose()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn read(bytes: &[u8], field: Option<&str>) -> Vec<Result<String, String>> {
        Texts::new(bytes, field.map(String::from))
            .map(|text| text.map_err(|error| error.to_string()))
            .collect()
    }

    #[test]
    fn a_text_for_each_line_even_an_empty_one() {
        let texts: Vec<String> = read("one\r\n\nthr\u{e9}e".as_bytes(), None)
            .into_iter()
            .map(Result::unwrap)
            .collect();
        assert_eq!(texts, ["one", "", "thr\u{e9}e"]);
        assert_eq!(read(b"", None), []);
        assert_eq!(read(b"\n", None), [Ok(String::new())]);
    }

    #[test]
    fn json_fields() {
        let lines = b"{\"id\": 1, \"text\": \"a\\nb\"}\n{\"id\": 2}\n{\"text\": 3}\n[1]\nnope\n";
        let texts = read(lines, Some("text"));
        assert_eq!(texts[0], Ok("a\nb".into()));
        let errors: Vec<&str> = texts[1..]
            .iter()
            .map(|text| text.as_ref().unwrap_err().as_str())
            .collect();
        assert_eq!(
            errors[0],
            "line 2 has no text in the field `text`: it is missing"
        );
        assert_eq!(
            errors[1],
            "line 3 has no text in the field `text`: it is not a string"
        );
        assert_eq!(
            errors[2],
            "line 4 has no text in the field `text`: it is missing, because the line is not an object"
        );
        assert!(
            errors[3].starts_with("line 5 is not JSON: "),
            "{}",
            errors[3]
        );
    }

    #[test]
    fn bytes_that_are_not_utf8_are_named() {
        assert_eq!(
            read(b"good\nba\xffd\n", None)[1],
            Err("line 2 is not UTF-8 (its byte 3 is not)".into())
        );
    }
}
