//! Names with `*`, which stands for any characters, also for none.

/// Whether `name` is one that `pattern` means.
pub fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.split_once(part) {
            Some((_, behind)) => rest = behind,
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// The number that the one `*` of `pattern` stands for in `name`, where it is one.
pub fn number(pattern: &str, name: &str) -> Option<i64> {
    let (front, back) = pattern.split_once('*')?;
    let digits = name.strip_prefix(front)?.strip_suffix(back)?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::{matches, number};

    #[test]
    fn a_star_is_a_number() {
        for (pattern, name, stands_for) in [
            ("a.*", "a.17", Some(17)),
            ("a.*.b", "a.0.b", Some(0)),
            ("a.*", "a.", None),
            ("a.*", "a.x", None),
            ("a.*", "a.+1", None),
            ("a.*", "a.-1", None),
            ("a.*", "a.1.2", None),
            ("a.*", "a.99999999999999999999", None),
            ("a.1", "a.1", None),
            ("a*a", "a", None),
        ] {
            assert_eq!(number(pattern, name), stands_for, "{pattern} {name}");
        }
    }

    #[test]
    fn a_star_is_any_characters() {
        for (pattern, name, fits) in [
            ("a.b", "a.b", true),
            ("a.b", "a.bc", false),
            ("a.*", "a.", true),
            ("a.*", "b.a.", false),
            ("*.ids", "x.y.ids", true),
            ("*.ids", "ids", false),
            ("l.*.q.*.b", "l.0.q.1.b", true),
            ("l.*.q.*.b", "l.0.k.1.b", false),
            ("a*a", "a", false),
            ("*", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }
}
