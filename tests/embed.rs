//! all-MiniLM-L6-v2 on the local Vulkan device against sentence-transformers' own embeddings.
//!
//! `tools/fetch-model minilm` puts the model where these tests look for it; they fail, and do not skip, without it.
#![cfg(feature = "gpu")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// A text of tests/reference/minilm.json with the reference's token count and embedding (normalised, f16).
struct Golden {
    text: String,
    tokens: u64,
    embedding: Vec<f32>,
}

fn model() -> PathBuf {
    let variable = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let cache = variable("GRAPHC_CACHE_DIR")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("graphc")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/graphc")))
        .expect("no home folder");
    let folder = cache.join("models/minilm");
    assert!(
        folder.join("model.safetensors").is_file(),
        "{} does not hold the model; run tools/fetch-model minilm",
        folder.display()
    );
    folder
}

fn goldens() -> (u64, Vec<Golden>) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reference/minilm.json");
    let file: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let inputs = file["inputs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|input| Golden {
            text: input["text"]
                .as_str()
                .unwrap()
                .repeat(input["times"].as_u64().unwrap_or(1) as usize),
            tokens: input["tokens"].as_u64().unwrap(),
            embedding: halves(input["embedding"].as_str().unwrap()),
        });
    (file["max_tokens"].as_u64().unwrap(), inputs.collect())
}

/// Base64 of little-endian f16.
fn halves(text: &str) -> Vec<f32> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => panic!("not base64"),
    };
    let digits: Vec<u8> = text.trim_end_matches('=').bytes().map(digit).collect();
    let bits = digits.chunks(4).flat_map(|four| {
        let word = four
            .iter()
            .enumerate()
            .fold(0u32, |word, (i, d)| word | u32::from(*d) << (18 - 6 * i));
        word.to_be_bytes()[1..four.len()].to_vec()
    });
    let bytes: Vec<u8> = bits.collect();
    bytes
        .chunks_exact(2)
        .map(|pair| half::f16::from_le_bytes([pair[0], pair[1]]).to_f32())
        .collect()
}

fn graphc(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_graphc"))
        .args(["embed", "--model"])
        .arg(model())
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_string();
    let writer = std::thread::spawn(move || {
        // A command that stops at its arguments does not read.
        let _ = stdin.write_all(input.as_bytes());
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

fn json_lines(output: &Output) -> Vec<Vec<f32>> {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = std::str::from_utf8(&output.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Texts as JSON lines, since some of them hold line breaks.
fn jsonl<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    texts
        .into_iter()
        .map(|text| format!("{}\n", serde_json::json!({ "text": text })))
        .collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| {
        a.iter()
            .zip(b)
            .map(|(x, y)| f64::from(*x) * f64::from(*y))
            .sum::<f64>()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn matches_reference(dtype: &str, least: f64) {
    let (limit, goldens) = goldens();
    assert!(goldens.len() >= 50, "only {} inputs", goldens.len());
    let output = graphc(
        &["--jsonl", "text", "--dtype", dtype],
        &jsonl(goldens.iter().map(|g| g.text.as_str())),
    );
    let embeddings = json_lines(&output);
    assert_eq!(embeddings.len(), goldens.len());
    for (golden, embedding) in goldens.iter().zip(&embeddings) {
        let near = cosine(&golden.embedding, embedding);
        assert!(
            near >= least,
            "cosine {near} to the reference of {:?}",
            golden.text
        );
        let length: f32 = embedding.iter().map(|value| value * value).sum();
        assert!((length - 1.0).abs() < 1e-4, "not normalised: {length}");
    }
    // The reference counts after cutting, and no text has exactly as many tokens as the limit.
    let cut = goldens
        .iter()
        .filter(|golden| golden.tokens == limit)
        .count();
    let said = String::from_utf8_lossy(&output.stderr);
    let wanted = format!(
        "{cut} of {} texts were longer than {limit} tokens",
        goldens.len()
    );
    assert!(
        cut > 0 && said.contains(&wanted),
        "expected `{wanted}` in: {said}"
    );
}

#[test]
fn tokens_are_as_many_as_the_references() {
    let (limit, goldens) = goldens();
    let tokenizer = graphc::model::tokenizer::Tokenizer::load(&model(), 512, 30522).unwrap();
    assert_eq!(tokenizer.limit() as u64, limit);
    let texts: Vec<String> = goldens.iter().map(|golden| golden.text.clone()).collect();
    for (golden, tokens) in goldens.iter().zip(tokenizer.encode(&texts, 1).unwrap()) {
        assert_eq!(tokens.ids.len() as u64, golden.tokens, "{:?}", golden.text);
        assert_eq!(
            tokens.truncated,
            golden.tokens == limit,
            "{:?}",
            golden.text
        );
    }
}

#[test]
fn minilm_in_f32_matches_sentence_transformers() {
    matches_reference("f32", 0.99999);
}

#[test]
fn minilm_in_f16_matches_sentence_transformers() {
    matches_reference("f16", 0.9999);
}

#[test]
fn texts_of_different_lengths_in_one_batch_are_as_good_as_alone() {
    let texts = [
        "",
        "one",
        "a few words more than one",
        "one two three four five six seven eight nine ten eleven",
    ];
    let together = json_lines(&graphc(&["--jsonl", "text"], &jsonl(texts)));
    for (text, embedding) in texts.iter().zip(&together) {
        let alone = json_lines(&graphc(&["--", text], "")).remove(0);
        let furthest = alone
            .iter()
            .zip(embedding)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(furthest < 1e-5, "{text:?} differs by {furthest}");
    }
}

#[test]
fn lines_become_arrays_in_every_format() {
    let json = json_lines(&graphc(&[], "one\n\nthree"));
    assert_eq!((json.len(), json[0].len()), (3, 384));

    let text = graphc(&["--format", "text"], "one\n\nthree");
    let text: Vec<Vec<f32>> = std::str::from_utf8(&text.stdout)
        .unwrap()
        .lines()
        .map(|line| {
            line.split(' ')
                .map(|number| number.parse().unwrap())
                .collect()
        })
        .collect();
    assert_eq!(text, json);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.npy");
    let to_file = graphc(
        &["--format", "npy", "-o", file.to_str().unwrap()],
        "one\n\nthree",
    );
    assert!(to_file.status.success() && to_file.stdout.is_empty());
    let piped = graphc(&["--format", "npy"], "one\n\nthree");
    let bytes = std::fs::read(file).unwrap();
    assert_eq!(bytes, piped.stdout);
    assert!(String::from_utf8_lossy(&bytes[..128]).contains("'shape': (3, 384)"));
    let values: Vec<f32> = bytes[128..]
        .chunks(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    assert_eq!(values, json.concat());
}

/// A model without its tokenizer, and one that is named by one of its files.
#[test]
fn an_incomplete_model_is_bad_input() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(
        model().join("config.json"),
        folder.path().join("config.json"),
    )
    .unwrap();
    let refused = |path: &std::path::Path, wanted: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_graphc"))
            .args(["embed", "--color=never", "a text", "--model"])
            .arg(path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(wanted.iter().all(|wanted| said.contains(wanted)), "{said}");
    };
    let sides = ["error[G0801]", "tokenizer.json: it is missing", "= help: "];
    refused(folder.path(), &sides);
    let config = folder.path().join("config.json");
    refused(&config, &["error[G0601]", "config.json", "name its folder"]);
}

/// MiniLM with one layer fewer in its configuration is another model; as it is, nothing is to be said about it.
#[test]
fn a_layer_that_is_not_counted_is_bad_input() {
    let folder = tempfile::tempdir().unwrap();
    let there = |name: &str| folder.path().join(name);
    for name in ["model.safetensors", "tokenizer.json"] {
        std::fs::copy(model().join(name), there(name)).unwrap();
    }
    let config = std::fs::read_to_string(model().join("config.json")).unwrap();
    let embed = |layers: &str, more: &[&str]| {
        let config = config.replace("\"num_hidden_layers\": 6", layers);
        std::fs::write(there("config.json"), config).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_graphc"))
            .args(["embed", "--color=never", "a text", "--model"])
            .arg(folder.path())
            .args(more)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), said)
    };
    let (code, said) = embed("\"num_hidden_layers\": 6", &[]);
    assert_eq!((code, said.contains("warning")), (Some(0), false), "{said}");
    let (code, said) = embed("\"num_hidden_layers\": 5", &[]);
    let layer = "`encoder.layer.5.attention.output.LayerNorm.bias`";
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("error[G0613]") && said.contains(layer),
        "{said}"
    );
    let (code, said) = embed("\"num_hidden_layers\": 6", &["--set=layers=5"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("warning[G0612]") && said.contains("16 of the 104"),
        "{said}"
    );
}

#[test]
fn bad_lines_are_named_and_leave_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.json");
    let output = graphc(
        &["--jsonl", "text", "-o", file.to_str().unwrap()],
        "{\"text\": \"fine\"}\n{\"text\": 5}\n",
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("G0806") && said.contains("line 2") && said.contains("not a string"),
        "{said}"
    );
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        0,
        "nothing half-written"
    );
}
