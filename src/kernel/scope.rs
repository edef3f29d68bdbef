//! The names that an expression of a manifest may use, each with a word about what it is.

use std::collections::BTreeMap;

/// Names in scope.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope {
    names: BTreeMap<String, String>,
}

impl Scope {
    /// Adds a name, or says what it already is.
    pub(super) fn define(&mut self, name: &str, what: &str) -> Result<(), String> {
        match self.names.get(name) {
            Some(other) => Err(other.clone()),
            None => {
                self.names.insert(name.to_string(), what.to_string());
                Ok(())
            }
        }
    }
    /// Whether the name is known.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }
    /// Whether the name is a dim that a port's shape binds.
    pub(super) fn is_dim(&self, name: &str) -> bool {
        self.names.get(name).is_some_and(|what| what == "a dim")
    }
    /// All names, sorted.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }
}
