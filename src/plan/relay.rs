//! Chains of passes that wait for each other in their own code, instead of for a barrier of the device.
//!
//! In: the steps and passes of a lowered entry. Out: the same with [`Barrier::Relay`] where the device need not be told,
//! and what each pass does with the cells. Always: a chain starts behind a barrier of the device that shows
//! what was written before it, each of its waves is one
//! pass of a kernel that relays, all of them guarded or none, and it has [`SHORTEST`] passes or more. It ends in front of
//! a barrier of the device that shows what it wrote, in the same round: a relay orders the passes of its chain alone, and
//! what comes behind would meet all of them.
//!
//! A pass of a chain waits for all workgroups of the pass before it. One of those at least waited for all of the one before
//! that, so whatever came earlier is done; workgroups that touch nothing need not wait. Before it waits it reads what no earlier pass of the chain writes, weights above all
//! ([`Kernel::relays`]).
//!
//! A cell counts the workgroups of one pass that are done. It is zero again before that pass comes back: the pass after
//! the next clears it, as all who waited for it are done then. Nobody comes after the next of the last cell. The pass that
//! prepares the chain clears that, the next time; the chain's first pass could not, as small passes all start at once, and
//! the last one might look before the first one has cleared.

use crate::ids::{IdVec, KernelId, PassId};

use crate::kernel::RELAY_WORDS;

use super::lower::Lowered;
use super::{Barrier, Entry, Kernel, PassInfo, Relay, Step};

/// The binding number of the cells in modules that relay.
pub use crate::kernel::RELAY_BINDING as BINDING;

/// Where no cell is meant.
pub const NO_CELL: u32 = u32::MAX;

/// Passes of the shortest chain, with the one that prepares it.
pub const SHORTEST: usize = 3;

impl Relay {
    /// Its push constants.
    pub fn words(&self) -> [u32; RELAY_WORDS] {
        let (cell, count) = self.waits.unwrap_or((NO_CELL, 0));
        let other = |cell: Option<u32>| cell.unwrap_or(NO_CELL);
        [cell, count, other(self.signals), other(self.clears)]
    }
}

/// The most bytes that cells can take, with what was chosen for the passes of all entries.
pub fn most_bytes(kernels: &IdVec<KernelId, Kernel>, entries: &[IdVec<PassId, Lowered>]) -> u64 {
    let relays = |lowered: &&Lowered| kernels[lowered.kernel].relays.is_some();
    4 * entries.iter().flatten().filter(relays).count() as u64
}

/// Makes chains of the longest runs of passes that can be one. Cells are numbered from `first` on; returns the first that
/// is left.
pub(super) fn chain(entry: &mut Entry, kernels: &IdVec<KernelId, Kernel>, first: u32) -> u32 {
    let mut next = first;
    let mut at = 0;
    while at < entry.steps.len() {
        let run = run_from(entry, kernels, at);
        if run.len() >= SHORTEST {
            link(&mut entry.steps, &mut entry.passes, &run, next);
            let relays = run.len() as u32 - 2;
            entry.stats.barriers -= u64::from(relays);
            entry.stats.relays += u64::from(relays);
            next += relays;
        }
        at = run.last().map_or(at, |last| *last) + 1;
    }
    next
}

/// Where the dispatch that prepares a chain and those of the chain stand, the first of which follows a barrier at `at`.
fn run_from(entry: &Entry, kernels: &IdVec<KernelId, Kernel>, at: usize) -> Vec<usize> {
    let mut run: Vec<usize> = Vec::new();
    let mut passes: Vec<&PassInfo> = Vec::new();
    let mut at = at;
    loop {
        let can_stand = match entry.steps.get(at) {
            Some(Step::Barrier(Barrier::Memory | Barrier::Execution)) => true,
            Some(Step::Barrier(Barrier::Guard)) => run.is_empty(),
            _ => false,
        };
        let (Some(Step::Dispatch(pass)), true) = (entry.steps.get(at + 1), can_stand) else {
            return run;
        };
        // The pass is alone in its wave, and something settles what the chain leaves.
        let settled = matches!(
            entry.steps.get(at + 2),
            Some(Step::Barrier(
                Barrier::Memory | Barrier::Execution | Barrier::Guard
            ))
        );
        let pass = &entry.passes[*pass];
        let early = kernels[pass.kernel].relays.as_ref();
        let fits = early.is_some_and(|early| {
            passes.iter().all(|before| {
                before.guarded == pass.guarded && !writes_to(entry, before, pass, early)
            })
        });
        if !settled || !fits {
            return run;
        }
        run.push(at + 1);
        passes.push(pass);
        at += 2;
    }
}

/// Whether `writer` writes bytes that `reader` reads through one of `bindings`.
fn writes_to(entry: &Entry, writer: &PassInfo, reader: &PassInfo, bindings: &[u32]) -> bool {
    let early = reader.binds.iter();
    let mut early = early.filter(|bind| bindings.contains(&bind.binding));
    early.any(|read| {
        let read = &entry.tensors[read.tensor];
        writer.binds.iter().any(|written| {
            let to = &entry.tensors[written.tensor];
            let meet = (0..2).any(|parity| {
                let (a, b) = (read.range(parity), to.range(parity));
                a.start < b.end && b.start < a.end
            });
            written.access.writes() && to.arena == read.arena && meet
        })
    })
}

/// Makes a chain of the dispatches that stand at `run`, behind the first one, which prepares it.
fn link(steps: &mut [Step], passes: &mut IdVec<PassId, PassInfo>, run: &[usize], first: u32) {
    let Some((in_front, chain)) = run.split_first() else {
        return;
    };
    let last = chain.len() as u32 - 1;
    if let Step::Dispatch(pass) = steps[*in_front] {
        passes[pass].relay.clears = Some(first + last - 1);
    }
    // What the chain of the last time left in the cells must be seen, and what was cleared; and behind the chain what its
    // passes wrote, which relays have shown to none but them.
    let ends = run.iter().take(2).map(|at| at - 1);
    for at in ends.chain(run.last().map(|at| at + 1)) {
        if steps[at] == Step::Barrier(Barrier::Execution) {
            steps[at] = Step::Barrier(Barrier::Memory);
        }
    }
    let mut before = None;
    for (place, at) in (0u32..).zip(chain) {
        let Step::Dispatch(pass) = steps[*at] else {
            continue;
        };
        if place > 0 {
            steps[*at - 1] = Step::Barrier(Barrier::Relay);
        }
        passes[pass].relay = Relay {
            waits: before.map(|groups| (first + place - 1, groups)),
            signals: (place < last).then_some(first + place),
            clears: place.checked_sub(2).map(|cell| first + cell),
        };
        before = Some(groups(&passes[pass]));
    }
}

/// Workgroups of a pass.
pub(super) fn groups(pass: &PassInfo) -> u32 {
    let [x, y, z] = pass.groups;
    x.saturating_mul(y).saturating_mul(z)
}
