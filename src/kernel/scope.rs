//! The names that an expression of a manifest may use, each with a word about what it is.

use std::collections::BTreeMap;

use crate::dtype::DType;
use crate::expr::Value;

/// What a type variable brings into scope: its type's name, and as `<name>_bits` and `<name>_group` the bits of an element
/// and the neighbours that share a scale (1 where none do).
pub fn type_values(name: &str, dtype: DType) -> [(String, Value); 3] {
    let number = |what: &str, number: u64| {
        let number = i64::try_from(number).unwrap_or(i64::MAX);
        (format!("{name}_{what}"), Value::Int(number))
    };
    [
        (name.into(), Value::Text(dtype.name().into())),
        number("bits", dtype.bits()),
        number("group", dtype.group()),
    ]
}

/// The value of a name that one of `types` brings into scope.
pub(crate) fn type_value(types: &BTreeMap<String, DType>, name: &str) -> Option<Value> {
    let mut all = types
        .iter()
        .filter(|(variable, _)| name.starts_with(variable.as_str()))
        .flat_map(|(variable, dtype)| type_values(variable, *dtype));
    all.find(|(known, _)| known == name).map(|(_, value)| value)
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_variables_bring_their_numbers() {
        let types = [("W", DType::Int4g128), ("S", DType::F16)];
        let types = types.map(|(name, dtype)| (name.to_string(), dtype)).into();
        let value = |name| type_value(&types, name);
        assert_eq!(value("W"), Some(Value::Text("int4g128".into())));
        assert_eq!(value("W_bits"), Some(Value::Int(4)));
        assert_eq!(value("W_group"), Some(Value::Int(128)));
        assert_eq!(value("S_bits"), Some(Value::Int(16)));
        assert_eq!(value("S_group"), Some(Value::Int(1)));
        assert_eq!(value("W_grou"), None);
        assert_eq!(value("X_bits"), None);
    }
}
