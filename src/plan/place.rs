//! What lies in the device's own memory and what in the host's, where the first is too small for everything.
//!
//! In: what each weight saves if it lies on the device ([`Reads`]), its size, the bytes that are left for weights.
//! Out: the weights that go to the host, where the device reads them over its bus. Always: what stays fits; no weight
//! stays that is read less often a byte than one that goes and would have fitted instead (a knapsack filled by
//! density, Dantzig 1957; weights are small beside the room, so that is near the best).

use std::collections::{BTreeMap, BTreeSet};

use crate::codes::plan as codes;
use crate::diag::Diagnostic;
use crate::graph::Graph;
use crate::ids::{ArenaId, IdVec, PassId};

use super::lower::Lowered;
use super::{Arena, ArenaKind, Weight};

/// Bytes that the passes read of each weight, by name: of one submit of every entry. A pass uses no more elements of
/// an operand than it does operations, so a table of which it gathers some rows counts by those.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reads(BTreeMap<String, u64>);

impl Reads {
    /// Counts what `entries` read.
    pub fn of(entries: &[(&Graph, &IdVec<PassId, Lowered>)]) -> Self {
        let mut reads = BTreeMap::new();
        for (graph, lowered) in entries {
            for (id, pass) in graph.passes.enumerate() {
                for port in pass.ports.iter().filter(|port| port.access.reads()) {
                    let info = &graph.values[graph.root(port.value)];
                    let (Some(_), Some(bytes)) = (&info.recipe, info.bytes()) else {
                        continue;
                    };
                    let elements = info
                        .shape
                        .iter()
                        .copied()
                        .fold(1, u64::saturating_mul)
                        .max(1);
                    let used = match lowered[id].flops {
                        0 => elements,
                        flops => flops.min(elements),
                    };
                    let part = u128::from(bytes) * u128::from(used) / u128::from(elements);
                    let part = u64::try_from(part).unwrap_or(u64::MAX);
                    let sum: &mut u64 = reads.entry(info.name.clone()).or_default();
                    *sum = sum.saturating_add(part.saturating_mul(u64::from(graph.repeat)));
                }
            }
        }
        Self(reads)
    }

    /// Reads for each stored byte; a weight that was not counted is read once.
    fn density(&self, name: &str, bytes: u64) -> f64 {
        let read = self.0.get(name).copied().unwrap_or(bytes);
        read as f64 / bytes.max(1) as f64
    }
}

/// The weights that go to the host's memory if `room` bytes of the device are left for all of them. `aligned` is what
/// so many bytes take up in an arena.
pub fn to_host(
    weights: &[Weight],
    reads: &Reads,
    room: u64,
    aligned: impl Fn(u64) -> u64,
) -> BTreeSet<String> {
    let sized = weights.iter().map(|weight| {
        let bytes = weight.dtype.size_of(&weight.shape).unwrap_or(u64::MAX);
        (weight, reads.density(&weight.name, bytes), aligned(bytes))
    });
    let mut order: Vec<_> = sized.collect();
    // The sort is stable: among equals the first of the graph stay.
    order.sort_by(|(_, a, _), (_, b, _)| b.total_cmp(a));
    let mut left = room;
    let mut out = BTreeSet::new();
    for (weight, _, bytes) in order {
        match left.checked_sub(bytes) {
            Some(rest) => left = rest,
            None => {
                out.insert(weight.name.clone());
            }
        }
    }
    out
}

/// Bytes of the device's own memory.
pub fn device_bytes(arenas: &IdVec<ArenaId, Arena>) -> u64 {
    sum(arenas.iter().filter(|arena| arena.kind.on_device()))
}

/// Bytes of weights, wherever they lie.
pub fn weight_bytes(arenas: &IdVec<ArenaId, Arena>) -> u64 {
    let weight = |kind| matches!(kind, ArenaKind::Weight | ArenaKind::HostWeight);
    sum(arenas.iter().filter(|arena| weight(arena.kind)))
}

/// Bytes of all memory.
pub fn all_bytes(arenas: &IdVec<ArenaId, Arena>) -> u64 {
    sum(arenas)
}

fn sum<'a>(arenas: impl IntoIterator<Item = &'a Arena>) -> u64 {
    let bytes = arenas.into_iter().map(|arena| arena.bytes);
    bytes.fold(0, u64::saturating_add)
}

/// The word for an arena's kind in messages.
pub fn arena_word(kind: ArenaKind) -> &'static str {
    match kind {
        ArenaKind::Weight => "weights",
        ArenaKind::HostWeight => "host weights",
        ArenaKind::Transient => "transients",
        ArenaKind::State => "state",
        ArenaKind::Carry => "carries",
        ArenaKind::Input => "inputs",
        ArenaKind::Output => "outputs",
    }
}

/// What arenas take, by kind, for messages about memory. `there` says what memory is there, and how much.
pub fn memory_table<'a>(arenas: impl IntoIterator<Item = &'a Arena>, there: (&str, u64)) -> String {
    let mut sums: BTreeMap<ArenaKind, u64> = BTreeMap::new();
    for arena in arenas {
        let sum = sums.entry(arena.kind).or_default();
        *sum = sum.saturating_add(arena.bytes);
    }
    let total = sums.values().copied().fold(0, u64::saturating_add);
    let rows = sums.iter().map(|(kind, bytes)| (arena_word(*kind), *bytes));
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    rows.chain([("together", total), there])
        .map(|(word, bytes)| format!("  {word:<12}{:>12.1} MiB\n", mib(bytes)))
        .collect()
}

/// More memory is needed than there is, wherever the weights lie. `what` has `limit` bytes.
pub(super) fn too_little(
    arenas: &IdVec<ArenaId, Arena>,
    (what, limit): (&str, u64),
    without_weights: bool,
) -> Diagnostic {
    let message = if without_weights {
        format!("without any weight the plan needs more than the {limit} bytes of {what}")
    } else {
        format!("the plan needs more than the {limit} bytes of {what}")
    };
    let state = sum(arenas.iter().filter(|arena| arena.kind == ArenaKind::State));
    let weights = weight_bytes(arenas);
    let state_help = "the caches are the state: a shorter context (`--ctx N`, `--set ctx=N`), fewer sequences at once or caches in int8 (`--kv int8`) make them smaller";
    let weights_help = "`--weights int8` or `--weights int4` makes the weights smaller";
    let rest_help = "entries with fewer rows need fewer transients";
    let largest = if !without_weights && weights >= state {
        weights_help
    } else if state >= all_bytes(arenas).saturating_sub(weights) / 2 {
        state_help
    } else {
        rest_help
    };
    Diagnostic::error(codes::TOO_LITTLE_MEMORY, message)
        .note(memory_table(arenas, (what, limit)).trim_end())
        .help(largest)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::dtype::DType;
    use crate::graph::Recipe;

    fn weight(name: &str, bytes: u64) -> Weight {
        Weight {
            name: name.into(),
            dtype: DType::F32,
            shape: vec![bytes / 4],
            recipe: Recipe::Tensor(name.into()),
            arena: ArenaId(0),
            offset: 0,
        }
    }

    fn out(room: u64) -> Vec<String> {
        let weights = [
            weight("table", 4096),
            weight("first", 1024),
            weight("often", 2048),
            weight("last", 1024),
        ];
        let reads = [
            ("table", 16),
            ("first", 1024),
            ("often", 4096),
            ("last", 1024),
        ];
        let reads = Reads(reads.map(|(name, bytes)| (name.into(), bytes)).into());
        to_host(&weights, &reads, room, |bytes| bytes.div_ceil(256) * 256)
            .into_iter()
            .collect()
    }

    #[test]
    fn what_is_read_least_a_byte_goes_first() {
        assert!(out(8192).is_empty());
        assert_eq!(out(8191), ["table"]);
        assert_eq!(out(4096), ["table"]);
        assert_eq!(out(4095), ["last", "table"]);
        assert_eq!(out(1024), ["last", "often", "table"]);
        assert_eq!(out(0), ["first", "last", "often", "table"]);
    }

    #[test]
    fn the_table_names_every_kind() {
        let arena = |kind, bytes| Arena { kind, bytes };
        let arenas = [
            arena(ArenaKind::HostWeight, 3 << 20),
            arena(ArenaKind::Weight, 1 << 20),
        ];
        let table = memory_table(&arenas, ("the device", 1 << 19));
        let lines: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines[0], ["weights", "1.0", "MiB"]);
        assert_eq!(lines[1], ["host", "weights", "3.0", "MiB"]);
        assert_eq!(lines[2], ["together", "4.0", "MiB"]);
        assert_eq!(lines[3], ["the", "device", "0.5", "MiB"]);
    }
}
