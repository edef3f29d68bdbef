//! What people see when a file is wrong, letter for letter.
//!
//! A case is `tests/errors/<CODE>_<slug>.ron`, or a folder of that name with a `main.ron` and the files it needs (and
//! with a `shaders` folder of its own if the mistake is in a kernel). Its first line says what to run:
//! `// check --set layers=2`. Beside it, `<CODE>_<slug>.txt` holds what the command says and its exit code.
//! `BLESS=1 cargo test --test errors` rewrites those.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Codes up to G04xx that no graph file can cause, and where they are tested instead.
const ELSEWHERE: &[(&str, &str)] = &[
    (
        "G0011",
        "needs megabytes of text; a unit test of text::parse has it",
    ),
    (
        "G0421",
        "needs a graphc without shaderc; a unit test of kernel::build has it",
    ),
    (
        "G0422",
        "no compiler makes such SPIR-V; unit tests of kernel have it",
    ),
    (
        "G0423",
        "unit tests of kernel::check have every way to differ",
    ),
];

/// Codes from here on have harnesses of their own: the planner's in `tests/plan_errors.rs`, those of weights and
/// devices beside the tests of these.
const LAST: &str = "G0500";

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn cases() -> Vec<PathBuf> {
    let folder = repository().join("tests/errors");
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir() || path.extension().is_some_and(|ext| ext == "ron"))
        .filter(|path| path.file_name().unwrap().to_str().unwrap() < LAST)
        .collect();
    found.sort();
    found
}

fn run(case: &Path) -> String {
    let file = if case.is_dir() {
        case.join("main.ron")
    } else {
        case.to_path_buf()
    };
    let text = std::fs::read_to_string(&file).unwrap();
    let first = text.lines().next().unwrap_or_default();
    let command = first
        .strip_prefix("// ")
        .unwrap_or_else(|| panic!("{}: the first line must say what to run", file.display()));
    let mut words = command.split_whitespace();
    let name = words.next().unwrap();
    let root = if case.join("shaders").is_dir() {
        case
    } else {
        repository()
    };
    let mut graphc = Command::new(env!("CARGO_BIN_EXE_graphc"));
    for (variable, _) in std::env::vars().filter(|(name, _)| name.starts_with("GRAPHC_")) {
        graphc.env_remove(variable);
    }
    let output = graphc
        .arg(name)
        .arg(&file)
        .args(words)
        .arg("--root")
        .arg(root)
        .args(["--color", "never"])
        .current_dir(repository())
        .output()
        .unwrap();
    format!(
        "$ graphc {command}\n{}{}exit code {}\n",
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
        output.status.code().unwrap()
    )
}

fn stem(case: &Path) -> String {
    case.file_stem().unwrap().to_str().unwrap().to_string()
}

#[test]
fn messages_are_as_recorded() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut wrong = Vec::new();
    for case in cases() {
        let (code, _) = case
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .split_once('_')
            .unwrap();
        if code == "G0420" && cfg!(not(feature = "shaderc")) {
            println!("SKIPPED {}: it takes a GLSL compiler", case.display());
            continue;
        }
        let said = run(&case);
        let first = said
            .lines()
            .find(|line| line.starts_with("error") || line.starts_with("warning"));
        if !first.is_some_and(|line| line.contains(&format!("[{code}]"))) {
            wrong.push(format!(
                "{} does not say {code} first:\n{said}",
                case.display()
            ));
        }
        let golden = case.with_file_name(format!("{}.txt", stem(&case)));
        if bless {
            std::fs::write(&golden, &said).unwrap();
        } else if std::fs::read_to_string(&golden).unwrap_or_default() != said {
            wrong.push(format!("{} says now:\n{said}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_code_of_a_graph_file_has_a_case() {
    let have: BTreeSet<String> = cases()
        .iter()
        .map(|case| stem(case).split('_').next().unwrap().to_string())
        .collect();
    let missing: Vec<&str> = graphc::codes::all()
        .map(|known| known.code.0)
        .filter(|code| *code < LAST)
        .filter(|code| !have.contains(*code) && ELSEWHERE.iter().all(|(known, _)| known != code))
        .collect();
    assert!(
        missing.is_empty(),
        "no case under tests/errors: {missing:?}"
    );
    let known: BTreeSet<&str> = graphc::codes::all().map(|known| known.code.0).collect();
    let unknown: Vec<&String> = have
        .iter()
        .filter(|code| !known.contains(code.as_str()))
        .collect();
    assert!(
        unknown.is_empty(),
        "cases of codes that do not exist: {unknown:?}"
    );
}

#[test]
fn codes_are_unique_and_explained() {
    let mut seen = BTreeSet::new();
    for known in graphc::codes::all() {
        assert!(seen.insert(known.code.0), "{} stands twice", known.code.0);
        assert!(
            !known.title.is_empty() && !known.title.ends_with('.'),
            "{}",
            known.code.0
        );
        assert!(
            known.text.len() > 40,
            "{} needs a longer explanation",
            known.code.0
        );
    }
}
