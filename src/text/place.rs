//! How a text gets its place while serde reads a file.
//!
//! RON has no spans, but a borrowed [`RawValue`] points into the source, so the distance of the two pointers is
//! the byte offset. Derived `Deserialize` code cannot be handed the file it works on; a thread-local holds it for
//! the length of one [`reading`], together with the first problem found that knows its own place better than the
//! RON reader does.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use ron::value::RawValue;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use crate::codes::text as codes;
use crate::diag::Diagnostic;
use crate::span::{FileId, Span, Spanned};
use crate::text::ast::{Map, Name};

struct Reading {
    file: FileId,
    address: usize,
    len: usize,
    problem: Option<Diagnostic>,
}

thread_local! {
    static READING: RefCell<Option<Reading>> = const { RefCell::new(None) };
}

/// Runs `read`, in which texts get their places in `text` of `file`. The second result is the problem that made
/// `read` fail, if it was found here.
pub(super) fn reading<T>(
    file: FileId,
    text: &str,
    read: impl FnOnce() -> T,
) -> (T, Option<Diagnostic>) {
    READING.set(Some(Reading {
        file,
        address: text.as_ptr() as usize,
        len: text.len(),
        problem: None,
    }));
    let result = read();
    let problem = READING.take().and_then(|reading| reading.problem);
    (result, problem)
}

/// The place of `part`, which must be a part of the text that is being read.
fn place(part: &str) -> Option<Span> {
    READING.with_borrow(|reading| {
        let reading = reading.as_ref()?;
        let start = (part.as_ptr() as usize).checked_sub(reading.address)?;
        let end = start.checked_add(part.len())?;
        (end <= reading.len).then_some(Span {
            file: reading.file,
            start: u32::try_from(start).ok()?,
            end: u32::try_from(end).ok()?,
        })
    })
}

/// Keeps the first problem and gives serde an error to stop at.
fn stop<E: serde::de::Error>(problem: Diagnostic) -> E {
    let message = problem.message.clone();
    READING.with_borrow_mut(|reading| {
        if let Some(reading) = reading {
            reading.problem.get_or_insert(problem);
        }
    });
    E::custom(message)
}

impl<'de> Deserialize<'de> for Spanned<String> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?.get_ron();
        let outside = || D::Error::custom("texts have places only inside `text::parse`");
        // A new reader skips blanks and comments, so what remains starts with the value itself.
        let mut reader = ron::Deserializer::from_str(raw).map_err(D::Error::custom)?;
        let start = raw.len() - reader.remainder().len();
        let value = String::deserialize(&mut reader);
        let end = raw.len() - reader.remainder().len();
        match value {
            Ok(value) if reader.end().is_ok() => {
                let span = raw.get(start..end).and_then(place).ok_or_else(outside)?;
                Ok(Self { value, span })
            }
            _ => {
                let whole = raw.get(start..).unwrap_or(raw).trim_end();
                let span = place(whole).ok_or_else(outside)?;
                Err(stop(not_a_text(whole, span)))
            }
        }
    }
}

fn not_a_text(found: &str, span: Span) -> Diagnostic {
    let simple = found.len() <= 40
        && !found.is_empty()
        && found
            .chars()
            .all(|c| c.is_alphanumeric() || "_.+-*/% ".contains(c));
    let problem = Diagnostic::error(codes::WRONG_TYPE, "expected a text in quotes").at(span, "");
    if simple {
        problem.help(format!("write \"{found}\""))
    } else {
        problem.help("names, element types and expressions are texts: \"heads * d_head\"")
    }
}

/// Reads a map in file order and refuses a key that stands there twice.
pub(crate) fn map<'de, D, T>(deserializer: D) -> Result<Map<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Unique<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Unique<T> {
        type Value = Map<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map `{ \"key\": value }`")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Map<T>, A::Error> {
            let mut entries = Map::new();
            let mut seen: BTreeMap<String, Span> = BTreeMap::new();
            while let Some(key) = access.next_key::<Name>()? {
                if let Some(first) = seen.insert(key.value.clone(), key.span) {
                    let message = format!("`{}` stands twice in one map", key.value);
                    return Err(stop(
                        Diagnostic::error(codes::DUPLICATE_KEY, message)
                            .at(key.span, "again here")
                            .at(first, "first here")
                            .help("remove one of the two, or give it another name"),
                    ));
                }
                entries.push((key, access.next_value()?));
            }
            Ok(entries)
        }
    }
    deserializer.deserialize_map(Unique(PhantomData))
}

/// The same for a map of maps.
pub(super) fn map_of_maps<'de, D, T>(deserializer: D) -> Result<Map<Map<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Inner<T>(Map<T>);
    impl<'de, T: Deserialize<'de>> Deserialize<'de> for Inner<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            map(deserializer).map(Inner)
        }
    }
    let outer: Map<Inner<T>> = map(deserializer)?;
    Ok(outer
        .into_iter()
        .map(|(key, Inner(value))| (key, value))
        .collect())
}
