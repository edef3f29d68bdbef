//! The tokenizers of real GGUF files against llama.cpp's ids for the same texts (tests/reference/tokens_*.json).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;

use graphc::model::detokenize::Detokenizer;
use graphc::model::text_tokenizer::{Special, TextTokenizer};
use graphc::model::vocabulary::{Parts, Vocabulary};
use serde_json::Value;

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn tokenizer(name: &str) -> Option<TextTokenizer> {
    let v: Value = serde_json::from_slice(&std::fs::read(format!("/tmp/parts_{name}.json")).ok()?).unwrap();
    let texts = |k: &str| v[k].as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_string()).collect::<Vec<_>>();
    let parts = Parts {
        model: v["model"].as_str().unwrap().into(),
        pre: v["pre"].as_str().unwrap().into(),
        tokens: texts("tokens"),
        scores: v["scores"].as_array().unwrap().iter().map(|s| s.as_f64().unwrap() as f32).collect(),
        kinds: v["kinds"].as_array().unwrap().iter().map(|s| s.as_i64().unwrap()).collect(),
        merges: texts("merges"),
        bos: v["bos"].as_i64(), unknown: v["unknown"].as_i64(),
        ends: vec![v["ends"][0].as_i64().unwrap()],
        add_bos: v["add_bos"].as_bool(), add_eos: v["add_eos"].as_bool(), add_space_prefix: v["add_space_prefix"].as_bool(),
    };
    let now = std::time::Instant::now();
    let t = TextTokenizer::listed(Vocabulary::new(parts).unwrap()).unwrap();
    eprintln!("{name}: made in {:?}, stops {:?}", now.elapsed(), t.stops());
    Some(t)
}

fn check(name: &str) {
    let Some(tokenizer) = tokenizer(name) else { return };
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/reference/tokens_{name}.json"));
    let golden: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let mut wrong = vec![];
    for row in golden["texts"].as_array().unwrap() {
        let text = row["text"].as_str().unwrap();
        for (key, special, add) in [("plain", Special::AsText, false), ("special", Special::Parsed, true)] {
            let got = tokenizer.encode(text, special, add, u64::MAX).unwrap();
            if got != ids(&row[key]) {
                wrong.push(format!("{key} {text:?}\n  ours   {got:?}\n  theirs {:?}", ids(&row[key])));
            }
        }
        let mut back = Detokenizer::whole(&tokenizer);
        let plain = tokenizer.encode(text, Special::AsText, false, u64::MAX).unwrap();
        let mut decoded: String = plain.iter().map(|id| back.push(*id)).collect();
        decoded.push_str(&back.finish());
        if decoded != text {
            wrong.push(format!("back {text:?} is {decoded:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn smollm2() {
    check("smollm2");
}

#[test]
fn gemma3() {
    check("gemma3");
}
