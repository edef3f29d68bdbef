//! Graph files in their canonical form, for `graphc fmt`. Works on tokens, so that comments stay and nothing is
//! rewritten but blanks, line breaks and trailing commas; the layout of the input has no say, except that one blank
//! line between items is kept.
//!
//! A bracket stays on one line if it fits into [`WIDTH`] and holds no comment. Else each of its items gets a line
//! of its own, but a bracket whose last item is a list (`Repeat(.., body: [`) opens that list on its own first
//! line. Passes and other steps stand one to a line. Comments stand on lines of their own or at the end of a line: one inside an item moves before it.

use std::ops::Range;

use crate::diag::Diagnostics;
use crate::span::{FileId, SourceMap};
use crate::text::parse::parse;
use crate::text::tokens::{Kind, Token, tokens};

/// The longest line, in characters, that the printer makes where it has a choice.
const WIDTH: usize = 120;

const INDENT: usize = 4;

/// The canonical text of a file of `map`, which must be a right graph file.
pub fn print(file: FileId, map: &SourceMap) -> Result<String, Diagnostics> {
    parse(file, map)?;
    Ok(layout(&map.file(file).text))
}

fn layout(text: &str) -> String {
    let tokens = tokens(text);
    let mut reader = Reader {
        text,
        tokens: &tokens,
        at: 0,
    };
    let top = reader.items(true);
    let mut printer = Printer {
        text,
        out: String::new(),
    };
    printer.lines(&top, 0, "");
    printer.out
}

/// A comment on a line of its own.
struct Comment {
    at: Range<usize>,
    blank_before: bool,
}

/// What stands between two commas: `value`, or `key: value`.
struct Item {
    before: Vec<Comment>,
    blank_before: bool,
    values: Vec<Value>,
    /// Comments at the end of its line.
    after: Vec<Range<usize>>,
}

/// A word, a bracket, or a word with a bracket: `"x"`, `[..]`, `Pass(..)`.
#[derive(Default)]
struct Value {
    word: Range<usize>,
    group: Option<Group>,
}

struct Group {
    open: char,
    items: Items,
}

/// The inside of a bracket.
#[derive(Default)]
struct Items {
    items: Vec<Item>,
    /// Comments after the last item.
    rest: Vec<Comment>,
}

/// Tokens to items.
struct Reader<'a> {
    text: &'a str,
    tokens: &'a [Token],
    at: usize,
}

impl Reader<'_> {
    /// Items up to the closing bracket, which is read, too; for `top`, up to the end of the text.
    fn items(&mut self, top: bool) -> Items {
        let mut found = Items::default();
        let mut pending: Vec<Comment> = Vec::new();
        // Whether the line of the item before is still going on, so that a comment belongs to that item.
        let mut same_line = false;
        while let Some(token) = self.tokens.get(self.at) {
            same_line &= token.newlines == 0;
            match token.kind {
                Kind::Close if !top => {
                    self.at += 1;
                    break;
                }
                Kind::Comment => {
                    let belongs_before = same_line && self.ends_line(token);
                    match found.items.last_mut() {
                        Some(item) if belongs_before => item.after.push(token.at.clone()),
                        _ => pending.push(Comment {
                            at: token.at.clone(),
                            blank_before: token.newlines > 1,
                        }),
                    }
                    self.at += 1;
                }
                Kind::Comma => self.at += 1,
                _ => {
                    let start = self.at;
                    let item = self.item(std::mem::take(&mut pending), token.newlines > 1);
                    found.items.push(item);
                    // Only a text that is not RON has a token here that starts no item.
                    self.at = self.at.max(start + 1);
                    same_line = true;
                }
            }
        }
        found.rest = pending;
        found
    }

    /// One item; comments inside of it move before it.
    fn item(&mut self, before: Vec<Comment>, blank_before: bool) -> Item {
        let mut item = Item {
            before,
            blank_before,
            values: vec![Value::default()],
            after: Vec::new(),
        };
        while let Some(token) = self.tokens.get(self.at) {
            let fresh = item
                .values
                .last()
                .is_none_or(|value| value.word.is_empty() && value.group.is_none());
            let complete = item
                .values
                .last()
                .is_some_and(|value| value.group.is_some());
            match token.kind {
                Kind::Comma | Kind::Close => break,
                // After a value it may be the comment at the end of the item's line.
                Kind::Comment if !fresh && !self.goes_on() => break,
                Kind::Comment => {
                    item.before.push(Comment {
                        at: token.at.clone(),
                        blank_before: false,
                    });
                    self.at += 1;
                }
                Kind::Colon => {
                    item.values.push(Value::default());
                    self.at += 1;
                }
                Kind::Open if !complete => {
                    let open = self.text[token.at.clone()].chars().next().unwrap_or('(');
                    self.at += 1;
                    let items = self.items(false);
                    if let Some(value) = item.values.last_mut() {
                        value.group = Some(Group { open, items });
                    }
                }
                Kind::Word if fresh => {
                    if let Some(value) = item.values.last_mut() {
                        value.word = token.at.clone();
                    }
                    self.at += 1;
                }
                // Two values without a comma: not RON, but not for us to say.
                Kind::Open | Kind::Word => break,
            }
        }
        item
    }

    /// Whether a comment is the last thing of its line, brackets and commas aside, and not more than one line long.
    fn ends_line(&self, comment: &Token) -> bool {
        let next = self.tokens.get(self.at + 1);
        let more = next.is_some_and(|next| {
            next.newlines == 0 && !matches!(next.kind, Kind::Comma | Kind::Close | Kind::Comment)
        });
        !more && !self.text[comment.at.clone()].contains('\n')
    }

    /// Whether the item goes on after the comments here: with `:` or with the bracket of its name.
    fn goes_on(&self) -> bool {
        self.tokens[self.at..]
            .iter()
            .find(|token| token.kind != Kind::Comment)
            .is_some_and(|token| matches!(token.kind, Kind::Colon | Kind::Open))
    }
}

/// Items to text.
struct Printer<'a> {
    text: &'a str,
    out: String,
}

impl<'a> Printer<'a> {
    fn part(&self, at: &Range<usize>) -> &'a str {
        self.text.get(at.clone()).unwrap_or_default()
    }

    /// Every item and comment on lines of their own, each item followed by `end`.
    fn lines(&mut self, items: &Items, depth: usize, end: &str) {
        for (index, item) in items.items.iter().enumerate() {
            self.comments(&item.before, depth, index > 0);
            if item.blank_before && (index > 0 || !item.before.is_empty()) {
                self.out.push('\n');
            }
            self.indent(depth);
            for (index, value) in item.values.iter().enumerate() {
                if index > 0 {
                    self.out.push_str(": ");
                }
                self.value(value, depth);
            }
            self.out.push_str(end);
            for comment in &item.after {
                self.out.push(' ');
                self.out.push_str(self.part(comment));
            }
            self.out.push('\n');
        }
        self.comments(&items.rest, depth, !items.items.is_empty());
    }

    /// Comments on lines of their own; `blank` says whether a blank line may come before the first.
    fn comments(&mut self, comments: &[Comment], depth: usize, blank: bool) {
        for (index, comment) in comments.iter().enumerate() {
            if comment.blank_before && (blank || index > 0) {
                self.out.push('\n');
            }
            self.indent(depth);
            self.out.push_str(self.part(&comment.at));
            self.out.push('\n');
        }
    }

    fn indent(&mut self, depth: usize) {
        self.out.extend(std::iter::repeat_n(' ', depth * INDENT));
    }

    fn column(&self) -> usize {
        self.out
            .rsplit('\n')
            .next()
            .map_or(0, |line| line.chars().count())
    }

    /// A value where the output ends; a comma follows it.
    fn value(&mut self, value: &Value, depth: usize) {
        self.out.push_str(self.part(&value.word));
        let Some(group) = &value.group else { return };
        match self.flat_group(group) {
            Some(flat) if depth > 0 && self.column() + flat.chars().count() < WIDTH => {
                self.out.push_str(&flat);
            }
            _ => self.broken(group, depth),
        }
    }

    fn broken(&mut self, group: &Group, depth: usize) {
        self.out.push(group.open);
        if let Some((head, list)) = self.opened_last(group, depth) {
            self.out.push_str(&head);
            self.broken(list, depth);
        } else {
            self.out.push('\n');
            self.lines(&group.items, depth + 1, ",");
            self.indent(depth);
        }
        self.out.push(close(group.open));
    }

    /// If the last item of the bracket should be opened on the bracket's own first line: what stands before that
    /// list, and the list.
    fn opened_last<'g>(&self, group: &'g Group, depth: usize) -> Option<(String, &'g Group)> {
        let (last, before) = group.items.items.split_last()?;
        let quiet = |item: &Item| item.before.is_empty() && item.after.is_empty();
        let outermost = depth == 0;
        if group.open != '(' || !group.items.rest.is_empty() || !group.items.items.iter().all(quiet)
        {
            return None;
        }
        if outermost && !before.is_empty() {
            return None;
        }
        let list = last.values.last().filter(|value| value.word.is_empty())?;
        let list = list.group.as_ref().filter(|list| list.open == '[')?;
        let mut head = String::new();
        for item in before {
            head.push_str(&self.flat_item(item)?);
            head.push_str(", ");
        }
        let mut keys = String::new();
        for key in last.values.iter().rev().skip(1).rev() {
            keys.push_str(&self.flat_value(key)?);
            keys.push_str(": ");
        }
        // A list that fits on a line of its own stays whole.
        let own_line = (depth + 1) * INDENT + keys.chars().count();
        let whole = self
            .flat_group(list)
            .is_some_and(|flat| own_line + flat.chars().count() < WIDTH);
        head.push_str(&keys);
        let fits = self.column() + head.chars().count() < WIDTH;
        (fits && !list.items.items.is_empty() && !whole).then_some((head, list))
    }

    /// The bracket on one line; `None` if it must not be.
    fn flat_group(&self, group: &Group) -> Option<String> {
        let Items { items, rest } = &group.items;
        let steps = group.open == '[' && items.iter().any(is_step);
        if steps || !rest.is_empty() {
            return None;
        }
        let items: Option<Vec<String>> = items.iter().map(|item| self.flat_item(item)).collect();
        let inside = items?.join(", ");
        let (open, close) = (group.open, close(group.open));
        Some(match (open, inside.as_str()) {
            (_, "") => format!("{open}{close}"),
            ('{', inside) => format!("{open} {inside} {close}"),
            (_, inside) => format!("{open}{inside}{close}"),
        })
    }

    fn flat_item(&self, item: &Item) -> Option<String> {
        if !item.before.is_empty() || !item.after.is_empty() {
            return None;
        }
        let values: Option<Vec<String>> = item
            .values
            .iter()
            .map(|value| self.flat_value(value))
            .collect();
        Some(values?.join(": "))
    }

    fn flat_value(&self, value: &Value) -> Option<String> {
        let word = self.part(&value.word);
        if word.contains('\n') {
            return None;
        }
        match &value.group {
            None => Some(word.to_string()),
            Some(group) => Some(format!("{word}{}", self.flat_group(group)?)),
        }
    }
}

/// Whether an item of a list is a step such as `Pass(kernel: ..)`. Those stand one to a line even if several
/// would fit.
fn is_step(item: &Item) -> bool {
    let [
        Value {
            word,
            group: Some(group),
        },
    ] = item.values.as_slice()
    else {
        return false;
    };
    let named = |item: &Item| item.values.len() > 1;
    !word.is_empty() && group.open == '(' && group.items.items.iter().any(named)
}

fn close(open: char) -> char {
    match open {
        '(' => ')',
        '[' => ']',
        _ => '}',
    }
}

#[cfg(test)]
#[path = "print_tests.rs"]
mod tests;
