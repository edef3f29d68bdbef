//! Arithmetic, its limits, and what a hostile text cannot do.

#![allow(clippy::unwrap_used)]

use super::*;
use std::collections::BTreeMap;

fn env() -> BTreeMap<String, i64> {
    BTreeMap::from([("n".into(), 65), ("l".into(), 4)])
}

fn int(text: &str) -> Result<i64, ExprError> {
    Expr::parse(text)?.eval_int(&env())
}

#[test]
fn arithmetic_binds_as_in_school() {
    assert_eq!(int("1 + 2 * 3 - 4"), Ok(3));
    assert_eq!(int("10 - 3 - 2"), Ok(5));
    assert_eq!(int("-(2 + n) % 7"), Ok(-67 % 7));
    assert_eq!(int("ceil(n / 64)"), Ok(2));
    assert_eq!(int("if(l % 3 == 0, 0, 128)"), Ok(128));
    assert_eq!(int("max(min(n, 7), l)"), Ok(7));
}

#[test]
fn what_cannot_be_exact_is_an_error() {
    assert_eq!(
        int("n / 64").unwrap_err().message,
        "65 is not a multiple of 64"
    );
    assert_eq!(int("1 / 0").unwrap_err().message, "1 divided by zero");
    assert!(
        int("9223372036854775807 + 1")
            .unwrap_err()
            .message
            .starts_with("integer overflow")
    );
    assert_eq!(
        int("9223372036854775808").unwrap_err().message,
        "`9223372036854775808` is not a number"
    );
    let unknown = int("n * heads").unwrap_err();
    assert_eq!(
        (unknown.message.as_str(), unknown.at),
        ("unknown name `heads`", 4..9)
    );
}

#[test]
fn a_function_is_looked_at_even_where_no_value_asks_for_it() {
    for (text, message, at) in [
        ("1 + ciel(n / 2)", "unknown function `ciel`", 4..8),
        ("if(true, 1, foo())", "unknown function `foo`", 12..15),
        ("min(n)", "`min` takes 2 arguments, found 1", 0..6),
        ("2 * ceil(n, 2)", "`ceil` takes 1 argument, found 2", 4..14),
        ("if(true, 1)", "`if` takes 3 arguments, found 2", 0..11),
    ] {
        let error = Expr::parse(text).unwrap_err();
        assert_eq!((error.message.as_str(), error.at), (message, at), "{text}");
    }
    let help = |text| Expr::parse(text).unwrap_err().help;
    assert_eq!(help("mni(1, 2)").as_deref(), Some("did you mean `min`?"));
    assert!(
        help("softmax(1)")
            .unwrap()
            .starts_with("the functions are ")
    );
}

#[test]
fn deep_nesting_is_refused_not_overflowed() {
    assert!(Expr::parse(&"(".repeat(100_000)).is_err());
    assert!(Expr::parse(&"-".repeat(100_000)).is_err());
    let nested = format!("{}1{}", "ceil(".repeat(60), " / 2.5)".repeat(60));
    assert_eq!(int(&nested), Ok(1));
}

#[test]
fn long_chains_are_refused_not_overflowed() {
    let chain = |n: usize| vec!["1"; n].join("+");
    assert_eq!(int(&chain(200)), Ok(200));
    let high = Expr::parse(&chain(1000)).unwrap_err();
    assert!(high.message.starts_with("more than 256 operations"));
    let long = Expr::parse(&chain(1_000_000)).unwrap_err();
    assert_eq!(
        long.message,
        "an expression of 1999999 bytes; at most 4096 are read"
    );
}

#[test]
fn the_least_integer_divides_without_a_panic() {
    let least = "(-9223372036854775807 - 1)";
    for text in [format!("{least} / -1"), format!("{least} % -1")] {
        assert!(
            int(&text)
                .unwrap_err()
                .message
                .starts_with("integer overflow")
        );
    }
    assert!(int("ceil(pow(10, 300))").is_err());
    assert_eq!(int("ceil(2.5)"), Ok(3));
}

#[test]
fn a_number_made_is_a_number_parsed() {
    assert_eq!(Expr::int(128), Expr::parse("128").unwrap());
}
