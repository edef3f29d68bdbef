//! The command line as people meet it: help texts letter for letter, exit codes, what stands in files and what does
//! not. `BLESS=1 cargo test --test cli` rewrites the help texts under `tests/golden/cli/`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A small model of the BERT graph.
const BERT: [&str; 14] = [
    "graphs/models/bert.ron",
    "--set=layers=2",
    "--set=d_model=64",
    "--set=heads=2",
    "--set=d_ff=128",
    "--set=vocab=100",
    "--set=max_positions=64",
    "--entry=batch=2,seq=32",
    "--profile=lavapipe",
    "--dtype=f32",
    "--quiet",
    "--color=never",
    "--cache-dir",
    concat!(env!("CARGO_TARGET_TMPDIR"), "/cli-cache"),
];

/// Runs graphc in the repository, with none of the variables that would change what it does.
fn graphc<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_graphc"));
    for (variable, _) in std::env::vars().filter(|(name, _)| name.starts_with("GRAPHC_")) {
        command.env_remove(variable);
    }
    command
        .args(args)
        .env_remove("COLUMNS")
        .current_dir(ROOT)
        .output()
        .unwrap()
}

fn compile(more: &[&str]) -> Output {
    graphc(["compile"].iter().chain(&BERT).chain(more))
}

/// Compiles to look at the plan.
fn planned(more: &[&str]) -> Output {
    compile(&[&["--no-shaders"], more].concat())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Exit code 0; gives standard output.
fn done(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// The exit code, one of the words on standard error, nothing on standard output.
fn refused(output: &Output, code: i32, words: &[&str]) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "no {word:?} in:\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(text(&output.stdout), "");
}

#[test]
#[cfg(all(feature = "gpu", feature = "shaderc"))]
fn help_texts_are_as_recorded() {
    let commands = [
        "",
        "embed",
        "generate",
        "perplexity",
        "compile",
        "check",
        "fmt",
        "verify",
        "inspect",
        "explain",
        "devices",
        "bench",
        "profile",
        "roof",
        "diff",
        "watch",
        "tune",
        "completions",
        "man",
    ];
    let overview = done(&graphc(["--help"]));
    let listed = overview.split("Commands:\n").nth(1).unwrap();
    let listed = listed.split("\n\n").next().unwrap().lines();
    let listed: Vec<&str> = listed
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(listed, [&commands[1..], &["help"]].concat());

    let folder = Path::new(ROOT).join("tests/golden/cli");
    let mut wrong = Vec::new();
    for command in commands {
        let said = done(&graphc(
            [command, "--help"].iter().filter(|arg| !arg.is_empty()),
        ));
        let name = if command.is_empty() {
            "graphc"
        } else {
            command
        };
        let golden = folder.join(format!("{name}.txt"));
        if std::env::var_os("BLESS").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&golden, &said).unwrap();
        } else if std::fs::read_to_string(&golden).unwrap_or_default() != said {
            wrong.push(format!("{} is now:\n{said}", golden.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[cfg(feature = "gpu")]
#[test]
fn a_negative_number_is_told_what_is_allowed() {
    for (flag, value) in [
        ("--temperature", "-1"),
        ("--max-tokens", "-3"),
        ("--top-p", "-0.5"),
    ] {
        let words = ["invalid value", value, flag];
        refused(
            &graphc(["generate", "--model", "x", flag, value]),
            2,
            &words,
        );
    }
}

#[test]
fn bad_usage_is_named_and_ends_with_2() {
    refused(&graphc(["compile", "--frob"]), 2, &["--frob", "Usage:"]);
    refused(&graphc(["complie"]), 2, &["complie", "compile"]);
    refused(
        &graphc(["compile", "no/such/graph.ron"]),
        2,
        &["cannot read `no/such/graph.ron`"],
    );
    for (arg, words) in [
        ("--set=layers", ["NAME=VALUE", "layers=2"]),
        ("--set=layrs=2", ["unknown param `layrs`", "`layers`?"]),
        ("--entry=batch=x", ["`x` is not a number", "`batch`"]),
        ("--entry=batch=0,seq=4", ["`batch`", "bound 1 to 64"]),
        ("--entry=seq=4,seq=5", ["`seq`", "twice"]),
        ("--entry=batch=2,sq=4", ["unknown dim `sq`", "`seq`?"]),
        ("--entry=batch=2,seq=65", ["G0109", "max_positions = 64"]),
        ("--entry=nightly", ["no entry `nightly`", "named entries"]),
        (
            "--no-fusion=linear_bais",
            ["`linear_bais`", "`linear_bias`?"],
        ),
        ("--emit=flt", ["flt", "flat"]),
        ("--max-submit-ms=-1", ["-1", "positive"]),
    ] {
        refused(&compile(&[arg]), 2, &words);
    }
    let profile = graphc(["compile", BERT[0], "--profile", "lavapip"]);
    refused(&profile, 2, &["`lavapip`", "lavapipe"]);
    let root = graphc(["check", BERT[0], "--root", "tests"]);
    refused(&root, 2, &["`tests`", "--root"]);
    let empty = tempfile::Builder::new().suffix(".ron").tempfile().unwrap();
    let empty = empty.path().to_str().unwrap();
    refused(
        &graphc(["check", empty]),
        2,
        &["G0002", empty, "there is nothing in this file"],
    );
}

/// Runs graphc in another folder than the repository.
fn graphc_in(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_graphc"));
    for (variable, _) in std::env::vars().filter(|(name, _)| name.starts_with("GRAPHC_")) {
        command.env_remove(variable);
    }
    command
        .args(args)
        .arg("--root")
        .arg(ROOT)
        .current_dir(folder)
        .output()
        .unwrap()
}

#[test]
fn paths_are_looked_up_from_the_current_folder() {
    let folder = tempfile::tempdir().unwrap();
    let shipped = Path::new(ROOT).join("profiles/devices/lavapipe.ron");
    let mine = std::fs::read_to_string(shipped)
        .unwrap()
        .replace("\"lavapipe\"", "\"mine\"");
    std::fs::create_dir(folder.path().join("below")).unwrap();
    for name in ["mine.ron", "below/mine.ron", "mine"] {
        std::fs::write(folder.path().join(name), &mine).unwrap();
    }
    let compile = |profile: &str| {
        let args = [
            &["compile"],
            &BERT[..8],
            &["--profile", profile, "--emit", "plan", "--no-shaders"],
        ]
        .concat();
        graphc_in(folder.path(), &args)
    };
    let absolute = folder.path().join("mine.ron");
    for profile in [
        "mine.ron",
        "./mine",
        "below/mine.ron",
        "below/../mine.ron",
        absolute.to_str().unwrap(),
    ] {
        assert!(done(&compile(profile)).contains("mine"), "{profile}");
    }
    // A name is one of the root's profiles, whatever lies here; a path that is not here is one of the root.
    refused(
        &compile("mine"),
        2,
        &["no device profile `mine`", "known profiles: lavapipe"],
    );
    for profile in ["lavapipe", "profiles/devices/lavapipe.ron"] {
        assert!(done(&compile(profile)).contains("lavapipe"), "{profile}");
    }
    refused(
        &compile("./nowhere.ron"),
        2,
        &["cannot read `./nowhere.ron`: No such file"],
    );
    refused(&compile("below"), 2, &["no device profile `below`"]);
    refused(&compile("./below"), 2, &["below", "not a file"]);

    std::fs::copy(
        Path::new(ROOT).join(BERT[0]),
        folder.path().join("mine-graph.ron"),
    )
    .unwrap();
    refused(
        &graphc_in(folder.path(), &["check", "mine-graph.ron"]),
        2,
        &["mine-graph.ron", "G0001"],
    );
    let there = graphc_in(folder.path(), &["check", BERT[0], "--model", "no-model"]);
    refused(&there, 2, &["cannot read the model `no-model`"]);
    let hub = graphc_in(
        folder.path(),
        &["check", BERT[0], "--model", "hf:no/model/here"],
    );
    refused(&hub, 1, &["hf:org/name"]);
}

#[test]
fn numbers_come_as_json() {
    let printed = done(&planned(&["--json"]));
    let json: serde_json::Value = serde_json::from_str(&printed).unwrap();
    let number = |value: &serde_json::Value| value.as_f64().unwrap();
    for key in ["passes", "waves", "barriers", "compile_ms"] {
        assert!(number(&json[key]) > 0.0, "{key} in {printed}");
    }
    assert!(number(&json["weight_bytes"]["device"]) > 0.0);
    assert_eq!(number(&json["weight_bytes"]["host"]), 0.0);
    assert_eq!(number(&json["submits"]), 1.0);
    assert_eq!(number(&json["passes_per_layer"]), 5.0);
    let bytes = |key: &str| number(&json["transient_bytes"][key]);
    assert!(bytes("bound") > 0.0 && bytes("bound") <= bytes("planned"));
    assert!(bytes("planned") < bytes("naive"));

    let unfused = done(&planned(&["--json", "--no-fusion=all"]));
    let unfused: serde_json::Value = serde_json::from_str(&unfused).unwrap();
    assert!(number(&unfused["passes"]) > number(&json["passes"]));
}

#[test]
fn every_stage_can_be_printed() {
    let summary = done(&planned(&[]));
    assert_eq!(summary.lines().count(), 1, "{summary}");
    assert!(summary.starts_with("bert batch=2,seq=32: 12 passes (5 a layer)"));
    let mut seen = std::collections::BTreeSet::new();
    for stage in [
        "flat", "typed", "fused", "schedule", "memory", "sync", "plan", "dot", "svg",
    ] {
        let printed = done(&planned(&["--emit", stage]));
        let (dump, last) = printed.trim_end().rsplit_once('\n').unwrap();
        assert!(last.contains("12 passes"), "{stage} ends with: {last}");
        assert!(dump.len() > 200, "{stage}: {dump}");
        assert!(seen.insert(dump.to_string()), "{stage} is as another stage");
    }
}

#[test]
#[cfg(feature = "shaderc")]
fn shaders_are_built_unless_nothing_asks_for_them() {
    let summary = done(&compile(&[]));
    assert!(summary.ends_with(" ms\n"), "{summary}");
    let summary = done(&planned(&[]));
    assert!(summary.ends_with(" ms without shaders\n"), "{summary}");

    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let from = Path::new(ROOT).join("tests/errors/G0420_shader_with_a_misspelt_name");
    std::fs::create_dir(root.join("shaders")).unwrap();
    for file in ["main.ron", "device.ron", "shaders/double.ron"] {
        std::fs::copy(from.join(file), root.join(file)).unwrap();
    }
    let misspelt = std::fs::read_to_string(from.join("shaders/double.comp")).unwrap();
    let right = misspelt.replace("xs[", "x[");
    let compile = |more: &[&str]| {
        let args = ["compile", "main.ron", "--profile=device.ron", "--root=."];
        let cache = ["--cache-dir=cache", "--color=never"];
        let mut command = Command::new(env!("CARGO_BIN_EXE_graphc"));
        command.args(args).args(cache).args(more);
        command.env_remove("GRAPHC_ROOT").current_dir(root);
        command.output().unwrap()
    };
    for (shader, words) in [
        (None, &["shaders/double.comp: no such file"][..]),
        (Some(misspelt.clone()), &["G0420", "double.comp:11", "'xs'"]),
        (
            Some(right.replace("readonly ", "")),
            &["G0423", "`x` (binding 0)", "`readonly`"],
        ),
        (
            Some(right.replace("\n\n", "\n#include \"gone.glsl\"\n")),
            &["G0420", "shaders/gone.glsl: no such file"],
        ),
        (
            Some(right.replace("main", "ma\0in")),
            &[
                "G0420",
                "shaders/double.comp:8: byte 253 of the file is zero",
            ],
        ),
        // What is refused here stays on standard error, which `refused` looks at.
        (
            Some(String::new()),
            &["G0420", "this one is empty", "`#version 460`"],
        ),
        (
            Some(right.replace("#version 460\n", "")),
            &["G0420", "double.comp:2", "begins with `#version`"],
        ),
        (
            Some(right.replace("460", "110")),
            &["G0420", "110 has no compute shaders"],
        ),
    ] {
        let path = root.join("shaders/double.comp");
        let _ = std::fs::remove_file(&path);
        if let Some(text) = shader {
            std::fs::write(path, text).unwrap();
        }
        refused(&compile(&[]), 2, words);
        refused(&compile(&["--emit=fused", "--emit=plan"]), 2, words);
        refused(&compile(&["--emit=fused", "-oa.plan"]), 2, words);
        for more in ["--no-shaders", "--emit=flat", "--emit=fused"] {
            let said = done(&compile(&[more]));
            assert!(said.ends_with(" without shaders\n"), "{more}: {said}");
        }
    }
    std::fs::write(root.join("shaders/double.comp"), right).unwrap();
    done(&compile(&[]));
}

#[test]
fn explanations() {
    let list = done(&graphc(["explain"]));
    assert!(list.lines().count() > 60, "{list}");
    assert!(done(&graphc(["explain", "G0207"])).starts_with("G0207: shapes do not match\n\n"));
    refused(
        &graphc(["explain", "G9999"]),
        2,
        &["no code `G9999`", "graphc explain"],
    );
}

/// Every graph file of the repository that is not wrong on purpose.
fn graph_files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["graphs", "tests/golden"] {
        for inner in std::fs::read_dir(Path::new(ROOT).join(folder)).unwrap() {
            let inner = inner.unwrap().path();
            if inner.is_dir() {
                let files = std::fs::read_dir(inner).unwrap();
                found.extend(files.map(|file| file.unwrap().path()));
            }
        }
    }
    found.retain(|path| path.extension().is_some_and(|ext| ext == "ron"));
    found.sort();
    found
}

#[test]
fn the_graphs_here_are_formatted() {
    let files = graph_files();
    assert!(files.len() >= 12, "{files:?}");
    let check = [PathBuf::from("fmt"), PathBuf::from("--check")];
    done(&graphc(check.iter().chain(&files)));

    let folder = tempfile::tempdir().unwrap();
    let odd = folder.path().join("odd.ron");
    let original = std::fs::read_to_string(Path::new(ROOT).join(BERT[0])).unwrap();
    std::fs::write(&odd, original.replace("    ", "  ")).unwrap();
    let checked = graphc([check[0].as_path(), check[1].as_path(), &odd]);
    assert_eq!(checked.status.code(), Some(1));
    assert_eq!(text(&checked.stdout), format!("{}\n", odd.display()));
    done(&graphc([Path::new("fmt"), &odd]));
    assert_eq!(std::fs::read_to_string(&odd).unwrap(), original);

    std::fs::write(&odd, "Graph(name: ").unwrap();
    refused(&graphc([Path::new("fmt"), &odd]), 2, &["odd.ron:1"]);
    assert_eq!(std::fs::read_to_string(&odd).unwrap(), "Graph(name: ");
}

#[test]
#[cfg(feature = "shaderc")]
fn plan_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let verify = |name: &str| graphc(["verify", &path(name)]);
    done(&compile(&["-o", &path("a.plan")]));
    done(&compile(&["-o", &path("b.plan")]));
    let plan = std::fs::read(path("a.plan")).unwrap();
    assert_eq!(
        plan,
        std::fs::read(path("b.plan")).unwrap(),
        "same input, same bytes"
    );
    assert!(done(&verify("a.plan")).contains("proved right; 1 entries, 12 passes"));

    let mut altered = plan.clone();
    let middle = altered.len() / 2;
    altered[middle] ^= 1;
    for (name, bytes, words) in [
        ("short.plan", &plan[..plan.len() / 2], "truncated"),
        ("empty.plan", &[], "not a plan"),
        ("altered.plan", &altered, "altered"),
        (
            "foreign.plan",
            b"# A page about plans\n",
            "it is text that starts with \"# A page\"",
        ),
        ("cut.plan", &plan[..5], "it ends after 5 bytes"),
    ] {
        std::fs::write(path(name), bytes).unwrap();
        refused(&verify(name), 2, &[name, words]);
    }
    refused(&verify("missing.plan"), 2, &["cannot read", "missing.plan"]);
}

#[test]
#[cfg(feature = "shaderc")]
fn what_cannot_be_written_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let there = |name: &str| folder.path().join(name);
    std::fs::create_dir(there("taken.plan")).unwrap();
    for (name, reason) in [
        ("no/such/folder/a.plan", "there is no folder"),
        ("taken.plan", "directory"),
    ] {
        let path = there(name);
        let output = compile(&["-o", path.to_str().unwrap()]);
        refused(&output, 1, &["cannot write", name, reason]);
    }
    // A graph that is wrong must not touch the plan of yesterday.
    std::fs::write(there("old.plan"), "yesterday").unwrap();
    let old = there("old.plan");
    let wrong = compile(&["-o", old.to_str().unwrap(), "--set=heads=3"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", text(&wrong.stderr));
    assert_eq!(std::fs::read_to_string(old).unwrap(), "yesterday");
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

/// A device is written to and stays a device; what it says is said with its name.
#[test]
#[cfg(all(feature = "shaderc", target_os = "linux"))]
fn a_full_disk() {
    use std::os::unix::fs::FileTypeExt as _;
    refused(
        &compile(&["-o", "/dev/full"]),
        1,
        &["cannot write `/dev/full`: No space left on device"],
    );
    let full = std::fs::metadata("/dev/full").unwrap();
    assert!(full.file_type().is_char_device());
    let mut command = Command::new(env!("CARGO_BIN_EXE_graphc"));
    let stdout = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = command.arg("explain").stdout(stdout).output().unwrap();
    refused(
        &output,
        1,
        &["cannot write `standard output`: No space left on device"],
    );
}

#[cfg(all(feature = "gpu", not(feature = "tracy")))]
#[test]
fn a_build_without_tracy_says_how_to_get_one() {
    let output = graphc(["bench"].iter().chain(&BERT[..8]).chain(&["--tracy"]));
    let words = ["built without Tracy", "cargo build --features tracy"];
    refused(&output, 2, &words);
}
