//! The tokenizers of real GGUF files against llama.cpp's ids for the same texts (tests/reference/tokens_*.json).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;

use graphc::model::detokenize::Detokenizer;
use graphc::model::metadata::ModelMetadata;
use graphc::model::text_tokenizer::{Special, TextTokenizer};
use serde_json::Value;

fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_u64().unwrap() as u32)
        .collect()
}

/// `tools/fetch-model` puts the models there; without them these tests fail and do not skip.
fn tokenizer(model: &str) -> TextTokenizer {
    let cache = std::env::var_os("GRAPHC_CACHE_DIR").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/graphc"),
        PathBuf::from,
    );
    let folder = cache.join("models").join(model);
    assert!(
        folder.is_dir(),
        "{} is missing; run tools/fetch-model {model}",
        folder.display()
    );
    let metadata = ModelMetadata::open(&folder).unwrap();
    TextTokenizer::of(&metadata).unwrap()
}

fn check(model: &str, name: &str) {
    let tokenizer = tokenizer(model);
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join(format!("tests/reference/tokens_{name}.json"));
    let golden: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let mut wrong = vec![];
    for row in golden["texts"].as_array().unwrap() {
        let text = row["text"].as_str().unwrap();
        for (key, special, add) in [
            ("plain", Special::AsText, false),
            ("special", Special::Parsed, true),
        ] {
            let got = tokenizer.encode(text, special, add, u64::MAX).unwrap();
            if got != ids(&row[key]) {
                wrong.push(format!(
                    "{key} {text:?}\n  ours   {got:?}\n  theirs {:?}",
                    ids(&row[key])
                ));
            }
        }
        let mut back = Detokenizer::whole(&tokenizer);
        let plain = tokenizer
            .encode(text, Special::AsText, false, u64::MAX)
            .unwrap();
        let mut decoded: String = plain.iter().map(|id| back.push(*id)).collect();
        decoded.push_str(&back.finish());
        // SentencePiece has one character for the space and for itself.
        let expected = if name == "gemma3" {
            text.replace('\u{2581}', " ")
        } else {
            text.to_string()
        };
        if decoded != expected {
            wrong.push(format!("back {text:?} is {decoded:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn smollm2() {
    check("smollm2", "smollm2");
}

#[test]
fn gemma3() {
    check("gemma3-270m", "gemma3");
}
