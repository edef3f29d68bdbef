//! Part 4 of the proof: barriers. Accesses that no barrier has settled are kept by byte range; every new access is
//! compared with them. A barrier for guards settles everything; a memory barrier all but what guards were asked, and
//! an execution barrier reads only, since it makes no write visible. A cut settles nothing here, which asks for more than Vulkan does.
//! A relay settles for its chain alone, whose passes wait one for the other: a pass of the next wave that does not wait in its
//! own code meets all of the chain, unless a barrier stands between.
//!
//! What an entry leaves unsettled is handed to every entry, itself included, with the other parity, and to its own next
//! round with the same parity if it runs several, until no byte is added: then every sequence has been covered.

use std::ops::Range;

use super::bytes::Bytes;
use super::{Found, Rule};
use crate::ids::{ArenaId, PassId};
use crate::plan::{Barrier, Entry, PassInfo, Plan, Step};

/// Who accessed, for messages: entry and pass.
type Who = (usize, PassId);

#[derive(Clone, Default)]
struct Unsettled {
    writes: Bytes<Who>,
    reads: Bytes<Who>,
    /// What a relay has settled for the passes of its chain, and for nobody else.
    relayed_writes: Bytes<Who>,
    relayed_reads: Bytes<Who>,
    /// Writes to guards since the last barrier for guards, and decisions by them.
    guards: Bytes<Who>,
    decisions: Bytes<Who>,
}

impl Unsettled {
    /// Adds what `other` has; whether any byte is new.
    fn add(&mut self, other: &Self) -> bool {
        let mut new = false;
        for (mine, theirs) in [
            (&mut self.writes, &other.writes),
            (&mut self.reads, &other.reads),
            (&mut self.relayed_writes, &other.relayed_writes),
            (&mut self.relayed_reads, &other.relayed_reads),
            (&mut self.guards, &other.guards),
            (&mut self.decisions, &other.decisions),
        ] {
            for (arena, range, who) in theirs.all() {
                if !mine.covers(arena, &range) {
                    mine.set(arena, &range, who);
                    new = true;
                }
            }
        }
        new
    }

    fn settle(&mut self, barrier: Barrier) {
        match barrier {
            Barrier::Guard => *self = Self::default(),
            Barrier::Memory => {
                self.writes = Bytes::default();
                self.reads = Bytes::default();
                self.relayed_writes = Bytes::default();
                self.relayed_reads = Bytes::default();
            }
            Barrier::Execution => {
                self.reads = Bytes::default();
                self.relayed_reads = Bytes::default();
            }
            // That the passes on both sides do keep to it is shown by `relay`.
            Barrier::Relay => {
                self.relayed_writes.take(&mut self.writes);
                self.relayed_reads.take(&mut self.reads);
            }
            // Its second half is the host: later passes do not wait for it.
            Barrier::Host => {}
        }
    }
}

/// Whether some entry's guard lies in that range.
fn is_guard(plan: &Plan, arena: ArenaId, range: &Range<u64>) -> bool {
    plan.entries.iter().any(|entry| {
        let guard = entry.guard.map(|guard| &entry.tensors[guard]);
        guard.is_some_and(|guard| {
            let place = guard.range(0);
            guard.arena == arena && place.start < range.end && range.start < place.end
        })
    })
}

/// A guarded pass reads the guard, before it runs and elsewhere than shaders do: only a barrier for guards shows it there.
fn decide(plan: &Plan, who: Who, unsettled: &mut Unsettled, found: &mut Found) {
    let entry = &plan.entries[who.0];
    let info = &entry.passes[who.1];
    let Some(guard) = entry.guard.filter(|_| info.guarded) else {
        return;
    };
    let tensor = &entry.tensors[guard];
    let range = tensor.range(0);
    if let Some((_, by)) = unsettled.guards.pieces(tensor.arena, &range).next() {
        let message = format!(
            "`{}` decides whether pass `{}` runs, but no barrier for guards follows pass `{}`, which wrote it",
            tensor.name, info.path, plan.entries[by.0].passes[by.1].path
        );
        found.add(Rule::Order, entry, Some(who.1), Some(guard), message);
    }
    unsettled.decisions.set(tensor.arena, &range, who);
}

pub(super) fn check(plan: &Plan, found: &mut Found) {
    for entry in &plan.entries {
        for (pass, info) in entry.passes.enumerate() {
            alone(entry, pass, info, found);
        }
    }
    let mut before = [Unsettled::default(), Unsettled::default()];
    let mut rounds = vec![before.clone(); plan.entries.len()];
    loop {
        let mut new = false;
        for (index, rounds) in rounds.iter_mut().enumerate() {
            for (parity, round) in rounds.iter_mut().enumerate() {
                let mut start = before[parity].clone();
                start.add(round);
                let left = run(plan, index, parity as u64, start, found);
                if plan.entries[index].repeat > 1 {
                    new |= round.add(&left);
                }
                new |= before[1 - parity].add(&left);
            }
        }
        if !new {
            return;
        }
    }
}

/// The bindings of one pass conflict only where its kernel says that one takes over the bytes of another.
fn alone(entry: &Entry, pass: PassId, info: &PassInfo, found: &mut Found) {
    for parity in 0..2 {
        for (index, one) in info.binds.iter().enumerate() {
            for other in &info.binds[..index] {
                let (a, b) = (&entry.tensors[one.tensor], &entry.tensors[other.tensor]);
                let (ra, rb) = (a.range(parity), b.range(parity));
                let meet = a.arena == b.arena && ra.start < rb.end && rb.start < ra.end;
                let writes = one.access.writes() || other.access.writes();
                let taken_over =
                    one.in_place == Some(other.binding) || other.in_place == Some(one.binding);
                if meet && writes && !(taken_over && ra == rb) {
                    let message = format!(
                        "pass `{}` binds `{}` and `{}` to common bytes and writes one of them",
                        info.path, a.name, b.name
                    );
                    found.add(Rule::Order, entry, Some(pass), Some(one.tensor), message);
                }
            }
        }
    }
}

fn run(
    plan: &Plan,
    index: usize,
    parity: u64,
    mut unsettled: Unsettled,
    found: &mut Found,
) -> Unsettled {
    let entry = &plan.entries[index];
    let mut in_chain = false;
    for step in &entry.steps {
        match step {
            Step::Cut => in_chain = false,
            Step::Barrier(barrier) => {
                unsettled.settle(*barrier);
                in_chain = *barrier == Barrier::Relay;
            }
            Step::Dispatch(pass) => {
                let who = (index, *pass);
                dispatch(plan, who, parity, in_chain, &mut unsettled, found);
            }
        }
    }
    unsettled
}

fn dispatch(
    plan: &Plan,
    who: Who,
    parity: u64,
    in_chain: bool,
    unsettled: &mut Unsettled,
    found: &mut Found,
) {
    let entry = &plan.entries[who.0];
    let info = &entry.passes[who.1];
    decide(plan, who, unsettled, found);
    for bind in &info.binds {
        let tensor = &entry.tensors[bind.tensor];
        let range = tensor.range(parity);
        let first = |of: &Bytes<Who>, did| {
            let (piece, by) = of.pieces(tensor.arena, &range).next()?;
            Some((piece, by, did))
        };
        let relayed = |of, did| (!in_chain).then(|| first(of, did)).flatten();
        let before_writing = || {
            first(&unsettled.reads, "reads")
                .or_else(|| relayed(&unsettled.relayed_reads, "reads"))
                .or_else(|| first(&unsettled.decisions, "may be left out, as is decided by"))
        };
        let conflict = first(&unsettled.writes, "wrote")
            .or_else(|| relayed(&unsettled.relayed_writes, "wrote"))
            .or_else(|| bind.access.writes().then(before_writing).flatten());
        if let Some((piece, by, did)) = conflict {
            let earlier = &plan.entries[by.0];
            let submit = if by.0 == who.0 {
                String::new()
            } else {
                format!(" of entry `{}`", earlier.name)
            };
            let does = if bind.access.writes() {
                "writes"
            } else {
                "reads"
            };
            let message = format!(
                "pass `{}` {does} `{}`, but no sufficient barrier follows pass `{}`{submit}, which {did} bytes {piece:?} of \
                 arena {}",
                info.path, tensor.name, earlier.passes[by.1].path, tensor.arena.0
            );
            found.add(Rule::Order, entry, Some(who.1), Some(bind.tensor), message);
        }
    }
    for bind in &info.binds {
        let tensor = &entry.tensors[bind.tensor];
        let range = tensor.range(parity);
        if bind.access.writes() {
            unsettled.writes.set(tensor.arena, &range, who);
            if is_guard(plan, tensor.arena, &range) {
                unsettled.guards.set(tensor.arena, &range, who);
            }
        }
        if bind.access.reads() {
            unsettled.reads.set(tensor.arena, &range, who);
        }
    }
}
