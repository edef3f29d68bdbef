//! Every folder under `tests/golden/` holds a small graph and what the graph stages make of it: `flat.txt`, `typed.txt`,
//! `fused.txt`. `BLESS=1 cargo test --test golden` writes them anew; the difference is then read by a person.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod graphs;

use std::collections::BTreeSet;
use std::path::Path;

use graphc::expr::Value;
use graphc::graph::{FuseOptions, Request};
use graphs::Stages;

fn folders() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut names: Vec<String> = std::fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("graph.ron").is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn the_stages_make_what_the_golden_files_say() {
    let mut wrong = Vec::new();
    for name in folders() {
        let path = format!("tests/golden/{name}/graph.ron");
        let request = Request {
            entry: Some("golden".into()),
            ..Request::default()
        };
        let stages = Stages::of(&path, &request, &FuseOptions::default());
        for (file, text) in [
            ("flat", &stages.flat),
            ("typed", &stages.typed),
            ("fused", &stages.fused.dump()),
        ] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join(format!("tests/golden/{name}/{file}.txt"));
            if std::env::var_os("BLESS").is_some() {
                std::fs::write(&path, text).unwrap();
            } else if std::fs::read_to_string(&path).unwrap_or_default() != *text {
                wrong.push(format!("{}:\n{text}", path.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "BLESS=1 writes these anew:\n{}",
        wrong.join("\n")
    );
}

/// The `number`-th worked example of `graphs/README.md`, from 1.
fn block(number: usize) -> String {
    let readme =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("graphs/README.md"))
            .unwrap();
    let block = readme.split("```ron\n").nth(number).unwrap();
    block.split("```").next().unwrap().to_string()
}

/// The same with one of its entries.
fn example(number: usize, entry: &str, options: &FuseOptions) -> Stages {
    let block = block(number);
    let sources = graphs::Overlay::new(&[("graphs/example.ron", &block)]);
    let request = Request {
        entry: Some(entry.into()),
        ..Request::default()
    };
    Stages::try_of(&sources, "graphs/example.ron", &request, options)
        .unwrap_or_else(|text| panic!("{text}"))
}

fn unfused() -> FuseOptions {
    FuseOptions {
        none: true,
        ..FuseOptions::default()
    }
}

/// The examples of `graphs/README.md` compile, and do what the text beside them says.
#[test]
fn the_worked_example_compiles() {
    let count = |stages: &Stages| {
        let passes = stages.fused.graph().passes.iter();
        passes.filter(|pass| pass.path.starts_with("l1/")).count()
    };
    let plain = example(1, "small", &unfused());
    let fused = example(1, "small", &FuseOptions::default());
    assert_eq!(fused.warnings, Vec::<String>::new());
    assert_eq!((count(&plain), count(&fused)), (6, 2));
}

#[test]
fn the_worked_example_refuses_another_model() {
    let block = block(1);
    let sources = graphs::Overlay::new(&[("graphs/example.ron", &block)]);
    let said = |activation: &str| {
        let request = Request {
            params: graphs::metadata(&[("activation", Value::Text(activation.into()))]),
            entry: Some("small".into()),
            ..Request::default()
        };
        Stages::try_of(&sources, "graphs/example.ron", &request, &unfused())
    };
    assert!(said("relu").is_ok());
    let said = said("gelu").err().unwrap();
    assert!(
        said.contains("[G0122]: key `activation` of the model is gelu"),
        "{said}"
    );
}

#[test]
fn the_worked_decoder_compiles() {
    let decode = example(2, "decode", &FuseOptions::default());
    assert_eq!(decode.warnings, Vec::<String>::new());
    let graph = decode.fused.graph();
    assert_eq!((graph.passes.len(), graph.repeat), (7, 4));
    assert_eq!((graph.inputs.len(), graph.outputs.len()), (7, 1));
    let prompt = example(2, "prompt", &FuseOptions::default());
    assert_eq!(prompt.warnings, Vec::<String>::new());
    let graph = prompt.fused.graph();
    let inputs = graph.inputs.iter().map(|id| &*graph.values[*id].name);
    assert_eq!(inputs.collect::<Vec<_>>(), ["ids", "positions", "slots"]);
    assert_eq!((graph.repeat, graph.outputs.len()), (1, 0));
}

/// A rule that no golden graph shows is a rule that nobody has looked at.
#[test]
fn every_fusion_rule_fires_in_some_golden_graph() {
    let mut fired = BTreeSet::new();
    for name in folders() {
        let path = format!("tests/golden/{name}/graph.ron");
        let request = Request {
            entry: Some("golden".into()),
            ..Request::default()
        };
        let stages = Stages::of(&path, &request, &FuseOptions::default());
        fired.extend(stages.fused.fired().iter().map(|fired| fired.rule.clone()));
    }
    let rules = graphs::rules("graphs/models/llama.ron");
    let missing: Vec<&String> = rules.iter().filter(|rule| !fired.contains(*rule)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
