//! What names stand for in a body: every binding is a value of its own, and a name may be read before it is bound.

use std::collections::{BTreeMap, BTreeSet};

use super::{Problem, Unroller};
use crate::codes::graph as codes;
use crate::diag::{Diagnostic, nearest};
use crate::graph::Origin;
use crate::graph::expand::eval::Scope;
use crate::graph::flat::{FlatKind, FlatValue};
use crate::ids::ValueId;
use crate::span::Span;
use crate::text::ast::{Item, Map, Name, StateItem, ViewItem, WeightItem};

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    /// A value.
    Value(ValueId),
    /// A weight that is not there: ports that name it stay unbound.
    Absent,
    /// State that is not there: ports that read or update it stay unbound.
    AbsentState,
    /// Something that could not be made; the reason has been reported.
    Broken,
}

/// One body being unrolled.
pub(super) struct Frame<'a> {
    pub(super) env: Scope,
    pub(super) names: BTreeMap<String, Bound>,
    /// The path of the body, ending in `/` unless empty.
    pub(super) prefix: String,
    pub(super) via: Vec<(Span, Option<(String, i64)>)>,
    /// Blocks around this body, outermost first.
    pub(super) blocks: Vec<&'a str>,
    pub(super) depth: usize,
    /// Whether a block around this body has the path of an earlier one and a number behind it.
    pub(super) numbered: bool,
    /// For each name that an item of this body binds: the last such item.
    pub(super) last: BTreeMap<&'a str, (usize, Span)>,
    /// Names that items of this body take, switched off or not.
    pub(super) taken: BTreeSet<&'a str>,
    /// Names that bodies around this one bind after it.
    pub(super) later: BTreeMap<&'a str, Span>,
    /// The item being unrolled.
    pub(super) at: usize,
    /// Names read before their first binding: the stand-in, the reader, and whether it is bound by now.
    pub(super) forward: BTreeMap<String, (ValueId, Span, Option<Span>)>,
}

impl<'a> Frame<'a> {
    pub(super) fn origin(&self, span: Span) -> Origin {
        Origin {
            span,
            via: self.via.clone(),
        }
    }

    /// The frame of a graph's own body.
    pub(super) fn outermost(body: &'a [Item], env: Scope) -> Self {
        Self {
            env,
            names: BTreeMap::new(),
            prefix: String::new(),
            via: vec![],
            blocks: vec![],
            depth: 0,
            numbered: false,
            last: last_bindings(body),
            taken: taken_names(body),
            later: BTreeMap::new(),
            at: 0,
            forward: BTreeMap::new(),
        }
    }

    /// The frame of a body inside this one; it sees the names around it until the caller says otherwise.
    pub(super) fn inner(
        &self,
        at: Span,
        index: Option<(String, i64)>,
        path: &Name,
        body: &'a [Item],
    ) -> Frame<'a> {
        let mut via = vec![(at, index)];
        via.extend(self.via.iter().cloned());
        let mut later = self.later.clone();
        later.extend(
            self.last
                .iter()
                .filter(|(_, (index, _))| *index > self.at)
                .map(|(name, (_, span))| (*name, *span)),
        );
        Frame {
            env: self.env.clone(),
            names: self.names.clone(),
            prefix: format!("{}{}/", self.prefix, path.value),
            via,
            blocks: self.blocks.clone(),
            depth: self.depth + 1,
            numbered: self.numbered,
            last: last_bindings(body),
            taken: taken_names(body),
            later,
            at: 0,
            forward: BTreeMap::new(),
        }
    }
}

impl<'a> Unroller<'a> {
    /// What a name stands for here; `forward`: a later binding of the same body will do.
    pub(super) fn lookup(
        &mut self,
        frame: &mut Frame<'a>,
        name: &Name,
        forward: bool,
    ) -> Result<Bound, Problem> {
        if let Some(bound) = frame.names.get(&name.value) {
            return Ok(*bound);
        }
        if let Some((stand_in, _, _)) = frame.forward.get(&name.value) {
            return Ok(Bound::Value(*stand_in));
        }
        let in_body = frame
            .last
            .get(name.value.as_str())
            .is_some_and(|(last, _)| *last > frame.at);
        if forward && in_body {
            let origin = frame.origin(name.span);
            let value = self.flat.values.push(FlatValue {
                name: name.value.clone(),
                kind: FlatKind::Written,
                named: true,
                origin,
            });
            frame
                .forward
                .insert(name.value.clone(), (value, name.span, None));
            return Ok(Bound::Value(value));
        }
        let own = frame
            .last
            .get(name.value.as_str())
            .filter(|(last, _)| *last >= frame.at);
        match own
            .map(|(_, span)| span)
            .or(frame.later.get(name.value.as_str()))
        {
            Some(later) => Err(too_early(name, *later)),
            None => Err(self.unknown(frame, name)),
        }
    }

    pub(super) fn bind(
        &mut self,
        frame: &mut Frame<'a>,
        name: &Name,
        bound: Bound,
    ) -> Result<(), Problem> {
        if let Some((stand_in, reader, first)) = frame.forward.get_mut(&name.value) {
            if let Some(first) = first {
                let message = format!(
                    "`{}` is read before it is written, and two items write it",
                    name.value
                );
                return Err(Diagnostic::error(codes::TWO_WRITERS, message)
                    .at(name.span, "written here")
                    .at(*first, "and here")
                    .at(*reader, "read before both")
                    .help("give one of them another name, or move the read between them")
                    .into());
            }
            *first = Some(name.span);
            if let Bound::Value(value) = bound {
                self.aliases.insert(*stand_in, value);
            }
        }
        frame.names.insert(name.value.clone(), bound);
        Ok(())
    }

    /// After a body: every name that was read early must have been bound.
    pub(super) fn close(&mut self, frame: &Frame<'a>) {
        for (name, (stand_in, reader, _)) in &frame.forward {
            if self.aliases.contains_key(stand_in) || frame.names.get(name) == Some(&Bound::Broken)
            {
                continue;
            }
            let message = format!(
                "nothing binds `{name}`: the item that names it is switched off or has no value for it"
            );
            let mut error =
                Diagnostic::error(codes::UNKNOWN_VALUE, message).at(*reader, "read here");
            if let Some((_, span)) = frame.last.get(name.as_str()) {
                error = error.at(*span, "named here");
            }
            self.report(frame, error.into());
        }
    }

    pub(super) fn unknown(&self, frame: &Frame<'a>, name: &Name) -> Problem {
        let error = Diagnostic::error(
            codes::UNKNOWN_VALUE,
            format!("unknown value `{}`", name.value),
        )
        .at(name.span, "");
        let known = frame
            .names
            .keys()
            .map(String::as_str)
            .chain(frame.last.keys().copied());
        let known = known.filter(|known| *known != name.value);
        match (nearest(&name.value, known), frame.blocks.last()) {
            (Some(near), _) => error.help(format!("did you mean `{near}`?")),
            (None, Some(block)) => error.help(format!(
                "a block sees only its inputs: add it to `in` of block `{block}`"
            )),
            (None, None) => error.help("nothing in this body binds it"),
        }
        .into()
    }
}

/// For each name that the items of a body bind: the index and place of the last one that does.
fn last_bindings(body: &[Item]) -> BTreeMap<&str, (usize, Span)> {
    let mut last = BTreeMap::new();
    for (index, item) in body.iter().enumerate() {
        let outputs: Vec<&Name> = match item {
            Item::Pass(pass) => pass.outputs.iter().map(|(_, name)| name).collect(),
            Item::Use(item) => item.outputs.iter().map(|(_, name)| name).collect(),
            Item::Repeat(repeat) => repeat.carry.iter().map(|(_, name)| name).collect(),
            Item::Weight(weight) => vec![&weight.name],
            Item::State(state) => vec![&state.name],
            Item::View(view) => vec![&view.name],
        };
        for name in outputs {
            last.insert(name.value.as_str(), (index, name.span));
        }
    }
    last
}

/// Names that the items of a body take as arguments, those of switched-off items included. The body of a repeat sees
/// the names around it.
fn taken_names(body: &[Item]) -> BTreeSet<&str> {
    fn values(map: &Map<Name>) -> impl Iterator<Item = &str> {
        map.iter().map(|(_, name)| name.value.as_str())
    }
    let mut taken = BTreeSet::new();
    for item in body {
        match item {
            Item::Pass(pass) => taken.extend(values(&pass.inputs).chain(values(&pass.otherwise))),
            Item::Use(item) => taken.extend(values(&item.inputs).chain(values(&item.otherwise))),
            Item::Repeat(repeat) => {
                taken.extend(values(&repeat.carry));
                taken.extend(taken_names(&repeat.body));
            }
            Item::View(view) => {
                taken.insert(view.of.value.as_str());
            }
            Item::Weight(_) | Item::State(_) => {}
        }
    }
    taken
}

pub(super) fn too_early(name: &Name, later: Span) -> Problem {
    let message = format!("`{}` is used before it exists", name.value);
    let error = Diagnostic::error(codes::TOO_EARLY, message)
        .at(name.span, "used here")
        .at(later, "bound here");
    error.help("move the item that binds it up").into()
}

/// One item cannot bind one name twice.
pub(super) fn twice(outputs: &Map<Name>) -> Result<(), Problem> {
    let mut seen: BTreeMap<&str, &Name> = BTreeMap::new();
    for (port, name) in outputs {
        if let Some(first) = seen.insert(&name.value, port) {
            let message = format!(
                "`{}` and `{}` both write `{}`",
                first.value, port.value, name.value
            );
            let error = Diagnostic::error(codes::TWO_WRITERS, message)
                .at(port.span, "here")
                .at(first.span, "and here");
            return Err(error.help("give one of them another name").into());
        }
    }
    Ok(())
}

pub(super) fn suggest(error: Diagnostic, wanted: &str, names: &[Name]) -> Diagnostic {
    let known = || names.iter().map(|name| name.value.as_str());
    match nearest(wanted, known()) {
        Some(near) => error.help(format!("did you mean `{near}`?")),
        None if names.is_empty() => error.help("it has none"),
        None => error.help(format!("it has {}", known().collect::<Vec<_>>().join(", "))),
    }
}

pub(super) fn break_outputs(outputs: &Map<Name>, frame: &mut Frame<'_>) {
    for (_, name) in outputs {
        frame.names.insert(name.value.clone(), Bound::Broken);
    }
}

/// After a problem: what the item would have bound is broken, so that its readers stay silent.
pub(super) fn break_names(item: &Item, frame: &mut Frame<'_>) {
    match item {
        Item::Pass(pass) => break_outputs(&pass.outputs, frame),
        Item::Use(item) => break_outputs(&item.outputs, frame),
        Item::Repeat(repeat) => break_outputs(&repeat.carry, frame),
        Item::Weight(WeightItem { name, .. })
        | Item::State(StateItem { name, .. })
        | Item::View(ViewItem { name, .. }) => {
            frame.names.insert(name.value.clone(), Bound::Broken);
        }
    }
}

/// `path`, or `path_2`, `path_3`, .. if it is taken.
pub(super) fn unique(taken: &mut BTreeMap<String, u32>, path: String) -> String {
    let mut candidate = path.clone();
    loop {
        if !taken.contains_key(&candidate) {
            taken.insert(candidate.clone(), 1);
            return candidate;
        }
        let count = taken.entry(path.clone()).or_insert(1);
        *count += 1;
        candidate = format!("{path}_{count}");
    }
}
