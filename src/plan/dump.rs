//! What `graphc compile --emit` prints of stages 6 to 9, and the numbers of the summary line. In: the results of the
//! stages; out: text. Nothing here decides anything.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::ops::Range;

use serde_json::json;

use super::schedule::Schedule;
use super::sync::{HazardKind, Sync, Touch};
use super::waves::{lifetimes, root, waves};
use super::{ArenaKind, Barrier, Entry, Plan, Role, Slot, Stats, Step, Tensor};
use crate::graph::Graph;
use crate::ids::{ArenaId, Id, TensorId};

/// Rows and columns of the memory picture at most; longer plans are sampled.
const MAX_ROWS: usize = 32;
const MAX_COLUMNS: usize = 100;

/// Writing into a `String` cannot fail, so the results below have nothing to say.
fn text(write: impl FnOnce(&mut String) -> fmt::Result) -> String {
    let mut out = String::new();
    let _ = write(&mut out);
    out
}

/// `--emit schedule`: waves with their passes in the order of recording.
pub fn schedule(entries: &[(&Graph, &Schedule)]) -> String {
    text(|out| {
        for (graph, schedule) in entries {
            let (passes, waves) = (graph.passes.len(), schedule.waves().len());
            writeln!(
                out,
                "entry {}: {passes} passes in {waves} waves",
                graph.entry
            )?;
            for (wave, passes) in schedule.waves().enumerate() {
                for (index, pass) in passes.iter().enumerate() {
                    let pass = &graph.passes[*pass];
                    let label = if index == 0 {
                        format!("{:>5}", wave.0)
                    } else {
                        " ".repeat(5)
                    };
                    writeln!(out, "{label}  {:<32} {}", pass.path, pass.kernel)?;
                }
            }
        }
        Ok(())
    })
}

/// `--emit sync`: every barrier with the first hazard that asked for it.
pub fn sync(graphs: &[&Graph], sync: &Sync) -> String {
    let name = |touch: &Touch| match graphs.get(touch.entry) {
        Some(graph) => (
            graph.passes[touch.pass].path.as_str(),
            graph.values[touch.value].name.as_str(),
        ),
        None => ("?", "?"),
    };
    text(|out| {
        for (graph, entry) in graphs.iter().zip(sync.entries()) {
            writeln!(out, "entry {}", graph.entry)?;
            for (wave, before) in entry.before.enumerate() {
                let Some((barrier, hazard)) = before else {
                    writeln!(out, "  before wave {:>4}  none", wave.0)?;
                    continue;
                };
                let (earlier, old) = name(&hazard.earlier);
                let (later, new) = name(&hazard.later);
                let (did, does) = match hazard.kind {
                    HazardKind::ReadAfterWrite => ("wrote", "reads"),
                    HazardKind::WriteAfterRead => ("read", "writes"),
                    HazardKind::WriteAfterWrite => ("wrote", "writes"),
                    HazardKind::DecisionAfterWrite => ("wrote", "is decided by"),
                    HazardKind::WriteAfterDecision => ("was decided by", "writes"),
                };
                let when = if wave.index() == 0 {
                    " in an earlier submit"
                } else {
                    ""
                };
                writeln!(
                    out,
                    "  before wave {:>4}  {:<9}  `{later}` {does} `{new}`, bytes {:?} of arena {}; `{earlier}` {did} `{old}`{when}",
                    wave.0,
                    barrier_name(*barrier),
                    hazard.bytes,
                    hazard.arena.0
                )?;
            }
            if entry.host {
                writeln!(
                    out,
                    "  at the end        host       the host reads the outputs"
                )?;
            }
        }
        Ok(())
    })
}

fn barrier_name(barrier: Barrier) -> &'static str {
    match barrier {
        Barrier::Memory => "memory",
        Barrier::Execution => "execution",
        Barrier::Guard => "guard",
        Barrier::Host => "host",
        Barrier::Relay => "relay",
    }
}

/// `--emit memory`: the transient arenas as a picture, bytes downwards and waves to the right, then every place.
pub fn memory(plan: &Plan) -> String {
    text(|out| {
        for (id, arena) in plan.arenas.enumerate() {
            writeln!(
                out,
                "arena {}: {:?}, {}",
                id.0,
                arena.kind,
                bytes(arena.bytes)
            )?;
        }
        for entry in &plan.entries {
            let lives = lifetimes(entry);
            for (arena, _) in plan
                .arenas
                .enumerate()
                .filter(|(_, arena)| arena.kind == ArenaKind::Transient)
            {
                picture(out, entry, arena, &lives)?;
            }
            writeln!(out, "\nentry {}: places", entry.name)?;
            for tensor in &entry.tensors {
                let slot = match tensor.slot {
                    Slot::Fixed => String::new(),
                    Slot::Same { stride } => format!(" + p * {stride}"),
                    Slot::Other { stride } => format!(" + (1 - p) * {stride}"),
                };
                let role = format!("{:?}", tensor.role).to_lowercase();
                let range = tensor.offset..tensor.offset.saturating_add(tensor.bytes);
                writeln!(
                    out,
                    "  {role:<9} arena {} {range:?}{slot}  {}",
                    tensor.arena.0, tensor.name
                )?;
            }
        }
        Ok(())
    })
}

/// Every dispatch with its wave.
fn recorded(entry: &Entry) -> Vec<(usize, crate::ids::PassId)> {
    let waves = waves(entry).into_iter().enumerate();
    waves
        .flat_map(|(wave, passes)| passes.into_iter().map(move |pass| (wave, pass)))
        .collect()
}

fn picture(
    out: &mut String,
    entry: &Entry,
    arena: ArenaId,
    lives: &BTreeMap<TensorId, Range<usize>>,
) -> fmt::Result {
    let inside = |(id, tensor): (TensorId, &Tensor)| {
        let life = lives
            .get(&id)
            .filter(|_| tensor.role == Role::Transient && tensor.arena == arena)?;
        Some((tensor.name.clone(), tensor.range(0), life.clone()))
    };
    let mut boxes: Vec<(String, Range<u64>, Range<usize>)> =
        entry.tensors.enumerate().filter_map(inside).collect();
    boxes.sort_by_key(|(_, range, life)| (life.start, range.start));
    let waves = boxes.iter().map(|(_, _, life)| life.end).max().unwrap_or(0);
    let mut edges: Vec<u64> = boxes
        .iter()
        .flat_map(|(_, range, _)| [range.start, range.end])
        .collect();
    edges.sort_unstable();
    edges.dedup();
    let row_step = edges.len().div_ceil(MAX_ROWS).max(1);
    let column_step = waves.div_ceil(MAX_COLUMNS).max(1);
    writeln!(
        out,
        "\nentry {}, arena {}: bytes downwards, waves 0..{waves} to the right",
        entry.name, arena.0
    )?;
    if column_step > 1 || row_step > 1 {
        writeln!(
            out,
            "(every {column_step}. wave, every {row_step}. boundary)"
        )?;
    }
    let sign = |index: usize| {
        char::from(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"[index % 52])
    };
    for at in edges
        .iter()
        .take(edges.len().saturating_sub(1))
        .step_by(row_step)
    {
        let cell = |wave: usize| {
            let covers = |(_, range, life): &(String, Range<u64>, Range<usize>)| {
                range.contains(at) && life.contains(&wave)
            };
            // The last one to start owns the cell: an in-place result stands over its argument.
            boxes.iter().rposition(covers).map_or('.', sign)
        };
        let row: String = (0..waves).step_by(column_step).map(cell).collect();
        writeln!(out, "{at:>14} |{row}|")?;
    }
    for (index, (name, range, life)) in boxes.iter().enumerate() {
        writeln!(
            out,
            "  {} {name}: bytes {range:?}, waves {life:?}",
            sign(index)
        )?;
    }
    Ok(())
}

/// `--emit plan`: kernels and the recording, step by step.
pub fn plan(plan: &Plan) -> String {
    text(|out| {
        writeln!(out, "plan of {} for {}", plan.graph, plan.profile)?;
        for (id, kernel) in plan.kernels.enumerate() {
            writeln!(
                out,
                "kernel {}: {} {} ({}), {} words, workgroup {:?}",
                id.0,
                kernel.name,
                kernel.variant,
                kernel.label,
                kernel.spirv.len(),
                kernel.local_size
            )?;
        }
        for entry in &plan.entries {
            writeln!(out, "\nentry {}", entry.name)?;
            if let Some(guard) = entry.guard.and_then(|id| entry.tensors.get(id)) {
                writeln!(out, "  guard {}", guard.name)?;
            }
            for step in &entry.steps {
                match step {
                    Step::Cut => writeln!(out, "  -- cut --")?,
                    Step::Barrier(barrier) => {
                        writeln!(out, "  barrier {}", barrier_name(*barrier))?
                    }
                    Step::Dispatch(id) => dispatch(out, entry, *id)?,
                }
            }
        }
        Ok(())
    })
}

fn dispatch(out: &mut String, entry: &Entry, id: crate::ids::PassId) -> fmt::Result {
    let Some(pass) = entry.passes.get(id) else {
        return Ok(());
    };
    let (file, line, column) = &pass.source;
    writeln!(
        out,
        "  {} = kernel {} x {:?}{}   {file}:{line}:{column}",
        pass.path,
        pass.kernel.0,
        pass.groups,
        if pass.guarded { " guarded" } else { "" }
    )?;
    for bind in &pass.binds {
        let Some(tensor) = entry.tensors.get(bind.tensor) else {
            continue;
        };
        let access = format!("{:?}", bind.access).to_lowercase();
        let range = tensor.range(0);
        write!(
            out,
            "      {:>2} {:<12} {access:<9} {}",
            bind.binding, bind.port, tensor.name
        )?;
        write!(
            out,
            " {} {:?} @ {}:{range:?}",
            tensor.dtype, tensor.shape, tensor.arena.0
        )?;
        match bind.in_place {
            Some(from) => writeln!(out, " in place of {from}")?,
            None => writeln!(out)?,
        }
    }
    Ok(())
}

/// `--emit dot`: passes as boxes, one row a wave, tensors on the edges.
pub fn dot(plan: &Plan) -> String {
    text(|out| {
        writeln!(
            out,
            "digraph {:?} {{\n  node [shape=box, fontname=\"sans-serif\"];",
            plan.graph
        )?;
        for (e, entry) in plan.entries.iter().enumerate() {
            writeln!(
                out,
                "  subgraph cluster_{e} {{\n    label={:?};",
                entry.name
            )?;
            let mut waves: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
            let mut writer: BTreeMap<TensorId, u32> = BTreeMap::new();
            for (wave, id) in recorded(entry) {
                waves.entry(wave).or_default().push(id.0);
                let Some(pass) = entry.passes.get(id) else {
                    continue;
                };
                writeln!(out, "    p{e}_{} [label={:?}];", id.0, pass.path)?;
                for bind in pass.binds.iter().filter(|bind| bind.access.reads()) {
                    if let (Some(from), Some(tensor)) = (
                        writer.get(&root(entry, bind.tensor)),
                        entry.tensors.get(bind.tensor),
                    ) {
                        writeln!(
                            out,
                            "    p{e}_{from} -> p{e}_{} [label={:?}];",
                            id.0, tensor.name
                        )?;
                    }
                }
                writer.extend(
                    pass.binds
                        .iter()
                        .filter(|bind| bind.access.writes())
                        .map(|bind| (root(entry, bind.tensor), id.0)),
                );
            }
            for passes in waves.values().filter(|passes| passes.len() > 1) {
                let names: Vec<String> = passes.iter().map(|pass| format!("p{e}_{pass}")).collect();
                writeln!(out, "    {{ rank=same; {}; }}", names.join("; "))?;
            }
            writeln!(out, "  }}")?;
        }
        writeln!(out, "}}")
    })
}

/// The line that ends `graphc compile`, one for each entry.
pub fn summary(plan: &Plan) -> String {
    let line = |entry: &Entry| {
        let Stats {
            passes,
            waves,
            barriers,
            submits,
            ..
        } = entry.stats;
        let stats = &entry.stats;
        format!(
            "{} {}: {passes} passes{}, {waves} waves, {barriers} barriers{}, {submits} submit{}; transient {} planned, {} bound, \
             {} naive; weights {}{}\n",
            plan.graph,
            entry.name,
            stats
                .passes_per_layer
                .map_or(String::new(), |passes| format!(" ({passes} a layer)")),
            match stats.relays {
                0 => String::new(),
                relays => format!(" and {relays} relays"),
            },
            if submits == 1 { "" } else { "s" },
            bytes(stats.transient_planned),
            bytes(stats.transient_bound),
            bytes(stats.transient_naive),
            bytes(stats.weight_bytes),
            match stats.weight_host_bytes {
                0 => String::new(),
                host => format!(" ({} of them in host memory)", bytes(host)),
            },
        )
    };
    plan.entries.iter().map(line).collect()
}

/// `--json`: the numbers of the largest entry, and those of every entry under `entries`.
pub fn json(plan: &Plan) -> serde_json::Value {
    let numbers = |entry: &Entry| {
        let stats = &entry.stats;
        json!({
            "entry": entry.name,
            "repeat": entry.repeat,
            "passes": stats.passes,
            "waves": stats.waves,
            "critical_path": stats.critical_path,
            "barriers": stats.barriers,
            "relays": stats.relays,
            "submits": stats.submits,
            "passes_per_layer": stats.passes_per_layer,
            "transient_bytes": {
                "naive": stats.transient_naive,
                "planned": stats.transient_planned,
                "bound": stats.transient_bound,
            },
            "weight_bytes": {
                "device": stats.weight_bytes.saturating_sub(stats.weight_host_bytes),
                "host": stats.weight_host_bytes,
            },
            "state_bytes": stats.state_bytes,
            "estimate_ms": stats.estimate_ms,
        })
    };
    let mut all = plan.entries.last().map_or_else(|| json!({}), numbers);
    all["graph"] = json!(plan.graph);
    all["profile"] = json!(plan.profile);
    all["entries"] = plan.entries.iter().map(numbers).collect();
    all
}

/// A size for people: exact below 1 KiB, otherwise with one decimal.
fn bytes(count: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut size = count as f64;
    let mut unit = "B";
    for next in units {
        if size < 1024.0 {
            break;
        }
        size /= 1024.0;
        unit = next;
    }
    if unit == "B" {
        format!("{count} B")
    } else {
        format!("{size:.1} {unit}")
    }
}
