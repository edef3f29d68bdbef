//! The order of passes: definitions before uses, and file order wherever that leaves a choice. Kahn 1962 with the
//! smallest index first, so a list that is already in order stays as it is.

use std::collections::{BTreeMap, BTreeSet};

use super::flat::{Flat, FlatKind};
use crate::codes::graph as codes;
use crate::diag::{Diagnostic, Diagnostics};
use crate::ids::{Id, IdVec, PassId, ValueId};

/// At most this many passes of a cycle are shown in the source; the message names all.
const MAX_LABELS: usize = 16;

/// Puts the passes of `flat` in order. A cycle is an error that names every pass on it.
pub(super) fn order(mut flat: Flat) -> Result<Flat, Diagnostics> {
    let before = predecessors(&flat);
    match sort(&before) {
        Ok(order) => {
            if !order.iter().copied().eq(0..order.len()) {
                flat.passes = order
                    .iter()
                    .map(|index| flat.passes[PassId::new(*index)].clone())
                    .collect();
            }
            Ok(flat)
        }
        Err(cycle) => Err(cycle_error(&flat, &before, &cycle).into()),
    }
}

/// For each pass: who must come before it, and through which value.
fn predecessors(flat: &Flat) -> Vec<BTreeMap<usize, ValueId>> {
    let mut writer: BTreeMap<ValueId, usize> = BTreeMap::new();
    for (pass, info) in flat.passes.enumerate() {
        for (_, value) in &info.writes {
            writer.insert(flat.root(*value), pass.index());
        }
    }
    let mut before = vec![BTreeMap::new(); flat.passes.len()];
    let mut touched: BTreeMap<ValueId, usize> = BTreeMap::new();
    for (pass, info) in flat.passes.enumerate() {
        let at = pass.index();
        let all = info
            .reads
            .iter()
            .chain(&info.writes)
            .map(|(_, value)| flat.root(*value));
        for root in all {
            if matches!(flat.values[root].kind, FlatKind::State(_)) {
                // Passes that touch one state keep the order of the file. Readers between two writers are chained
                // like writers: that costs a little freedom here, and `Graph::dependencies` gives it back.
                if let Some(from) = touched.insert(root, at).filter(|from| *from != at) {
                    before[at].insert(from, root);
                }
            } else if let Some(from) = writer
                .get(&root)
                .filter(|_| info.reads.iter().any(|(_, v)| flat.root(*v) == root))
            {
                before[at].insert(*from, root);
            }
        }
    }
    before
}

/// An order, or the passes of a cycle, each before the one that waits for it.
fn sort(before: &[BTreeMap<usize, ValueId>]) -> Result<Vec<usize>, Vec<usize>> {
    let mut after = vec![Vec::new(); before.len()];
    let mut waits: Vec<usize> = before.iter().map(BTreeMap::len).collect();
    for (pass, needs) in before.iter().enumerate() {
        needs.keys().for_each(|need| after[*need].push(pass));
    }
    let mut ready: BTreeSet<usize> = (0..before.len()).filter(|pass| waits[*pass] == 0).collect();
    let mut order = Vec::with_capacity(before.len());
    while let Some(pass) = ready.pop_first() {
        order.push(pass);
        for next in &after[pass] {
            waits[*next] -= 1;
            if waits[*next] == 0 {
                ready.insert(*next);
            }
        }
    }
    match (0..before.len()).find(|pass| waits[*pass] > 0) {
        None => Ok(order),
        Some(stuck) => Err(find_cycle(before, &waits, stuck)),
    }
}

/// Every pass that still waits, waits for another one that does: walking backwards must come round.
fn find_cycle(before: &[BTreeMap<usize, ValueId>], waits: &[usize], start: usize) -> Vec<usize> {
    let mut walk = vec![start];
    let mut seen = BTreeMap::from([(start, 0)]);
    let mut at = start;
    while let Some(next) = before[at].keys().copied().find(|need| waits[*need] > 0) {
        if let Some(first) = seen.get(&next) {
            let mut cycle = walk.split_off(*first);
            cycle.reverse();
            // Named from the pass that stands first in the file.
            let first = (0..cycle.len()).min_by_key(|at| cycle[*at]).unwrap_or(0);
            cycle.rotate_left(first);
            return cycle;
        }
        seen.insert(next, walk.len());
        walk.push(next);
        at = next;
    }
    walk
}

fn cycle_error(flat: &Flat, before: &[BTreeMap<usize, ValueId>], cycle: &[usize]) -> Diagnostic {
    let info = |pass: usize| &flat.passes[PassId::new(pass)];
    let mut names: Vec<String> = cycle
        .iter()
        .map(|pass| format!("`{}`", info(*pass).path))
        .collect();
    names.extend(names.first().cloned());
    let message = match cycle {
        [only] => format!("pass `{}` reads what it writes itself", info(*only).path),
        _ => format!(
            "passes wait for each other in a cycle: {}",
            names.join(" -> ")
        ),
    };
    let mut error = Diagnostic::error(codes::CYCLE, message);
    for (index, pass) in cycle.iter().enumerate().take(MAX_LABELS) {
        let from = cycle[(index + cycle.len() - 1) % cycle.len()];
        let text = match before[*pass].get(&from) {
            Some(value) => format!(
                "`{}` reads `{}`, which `{}` writes",
                info(*pass).path,
                flat.values[*value].name,
                info(from).path
            ),
            None => String::new(),
        };
        error = error.at(info(*pass).origin.span, text);
    }
    error.help("let one of them read a value of the submit before: declare it under `carry`")
}

/// Views that look into each other own no bytes. Returns one of them.
pub(super) fn view_cycle(values: &IdVec<ValueId, super::flat::FlatValue>) -> Option<ValueId> {
    let mut safe = BTreeSet::new();
    for start in values.ids() {
        let mut walk = BTreeSet::new();
        let mut at = start;
        while !safe.contains(&at) {
            if !walk.insert(at) {
                return Some(at);
            }
            match values[at].kind {
                FlatKind::View { of, .. } => at = of,
                _ => break,
            }
        }
        safe.extend(walk);
    }
    None
}
