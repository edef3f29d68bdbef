//! Stage 9: everything into one [`Plan`].
//!
//! In: what the kernel part chose for each pass ([`Lowered`]), schedules, places and barriers. Out: the plan, with
//! warnings. Always: nothing is decided here except where a recording is cut to stay below a time budget; tensors
//! stand in the order of the graph's values, passes keep their ids.

use std::collections::{BTreeMap, BTreeSet};

use crate::codes::plan as codes;
use crate::device::{DeviceProfile, Feature};
use crate::diag::{Diagnostic, Diagnostics};
use crate::expr::Value;
use crate::graph::Graph;
use crate::ids::{Id, IdVec, KernelId, PassId, TensorId, ValueId, WaveId};
use crate::span::SourceMap;

use super::estimate::{can_estimate, pass_bytes, round_seconds, wave_seconds};
use super::guard::Guard;
use super::pack::{EntryPlaces, Placement};
use super::schedule::Schedule;
use super::sync::{EntrySync, Sync};
use super::{
    Arena, ArenaKind, Barrier, Bind, Entry, Kernel, PassInfo, Plan, Relay, Stats, Step, Tensor,
    relay,
};

/// What the kernel part chose for one pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Lowered {
    /// What runs.
    pub kernel: KernelId,
    /// Workgroup counts.
    pub groups: [u32; 3],
    /// Push constant bytes.
    pub push: Vec<u8>,
    /// Floating-point operations.
    pub flops: u64,
    /// Elements that it touches of bindings that it does not touch as a whole.
    pub touched: BTreeMap<u32, u64>,
    /// Whether the matrix units do them.
    pub matrix: bool,
}

/// One entry, ready to be lowered.
#[derive(Clone, Copy, Debug)]
pub struct EntryParts<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// One item per pass.
    pub lowered: &'a IdVec<PassId, Lowered>,
    /// Its waves.
    pub schedule: &'a Schedule,
}

/// Everything that goes into a plan.
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    /// Entries in the order that `pack` and `sync` saw.
    pub entries: &'a [EntryParts<'a>],
    /// Guards of all entries.
    pub guards: &'a [Option<Guard>],
    /// Places of all entries.
    pub placement: Placement,
    /// Barriers of all entries.
    pub sync: Sync,
    /// Every kernel that some pass runs.
    pub kernels: IdVec<KernelId, Kernel>,
    /// Features that the kernels need.
    pub needs: BTreeSet<Feature>,
    /// The device.
    pub profile: &'a DeviceProfile,
    /// Longest time one submit should take; the profile's own limit if none is given.
    pub max_submit_ms: Option<f64>,
    /// Resolved params of the graph.
    pub params: BTreeMap<String, Value>,
    /// blake3 of every text and number that went in.
    pub source_hash: [u8; 32],
    /// Where spans point.
    pub sources: &'a SourceMap,
}

/// Assembles the plan.
pub fn lower(parts: Parts<'_>) -> Result<(Plan, Vec<Diagnostic>), Diagnostics> {
    let mut found = Diagnostics::default();
    let profile = parts.profile;
    let budget = parts.max_submit_ms.or(profile.max_submit_ms);
    if budget.is_some() && !can_estimate(&profile.roofs) {
        found.push(no_roofs(profile));
    }
    let sums = ArenaSums::of(&parts.placement);
    let places = parts.placement.entries().iter();
    let lowerings: Vec<Lowering<'_>> = parts
        .entries
        .iter()
        .zip(places.zip(parts.sync.entries()))
        .zip(parts.guards)
        .map(|((entry, (places, sync)), guard)| Lowering {
            entry,
            places,
            sync,
            guard: guard.as_ref(),
            profile,
            sources: parts.sources,
            params: &parts.params,
        })
        .collect();
    let mut entries: Vec<Entry> = lowerings
        .iter()
        .map(|lowering| lowering.run(budget, &sums, &mut found))
        .collect();
    let warnings = found.into_result()?;
    let cells = entries
        .iter_mut()
        .fold(0, |first, entry| relay::chain(entry, &parts.kernels, first));
    let mut arenas = parts.placement.arenas().clone();
    // A module that can relay has the cells bound, also where none is meant.
    let relays = parts.kernels.iter().any(|kernel| kernel.relays.is_some());
    let relay = relays.then(|| {
        arenas.push(Arena {
            kind: ArenaKind::State,
            bytes: u64::from(cells.max(1)) * 4,
        })
    });
    let plan = Plan {
        graph: parts
            .entries
            .first()
            .map(|entry| entry.graph.name.clone())
            .unwrap_or_default(),
        profile: profile.name.clone(),
        device: profile.matches.clone(),
        limits: profile.limits.clone(),
        needs: parts.needs,
        source_hash: parts.source_hash,
        params: parts.params,
        kernels: parts.kernels,
        arenas,
        relay,
        weights: parts.placement.weights().to_vec(),
        entries,
        sources: parts
            .sources
            .files()
            .iter()
            .map(|file| file.path.clone())
            .collect(),
    };
    Ok((plan, warnings))
}

/// Bytes of arenas by kind.
struct ArenaSums {
    weights: u64,
    host_weights: u64,
    state: u64,
}

impl ArenaSums {
    fn of(placement: &Placement) -> Self {
        let sum = |kinds: &[ArenaKind]| {
            let arenas = placement
                .arenas()
                .iter()
                .filter(|arena| kinds.contains(&arena.kind));
            arenas.fold(0u64, |sum, arena| sum.saturating_add(arena.bytes))
        };
        Self {
            weights: sum(&[ArenaKind::Weight, ArenaKind::HostWeight]),
            host_weights: sum(&[ArenaKind::HostWeight]),
            state: sum(&[ArenaKind::State, ArenaKind::Carry]),
        }
    }
}

struct Lowering<'a> {
    entry: &'a EntryParts<'a>,
    places: &'a EntryPlaces,
    sync: &'a EntrySync,
    guard: Option<&'a Guard>,
    profile: &'a DeviceProfile,
    sources: &'a SourceMap,
    params: &'a BTreeMap<String, Value>,
}

impl Lowering<'_> {
    fn run(&self, budget: Option<f64>, sums: &ArenaSums, found: &mut Diagnostics) -> Entry {
        let graph = self.entry.graph;
        let ids: BTreeMap<ValueId, TensorId> = self
            .places
            .places
            .keys()
            .enumerate()
            .map(|(index, value)| (*value, TensorId::new(index)))
            .collect();
        let tensors = self
            .places
            .places
            .keys()
            .map(|value| self.tensor(*value, &ids))
            .collect();
        let passes = graph
            .passes
            .ids()
            .map(|pass| self.pass(pass, &ids))
            .collect();
        let cut = self.cuts(budget, found);
        let steps = self.steps(&cut);
        let stats = self.stats(&steps, sums);
        let tensor_ids = |values: &[ValueId]| {
            values
                .iter()
                .filter_map(|value| ids.get(value).copied())
                .collect()
        };
        let dims = graph
            .env
            .iter()
            .filter(|(name, _)| !self.params.contains_key(*name));
        Entry {
            name: graph.entry.clone(),
            dims: dims
                .filter_map(|(name, value)| Some((name.clone(), value.as_int()?)))
                .collect(),
            tensors,
            passes,
            steps,
            repeat: graph.repeat,
            guard: self.guard.and_then(|guard| ids.get(&guard.value).copied()),
            inputs: tensor_ids(&graph.inputs),
            outputs: tensor_ids(&graph.outputs),
            stats,
        }
    }

    fn tensor(&self, value: ValueId, ids: &BTreeMap<ValueId, TensorId>) -> Tensor {
        let info = &self.entry.graph.values[value];
        let place = &self.places.places[&value];
        Tensor {
            name: info.name.clone(),
            role: place.role,
            dtype: info.dtype,
            shape: info.shape.clone(),
            view_of: info.view.and_then(|(root, _)| ids.get(&root).copied()),
            arena: place.arena,
            offset: place.offset,
            bytes: place.bytes,
            slot: place.slot,
        }
    }

    fn pass(&self, id: PassId, ids: &BTreeMap<ValueId, TensorId>) -> PassInfo {
        let pass = &self.entry.graph.passes[id];
        let lowered = &self.entry.lowered[id];
        let (line, column) = self.sources.line_col(pass.origin.span);
        let binds = pass.ports.iter().filter_map(|port| {
            Some(Bind {
                binding: port.port,
                port: port.name.clone(),
                tensor: *ids.get(&port.value)?,
                access: port.access,
                in_place: self.places.in_place.get(&(id, port.port)).copied(),
            })
        });
        PassInfo {
            path: pass.path.clone(),
            source: (
                self.sources.file(pass.origin.span.file).path.clone(),
                line,
                column,
            ),
            kernel: lowered.kernel,
            groups: lowered.groups,
            push: lowered.push.clone(),
            binds: binds.collect(),
            guarded: self.guard.is_some_and(|guard| guard.passes.contains(&id)),
            relay: Relay::default(),
            dims: pass.binding.dims.clone(),
            options: pass.binding.options.clone(),
            flops: lowered.flops,
            bytes: pass_bytes(self.entry.graph, id, lowered),
            fused: pass.fused.clone(),
        }
    }

    /// Waves that start a new submit: where the estimate of the submit so far would run past the budget.
    fn cuts(&self, budget: Option<f64>, found: &mut Diagnostics) -> BTreeSet<WaveId> {
        let mut cuts = BTreeSet::new();
        let Some(budget_ms) = budget else { return cuts };
        let whole = round_seconds(self.entry, &self.profile.roofs) * 1e3;
        if self.entry.graph.repeat > 1 && whole * f64::from(self.entry.graph.repeat) > budget_ms {
            // Rounds are alike, so the cut between two of them is a cut before every one.
            cuts.insert(WaveId::new(0));
        }
        let mut spent = 0.0;
        for (wave, passes) in self.entry.schedule.waves().enumerate() {
            let ms = wave_seconds(self.entry, wave, &self.profile.roofs) * 1e3;
            if wave.index() > 0 && spent + ms > budget_ms {
                cuts.insert(wave);
                spent = 0.0;
            }
            spent += ms;
            if ms > budget_ms
                && let Some(pass) = passes.first()
            {
                found.push(wave_over_budget(
                    self.entry.graph,
                    wave,
                    *pass,
                    ms,
                    budget_ms,
                ));
            }
        }
        cuts
    }

    fn steps(&self, cuts: &BTreeSet<WaveId>) -> Vec<Step> {
        let mut steps = Vec::new();
        for (wave, passes) in self.entry.schedule.waves().enumerate() {
            steps.extend(cuts.contains(&wave).then_some(Step::Cut));
            let barrier = self.sync.before[wave].as_ref().map(|(barrier, _)| *barrier);
            steps.extend(barrier.map(Step::Barrier));
            steps.extend(passes.iter().map(|pass| Step::Dispatch(*pass)));
        }
        steps.extend(self.sync.host.then_some(Step::Barrier(Barrier::Host)));
        steps
    }

    fn stats(&self, steps: &[Step], sums: &ArenaSums) -> Stats {
        let count =
            |wanted: fn(&Step) -> bool| steps.iter().filter(|step| wanted(step)).count() as u64;
        let schedule = self.entry.schedule;
        Stats {
            passes: self.entry.graph.passes.len() as u64,
            waves: schedule.waves().len() as u64,
            critical_path: schedule.critical_path(),
            barriers: count(|step| matches!(step, Step::Barrier(_))),
            relays: 0,
            submits: submits(steps, self.entry.graph.repeat),
            passes_per_layer: passes_per_layer(self.entry.graph),
            transient_naive: self.places.naive,
            transient_planned: self.places.planned,
            transient_bound: self.places.bound,
            weight_bytes: sums.weights,
            weight_host_bytes: sums.host_weights,
            state_bytes: sums.state,
            estimate_ms: can_estimate(&self.profile.roofs)
                .then(|| round_seconds(self.entry, &self.profile.roofs) * 1e3),
        }
    }
}

/// Segments of a recording: every round's cuts end one, a cut at the very start only between rounds.
fn submits(steps: &[Step], repeat: u32) -> u64 {
    let cuts = steps.iter().filter(|step| **step == Step::Cut).count() as u64;
    let first = u64::from(steps.first() == Some(&Step::Cut));
    cuts.saturating_mul(u64::from(repeat)) + 1 - first
}

/// Passes of the most common repeat round: rounds are told apart by the outermost repeat that a pass stands in and
/// its index.
fn passes_per_layer(graph: &Graph) -> Option<u64> {
    let mut rounds: BTreeMap<(u32, u32, i64), u64> = BTreeMap::new();
    for pass in &graph.passes {
        let outermost = pass
            .origin
            .via
            .iter()
            .rev()
            .find_map(|(span, index)| Some((span, index.as_ref()?)));
        if let Some((span, (_, index))) = outermost {
            *rounds.entry((span.file.0, span.start, *index)).or_default() += 1;
        }
    }
    let mut common: BTreeMap<u64, u64> = BTreeMap::new();
    for passes in rounds.into_values() {
        *common.entry(passes).or_default() += 1;
    }
    common
        .into_iter()
        .max_by_key(|(passes, rounds)| (*rounds, *passes))
        .map(|(passes, _)| passes)
}

fn no_roofs(profile: &DeviceProfile) -> Diagnostic {
    let message = format!(
        "profile `{}` has no measured roofs, so a time budget for submits cannot be kept",
        profile.name
    );
    Diagnostic::error(codes::NO_ROOFS, message).help(
        "add `read_bytes_per_s` and `f32_flops` under `roofs`, or leave `--max-submit-ms` away",
    )
}

fn wave_over_budget(graph: &Graph, wave: WaveId, pass: PassId, ms: f64, budget: f64) -> Diagnostic {
    let pass = &graph.passes[pass];
    let message = format!(
        "wave {} with `{}` is estimated at {ms:.3} ms, past the budget of {budget:.3} ms; a wave cannot be cut",
        wave.index(),
        pass.path
    );
    Diagnostic::warning(codes::LONG_WAVE, message)
        .at(pass.origin.span, "the first pass of this wave")
        .help("compile a smaller entry, or allow longer submits")
}
