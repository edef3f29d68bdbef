//! What people see when a device, a session, a tokenizer or an input fails, letter for letter: every code of G07xx and
//! G08xx that `tests/weights.rs`, `tests/metadata.rs` and `tests/tracy` do not have. `BLESS=1 cargo test --test runtime_errors`
//! rewrites `tests/errors/G07*_runtime.txt` and `G08*_runtime.txt`.
#![cfg(feature = "gpu")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use graphc::device::Feature;
use graphc::diag::Code;
use graphc::dtype::DType;
use graphc::model::chat::ChatError;
use graphc::model::embed::EmbedError;
use graphc::model::generate::GenerateError;
use graphc::model::hub::HubError;
use graphc::model::texts::LineError;
use graphc::model::tokenizer::TokenizerError;
use graphc::plan::finite::NotFinite;
use graphc::run::RunError;
use graphc::vk::error::VkError;

fn disk_full() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::StorageFull, "no space left on device")
}

fn device() -> Vec<(Code, String)> {
    let name = || "NVIDIA H200".to_string();
    let errors = vec![
        VkError::NoLoader("libvulkan.so.1: cannot open shared object file".into()),
        VkError::OldLoader("1.2.131".into()),
        VkError::NoDevice,
        VkError::NoUsableDevice("  0: Old GPU lacks Vulkan 1.3".into()),
        VkError::Unusable {
            device: "Old GPU".into(),
            lacks: "no timeline semaphores".into(),
        },
        VkError::DeviceNotFound {
            wanted: "radeon".into(),
            several: false,
            list: "  0: NVIDIA H200 (GPU)\n  1: llvmpipe (CPU)".into(),
        },
        VkError::MissingFeatures {
            device: "llvmpipe".into(),
            profile: "nvidia-h200".into(),
            features: vec![Feature::Subgroup32, Feature::CoopmatF16],
        },
        VkError::DoesNotFit {
            device: "llvmpipe".into(),
            profile: "nvidia-h200".into(),
            problems: vec![
                "kernel `linear` needs 37900 bytes of shared memory, the device has 32768".into(),
            ],
        },
        VkError::BadPlan("entry `batch=1,seq=32`: pass 7 names kernel 9 of 5".into()),
        VkError::OutOfMemory {
            place: "device",
            what: "arena 0 (weights, 15.0 GiB)".into(),
            table: "  weights     15.0 GiB\n  transients   1.2 GiB\n".into(),
        },
        VkError::DeviceLost {
            doing: "waiting for forward 12".into(),
        },
        VkError::TimeOut {
            doing: "waiting for forward 12".into(),
            waited: Duration::from_secs(30),
        },
        VkError::NoValidationLayer,
        VkError::Validation(vec!["SYNC-HAZARD-READ-AFTER-WRITE: ..".into()]),
        VkError::Weight {
            name: "l0/attn/w_qkv".into(),
            source: "3 bytes short".into(),
        },
        VkError::CacheNotWritten {
            path: "cache/pipelines.bin".into(),
            source: disk_full(),
        },
        VkError::Allocator {
            what: "arena 4".into(),
            message: "fragmented".into(),
        },
    ];
    let mut all: Vec<_> = errors
        .into_iter()
        .map(|error| (error.code(), error.to_string()))
        .collect();
    let session = vec![
        RunError::NoEntry {
            wanted: "batch=8,seq=64".into(),
            has: "`batch=1,seq=32`".into(),
        },
        RunError::NoTensor {
            entry: "batch=1,seq=32".into(),
            kind: "input",
            wanted: "tokens".into(),
            has: "`ids`, `positions`, `spans`".into(),
        },
        RunError::WrongType {
            name: "ids".into(),
            dtype: DType::U32,
            bytes: 128,
            asked: 2,
        },
        RunError::NoTimestamps { device: name() },
        RunError::Stale(3),
        RunError::Vk(VkError::Allocator {
            what: name(),
            message: "fragmented".into(),
        }),
    ];
    all.extend(
        session
            .into_iter()
            .map(|error| (error.code(), error.to_string())),
    );
    all
}

fn model() -> Vec<(Code, String)> {
    let path = || "minilm/tokenizer.json".into();
    let tokenizer = vec![
        TokenizerError::Unreadable {
            path: path(),
            reason: "permission denied".into(),
        },
        TokenizerError::TooLarge {
            path: path(),
            bytes: 200_000_000,
            limit: 100_000_000,
        },
        TokenizerError::Broken {
            path: path(),
            reason: "EOF while parsing a value at line 1".into(),
        },
        TokenizerError::LimitTooSmall {
            limit: 2,
            special: 2,
        },
        TokenizerError::Text {
            input: 3,
            reason: "it is longer than 16777216 bytes".into(),
        },
        TokenizerError::Vocabulary {
            input: 3,
            id: 30_522,
            rows: 30_522,
        },
    ];
    let mut all: Vec<_> = tokenizer
        .into_iter()
        .map(|error| (error.code(), error.to_string()))
        .collect();
    let embed = vec![
        EmbedError::NotFinite {
            input: 3,
            index: 17,
            value: f32::NAN,
            found: None,
        },
        EmbedError::NotFinite {
            input: 3,
            index: 17,
            value: f32::NAN,
            found: Some(Box::new(NotFinite {
                entry: "batch=2,seq=32".into(),
                pass: "l3/mlp/down".into(),
                kernel: "linear/rows".into(),
                source: ("graphs/blocks/encoder.ron".into(), 31, 9),
                tensor: "l3/mlp/y".into(),
                index: vec![5, 17],
                value: f32::INFINITY,
            })),
        },
        EmbedError::NoBucket {
            input: 3,
            tokens: 700,
        },
        EmbedError::Source(Box::new(LineError::NotUtf8 { line: 4, at: 9 })),
        EmbedError::Source(Box::new(LineError::TooLong { line: 4 })),
    ];
    all.extend(
        embed
            .into_iter()
            .map(|error| (error.code().unwrap(), error.to_string())),
    );
    let hub = vec![
        HubError::Name("one/two/three".into()),
        HubError::NoCache,
        HubError::Missing {
            name: "org/model".into(),
            folder: "hub/models--org--model".into(),
        },
        HubError::Download {
            name: "org/model".into(),
            reason: "this build has no feature `hf-hub`".into(),
        },
    ];
    all.extend(
        hub.into_iter()
            .map(|error| (graphc::codes::model::HUB, error.to_string())),
    );
    all
}

fn language() -> Vec<(Code, String)> {
    let name = || "llama/tokenizer_config.json".to_string();
    let chat = vec![
        ChatError::None {
            path: name().into(),
        },
        ChatError::Metadata("key `tokenizer.chat_template` is no text".into()),
        ChatError::Loops { name: name() },
        ChatError::Failed {
            name: name(),
            reason: "invalid operation: System role not supported (in chat:1)".into(),
        },
    ];
    let mut all: Vec<_> = chat
        .into_iter()
        .map(|error| (error.code(), error.to_string()))
        .collect();
    let generate = vec![
        GenerateError::Empty { sequence: 3 },
        GenerateError::TooLong {
            sequence: 3,
            tokens: 8193,
            context: 8192,
        },
        GenerateError::NotFinite {
            sequence: 3,
            position: 17,
            found: None,
        },
        GenerateError::NotFinite {
            sequence: 3,
            position: 17,
            found: Some(Box::new(NotFinite {
                entry: "batch=1,score=0,seq=32,steps=0".into(),
                pass: "l3/ffn/down".into(),
                kernel: "linear/rows".into(),
                source: ("graphs/blocks/decoder.ron".into(), 41, 9),
                tensor: "l3/h".into(),
                index: vec![5, 17],
                value: f32::NEG_INFINITY,
            })),
        },
    ];
    all.extend(
        generate
            .into_iter()
            .map(|error| (error.code().unwrap(), error.to_string())),
    );
    all
}

#[test]
fn messages_are_as_recorded() {
    let mut by_code: BTreeMap<&str, String> = BTreeMap::new();
    let all = device().into_iter().chain(model()).chain(language());
    for (code, message) in all {
        let text = by_code.entry(code.0).or_default();
        text.push_str(&format!("error[{}]: {message}\n\n", code.0));
    }
    let mut wrong = Vec::new();
    for (code, text) in &by_code {
        let path = format!(
            "{}/tests/errors/{code}_runtime.txt",
            env!("CARGO_MANIFEST_DIR")
        );
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, text).unwrap();
        }
        if std::fs::read_to_string(&path).unwrap_or_default() != *text {
            wrong.push(format!("{path}\nsays now:\n{text}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // Every code of these parts is here or has its goldens from another test.
    let mut have: BTreeSet<String> = by_code.keys().map(|code| (*code).into()).collect();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/errors");
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let (code, rest) = name.split_once('_').unwrap();
        if name.ends_with(".txt") && rest != "runtime.txt" {
            have.insert(code.into());
        }
    }
    let missing: Vec<&str> = graphc::codes::all()
        .map(|explained| explained.code.0)
        .filter(|code| ["G07", "G08"].iter().any(|part| code.starts_with(part)))
        .filter(|code| !have.contains(*code))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
