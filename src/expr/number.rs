//! Numbers in expressions and formulas.

use super::Value;

/// The number that `text` starts with: how many bytes it takes, and its value if it has one. `1_000` is an integer,
/// `1e-5` and `0.5` are floats. Of `0..n`, a range in a formula, only `0` is taken.
pub(crate) fn number(text: &str) -> (usize, Option<Value>) {
    let bytes = text.as_bytes();
    let part_of_it = |at: usize| match bytes[at] {
        b'+' | b'-' => at > 0 && matches!(bytes[at - 1], b'e' | b'E'),
        b'.' => bytes.get(at + 1) != Some(&b'.'),
        byte => byte.is_ascii_alphanumeric() || byte == b'_',
    };
    let len = (0..bytes.len())
        .find(|at| !part_of_it(*at))
        .unwrap_or(bytes.len());
    let digits = text[..len].replace('_', "");
    let value = match (digits.parse::<i64>(), digits.parse::<f64>()) {
        (Ok(value), _) => Some(Value::Int(value)),
        (_, Ok(value)) if value.is_finite() && digits.contains(['.', 'e', 'E']) => {
            Some(Value::Float(value))
        }
        _ => None,
    };
    (len, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_end_where_they_should() {
        let int = |len, value| (len, Some(Value::Int(value)));
        let float = |len, value| (len, Some(Value::Float(value)));
        assert_eq!(number("12 + 3"), int(2, 12));
        assert_eq!(number("1_000)"), int(5, 1000));
        assert_eq!(number("0..n"), int(1, 0));
        assert_eq!(number("1.5..n"), float(3, 1.5));
        assert_eq!(number("1e-5-2"), float(4, 1e-5));
        assert_eq!(number("2.5E+3*x"), float(6, 2500.0));
        assert_eq!(number("7-2"), int(1, 7));
        for (text, len) in [
            ("1e999", 5),
            ("12ab", 4),
            ("1.2.3", 5),
            ("9223372036854775808", 19),
            ("1e", 2),
        ] {
            assert_eq!(number(text), (len, None), "{text}");
        }
    }
}
