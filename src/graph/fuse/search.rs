//! Finds where a rule's pattern stands in a graph. Backtracking over the pattern's passes; each pass after the first
//! is reached through a value that an earlier one bound, so only that value's readers and writer are tried.

use std::collections::{BTreeMap, BTreeSet};

use super::rule::{Pattern, Rule};
use crate::expr::Value;
use crate::graph::{Class, Graph, Pass, PortUse};
use crate::ids::{PassId, ValueId};

/// Where a rule is looked for.
type Place<'a> = (&'a Graph, &'a Uses);

/// Who writes and reads each value, and which values have views.
pub(super) struct Uses {
    pub writer: BTreeMap<ValueId, PassId>,
    pub readers: BTreeMap<ValueId, Vec<PassId>>,
    viewed: BTreeSet<ValueId>,
    nexts: BTreeSet<ValueId>,
}

impl Uses {
    pub(super) fn of(graph: &Graph, live: &BTreeSet<PassId>) -> Self {
        let mut uses = Self {
            writer: BTreeMap::new(),
            readers: BTreeMap::new(),
            viewed: graph
                .values
                .iter()
                .filter_map(|info| info.view.map(|(root, _)| root))
                .collect(),
            nexts: BTreeSet::new(),
        };
        for info in &graph.values {
            if let Class::Carry { next } = info.class {
                uses.nexts.insert(next);
            }
        }
        uses.add(graph, live.iter().copied());
        uses
    }

    /// Notes what passes write and read; readers stay in order.
    pub(super) fn add(&mut self, graph: &Graph, passes: impl Iterator<Item = PassId>) {
        for id in passes {
            for port in &graph.passes[id].ports {
                if port.access.writes() {
                    // Of several writers of state the last counts.
                    let writer = self.writer.entry(port.value).or_insert(id);
                    *writer = (*writer).max(id);
                } else {
                    let readers = self.readers.entry(port.value).or_default();
                    if let Err(at) = readers.binary_search(&id) {
                        readers.insert(at, id);
                    }
                }
            }
        }
    }

    /// Forgets what passes write and read, before they change.
    pub(super) fn forget(&mut self, graph: &Graph, passes: impl Iterator<Item = PassId>) {
        for id in passes {
            for port in &graph.passes[id].ports {
                if self.writer.get(&port.value) == Some(&id) {
                    self.writer.remove(&port.value);
                }
                if let Some(readers) = self.readers.get_mut(&port.value) {
                    readers.retain(|reader| *reader != id);
                }
            }
        }
    }

    /// Whether a value may disappear with `matched`: only they read it, it has no view, and it does not leave the
    /// graph.
    pub(super) fn may_vanish(&self, graph: &Graph, value: ValueId, matched: &[PassId]) -> bool {
        graph.values[value].class == Class::Transient
            && graph.values[value].view.is_none()
            && !self.viewed.contains(&value)
            && !self.nexts.contains(&value)
            && self
                .readers
                .get(&value)
                .is_none_or(|readers| readers.iter().all(|reader| matched.contains(reader)))
    }
}

/// A place where a pattern stands.
#[derive(Clone, Debug)]
pub(super) struct Match {
    /// The passes, in the pattern's order.
    pub passes: Vec<PassId>,
    /// Pattern variables; `None` for an optional port that is not bound.
    pub variables: BTreeMap<String, Option<ValueId>>,
}

/// The matches of `rule` whose first pass is `anchor`, handed to `accept` until it takes one.
pub(super) fn find<T>(
    rule: &Rule,
    place: Place<'_>,
    anchor: PassId,
    accept: &mut dyn FnMut(&Match) -> Option<T>,
) -> Option<T> {
    let start = Match {
        passes: vec![],
        variables: BTreeMap::new(),
    };
    extend(rule, place, start, &[anchor], accept)
}

fn extend<T>(
    rule: &Rule,
    place: Place<'_>,
    so_far: Match,
    candidates: &[PassId],
    accept: &mut dyn FnMut(&Match) -> Option<T>,
) -> Option<T> {
    let (graph, uses) = place;
    let index = so_far.passes.len();
    let pattern = rule.patterns.get(index)?;
    for candidate in candidates
        .iter()
        .filter(|candidate| !so_far.passes.contains(candidate))
    {
        let keeps = rule.from == Some(index);
        let Some(variables) = unify(
            pattern,
            &graph.passes[*candidate],
            (!keeps).then_some(graph),
            &so_far.variables,
        ) else {
            continue;
        };
        let mut next = Match {
            passes: so_far.passes.clone(),
            variables,
        };
        next.passes.push(*candidate);
        let found = match rule.patterns.get(next.passes.len()) {
            None => accept(&next),
            Some(following) => {
                let candidates = reachable(following, uses, &next);
                extend(rule, place, next, &candidates, accept)
            }
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// The passes that share a bound variable with `pattern`.
fn reachable(pattern: &Pattern, uses: &Uses, so_far: &Match) -> Vec<PassId> {
    let bound = |variable: &String| so_far.variables.get(variable).copied().flatten();
    for port in &pattern.reads {
        if let Some(value) = bound(&port.variable) {
            return uses.readers.get(&value).cloned().unwrap_or_default();
        }
    }
    for port in &pattern.writes {
        if let Some(value) = bound(&port.variable) {
            return uses.writer.get(&value).copied().into_iter().collect();
        }
    }
    vec![]
}

/// The variables after `pass` took the part of `pattern`, or `None` if it cannot. A pass that does not live on in the
/// replacement (then `vanishes` is the graph) must have every bound port named, or what it reads would be lost.
fn unify(
    pattern: &Pattern,
    pass: &Pass,
    vanishes: Option<&Graph>,
    variables: &BTreeMap<String, Option<ValueId>>,
) -> Option<BTreeMap<String, Option<ValueId>>> {
    if pass.kernel != pattern.kernel {
        return None;
    }
    let bound = |name: &str| {
        pass.ports
            .iter()
            .find(|port| port.name == name)
            .map(|port| port.value)
    };
    if pattern.absent.iter().any(|port| bound(port).is_some()) {
        return None;
    }
    let same = |wanted: &Value, is: &Value| match (wanted.as_float(), is.as_float()) {
        (Some(wanted), Some(is)) => wanted == is,
        _ => wanted == is,
    };
    if pattern.set.iter().any(|(name, wanted)| {
        !pass
            .binding
            .options
            .get(name)
            .is_some_and(|is| same(wanted, is))
    }) {
        return None;
    }
    let mut variables = variables.clone();
    for port in pattern.reads.iter().chain(&pattern.writes) {
        let value = bound(&port.port);
        if value.is_none() && !port.optional {
            return None;
        }
        if *variables.entry(port.variable.clone()).or_insert(value) != value {
            return None;
        }
    }
    let named = |name: &str| {
        pattern
            .reads
            .iter()
            .chain(&pattern.writes)
            .any(|port| port.port == name)
    };
    let complete = vanishes.is_none_or(|graph| {
        pass.ports
            .iter()
            .all(|port| named(&port.name) || is_scratch(graph, port))
    });
    complete.then_some(variables)
}

/// Whether a port is scratch, zeroed or not, which the compiler binds.
pub(super) fn is_scratch(graph: &Graph, port: &PortUse) -> bool {
    matches!(
        graph.values[port.value].class,
        Class::Scratch | Class::Workspace
    )
}
