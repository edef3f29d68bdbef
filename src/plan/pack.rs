//! Stage 7: a place for every value.
//!
//! In: entries with their schedules, and the device's limits. Out: a [`Placement`]. Always: two values whose
//! lifetimes touch a common wave have disjoint bytes; every place is aligned and inside an arena no larger than one
//! allocation; weights, state and carries of one name have one place in all entries; what the host touches for
//! parity 0 and for parity 1 is disjoint in every pair of entries, so two submits can be in flight.
//!
//! How lifetimes are fitted into few bytes is the business of `fit`; here every kind of value gets its arenas.

mod named;
mod sizes;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::device::Limits;
use crate::diag::Diagnostics;
use crate::graph::Graph;
use crate::ids::{ArenaId, IdVec, PassId, ValueId};

use super::fit::{Item, best, bound};
use super::live::{Group, Live, live};
use super::place::{Reads, all_bytes, device_bytes, to_host, too_little};
use super::schedule::Schedule;
use super::{Arena, ArenaKind, Role, Slot, Weight};

/// Every place starts at a multiple of this, or of the device's own alignment where that is larger: no device asks
/// for more, and vector loads never straddle two tensors.
pub const ALIGNMENT: u64 = 256;

/// Where a value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// What the value is.
    pub role: Role,
    /// The arena.
    pub arena: ArenaId,
    /// First byte at slot 0.
    pub offset: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// How the place depends on the parity.
    pub slot: Slot,
}

impl Place {
    /// The byte range in its arena at parity 0 or 1.
    pub fn range(&self, parity: u64) -> Range<u64> {
        let start = match self.slot {
            Slot::Fixed => self.offset,
            Slot::Same { stride } => self.offset.saturating_add(parity.saturating_mul(stride)),
            Slot::Other { stride } => self
                .offset
                .saturating_add((1 - parity).saturating_mul(stride)),
        };
        start..start.saturating_add(self.bytes)
    }
}

/// The places of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryPlaces {
    /// A place for every value in use, views included.
    pub places: BTreeMap<ValueId, Place>,
    /// For each pass and written binding that takes over a read binding's bytes: that binding.
    pub in_place: BTreeMap<(PassId, u32), u32>,
    /// Transient bytes if nothing were shared.
    pub naive: u64,
    /// Transient bytes of this placement.
    pub planned: u64,
    /// Largest sum of bytes that are live in one wave.
    pub bound: u64,
}

/// The places of all entries.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    arenas: IdVec<ArenaId, Arena>,
    weights: Vec<Weight>,
    entries: Vec<EntryPlaces>,
}

impl Placement {
    /// Memory ranges that the runtime makes.
    pub fn arenas(&self) -> &IdVec<ArenaId, Arena> {
        &self.arenas
    }
    /// What fills the weight arenas.
    pub fn weights(&self) -> &[Weight] {
        &self.weights
    }
    /// One item per entry, in the order given to [`pack`].
    pub fn entries(&self) -> &[EntryPlaces] {
        &self.entries
    }
}

/// Gives every value of every entry its place. `reads` says which weights the device's own memory is for, where it has
/// no room for all; `beside` is how many bytes of that are kept for what no tensor lies in ([`relay::most_bytes`]).
///
/// [`relay::most_bytes`]: super::relay::most_bytes
pub fn pack(
    entries: &[(&Graph, &Schedule)],
    limits: &Limits,
    reads: &Reads,
    beside: u64,
) -> Result<Placement, Diagnostics> {
    let all = pack_with(entries, limits, &BTreeSet::new())?;
    if let Some(limit) = limits
        .all_memory
        .filter(|limit| all_bytes(&all.arenas).saturating_add(beside) > *limit)
    {
        return Err(too_little(&all.arenas, ("all memory", limit), false).into());
    }
    let bytes = device_bytes(&all.arenas).saturating_add(beside);
    let Some(limit) = limits.device_memory.filter(|limit| bytes > *limit) else {
        return Ok(all);
    };
    let weights = all
        .arenas
        .iter()
        .filter(|arena| arena.kind == ArenaKind::Weight);
    let weights = weights.fold(0u64, |sum, arena| sum.saturating_add(arena.bytes));
    let Some(room) = limit.checked_sub(bytes.saturating_sub(weights)) else {
        return Err(too_little(&all.arenas, ("the device", limit), true).into());
    };
    let alignment = alignment(limits);
    let aligned = |bytes: u64| bytes.div_ceil(alignment).saturating_mul(alignment);
    pack_with(
        entries,
        limits,
        &to_host(&all.weights, reads, room, aligned),
    )
}

/// Where values may start.
fn alignment(limits: &Limits) -> u64 {
    limits.min_storage_alignment.max(ALIGNMENT)
}

/// Gives every value its place, the weights of these names in the host's memory.
fn pack_with(
    entries: &[(&Graph, &Schedule)],
    limits: &Limits,
    to_host: &BTreeSet<String>,
) -> Result<Placement, Diagnostics> {
    let mut packer = Packer::new(limits, to_host);
    let mut lives = Vec::new();
    for (graph, schedule) in entries {
        match live(graph, schedule) {
            Ok(live) => lives.push(live),
            Err(found) => packer.found.extend(found),
        }
        packer.check_sizes(graph);
    }
    packer.stop()?;
    let graphs: Vec<(&Graph, &Live)> = entries
        .iter()
        .map(|(graph, _)| *graph)
        .zip(&lives)
        .collect();
    let mut places = vec![BTreeMap::new(); graphs.len()];
    packer.named(&graphs, Role::Weight, &mut places);
    packer.named(&graphs, Role::State, &mut places);
    packer.scratch(&graphs, &mut places);
    packer.named(&graphs, Role::Carry, &mut places);
    packer.slots(&graphs, Role::Input, &mut places);
    packer.slots(&graphs, Role::Output, &mut places);
    packer.stop()?;
    let sums = packer.transients(&graphs, &mut places);
    packer.stop()?;
    let entries = places.into_iter().zip(sums).zip(&graphs);
    let entries = entries.map(|((mut places, (naive, planned, bound)), (graph, live))| {
        views(graph, live, &mut places);
        EntryPlaces {
            places,
            in_place: live.in_place.clone(),
            naive,
            planned,
            bound,
        }
    });
    let entries = entries.collect();
    Ok(Placement {
        arenas: packer.arenas,
        weights: packer.weights,
        entries,
    })
}

type Places = BTreeMap<ValueId, Place>;

/// A view lies inside the value it looks into.
fn views(graph: &Graph, live: &Live, places: &mut Places) {
    for value in live.roles.keys() {
        let info = &graph.values[*value];
        if let Some((root, first)) = info.view
            && let Some(place) = places.get(&root).copied()
        {
            let bytes = info.bytes().unwrap_or(u64::MAX);
            let offset = place.offset.saturating_add(first);
            places.insert(
                *value,
                Place {
                    role: Role::View,
                    offset,
                    bytes,
                    ..place
                },
            );
        }
    }
}

struct Packer<'a> {
    limits: &'a Limits,
    /// Weights for the host's memory.
    to_host: &'a BTreeSet<String>,
    alignment: u64,
    arenas: IdVec<ArenaId, Arena>,
    weights: Vec<Weight>,
    found: Diagnostics,
}

/// Arenas of one kind that are filled from their start; the last one takes what fits.
struct Filling {
    kind: ArenaKind,
    /// Copies of the whole arena that follow each other: 2 where there are slots.
    slots: u64,
    used: Vec<u64>,
}

impl<'a> Packer<'a> {
    fn new(limits: &'a Limits, to_host: &'a BTreeSet<String>) -> Self {
        Self {
            limits,
            to_host,
            alignment: alignment(limits),
            arenas: IdVec::new(),
            weights: Vec::new(),
            found: Diagnostics::default(),
        }
    }

    fn stop(&mut self) -> Result<(), Diagnostics> {
        if self.found.has_errors() {
            Err(std::mem::take(&mut self.found))
        } else {
            Ok(())
        }
    }

    /// `bytes` up to the next place another value may start at. Sizes were checked to be far below 2^64.
    fn aligned(&self, bytes: u64) -> u64 {
        bytes
            .div_ceil(self.alignment)
            .saturating_mul(self.alignment)
    }

    /// The room for one slot of an arena.
    fn capacity(&self, slots: u64) -> u64 {
        self.limits.max_allocation / slots / self.alignment * self.alignment
    }

    /// The next free place; a new arena if the last one of this kind is full.
    fn take(&mut self, filling: &mut Filling, bytes: u64) -> (usize, u64) {
        let need = self.aligned(bytes);
        let capacity = self.capacity(filling.slots);
        match filling.used.last_mut() {
            Some(used) if used.saturating_add(need) <= capacity => {
                let offset = *used;
                *used += need;
                (filling.used.len() - 1, offset)
            }
            _ => {
                filling.used.push(need);
                (filling.used.len() - 1, 0)
            }
        }
    }

    /// Makes the arenas of a kind; returns their ids and strides.
    fn make(&mut self, filling: &Filling) -> Vec<(ArenaId, u64)> {
        let arenas = filling.used.iter().map(|used| {
            let arena = Arena {
                kind: filling.kind,
                bytes: used * filling.slots,
            };
            (self.arenas.push(arena), *used)
        });
        arenas.collect()
    }

    /// Scratch lies after nothing and before nothing that survives: its own arena, filled from the start by every
    /// entry, since it is zero between submits.
    fn scratch(&mut self, graphs: &[(&Graph, &Live)], places: &mut [Places]) {
        self.per_entry(graphs, Role::Scratch, ArenaKind::State, 1, places);
    }

    /// Inputs and outputs: every entry fills the same two slots.
    fn slots(&mut self, graphs: &[(&Graph, &Live)], role: Role, places: &mut [Places]) {
        let kind = if role == Role::Input {
            ArenaKind::Input
        } else {
            ArenaKind::Output
        };
        self.per_entry(graphs, role, kind, 2, places);
    }

    fn per_entry(
        &mut self,
        graphs: &[(&Graph, &Live)],
        role: Role,
        kind: ArenaKind,
        slots: u64,
        places: &mut [Places],
    ) {
        let mut largest = Filling {
            kind,
            slots,
            used: Vec::new(),
        };
        let mut found = Vec::new();
        for (entry, (graph, live)) in graphs.iter().enumerate() {
            let mut filling = Filling {
                kind,
                slots,
                used: Vec::new(),
            };
            let mut taken = BTreeMap::new();
            for (value, _) in live.roles.iter().filter(|(_, found)| **found == role) {
                let bytes = graph.values[*value].bytes().unwrap_or(u64::MAX);
                let first = live.first(*value);
                let place = match taken.get(&first) {
                    Some(place) => *place,
                    None => self.take(&mut filling, bytes),
                };
                taken.insert(first, place);
                found.push((entry, *value, place, bytes));
            }
            widen(&mut largest.used, &filling.used);
        }
        let arenas = self.make(&largest);
        for (entry, value, (index, offset), bytes) in found {
            let (arena, stride) = arenas[index];
            let slot = if slots == 2 {
                Slot::Same { stride }
            } else {
                Slot::Fixed
            };
            places[entry].insert(
                value,
                Place {
                    role,
                    arena,
                    offset,
                    bytes,
                    slot,
                },
            );
        }
    }

    /// Transient values: packed for each entry alone, into arenas sized for the largest.
    fn transients(
        &mut self,
        graphs: &[(&Graph, &Live)],
        places: &mut [Places],
    ) -> Vec<(u64, u64, u64)> {
        let capacity = self.capacity(1);
        let mut filling = Filling {
            kind: ArenaKind::Transient,
            slots: 1,
            used: Vec::new(),
        };
        let mut packed = Vec::new();
        let mut sums = Vec::new();
        for (_, live) in graphs {
            let items: Vec<Item> = live.groups.iter().map(|group| self.item(group)).collect();
            let best = best(&items, capacity);
            let planned = best.used.iter().sum();
            let naive = live
                .groups
                .iter()
                .zip(&items)
                .map(|(group, item)| item.bytes * group.values.len() as u64)
                .sum();
            sums.push((naive, planned, bound(&items)));
            widen(&mut filling.used, &best.used);
            packed.push(best);
        }
        let arenas = self.make(&filling);
        for (((_, live), packed), places) in graphs.iter().zip(packed).zip(places) {
            for (group, (index, offset)) in live.groups.iter().zip(packed.at) {
                let place = Place {
                    role: Role::Transient,
                    arena: arenas[index].0,
                    offset,
                    bytes: group.bytes,
                    slot: Slot::Fixed,
                };
                places.extend(group.values.iter().map(|value| (*value, place)));
            }
        }
        sums
    }

    fn item(&self, group: &Group) -> Item {
        Item {
            bytes: self.aligned(group.bytes),
            waves: group.waves.clone(),
        }
    }
}

/// Element-wise maximum; arenas are sized for the entry that needs most.
fn widen(largest: &mut Vec<u64>, used: &[u64]) {
    largest.resize(largest.len().max(used.len()), 0);
    for (largest, used) in largest.iter_mut().zip(used) {
        *largest = (*largest).max(*used);
    }
}
