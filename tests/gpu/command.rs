//! `graphc devices` and `graphc bench`, as a user runs them.

use std::process::{Command, Output};

use graphc::plan::codec;
use serde_json::Value;

use super::plans;

fn graphc(args: &[&str]) -> Output {
    let cache = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_graphc"))
        .args(args)
        .env("GRAPHC_CACHE_DIR", cache.path())
        .env("GRAPHC_VALIDATION", "1")
        .env_remove("GRAPHC_DEVICE")
        .output()
        .unwrap()
}

fn json(args: &[&str]) -> Value {
    let output = graphc(args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn devices_say_what_they_lack() {
    let all = json(&["devices", "--json"]);
    let first = &all[0];
    assert_eq!(first["index"], 0);
    let has = first["profile"]["features"].as_array().unwrap().len();
    let lacks = first["missing"].as_array().unwrap().len();
    assert_eq!(has + lacks, graphc::device::Feature::ALL.len());
    let text = String::from_utf8(graphc(&["devices"]).stdout).unwrap();
    assert!(text.starts_with("0: "), "{text}");
    assert!(text.matches("   lacks ").count() >= lacks, "{text}");
}

#[test]
fn bench_measures_a_plan_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chain.plan");
    std::fs::write(&file, codec::encode(&plans::chain()).unwrap()).unwrap();
    let file = file.to_str().unwrap();
    let figures = &json(&["bench", file, "--runs", "5", "--steps", "--json"])[0];
    assert_eq!(figures["entry"], "n=64");
    assert_eq!(figures["runs"], 5);
    let number = |path: &str| figures.pointer(path).and_then(Value::as_f64).unwrap();
    assert!(number("/gpu_ms/median") > 0.0 && number("/wall_ms/median") > 0.0);
    assert!(number("/gpu_ms/median") <= number("/gpu_ms/p95"));
    assert_eq!(figures["steps"].as_array().unwrap().len(), 5);

    // Of forwards that both times are known of.
    let most = number("/wall_with_timestamps_ms/p95");
    assert!((0.0..most).contains(&number("/wall_beyond_gpu_ms")));

    let bad = graphc(&["bench", file, "--device", "no such"]);
    assert_eq!(bad.status.code(), Some(1));
    let text = String::from_utf8_lossy(&bad.stderr);
    assert!(
        text.contains("no device matches `no such`") && text.contains("explain G0703"),
        "{text}"
    );
}

#[test]
fn bench_compiles_a_graph_for_several_entries() {
    let mut args = vec!["bench", "graphs/models/bert.ron", "--json", "--runs", "2"];
    let sizes = [
        "layers=1",
        "d_model=16",
        "d_ff=32",
        "heads=2",
        "vocab=30",
        "max_positions=16",
    ];
    sizes.iter().for_each(|size| args.extend(["--set", size]));
    args.extend(["--no-fusion", "all"]);
    args.extend(["--entry", "batch=2,seq=8", "--entry", "batch=1,seq=4"]);
    let figures = json(&args);
    let names: Vec<_> = figures
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["entry"])
        .collect();
    assert_eq!(names, ["batch=2,seq=8", "batch=1,seq=4"]);
    for one in figures.as_array().unwrap() {
        assert_eq!(one["submits"], 1);
        assert!(one["passes"].as_u64() > Some(5));
        assert!(one["tokens_per_s"].as_f64() > Some(0.0));
        assert_eq!(one["random_weights"], true);
    }
}

/// Exit code 2, and one line that has these words.
fn refused(args: &[&str], words: &[&str]) {
    let output = graphc(args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{args:?}: no {word:?} in {said}");
    }
    assert!(output.stdout.is_empty(), "{args:?}");
}

#[test]
fn what_a_plan_file_has_settled_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chain.plan");
    std::fs::write(&file, codec::encode(&plans::chain()).unwrap()).unwrap();
    let file = file.to_str().unwrap();
    for option in [
        "--set=a=1",
        "--dtype=f16",
        "--weights=int4",
        "--device-memory-limit=1GiB",
        "--no-fusion=all",
        "--max-submit-ms=5",
    ] {
        let name = option.split('=').next().unwrap();
        refused(
            &["bench", file, option],
            &["chain.plan", name, "comes too late"],
        );
    }
    refused(
        &["bench", file, "--context", "5"],
        &["--context 5", "no `ctx`"],
    );
    for command in ["tune", "watch"] {
        refused(&[command, file], &["chain.plan", "needs the graph"]);
    }
    // Not read to its end, which it does not have.
    refused(&["bench", "/dev/zero"], &["/dev/zero", "not a plan"]);
    refused(&["diff", "/dev/zero", file], &["/dev/zero", "not a plan"]);
}

/// Without `--entry` a graph's first one is measured, and caches must have room for what stands before it.
#[test]
fn bench_of_a_language_model() {
    let mut args = vec!["bench", "graphs/models/llama.ron", "--json", "--runs", "1"];
    let sizes = [
        "layers=1",
        "d_model=64",
        "d_ff=64",
        "heads=2",
        "kv_heads=1",
        "vocab=30",
        "ctx=64",
        "max_positions=64",
        "eps=1e-5",
        "theta=1e4",
    ];
    sizes.iter().for_each(|size| args.extend(["--set", size]));
    args.extend(["--dtype", "f16", "--context", "48"]);
    let figures = json(&args);
    assert_eq!(figures.as_array().unwrap().len(), 1);
    assert_eq!(figures[0]["entry"], "decode");
    let last = args.len() - 1;
    args[last] = "49";
    refused(
        &args,
        &["`decode`", "16 tokens", "the 49 of --context", "64 places"],
    );
}

/// Made-up inputs have the type that they are declared with.
#[test]
fn bench_makes_numbers_of_every_type() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sum.ron");
    let text = r#"Graph(
        name: "sum", params: {}, dtypes: { "act": "f32" },
        inputs: { "x": Tensor("act", ["100"]) },
        body: [Pass(kernel: "add", in: { "a": "x", "b": "x" }, out: { "y": "y" })],
        outputs: ["y"],
    )"#;
    std::fs::write(&file, text).unwrap();
    let root = env!("CARGO_MANIFEST_DIR");
    for dtype in ["f32", "f16"] {
        let file = file.to_str().unwrap();
        let args = [
            "bench", file, "--root", root, "--json", "--runs", "1", "--dtype", dtype,
        ];
        assert_eq!(json(&args).as_array().unwrap().len(), 1);
    }
}

#[test]
fn where_a_result_cannot_go_is_said_before_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("no/such/file");
    let nowhere = nowhere.to_str().unwrap();
    for args in [
        &["roof", "-o", nowhere][..],
        &["tune", "graphs/models/bert.ron", "-o", nowhere],
        &["profile", "no.plan", "--html", nowhere],
        &["profile", "no.plan", "--trace", nowhere],
    ] {
        let output = graphc(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains("there is no folder"), "{args:?}: {said}");
    }
    // What cannot be read cannot be kept.
    let latin = folder.path().join("latin.ron");
    std::fs::write(&latin, b"// f\xfcr mich\n").unwrap();
    let name = latin.to_str().unwrap();
    refused(&["roof", "-o", name], &["latin.ron", "not UTF-8"]);
    refused(
        &["tune", "graphs/models/bert.ron", "-o", name],
        &["latin.ron", "not UTF-8"],
    );
    assert_eq!(std::fs::read(&latin).unwrap(), b"// f\xfcr mich\n");
    let notes = folder.path().join("notes.ron");
    std::fs::write(&notes, "Call her back.").unwrap();
    let name = notes.to_str().unwrap();
    for args in [
        &["roof", "-o", name][..],
        &["tune", "graphs/models/bert.ron", "-o", name],
    ] {
        refused(args, &["notes.ron", "no device profile"]);
    }
}

#[test]
fn profile_tells_passes_and_waves_apart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chain.plan");
    let plan = plans::chain();
    std::fs::write(&file, codec::encode(&plan).unwrap()).unwrap();
    let file = file.to_str().unwrap();
    let made = json(&["profile", file, "--runs", "4", "--format", "json"]);
    let entry = &plan.entries[0];
    let waves = graphc::plan::waves::waves(entry);
    assert_eq!(made["runs"], 4);
    assert_eq!(made["waves"].as_array().unwrap().len(), waves.len());
    assert_eq!(made["passes"].as_array().unwrap().len(), entry.passes.len());
    for rows in [&made["waves"], &made["passes"]] {
        let share: f64 = rows
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["share"].as_f64().unwrap())
            .sum();
        assert!((share - 1.0).abs() < 1e-6, "{rows}");
    }
    assert!(made["whole"]["median"].as_f64() > Some(0.0));

    let trace = folder.path().join("trace.json");
    let args = [
        "profile",
        file,
        "--runs",
        "2",
        "--trace",
        trace.to_str().unwrap(),
    ];
    let text = String::from_utf8(graphc(&args).stdout).unwrap();
    let trace: Value = serde_json::from_slice(&std::fs::read(trace).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    // Two forwards per pass, on the device's track.
    let of = |event: &&Value| event["ph"] == "X" && event["pid"] == 2 && event["tid"] == 2;
    assert_eq!(events.iter().filter(of).count(), 2 * entry.passes.len());
    let nowhere = graphc(&[
        "profile",
        file,
        "--runs",
        "1",
        "--trace",
        "no/such/folder/t.json",
    ]);
    assert_eq!(nowhere.status.code(), Some(1));
    let said = String::from_utf8_lossy(&nowhere.stderr);
    assert!(
        said.contains("cannot write `no/such/folder/t.json`"),
        "{said}"
    );
    for words in [
        "whole on the device",
        "sum of waves",
        "sum of passes",
        "test.ron:1",
    ] {
        assert!(text.contains(words), "no {words} in {text}");
    }
    let csv = graphc(&[
        "profile", file, "--runs", "2", "--format", "csv", "--unfold",
    ]);
    let csv = String::from_utf8(csv.stdout).unwrap();
    assert_eq!(csv.lines().count(), 1 + entry.passes.len(), "{csv}");
}

/// A model small enough to compile and run in no time.
const SMALL: [&str; 14] = [
    "graphs/models/bert.ron",
    "--set=layers=1",
    "--set=d_model=16",
    "--set=heads=2",
    "--set=d_ff=32",
    "--set=vocab=30",
    "--set=max_positions=16",
    "--entry=batch=1,seq=8",
    "--runs",
    "2",
    "--color",
    "never",
    "--device",
    "0",
];

/// The repository's texts, to be edited.
fn copied() -> tempfile::TempDir {
    fn copy(from: &std::path::Path, to: &std::path::Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            match entry.file_type().unwrap().is_dir() {
                true => copy(&entry.path(), &to),
                false => drop(std::fs::copy(entry.path(), to).unwrap()),
            }
        }
    }
    let root = tempfile::tempdir().unwrap();
    for folder in ["graphs", "shaders", "profiles"] {
        let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        copy(&here, &root.path().join(folder));
    }
    root
}

#[test]
fn watch_shows_changes_and_survives_mistakes() {
    use std::io::Read as _;
    let (root, cache) = (copied(), tempfile::tempdir().unwrap());
    let mut child = Command::new(env!("CARGO_BIN_EXE_graphc"))
        .current_dir(root.path())
        .arg("watch")
        .args(SMALL)
        .args(["--changes", "2", "--root", root.path().to_str().unwrap()])
        .env("GRAPHC_CACHE_DIR", cache.path())
        .env_remove("GRAPHC_DEVICE")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let (mut out, mut errors) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let printed = std::thread::spawn(move || {
        let mut text = String::new();
        out.read_to_string(&mut text).map(|_| text)
    });
    // Reads on until the word has come so often.
    let mut said = String::new();
    let mut until = |word: &str, times: usize| {
        let mut buffer = [0; 4096];
        while said.matches(word).count() < times {
            let read = errors.read(&mut buffer).unwrap();
            assert!(read > 0, "ended too early: {said}");
            said.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
        said.clone()
    };
    let graph = root.path().join("graphs/models/bert.ron");
    let good = std::fs::read_to_string(&graph).unwrap();
    until("watching", 1);
    std::fs::write(
        &graph,
        good.replacen("kernel: \"pool\"", "kernel: \"pol\"", 1),
    )
    .unwrap();
    let after = until("watching", 2);
    assert!(
        after.contains("error[") && after.contains("`pool`") && after.contains("still up: bert"),
        "{after}"
    );
    std::fs::write(
        &graph,
        good.replacen(
            "    outputs:",
            "    disable: [\"linear_norm\", \"linear_sum_norm\"],\n    outputs:",
            1,
        ),
    )
    .unwrap();
    assert!(child.wait().unwrap().success());
    let text = printed.join().unwrap().unwrap();
    for words in [
        "where most time",
        "added: ",
        "passes, the largest change first",
    ] {
        assert!(text.contains(words), "no {words} in {text}");
    }
}

#[test]
fn tune_writes_a_profile_that_compiles() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tuned.ron");
    let mut args = vec!["tune"];
    args.extend(SMALL);
    args.extend(["--budget", "3s", "-o", file.to_str().unwrap()]);
    let output = graphc(&args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let text = String::from_utf8(output.stdout).unwrap();
    for kernel in ["linear", "attention", "embed_sum", "pool"] {
        assert!(
            text.lines()
                .any(|line| line.starts_with(kernel) && line.contains("tried")),
            "{text}"
        );
    }
    // Whether anything is faster is the machine's affair; what is written must be usable.
    if file.exists() {
        let mut args = vec!["compile"];
        args.extend(&SMALL[..8]);
        args.extend(["--profile", file.to_str().unwrap()]);
        assert!(graphc(&args).status.success());
    }
    assert_eq!(file.exists(), said.contains("wrote `"), "{said}");
}
