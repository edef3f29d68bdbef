//! JSON as a flat map: `{"a": {"b": 1}, "c": [2, 3]}` becomes `a.b = 1`, `c.0 = 2`, `c.1 = 3`.
//!
//! The text is hostile: depth, number of values and length of a key are bounded, and a key that stands twice in
//! one object is refused, since readers disagree on which one counts. `null` counts as absent.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::expr::Value;

/// Deepest nesting.
const MAX_DEPTH: usize = 16;
/// Most values of one text.
const MAX_VALUES: usize = 65_536;
/// Longest key with all the keys around it, in bytes.
const MAX_KEY_BYTES: usize = 1024;

/// The values of the JSON object `text`, by dotted key.
pub(super) fn flatten(text: &[u8]) -> Result<BTreeMap<String, Value>, serde_json::Error> {
    let mut values = BTreeMap::new();
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let root = Part {
        key: String::new(),
        depth: 0,
        values: &mut values,
    };
    root.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(values)
}

/// Reads one JSON value and everything below it into `values`.
struct Part<'a> {
    key: String,
    depth: usize,
    values: &'a mut BTreeMap<String, Value>,
}

impl Part<'_> {
    fn put<E: de::Error>(self, value: Value) -> Result<(), E> {
        if self.depth == 0 {
            return Err(E::custom("it is not an object"));
        }
        if self.values.len() == MAX_VALUES {
            return Err(E::custom(format!("it has more than {MAX_VALUES} values")));
        }
        // Two paths can spell the same key: `{"a": {"b": 1}, "a.b": 2}`.
        if self.values.insert(self.key.clone(), value).is_some() {
            return Err(E::custom(format!("`{}` appears twice", self.key)));
        }
        Ok(())
    }

    fn below<E: de::Error>(&mut self, name: &str) -> Result<Part<'_>, E> {
        if self.depth == MAX_DEPTH {
            return Err(E::custom(format!("it is nested deeper than {MAX_DEPTH}")));
        }
        let key = match self.key.as_str() {
            "" => name.to_string(),
            outer => format!("{outer}.{name}"),
        };
        if key.len() > MAX_KEY_BYTES {
            return Err(E::custom(format!(
                "a key is longer than {MAX_KEY_BYTES} bytes"
            )));
        }
        Ok(Part {
            key,
            depth: self.depth + 1,
            values: self.values,
        })
    }
}

impl<'de> DeserializeSeed<'de> for Part<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Part<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of numbers, texts, truth values, lists and objects")
    }
    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        if self.depth == 0 {
            return Err(E::custom("it is not an object"));
        }
        Ok(())
    }
    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        self.put(Value::Bool(value))
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.put(Value::Int(value))
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        match i64::try_from(value) {
            Ok(value) => self.put(Value::Int(value)),
            Err(_) => self.put(Value::Float(value as f64)),
        }
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        self.put(Value::Float(value))
    }
    fn visit_str<E: de::Error>(self, value: &str) -> Result<(), E> {
        self.put(Value::Text(value.to_string()))
    }
    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        if self.depth == 0 {
            return Err(de::Error::custom("it is a list and not an object"));
        }
        for index in 0..=MAX_VALUES {
            let item = self.below(&index.to_string())?;
            if seq.next_element_seed(item)?.is_none() {
                return Ok(());
            }
        }
        Err(de::Error::custom(format!(
            "a list has more than {MAX_VALUES} items"
        )))
    }
    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let mut seen = BTreeSet::new();
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            let item = self.below(&name)?;
            map.next_value_seed(item)?;
            if !seen.insert(name.to_string()) {
                return Err(de::Error::custom(format!("`{name}` appears twice")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match flatten(text.as_bytes()) {
            Ok(values) => values
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect::<Vec<_>>()
                .join(" "),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn nesting_becomes_dots() {
        let text = r#"{"a": {"b": 1, "c": [true, {"d": "x"}]}, "e": 1e-12, "f": null, "g": 18446744073709551615}"#;
        assert_eq!(
            shown(text),
            "a.b=1 a.c.0=true a.c.1.d=x e=1e-12 g=1.8446744073709552e19"
        );
    }

    #[test]
    fn what_is_refused() {
        assert!(shown(r#"{"a": 1, "a": 2}"#).contains("`a` appears twice"));
        assert!(shown(r#"{"a": {}, "a": {}}"#).contains("`a` appears twice"));
        assert!(shown(r#"{"a": {"b": 1}, "a.b": 2}"#).contains("`a.b` appears twice"));
        assert!(shown("[1]").contains("not an object"));
        assert!(shown("3").contains("not an object"));
        assert!(shown("null").contains("not an object"));
        assert!(shown(r#"{"a": 1} x"#).contains("trailing characters"));
        let deep = "{\"a\":".repeat(17) + "1" + &"}".repeat(17);
        assert!(shown(&deep).contains("nested deeper than 16"));
        let long = format!("{{\"{}\": 1}}", "k".repeat(1025));
        assert!(shown(&long).contains("longer than 1024"));
        let many = format!("{{\"a\": [{}1]}}", "1,".repeat(MAX_VALUES));
        assert!(shown(&many).contains("more than 65536"));
    }

    /// Whatever is done to a configuration: no panic, and never more than the bounds allow.
    #[test]
    fn mutated_texts_never_panic() {
        const RIGHT: &str =
            r#"{"model_type": "bert", "layers": [1, 2.5, {"a": null}], "b": {"c": true}, "d": -3}"#;
        const PIECES: &[&str] = &[
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"",
            "\"b\":",
            "1e999",
            "-0",
            "99999999999999999999",
            "\\ud800",
            "null",
            "[[[[[[[[[[[[[[[[",
            "{\"a\":{\"a\":{\"a\":{\"a\":",
            "\u{0}",
        ];
        arbtest::arbtest(|u| {
            let mut text = RIGHT.as_bytes().to_vec();
            for _ in 0..u.int_in_range(1..=6)? {
                let at = u.choose_index(text.len() + 1)?;
                match u.int_in_range(0..=3)? {
                    0 => text.truncate(at),
                    1 => text.insert(at, u.arbitrary()?),
                    2 => drop(text.splice(at..at, u.choose(PIECES)?.bytes())),
                    _ => {
                        let end = at + u.choose_index(text.len() - at + 1)?;
                        let piece = text[at..end].to_vec();
                        text.splice(at..at, piece);
                    }
                }
            }
            if let Ok(values) = flatten(&text) {
                assert!(values.len() <= text.len());
                assert!(values.keys().all(|key| key.len() <= MAX_KEY_BYTES));
            }
            Ok(())
        })
        .budget_ms(1_000);
    }
}
