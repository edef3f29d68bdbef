//! Damaged graph, block, fusion and manifest files: whatever a file says, no stage up to fuse panics or hangs, and memory
//! stays bounded. Makes `FUZZ_RUNS` mutations of the real files (1,200 unless set) from a fixed seed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use graphc::diag::Diagnostics;
use graphc::dtype::DType;
use graphc::graph::{self, FuseOptions, Request};
use graphc::kernel::{self, Library};
use graphc::sources::FsSources;
use graphc::span::{SourceMap, Sources as _};
use graphc::text;
use support::decoder::{DECODERS, Reference, decode, prefill, score};

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
    "ceil(m / 4)",
    "m...",
    "in_place: \"x\"",
    "absent: [\"bias\"]",
    "Read(of: \"A\", shape: [\"n\"]),",
    "Cast(name: \"c\", of: \"h\")",
    "heads",
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
        match random.below(10) {
            // Half of the time a text in quotes becomes another of the file: what is left can still be read.
            4..9 => another_text(&mut bytes, random),
            9 => another_output(&mut bytes, random),
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 => drop(bytes.drain(at..to)),
            2 => {
                let piece = bytes[at..to].to_vec();
                let target = random.below(bytes.len() + 1);
                bytes.splice(target..target, piece);
            }
            3 if random.below(4) == 0 => bytes.truncate(at),
            _ => {
                let splinter = SPLINTERS[random.below(SPLINTERS.len())];
                bytes.splice(at..at, splinter.bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Places of the quotes around each text.
fn texts(bytes: &[u8]) -> Vec<[usize; 2]> {
    let quotes: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] == b'"').collect();
    quotes.as_chunks::<2>().0.to_vec()
}

/// Puts one text in quotes where another one is.
fn another_text(bytes: &mut Vec<u8>, random: &mut Random) {
    let texts = texts(bytes);
    if texts.is_empty() {
        return;
    }
    let [start, end] = texts[random.below(texts.len())];
    let text = bytes[start..end].to_vec();
    let [start, end] = texts[random.below(texts.len())];
    bytes.splice(start..end, text);
}

/// Adds a name to the graph's outputs: an input's, or one that may be none at all.
fn another_output(bytes: &mut Vec<u8>, random: &mut Random) {
    let find = |what: &[u8]| bytes.windows(what.len()).position(|at| at == what);
    let (Some(inputs), Some(outputs)) = (find(b"inputs: {"), find(b"outputs: [")) else {
        return another_text(bytes, random);
    };
    let mut names = texts(bytes);
    if random.below(2) == 0 {
        names.retain(|[start, _]| (inputs..inputs + 60).contains(start));
    }
    if let Some([start, end]) = names.get(random.below(names.len())) {
        let name = [&bytes[*start..=*end], b", "].concat();
        let at = outputs + b"outputs: [".len();
        bytes.splice(at..at, name);
    }
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
    for folder in [
        "graphs/models",
        "graphs/blocks",
        "graphs/fusions",
        "shaders",
    ] {
        for path in disk.list(folder).unwrap() {
            let text = disk.read(&path).unwrap();
            sources.insert(path, text);
        }
    }
    let runs = std::env::var("FUZZ_RUNS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1_200);
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let paths: Vec<String> = sources.keys().cloned().collect();
    let before = peak_kib();
    let mut rejected = 0;
    let mut reached = [0; Stage::ALL];
    let library = kernel::load(&sources, &mut SourceMap::default()).unwrap();
    // The largest request of a real use: many passes, sizes near the limits.
    let mut models: Vec<(&str, Request)> = support::tiny::tiny()
        .map(|model| {
            let request = support::tiny::request(&model.config, 8, 64, DType::F16);
            (model.path, request)
        })
        .into();
    for (path, golden) in DECODERS {
        let types = [("act", DType::F16), ("weight", DType::Int4)];
        let reference = Reference::load(golden);
        for shape in [decode(3, 4), prefill(24), score(40)] {
            models.push((path, reference.request(shape, &types, 3)));
        }
    }
    for _ in 0..runs {
        // There are more manifests than graph files, and one that cannot be read ends a run early.
        let kind = [
            "graphs/models",
            "graphs/blocks",
            "graphs/fusions",
            "shaders",
        ][random.below(4)];
        let of_kind: Vec<&String> = paths.iter().filter(|path| path.starts_with(kind)).collect();
        let path = of_kind[random.below(of_kind.len())];
        let original = sources[path].clone();
        let damaged = mutate(&original, &mut random);
        sources.insert(path.clone(), damaged.clone());
        let _guard = SayOnPanic(path, &damaged);
        let mut map = SourceMap::default();
        // A damaged graph is compiled itself; what graphs share, through any of them.
        let own: Vec<_> = models.iter().filter(|(model, _)| model == path).collect();
        let (model, request) = match own.len() {
            0 => &models[random.below(models.len())],
            count => own[random.below(count)],
        };
        let library = (!path.starts_with("shaders")).then_some(&library);
        let clock = support::cpu::time();
        let (stage, result) = stages(model, request, &sources, library, &mut map);
        reached[stage as usize] += 1;
        if let Err(problems) = result {
            rejected += 1;
            assert!(problems.has_errors());
            assert!(!problems.render(&map, false).is_empty());
        }
        let took = support::cpu::time() - clock;
        assert!(took < Duration::from_secs(20), "took {took:?}");
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
    println!("{runs} runs, {rejected} rejected, ended in {reached:?}");
    assert!(rejected > 0);
    // Every stage stops some damage, and some gets past all.
    assert!(runs < 1_000 || reached.iter().all(|count| *count > 0));
    if let (Some(before), Some(after)) = (before, peak_kib()) {
        let grown = after.saturating_sub(before);
        assert!(grown < 256 * 1024, "memory grew by {grown} KiB");
    }
}

/// Where a run ended.
#[derive(Clone, Copy)]
enum Stage {
    Text,
    Manifests,
    Expand,
    Infer,
    Check,
    Fuse,
}

impl Stage {
    const ALL: usize = 6;
}

/// All stages up to fuse, with this library or the one of `sources`.
fn stages(
    model: &str,
    request: &Request,
    sources: &BTreeMap<String, String>,
    library: Option<&Library>,
    map: &mut SourceMap,
) -> (Stage, Result<(), Diagnostics>) {
    macro_rules! attempt {
        ($stage:ident, $result:expr) => {
            match $result {
                Ok(made) => made,
                Err(problems) => return (Stage::$stage, Err(problems)),
            }
        };
    }
    let loaded = attempt!(Text, text::load(model, sources, map));
    let damaged;
    let library = match library {
        Some(library) => library,
        None => {
            damaged = attempt!(Manifests, kernel::load(sources, map));
            &damaged
        }
    };
    let flat = attempt!(Expand, graph::expand(&loaded, request));
    assert!(!flat.dump().is_empty());
    let typed = attempt!(Infer, graph::infer(flat, library));
    let checked = attempt!(Check, graph::check(typed));
    let fused = graph::fuse(checked, &loaded.fusions, library, &FuseOptions::default());
    (Stage::Fuse, fused.map(drop))
}
