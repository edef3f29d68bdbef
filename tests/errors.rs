//! What people see when a file is wrong, letter for letter.
//!
//! A case is `tests/errors/<CODE>_<slug>.ron`, or a folder of that name with a `main.ron` and the files it needs (and
//! with a `shaders` folder of its own if the mistake is in a kernel). Its first line says what to run:
//! `// check --set layers=2`, or, where files alone do not cause the error, what is done to them (see [`PROVOKED`]).
//! Beside it, `<CODE>_<slug>.txt` holds what the command says and its exit code. `BLESS=1 cargo test --test errors`
//! rewrites those.
//!
//! A `.txt` without a `.ron` or folder is written by another test, which names it: checkpoints have theirs in
//! `tests/weights.rs`, plans in `tests/plan_errors.rs`, devices and tokenizers in `tests/runtime_errors.rs`, a
//! port of Tracy in `tests/tracy`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use graphc::compile::{Compiled, Job, compile, prove};
use graphc::diag::Diagnostics;
use graphc::graph::Request;
use graphc::kernel::build::{BuildError, Builder, Flattened, NoCompiler};
use graphc::plan::{Barrier, Step};
use graphc::profile;
use graphc::sources::FsSources;
use graphc::span::SourceMap;
use graphc::text;

/// Gives what a person would read, from a folder of its own.
type Provoke = fn(&Path) -> String;

/// What stands in the first line of a case that no command line causes, and what is done then.
const PROVOKED: &[(&str, Provoke)] = &[
    ("check with blanks at the end, a mebibyte of them", too_long),
    ("check with three hundred included files", many_files),
    ("compile with no compiler and no cache", |case| {
        built_by(case, &NoCompiler)
    }),
    ("compile with a compiler that gives half a module", |case| {
        built_by(case, &HalfAModule)
    }),
    ("compile and lose the barrier between the passes", unproved),
];

fn too_long(case: &Path) -> String {
    let text = std::fs::read_to_string(case).unwrap() + &" ".repeat(text::MAX_FILE_BYTES);
    loaded(&BTreeMap::from([("main.ron".into(), text)]))
}

fn many_files(case: &Path) -> String {
    let main = std::fs::read_to_string(case.join("main.ron")).unwrap();
    let names: Vec<String> = (0..300).map(|number| format!("part{number}.ron")).collect();
    let mut files: BTreeMap<String, String> = names
        .iter()
        .map(|name| (name.clone(), "Blocks([])".into()))
        .collect();
    let list = names.join("\",\n        \"");
    files.insert("main.ron".into(), main.replace("part0.ron", &list));
    loaded(&files)
}

fn loaded(files: &BTreeMap<String, String>) -> String {
    let mut map = SourceMap::default();
    let problems = text::load("main.ron", files, &mut map).unwrap_err();
    problems.render(&map, false)
}

/// Compiles the graph of a case for its device.
fn compiled(
    case: &Path,
    builder: Option<&dyn Builder>,
    map: &mut SourceMap,
) -> Result<Compiled, Diagnostics> {
    let sources = FsSources::new(case);
    let device = profile::load("device.ron", &sources, map)?;
    let entries = [Request::default()];
    let job = Job {
        builder,
        ..Job::new("main.ron", &sources, &device, &entries)
    };
    compile(&job, map)
}

fn built_by(case: &Path, builder: &dyn Builder) -> String {
    let mut map = SourceMap::default();
    let problems = compiled(case, Some(builder), &mut map).unwrap_err();
    problems.render(&map, false)
}

/// The beginning of a module: the header, and an instruction that says that it has more words than there are.
struct HalfAModule;

impl Builder for HalfAModule {
    fn build(&self, _: &Flattened) -> Result<Vec<u32>, BuildError> {
        Ok(vec![0x0723_0203, 0x0001_0600, 0, 8, 0, 0x0005_000f])
    }
    fn identity(&self) -> String {
        "half a module".into()
    }
}

fn unproved(case: &Path) -> String {
    let mut map = SourceMap::default();
    let compiled = compiled(case, None, &mut map);
    let mut plan = compiled
        .unwrap_or_else(|e| panic!("{}", e.render(&map, false)))
        .plan;
    let steps = &mut plan.entries[0].steps;
    let before_the_last = steps
        .iter()
        .rposition(|step| *step == Step::Barrier(Barrier::Memory));
    steps.remove(before_the_last.unwrap());
    prove(&plan, &[]).unwrap_err().render(&map, false)
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn cases() -> Vec<PathBuf> {
    let folder = repository().join("tests/errors");
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir() || path.extension().is_some_and(|ext| ext == "ron"))
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
    if let Some((_, provoke)) = PROVOKED.iter().find(|(what, _)| *what == command) {
        return format!("({command})\n{}", provoke(case));
    }
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
        if matches!(code, "G0420" | "G0423") && cfg!(not(feature = "shaderc")) {
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

/// Every code has a golden, every golden a code and a test that writes it.
#[test]
fn every_code_has_a_case() {
    let mut tests = String::new();
    let top = std::fs::read_dir(repository().join("tests")).unwrap();
    for entry in top.map(Result::unwrap) {
        let files: Vec<PathBuf> = match entry.path() {
            // Tests of several files; what lies deeper are cases.
            folder if folder.is_dir() => std::fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect(),
            file => vec![file],
        };
        let rust = |path: &&PathBuf| path.extension().is_some_and(|ext| ext == "rs");
        for file in files.iter().filter(rust) {
            tests += &std::fs::read_to_string(file).unwrap();
        }
    }
    let own: BTreeSet<String> = cases().iter().map(|case| stem(case)).collect();
    let known: BTreeSet<&str> = graphc::codes::all().map(|known| known.code.0).collect();
    let mut have = BTreeSet::new();
    for entry in std::fs::read_dir(repository().join("tests/errors")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ext| ext != "txt") {
            continue;
        }
        let name = stem(&path);
        let (code, slug) = name.split_once('_').unwrap();
        assert!(
            known.contains(code),
            "{name} is of a code that does not exist"
        );
        // `runtime_errors.rs` makes a golden for each code and compares the list.
        let written =
            own.contains(&name) || slug == "runtime" || tests.contains(&format!("\"{name}\""));
        assert!(written, "no test writes {name}.txt");
        have.insert(code.to_string());
    }
    let missing: Vec<&&str> = known.iter().filter(|code| !have.contains(**code)).collect();
    assert!(
        missing.is_empty(),
        "no case under tests/errors: {missing:?}"
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
