//! The seams of the design, held by reading the code: which part may use which, and what nobody may touch.
//! Comments and tests are not looked at.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A part of `src`, and the parts it may use beside itself. A part that is not named here may use everything.
const MAY_USE: &[(&str, &[&str])] = &[
    ("span", &[]),
    ("ids", &[]),
    ("expr", &["diag"]),
    ("dtype", &[]),
    ("device", &[]),
    ("sources", &["span"]),
    ("diag", &["codes", "span"]),
    ("codes", &["diag"]),
    ("text", &["codes", "diag", "span"]),
    (
        "kernel",
        &[
            "codes", "device", "diag", "dtype", "expr", "formula", "span", "text",
        ],
    ),
    ("formula", &["diag", "dtype", "expr", "kernel"]),
    (
        "graph",
        &[
            "codes", "diag", "dtype", "expr", "ids", "kernel", "span", "text",
        ],
    ),
    (
        "plan",
        &[
            "codes", "device", "diag", "dtype", "expr", "graph", "ids", "kernel", "span",
        ],
    ),
    (
        "instance",
        &[
            "codes", "device", "diag", "graph", "ids", "kernel", "plan", "span",
        ],
    ),
    (
        "interp",
        &[
            "device", "diag", "dtype", "expr", "formula", "ids", "kernel", "plan",
        ],
    ),
    (
        "weights",
        &["codes", "diag", "dtype", "graph", "ids", "plan"],
    ),
    (
        "report",
        &["device", "dtype", "expr", "ids", "kernel", "plan"],
    ),
    ("vk", &["codes", "device", "diag", "dtype", "ids", "plan"]),
    (
        "run",
        &[
            "codes", "device", "diag", "dtype", "ids", "plan", "vk", "weights",
        ],
    ),
];

/// A text that must not appear in code under these paths.
const MUST_NOT_SAY: &[(&str, &[&str], &str)] = &[
    (
        "HashMap",
        &[
            "text", "graph", "kernel", "formula", "plan", "interp", "compile", "report",
        ],
        "its order is random",
    ),
    (
        "HashSet",
        &[
            "text", "graph", "kernel", "formula", "plan", "interp", "compile", "report",
        ],
        "its order is random",
    ),
    (
        "std::fs",
        &[
            "text", "graph", "formula", "plan", "interp", "expr", "report",
        ],
        "files come through `Sources`",
    ),
    (
        "std::time",
        &[
            "text", "graph", "formula", "plan", "interp", "expr", "report",
        ],
        "same input, same plan",
    ),
    (
        "std::env",
        &[
            "text", "graph", "formula", "plan", "interp", "expr", "report",
        ],
        "same input, same plan",
    ),
    (
        "ron::",
        &["graph", "plan", "vk", "run", "interp"],
        "RON is read by `text`",
    ),
];

/// What the verifier must not know, so that it can find their mistakes.
const NOT_IN_VERIFY: [&str; 7] = [
    "schedule", "live", "pack", "guard", "sync", "lower", "estimate",
];

struct Code {
    path: PathBuf,
    /// The first folder or the file under `src`.
    part: String,
    /// Without comments and without tests.
    text: String,
}

fn code() -> Vec<Code> {
    fn walk(folder: &Path, out: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, out);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                out.push(path);
            }
        }
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&source, &mut paths);
    paths.sort();
    let is_test = |path: &Path| {
        let stem = path.file_stem().unwrap().to_str().unwrap();
        stem.ends_with("tests") || path.components().any(|part| part.as_os_str() == "tests")
    };
    let found: Vec<Code> = paths
        .into_iter()
        .filter(|path| !is_test(path.strip_prefix(&source).unwrap()))
        .map(|path| {
            let first = path.strip_prefix(&source).unwrap().iter().next().unwrap();
            let part = first.to_str().unwrap().trim_end_matches(".rs").to_string();
            let text = std::fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]\nmod ").next().unwrap();
            let text = text.split("#[cfg(test)]\n#[allow(").next().unwrap();
            let lines: Vec<&str> = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .collect();
            Code {
                text: lines.join("\n"),
                path,
                part,
            }
        })
        .collect();
    assert!(found.len() > 20, "src was not found");
    found
}

/// The names that follow `head`, also inside of `head{..}`.
fn named<'a>(text: &'a str, head: &str) -> BTreeSet<&'a str> {
    let word = |text: &'a str| {
        let end = text
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(text.len());
        &text[..end]
    };
    let mut names = BTreeSet::new();
    for (at, _) in text.match_indices(head) {
        let rest = &text[at + head.len()..];
        match rest.strip_prefix('{') {
            None => {
                names.insert(word(rest));
            }
            Some(list) => {
                let mut depth = 0;
                let mut fresh = true;
                for (at, c) in list.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => fresh = true,
                        c if fresh && !c.is_whitespace() => {
                            names.insert(word(&list[at..]));
                            fresh = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    names.remove("");
    names
}

#[test]
fn names_are_found_in_lists() {
    let text = "use crate::a::b; use crate::{c, d::{e, f}, g}; x: crate::h::I";
    assert_eq!(
        named(text, "crate::"),
        BTreeSet::from(["a", "c", "d", "g", "h"])
    );
}

#[test]
fn parts_use_only_what_they_may() {
    let mut wrong = Vec::new();
    for code in code() {
        let Some((_, may)) = MAY_USE.iter().find(|(part, _)| *part == code.part) else {
            continue;
        };
        for used in named(&code.text, "crate::") {
            if used != code.part && !may.contains(&used) {
                wrong.push(format!(
                    "{}: `{}` uses `{used}`",
                    code.path.display(),
                    code.part
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_must_not_be_touched_is_not() {
    let mut wrong = Vec::new();
    for code in code() {
        for (text, parts, why) in MUST_NOT_SAY {
            if parts.contains(&code.part.as_str()) && code.text.contains(text) {
                wrong.push(format!("{}: `{text}`: {why}", code.path.display()));
            }
        }
        if code.part != "vk"
            && !named(&code.text, "ash::").is_empty()
            && code.text.contains(" ash::")
        {
            wrong.push(format!("{}: only `vk` names ash", code.path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_verifier_shares_no_code_with_the_planner() {
    let mut seen = 0;
    for code in code() {
        let path = code.path.to_str().unwrap();
        if !path.contains("plan/verify") {
            continue;
        }
        seen += 1;
        for head in ["plan::", "super::"] {
            for used in named(&code.text, head) {
                assert!(!NOT_IN_VERIFY.contains(&used), "{path} uses `{used}`");
            }
        }
    }
    assert!(
        seen > 0
            || !Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("src/plan/verify")
                .exists()
    );
}
