//! Stage 4: proves that a typed graph makes sense, and leaves out what has no effect. What comes out obeys the
//! module's invariants ([`super`]); what was left out is a warning.

use std::collections::{BTreeMap, BTreeSet};

use super::expand::expanded_from;
use super::{Class, Graph, Origin, Typed};
use crate::codes::graph as codes;
use crate::diag::{Code, Diagnostic, Diagnostics};
use crate::ids::{IdVec, PassId, ValueId};
use crate::kernel::shape_text;
use crate::text::ast::Name;

use super::stages::Checked;

/// The most elements of a tensor: shaders count them in 32 bits.
const MAX_ELEMENTS: u64 = u32::MAX as u64;

/// Checks `typed`.
pub fn check(typed: Typed) -> Result<Checked, Diagnostics> {
    let Typed {
        mut graph,
        dtypes,
        output_names,
        unnamed,
    } = typed;
    let mut problems = Diagnostics::default();
    outputs(&mut graph, &output_names, &mut problems);
    carries(&graph, &mut problems);
    sizes(&graph, &mut problems);
    aliases(&graph, &mut problems);
    if problems.has_errors() {
        return Err(problems);
    }
    let live = live_passes(&graph);
    warn_dead(&graph, &live, &mut problems);
    let dead: BTreeSet<PassId> = graph
        .passes
        .ids()
        .filter(|pass| !live.contains(pass))
        .collect();
    let used = read_values(&graph, &live);
    warn_unused(&graph, &used, &unnamed, &mut problems);
    if live.is_empty() {
        problems.push(nothing_to_do(&graph));
    }
    graph.inputs.retain(|input| used.contains(input));
    let graph = compact(graph, &dead);
    let warnings = problems.into_result()?;
    Ok(Checked {
        graph,
        dtypes,
        warnings,
    })
}

/// Values that some pass writes.
fn written(graph: &Graph) -> BTreeSet<ValueId> {
    let ports = graph.passes.iter().flat_map(|pass| &pass.ports);
    ports
        .filter(|port| port.access.writes())
        .map(|port| port.value)
        .collect()
}

fn outputs(graph: &mut Graph, names: &[Name], problems: &mut Diagnostics) {
    let written = written(graph);
    let mut seen: BTreeMap<ValueId, &Name> = BTreeMap::new();
    for (value, name) in graph.outputs.clone().into_iter().zip(names) {
        let info = &mut graph.values[value];
        let why = match info.class {
            _ if info.view.is_some() => {
                "is a view; name the whole value, or a pass that copies the part"
            }
            Class::Input => "is an input, which the host has already",
            Class::Weight => "is a weight, which the host has already",
            Class::State | Class::Scratch | Class::Workspace => {
                "is state; let a pass copy what the host should read"
            }
            Class::Carry { .. } => "is a carry; name the value of this submit instead",
            Class::Transient | Class::Output if !written.contains(&value) => {
                "is written by no pass"
            }
            Class::Transient | Class::Output => {
                info.class = Class::Output;
                if let Some(first) = seen.insert(value, name) {
                    let message = format!(
                        "outputs `{}` and `{}` are one value",
                        first.value, name.value
                    );
                    problems.push(
                        Diagnostic::error(codes::OUTPUT, message)
                            .at(name.span, "")
                            .at(first.span, "first named here"),
                    );
                }
                continue;
            }
        };
        let message = format!("output `{}` {why}", name.value);
        problems.push(located(codes::OUTPUT, message, name, &info.origin));
    }
}

fn located(code: Code, message: String, name: &Name, origin: &Origin) -> Diagnostic {
    Diagnostic::error(code, message)
        .at(name.span, "")
        .at(origin.span, "the value")
}

fn carries(graph: &Graph, problems: &mut Diagnostics) {
    let written = written(graph);
    let mut nexts: BTreeMap<ValueId, &str> = BTreeMap::new();
    for (id, info) in graph.values.enumerate() {
        let Class::Carry { next } = info.class else {
            continue;
        };
        if info.view.is_some() {
            continue;
        }
        let target = &graph.values[next];
        let typed = |dtype, shape: &[u64]| format!("{dtype} {}", shape_text(shape));
        let why = if next == id {
            "is the carry itself: no pass writes a new value".to_string()
        } else if target.view.is_some() {
            "is a view; a carry's next value is a whole one".into()
        } else if target.class == Class::Output {
            "is also an output; let a pass copy it".into()
        } else if target.class != Class::Transient || !written.contains(&next) {
            "is not written by a pass".into()
        } else if (target.dtype, &target.shape) != (info.dtype, &info.shape) {
            let (is, wants) = (
                typed(target.dtype, &target.shape),
                typed(info.dtype, &info.shape),
            );
            format!("is {is}, but the carry is {wants}")
        } else if let Some(other) = nexts.insert(next, &info.name) {
            format!("is the next value of carry `{other}`, too")
        } else {
            continue;
        };
        let message = format!("carry `{}`: next value `{}` {why}", info.name, target.name);
        let error = Diagnostic::error(codes::CARRY, message).at(info.origin.span, "the carry");
        problems.push(error.at(target.origin.span, "its next value"));
    }
}

fn sizes(graph: &Graph, problems: &mut Diagnostics) {
    let mut seen = BTreeSet::new();
    for info in &graph.values {
        let elements = info
            .shape
            .iter()
            .try_fold(1u64, |product, size| product.checked_mul(*size));
        let fits = info.bytes().is_some() && elements.is_some_and(|count| count <= MAX_ELEMENTS);
        if !fits && seen.insert((info.origin.span.file, info.origin.span.start)) {
            let message = format!(
                "`{}` is {} {}, more than {MAX_ELEMENTS} elements",
                info.name,
                info.dtype,
                shape_text(&info.shape)
            );
            let error = Diagnostic::error(codes::TOO_LARGE, message)
                .at(info.origin.span, "")
                .help("kernels count elements in 32 bits: split it into several values");
            problems.push(expanded_from(error, &info.origin.via));
        }
    }
}

/// A pass that writes state must not reach the same bytes through another port.
fn aliases(graph: &Graph, problems: &mut Diagnostics) {
    for pass in &graph.passes {
        for (index, port) in pass
            .ports
            .iter()
            .enumerate()
            .filter(|(_, port)| port.access.writes())
        {
            let root = graph.root(port.value);
            let other = pass.ports.iter().enumerate().find(|(at, other)| {
                *at != index
                    && graph.root(other.value) == root
                    && overlap(graph, port.value, other.value)
            });
            let Some((_, other)) = other else { continue };
            let message = format!(
                "`{}` writes `{}` through port `{}` and also binds it to `{}`",
                pass.path, graph.values[root].name, port.name, other.name
            );
            let error = Diagnostic::error(codes::ALIAS, message)
                .at(pass.origin.span, "")
                .help("a pass may see the bytes that it writes through one port only: copy the value first");
            problems.push(expanded_from(error, &pass.origin.via));
            break;
        }
    }
}

/// Whether two values with one root share bytes.
fn overlap(graph: &Graph, a: ValueId, b: ValueId) -> bool {
    let range = |value: ValueId| {
        let start = graph.values[value].view.map_or(0, |(_, first)| first);
        (
            start,
            start.saturating_add(graph.values[value].bytes().unwrap_or(u64::MAX)),
        )
    };
    let ((a_start, a_end), (b_start, b_end)) = (range(a), range(b));
    a_start < b_end && b_start < a_end
}

/// Passes that something outside depends on: they write an output, a carry's next value or state, or what such a
/// pass reads. Passes stand in order, so one walk backwards finds all.
fn live_passes(graph: &Graph) -> BTreeSet<PassId> {
    let mut wanted: BTreeSet<ValueId> = graph.outputs.iter().copied().collect();
    wanted.extend(graph.values.iter().filter_map(|info| match info.class {
        Class::Carry { next } => Some(next),
        _ => None,
    }));
    let mut live = BTreeSet::new();
    for (id, pass) in graph.passes.enumerate().rev() {
        let needed = pass
            .ports
            .iter()
            .filter(|port| port.access.writes())
            .any(|port| {
                let root = graph.root(port.value);
                wanted.contains(&root) || graph.values[root].class == Class::State
            });
        if needed {
            live.insert(id);
            wanted.extend(pass.ports.iter().map(|port| graph.root(port.value)));
        }
    }
    live
}

fn warn_dead(graph: &Graph, live: &BTreeSet<PassId>, problems: &mut Diagnostics) {
    // An entry that only fills state has every pass behind the last update for the sake of other entries.
    if graph.outputs.is_empty() {
        return;
    }
    let mut seen = BTreeSet::new();
    for (_, pass) in graph
        .passes
        .enumerate()
        .filter(|(id, _)| !live.contains(id))
    {
        let span = pass.origin.span;
        if seen.insert((span.file, span.start)) {
            let message = format!("pass `{}` has no effect and is left out", pass.path);
            let warning = Diagnostic::warning(codes::DEAD_PASS, message)
                .at(span, "nothing that leaves the graph depends on it");
            problems.push(expanded_from(warning, &pass.origin.via));
        }
    }
}

fn read_values(graph: &Graph, live: &BTreeSet<PassId>) -> BTreeSet<ValueId> {
    let passes = live.iter().map(|pass| &graph.passes[*pass]);
    passes
        .flat_map(|pass| &pass.ports)
        .flat_map(|port| [port.value, graph.root(port.value)])
        .collect()
}

fn nothing_to_do(graph: &Graph) -> Diagnostic {
    let message = format!(
        "entry `{}` has no output and updates no state: it does nothing",
        graph.entry
    );
    Diagnostic::error(codes::NO_EFFECT, message)
        .help("check the `when` of the items that bind the outputs")
}

/// An input or weight that only switched-off items take is no mistake; this entry goes without it.
fn warn_unused(
    graph: &Graph,
    used: &BTreeSet<ValueId>,
    unnamed: &BTreeSet<ValueId>,
    problems: &mut Diagnostics,
) {
    let mut seen = BTreeSet::new();
    for (_, info) in graph
        .values
        .enumerate()
        .filter(|(id, info)| !used.contains(id) && unnamed.contains(id) && info.view.is_none())
    {
        let (code, what) = match info.class {
            Class::Input => (codes::UNUSED_INPUT, "input"),
            Class::Weight => (codes::UNUSED_WEIGHT, "weight"),
            _ => continue,
        };
        let span = info.origin.span;
        if seen.insert((span.file, span.start)) {
            let message = format!("{what} `{}` is not used", info.name);
            problems.push(expanded_from(
                Diagnostic::warning(code, message).at(span, ""),
                &info.origin.via,
            ));
        }
    }
}

/// The graph without some passes and without values that nobody names any more; ids are made dense again, in order.
pub(super) fn compact(graph: Graph, without: &BTreeSet<PassId>) -> Graph {
    let passes: IdVec<PassId, _> = graph
        .passes
        .enumerate()
        .filter(|(id, _)| !without.contains(id))
        .map(|(_, pass)| pass.clone())
        .collect();
    let mut used: BTreeSet<ValueId> = graph.inputs.iter().chain(&graph.outputs).copied().collect();
    used.extend(
        passes
            .iter()
            .flat_map(|pass| &pass.ports)
            .flat_map(|port| [port.value, graph.root(port.value)]),
    );
    for (id, info) in graph.values.enumerate() {
        // A carry keeps its place even if nothing reads it: its next value was asked for.
        if let Class::Carry { next } = info.class
            && info.view.is_none()
        {
            used.extend([id, next]);
        }
    }
    let mut moved = BTreeMap::new();
    let mut values = IdVec::new();
    for (id, info) in graph.values.enumerate().filter(|(id, _)| used.contains(id)) {
        moved.insert(id, values.push(info.clone()));
    }
    let renamed = |value: ValueId| moved.get(&value).copied().unwrap_or(value);
    for info in values.iter_mut() {
        if let Some((root, _)) = &mut info.view {
            *root = renamed(*root);
        }
        if let Class::Carry { next } = &mut info.class {
            *next = renamed(*next);
        }
    }
    let mut compacted = Graph {
        inputs: graph.inputs.iter().map(|value| renamed(*value)).collect(),
        outputs: graph.outputs.iter().map(|value| renamed(*value)).collect(),
        values,
        passes,
        ..graph
    };
    for port in compacted.passes.iter_mut().flat_map(|pass| &mut pass.ports) {
        port.value = renamed(port.value);
    }
    compacted
}
