//! RON text cut into tokens, comments included, for the printer. Concatenating the tokens and the blanks between
//! them gives the text back. Nothing is judged here: a text that is not RON is cut up as well.

use std::ops::Range;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One of `( [ {`.
    Open,
    /// One of `) ] }`.
    Close,
    /// `,`.
    Comma,
    /// `:`.
    Colon,
    /// A name, number, text or character.
    Word,
    /// `// ..` up to the end of its line, or `/* .. */`, which may hold others.
    Comment,
}

/// A token and what stands before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    /// What it is.
    pub kind: Kind,
    /// Where it stands.
    pub at: Range<usize>,
    /// Line breaks between it and the token before.
    pub newlines: usize,
}

/// Cuts `text` up.
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut at = 0;
    let mut newlines = 0;
    while let Some(next) = text.get(at..).and_then(|rest| rest.chars().next()) {
        if next.is_whitespace() {
            newlines += usize::from(next == '\n');
            at += next.len_utf8();
            continue;
        }
        let rest = &text[at..];
        let (kind, len) = match next {
            '(' | '[' | '{' => (Kind::Open, 1),
            ')' | ']' | '}' => (Kind::Close, 1),
            ',' => (Kind::Comma, 1),
            ':' => (Kind::Colon, 1),
            _ => match comment(rest) {
                Some(len) => (Kind::Comment, len),
                None => (Kind::Word, word(rest)),
            },
        };
        found.push(Token {
            kind,
            at: at..at + len,
            newlines,
        });
        newlines = 0;
        at += len;
    }
    found
}

/// The length of the comment that `rest` starts with.
fn comment(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(
            rest.find('\n')
                .map_or(rest.len(), |end| rest[..end].trim_end().len()),
        );
    }
    if !rest.starts_with("/*") {
        return None;
    }
    let bytes = rest.as_bytes();
    let (mut depth, mut at) = (0_usize, 0);
    while at < bytes.len() {
        match bytes.get(at..at + 2) {
            Some(b"/*") => (depth, at) = (depth + 1, at + 2),
            Some(b"*/") => (depth, at) = (depth.saturating_sub(1), at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    Some(at)
}

/// The length of the name, number, text or character that `rest` starts with.
fn word(rest: &str) -> usize {
    let mut at = 0;
    while let Some(next) = rest[at..].chars().next() {
        if let Some(len) = quoted(&rest[at..]) {
            return at + len;
        }
        let ends = next.is_whitespace() || "()[]{},:".contains(next);
        if at > 0 && (ends || comment(&rest[at..]).is_some()) {
            break;
        }
        at += next.len_utf8();
    }
    at
}

/// The length of the text or character that `rest` starts with: `"..", r".."`, `r#".."#`, `b".."`, `'x'`.
fn quoted(rest: &str) -> Option<usize> {
    let bytes = rest.as_bytes();
    let prefix = ["br", "b", "r", ""]
        .into_iter()
        .find(|prefix| rest.starts_with(prefix))
        .unwrap_or_default();
    let mut at = prefix.len();
    if prefix.ends_with('r') {
        let hashes = rest[at..].bytes().take_while(|byte| *byte == b'#').count();
        at += hashes;
        if bytes.get(at) != Some(&b'"') {
            return None;
        }
        let close = format!("\"{}", "#".repeat(hashes));
        let end = rest[at + 1..]
            .find(&close)
            .map(|end| at + 1 + end + close.len());
        return Some(end.unwrap_or(rest.len()));
    }
    let quote = *bytes.get(at).filter(|byte| matches!(byte, b'"' | b'\''))?;
    at += 1;
    while let Some(byte) = bytes.get(at) {
        at += 1;
        if *byte == b'\\' {
            at += rest
                .get(at..)
                .and_then(|rest| rest.chars().next())
                .map_or(0, char::len_utf8);
        } else if *byte == quote {
            return Some(at);
        }
    }
    Some(rest.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn brackets_in_texts_and_comments_are_not_brackets() {
        let text = r##"A(b: "x)\"(", r#"("#, 'a', '\'', 1.5e-3/*{/*}*/*/ // [
            -2..3)"##;
        let words: Vec<&str> = tokens(text)
            .iter()
            .map(|token| &text[token.at.clone()])
            .collect();
        let expected = [
            "A",
            "(",
            "b",
            ":",
            r#""x)\"(""#,
            ",",
            r##"r#"("#"##,
            ",",
            "'a'",
            ",",
            r"'\''",
            ",",
            "1.5e-3",
            "/*{/*}*/*/",
            "// [",
            "-2..3",
            ")",
        ];
        assert_eq!(words, expected);
    }

    #[test]
    fn unfinished_texts_end_with_the_text() {
        for text in [
            "\"a",
            "r#\"a\"",
            "/* a",
            "// a",
            "'",
            "\"\\",
            "b",
            "r#",
            "\u{e9}\"\u{e9}",
        ] {
            let end = tokens(text).last().unwrap().at.end;
            assert_eq!(end, text.len(), "{text}");
        }
    }
}
