//! One self-contained HTML page: the graph folded by layer, the memory map over waves, the timing table and the
//! roofline plot, linked. In: a plan's entries with their profiles, and the texts they came from. Out: the page.
//!
//! The page asks no network for anything. Its data is one JSON object in it; `page.js` draws everything from that.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Profile;
use super::row::fold;
use crate::ids::Id as _;
use crate::plan::{ArenaKind, Entry, Plan, Role, waves};

const FRAME: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page of these entries. `sources` are the texts by path, as the plan names them.
pub fn page(
    plan: &Plan,
    entries: &[(&Entry, &Profile)],
    sources: &BTreeMap<String, String>,
) -> String {
    let used: BTreeMap<&String, &String> = sources
        .iter()
        .filter(|(path, _)| {
            entries
                .iter()
                .any(|(entry, _)| entry.passes.iter().any(|pass| pass.source.0 == **path))
        })
        .collect();
    let data = json!({
        "graph": plan.graph,
        "profile": plan.profile,
        "arenas": plan.arenas.iter().map(|arena| json!({ "kind": format!("{:?}", arena.kind), "bytes": arena.bytes })).collect::<Vec<_>>(),
        "entries": entries.iter().map(|(entry, profile)| data(plan, entry, profile)).collect::<Vec<_>>(),
        "sources": used,
    });
    // `</script>` in a text must not end the element, nor `<!--` begin a comment in it.
    let data = data.to_string().replace('<', "\\u003c");
    let title = plan.graph.replace('&', "&amp;").replace('<', "&lt;");
    FRAME
        .replace("{{title}}", &title)
        .replace("{{style}}", STYLE)
        .replace("{{script}}", SCRIPT)
        .replace("{{data}}", &data)
}

fn data(plan: &Plan, entry: &Entry, profile: &Profile) -> Value {
    let all = waves::waves(entry);
    let rows: BTreeMap<&str, _> = profile
        .passes
        .iter()
        .map(|row| (row.path.as_str(), row))
        .collect();
    let mut passes = Vec::new();
    for (wave, ids) in all.iter().enumerate() {
        for pass in ids.iter().filter_map(|id| entry.passes.get(*id)) {
            let kernel = plan.kernels.get(pass.kernel);
            let row = rows.get(pass.path.as_str());
            let ports: Vec<Value> = pass
                .binds
                .iter()
                .map(|bind| {
                    json!({
                        "port": bind.port,
                        "tensor": bind.tensor.index(),
                        "reads": bind.access.reads(),
                        "writes": bind.access.writes(),
                    })
                })
                .collect();
            passes.push(json!({
                "path": pass.path,
                "fold": fold(&pass.path),
                "kernel": kernel.map_or("", |kernel| kernel.name.as_str()),
                "variant": kernel.map_or("", |kernel| kernel.variant.as_str()),
                "label": kernel.map_or("", |kernel| kernel.label.as_str()),
                "wave": wave,
                "groups": pass.groups,
                "bytes": pass.bytes,
                "flops": pass.flops,
                "file": pass.source.0,
                "line": pass.source.1,
                "fused": pass.fused,
                "ports": ports,
                "time": row.map(|row| row.time.median),
                "p95": row.map(|row| row.time.p95),
                "least": row.and_then(|row| row.least),
                "bound": row.and_then(|row| row.bound).map(|bound| bound.name()),
                "matrix": row.is_some_and(|row| row.matrix),
            }));
        }
    }
    json!({
        "name": entry.name,
        "waves": all.len(),
        "barriers": entry.stats.barriers,
        "submits": entry.stats.submits,
        "rounds": entry.repeat,
        "planned": entry.stats.transient_planned,
        "naive": entry.stats.transient_naive,
        "bound": entry.stats.transient_bound,
        "passes": passes,
        "tensors": tensors(plan, entry),
        "live": waves::live_bytes(entry),
        "device": profile.setting.device,
        "driver": profile.setting.driver,
        "random": profile.setting.random_weights,
        "runs": profile.runs,
        "roofs": profile.setting.roofs,
        "wall": profile.wall,
        "whole": profile.whole,
        "waves_sum": profile.waves_sum,
        "passes_sum": profile.passes_sum,
        "advice": profile.advice,
    })
}

/// Every tensor with its place; transient ones with the waves that they live in.
fn tensors(plan: &Plan, entry: &Entry) -> Vec<Value> {
    let lives = waves::lifetimes(entry);
    entry
        .tensors
        .enumerate()
        .map(|(id, tensor)| {
            let root = waves::root(entry, id);
            let transient = plan
                .arenas
                .get(tensor.arena)
                .is_some_and(|arena| arena.kind == ArenaKind::Transient);
            let life = lives
                .get(&id)
                .filter(|_| transient && tensor.role == Role::Transient);
            json!({
                "name": tensor.name,
                "role": format!("{:?}", tensor.role).to_lowercase(),
                "dtype": tensor.dtype.name(),
                "shape": tensor.shape,
                "arena": tensor.arena.0,
                "start": tensor.range(0).start,
                "end": tensor.range(0).end,
                "root": root.index(),
                "life": life.map(|life| [life.start, life.end]),
            })
        })
        .collect()
}
