//! Part 3 of the proof: what each byte holds. Three submits, each with two rounds if it has several, are simulated with a note on every byte that says for
//! which tensor it was last written; a read must find its own tensor on every byte.

use std::collections::BTreeMap;

use super::bytes::Bytes;
use super::{Found, Rule, describe, root};
use crate::ids::{IdVec, PassId, TensorId};
use crate::plan::{ArenaKind, Entry, Plan, Role, Step};

pub(super) fn check(plan: &Plan, entry: &Entry, found: &mut Found) {
    let mut memory = Memory {
        plan,
        entry,
        same: identities(entry),
        holds: Bytes::default(),
    };
    memory.load();
    for submit in 0..3 {
        memory.begin(submit, found);
        // A second round meets what the first one left; a third would meet the same.
        for round in 0..entry.repeat.min(2) {
            if round > 0 {
                memory.forget(&[ArenaKind::Transient, ArenaKind::Output]);
            }
            for step in &entry.steps {
                if let Step::Dispatch(pass) = step {
                    memory.run(*pass, submit % 2, found);
                }
            }
            memory.end(submit % 2, found);
        }
    }
}

/// Two tensors of one role, name and place are one: a weight that two passes name, for example.
fn identities(entry: &Entry) -> IdVec<TensorId, TensorId> {
    let mut first = BTreeMap::new();
    let ids = entry.tensors.ids().map(|id| {
        let id = root(entry, id);
        let tensor = &entry.tensors[id];
        match tensor.role {
            Role::Weight | Role::State | Role::Input | Role::Carry => *first
                .entry((
                    tensor.role,
                    &tensor.name,
                    tensor.arena,
                    tensor.offset,
                    tensor.bytes,
                ))
                .or_insert(id),
            _ => id,
        }
    });
    ids.collect()
}

struct Memory<'a> {
    plan: &'a Plan,
    entry: &'a Entry,
    same: IdVec<TensorId, TensorId>,
    holds: Bytes<TensorId>,
}

impl Memory<'_> {
    fn of(&self, roles: &[Role]) -> Vec<TensorId> {
        let tensors = self.entry.tensors.enumerate();
        tensors
            .filter(|(_, tensor)| roles.contains(&tensor.role))
            .map(|(id, _)| id)
            .collect()
    }

    fn put(&mut self, id: TensorId, parity: u64) {
        let tensor = &self.entry.tensors[id];
        self.holds
            .set(tensor.arena, &tensor.range(parity), self.same[id]);
    }

    fn forget(&mut self, kinds: &[ArenaKind]) {
        for (arena, _) in self
            .plan
            .arenas
            .enumerate()
            .filter(|(_, arena)| kinds.contains(&arena.kind))
        {
            self.holds.forget(arena);
        }
    }

    /// What is there before the first submit: weights, and zeros in state, scratch and the carries' first slot.
    fn load(&mut self) {
        for id in self.of(&[Role::Weight, Role::State, Role::Scratch, Role::Carry]) {
            self.put(id, 0);
        }
    }

    /// The host writes inputs, last submit's next values become carries, and nothing else may be counted on.
    fn begin(&mut self, submit: u64, found: &mut Found) {
        let parity = submit % 2;
        self.forget(&[ArenaKind::Transient, ArenaKind::Input, ArenaKind::Output]);
        for id in self.of(&[Role::Input]) {
            self.put(id, parity);
        }
        if submit == 0 {
            return;
        }
        let mut carries = self.of(&[Role::Carry]);
        carries.retain(|id| self.same[*id] == *id);
        let mut next: Vec<TensorId> = self.of(&[Role::CarryNext]);
        for id in carries {
            let carry = &self.entry.tensors[id];
            let place = (carry.arena, carry.offset, carry.bytes, carry.dtype);
            let found_at = next.iter().position(|next| {
                let next = &self.entry.tensors[*next];
                (next.arena, next.offset, next.bytes, next.dtype) == place
                    && next.range(1 - parity) == carry.range(parity)
            });
            match found_at {
                Some(at) => {
                    let handed_on = next.swap_remove(at);
                    let range = carry.range(parity);
                    if self.holds.covers(carry.arena, &range)
                        && self
                            .holds
                            .pieces(carry.arena, &range)
                            .all(|(_, holds)| holds == handed_on)
                    {
                        self.put(id, parity);
                    }
                }
                None => {
                    let message = format!(
                        "no pass writes the next value of carry `{}` into its other slot",
                        carry.name
                    );
                    found.add(Rule::Contents, self.entry, None, Some(id), message);
                }
            }
        }
    }

    fn run(&mut self, pass: PassId, parity: u64, found: &mut Found) {
        let info = &self.entry.passes[pass];
        for bind in info.binds.iter().filter(|bind| bind.access.reads()) {
            self.read(pass, bind.tensor, parity, found);
        }
        for bind in info.binds.iter().filter(|bind| bind.access.writes()) {
            let tensor = &self.entry.tensors[bind.tensor];
            let target = &self.entry.tensors[root(self.entry, bind.tensor)];
            if matches!(target.role, Role::Weight | Role::Input | Role::Carry) {
                let message = format!(
                    "pass `{}` writes {}, which passes may only read",
                    info.path,
                    describe(target)
                );
                found.add(
                    Rule::Contents,
                    self.entry,
                    Some(pass),
                    Some(bind.tensor),
                    message,
                );
            }
            self.holds
                .set(tensor.arena, &tensor.range(parity), self.same[bind.tensor]);
        }
    }

    fn read(&self, pass: PassId, id: TensorId, parity: u64, found: &mut Found) {
        let (info, tensor) = (&self.entry.passes[pass], &self.entry.tensors[id]);
        let (range, wanted) = (tensor.range(parity), self.same[id]);
        let other = self
            .holds
            .pieces(tensor.arena, &range)
            .find(|(_, holds)| *holds != wanted);
        let message = match other {
            Some((piece, holds)) => format!(
                "pass `{}` reads `{}`, but bytes {piece:?} of arena {} hold {}",
                info.path,
                tensor.name,
                tensor.arena.0,
                describe(&self.entry.tensors[holds])
            ),
            None if self.holds.covers(tensor.arena, &range) => return,
            None => format!(
                "pass `{}` reads `{}`, but nothing wrote all of bytes {range:?} of arena {} before",
                info.path, tensor.name, tensor.arena.0
            ),
        };
        found.add(Rule::Contents, self.entry, Some(pass), Some(id), message);
    }

    /// What the host or the next submit reads must be there, whole.
    fn end(&self, parity: u64, found: &mut Found) {
        let outputs = self.entry.outputs.iter().map(|id| root(self.entry, *id));
        for id in outputs.chain(self.of(&[Role::CarryNext])) {
            let tensor = &self.entry.tensors[id];
            let range = tensor.range(parity);
            let own = |(_, holds)| holds == self.same[id];
            if !self.holds.covers(tensor.arena, &range)
                || !self.holds.pieces(tensor.arena, &range).all(own)
            {
                let message = format!("{} is not whole when the entry ends", describe(tensor));
                found.add(Rule::Contents, self.entry, None, Some(id), message);
            }
        }
    }
}
