//! `--tracy` as a viewer on this machine sees it: one zone for each pass of each submit, in the order of the device,
//! named by the pass's path and placed in its graph file.
#![cfg(all(feature = "tracy", feature = "shaderc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;
mod viewer;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use graphc::plan::{Plan, Step, codec};
use viewer::{Place, Trace, greet, watch};

const BERT: [&str; 8] = [
    "graphs/models/bert.ron",
    "--set=layers=2",
    "--set=d_model=64",
    "--set=heads=2",
    "--set=d_ff=128",
    "--set=vocab=100",
    "--set=max_positions=64",
    "--entry=batch=2,seq=32",
];
const STEPS: usize = 3;
const LLAMA: [&str; 10] = [
    "graphs/models/llama.ron",
    "--set=layers=2",
    "--set=d_model=64",
    "--set=heads=2",
    "--set=d_ff=96",
    "--set=vocab=96",
    "--set=max_positions=64",
    "--set=ctx=32",
    "--set=eps=1e-5",
    "--entry=batch=1,seq=1,steps=3,score=0",
];

fn graphc(command: &str) -> Command {
    let mut graphc = Command::new(env!("CARGO_BIN_EXE_graphc"));
    graphc
        .args([command, "--color=never", "--cache-dir"])
        .arg(concat!(env!("CARGO_TARGET_TMPDIR"), "/cli-cache"))
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    graphc
}

fn succeeded(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A port that nobody listens at.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

fn start(graphc: &mut Command, port: u16) -> Child {
    graphc
        .arg("--tracy")
        .env("TRACY_PORT", port.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs it to its end under the eyes of a viewer.
fn watched(graphc: &mut Command) -> (Trace, Output) {
    let port = free_port();
    let child = start(graphc, port);
    let trace = watch(port);
    (trace, child.wait_with_output().unwrap())
}

/// Submits of each entry by the zones of the CPU.
fn submits(trace: &Trace) -> BTreeMap<&str, usize> {
    let mut submits = BTreeMap::new();
    for zone in &trace.cpu {
        let entry = zone.name.strip_prefix("submit{entry=\"");
        if let Some(entry) = entry.and_then(|rest| rest.strip_suffix("\"}")) {
            *submits.entry(entry).or_default() += 1;
        }
    }
    submits
}

fn count(trace: &Trace, path: &str) -> usize {
    let zones = trace.gpu.iter();
    zones.filter(|zone| zone.place.name == path).count()
}

fn in_order(trace: &Trace) {
    let mut before = i64::MIN;
    for zone in &trace.gpu {
        assert!(zone.begin >= before, "{zone:?} begins before {before}");
        assert!(zone.end >= zone.begin, "{zone:?}");
        before = zone.end;
    }
}

/// Compiles to a plan, benches the plan, and compares the zones with the plan's own passes.
fn bench(graph: &[&str], rounds: usize) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tiny.plan");
    succeeded(
        &graphc("compile")
            .args(graph)
            .arg("-o")
            .arg(&file)
            .output()
            .unwrap(),
    );
    let plan: Plan = codec::decode(&std::fs::read(&file).unwrap()).unwrap();
    let [entry] = plan.entries.as_slice() else {
        panic!("one entry");
    };
    let steps = entry.steps.iter();
    let once: Vec<Place> = steps
        .filter_map(|step| match step {
            Step::Dispatch(pass) => Some(&entry.passes[*pass]),
            _ => None,
        })
        .map(|pass| Place {
            name: pass.path.clone(),
            file: pass.source.0.clone(),
            line: pass.source.1,
        })
        .collect();
    assert!(once.len() > 5);

    let (trace, output) = watched(graphc("bench").arg(&file).args(["--runs=4", "--json"]));
    let said = succeeded(&output);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said[0]["passes"], once.len());
    let submits = submits(&trace)[entry.name.as_str()];
    // Alone, overlapped and timed, each after a warm-up.
    assert!(submits >= 3 * 4, "{submits}");
    assert_eq!(trace.gpu.len(), once.len() * rounds * submits);
    let expected = once.iter().cycle();
    for (zone, expected) in trace.gpu.iter().zip(expected) {
        assert_eq!(&zone.place, expected);
        assert!(zone.place.file.ends_with(".ron") && zone.place.line > 0);
    }
    in_order(&trace);
    assert_eq!(trace.tracks, [said[0]["device"].as_str().unwrap()]);
    assert_eq!(trace.calibrated.len(), 1);
    let stages: BTreeSet<&str> = trace.cpu.iter().map(|zone| &*zone.name).collect();
    for stage in ["open device", "make pipelines", "load weights", "wait"] {
        assert!(stages.contains(stage), "{stage} is not in {stages:?}");
    }
}

#[test]
fn a_bench_has_one_zone_for_each_pass_of_each_submit() {
    bench(&BERT, 1);
}

#[test]
fn steps_in_one_submit_have_zones_of_their_own() {
    bench(&LLAMA, STEPS);
}

#[test]
fn embeddings_are_watched_from_the_graph_to_the_last_submit() {
    let folder = tempfile::tempdir().unwrap();
    let model = support::golden::golden("nomic_bert.json").write(folder.path());
    let mut command = graphc("embed");
    command.arg("--model").arg(&model).arg("--timings");
    let (trace, output) = watched(command.args(["w1", "w2 w3"]));
    assert_eq!(succeeded(&output).lines().count(), 2);
    let said = String::from_utf8(output.stderr).unwrap();
    let submits: usize = submits(&trace).values().sum();
    assert!(said.contains(&format!(" {submits} batches ")), "{said}");
    let paths: BTreeSet<&Place> = trace.gpu.iter().map(|zone| &zone.place).collect();
    assert!(paths.len() > 5, "{paths:?}");
    assert_eq!(trace.gpu.len(), paths.len() * submits);
    in_order(&trace);
    let stages: BTreeSet<&str> = trace.cpu.iter().map(|zone| &*zone.name).collect();
    for stage in [
        "read graph",
        "read kernels",
        "expand",
        "infer",
        "check",
        "fuse",
        "choose kernels",
        "schedule",
        "place tensors",
        "place barriers",
        "lower",
        "prove",
        "pack weights",
    ] {
        assert!(stages.contains(stage), "{stage} is not in {stages:?}");
    }
}

#[test]
fn a_text_is_watched_as_it_grows() {
    let cache = std::env::var_os("GRAPHC_CACHE_DIR").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/graphc"),
        PathBuf::from,
    );
    let model = cache.join("models/smollm2");
    assert!(Path::new(&model).is_dir(), "run tools/fetch-model smollm2");
    let mut command = Command::new(env!("CARGO_BIN_EXE_graphc"));
    command.args(["generate", "--color=never", "--raw", "--json", "--model"]);
    command
        .arg(&model)
        .args(["--prompt", "The capital of France is"]);
    let (trace, output) = watched(command.args(["--max-tokens=6", "--tokens-per-submit=3"]));
    let said: serde_json::Value = serde_json::from_str(&succeeded(&output)).unwrap();
    let number = |key: &str| said[key].as_u64().unwrap() as usize;
    let all: usize = submits(&trace).values().sum();
    assert_eq!(all, number("submits") + number("prefills"));
    // A pass of the decode entry alone, and one of both.
    assert_eq!(count(&trace, "begin"), 3 * number("submits"));
    let both = 3 * number("submits") + number("prefills");
    assert_eq!(count(&trace, "embeddings/rows"), both);
    in_order(&trace);
}

#[test]
fn a_viewer_of_another_version_is_turned_away() {
    let port = free_port();
    let child = start(graphc("bench").args(BERT).arg("--runs=1"), port);
    let (_, status) = greet(port, 76);
    assert_eq!(status, 2, "the protocols differ");
    // The next one is served.
    let trace = watch(port);
    assert!(!trace.gpu.is_empty());
    succeeded(&child.wait_with_output().unwrap());
}

#[test]
fn without_a_viewer_the_work_is_done_all_the_same() {
    let mut command = graphc("bench");
    command.args(BERT).args(["--runs=1", "--tracy-wait=0"]);
    let output = start(&mut command, free_port()).wait_with_output().unwrap();
    assert!(succeeded(&output).contains("batch=2,seq=32"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("no viewer came"), "{said}");
}

#[test]
fn a_port_in_use_is_named_with_a_way_out() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let output = start(graphc("bench").args(BERT), port);
    let output = output.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let next = (port + 1).to_string();
    let said = said.replace(&next, "PORT+1");
    let said = said.replace(&port.to_string(), "PORT");
    let name = "G0717_tracy";
    let golden = format!("{}/tests/errors/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&golden, &said).unwrap();
    }
    assert_eq!(said, std::fs::read_to_string(&golden).unwrap_or_default());
}

#[test]
fn a_port_that_is_none_is_refused() {
    let mut command = graphc("bench");
    let output = command
        .args(BERT)
        .arg("--tracy")
        .env("TRACY_PORT", "tracy")
        .output();
    let said = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(said.contains("TRACY_PORT is `tracy`"), "{said}");
}
