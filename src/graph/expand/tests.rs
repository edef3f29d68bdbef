#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use super::*;
use crate::span::SourceMap;

/// Expands a graph whose body is `body` over input `x`, with output `y`; an error comes back as people see it.
fn expanded(body: &str) -> Result<Flat, String> {
    expanded_as(body, &Request::default())
}

fn expanded_as(body: &str, request: &Request) -> Result<Flat, String> {
    let text = format!(
        "Graph(name: \"t\", params: {{ \"n\": Int(default: \"3\") }}, dtypes: {{ \"weight\": \"f32\" }}, dims: {{ \"d\": Is(\"8\") }}, \
inputs: {{ \"x\": Tensor(\"f32\", [\"d\"]) }}, body: [{body}], outputs: [\"y\"])"
    );
    let sources = BTreeMap::from([("t.ron".to_string(), text)]);
    let mut map = SourceMap::default();
    let flat =
        crate::text::load("t.ron", &sources, &mut map).and_then(|loaded| expand(&loaded, request));
    flat.map_err(|problems| problems.render(&map, false))
}

/// Each pass as `path: reads -> writes`.
fn passes(flat: &Flat) -> Vec<String> {
    let names = |list: &[(crate::text::ast::Name, crate::ids::ValueId)]| {
        list.iter()
            .map(|(_, value)| flat.values[*value].name.clone())
            .collect::<Vec<_>>()
            .join(" ")
    };
    flat.passes
        .iter()
        .map(|pass| {
            format!(
                "{}: {} -> {}",
                pass.path,
                names(&pass.reads),
                names(&pass.writes)
            )
        })
        .collect()
}

fn pass(name: &str, from: &str, to: &str) -> String {
    format!(
        "Pass(name: \"{name}\", kernel: \"k\", in: {{ \"x\": \"{from}\" }}, out: {{ \"y\": \"{to}\" }})"
    )
}

#[test]
fn a_name_that_is_bound_again_is_a_new_value() {
    let flat = expanded(&format!("{}, {}", pass("a", "x", "y"), pass("b", "y", "y"))).unwrap();
    assert_eq!(passes(&flat), ["a: x -> y", "b: y -> y_2"]);
    assert_eq!(flat.values[flat.outputs[0].1].name, "y_2");
}

#[test]
fn a_loop_hands_its_value_from_round_to_round() {
    let body = pass("a", "h", "h");
    let flat = expanded(&format!(
        "Repeat(index: \"l\", count: \"n\", carry: {{ \"h\": \"x\" }}, body: [{body}]), {}",
        pass("b", "x", "y")
    ));
    assert_eq!(
        passes(&flat.unwrap()),
        [
            "l0/a: x -> l0/h",
            "l1/a: l0/h -> l1/h",
            "l2/a: l1/h -> l2/h",
            "b: l2/h -> y"
        ]
    );
}

#[test]
fn passes_may_stand_in_any_order() {
    let flat = expanded(&format!(
        "{}, {}",
        pass("last", "m", "y"),
        pass("first", "x", "m")
    ))
    .unwrap();
    assert_eq!(passes(&flat), ["first: x -> m", "last: m -> y"]);
}

#[test]
fn a_cycle_is_named_whole() {
    let text = expanded(
        &[
            pass("a", "p", "q"),
            pass("b", "q", "r"),
            pass("c", "r", "p"),
            pass("d", "x", "y"),
        ]
        .join(", "),
    );
    let text = text.unwrap_err();
    assert!(
        text.contains("in a cycle: `a` -> `b` -> `c` -> `a`"),
        "{text}"
    );
}

#[test]
fn a_pass_that_is_switched_off_hands_its_name_on() {
    let off = |otherwise: &str| {
        format!(
            "{}, Pass(kernel: \"k\", in: {{ \"x\": \"m\" }}, out: {{ \"y\": \"m\" }}, when: \"n > 3\"), \
Pass(kernel: \"k\", in: {{ \"x\": \"m\" }}, out: {{ \"y\": \"z\" }}, when: \"n > 3\", otherwise: {{ {otherwise} }}), {}",
            pass("a", "x", "m"),
            pass("b", "z", "y")
        )
    };
    assert_eq!(
        passes(&expanded(&off("\"z\": \"m\"")).unwrap()),
        ["a: x -> m", "b: m -> y"]
    );
    let text = expanded(&off("\"w\": \"m\"")).unwrap_err();
    assert!(text.contains("`otherwise` names `w`"), "{text}");
}

#[test]
fn an_absent_weight_leaves_its_port_unbound() {
    let weight = |when: &str| {
        format!(
            "Weight(name: \"w\", dtype: \"f32\", shape: [\"d\"], from: Tensor(\"w\"), when: \"{when}\"), \
Pass(name: \"a\", kernel: \"k\", in: {{ \"x\": \"x\", \"bias\": \"w\" }}, out: {{ \"y\": \"y\" }})"
        )
    };
    assert_eq!(
        passes(&expanded(&weight("n == 3")).unwrap()),
        ["a: x w -> y"]
    );
    assert_eq!(passes(&expanded(&weight("n == 4")).unwrap()), ["a: x -> y"]);
}

#[test]
fn a_weight_declared_twice_is_one_weight() {
    let weight = |name: &str| {
        format!(
            "Weight(name: \"{name}\", dtype: \"f32\", shape: [\"d\"], from: Tensor(\"shared.{{n}}\"))"
        )
    };
    let flat = expanded(&format!(
        "{}, {}, {}, {}",
        weight("v"),
        weight("w"),
        pass("a", "v", "m"),
        pass("b", "w", "y")
    ))
    .unwrap();
    assert_eq!(passes(&flat), ["a: v -> m", "b: v -> y"]);
    let recipe = flat.values.iter().find_map(|value| match &value.kind {
        crate::graph::flat::FlatKind::Weight(_, recipe) => Some(recipe.to_string()),
        _ => None,
    });
    assert_eq!(recipe.unwrap(), "shared.3");
}

/// What the checkpoint says goes before what was asked for, for weights of the alias `weight` alone; rows that are no whole
/// wide groups have narrow ones, lists and rows that are no whole groups at all no block format.
#[test]
fn a_native_weight_has_the_type_of_its_tensor() {
    let weight = |name: &str, dtype: &str, shape: &str| {
        format!(
            "Weight(name: \"{name}\", dtype: \"{dtype}\", shape: [{shape}], from: Tensor(\"{name}\")), {}",
            pass(name, name, "m")
        )
    };
    let body = [
        weight("int8_rows", "weight", "\"4\", \"64\""),
        weight("f32_rows", "weight", "\"4\", \"64\""),
        weight("missing", "weight", "\"4\", \"64\""),
        weight("int8_list", "weight", "\"64\""),
        weight("int8_odd", "weight", "\"4\", \"8\""),
        weight("int8_norm", "f32", "\"4\", \"64\""),
        weight("wide", "weight", "\"4\", \"640\""),
        weight("narrow", "weight", "\"4\", \"576\""),
        weight("odd", "weight", "\"4\", \"40\""),
        pass("last", "x", "y"),
    ];
    let native = NativeTypes::new(|recipe| match recipe.to_string() {
        name if name.starts_with("int8") => Some(DType::Int8),
        name if name.starts_with("f32") => Some(DType::F32),
        _ => None,
    });
    let request = Request {
        dtypes: BTreeMap::from([("weight".into(), DType::Int4g128)]),
        native: Some(native),
        ..Request::default()
    };
    let flat = expanded_as(&body.join(", "), &request).unwrap();
    let types = flat.values.iter().filter_map(|value| match &value.kind {
        crate::graph::flat::FlatKind::Weight(declared, _) => Some((&*value.name, declared.dtype)),
        _ => None,
    });
    let want = [
        ("int8_rows", DType::Int8),
        ("f32_rows", DType::F32),
        ("missing", DType::Int4),
        ("int8_list", DType::F16),
        ("int8_odd", DType::F16),
        ("int8_norm", DType::F32),
        ("wide", DType::Int4g128),
        ("narrow", DType::Int4),
        ("odd", DType::F16),
    ];
    assert_eq!(types.collect::<Vec<_>>(), want);
}

#[test]
fn a_mistake_in_a_loop_is_said_once() {
    let body = pass("a", "hh", "h");
    let text = expanded(&format!(
        "Repeat(index: \"l\", count: \"n\", carry: {{ \"h\": \"x\" }}, body: [{body}]), {}",
        pass("b", "x", "y")
    ));
    let text = text.unwrap_err();
    assert_eq!(text.matches("unknown value `hh`").count(), 1, "{text}");
    assert!(text.contains("l = 0"), "{text}");
}
