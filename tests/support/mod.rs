//! What several tests share: the repository's graphs and kernels, plans for the interpreter, a batch of token ids.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod cpu;
pub mod decoder;
pub mod device;
pub mod golden;
#[cfg(all(feature = "gpu", feature = "shaderc"))]
pub mod gpu;
pub mod random;
#[cfg(all(feature = "gpu", feature = "shaderc"))]
pub mod rounds;
pub mod tiny;

use std::collections::BTreeMap;

use graphc::compile::Job;
use graphc::diag::Diagnostics;
use graphc::expr::Value;
use graphc::graph::Request;
use graphc::kernel::Library;
use graphc::plan::Plan;
use graphc::sources::FsSources;
use graphc::span::SourceMap;

pub use device::profile;

/// The repository as sources.
pub fn sources() -> FsSources {
    FsSources::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every kernel of the repository.
pub fn library() -> Library {
    let mut map = SourceMap::default();
    let loaded = graphc::kernel::load(&sources(), &mut map);
    loaded.unwrap_or_else(|errors| fail(&errors, &map))
}

/// Ends the test with diagnostics as people see them.
pub fn fail(errors: &Diagnostics, map: &SourceMap) -> ! {
    panic!("\n{}", errors.render(map, false))
}

/// Compiles a graph of the repository for the interpreter: no shader is built.
pub fn plan(path: &str, request: &Request, fused: bool) -> Plan {
    let (sources, profile) = (sources(), profile());
    let entries = [request.clone()];
    let mut job = Job::new(path, &sources, &profile, &entries);
    job.fusion.none = !fused;
    let mut map = SourceMap::default();
    let compiled = graphc::compile::compile(&job, &mut map);
    compiled.unwrap_or_else(|errors| fail(&errors, &map)).plan
}

/// A config.json as graph metadata: nested keys joined by dots.
pub fn metadata(config: &serde_json::Value) -> BTreeMap<String, Value> {
    fn walk(prefix: &str, value: &serde_json::Value, out: &mut BTreeMap<String, Value>) {
        let value = match value {
            serde_json::Value::Object(fields) => {
                for (name, field) in fields {
                    let dot = if prefix.is_empty() { "" } else { "." };
                    walk(&format!("{prefix}{dot}{name}"), field, out);
                }
                return;
            }
            serde_json::Value::Bool(value) => Value::Bool(*value),
            serde_json::Value::String(value) => Value::Text(value.clone()),
            serde_json::Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(value), _) => Value::Int(value),
                (None, value) => Value::Float(value.unwrap()),
            },
            _ => return,
        };
        out.insert(prefix.into(), value);
    }
    let mut out = BTreeMap::new();
    walk("", config, &mut out);
    out
}

/// Inputs of an encoder: sequence b owns rows `b * seq ..`, rows past its length hold token 0.
pub fn batch(sequences: &[Vec<u32>], seq: usize) -> BTreeMap<String, Vec<u8>> {
    let mut ids = vec![0_u32; sequences.len() * seq];
    let mut spans = Vec::new();
    for (b, sequence) in sequences.iter().enumerate() {
        ids[b * seq..][..sequence.len()].copy_from_slice(sequence);
        spans.extend([(b * seq) as u32, sequence.len() as u32]);
    }
    let positions: Vec<u32> = (0..ids.len()).map(|row| (row % seq) as u32).collect();
    let bytes = |values: Vec<u32>| values.into_iter().flat_map(u32::to_le_bytes).collect();
    BTreeMap::from([
        ("ids".into(), bytes(ids)),
        ("positions".into(), bytes(positions)),
        ("spans".into(), bytes(spans)),
    ])
}
