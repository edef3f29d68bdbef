//! Which passes a round leaves out when it has nothing to do.
//!
//! In: entries with their schedules, and what the device takes to ask. Out: for each entry the state that decides and
//! the passes that it lets out. Always: a pass that is let out runs in a later wave than all that write the guard, and
//! writes no output; either every entry that could has a guard, or none, since what writes a guard in one must wait for
//! those that decide by it in another.

use std::collections::BTreeSet;

use crate::device::Roofs;
use crate::graph::{Class, Graph};
use crate::ids::{PassId, ValueId, WaveId};

use super::estimate::{can_estimate, round_seconds};
use super::lower::EntryParts;

/// A round with a guard is estimated to last at least so many times as long as asking it takes, which in a whole model is
/// about twice what `graphc roof` measures. When a text ends some ten steps are still on their way, in its submit and in the
/// one behind it; at this limit, leaving them out pays for texts of up to 500 steps.
const GUARDED_ROUND: f64 = 100.0;

/// The guard of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The state.
    pub value: ValueId,
    /// Who need not run.
    pub passes: BTreeSet<PassId>,
}

/// The guards of all entries, in their order.
pub fn guards(entries: &[EntryParts<'_>], roofs: &Roofs) -> Vec<Option<Guard>> {
    let found: Vec<Option<Guard>> = entries.iter().map(guard).collect();
    let guarded = || {
        let pairs = entries.iter().zip(&found);
        pairs.filter_map(|(entry, guard)| Some((entry, guard.as_ref()?)))
    };
    let nobody_asks = guarded().all(|(_, guard)| guard.passes.is_empty());
    let is_dear = guarded().any(|(entry, _)| is_too_short_to_ask(entry, roofs));
    if nobody_asks || is_dear {
        return vec![None; entries.len()];
    }
    found
}

/// Whether asking a guard would take too much of a round.
fn is_too_short_to_ask(entry: &EntryParts<'_>, roofs: &Roofs) -> bool {
    let cost = roofs.guard_s.filter(|_| can_estimate(roofs));
    cost.is_some_and(|cost| cost * GUARDED_ROUND > round_seconds(entry, roofs))
}

/// None if no pass of the entry writes the graph's guard.
fn guard(entry: &EntryParts<'_>) -> Option<Guard> {
    let graph = entry.graph;
    let name = graph.guard.as_ref()?;
    let waves = || entry.schedule.waves().enumerate();
    let writing = waves().flat_map(|(wave, passes)| {
        let written = passes.iter().filter_map(|pass| written(graph, *pass, name));
        written.map(move |value| (wave, value))
    });
    let (last, value): (WaveId, ValueId) = writing.last()?;
    let passes = waves()
        .filter(|(wave, _)| *wave > last)
        .flat_map(|(_, passes)| passes)
        .copied()
        .filter(|pass| !writes_an_output(graph, *pass))
        .collect();
    Some(Guard { value, passes })
}

/// The state of this name, if the pass writes it.
fn written(graph: &Graph, pass: PassId, name: &str) -> Option<ValueId> {
    let ports = graph.passes[pass].ports.iter();
    let mut written = ports
        .filter(|port| port.access.writes())
        .map(|port| port.value);
    written.find(|value| {
        let info = &graph.values[*value];
        info.class == Class::State && info.name == name
    })
}

fn writes_an_output(graph: &Graph, pass: PassId) -> bool {
    graph.passes[pass]
        .ports
        .iter()
        .any(|port| port.access.writes() && graph.outputs.contains(&graph.root(port.value)))
}
