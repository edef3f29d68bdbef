//! Stage 8: barriers.
//!
//! In: entries with schedules and places. Out: a [`Sync`]. Always: between two accesses to overlapping bytes of an
//! arena, at least one of them a write, there is a barrier, also when they belong to different submits of any two
//! entries; there is at most one barrier before each wave; no barrier stands where nothing needs one.
//!
//! Hazards are byte ranges in arenas, never names: two tensors that share bytes conflict, two halves of one do not.
//! A barrier separates all compute work before it from all after it. A [`Barrier::Memory`] makes earlier writes
//! visible; a [`Barrier::Execution`] only ends earlier reads, which is all that a write after a read needs; a
//! [`Barrier::Guard`] also stands between writing a guard and deciding by it, both ways.
//!
//! A recording is replayed, so its end meets a beginning: what is still pending when an entry ends is carried into
//! every entry that may come next, with the parity turned, and into the next round of the same submit, with the parity as
//! it is, until nothing changes (a forward data-flow analysis with union as its meet; Kildall 1973). Barriers reach
//! earlier submits of the same queue, because their first scope is submission order.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::graph::Graph;
use crate::ids::{ArenaId, IdVec, PassId, ValueId, WaveId};
use crate::kernel::Access;

use super::Barrier;
use super::guard::Guard;
use super::pack::{EntryPlaces, Placement};
use super::schedule::Schedule;

/// What a barrier is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HazardKind {
    /// A read of what an earlier pass wrote.
    ReadAfterWrite,
    /// A write over what an earlier pass reads.
    WriteAfterRead,
    /// A write over what an earlier pass wrote.
    WriteAfterWrite,
    /// A pass that a guard decides about, after the guard was written.
    DecisionAfterWrite,
    /// A write over a guard that decided about an earlier pass.
    WriteAfterDecision,
}

/// One access of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch {
    /// The entry, by its position.
    pub entry: usize,
    /// The pass.
    pub pass: PassId,
    /// The value.
    pub value: ValueId,
}

/// The first conflict that made a barrier necessary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hazard {
    /// What kind.
    pub kind: HazardKind,
    /// The access before the barrier (of an earlier submit if the barrier stands before wave 0).
    pub earlier: Touch,
    /// The access after it.
    pub later: Touch,
    /// The arena.
    pub arena: ArenaId,
    /// The bytes of the later access.
    pub bytes: Range<u64>,
}

/// The barriers of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntrySync {
    /// What stands before each wave, with its reason.
    pub before: IdVec<WaveId, Option<(Barrier, Hazard)>>,
    /// Whether the host reads something at the end.
    pub host: bool,
}

/// The barriers of all entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sync {
    entries: Vec<EntrySync>,
}

impl Sync {
    /// One item per entry, in the order given to [`sync`].
    pub fn entries(&self) -> &[EntrySync] {
        &self.entries
    }
}

/// Finds the barriers of all entries.
pub fn sync(
    entries: &[(&Graph, &Schedule)],
    guards: &[Option<Guard>],
    placement: &Placement,
) -> Sync {
    let walks: Vec<Walk> = entries
        .iter()
        .zip(placement.entries().iter().zip(guards))
        .enumerate()
        .map(|(entry, ((graph, schedule), (places, guard)))| Walk {
            entry,
            graph,
            schedule,
            places,
            guard: guard.as_ref(),
        })
        .collect();
    let mut found: Vec<EntrySync> = entries
        .iter()
        .map(|(graph, schedule)| EntrySync {
            before: schedule.waves().iter().map(|_| None).collect(),
            host: !graph.outputs.is_empty(),
        })
        .collect();
    for (walk, found) in walks.iter().zip(&mut found) {
        walk.strengthen(Both::default(), found);
    }
    let inside = found.clone();
    close_loop(&walks, &mut found);
    let unsettled = |sync: &EntrySync| {
        !sync
            .before
            .iter()
            .flatten()
            .any(|(barrier, _)| settles(*barrier, Barrier::Memory))
    };
    if inside.iter().any(unsettled) || guards.iter().any(Option::is_some) {
        trim(&walks, &inside, &mut found);
    }
    Sync { entries: found }
}

/// Adds what replay needs to the barriers inside entries.
fn close_loop(walks: &[Walk], found: &mut [EntrySync]) {
    loop {
        let pending = inherited(walks, found);
        let mut changed = false;
        for ((walk, found), pending) in walks.iter().zip(found.iter_mut()).zip(pending) {
            changed |= walk.strengthen(pending, found).1;
        }
        if !changed {
            return;
        }
    }
}

/// What may be pending when an entry starts, after every sequence of submits: carries what is pending at each end
/// into every beginning until nothing grows.
fn inherited(walks: &[Walk], found: &[EntrySync]) -> Vec<Both> {
    let mut from_submits = Both::default();
    let mut from_rounds = vec![Both::default(); walks.len()];
    let start = |submits: &Both, rounds: &Both| {
        let mut both = submits.clone();
        for (both, rounds) in both.iter_mut().zip(rounds) {
            both.merge(rounds);
        }
        both
    };
    loop {
        let mut grown = false;
        for ((walk, found), rounds) in walks.iter().zip(found).zip(&mut from_rounds) {
            let [even, odd] = walk.replay(start(&from_submits, rounds), found).0;
            if walk.graph.repeat > 1 {
                grown |= rounds[0].merge(&even) | rounds[1].merge(&odd);
            }
            // The submit after an even one is odd.
            grown |= from_submits[1].merge(&even) | from_submits[0].merge(&odd);
        }
        if !grown {
            return from_rounds
                .iter()
                .map(|rounds| start(&from_submits, rounds))
                .collect();
        }
    }
}

/// Where an entry settles nothing by itself, or no decisions, what it inherits goes through it, and a barrier found
/// early may have lost its reason when another entry got one. Tries to take each barrier back that only replay asked
/// for.
fn trim(walks: &[Walk], inside: &[EntrySync], found: &mut [EntrySync]) {
    let right = |found: &[EntrySync]| {
        let pending = inherited(walks, found);
        walks
            .iter()
            .zip(found)
            .zip(pending)
            .all(|((walk, found), pending)| walk.replay(pending, found).1)
    };
    for entry in 0..found.len() {
        for wave in found[entry].before.ids() {
            let (now, least) = (
                found[entry].before[wave].clone(),
                inside[entry].before[wave].clone(),
            );
            if now == least {
                continue;
            }
            let Some((strongest, hazard)) = now else {
                continue;
            };
            let weakest = least.as_ref().map(|(barrier, _)| *barrier);
            let between = LADDER
                .into_iter()
                .filter(|barrier| !weakest.is_some_and(|weakest| settles(weakest, *barrier)))
                .take_while(|barrier| *barrier != strongest)
                .chain([strongest])
                .map(|barrier| Some((barrier, hazard.clone())));
            for choice in [least].into_iter().chain(between) {
                found[entry].before[wave] = choice;
                if right(found) {
                    break;
                }
            }
        }
    }
}

/// Disjoint byte ranges of arenas, each with the last access to it.
#[derive(Clone, Debug, Default)]
struct Touched(BTreeMap<(ArenaId, u64), (u64, Touch)>);

impl Touched {
    /// The access that overlaps `bytes`, if any. Ranges are disjoint, so their ends are in order too and only the
    /// last one that starts before `bytes` ends can overlap.
    fn overlap(&self, arena: ArenaId, bytes: &Range<u64>) -> Option<Touch> {
        let before = self.0.range((arena, 0)..(arena, bytes.end)).next_back();
        before
            .filter(|(_, (end, _))| *end > bytes.start)
            .map(|(_, (_, touch))| *touch)
    }

    /// Records an access; it replaces older ones where they overlap. Returns whether it covers new bytes.
    fn add(&mut self, arena: ArenaId, bytes: &Range<u64>, touch: Touch) -> bool {
        let mut covered = 0;
        while let Some((&(_, start), &(end, older))) = self
            .0
            .range((arena, 0)..(arena, bytes.end))
            .next_back()
            .filter(|(_, (end, _))| *end > bytes.start)
        {
            covered += end.min(bytes.end) - start.max(bytes.start);
            self.0.remove(&(arena, start));
            if end > bytes.end {
                self.0.insert((arena, bytes.end), (end, older));
            }
            if start < bytes.start {
                self.0.insert((arena, start), (bytes.start, older));
            }
        }
        self.0.insert((arena, bytes.start), (bytes.end, touch));
        covered < bytes.end - bytes.start
    }

    fn merge(&mut self, other: &Self) -> bool {
        let mut grown = false;
        for ((arena, start), (end, touch)) in &other.0 {
            grown |= self.add(*arena, &(*start..*end), *touch);
        }
        grown
    }
}

/// Pending accesses at parity 0 and 1. A recording has the same barriers for both, so both are walked together.
type Both = [Pending; 2];

/// What later accesses can still conflict with.
#[derive(Clone, Debug, Default)]
struct Pending {
    /// Writes since the last memory barrier.
    writes: Touched,
    /// Reads since the last barrier of any kind.
    reads: Touched,
    /// Writes to guards since the last barrier for guards.
    guards: Touched,
    /// Decisions by guards since then.
    decisions: Touched,
}

/// What a pass does to bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Access(Access),
    /// Writes a guard, beside all else that writing is.
    WriteGuard,
    /// Runs or not as they say.
    Decide,
}

impl Pending {
    fn merge(&mut self, other: &Self) -> bool {
        self.writes.merge(&other.writes)
            | self.reads.merge(&other.reads)
            | self.guards.merge(&other.guards)
            | self.decisions.merge(&other.decisions)
    }

    fn apply(&mut self, barrier: Barrier) {
        self.reads = Touched::default();
        if settles(barrier, Barrier::Memory) {
            self.writes = Touched::default();
        }
        if settles(barrier, Barrier::Guard) {
            self.guards = Touched::default();
            self.decisions = Touched::default();
        }
    }

    fn add(&mut self, act: Act, arena: ArenaId, bytes: &Range<u64>, touch: Touch) {
        let keep = |kind: &mut Touched| {
            kind.add(arena, bytes, touch);
        };
        match act {
            Act::Access(access) => {
                if access.writes() {
                    keep(&mut self.writes);
                }
                if access.reads() {
                    keep(&mut self.reads);
                }
            }
            Act::WriteGuard => keep(&mut self.guards),
            Act::Decide => keep(&mut self.decisions),
        }
    }

    /// The worst conflict of an access with what is pending.
    fn conflict(
        &self,
        act: Act,
        arena: ArenaId,
        bytes: &Range<u64>,
    ) -> Option<(HazardKind, Touch)> {
        let access = match act {
            Act::Access(access) => access,
            Act::WriteGuard => {
                let decided = self.decisions.overlap(arena, bytes)?;
                return Some((HazardKind::WriteAfterDecision, decided));
            }
            Act::Decide => {
                let written = self.guards.overlap(arena, bytes)?;
                return Some((HazardKind::DecisionAfterWrite, written));
            }
        };
        let written = self.writes.overlap(arena, bytes);
        match written {
            Some(touch) if access.reads() => Some((HazardKind::ReadAfterWrite, touch)),
            Some(touch) => Some((HazardKind::WriteAfterWrite, touch)),
            None if access.writes() => self
                .reads
                .overlap(arena, bytes)
                .map(|touch| (HazardKind::WriteAfterRead, touch)),
            None => None,
        }
    }
}

/// Barriers between passes, each of which does all that those before it do.
const LADDER: [Barrier; 3] = [Barrier::Execution, Barrier::Memory, Barrier::Guard];

/// Whether a barrier does all that another does.
fn settles(barrier: Barrier, what: Barrier) -> bool {
    let rung = |wanted: Barrier| LADDER.iter().position(|barrier| *barrier == wanted);
    rung(barrier) >= rung(what)
}

/// The weakest barrier that settles a hazard.
fn needed(hazard: &Hazard) -> Barrier {
    match hazard.kind {
        HazardKind::WriteAfterRead => Barrier::Execution,
        HazardKind::ReadAfterWrite | HazardKind::WriteAfterWrite => Barrier::Memory,
        HazardKind::DecisionAfterWrite | HazardKind::WriteAfterDecision => Barrier::Guard,
    }
}

fn enough(barrier: Option<&(Barrier, Hazard)>, hazard: &Hazard) -> bool {
    barrier.is_some_and(|(barrier, _)| settles(*barrier, needed(hazard)))
}

/// One entry as the walk sees it.
struct Walk<'a> {
    entry: usize,
    graph: &'a Graph,
    schedule: &'a Schedule,
    places: &'a EntryPlaces,
    guard: Option<&'a Guard>,
}

impl Walk<'_> {
    /// Walks the waves and strengthens barriers where a hazard asks for it. Returns what is pending at the end and
    /// whether a barrier changed.
    fn strengthen(&self, mut pending: Both, found: &mut EntrySync) -> (Both, bool) {
        let mut changed = false;
        for wave in self.schedule.waves().ids() {
            for (parity, pending) in pending.iter().enumerate() {
                for hazard in self.hazards(wave, parity as u64, pending) {
                    let before = &mut found.before[wave];
                    if !enough(before.as_ref(), &hazard) {
                        *before = Some((needed(&hazard), hazard));
                        changed = true;
                    }
                }
            }
            self.pass_wave(wave, found, &mut pending);
        }
        (pending, changed)
    }

    /// Walks the waves with the barriers as they are. Returns what is pending at the end and whether they are enough.
    fn replay(&self, mut pending: Both, found: &EntrySync) -> (Both, bool) {
        let mut right = true;
        for wave in self.schedule.waves().ids() {
            for (parity, pending) in pending.iter().enumerate() {
                let before = found.before[wave].as_ref();
                right &= self
                    .hazards(wave, parity as u64, pending)
                    .all(|hazard| enough(before, &hazard));
            }
            self.pass_wave(wave, found, &mut pending);
        }
        (pending, right)
    }

    /// The conflicts of a wave with what is pending before it.
    fn hazards(
        &self,
        wave: WaveId,
        parity: u64,
        pending: &Pending,
    ) -> impl Iterator<Item = Hazard> {
        self.touches(wave, parity)
            .into_iter()
            .filter_map(move |(later, act, arena, bytes)| {
                let (kind, earlier) = pending.conflict(act, arena, &bytes)?;
                Some(Hazard {
                    kind,
                    earlier,
                    later,
                    arena,
                    bytes,
                })
            })
    }

    /// Applies the barrier before a wave and adds what the wave does.
    fn pass_wave(&self, wave: WaveId, found: &EntrySync, pending: &mut Both) {
        for (parity, pending) in pending.iter_mut().enumerate() {
            if let Some((barrier, _)) = &found.before[wave] {
                pending.apply(*barrier);
            }
            for (touch, act, arena, bytes) in self.touches(wave, parity as u64) {
                pending.add(act, arena, &bytes, touch);
            }
        }
    }

    fn touches(&self, wave: WaveId, parity: u64) -> Vec<(Touch, Act, ArenaId, Range<u64>)> {
        let passes = self.schedule.waves()[wave].iter();
        let acts = passes.flat_map(|pass| {
            let ports = self.graph.passes[*pass].ports.iter();
            let accesses = ports.map(|port| (port.value, Act::Access(port.access)));
            accesses
                .chain(self.turns(*pass))
                .map(move |(value, act)| (*pass, value, act))
        });
        acts.filter_map(|(pass, value, act)| {
            let place = self.places.places.get(&value)?;
            let touch = Touch {
                entry: self.entry,
                pass,
                value,
            };
            Some((touch, act, place.arena, place.range(parity)))
        })
        .filter(|(_, _, _, bytes)| !bytes.is_empty())
        .collect()
    }

    /// What a pass is to the guard.
    fn turns(&self, pass: PassId) -> Option<(ValueId, Act)> {
        let guard = self.guard?;
        let mut ports = self.graph.passes[pass].ports.iter();
        if guard.passes.contains(&pass) {
            Some((guard.value, Act::Decide))
        } else if ports.any(|port| port.value == guard.value && port.access.writes()) {
            Some((guard.value, Act::WriteGuard))
        } else {
            None
        }
    }
}
