//! The last part of the proof: an entry of a plan runs exactly the passes of a graph, on its values, in an order that
//! respects its reads and writes.

use std::collections::BTreeMap;

use super::{Found, Rule, Violation};
use crate::graph::{Class, Graph, Pass};
use crate::ids::{IdVec, PassId, TensorId, ValueId};
use crate::plan::{Entry, PassInfo, Role, Step};

/// Compares an entry with its graph. Only for entries of a plan that passed [`verify`](super::verify()).
pub fn verify_against(graph: &Graph, entry: &Entry) -> Result<(), Vec<Violation>> {
    let mut found = Found::default();
    if graph.passes.len() != entry.passes.len() {
        let message = format!(
            "{} passes for the {} of the graph",
            entry.passes.len(),
            graph.passes.len()
        );
        found.add(Rule::Graph, entry, None, None, message);
        return found.result();
    }
    if graph.repeat != entry.repeat {
        let message = format!(
            "{} rounds for the {} of the graph",
            entry.repeat, graph.repeat
        );
        found.add(Rule::Graph, entry, None, None, message);
    }
    if let Some(guard) = entry.guard {
        let name = &entry.tensors[guard].name;
        if graph.guard.as_ref() != Some(name) {
            let wanted = graph.guard.as_deref().unwrap_or("nothing");
            let message = format!("`{name}` guards a round, in the graph {wanted} does");
            found.add(Rule::Graph, entry, None, Some(guard), message);
        }
    }
    let mut pairs = Pairs {
        graph,
        entry,
        tensor_of: BTreeMap::new(),
        value_of: BTreeMap::new(),
    };
    for ((id, wanted), planned) in graph.passes.enumerate().zip(&entry.passes) {
        pairs.pass(id, wanted, planned, &mut found);
    }
    let lists = [
        (&graph.inputs, &entry.inputs),
        (&graph.outputs, &entry.outputs),
    ];
    for (values, tensors) in lists {
        if values.len() != tensors.len() {
            found.add(
                Rule::Graph,
                entry,
                None,
                None,
                "inputs or outputs are not those of the graph".into(),
            );
        }
        for (value, tensor) in values.iter().zip(tensors) {
            pairs.pair(None, *value, *tensor, &mut found);
        }
    }
    pairs.views(&mut found);
    order(graph, entry, &mut found);
    found.result()
}

/// Which tensor stands for which value, found port by port. It must be one to one.
struct Pairs<'a> {
    graph: &'a Graph,
    entry: &'a Entry,
    tensor_of: BTreeMap<ValueId, TensorId>,
    value_of: BTreeMap<TensorId, ValueId>,
}

impl Pairs<'_> {
    fn pass(&mut self, id: PassId, wanted: &Pass, planned: &PassInfo, found: &mut Found) {
        let mut differs = |what: &str| {
            let message = format!(
                "pass `{}` of the graph has {what} in the plan (`{}`)",
                wanted.path, planned.path
            );
            found.add(Rule::Graph, self.entry, Some(id), None, message);
        };
        if wanted.path != planned.path {
            differs("another path");
        }
        if wanted.binding.dims != planned.dims || wanted.binding.options != planned.options {
            differs("other dims or options");
        }
        if wanted.ports.len() != planned.binds.len() {
            return differs("other bindings");
        }
        for (port, bind) in wanted.ports.iter().zip(&planned.binds) {
            if (port.port, &port.name, port.access) != (bind.binding, &bind.port, bind.access) {
                differs("other bindings");
            }
            if bind.in_place.is_some() && bind.in_place != port.in_place {
                differs("a result in place of an argument that its kernel does not allow");
            }
        }
        for (port, bind) in wanted.ports.iter().zip(&planned.binds) {
            self.pair(Some(id), port.value, bind.tensor, found);
        }
    }

    fn pair(&mut self, pass: Option<PassId>, value: ValueId, tensor: TensorId, found: &mut Found) {
        let Some(planned) = self.entry.tensors.get(tensor) else {
            return;
        };
        let info = &self.graph.values[value];
        let tensor_before = *self.tensor_of.entry(value).or_insert(tensor);
        let value_before = *self.value_of.entry(tensor).or_insert(value);
        if tensor_before != tensor || value_before != value {
            let message = format!(
                "tensor `{}` stands where the graph has `{}`",
                planned.name, info.name
            );
            found.add(Rule::Graph, self.entry, pass, Some(tensor), message);
        }
        let role = match info.class {
            _ if info.view.is_some() => planned.role == Role::View,
            Class::Input => planned.role == Role::Input,
            Class::Weight => planned.role == Role::Weight,
            Class::State => planned.role == Role::State,
            Class::Scratch => planned.role == Role::Scratch,
            Class::Workspace => planned.role == Role::Transient,
            Class::Carry { .. } => planned.role == Role::Carry,
            Class::Output | Class::Transient => {
                matches!(
                    planned.role,
                    Role::Output | Role::Transient | Role::CarryNext
                )
            }
        };
        if !role
            || (&info.name, info.dtype, &info.shape)
                != (&planned.name, planned.dtype, &planned.shape)
        {
            let message = format!(
                "tensor `{}` {} {:?} is not the graph's `{}` {} {:?}",
                planned.name, planned.dtype, planned.shape, info.name, info.dtype, info.shape
            );
            found.add(Rule::Graph, self.entry, pass, Some(tensor), message);
        }
    }

    /// A view shows the same bytes of the same value; a carry's next value is the graph's.
    fn views(&mut self, found: &mut Found) {
        for (value, tensor) in &self.tensor_of {
            let Some(planned) = self.entry.tensors.get(*tensor) else {
                continue;
            };
            let expected = self.graph.values[*value].view;
            let actual = planned
                .view_of
                .and_then(|root| Some((root, self.entry.tensors.get(root)?)));
            let same = match (expected, actual) {
                (None, None) => true,
                (Some((root, first)), Some((id, into))) => {
                    let paired = self.tensor_of.get(&root).is_none_or(|tensor| *tensor == id);
                    paired
                        && self.graph.values[root].name == into.name
                        && into.offset.checked_add(first) == Some(planned.offset)
                }
                _ => false,
            };
            if !same {
                let message = format!("`{}` does not look where the graph says", planned.name);
                found.add(Rule::Graph, self.entry, None, Some(*tensor), message);
            }
            if let Class::Carry { next } = self.graph.values[*value].class {
                let handed_on = self
                    .tensor_of
                    .get(&next)
                    .and_then(|next| self.entry.tensors.get(*next));
                if handed_on
                    .is_none_or(|next| (next.arena, next.offset) != (planned.arena, planned.offset))
                {
                    let message = format!(
                        "the next value of `{}` does not lie in its other slot",
                        planned.name
                    );
                    found.add(Rule::Graph, self.entry, None, Some(*tensor), message);
                }
            }
        }
    }
}

/// Passes that touch one value, one of them writing, run in the order of the graph with a barrier between them.
fn order(graph: &Graph, entry: &Entry, found: &mut Found) {
    let mut waves: IdVec<PassId, u64> = entry.passes.iter().map(|_| 0).collect();
    let mut wave = 0u64;
    for step in &entry.steps {
        match step {
            Step::Dispatch(pass) if entry.passes.get(*pass).is_some() => waves[*pass] = wave,
            Step::Barrier(_) => wave += 1,
            _ => {}
        }
    }
    // The latest wave that wrote or read each value so far, in graph order.
    let mut last: BTreeMap<ValueId, (Option<u64>, Option<u64>)> = BTreeMap::new();
    for (pass, info) in graph.passes.enumerate() {
        let mut own: BTreeMap<ValueId, (bool, bool)> = BTreeMap::new();
        for port in &info.ports {
            let touches = own.entry(graph.root(port.value)).or_default();
            touches.0 |= port.access.writes();
            touches.1 |= port.access.reads();
        }
        for (root, (writes, reads)) in own {
            let (written, read) = last.entry(root).or_default();
            let settled = if writes {
                (*written).max(*read)
            } else {
                *written
            };
            if settled.is_some_and(|before| before >= waves[pass]) {
                let message = format!(
                    "pass `{}` runs too early for `{}`",
                    info.path, graph.values[root].name
                );
                found.add(Rule::Graph, entry, Some(pass), None, message);
            }
            if writes {
                *written = (*written).max(Some(waves[pass]));
            }
            if reads {
                *read = (*read).max(Some(waves[pass]));
            }
        }
    }
}
