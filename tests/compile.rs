//! The compiler from graph files to proved plans.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use graphc::compile::{Compiled, Job, Stage, compile};
use graphc::expr::Value;
use graphc::graph::Request;
use graphc::sources::FsSources;
use graphc::span::SourceMap;

fn bert(layers: i64) -> BTreeMap<String, Value> {
    [
        ("layers", layers),
        ("d_model", 384),
        ("heads", 12),
        ("d_ff", 1536),
        ("vocab", 30522),
        ("max_positions", 512),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_string(), Value::Int(value)))
    .collect()
}

fn run(layers: i64, none: bool) -> Compiled {
    let sources = FsSources::new(env!("CARGO_MANIFEST_DIR"));
    let mut map = SourceMap::default();
    let profile = graphc::profile::load("lavapipe", &sources, &mut map)
        .unwrap_or_else(|e| panic!("{}", e.render(&map, false)));
    let entries = [Request {
        params: bert(layers),
        dims: [("batch".to_string(), 32), ("seq".to_string(), 128)].into(),
        ..Request::default()
    }];
    let mut job = Job::new("graphs/models/bert.ron", &sources, &profile, &entries);
    job.fusion.none = none;
    job.emit = &[Stage::Fused, Stage::Memory];
    match compile(&job, &mut map) {
        Ok(compiled) => compiled,
        Err(problems) => panic!("{}", problems.render(&map, false)),
    }
}

#[test]
fn bert_takes_five_passes_a_layer() {
    let start = std::time::Instant::now();
    let compiled = run(12, false);
    println!("{:?}", start.elapsed());
    for (_, text) in &compiled.dumps {
        println!("{}", text.chars().take(3000).collect::<String>());
    }
    println!("{}", graphc::plan::dump::summary(&compiled.plan));
    let stats = &compiled.plan.entries[0].stats;
    assert_eq!(stats.passes, 12 * 5 + 2);
    assert_eq!(stats.waves, stats.critical_path);
    assert_eq!(stats.passes_per_layer, Some(5));
    assert!(stats.transient_planned * 100 <= stats.transient_bound * 105);
    let unfused = run(12, true);
    println!("{}", graphc::plan::dump::summary(&unfused.plan));
    assert!(unfused.plan.entries[0].stats.passes > stats.passes);
}

/// `project` as a manifest alone: what the interpreter needs.
const PROJECT: &str = r#"Kernel(
    name: "project",
    doc: "y = x w^T + b, or some of its columns.",
    options: {
        "column": Int(default: "0", min: "0", max: "1000000"),
        "columns": Int(default: "0", min: "0", max: "1000000"),
    },
    derive: { "all": "max(columns, n)" },
    ports: {
        "x": Read(of: "f32", shape: ["m...", "k"]),
        "w": Read(of: "f32", shape: ["n", "k"]),
        "b": Read(of: "f32", shape: ["n"], optional: true),
        "into": Read(of: "f32", shape: ["m...", "all"], optional: true),
        "y": Write(of: "f32", shape: ["m...", "all"], in_place: "into"),
    },
    split: Split(port: "w", dim: "n", at: "column", of: "columns", total: "all", chain: ("into", "y")),
    reference: [
        "acc[i<m, j<n] = sum(p<k: x[i,p] * w[j,p]) + if(has(b), b[j], 0.0)",
        "y[i<m, j<all] = if(j >= column && j < column + n, acc[i, max(0, min(n - 1, j - column))], if(has(into), into[i,j], 0.0))",
    ],
    push: { "m": U32("m") },
    variants: [Variant(name: "plain", shader: "project.comp", local_size: ["64", "1", "1"], dispatch: ["m", "1", "1"])],
)"#;

const COPY: &str = r#"Kernel(
    name: "copy",
    doc: "y = x",
    ports: { "x": Read(of: "f32", shape: ["m...", "n"]), "y": Write(of: "f32", shape: ["m...", "n"]) },
    reference: ["y[i<m, j<n] = x[i,j]"],
    push: { "m": U32("m") },
    variants: [Variant(name: "plain", shader: "copy.comp", local_size: ["64", "1", "1"], dispatch: ["m", "1", "1"])],
)"#;

/// A head of 200 rows that another entry reads, too.
fn head(output: &str) -> String {
    format!(
        r#"Graph(
    name: "head", params: {{}}, dtypes: {{ "act": "f32", "weight": "f32" }},
    dims: {{ "rows": Var(max: "8"), "k": Is("32"), "n": Is("200") }},
    inputs: {{ "x": Tensor("f32", ["rows", "k"]) }},
    body: [
        Weight(name: "w", dtype: "weight", shape: ["n", "k"], from: Tensor("head.weight")),
        Weight(name: "b", dtype: "f32", shape: ["n"], from: Tensor("head.bias")),
        Pass(kernel: "project", in: {{ "x": "x", "w": "w", "b": "b" }}, out: {{ "y": "y" }}),
        Pass(kernel: "copy", in: {{ "x": "y" }}, out: {{ "y": "z" }}),
    ],
    outputs: ["{output}"],
    entries: {{ "one": {{ "rows": "1" }}, "three": {{ "rows": "3" }} }},
)"#
    )
}

fn compile_head(output: &str, limit: u64) -> Result<graphc::plan::Plan, String> {
    let root = FsSources::new(env!("CARGO_MANIFEST_DIR"));
    let mut map = SourceMap::default();
    let mut profile = graphc::profile::load("lavapipe", &root, &mut map).unwrap();
    profile.limits.max_storage_buffer_range = limit;
    let sources: BTreeMap<String, String> = [
        ("graphs/head.ron", head(output)),
        ("shaders/project.ron", PROJECT.into()),
        ("shaders/copy.ron", COPY.into()),
        ("shaders/project.comp", "#version 460\n".into()),
        ("shaders/copy.comp", "#version 460\n".into()),
    ]
    .map(|(path, text)| (path.to_string(), text))
    .into();
    let entries = [Request::default()];
    let job = Job::new("graphs/head.ron", &sources, &profile, &entries);
    let mut map = SourceMap::default();
    compile(&job, &mut map)
        .map(|compiled| compiled.plan)
        .map_err(|problems| problems.render(&map, false))
}

/// Numbers by the tensor's name and element; a slice shows its part of them.
fn head_outputs(plan: &graphc::plan::Plan, entry: &str, rows: usize, output: &str) -> Vec<u8> {
    use graphc::graph::Recipe;
    let bytes = |weight: &graphc::plan::Weight| -> Vec<u8> {
        let (start, name) = match &weight.recipe {
            Recipe::Slice { of, start, .. } => (*start, format!("{of:?}")),
            whole => (0, format!("{whole:?}")),
        };
        let row: u64 = weight.shape[1..].iter().product();
        let count = weight.shape.iter().product::<u64>();
        let number = |at: u64| ((at * 7 + name.len() as u64) % 23) as f32 - 11.0;
        let numbers = (0..count).map(|at| number(start * row + at));
        numbers.flat_map(f32::to_le_bytes).collect()
    };
    let x: Vec<u8> = (0..rows * 32)
        .flat_map(|at| (at as f32 / 7.0).sin().to_le_bytes())
        .collect();
    let mut interpreter = graphc::interp::Interpreter::new(plan, bytes).unwrap();
    let inputs = [("x".to_string(), x)].into();
    let mut outputs = interpreter.run(entry, 0, &inputs).unwrap();
    outputs.remove(output).unwrap()
}

#[test]
fn a_weight_past_the_limit_of_a_binding_is_read_by_a_chain_of_passes() {
    let whole = compile_head("z", 1 << 20).unwrap();
    // 200 rows of 128 bytes: 128, then 72 rows within 16 KiB; within 3000 bytes nine times at most 23.
    for (limit, passes) in [(16 << 10, 2), (3000, 9)] {
        let split = compile_head("z", limit).unwrap();
        assert_eq!(
            split.weights.len(),
            2 * passes,
            "parts are shared by the entries"
        );
        for (entry, rows) in [("one", 1), ("three", 3)] {
            let found = split
                .entries
                .iter()
                .find(|found| found.name == entry)
                .unwrap();
            assert_eq!(found.passes.len(), passes + 1);
            assert_eq!(
                head_outputs(&split, entry, rows, "z"),
                head_outputs(&whole, entry, rows, "z"),
                "{entry} within {limit}"
            );
        }
    }
}

#[test]
fn a_chain_may_end_in_an_output() {
    let whole = compile_head("y", 1 << 20).unwrap();
    for (limit, passes) in [(16 << 10, 2), (3000, 9)] {
        let split = compile_head("y", limit).unwrap();
        for (entry, rows) in [("one", 1), ("three", 3)] {
            let found = split
                .entries
                .iter()
                .find(|found| found.name == entry)
                .unwrap();
            let project = found
                .passes
                .iter()
                .filter(|pass| pass.path.starts_with("project"));
            assert_eq!(project.count(), passes);
            let outputs = |plan| head_outputs(plan, entry, rows, "y");
            assert_eq!(outputs(&split), outputs(&whole), "{entry} within {limit}");
        }
        // Every link has the output's own place.
        let arenas = |plan: &graphc::plan::Plan| -> Vec<u64> {
            let kept = |arena: &&graphc::plan::Arena| arena.kind == graphc::plan::ArenaKind::Output;
            plan.arenas
                .iter()
                .filter(kept)
                .map(|arena| arena.bytes)
                .collect()
        };
        assert_eq!(arenas(&split), arenas(&whole));
    }
}
