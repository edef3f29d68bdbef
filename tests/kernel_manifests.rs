//! The manifests under `shaders/` load, and mistakes in a manifest are told with their place.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use graphc::kernel::{Library, manifest};
use graphc::sources::FsSources;
use graphc::span::{SourceMap, Sources};

fn library() -> Library {
    let mut map = SourceMap::default();
    let root = FsSources::new(env!("CARGO_MANIFEST_DIR"));
    manifest::load(&root, &mut map).unwrap_or_else(|found| panic!("{}", found.render(&map, false)))
}

#[test]
fn every_manifest_of_the_repository_loads() {
    let names: Vec<String> = library().manifests.into_keys().collect();
    let listed = FsSources::new(env!("CARGO_MANIFEST_DIR"))
        .list("shaders")
        .unwrap();
    assert_eq!(names.len(), listed.len());
    assert!(names.contains(&"linear".to_string()));
}

/// The codes that a manifest of this text is refused with.
fn codes(text: &str) -> Vec<&'static str> {
    let sources = BTreeMap::from([("shaders/copy.ron".to_string(), text.to_string())]);
    let found = manifest::load(&sources, &mut SourceMap::default()).unwrap_err();
    found.items().iter().map(|item| item.code.0).collect()
}

const COPY: &str = r#"Kernel(
    name: "copy", doc: "y = x", types: { "A": ["f32"] },
    options: { "times": Int(default: "1", min: "1", max: "9") },
    ports: { "x": Read(of: "A", shape: ["n..."]), "y": Write(of: "A", shape: ["n..."], in_place: "x") },
    reference: ["y[i<n] = x[i] * times"],
    push: { "n": U32("n") },
    variants: [Variant(name: "plain", shader: "copy.comp", spec: { "WIDTH": Spec(default: "64", min: "1", max: "1024") },
        local_size: ["WIDTH", "1", "1"], dispatch: ["ceil(n / WIDTH)", "1", "1"])],
)"#;

#[test]
fn mistakes_have_codes() {
    let load = |text: &str| {
        let sources = BTreeMap::from([("shaders/copy.ron".to_string(), text.to_string())]);
        manifest::load(&sources, &mut SourceMap::default())
    };
    assert!(load(COPY).is_ok());
    let cases = [
        ("U32(\"n\")", "U32(\"m\")", "G0402"),
        ("ceil(n / WIDTH)", "ceil(n / ", "G0402"),
        ("\"times\": Int", "\"n\": Int", "G0403"),
        ("[Variant(", "[Variant(needs: [\"storage_f16\"], ", "G0404"),
        ("in_place: \"x\"", "in_place: \"z\"", "G0405"),
        ("in_place: \"x\"", "tiles: true", "G0405"),
        ("push:", "touched: { \"z\": \"n\" }, push:", "G0405"),
        ("[\"f32\"]", "[\"f33\"]", "G0405"),
        ("\"copy.comp\"", "\"../copy.comp\"", "G0405"),
        ("min: \"1\", max: \"9\"", "min: \"2\", max: \"9\"", "G0405"),
        ("x[i] * times", "x[i, i]", "G0406"),
        ("x[i] * times", "z[i]", "G0406"),
        ("x[i] * times", "tahn(x[i])", "G0406"),
        ("x[i] * times", "foo()", "G0406"),
        ("x[i] * times", "tanh(x[i], 3.0)", "G0406"),
        ("x[i] * times", "if(has(x), x[i])", "G0406"),
        ("x[i] * times", "x(i)", "G0406"),
        ("x[i] * times", "sum(x[i])", "G0406"),
        ("x[i] * times", "max(x[i])", "G0406"),
        // Also in a branch that no binding takes.
        ("x[i] * times", "if(times > 9, rand(1), x[i])", "G0406"),
        ("ceil(n / WIDTH)", "ciel(n / WIDTH)", "G0402"),
        ("ceil(n / WIDTH)", "min(n)", "G0402"),
        ("ceil(n / WIDTH)", "if(n > 0, 1, ceil(n, WIDTH))", "G0402"),
    ];
    for (from, to, code) in cases {
        assert!(COPY.contains(from), "{from}");
        let found = codes(&COPY.replacen(from, to, 1));
        assert!(found.contains(&code), "{to}: {found:?}");
    }
}

#[test]
fn a_function_that_is_not_there_is_told_what_is() {
    let said = |from: &str, to: &str| {
        let text = COPY.replacen(from, to, 1);
        assert_ne!(text, COPY, "{from}");
        let sources = BTreeMap::from([("shaders/copy.ron".to_string(), text)]);
        let mut map = SourceMap::default();
        let found = manifest::load(&sources, &mut map).unwrap_err();
        found.render(&map, false)
    };
    for (from, to, words) in [
        ("x[i] *", "tahn(x[i]) *", "did you mean `tanh`?"),
        ("x[i] *", "x(i) *", "elements stand in brackets: `x[..]`"),
        ("x[i] *", "softmax(i) *", "the functions are exp, log, sqrt"),
        ("x[i] *", "abs(1, 2) *", "`abs` takes 1 argument, found 2"),
        ("x[i] *", "pow() *", "`pow` takes 2 arguments, found 0"),
        ("x[i] *", "max(1) *", "over an index it is `max(p<k: ..)`"),
        ("ceil(n", "ciel(n", "did you mean `ceil`?"),
        (
            "ceil(n",
            "div(n",
            "the functions are ceil, if, log2, max, min",
        ),
        ("ceil(n", "pow(n", "`pow` takes 2 arguments, found 1"),
    ] {
        let said = said(from, to);
        assert!(said.contains(words), "{said}");
    }
}
