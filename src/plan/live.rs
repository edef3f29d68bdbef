//! Lifetimes: the first half of stage 7.
//!
//! In: a graph and its schedule. Out: a [`Live`]: what each value in use is, and which transient values share bytes
//! before any packing (a view with the value it looks into, an in-place result with the argument it takes over).
//! Always: a lifetime is a half-open range of waves that covers every pass that touches the value or a view of it.
//!
//! Lifetimes count waves, not passes, because a wave has no inner order. That is also why aliasing never adds a wave:
//! a value may take over bytes only in a wave after the last one that uses them, and the edge between two waves has
//! a barrier already, since each pass of the longest path reads what the wave before it wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::codes::plan as codes;
use crate::diag::{Diagnostic, Diagnostics};
use crate::graph::{Class, Graph, PortUse};
use crate::ids::{Id, PassId, ValueId};

use super::Role;
use super::schedule::Schedule;

/// Transient values that share their bytes from the first to the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Values (never views) in the order in which they take over the bytes.
    pub values: Vec<ValueId>,
    /// Size in bytes.
    pub bytes: u64,
    /// Waves in which some of them is live, half-open.
    pub waves: Range<usize>,
}

/// What an entry keeps where, before anything has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// Every value that needs a tensor, views included, with what it is.
    pub roles: BTreeMap<ValueId, Role>,
    /// Transient values in groups, in the order of their first values.
    pub groups: Vec<Group>,
    /// For each pass and written binding that takes over a read binding's bytes: that binding.
    pub in_place: BTreeMap<(PassId, u32), u32>,
    /// Values in the output arena that take over another's place there, with that one: links of a chain that ends in
    /// an output.
    pub follows: BTreeMap<ValueId, ValueId>,
}

impl Live {
    /// The value that `value` has its place from: itself, unless it takes over another's.
    pub fn first(&self, value: ValueId) -> ValueId {
        let mut first = value;
        // Each link is written after the one before it, so this ends.
        while let Some(before) = self.follows.get(&first) {
            first = *before;
        }
        first
    }
}

/// Finds the lifetimes and the groups of one entry.
pub fn live(graph: &Graph, schedule: &Schedule) -> Result<Live, Diagnostics> {
    let roles = roles(graph)?;
    let uses = Uses::of(graph, schedule);
    let transient = |value: &ValueId| roles.get(value) == Some(&Role::Transient);
    let mut groups: Vec<Group> = Vec::new();
    let mut group_of: BTreeMap<ValueId, usize> = BTreeMap::new();
    let mut in_place = BTreeMap::new();
    let mut follows = BTreeMap::new();
    for pass in schedule.waves().iter().flatten() {
        for port in graph.passes[*pass]
            .ports
            .iter()
            .filter(|port| port.access.writes())
        {
            let root = graph.root(port.value);
            if roles.get(&root) == Some(&Role::Output)
                && let Some(from) = taken_over(graph, &uses, *pass, port)
                && roles.get(&from.value) == Some(&Role::Output)
                && !graph.outputs.contains(&from.value)
            {
                follows.insert(root, from.value);
                in_place.insert((*pass, port.port), from.port);
            }
            if !transient(&root) || group_of.contains_key(&root) {
                continue;
            }
            let waves = uses.waves[&root].clone();
            let from = taken_over(graph, &uses, *pass, port);
            match from.and_then(|from| Some((from, *group_of.get(&from.value)?))) {
                Some((from, group)) => {
                    groups[group].values.push(root);
                    groups[group].waves.end = waves.end;
                    group_of.insert(root, group);
                    in_place.insert((*pass, port.port), from.port);
                }
                None => {
                    group_of.insert(root, groups.len());
                    let bytes = graph.values[root].bytes().unwrap_or(u64::MAX);
                    groups.push(Group {
                        values: vec![root],
                        bytes,
                        waves,
                    });
                }
            }
        }
    }
    Ok(Live {
        roles,
        groups,
        in_place,
        follows,
    })
}

/// Who touches each root, and which roots are looked into by views.
struct Uses {
    waves: BTreeMap<ValueId, Range<usize>>,
    last: BTreeMap<ValueId, BTreeSet<PassId>>,
    ports: BTreeMap<(PassId, ValueId), usize>,
    writers: BTreeMap<ValueId, BTreeSet<PassId>>,
    viewed: BTreeSet<ValueId>,
}

impl Uses {
    fn of(graph: &Graph, schedule: &Schedule) -> Self {
        let mut uses = Self {
            waves: BTreeMap::new(),
            last: BTreeMap::new(),
            ports: BTreeMap::new(),
            writers: BTreeMap::new(),
            viewed: BTreeSet::new(),
        };
        for (pass, info) in graph.passes.enumerate() {
            let wave = schedule.wave_of(pass).index();
            for port in &info.ports {
                let root = graph.root(port.value);
                if root != port.value {
                    uses.viewed.insert(root);
                }
                let waves = uses.waves.entry(root).or_insert(wave..wave + 1);
                if wave + 1 > waves.end {
                    uses.last.remove(&root);
                }
                *waves = waves.start.min(wave)..waves.end.max(wave + 1);
                if waves.end == wave + 1 {
                    uses.last.entry(root).or_default().insert(pass);
                }
                *uses.ports.entry((pass, root)).or_default() += 1;
                if port.access.writes() {
                    uses.writers.entry(root).or_default().insert(pass);
                }
            }
        }
        uses
    }
}

/// The read port whose bytes `port` of `pass` may take over: the kernel allows it, and nobody else can notice.
fn taken_over<'a>(
    graph: &'a Graph,
    uses: &Uses,
    pass: PassId,
    port: &PortUse,
) -> Option<&'a PortUse> {
    let wanted = port.in_place?;
    let from = graph.passes[pass]
        .ports
        .iter()
        .find(|from| from.port == wanted)?;
    let (old, new) = (from.value, port.value);
    let whole = |value| graph.root(value) == value && !uses.viewed.contains(&value);
    let bound_once = |value| uses.ports.get(&(pass, value)) == Some(&1);
    let only_here = |passes: &BTreeMap<ValueId, BTreeSet<PassId>>, value| {
        passes
            .get(&value)
            .is_some_and(|passes| passes.iter().eq([&pass]))
    };
    let allowed = !from.access.writes()
        && old != new
        && whole(old)
        && whole(new)
        && bound_once(old)
        && bound_once(new)
        && only_here(&uses.last, old)
        && only_here(&uses.writers, new)
        && graph.values[old].bytes() == graph.values[new].bytes();
    allowed.then_some(from)
}

/// What every value in use is. A value whose bytes the host reads, itself or through a view, is an output.
fn roles(graph: &Graph) -> Result<BTreeMap<ValueId, Role>, Diagnostics> {
    let mut used: BTreeSet<ValueId> = graph
        .passes
        .iter()
        .flat_map(|pass| pass.ports.iter().map(|port| port.value))
        .collect();
    used.extend(graph.inputs.iter().chain(&graph.outputs));
    let carries: Vec<(ValueId, ValueId)> = graph
        .values
        .enumerate()
        .filter_map(|(value, info)| match info.class {
            Class::Carry { next } => Some((value, next)),
            _ => None,
        })
        .collect();
    used.extend(carries.iter().flat_map(|(value, next)| [*value, *next]));
    used.extend(
        used.iter()
            .map(|value| graph.root(*value))
            .collect::<Vec<_>>(),
    );

    let mut roles: BTreeMap<ValueId, Role> = used
        .iter()
        .map(|value| {
            let info = &graph.values[*value];
            let role = match info.class {
                _ if info.view.is_some() => Role::View,
                Class::Input => Role::Input,
                Class::Weight => Role::Weight,
                Class::State => Role::State,
                Class::Scratch => Role::Scratch,
                Class::Carry { .. } => Role::Carry,
                Class::Output => Role::Output,
                // It is written when its pass starts and dead when the pass ends.
                Class::Transient | Class::Workspace => Role::Transient,
            };
            (*value, role)
        })
        .collect();
    let mut found = Diagnostics::default();
    for output in &graph.outputs {
        match roles.get_mut(&graph.root(*output)) {
            Some(role @ (Role::Transient | Role::Output)) => *role = Role::Output,
            role => found.push(output_not_written(graph, *output, role.copied())),
        }
    }
    for (carry, next) in carries {
        match roles.get_mut(&next) {
            Some(role @ Role::Transient) => *role = Role::CarryNext,
            role => found.push(carry_not_written(graph, carry, next, role.copied())),
        }
    }
    found.into_result().map(|_| roles)
}

fn output_not_written(graph: &Graph, output: ValueId, role: Option<Role>) -> Diagnostic {
    let info = &graph.values[output];
    let what = format!(
        "output `{}` is {}, which no pass writes into the output arena",
        info.name,
        describe(role)
    );
    Diagnostic::error(codes::UNWRITTEN_OUTPUT, what)
        .at(info.origin.span, "this value")
        .help("copy it with a pass, or read it where it comes from")
}

fn carry_not_written(
    graph: &Graph,
    carry: ValueId,
    next: ValueId,
    role: Option<Role>,
) -> Diagnostic {
    let (carry, next) = (&graph.values[carry], &graph.values[next]);
    let what = format!(
        "carry `{}` cannot take its next value from `{}`, which is {}",
        carry.name,
        next.name,
        describe(role)
    );
    Diagnostic::error(codes::CARRY_LOST, what)
        .at(carry.origin.span, "this carry")
        .at(next.origin.span, "the value for the next submit")
        .help("let a pass write the next value, whole and for this carry alone")
}

fn describe(role: Option<Role>) -> &'static str {
    match role {
        Some(Role::Input) => "an input",
        Some(Role::Weight) => "a weight",
        Some(Role::State) => "state",
        Some(Role::Scratch) => "scratch",
        Some(Role::Carry) => "a carry",
        Some(Role::CarryNext) => "the next value of a carry",
        Some(Role::Output) => "an output",
        Some(Role::View) => "a view",
        Some(Role::Transient) | None => "not written",
    }
}
