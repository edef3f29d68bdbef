//! Part 6 of the proof: passes that wait for each other in their own code do what [`Barrier::Relay`] says. Along a chain
//! every pass waits for all workgroups of the one before it and for nothing else, no wave has a second pass, and what a pass
//! reads before it waits no pass of the chain has written. Cells count from zero: one pass adds to a cell, and one that runs
//! when all who waited for it are done sets it back before that pass comes again and before anybody looks for it.

use std::collections::BTreeMap;

use super::{Found, Rule};
use crate::ids::PassId;
use crate::plan::{Barrier, Entry, PassInfo, Plan, Role, Step};

/// Where a pass stands: its chain and its place in it.
type Place = (usize, usize);

pub(super) fn check(plan: &Plan, found: &mut Found) {
    let mut signalled: BTreeMap<u32, (usize, PassId)> = BTreeMap::new();
    for (index, entry) in plan.entries.iter().enumerate() {
        let chains = chains(plan, entry, found);
        cells((index, entry), &chains, &mut signalled, found);
    }
    let Some(arena) = plan.relay else { return };
    for entry in &plan.entries {
        for (id, tensor) in entry.tensors.enumerate() {
            if tensor.arena == arena && tensor.role != Role::View {
                let message = format!("`{}` lies among the cells of relays", tensor.name);
                found.add(Rule::Relay, entry, None, Some(id), message);
            }
        }
    }
}

/// The passes of each chain, one without a relay being a chain of its own.
fn chains(plan: &Plan, entry: &Entry, found: &mut Found) -> Vec<Vec<PassId>> {
    let mut chains: Vec<Vec<PassId>> = Vec::new();
    let steps = &entry.steps;
    for (at, step) in steps.iter().enumerate() {
        let Step::Dispatch(id) = step else { continue };
        let relayed = at > 0 && steps[at - 1] == Step::Barrier(Barrier::Relay);
        let pass = &entry.passes[*id];
        let mut say = |message: String| found.add(Rule::Relay, entry, Some(*id), None, message);
        let before = chains.last().and_then(|chain| chain.last()).copied();
        let (Some(before), true) = (before, relayed) else {
            if pass.relay.waits.is_some() {
                say(format!(
                    "pass `{}` waits in its own code, but no relay is before it",
                    pass.path
                ));
            }
            chains.push(vec![*id]);
            continue;
        };
        let starts = chains.last().is_some_and(|chain| chain.len() == 1);
        let first = at.checked_sub(3).and_then(|at| steps.get(at));
        if starts && !matches!(first, Some(Step::Barrier(Barrier::Memory | Barrier::Guard))) {
            say(format!(
                "a chain starts with pass `{}`, but not behind a barrier that shows what the last one left in its cells",
                entry.passes[before].path
            ));
        }
        let earlier = &entry.passes[before];
        let both = format!("passes `{}` and `{}`", earlier.path, pass.path);
        let alone_before =
            at >= 3 && matches!(steps[at - 3], Step::Barrier(barrier) if barrier != Barrier::Host);
        let alone_after = !matches!(steps.get(at + 1), Some(Step::Dispatch(_)));
        if !alone_before || !alone_after || steps[at - 2] != Step::Dispatch(before) {
            say(format!(
                "{both} have a relay between them, but are not alone in their waves"
            ));
        }
        if earlier.guarded != pass.guarded {
            say(format!(
                "{both} have a relay between them, but only one is guarded"
            ));
        }
        let [x, y, z] = earlier.groups.map(u64::from);
        let groups = x.saturating_mul(y).saturating_mul(z);
        let waits = pass.relay.waits;
        let waits = waits.map(|(cell, count)| (cell, u64::from(count)));
        if waits.is_none() || waits != earlier.relay.signals.map(|cell| (cell, groups)) {
            say(format!(
                "pass `{}` waits for {waits:?}, but the {groups} workgroups of pass `{}` signal {:?}",
                pass.path, earlier.path, earlier.relay.signals
            ));
        }
        if let Some(chain) = chains.last_mut() {
            early(plan, entry, chain, *id, found);
            chain.push(*id);
        }
    }
    chains
}

/// What a pass reads before it waits no earlier pass of its chain writes.
fn early(plan: &Plan, entry: &Entry, chain: &[PassId], id: PassId, found: &mut Found) {
    let pass = &entry.passes[id];
    let bindings = plan.kernels[pass.kernel].relays.as_deref();
    for read in &pass.binds {
        if !bindings.unwrap_or_default().contains(&read.binding) {
            continue;
        }
        let tensor = &entry.tensors[read.tensor];
        for earlier in chain.iter().map(|id| &entry.passes[*id]) {
            if writes(entry, earlier, tensor) {
                let message = format!(
                    "pass `{}` reads `{}` before it waits, but pass `{}` of its chain writes there",
                    pass.path, tensor.name, earlier.path
                );
                found.add(Rule::Relay, entry, Some(id), Some(read.tensor), message);
            }
        }
    }
}

fn writes(entry: &Entry, pass: &PassInfo, tensor: &crate::plan::Tensor) -> bool {
    let mut written = pass.binds.iter().filter(|bind| bind.access.writes());
    written.any(|bind| {
        let to = &entry.tensors[bind.tensor];
        let meets = |parity| {
            let (a, b) = (to.range(parity), tensor.range(parity));
            a.start < b.end && b.start < a.end
        };
        to.arena == tensor.arena && (meets(0) || meets(1))
    })
}

/// Whether a barrier that shows memory stands in front of a pass, so that what an earlier round left in cells is behind it.
fn starts_behind_memory(entry: &Entry, id: PassId) -> bool {
    let at = entry
        .steps
        .iter()
        .position(|step| *step == Step::Dispatch(id));
    let before = at.and_then(|at| entry.steps.get(at.checked_sub(1)?));
    matches!(
        before,
        Some(Step::Barrier(Barrier::Memory | Barrier::Guard))
    )
}

/// Every cell is added to by one pass of all entries, and cleared once, when nobody waits for it. That it is there and that
/// the kernel relays is shape ([`Plan::validate`]).
fn cells(
    (index, entry): (usize, &Entry),
    chains: &[Vec<PassId>],
    signalled: &mut BTreeMap<u32, (usize, PassId)>,
    found: &mut Found,
) {
    let mut places: BTreeMap<u32, Place> = BTreeMap::new();
    let mut cleared: BTreeMap<u32, PassId> = BTreeMap::new();
    let each = || {
        chains.iter().enumerate().flat_map(|(number, chain)| {
            let passes = chain.iter().enumerate();
            passes.map(move |(place, id)| ((number, place), chain.len(), *id))
        })
    };
    for (place, length, id) in each() {
        let pass = &entry.passes[id];
        let relay = &pass.relay;
        let mut say = |message: String| found.add(Rule::Relay, entry, Some(id), None, message);
        if let Some(cell) = relay.signals {
            if place.1 + 1 == length {
                say(format!(
                    "pass `{}` signals cell {cell}, for which nobody waits",
                    pass.path
                ));
            }
            if signalled.insert(cell, (index, id)).is_some() {
                say(format!("two passes signal cell {cell}"));
            }
            places.insert(cell, place);
        }
    }
    for (place, _, id) in each() {
        let Some(cell) = entry.passes[id].relay.clears else {
            continue;
        };
        let mut say = |message: String| found.add(Rule::Relay, entry, Some(id), None, message);
        let path = &entry.passes[id].path;
        let pass_guarded = entry.passes[id].guarded;
        // The pass behind the one that signals waits; the one behind that runs when all have waited. A pass between barriers
        // in front of the chain runs when the chain of the last time is done, and before anybody of this one looks.
        let fits = places.get(&cell).is_some_and(|signal| {
            let behind = signal.0 == place.0 && place.1 >= signal.1 + 2;
            let prepares = place.0 < signal.0
                && starts_behind_memory(entry, id)
                && chains[signal.0]
                    .iter()
                    .all(|other| entry.passes[*other].guarded == pass_guarded);
            behind || prepares
        });
        if !fits {
            say(format!(
                "pass `{path}` clears cell {cell}, which may still be in use or is of another chain"
            ));
        }
        if cleared.insert(cell, id).is_some() {
            say(format!("two passes clear cell {cell}"));
        }
    }
    for (cell, (chain, place)) in places {
        if !cleared.contains_key(&cell) {
            let id = chains[chain][place];
            let message = format!(
                "nobody clears cell {cell}, which pass `{}` signals",
                entry.passes[id].path
            );
            found.add(Rule::Relay, entry, Some(id), None, message);
        }
    }
}
