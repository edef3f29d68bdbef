//! Stage 6: passes into waves.
//!
//! In: a checked graph and what its passes cost. Out: a [`Schedule`]. Always: every pass is in exactly one wave;
//! a pass stands in a later wave than every pass it depends on; the number of waves is the length of the longest
//! dependency path, which no schedule can beat.
//!
//! As-soon-as-possible levels of the dependency graph give that number. Slack is then spent on memory: a pass moves
//! later where its results would be born later by more byte-waves than its arguments would live longer. Ties keep
//! the order of the file, so the same graph always gives the same schedule.

use std::collections::BTreeMap;

use petgraph::Direction;

use crate::device::Roofs;
use crate::graph::{Class, Graph};
use crate::ids::{Id, IdVec, KernelId, PassId, ValueId, WaveId};

use super::estimate::{pass_bytes, pass_seconds};
use super::lower::Lowered;

/// Which pass runs in which wave, and in which order a wave is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    wave_of: IdVec<PassId, WaveId>,
    waves: IdVec<WaveId, Vec<PassId>>,
}

impl Schedule {
    /// The wave of a pass.
    pub fn wave_of(&self, pass: PassId) -> WaveId {
        self.wave_of[pass]
    }
    /// Waves in order; each lists its passes in the order of recording.
    pub fn waves(&self) -> &IdVec<WaveId, Vec<PassId>> {
        &self.waves
    }
    /// Passes on the longest dependency path.
    pub fn critical_path(&self) -> u64 {
        self.waves.len() as u64
    }
}

/// Who must come before and after each pass, deduplicated, as indices.
struct Order {
    before: Vec<Vec<usize>>,
    after: Vec<Vec<usize>>,
}

impl Order {
    fn of(graph: &Graph) -> Self {
        let dependencies = graph.dependencies();
        let neighbours = |node, direction| -> Vec<usize> {
            let mut found: Vec<usize> = dependencies
                .neighbors_directed(node, direction)
                .map(|other| dependencies[other].index())
                .collect();
            found.sort_unstable();
            found.dedup();
            found
        };
        let mut order = Self {
            before: vec![Vec::new(); graph.passes.len()],
            after: vec![Vec::new(); graph.passes.len()],
        };
        for node in dependencies.node_indices() {
            let pass = dependencies[node].index();
            order.before[pass] = neighbours(node, Direction::Incoming);
            order.after[pass] = neighbours(node, Direction::Outgoing);
        }
        order
    }
}

/// Puts the passes of `graph` into waves. `lowered` holds one item per pass.
pub fn schedule(graph: &Graph, lowered: &IdVec<PassId, Lowered>, roofs: &Roofs) -> Schedule {
    let order = Order::of(graph);
    let asap = levels(&order);
    let slid = slide(graph, &order, &asap);
    let wave_of = if cost(graph, &slid) < cost(graph, &asap) {
        slid
    } else {
        asap
    };
    let count = wave_of.iter().map(|wave| wave + 1).max().unwrap_or(0);
    let mut waves: IdVec<WaveId, Vec<PassId>> = (0..count).map(|_| Vec::new()).collect();
    for (index, wave) in wave_of.iter().enumerate() {
        waves[WaveId::new(*wave)].push(PassId::new(index));
    }
    let seconds: IdVec<PassId, f64> = graph
        .passes
        .ids()
        .map(|pass| {
            lowered.get(pass).map_or(0.0, |low| {
                pass_seconds(low, pass_bytes(graph, pass, low), roofs)
            })
        })
        .collect();
    for passes in waves.iter_mut() {
        order_wave(passes, lowered, &seconds);
    }
    Schedule {
        wave_of: wave_of.into_iter().map(WaveId::new).collect(),
        waves,
    }
}

/// As-soon-as-possible levels. Passes of a graph stand in an order in which definitions precede uses, so one pass
/// over them in that order sees every predecessor first.
fn levels(order: &Order) -> Vec<usize> {
    let mut level = vec![0; order.before.len()];
    for pass in 0..level.len() {
        level[pass] = order.before[pass]
            .iter()
            .map(|before| level[*before] + 1)
            .max()
            .unwrap_or(0);
    }
    level
}

/// Every pass that touches a transient root: who writes it, and each pass that uses it at all.
struct Uses {
    bytes: u64,
    passes: Vec<usize>,
}

fn transient_uses(graph: &Graph) -> BTreeMap<ValueId, Uses> {
    let mut uses: BTreeMap<ValueId, Uses> = BTreeMap::new();
    for (pass, info) in graph.passes.enumerate() {
        for port in &info.ports {
            let root = graph.root(port.value);
            let value = &graph.values[root];
            if value.class == Class::Transient {
                let entry = uses.entry(root).or_insert_with(|| Uses {
                    bytes: value.bytes().unwrap_or(u64::MAX),
                    passes: vec![],
                });
                if entry.passes.last() != Some(&pass.index()) {
                    entry.passes.push(pass.index());
                }
            }
        }
    }
    uses
}

/// Moves passes later inside their slack, last pass first so that successors have moved already. A move changes only
/// the lifetimes of values that the pass itself touches.
fn slide(graph: &Graph, order: &Order, asap: &[usize]) -> Vec<usize> {
    let last = asap.iter().copied().max().unwrap_or(0);
    let uses = transient_uses(graph);
    let mut touched: Vec<Vec<&Uses>> = vec![Vec::new(); asap.len()];
    for value in uses.values() {
        for pass in &value.passes {
            touched[*pass].push(value);
        }
    }
    let mut wave = asap.to_vec();
    for pass in (0..wave.len()).rev() {
        let latest = order.after[pass]
            .iter()
            .map(|after| wave[*after] - 1)
            .min()
            .unwrap_or(last);
        let byte_waves = |at: usize| -> u128 {
            let life = |uses: &&Uses| {
                let others = uses
                    .passes
                    .iter()
                    .filter(|other| **other != pass)
                    .map(|other| wave[*other]);
                let (first, end) = others.fold((at, at), |(first, end), wave| {
                    (first.min(wave), end.max(wave))
                });
                u128::from(uses.bytes) * (end - first + 1) as u128
            };
            touched[pass].iter().map(life).sum()
        };
        let best = (wave[pass]..=latest).min_by_key(|at| (byte_waves(*at), *at));
        wave[pass] = best.unwrap_or(wave[pass]);
    }
    wave
}

/// Largest sum of live bytes over the waves, then the sum over all waves: what sliding must lower to be taken.
fn cost(graph: &Graph, wave: &[usize]) -> (u128, u128) {
    let mut change: BTreeMap<usize, i128> = BTreeMap::new();
    let mut total = 0;
    for uses in transient_uses(graph).values() {
        let waves = || uses.passes.iter().map(|pass| wave[*pass]);
        let (first, last) = (waves().min().unwrap_or(0), waves().max().unwrap_or(0));
        *change.entry(first).or_default() += i128::from(uses.bytes);
        *change.entry(last + 1).or_default() -= i128::from(uses.bytes);
        total += u128::from(uses.bytes) * (last - first + 1) as u128;
    }
    let (mut live, mut peak) = (0, 0);
    for bytes in change.values() {
        live += bytes;
        peak = peak.max(live);
    }
    (peak.unsigned_abs(), total)
}

/// Longest estimated pass first, because a wave ends with its slowest pass; passes of one kernel stand together, so
/// that the recorder binds each pipeline once.
fn order_wave(
    passes: &mut [PassId],
    lowered: &IdVec<PassId, Lowered>,
    seconds: &IdVec<PassId, f64>,
) {
    let kernel = |pass: PassId| lowered.get(pass).map(|low| low.kernel);
    let mut longest: BTreeMap<Option<KernelId>, f64> = BTreeMap::new();
    for pass in passes.iter() {
        let entry = longest.entry(kernel(*pass)).or_default();
        *entry = entry.max(seconds[*pass]);
    }
    passes.sort_by(|a, b| {
        let (ka, kb) = (kernel(*a), kernel(*b));
        let by_kernel = longest[&kb].total_cmp(&longest[&ka]).then(ka.cmp(&kb));
        by_kernel
            .then(seconds[*b].total_cmp(&seconds[*a]))
            .then(a.cmp(b))
    });
}
