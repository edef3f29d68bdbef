//! `graphc generate` on real models, against llama.cpp's greedy texts (tests/reference/{smollm2,gemma3}.json).
//!
//! `tools/fetch-model smollm2` and `gemma3-270m` put the models where these tests look for them; they fail, and do
//! not skip, without them.
#![cfg(all(feature = "gpu", feature = "shaderc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};

/// Tokens that are compared.
const TOKENS: usize = 16;
/// Two implementations that round differently may choose either of two tokens whose logits are this close.
const NEAR_TIE: f64 = 0.5;

fn model(name: &str) -> PathBuf {
    let cache = std::env::var_os("GRAPHC_CACHE_DIR").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/graphc"),
        PathBuf::from,
    );
    let folder = cache.join("models").join(name);
    assert!(
        folder.is_dir(),
        "{} is missing; run tools/fetch-model {name}",
        folder.display()
    );
    folder
}

fn graphc(name: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_graphc"))
        .args(["generate", "--color=never", "--model"])
        .arg(model(name))
        .args(arguments)
        .output()
        .unwrap()
}

fn generate(name: &str, arguments: &[&str]) -> Value {
    let output = graphc(name, &[&["--raw", "--json"], arguments].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn numbers(value: &Value) -> Vec<u64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|number| number.as_u64().unwrap())
        .collect()
}

fn golden(file: &str) -> Vec<Value> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/reference")
        .join(file);
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    golden["prompts"].as_array().unwrap().clone()
}

/// The prompts of the golden file as one file of JSON lines.
fn prompts(rows: &[Value]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for row in rows {
        writeln!(file, "{}", json!({ "prompt": row["prompt"] })).unwrap();
    }
    file
}

/// Where each text first differs from the golden one.
fn differences(name: &str, file: &str) -> Vec<(usize, Option<usize>)> {
    let rows = golden(file);
    let prompts = prompts(&rows);
    let count = TOKENS.to_string();
    let path = prompts.path().to_str().unwrap();
    let made = generate(
        name,
        &["--prompts", path, "--jsonl", "prompt", "-n", &count],
    );
    let pairs = rows.iter().zip(made["sequences"].as_array().unwrap());
    pairs
        .map(|(row, made)| {
            assert_eq!(numbers(&row["ids"]), numbers(&made["prompt_tokens"]));
            let (theirs, ours) = (numbers(&row["tokens"]), numbers(&made["tokens"]));
            (0..TOKENS.min(theirs.len())).find(|at| ours.get(*at) != theirs.get(*at))
        })
        .enumerate()
        .collect()
}

/// llama.cpp's CPU rounds activations to 8 bits, so it may take the other side of a near-tie.
fn check(name: &str, file: &str) {
    let rows = golden(file);
    for (index, at) in differences(name, file) {
        if let Some(at) = at {
            let gap = rows[index]["gaps"][at].as_f64().unwrap();
            let prompt = &rows[index]["prompt"];
            assert!(
                gap < NEAR_TIE,
                "{name} {prompt}: token {at} differs, and the gap is {gap}"
            );
        }
    }
}

#[test]
fn smollm2_writes_what_its_weights_say() {
    let differing = differences("smollm2", "smollm2_exact.json");
    let differing: Vec<_> = differing.iter().filter(|(_, at)| at.is_some()).collect();
    assert!(differing.len() <= 1, "(prompt, token): {differing:?}");
}

#[test]
fn smollm2_differs_from_llama_cpp_at_near_ties_only() {
    check("smollm2", "smollm2.json");
}

#[test]
fn gemma3_differs_from_llama_cpp_at_near_ties_only() {
    check("gemma3-270m", "gemma3.json");
}

/// SmolLM2's tied table is read whole by every step, so what goes are layers.
#[test]
fn smollm2_with_half_of_its_weights_in_host_memory_writes_the_same() {
    let prompt = [
        "--prompt",
        "The capital of France is",
        "-n",
        "12",
        "--ctx",
        "256",
    ];
    let all = generate("smollm2", &prompt);
    let bytes = |made: &Value, place: &str| made["weight_bytes"][place].as_u64().unwrap();
    assert_eq!(bytes(&all, "host"), 0);
    // Its caches and transients take the rest.
    let limit =
        (bytes(&all, "device") / 2 + all["other_device_bytes"].as_u64().unwrap()).to_string();
    let half = generate(
        "smollm2",
        &[&prompt[..], &["--device-memory-limit", &limit]].concat(),
    );
    let (device, host) = (bytes(&half, "device"), bytes(&half, "host"));
    assert_eq!(device + host, bytes(&all, "device"));
    assert!(host >= device && device * 3 > host, "{device} {host}");
    assert_eq!(half["sequences"], all["sequences"]);
}

#[test]
fn greedy_text_is_the_same_for_every_k() {
    let prompt = [
        "--prompt",
        "The three primary colours are red,",
        "-n",
        "13",
        "--tokens-per-submit",
    ];
    let one = generate("smollm2", &[&prompt[..], &["1"]].concat());
    let five = generate("smollm2", &[&prompt[..], &["5"]].concat());
    assert_eq!(
        one["sequences"][0]["tokens"],
        five["sequences"][0]["tokens"]
    );
    assert_eq!(
        (one["submits"].as_u64(), five["submits"].as_u64()),
        (Some(13), Some(3))
    );
}

#[test]
fn a_full_context_is_said() {
    let output = graphc(
        "smollm2",
        &["--raw", "--prompt", "1, 2, 3,", "--ctx", "32", "-n", "100"],
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("its context of 32 tokens is full"),
        "{said}"
    );
}

#[test]
fn prompts_that_cannot_be_continued_are_refused_before_any_work() {
    let refused = |arguments: &[&str], what: &str| {
        let output = graphc("smollm2", arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(what), "{said}");
    };
    refused(&["--raw", "--prompt", ""], "no tokens");
    let long = "word ".repeat(40);
    refused(&["--raw", "--ctx", "32", "--prompt", &long], "--ctx");
    refused(&["--ctx", "9000", "--prompt", "a"], "8192 positions");
    refused(&["--prompt", "a", "--prompts", "b"], "cannot be used with");
}
