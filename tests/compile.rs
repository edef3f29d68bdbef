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
