//! Formulas by example: the expected numbers stand beside each.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use super::*;

/// A stored port for tests.
struct Port {
    name: &'static str,
    dtype: DType,
    shape: Vec<u64>,
    bytes: Vec<u8>,
    access: Access,
}

fn read(name: &'static str, dtype: DType, shape: &[u64], values: &[f64]) -> Port {
    Port {
        name,
        dtype,
        shape: shape.to_vec(),
        bytes: encode(dtype, values),
        access: Access::Read,
    }
}

fn written(name: &'static str, shape: &[u64]) -> Port {
    Port {
        name,
        dtype: DType::F32,
        shape: shape.to_vec(),
        bytes: vec![],
        access: Access::Write,
    }
}

fn eval(
    texts: &[&str],
    ports: &[Port],
    dims: &[(&str, i64)],
    options: &[(&str, Value)],
) -> Result<BTreeMap<String, Vec<f64>>, FormulaError> {
    let texts: Vec<String> = texts.iter().map(|text| text.to_string()).collect();
    let views = ports
        .iter()
        .map(|port| {
            let view = TensorView {
                dtype: port.dtype,
                shape: &port.shape,
                bytes: &port.bytes,
                access: port.access,
            };
            (port.name.to_string(), view)
        })
        .collect();
    let dims = dims
        .iter()
        .map(|(name, value)| (name.to_string(), *value))
        .collect();
    let options = options
        .iter()
        .map(|(name, value)| (name.to_string(), value.clone()))
        .collect();
    Formula::parse(&texts)?.eval(&views, &dims, &options)
}

/// The value of `y = text` with nothing bound but `i`, an option of 7, and `kind`, the text `gelu`.
fn value(text: &str) -> Result<f64, FormulaError> {
    let options = [("i", Value::Int(7)), ("kind", Value::Text("gelu".into()))];
    let y = eval(
        &[&format!("y = {text}")],
        &[written("y", &[])],
        &[],
        &options,
    )?;
    Ok(y["y"][0])
}

#[test]
fn arithmetic_binds_as_in_school() {
    for (text, expected) in [
        ("1 + 2 * 3 - 4", 3.0),
        ("10 - 3 - 2", 5.0),
        ("-i + 1", -6.0),
        ("i / 2", 3.5),
        ("i // 2", 3.0),
        ("-i // 2", -4.0),
        ("-i % 4", 1.0),
        ("(i % 4) // 2 * 2 / 4", 0.5),
        ("2e-3 * 1e3", 2.0),
        ("max(i, 3) - min(i, 3)", 4.0),
        ("pow(2, 10) + rsqrt(4) + abs(-1) + floor(1.5)", 1026.5),
        ("if(kind == 'gelu' && !(i < 7), 1, 2)", 1.0),
        ("if(i >= 8 || kind != 'gelu', 1, 2)", 2.0),
        ("sum(p<4: p * p)", 14.0),
        ("sum(p in 2..i: p)", 20.0),
        ("sum(p<3, q<p: 1)", 3.0),
        ("max(p in -2..1: -p)", 2.0),
        ("sum(p<0: 1)", 0.0),
        ("max(p<0: 1)", f64::NEG_INFINITY),
        ("xor(i, 5)", 2.0),
        (
            "sum(p<3: xor(p, 1)) - sum(p<3: floor(random(p, 1, i)))",
            4.0,
        ),
    ] {
        assert_eq!(value(text), Ok(expected), "{text}");
    }
}

#[test]
fn a_matrix_product_with_bias_and_without() {
    let texts = [
        "acc[i<m, j<n] = sum(p<k: x[i,p] * w[j,p])",
        "biased[i<m, j<n] = acc[i,j] + bias[j]",
        "y[i<m, j<n] = if(has(bias), biased[i,j], acc[i,j])",
    ];
    // x has two leading dimensions, which count as one of size 2.
    let mut ports = vec![
        read("x", DType::F16, &[1, 2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        read("w", DType::F32, &[2, 3], &[1.0, 0.0, -1.0, 0.5, 0.5, 0.5]),
        written("y", &[1, 2, 2]),
    ];
    let dims = [("m", 2), ("n", 2), ("k", 3)];
    let y = eval(&texts, &ports, &dims, &[]).unwrap();
    assert_eq!(
        y,
        BTreeMap::from([("y".into(), vec![-2.0, 3.0, -2.0, 7.5])])
    );
    ports.push(read("bias", DType::F32, &[2], &[10.0, 20.0]));
    let y = eval(&texts, &ports, &dims, &[]).unwrap();
    assert_eq!(y["y"], [8.0, 23.0, 8.0, 27.5]);
}

/// The dot product has a way of its own; a factor of 1 that hides the product forces the general way.
#[test]
fn both_ways_to_a_dot_product_agree() {
    let values: Vec<f64> = (0..60)
        .map(|v| f64::from(v * 37 % 23) / 4.0 - 2.0)
        .collect();
    let ports = [
        read("q", DType::F32, &[3, 20], &values),
        read("start", DType::U32, &[3], &[0.0, 1.0, 0.0]),
        written("y", &[3, 2]),
    ];
    let dims = [("m", 3), ("d", 9)];
    for sum in [
        "sum(c<d: 1 * (q[i, h * d + c] * q[start[i] + 1, c + 11]))",
        "sum(c in start[i]..d: 1 * (q[c - start[i] - 6 + 6 - c + start[i], c] * q[c // 9, h + c]))",
        "sum(r<m: 1 * (q[r, h] * q[r, i]))",
        "sum(r in start[i]..3: 1 * (q[r - start[i], h] * q[r, i]))",
    ] {
        let slow = eval(&[&format!("y[i<m, h<2] = {sum}")], &ports, &dims, &[]).unwrap();
        let fast = eval(
            &[&format!("y[i<m, h<2] = {}", sum.replace("1 * ", ""))],
            &ports,
            &dims,
            &[],
        )
        .unwrap();
        for (a, b) in slow["y"].iter().zip(&fast["y"]) {
            assert!((a - b).abs() < 1e-12, "{sum}: {a} and {b}");
        }
    }
}

#[test]
fn values_can_be_indices() {
    let ports = [
        read("ids", DType::U32, &[3], &[2.0, 0.0, 5.0]),
        read("word", DType::F32, &[3, 2], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
        written("y", &[3, 2]),
    ];
    let dims = [("m", 3), ("d", 2), ("v", 3)];
    let y = eval(
        &["y[i<m, j<d] = word[min(ids[i], v - 1), j]"],
        &ports,
        &dims,
        &[],
    )
    .unwrap();
    assert_eq!(y["y"], [4.0, 5.0, 0.0, 1.0, 4.0, 5.0]);
    let error = eval(&["y[i<m, j<d] = word[ids[i], j]"], &ports, &dims, &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "index 0 of `word` is 5 but must be below 3, in `word[ids[i], j]`"
    );
}

#[test]
fn a_port_keeps_its_old_contents_inside_its_own_definition() {
    let mut cache = read("cache", DType::F32, &[3], &[1.0, 2.0, 3.0]);
    cache.access = Access::ReadWrite;
    let counters = Port {
        access: Access::ReadWrite,
        ..read("counters", DType::U32, &[1], &[0.0])
    };
    let texts = [
        "cache[i<3] = if(i == 1, 9, cache[i])",
        "y[i<3] = cache[i] * 2",
    ];
    let out = eval(&texts, &[cache, counters, written("y", &[3])], &[], &[]).unwrap();
    assert_eq!(out["cache"], [1.0, 9.0, 3.0]);
    assert_eq!(out["y"], [2.0, 18.0, 6.0]);
    assert!(!out.contains_key("counters"));
}

#[test]
fn poison_is_not_lost_in_a_reduction_or_a_minimum() {
    let ports = [
        read("x", DType::F32, &[3], &[1.0, f64::NAN, 3.0]),
        written("y", &[]),
    ];
    for text in [
        "max(i<3: x[i])",
        "sum(i<3: x[i])",
        "min(2, x[1])",
        "max(x[1], 2)",
    ] {
        let y = eval(&[&format!("y = {text}")], &ports, &[], &[]).unwrap();
        assert!(y["y"][0].is_nan(), "{text}");
    }
}

#[test]
fn mistakes_name_their_place() {
    for (text, expected) in [
        ("1 +", "expected a value, in `y = 1 +`"),
        ("(1", "expected `)`, in `y = (1`"),
        ("1 $ 2", "expected an operator or the end, in `$`"),
        (
            "heads * 2",
            "`heads` is no index, definition, bound port, dim or option, in `heads`",
        ),
        ("kind + 1", "`kind` is `gelu`, not a number, in `kind`"),
        ("if(i, 1, 2)", "`i` is not a condition, in `i`"),
        (
            "if(kind == 3, 1, 2)",
            "a text is compared with something else, in `kind == 3`",
        ),
        ("1 < 2", "expected a number, found a condition, in `1 < 2`"),
        ("exp(1, 2)", "`exp` with 2 arguments, in `exp(1, 2)`"),
        ("sinh(1)", "`sinh` is not a function, in `sinh(1)`"),
        (
            "sum(p<3, 2: 1)",
            "expected an index with its bound, such as `p<k`, in `2`",
        ),
        ("sum(p<2.5: 1)", "expected an integer, found 2.5, in `2.5`"),
        (
            "i // 0",
            "7 divided by 0, only positive divisors are defined, in `i // 0`",
        ),
        ("1e999", "not a number, in `1e999`"),
        (
            "9007199254740993 * 4096 % 2",
            "integer overflow in 9007199254740992 and 4096, in `9007199254740993 * 4096`",
        ),
        (
            "x[0]",
            "`x` is no earlier definition and no bound port, in `x[0]`",
        ),
        ("y", "port `y` is read before it is defined, in `y`"),
    ] {
        assert_eq!(value(text).unwrap_err().to_string(), expected, "{text}");
    }
}

#[test]
fn definitions_must_fit_their_ports() {
    let y = || [written("y", &[3])];
    let error = |texts: &[&str]| eval(texts, &y(), &[("n", 3)], &[]).unwrap_err().to_string();
    assert_eq!(
        error(&["y[i<n+1] = 0"]),
        "`y` has shape [3] but is defined over [4], in `y`"
    );
    assert_eq!(
        error(&["y[i<n] = 0", "y[i<n] = 1"]),
        "`y` is defined twice, in `y[i<n] = 1`"
    );
    assert_eq!(
        error(&["y[i<n, i<n] = 0"]),
        "index `i` stands twice, in `]`"
    );
    assert_eq!(
        error(&["a[i<100000, j<100000] = 0", "y[i<n] = a[0,0]"]),
        "a definition over [100000, 100000] has more than 268435456 elements, in `a`"
    );
}

#[test]
fn hostile_text_is_refused_not_followed() {
    for text in [
        "(".repeat(60_000),
        "-".repeat(60_000),
        "max(".repeat(10_000),
        format!("1{}", " + 1".repeat(10_000)),
        "sum(p<".repeat(10_000),
    ] {
        assert!(value(&text).is_err());
    }
    assert!(value(&" ".repeat(MAX_TEXT)).is_err());
    assert!(Formula::parse(&["é[i<n] = ü".into(), String::new()]).is_err());
}

#[test]
fn storage_types_round_as_the_device_does() {
    for (dtype, value, stored) in [
        (DType::F32, 0.1, f64::from(0.1_f32)),
        (DType::F16, 0.1, 0.0999755859375),
        (DType::Bf16, 0.1, 0.10009765625),
        (DType::U32, 4e9, 4e9),
        (DType::I8, -200.0, -128.0),
        (DType::U8, 17.9, 17.0),
        (DType::I32, -5.0, -5.0),
    ] {
        assert_eq!(
            decode(dtype, &encode(dtype, &[value])),
            Some(vec![stored]),
            "{dtype}"
        );
    }
    assert_eq!(decode(DType::F32, &[0; 5]), None);
}

#[test]
fn later_definitions_see_what_is_stored() {
    let mut cache = read("c", DType::F16, &[2], &[0.5, 0.25]);
    cache.access = Access::ReadWrite;
    // 1 + 2^-12 is between two f16; its double would be, too.
    let texts = [
        "c[i<2] = if(i == 1, 1.0 + pow(2.0, -12.0), c[i])",
        "y[i<2] = 2.0 * c[i]",
    ];
    let got = eval(&texts, &[cache, written("y", &[2])], &[], &[]).unwrap();
    assert_eq!(got["c"], [0.5, 1.0 + f64::powi(2.0, -12)]);
    assert_eq!(got["y"], [1.0, 2.0]);
}

/// What is checked beforehand is what can be evaluated.
#[test]
fn every_function_has_a_value() {
    for name in math::Function::names() {
        let text = match name {
            "has" => "if(has(y), 1, 0)".to_string(),
            "sum" => "sum(p<1: 1)".to_string(),
            "if" => "if(true, 1, 0)".to_string(),
            name => {
                let count = math::Function::named(name).unwrap().takes();
                format!("{name}({})", vec!["1"; count].join(", "))
            }
        };
        assert!(value(&text).is_ok(), "{text}");
    }
}
