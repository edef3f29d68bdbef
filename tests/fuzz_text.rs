//! Damaged graph files: whatever a file says, nothing panics and memory stays bounded. Runs for `FUZZ_MS`
//! milliseconds (2000 unless set) over mutations of the real files, with a fixed seed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use graphc::sources::FsSources;
use graphc::span::{SourceMap, Sources as _};
use graphc::text;

/// xorshift64* (Vigna 2016): small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// What a hostile or careless hand would put in.
const SPLINTERS: &[&str] = &[
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "\"",
    "'",
    "/*",
    "*/",
    "//",
    "\\",
    "\0",
    "\u{1F600}",
    "Some(",
    "None",
    "9223372036854775807",
    "-1",
    "1e999",
    "layers",
    "d_model * d_model * d_model * d_model",
    "1 / 0",
    "{l}",
    "{",
    "Pass(",
    "Repeat(index: \"i\", count: \"4294967295\", body: [",
    "Use(block: \"bert_layer\")",
    "View(name: \"v\", of: \"h\", shape: [\"9223372036854775807\", \"2\"])",
    "#![enable(implicit_some)]",
    "r#\"",
    "((((((((((((((((((((((((((((((((",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
];

fn mutate(text: &str, random: &mut Random) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..1 + random.below(3) {
        let at = random.below(bytes.len() + 1);
        let to = (at + random.below(60)).min(bytes.len());
        match random.below(5) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 => drop(bytes.drain(at..to)),
            2 => {
                let piece = bytes[at..to].to_vec();
                let target = random.below(bytes.len() + 1);
                bytes.splice(target..target, piece);
            }
            3 => bytes.truncate(at),
            _ => {
                let splinter = SPLINTERS[random.below(SPLINTERS.len())];
                bytes.splice(at..at, splinter.bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Most memory that this process ever had, where the system tells.
fn peak_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

struct SayOnPanic<'a>(&'a str, &'a str);

impl Drop for SayOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("panicked with this {}:\n{}", self.0, self.1);
        }
    }
}

#[test]
fn damaged_graph_files_never_panic() {
    let disk = FsSources::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources: BTreeMap<String, String> = BTreeMap::new();
    for folder in ["graphs/models", "graphs/blocks", "graphs/fusions"] {
        for path in disk.list(folder).unwrap() {
            let text = disk.read(&path).unwrap();
            sources.insert(path, text);
        }
    }
    assert!(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("graphs/models/bert.ron")
            .exists()
    );
    let budget = std::env::var("FUZZ_MS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(2_000);
    let end = Instant::now() + Duration::from_millis(budget);
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let paths: Vec<String> = sources.keys().cloned().collect();
    let before = peak_kib();
    let (mut runs, mut rejected) = (0, 0);
    while Instant::now() < end {
        let path = &paths[random.below(paths.len())];
        let original = sources[path].clone();
        let damaged = mutate(&original, &mut random);
        sources.insert(path.clone(), damaged.clone());
        let _guard = SayOnPanic(path, &damaged);
        let mut map = SourceMap::default();
        runs += 1;
        match text::load("graphs/models/bert.ron", &sources, &mut map) {
            Ok(loaded) => stages(&loaded, &map),
            Err(problems) => {
                rejected += 1;
                assert!(problems.has_errors());
                assert!(!problems.render(&map, false).is_empty());
            }
        }
        let mut map = SourceMap::default();
        let file = map.add("damaged.ron", damaged.as_str());
        if let Ok(printed) = text::print(file, &map) {
            let again = map.add("printed.ron", printed);
            assert!(
                text::parse(again, &map).is_ok(),
                "what `fmt` prints must parse"
            );
        }
        sources.insert(path.clone(), original);
    }
    assert!(
        runs > 20 && rejected > 0,
        "{runs} runs, {rejected} rejected"
    );
    if let (Some(before), Some(after)) = (before, peak_kib()) {
        let grown = after.saturating_sub(before);
        assert!(grown < 256 * 1024, "memory grew by {grown} KiB");
    }
}

/// The stages behind `text`, on a graph that could be read.
fn stages(_loaded: &text::Loaded, _map: &SourceMap) {}
