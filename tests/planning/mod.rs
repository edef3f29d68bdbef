//! Graphs built by hand, and the way from a graph to a plan, for the tests of the planner. No kernel is built: every
//! pass runs a stand-in whose bindings are those of its ports.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/device.rs"]
mod device;
pub mod random;

use std::collections::{BTreeMap, BTreeSet};

use graphc::device::{DeviceProfile, Limits, Roofs};
use graphc::diag::{Diagnostic, Diagnostics};
use graphc::dtype::DType;
use graphc::graph::{Class, Graph, Origin, Pass, PortUse, Recipe, ValueInfo};
use graphc::ids::{Id, IdVec, KernelId, PassId, ValueId};
use graphc::kernel::{Access, Binding};
use graphc::plan::guard::guards;
use graphc::plan::lower::{EntryParts, Lowered, Parts, lower};
use graphc::plan::pack::pack;
use graphc::plan::place::Reads;
use graphc::plan::schedule::{Schedule, schedule};
use graphc::plan::sync::sync;
use graphc::plan::{Kernel, Plan};
use graphc::span::{FileId, SourceMap, Span};

pub const SPAN: Span = Span {
    file: FileId(0),
    start: 0,
    end: 0,
};

/// Builds a graph pass by pass. Sizes are counts of f32.
pub struct Builder {
    pub graph: Graph,
}

impl Builder {
    pub fn new(entry: &str) -> Self {
        Self {
            graph: Graph {
                repeat: 1,
                guard: None,
                name: "test".into(),
                entry: entry.into(),
                env: BTreeMap::new(),
                values: IdVec::new(),
                passes: IdVec::new(),
                inputs: vec![],
                outputs: vec![],
            },
        }
    }

    pub fn value(&mut self, name: impl Into<String>, class: Class, count: u64) -> ValueId {
        let name = name.into();
        let recipe = (class == Class::Weight).then(|| Recipe::Tensor(name.clone()));
        let is_input = class == Class::Input;
        let id = self.graph.values.push(ValueInfo {
            name,
            class,
            dtype: DType::F32,
            shape: vec![count],
            view: None,
            recipe,
            origin: Origin {
                span: SPAN,
                via: vec![],
            },
        });
        if is_input {
            self.graph.inputs.push(id);
        }
        id
    }

    pub fn transient(&mut self, name: impl Into<String>, count: u64) -> ValueId {
        self.value(name, Class::Transient, count)
    }

    /// A view of `count` elements from element `first` on.
    pub fn view(
        &mut self,
        name: impl Into<String>,
        of: ValueId,
        first: u64,
        count: u64,
    ) -> ValueId {
        let id = self.value(name, Class::Transient, count);
        self.graph.values[id].view = Some((of, first * 4));
        id
    }

    /// A pass that reads and writes values; `in_place`: its first result may take over its first argument.
    pub fn pass(
        &mut self,
        path: impl Into<String>,
        reads: &[ValueId],
        writes: &[ValueId],
        in_place: bool,
    ) -> PassId {
        let read = reads.iter().map(|value| (*value, Access::Read, None));
        let write = writes.iter().enumerate().map(|(index, value)| {
            (
                *value,
                Access::Write,
                (in_place && index == 0 && !reads.is_empty()).then_some(0),
            )
        });
        self.ports(path, read.chain(write).collect())
    }

    pub fn ports(
        &mut self,
        path: impl Into<String>,
        ports: Vec<(ValueId, Access, Option<u32>)>,
    ) -> PassId {
        let size = |value: ValueId| self.graph.values[value].shape.iter().product::<u64>() as i64;
        let dims = ports
            .iter()
            .enumerate()
            .map(|(index, (value, ..))| (format!("n{index}"), size(*value)))
            .collect();
        let ports = ports
            .into_iter()
            .enumerate()
            .map(|(index, (value, access, in_place))| PortUse {
                port: index as u32,
                name: format!("p{index}"),
                value,
                access,
                in_place,
            });
        self.graph.passes.push(Pass {
            path: path.into(),
            kernel: "stand_in".into(),
            ports: ports.collect(),
            binding: Binding {
                dims,
                types: BTreeMap::new(),
                options: BTreeMap::new(),
                ports: vec![],
            },
            origin: Origin {
                span: SPAN,
                via: vec![],
            },
            fused: vec![],
        })
    }

    pub fn output(&mut self, value: ValueId) {
        if self.graph.values[value].view.is_none()
            && self.graph.values[value].class == Class::Transient
        {
            self.graph.values[value].class = Class::Output;
        }
        self.graph.outputs.push(value);
    }
}

/// A device that can do little, with roofs and with limits under which small parts of values can be bound.
pub fn profile() -> DeviceProfile {
    DeviceProfile {
        limits: Limits {
            min_storage_alignment: 16,
            ..device::limits()
        },
        features: BTreeSet::new(),
        roofs: Roofs {
            read_bytes_per_s: Some(1e9),
            matrix_f16_flops: None,
            f32_flops: Some(1e9),
            dependent_pass_s: Some(1e-6),
            ..Roofs::default()
        },
        ..device::profile()
    }
}

/// Stand-in kernels: one for each list of bindings.
pub fn stand_ins(graphs: &[Graph]) -> (IdVec<KernelId, Kernel>, Vec<IdVec<PassId, Lowered>>) {
    let mut kernels: IdVec<KernelId, Kernel> = IdVec::new();
    let lowered = graphs.iter().map(|graph| {
        let passes = graph.passes.iter().map(|pass| {
            let bindings: Vec<_> = pass
                .ports
                .iter()
                .map(|port| (port.port, port.access))
                .collect();
            let reference = reference(graph, pass);
            let same =
                |kernel: &Kernel| kernel.bindings == bindings && kernel.reference == reference;
            let known = kernels
                .enumerate()
                .find(|(_, kernel)| same(kernel))
                .map(|(id, _)| id);
            let kernel = known.unwrap_or_else(|| kernels.push(stand_in(bindings, reference)));
            Lowered {
                kernel,
                groups: [1, 1, 1],
                push: vec![],
                flops: 1000,
                touched: BTreeMap::new(),
                matrix: false,
            }
        });
        passes.collect()
    });
    let lowered = lowered.collect();
    (kernels, lowered)
}

/// Every result mixes all arguments, element i with element i where the sizes agree; scratch stays as it is, and a guard
/// never lets anything out, so that every result is a number.
fn reference(graph: &Graph, pass: &Pass) -> Vec<String> {
    let read = pass.ports.iter().filter(|port| port.access.reads());
    let terms: Vec<String> = read
        .map(|port| format!("p{0}[i % n{0}] / {1}", port.port, port.port + 3))
        .collect();
    let results = pass
        .ports
        .iter()
        .filter(|port| port.access.writes())
        .map(|port| {
            let at = port.port;
            let info = &graph.values[port.value];
            match info.class {
                Class::Scratch => format!("p{at}[i<n{at}] = p{at}[i]"),
                Class::State if graph.guard.as_ref() == Some(&info.name) => {
                    format!("p{at}[i<n{at}] = 1 + i")
                }
                _ => format!("p{at}[i<n{at}] = 1 + {}", terms.join(" + ")),
            }
        });
    results.collect()
}

fn stand_in(bindings: Vec<(u32, Access)>, reference: Vec<String>) -> Kernel {
    Kernel {
        name: "stand_in".into(),
        variant: "plain".into(),
        label: format!("{bindings:?}"),
        spirv: vec![],
        spec: vec![],
        bindings,
        push_bytes: 0,
        local_size: [64, 1, 1],
        shared_bytes: 0,
        full_subgroups: false,
        relays: None,
        reference,
    }
}

pub fn sources() -> SourceMap {
    let mut sources = SourceMap::default();
    sources.add("graphs/test.ron", "Graph()");
    sources
}

pub fn schedules(graphs: &[Graph]) -> Vec<Schedule> {
    let (_, lowered) = stand_ins(graphs);
    graphs
        .iter()
        .zip(&lowered)
        .map(|(graph, low)| schedule(graph, low, &profile().roofs))
        .collect()
}

pub fn plan(graphs: &[Graph]) -> Plan {
    plan_within(graphs, &profile(), None)
}

pub fn plan_within(graphs: &[Graph], profile: &DeviceProfile, max_submit_ms: Option<f64>) -> Plan {
    let made = attempt(graphs, profile, max_submit_ms);
    made.unwrap_or_else(|found| panic!("{}", found.render(&sources(), false)))
        .0
}

/// The plan with its warnings, or why there is none.
pub fn attempt(
    graphs: &[Graph],
    profile: &DeviceProfile,
    max_submit_ms: Option<f64>,
) -> Result<(Plan, Vec<Diagnostic>), Diagnostics> {
    attempt_with(graphs, profile, max_submit_ms, &|_, _| None)
}

/// The plan where those kernels relay that `relays` gives bindings for.
pub fn relaying_plan(
    graphs: &[Graph],
    relays: &dyn Fn(KernelId, &Kernel) -> Option<Vec<u32>>,
) -> Plan {
    let made = attempt_with(graphs, &profile(), None, relays);
    made.unwrap_or_else(|found| panic!("{}", found.render(&sources(), false)))
        .0
}

fn attempt_with(
    graphs: &[Graph],
    profile: &DeviceProfile,
    max_submit_ms: Option<f64>,
    relays: &dyn Fn(KernelId, &Kernel) -> Option<Vec<u32>>,
) -> Result<(Plan, Vec<Diagnostic>), Diagnostics> {
    let (mut kernels, lowered) = stand_ins(graphs);
    let ids: Vec<KernelId> = kernels.ids().collect();
    for id in ids {
        kernels[id].relays = relays(id, &kernels[id]);
    }
    let schedules = schedules(graphs);
    let pairs: Vec<_> = graphs.iter().zip(&schedules).collect();
    let cells = graphc::plan::relay::most_bytes(&kernels, &lowered);
    let placement = pack(&pairs, &profile.limits, &Reads::default(), cells)?;
    let entries: Vec<_> = pairs
        .iter()
        .zip(&lowered)
        .map(|((graph, schedule), lowered)| EntryParts {
            graph,
            lowered,
            schedule,
        })
        .collect();
    let guards = guards(&entries, &profile.roofs);
    let sync = sync(&pairs, &guards, &placement);
    lower(Parts {
        entries: &entries,
        guards: &guards,
        placement,
        sync,
        kernels,
        needs: BTreeSet::new(),
        profile,
        max_submit_ms,
        params: BTreeMap::new(),
        source_hash: [0; 32],
        sources: &sources(),
    })
}

/// A fused BERT of `layers` layers: five passes a layer, the residual stream `h` ping-pongs.
pub fn bert(entry: &str, layers: u64, rows: u64, width: u64) -> Graph {
    let mut b = Builder::new(entry);
    let ids = b.value("ids", Class::Input, rows);
    let spans = b.value("spans", Class::Input, 64);
    let word = b.value("word", Class::Weight, 1000 * width);
    let mut h = b.transient("h", rows * width);
    b.pass("embed", &[ids, word], &[h], false);
    for l in 0..layers {
        let weight = |b: &mut Builder, name: &str, count| {
            b.value(format!("l{l}/{name}.w"), Class::Weight, count)
        };
        let wq = weight(&mut b, "qkv", 3 * width * width);
        let wo = weight(&mut b, "out", width * width);
        let wu = weight(&mut b, "up", 4 * width * width);
        let wd = weight(&mut b, "down", 4 * width * width);
        let counters = [0, 1].map(|i| {
            b.value(
                format!("l{l}/counters{i}"),
                Class::Scratch,
                rows.div_ceil(8),
            )
        });
        let qkv = b.transient(format!("l{l}/qkv"), 3 * rows * width);
        let ctx = b.transient(format!("l{l}/ctx"), rows * width);
        let mid = b.transient(format!("l{l}/mid"), rows * width);
        let up = b.transient(format!("l{l}/up"), 4 * rows * width);
        let out = b.transient(format!("l{l}/h"), rows * width);
        let linear = |b: &mut Builder, name: &str, x, w, residual, y, scratch| {
            use Access::{Read, ReadWrite, Write};
            let ports = [
                (x, Read),
                (w, Read),
                (residual, Read),
                (scratch, ReadWrite),
                (y, Write),
            ];
            b.ports(
                format!("l{l}/{name}"),
                ports.map(|(value, access)| (value, access, None)).to_vec(),
            );
        };
        b.pass(format!("l{l}/qkv"), &[h, wq], &[qkv], false);
        b.pass(format!("l{l}/attention"), &[qkv, spans], &[ctx], false);
        linear(&mut b, "out", ctx, wo, h, mid, counters[0]);
        b.pass(format!("l{l}/up"), &[mid, wu], &[up], false);
        linear(&mut b, "down", up, wd, mid, out, counters[1]);
        h = out;
    }
    let pooled = b.transient("pooled", 32 * width);
    b.pass("pool", &[h, spans], &[pooled], false);
    b.output(pooled);
    b.graph
}

pub fn value(graph: &Graph, name: &str) -> ValueId {
    graph
        .values
        .enumerate()
        .find(|(_, info)| info.name == name)
        .unwrap()
        .0
}

pub fn wave(schedule: &Schedule, pass: PassId) -> usize {
    schedule.wave_of(pass).index()
}
