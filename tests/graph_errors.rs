//! Every case under `tests/errors/` for the graph stages (G01xx to G03xx) is found by those stages, with its own code
//! first. (`tests/errors.rs` holds the words that people see.)
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod graphs;

use std::collections::BTreeMap;
use std::path::Path;

use graphc::expr::Value;
use graphc::graph::{FuseOptions, Request};
use graphc::sources::FsSources;
use graphs::Stages;

/// The request that a case's first line asks for: `// check --set a=1 --entry rows=4,d=8`.
fn request(first_line: &str) -> Request {
    let mut request = Request::default();
    let words: Vec<&str> = first_line.split_whitespace().collect();
    for pair in words.windows(2) {
        let parts = pair[1].split(',').filter_map(|part| part.split_once('='));
        match pair[0] {
            "--set" => request
                .set
                .extend(parts.map(|(name, value)| (name.into(), Value::Text(value.into())))),
            "--entry" => request
                .dims
                .extend(parts.map(|(name, value)| (name.into(), value.parse().unwrap()))),
            _ => {}
        }
    }
    request
}

#[test]
fn every_case_gives_its_code() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/errors");
    let mut cases: BTreeMap<String, String> = BTreeMap::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_string();
        let ours = ["G01", "G02", "G03"]
            .iter()
            .any(|part| name.starts_with(part));
        if ours && (path.is_dir() || name.ends_with(".ron")) {
            let main = if path.is_dir() {
                format!("{name}/main.ron")
            } else {
                name.clone()
            };
            cases.insert(name, main);
        }
    }
    assert!(cases.len() > 40, "{}", cases.len());
    let mut wrong = Vec::new();
    for (name, main) in cases {
        let own_kernels = folder.join(&name).join("shaders").is_dir();
        let (sources, path) = if own_kernels {
            (FsSources::new(folder.join(&name)), "main.ron".to_string())
        } else {
            (
                FsSources::new(env!("CARGO_MANIFEST_DIR")),
                format!("tests/errors/{main}"),
            )
        };
        let text = std::fs::read_to_string(folder.join(&main)).unwrap();
        let request = request(text.lines().next().unwrap());
        let code = name.split('_').next().unwrap();
        let said = match Stages::try_of(&sources, &path, &request, &FuseOptions::default()) {
            Ok(stages) => stages.warnings.join("\n"),
            Err(text) => text,
        };
        if !said.starts_with(&format!("error[{code}]"))
            && !said.starts_with(&format!("warning[{code}]"))
        {
            wrong.push(format!("{name}:\n{said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
