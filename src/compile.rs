//! The compiler, top to bottom: one call per stage.
//!
//! In: a graph file's path, texts through [`Sources`], a device as data, one [`Request`] per entry. Out: a [`Plan`]
//! that has been proved, with warnings and the dumps that were asked for. Always: the same input gives the same
//! plan, byte for byte; nothing here reads files, clocks or devices except through what it is given.

use std::collections::BTreeMap;

use tracing::info_span;

use crate::codes::plan as codes;
use crate::device::DeviceProfile;
use crate::diag::{Diagnostic, Diagnostics};
use crate::graph::{self, FuseOptions, Fused, Graph, Request};
use crate::ids::{IdVec, PassId};
use crate::instance::Instances;
use crate::kernel::{self, Library, build::Builder};
use crate::plan::lower::{EntryParts, Lowered, Parts};
use crate::plan::{self, Plan, schedule::Schedule};
use crate::report;
use crate::span::{SourceMap, Sources};
use crate::text;

/// A stage whose result can be printed (`--emit`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Stage {
    Flat,
    Typed,
    Fused,
    Schedule,
    Memory,
    Sync,
    Plan,
    Dot,
    Svg,
}

impl Stage {
    /// Every stage in order.
    pub const ALL: [Stage; 9] = [
        Stage::Flat,
        Stage::Typed,
        Stage::Fused,
        Stage::Schedule,
        Stage::Memory,
        Stage::Sync,
        Stage::Plan,
        Stage::Dot,
        Stage::Svg,
    ];

    /// The name after `--emit`.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Flat => "flat",
            Stage::Typed => "typed",
            Stage::Fused => "fused",
            Stage::Schedule => "schedule",
            Stage::Memory => "memory",
            Stage::Sync => "sync",
            Stage::Plan => "plan",
            Stage::Dot => "dot",
            Stage::Svg => "svg",
        }
    }

    /// Whether it is behind the choice of kernels, which is when shaders are built.
    pub fn has_kernels(self) -> bool {
        self > Stage::Fused
    }
}

/// What to compile, and for what.
pub struct Job<'a> {
    /// The graph file.
    pub graph: &'a str,
    /// Reads graph files, manifests and shaders.
    pub sources: &'a dyn Sources,
    /// The device.
    pub profile: &'a DeviceProfile,
    /// One per entry; one without a shape stands for all entries that the graph names.
    pub entries: &'a [Request],
    /// Which fusion rules to leave out.
    pub fusion: FuseOptions,
    /// Kernel name to the variant it must run as, for tests and experiments.
    pub variants: BTreeMap<String, String>,
    /// Makes SPIR-V; without one the plan can be studied but not run.
    pub builder: Option<&'a dyn Builder>,
    /// Longest time one submit should take.
    pub max_submit_ms: Option<f64>,
    /// Stages to print.
    pub emit: &'a [Stage],
}

impl<'a> Job<'a> {
    /// A job with nothing switched off and nothing printed.
    pub fn new(
        graph: &'a str,
        sources: &'a dyn Sources,
        profile: &'a DeviceProfile,
        entries: &'a [Request],
    ) -> Self {
        Self {
            graph,
            sources,
            profile,
            entries,
            fusion: FuseOptions::default(),
            variants: BTreeMap::new(),
            builder: None,
            max_submit_ms: None,
            emit: &[],
        }
    }
}

/// A plan and what was said on the way.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The plan, proved by [`plan::verify`].
    pub plan: Plan,
    /// Warnings of all stages.
    pub warnings: Vec<Diagnostic>,
    /// The dumps that were asked for, in order.
    pub dumps: Vec<(Stage, String)>,
}

/// Compiles `job`. Every text read goes into `map`, where the places of all messages point.
pub fn compile(job: &Job<'_>, map: &mut SourceMap) -> Result<Compiled, Diagnostics> {
    let mut said = Said {
        warnings: Vec::new(),
        emit: job.emit,
        dumps: Vec::new(),
    };

    let loaded = info_span!("read graph").in_scope(|| text::load(job.graph, job.sources, map))?;
    let library =
        info_span!("read kernels").in_scope(|| kernel::manifest::load(job.sources, map))?;
    let mut fused = Vec::with_capacity(job.entries.len());
    for request in job
        .entries
        .iter()
        .flat_map(|request| request.shapes(&loaded))
    {
        fused.push(front(job, &loaded, &library, &request, &mut said)?);
    }

    graph::share_weights(&mut fused);

    let span = info_span!("choose kernels").entered();
    let mut instances = Instances::new(job.profile, job.sources, job.builder, &job.variants);
    let mut lowered: Vec<IdVec<PassId, Lowered>> = Vec::with_capacity(fused.len());
    for entry in &fused {
        lowered.push(instances.choose(entry.graph(), &library)?);
    }
    drop(span);

    let span = info_span!("schedule").entered();
    let schedules: Vec<Schedule> = fused
        .iter()
        .zip(&lowered)
        .map(|(entry, lowered)| {
            plan::schedule::schedule(entry.graph(), lowered, &job.profile.roofs)
        })
        .collect();
    drop(span);
    let scheduled: Vec<(&Graph, &Schedule)> =
        fused.iter().map(Fused::graph).zip(&schedules).collect();
    said.dump(Stage::Schedule, || plan::dump::schedule(&scheduled));
    let reads: Vec<_> = fused.iter().map(Fused::graph).zip(&lowered).collect();
    let reads = plan::place::Reads::of(&reads);
    let (kernels, needs) = instances.finish();
    let cells = plan::relay::most_bytes(&kernels, &lowered);
    let placement = info_span!("place tensors")
        .in_scope(|| plan::pack::pack(&scheduled, &job.profile.limits, &reads, cells))?;
    chained(&scheduled, &placement, &library)?;
    let parts: Vec<EntryParts<'_>> = scheduled
        .iter()
        .zip(&lowered)
        .map(|((graph, schedule), lowered)| EntryParts {
            graph,
            lowered,
            schedule,
        })
        .collect();
    let guards = plan::guard::guards(&parts, &job.profile.roofs);
    let sync =
        info_span!("place barriers").in_scope(|| plan::sync::sync(&scheduled, &guards, &placement));
    let graphs: Vec<&Graph> = fused.iter().map(Fused::graph).collect();
    let synced = said.text(Stage::Sync, || plan::dump::sync(&graphs, &sync));

    let span = info_span!("lower").entered();
    let (plan, warnings) = plan::lower::lower(Parts {
        entries: &parts,
        guards: &guards,
        placement,
        sync,
        kernels,
        needs,
        profile: job.profile,
        max_submit_ms: job.max_submit_ms,
        params: params(&loaded, &fused),
        source_hash: source_hash(job, map, &graphs),
        sources: map,
    })?;
    drop(span);
    said.warnings.extend(warnings);
    said.dump(Stage::Memory, || plan::dump::memory(&plan));
    said.dumps.extend(synced.map(|text| (Stage::Sync, text)));
    said.dump(Stage::Plan, || plan::dump::plan(&plan));
    said.dump(Stage::Dot, || plan::dump::dot(&plan));
    said.dump(Stage::Svg, || report::picture::picture(&plan));

    info_span!("prove").in_scope(|| prove(&plan, &graphs))?;
    said.dumps.sort_by_key(|(stage, _)| *stage);
    Ok(Compiled {
        plan,
        warnings: said.warnings,
        dumps: said.dumps,
    })
}

/// Stages 2 to 5 for one entry.
fn front(
    job: &Job<'_>,
    loaded: &text::Loaded,
    library: &Library,
    request: &Request,
    said: &mut Said<'_>,
) -> Result<Fused, Diagnostics> {
    let flat = info_span!("expand").in_scope(|| graph::expand(loaded, request))?;
    said.dump(Stage::Flat, || flat.dump());
    let typed = info_span!("infer").in_scope(|| graph::infer(flat, library))?;
    said.dump(Stage::Typed, || typed.dump());
    let checked = info_span!("check").in_scope(|| graph::check(typed))?;
    let mut options = job.fusion.clone();
    options
        .disabled
        .extend(loaded.graph.disable.iter().cloned());
    let fused =
        info_span!("fuse").in_scope(|| graph::fuse(checked, &loaded.fusions, library, &options))?;
    let limit = job.profile.limits.max_storage_buffer_range;
    let fused = info_span!("split").in_scope(|| graph::split(fused, library, limit))?;
    said.dump(Stage::Fused, || fused.dump());
    for warning in fused.warnings() {
        // Entries of one graph warn alike; once is enough.
        if !said
            .warnings
            .iter()
            .any(|earlier| earlier.message == warning.message)
        {
            said.warnings.push(warning.clone());
        }
    }
    Ok(fused)
}

/// A pass that goes on with what another left writes its own part only, so it must have got those very bytes.
fn chained(
    entries: &[(&Graph, &Schedule)],
    placement: &plan::pack::Placement,
    library: &Library,
) -> Result<(), Diagnostics> {
    let mut found = Diagnostics::default();
    for ((graph, _), places) in entries.iter().zip(placement.entries()) {
        for (id, pass) in graph.passes.enumerate() {
            let split = library
                .manifests
                .get(&pass.kernel)
                .and_then(|manifest| manifest.split.as_ref());
            let Some(split) = split else { continue };
            let bound = |name: &str| pass.ports.iter().find(|port| port.name == name);
            let (Some(into), Some(out)) = (bound(&split.into), bound(&split.out)) else {
                continue;
            };
            if places.in_place.get(&(id, out.port)) != Some(&into.port) {
                let message = format!(
                    "`{}` writes a part of `{}` and cannot take over the bytes of `{}`",
                    pass.path, graph.values[out.value].name, graph.values[into.value].name
                );
                found.push(
                    Diagnostic::error(codes::NOT_SPLIT, message)
                        .at(pass.origin.span, "this pass")
                        .help("both must stay inside the graph, whole, and the first must have no other reader"),
                );
            }
        }
    }
    found.into_result().map(drop)
}

/// Params of the graph as this compilation resolved them.
fn params(loaded: &text::Loaded, fused: &[Fused]) -> BTreeMap<String, crate::expr::Value> {
    let Some(first) = fused.first() else {
        return BTreeMap::new();
    };
    let names = loaded
        .graph
        .params
        .iter()
        .map(|(name, _)| name.value.as_str());
    names
        .filter_map(|name| Some((name.to_string(), first.graph().env.get(name)?.clone())))
        .collect()
}

/// A hash over every text that was read and every number that was given.
fn source_hash(job: &Job<'_>, map: &SourceMap, graphs: &[&Graph]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    let mut add = |part: &str| {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    };
    for file in map.files() {
        add(&file.path);
        add(&file.text);
    }
    add(&format!("{:?}", job.profile));
    add(&format!("{:?}", job.entries));
    add(&format!(
        "{:?} {:?} {:?}",
        job.fusion, job.variants, job.max_submit_ms
    ));
    // Native types come from a checkpoint.
    for graph in graphs {
        for weight in graph.values.iter().filter(|value| value.recipe.is_some()) {
            add(weight.dtype.name());
        }
    }
    *hasher.finalize().as_bytes()
}

/// The independent proof, against the plan's own words and the graphs of its entries. A plan that fails it is a mistake
/// of the compiler, never of the user; it is refused.
pub fn prove(plan: &Plan, graphs: &[&Graph]) -> Result<(), Diagnostics> {
    let mut violations = plan::verify::verify(plan).err().unwrap_or_default();
    for (graph, entry) in graphs.iter().zip(&plan.entries) {
        violations.extend(
            plan::verify::verify_against(graph, entry)
                .err()
                .unwrap_or_default(),
        );
    }
    let mut found = Diagnostics::default();
    for violation in violations {
        found.push(
            Diagnostic::error(codes::UNPROVED, format!("the plan is wrong: {violation}"))
                .help("this is a mistake of graphc; please report it with the graph file"),
        );
    }
    found.into_result().map(drop)
}

/// What a compilation says beside its result.
struct Said<'a> {
    warnings: Vec<Diagnostic>,
    emit: &'a [Stage],
    dumps: Vec<(Stage, String)>,
}

impl Said<'_> {
    fn text(&self, stage: Stage, text: impl FnOnce() -> String) -> Option<String> {
        self.emit.contains(&stage).then(text)
    }
    fn dump(&mut self, stage: Stage, text: impl FnOnce() -> String) {
        let text = self.text(stage, text);
        self.dumps.extend(text.map(|text| (stage, text)));
    }
}
