//! Bodies: passes, uses, repeats, weights and views, unrolled in file order into a [`Flat`].

mod calls;
mod items;
mod names;

use std::collections::{BTreeMap, BTreeSet};

use self::names::{Bound, Frame, break_names};
use super::{NativeTypes, Request};
use crate::codes::graph as codes;
use crate::diag::{Diagnostic, Diagnostics};
use crate::graph::flat::{Flat, FlatKind, FlatValue};
use crate::graph::order;
use crate::ids::{IdVec, ValueId};
use crate::span::Span;
use crate::text::Loaded;
use crate::text::ast::{Block, Item, Name};

/// The most passes a graph may have.
const MAX_PASSES: usize = 100_000;
/// The most items and repeat rounds that one expansion may visit.
const MAX_STEPS: usize = 1_000_000;
/// The deepest nesting of blocks and repeats.
const MAX_DEPTH: usize = 32;
/// After this many problems expansion stops.
const MAX_PROBLEMS: usize = 50;

/// What stands among the reported places once a limit was passed.
const LIMIT_REPORTED: (&str, u32, u32) = (codes::LIMIT.0, 0, 0);

/// A problem that ends the item it is in.
type Problem = Box<Diagnostic>;

struct Unroller<'a> {
    blocks: BTreeMap<&'a str, &'a Block>,
    native: Option<&'a NativeTypes>,
    flat: Flat,
    problems: Diagnostics,
    /// Codes and places already reported: a mistake in a layer is one mistake, not twelve.
    reported: BTreeSet<(&'static str, u32, u32)>,
    /// Stand-ins for values that are bound later, and what they turned out to be.
    aliases: BTreeMap<ValueId, ValueId>,
    /// Weights by what they are made of: the same one declared twice is loaded once.
    weights: BTreeMap<String, ValueId>,
    /// How often each path of a value, a pass or a block has been taken.
    paths: BTreeMap<String, u32>,
    pass_paths: BTreeMap<String, u32>,
    block_paths: BTreeMap<String, u32>,
    steps: usize,
}

/// Unrolls the graph's body into `flat`, which brings the environment.
pub(super) fn unroll(loaded: &Loaded, request: &Request, flat: Flat) -> Result<Flat, Diagnostics> {
    let graph = &loaded.graph;
    let mut unroller = Unroller {
        blocks: loaded
            .blocks
            .iter()
            .map(|block| (block.name.value.as_str(), block))
            .collect(),
        native: request.native.as_ref(),
        flat,
        problems: Diagnostics::default(),
        reported: BTreeSet::new(),
        aliases: BTreeMap::new(),
        weights: BTreeMap::new(),
        paths: BTreeMap::new(),
        pass_paths: BTreeMap::new(),
        block_paths: BTreeMap::new(),
        steps: 0,
    };
    let mut frame = Frame::outermost(&graph.body, unroller.flat.env.clone());
    unroller.declare(&mut frame, &graph.inputs, |declared| {
        FlatKind::Input(declared)
    });
    unroller.flat.inputs = unroller.flat.values.ids().collect();
    unroller.declare(&mut frame, &graph.state, |declared| {
        FlatKind::State(declared)
    });
    let tensors: Vec<_> = graph
        .carry
        .iter()
        .map(|(name, carry)| (name.clone(), carry.tensor.clone()))
        .collect();
    // `next` is known only after the body; until then a carry points at the first value.
    unroller.declare(&mut frame, &tensors, |declared| {
        FlatKind::Carry(declared, ValueId(0))
    });
    let carries: Vec<_> = graph
        .carry
        .iter()
        .map(|(name, _)| frame.names.get(&name.value).copied())
        .collect();
    unroller.body(&graph.body, &mut frame);
    if unroller.reported.contains(&LIMIT_REPORTED) {
        // The rest of the body was not looked at: nothing more can be said about its names.
        return unroller.finish();
    }
    unroller.close(&frame);
    for ((_, carry), bound) in graph.carry.iter().zip(carries) {
        unroller.carry_next(&mut frame, &carry.next, bound);
    }
    unroller.outputs(&graph.outputs, &mut frame);
    unroller.finish()
}

impl<'a> Unroller<'a> {
    fn body(&mut self, body: &'a [Item], frame: &mut Frame<'a>) {
        for (index, item) in body.iter().enumerate() {
            frame.at = index;
            self.steps += 1;
            if self.stopped(frame, item_span(item)) {
                return;
            }
            let result = match item {
                Item::Pass(pass) => self.pass(pass, frame),
                Item::Use(item) => self.inline(item, frame),
                Item::Repeat(repeat) => self.repeat(repeat, frame),
                Item::Weight(weight) => self.weight(weight, frame),
                Item::State(state) => self.state(state, frame),
                Item::View(view) => self.view(view, frame),
            };
            if let Err(problem) = result {
                self.report(frame, problem);
                break_names(item, frame);
            }
        }
    }

    /// Finds the values of the outputs. A name that only switched-off items bind is no output of this entry.
    fn outputs(&mut self, outputs: &[Name], frame: &mut Frame<'a>) {
        for output in outputs {
            let name = output.value.as_str();
            if !frame.names.contains_key(name) && frame.last.contains_key(name) {
                continue;
            }
            match self.lookup(frame, output, false) {
                Ok(Bound::Value(value)) => {
                    self.name_output(value, name);
                    self.flat.outputs.push((output.clone(), value));
                }
                Ok(Bound::Absent | Bound::AbsentState) => {
                    let message = format!("output `{name}` is a weight or state that is not there");
                    let error = Diagnostic::error(codes::UNKNOWN_VALUE, message);
                    self.report(frame, error.at(output.span, "").into());
                }
                Ok(Bound::Broken) => {}
                Err(problem) => self.report(frame, problem),
            }
        }
    }

    /// What a block made for an output is known to the host by the output's name, not by the block's.
    fn name_output(&mut self, value: ValueId, name: &str) {
        let written = matches!(self.flat.values[value].kind, FlatKind::Written);
        if written && self.flat.values.iter().all(|other| other.name != name) {
            self.flat.values[value].name = name.to_owned();
        }
    }

    /// Whether to give up; says so once.
    fn stopped(&mut self, frame: &Frame<'a>, span: Span) -> bool {
        let limit = if self.flat.passes.len() >= MAX_PASSES {
            format!("the graph has more than {MAX_PASSES} passes")
        } else if self.steps > MAX_STEPS {
            format!("the graph has more than {MAX_STEPS} items and repeat rounds")
        } else {
            return self.reported.len() >= MAX_PROBLEMS;
        };
        if self.reported.insert(LIMIT_REPORTED) {
            let error =
                Diagnostic::error(codes::LIMIT, limit).at(span, "this item is one too many");
            self.report(
                frame,
                error
                    .help("check the `count` of the repeats around it")
                    .into(),
            );
        }
        true
    }

    /// Records a problem with the way it was reached, once for each place.
    #[allow(clippy::boxed_local)] // what items fail with is boxed
    fn report(&mut self, frame: &Frame<'a>, problem: Problem) {
        let at = problem
            .labels
            .first()
            .map_or((0, 0), |label| (label.span.file.0, label.span.start));
        if problem.code == codes::LIMIT || self.reported.insert((problem.code.0, at.0, at.1)) {
            self.problems.push(expanded_from(*problem, &frame.via));
        }
    }

    fn finish(self) -> Result<Flat, Diagnostics> {
        self.problems.into_result()?;
        let (mut flat, aliases) = (self.flat, self.aliases);
        // An alias chain is as long as a name was handed through blocks; one that comes round has no value.
        let target = |value: ValueId| {
            let mut at = value;
            for _ in 0..=aliases.len() {
                match aliases.get(&at) {
                    Some(next) => at = *next,
                    None => return Some(at),
                }
            }
            None
        };
        if let Some(stuck) = aliases
            .keys()
            .copied()
            .find(|value| target(*value).is_none())
        {
            return Err(stands_for_itself(&flat.values[stuck]).into());
        }
        for value in flat.values.iter_mut() {
            if let FlatKind::View { of, .. } = &mut value.kind {
                *of = target(*of).unwrap_or(*of);
            }
        }
        if let Some(stuck) = order::view_cycle(&flat.values) {
            return Err(stands_for_itself(&flat.values[stuck]).into());
        }
        // The stand-ins go; what they stood for moves up.
        let mut kept = IdVec::new();
        let mut moved = BTreeMap::new();
        for (id, value) in flat
            .values
            .enumerate()
            .filter(|(id, _)| !aliases.contains_key(id))
        {
            moved.insert(id, kept.push(value.clone()));
        }
        let renamed = |value: ValueId| {
            target(value)
                .and_then(|value| moved.get(&value).copied())
                .unwrap_or(value)
        };
        for value in kept.iter_mut() {
            if let FlatKind::View { of: value, .. } | FlatKind::Carry(_, value) = &mut value.kind {
                *value = renamed(*value);
            }
        }
        for pass in flat.passes.iter_mut() {
            pass.reads
                .iter_mut()
                .chain(&mut pass.writes)
                .for_each(|(_, value)| *value = renamed(*value));
        }
        flat.outputs
            .iter_mut()
            .for_each(|(_, value)| *value = renamed(*value));
        flat.inputs
            .iter_mut()
            .for_each(|value| *value = renamed(*value));
        flat.values = kept;
        Ok(flat)
    }
}

fn stands_for_itself(value: &FlatValue) -> Diagnostic {
    let message = format!(
        "`{}` stands for itself: it has no value of its own",
        value.name
    );
    expanded_from(
        Diagnostic::error(codes::CYCLE, message).at(value.origin.span, ""),
        &value.origin.via,
    )
}

/// Adds the uses and repeats around a place.
pub(in crate::graph) fn expanded_from(
    mut error: Diagnostic,
    via: &[(Span, Option<(String, i64)>)],
) -> Diagnostic {
    for (span, index) in via {
        let text = match index {
            Some((name, value)) => format!("expanded from here with {name} = {value}"),
            None => "expanded from here".into(),
        };
        error = error.at(*span, text);
    }
    error
}

fn item_span(item: &Item) -> Span {
    match item {
        Item::Pass(pass) => pass.at.span,
        Item::Use(item) => item.block.span,
        Item::Repeat(repeat) => repeat.index.span,
        Item::Weight(weight) => weight.name.span,
        Item::State(state) => state.name.span,
        Item::View(view) => view.name.span,
    }
}
