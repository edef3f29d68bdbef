//! Part 5 of the proof: memory that entries share. What has a name in common has its bytes in common; what has not,
//! has none. Host memory of one parity is never touched by the other, because the host writes the inputs of submit
//! k + 1 and reads the outputs of submit k - 1 while submit k runs.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::bytes::Bytes;
use super::{Found, Rule, describe, root};
use crate::ids::{ArenaId, TensorId};
use crate::plan::{Entry, Plan, Role, Tensor};

pub(super) fn check(plan: &Plan, found: &mut Found) {
    weights(plan, found);
    by_name(plan, Role::State, found);
    by_name(plan, Role::Carry, found);
    scratch(plan, found);
    for role in [Role::Input, Role::Output] {
        host_slots(plan, role, found);
    }
    carries_everywhere(plan, found);
}

fn of(entry: &Entry, role: Role) -> impl Iterator<Item = &Tensor> {
    entry
        .tensors
        .iter()
        .filter(move |tensor| tensor.role == role)
}

fn say(found: &mut Found, entry: &Entry, tensor: &Tensor, message: String) {
    let id = entry
        .tensors
        .enumerate()
        .find(|(_, other)| std::ptr::eq(*other, tensor))
        .map(|(id, _)| id);
    found.add(Rule::Sharing, entry, None, id, message);
}

/// Both slots of a tensor's place.
fn ranges(tensor: &Tensor) -> [(ArenaId, Range<u64>); 2] {
    [0, 1].map(|parity| (tensor.arena, tensor.range(parity)))
}

fn weights(plan: &Plan, found: &mut Found) {
    let mut taken: Bytes<usize> = Bytes::default();
    let mut by_name = BTreeMap::new();
    let Some(any) = plan.entries.first() else {
        return;
    };
    for (index, weight) in plan.weights.iter().enumerate() {
        let bytes = weight.dtype.size_of(&weight.shape).unwrap_or(u64::MAX);
        let range = weight.offset..weight.offset.saturating_add(bytes);
        if let Some((_, other)) = taken.pieces(weight.arena, &range).next() {
            let message = format!(
                "weights `{}` and `{}` have bytes in common",
                plan.weights[other].name, weight.name
            );
            found.add(Rule::Sharing, any, None, None, message);
        }
        taken.set(weight.arena, &range, index);
        if by_name.insert(&weight.name, weight).is_some() {
            found.add(
                Rule::Sharing,
                any,
                None,
                None,
                format!("weight `{}` is listed twice", weight.name),
            );
        }
    }
    for entry in &plan.entries {
        for tensor in of(entry, Role::Weight) {
            let listed = by_name.get(&tensor.name).is_some_and(|weight| {
                (weight.arena, weight.offset, weight.dtype, &weight.shape)
                    == (tensor.arena, tensor.offset, tensor.dtype, &tensor.shape)
            });
            if !listed {
                let message = format!(
                    "{} is not where the weights of the plan put it",
                    describe(tensor)
                );
                say(found, entry, tensor, message);
            }
        }
    }
}

/// State and carries: one name, one place; two names, no byte in common.
fn by_name(plan: &Plan, role: Role, found: &mut Found) {
    let mut first: BTreeMap<&str, &Tensor> = BTreeMap::new();
    let mut taken: Bytes<&str> = Bytes::default();
    for entry in &plan.entries {
        for tensor in of(entry, role) {
            match first.get(tensor.name.as_str()) {
                Some(other) if *other == tensor => continue,
                Some(_) => {
                    say(
                        found,
                        entry,
                        tensor,
                        format!("{} lies elsewhere in another entry", describe(tensor)),
                    );
                }
                None => {
                    first.insert(&tensor.name, tensor);
                }
            }
            for (arena, range) in ranges(tensor) {
                let other = taken
                    .pieces(arena, &range)
                    .map(|(_, name)| name)
                    .find(|name| *name != tensor.name);
                if let Some(other) = other {
                    say(
                        found,
                        entry,
                        tensor,
                        format!("{} has bytes in common with `{other}`", describe(tensor)),
                    );
                }
                taken.set(arena, &range, tensor.name.as_str());
            }
        }
    }
}

/// Scratch is zero between passes, so entries may share it with each other, but not with state.
fn scratch(plan: &Plan, found: &mut Found) {
    let mut state: Bytes<()> = Bytes::default();
    for tensor in plan.entries.iter().flat_map(|entry| of(entry, Role::State)) {
        state.set(tensor.arena, &tensor.range(0), ());
    }
    for entry in &plan.entries {
        for tensor in of(entry, Role::Scratch) {
            if state
                .pieces(tensor.arena, &tensor.range(0))
                .next()
                .is_some()
            {
                say(
                    found,
                    entry,
                    tensor,
                    format!("{} has bytes in common with state", describe(tensor)),
                );
            }
        }
    }
}

/// Inputs or outputs: disjoint inside an entry and parity, and disjoint from every entry's other parity.
fn host_slots(plan: &Plan, role: Role, found: &mut Found) {
    let mut slots: [Bytes<()>; 2] = [Bytes::default(), Bytes::default()];
    for entry in &plan.entries {
        let mut own: Bytes<&str> = Bytes::default();
        // What leads to an output may lie where it lies; the host sees inputs and outputs.
        let seen: BTreeSet<TensorId> = entry
            .inputs
            .iter()
            .chain(&entry.outputs)
            .map(|id| root(entry, *id))
            .collect();
        let of_host = entry.tensors.enumerate();
        let of_host = of_host.filter(|(id, tensor)| tensor.role == role && seen.contains(id));
        for (_, tensor) in of_host {
            let other = own
                .pieces(tensor.arena, &tensor.range(0))
                .map(|(_, name)| name)
                .find(|name| *name != tensor.name);
            if let Some(other) = other {
                say(
                    found,
                    entry,
                    tensor,
                    format!("{} has bytes in common with `{other}`", describe(tensor)),
                );
            }
            own.set(tensor.arena, &tensor.range(0), tensor.name.as_str());
        }
        for tensor in of(entry, role) {
            for (slot, (arena, range)) in slots.iter_mut().zip(ranges(tensor)) {
                slot.set(arena, &range, ());
            }
        }
    }
    for entry in &plan.entries {
        for tensor in of(entry, role) {
            let meets = |parity: usize| {
                slots[1 - parity]
                    .pieces(tensor.arena, &tensor.range(parity as u64))
                    .next()
                    .is_some()
            };
            if meets(0) || meets(1) {
                let message = format!(
                    "{} for one parity has bytes that the host touches for the other",
                    describe(tensor)
                );
                say(found, entry, tensor, message);
            }
        }
    }
}

/// The slots of all carries swap with every submit, so every entry must hand on all of them.
fn carries_everywhere(plan: &Plan, found: &mut Found) {
    let names = |entry| {
        of(entry, Role::Carry)
            .map(|tensor| tensor.name.as_str())
            .collect::<std::collections::BTreeSet<_>>()
    };
    let all: std::collections::BTreeSet<&str> = plan.entries.iter().flat_map(names).collect();
    for entry in &plan.entries {
        let own = names(entry);
        for name in all.difference(&own) {
            found.add(
                Rule::Sharing,
                entry,
                None,
                None,
                format!("the carry `{name}` of another entry is not handed on"),
            );
        }
    }
}
