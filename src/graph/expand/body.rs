//! Bodies: passes, uses, repeats, weights and views, unrolled in file order into a [`Flat`].

use std::collections::{BTreeMap, BTreeSet};

use super::eval::{self, Scope};
use super::{params, recipe};
use crate::codes::graph as codes;
use crate::diag::{Diagnostic, Diagnostics, nearest};
use crate::dtype::{DType, GROUP};
use crate::expr::Value;
use crate::graph::Origin;
use crate::graph::flat::{Declared, Flat, FlatKind, FlatPass, FlatValue, Setting};
use crate::graph::order;
use crate::ids::{IdVec, ValueId};
use crate::span::Span;
use crate::text::Loaded;
use crate::text::ast::{
    Block, Item, Map, Name, PassItem, RepeatItem, TensorDecl, UseItem, ViewItem, WeightItem,
};

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

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    /// A value.
    Value(ValueId),
    /// A weight that is not there: ports that name it stay unbound.
    Absent,
    /// Something that could not be made; the reason has been reported.
    Broken,
}

/// One body being unrolled.
struct Frame<'a> {
    env: Scope,
    names: BTreeMap<String, Bound>,
    /// The path of the body, ending in `/` unless empty.
    prefix: String,
    via: Vec<(Span, Option<(String, i64)>)>,
    /// Blocks around this body, outermost first.
    blocks: Vec<&'a str>,
    depth: usize,
    /// For each name that an item of this body binds: the last such item.
    last: BTreeMap<&'a str, (usize, Span)>,
    /// Names that bodies around this one bind after it.
    later: BTreeMap<&'a str, Span>,
    /// The item being unrolled.
    at: usize,
    /// Names read before their first binding: the stand-in, the reader, and whether it is bound by now.
    forward: BTreeMap<String, (ValueId, Span, Option<Span>)>,
}

struct Unroller<'a> {
    blocks: BTreeMap<&'a str, &'a Block>,
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
pub(super) fn unroll(loaded: &Loaded, flat: Flat) -> Result<Flat, Diagnostics> {
    let graph = &loaded.graph;
    let mut unroller = Unroller {
        blocks: loaded
            .blocks
            .iter()
            .map(|block| (block.name.value.as_str(), block))
            .collect(),
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
    let mut frame = Frame {
        env: unroller.flat.env.clone(),
        names: BTreeMap::new(),
        prefix: String::new(),
        via: vec![],
        blocks: vec![],
        depth: 0,
        last: last_bindings(&graph.body),
        later: BTreeMap::new(),
        at: 0,
        forward: BTreeMap::new(),
    };
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
    for output in &graph.outputs {
        match unroller.lookup(&mut frame, output, false) {
            Ok(Bound::Value(value)) => unroller.flat.outputs.push((output.clone(), value)),
            Ok(Bound::Absent) => {
                let message = format!("output `{}` is a weight that is not there", output.value);
                unroller.report(
                    &frame,
                    Diagnostic::error(codes::UNKNOWN_VALUE, message)
                        .at(output.span, "")
                        .into(),
                );
            }
            Ok(Bound::Broken) => {}
            Err(problem) => unroller.report(&frame, problem),
        }
    }
    unroller.finish()
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
            Item::View(view) => vec![&view.name],
        };
        for name in outputs {
            last.insert(name.value.as_str(), (index, name.span));
        }
    }
    last
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
                Item::View(view) => self.view(view, frame),
            };
            if let Err(problem) = result {
                self.report(frame, problem);
                break_names(item, frame);
            }
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

    fn pass(&mut self, item: &'a PassItem, frame: &mut Frame<'a>) -> Result<(), Problem> {
        if !eval::holds(item.when.as_ref(), &frame.env)? {
            return self.left_out(&item.outputs, &item.otherwise, frame);
        }
        let origin = frame.origin(item.at.span);
        let mut broken = false;
        let mut reads = Vec::new();
        for (port, name) in &item.inputs {
            match self.lookup(frame, name, true)? {
                Bound::Value(value) => reads.push((port.clone(), value)),
                Bound::Absent => {}
                Bound::Broken => broken = true,
            }
        }
        let mut set = Vec::new();
        for (name, text) in &item.set {
            let (value, bare) = eval::word(text, &frame.env)?;
            set.push(Setting {
                name: Name {
                    value: name.value.clone(),
                    span: text.span,
                },
                value,
                bare,
            });
        }
        let mut types = Vec::new();
        for (name, dtype) in &item.types {
            types.push((name.clone(), self.dtype(dtype)?));
        }
        twice(&item.outputs)?;
        if broken {
            break_outputs(&item.outputs, frame);
            return Ok(());
        }
        let mut writes = Vec::new();
        for (port, name) in &item.outputs {
            let value = match frame.names.get(&name.value) {
                // State is updated where it is; any other name is bound anew.
                Some(Bound::Value(value)) if self.is_state(*value) => *value,
                _ => {
                    let value = self.new_value(frame, name, FlatKind::Written, origin.clone());
                    self.bind(frame, name, Bound::Value(value))?;
                    value
                }
            };
            writes.push((port.clone(), value));
        }
        let last = item.name.as_ref().unwrap_or(&item.kernel);
        let path = unique(
            &mut self.pass_paths,
            format!("{}{}", frame.prefix, last.value),
        );
        self.flat.passes.push(FlatPass {
            path,
            kernel: item.kernel.clone(),
            reads,
            writes,
            set,
            types,
            origin,
        });
        Ok(())
    }

    fn inline(&mut self, item: &'a UseItem, frame: &mut Frame<'a>) -> Result<(), Problem> {
        if !eval::holds(item.when.as_ref(), &frame.env)? {
            return self.left_out(&item.outputs, &item.otherwise, frame);
        }
        let block = self.block(item, frame)?;
        twice(&item.outputs)?;
        let call = |message: String, name: &Name| {
            Diagnostic::error(codes::BAD_CALL, message)
                .at(name.span, "")
                .at(block.name.span, "the block")
        };
        let mut names = BTreeMap::new();
        for (port, name) in &item.inputs {
            if !block.inputs.iter().any(|input| input.value == port.value) {
                let message = format!("block `{}` has no input `{}`", block.name.value, port.value);
                return Err(suggest(call(message, port), &port.value, &block.inputs).into());
            }
            names.insert(port.value.clone(), self.lookup(frame, name, true)?);
        }
        if let Some(missing) = block
            .inputs
            .iter()
            .find(|input| !names.contains_key(&input.value))
        {
            let message = format!(
                "input `{}` of block `{}` is not bound",
                missing.value, block.name.value
            );
            return Err(call(message, &item.block)
                .help(format!("add it: `in: {{ \"{}\": .. }}`", missing.value))
                .into());
        }
        if let Some((port, _)) = item
            .outputs
            .iter()
            .find(|(port, _)| !block.outputs.iter().any(|out| out.value == port.value))
        {
            let message = format!(
                "block `{}` has no output `{}`",
                block.name.value, port.value
            );
            return Err(suggest(call(message, port), &port.value, &block.outputs).into());
        }
        let last = item.name.as_ref().unwrap_or(&item.block);
        let mut inner = frame.inner(item.block.span, None, last, last_bindings(&block.body));
        inner.prefix = format!(
            "{}/",
            unique(
                &mut self.block_paths,
                inner.prefix.trim_end_matches('/').to_string()
            )
        );
        inner.env = self.block_env(item, block, frame)?;
        inner.names = names;
        // A block sees nothing of the bodies around it, so nothing there comes too late.
        inner.later.clear();
        inner.blocks.push(&block.name.value);
        self.check_depth(&inner, item.block.span)?;
        self.body(&block.body, &mut inner);
        self.close(&inner);
        for (port, name) in &item.outputs {
            let bound = match inner.names.get(&port.value) {
                Some(bound) => *bound,
                None => {
                    let output = block
                        .outputs
                        .iter()
                        .find(|output| output.value == port.value)
                        .unwrap_or(port);
                    let message = format!(
                        "block `{}` does not bind its output `{}`",
                        block.name.value, port.value
                    );
                    let error = Diagnostic::error(codes::BAD_CALL, message).at(output.span, "");
                    return Err(error.at(item.block.span, "used here").into());
                }
            };
            self.bind(frame, name, bound)?;
        }
        Ok(())
    }

    fn block(&self, item: &'a UseItem, frame: &Frame<'a>) -> Result<&'a Block, Problem> {
        let name = &item.block;
        if let Some(first) = frame.blocks.iter().position(|block| *block == name.value) {
            let mut way: Vec<&str> = frame.blocks[first..].to_vec();
            way.push(&name.value);
            let message = format!("block `{}` uses itself: {}", name.value, way.join(" -> "));
            return Err(Diagnostic::error(codes::RECURSION, message)
                .at(name.span, "")
                .help("use `Repeat` to run a body several times")
                .into());
        }
        self.blocks
            .get(name.value.as_str())
            .copied()
            .ok_or_else(|| {
                let error = Diagnostic::error(
                    codes::UNKNOWN_BLOCK,
                    format!("unknown block `{}`", name.value),
                )
                .at(name.span, "");
                match nearest(&name.value, self.blocks.keys().copied()) {
                    Some(near) => error.help(format!("did you mean `{near}`?")),
                    None => error.help("add the file that defines it to `include`"),
                }
                .into()
            })
    }

    fn block_env(
        &self,
        item: &UseItem,
        block: &Block,
        frame: &Frame<'a>,
    ) -> Result<Scope, Problem> {
        if let Some((name, _)) = item.with.iter().find(|(name, _)| {
            !block
                .params
                .iter()
                .any(|(param, _)| param.value == name.value)
        }) {
            let message = format!("block `{}` has no param `{}`", block.name.value, name.value);
            let error = Diagnostic::error(codes::UNKNOWN_PARAM, message)
                .at(name.span, "")
                .at(block.name.span, "the block");
            let params: Vec<Name> = block.params.iter().map(|(name, _)| name.clone()).collect();
            return Err(suggest(error, &name.value, &params).into());
        }
        let mut env = self.flat.env.clone();
        for (name, decl) in &block.params {
            let given = item
                .with
                .iter()
                .find(|(given, _)| given.value == name.value);
            let value = match (given, &decl.default) {
                (Some((given, text)), _) => params::written(&decl.kind, given, text, &frame.env)?,
                (None, Some(default)) => params::written(&decl.kind, name, default, &env)?,
                (None, None) => {
                    let message = format!(
                        "param `{}` of block `{}` has no value",
                        name.value, block.name.value
                    );
                    let error =
                        Diagnostic::error(codes::MISSING_PARAM, message).at(item.block.span, "");
                    return Err(error
                        .at(name.span, "declared here")
                        .help(format!("add it: `with: {{ \"{}\": .. }}`", name.value))
                        .into());
                }
            };
            env.insert(name.value.clone(), value);
        }
        Ok(env)
    }

    fn repeat(&mut self, item: &'a RepeatItem, frame: &mut Frame<'a>) -> Result<(), Problem> {
        let count = eval::count(&item.count, &frame.env)?;
        let mut carried = BTreeMap::new();
        for (inside, outside) in &item.carry {
            let Some(bound) = frame.names.get(&outside.value) else {
                return Err(match frame.last.get(outside.value.as_str()) {
                    Some((_, later)) if *later != outside.span => too_early(outside, *later),
                    _ => self.unknown(frame, outside),
                });
            };
            carried.insert(inside.value.clone(), *bound);
        }
        twice(&item.carry)?;
        let names: BTreeSet<&str> = item
            .carry
            .iter()
            .map(|(inside, _)| inside.value.as_str())
            .collect();
        for round in 0..count {
            self.steps += 1;
            if self.stopped(frame, item.count.span) {
                break;
            }
            let index = i64::try_from(round).unwrap_or(i64::MAX);
            let label = Name {
                value: format!("{}{round}", item.index.value),
                span: item.index.span,
            };
            let via = Some((item.index.value.clone(), index));
            let mut inner = frame.inner(item.index.span, via, &label, last_bindings(&item.body));
            inner
                .env
                .insert(item.index.value.clone(), Value::Int(index));
            inner
                .names
                .extend(carried.iter().map(|(name, bound)| (name.clone(), *bound)));
            self.check_depth(&inner, item.index.span)?;
            self.body(&item.body, &mut inner);
            self.close(&inner);
            for name in &names {
                if let Some(bound) = inner.names.get(*name) {
                    carried.insert((*name).into(), *bound);
                }
            }
        }
        for (inside, outside) in &item.carry {
            if let Some(bound) = carried.get(&inside.value).copied()
                && count > 0
            {
                self.bind(frame, outside, bound)?;
            }
        }
        Ok(())
    }

    fn weight(&mut self, item: &'a WeightItem, frame: &mut Frame<'a>) -> Result<(), Problem> {
        if !eval::holds(item.when.as_ref(), &frame.env)? {
            return self.bind(frame, &item.name, Bound::Absent);
        }
        let declared = self.declared(&item.dtype, &item.shape, &frame.env)?;
        let recipe = recipe::resolve(&item.from, &frame.env)?;
        let key = format!("{} {:?} {recipe:?}", declared.dtype, declared.shape);
        let value = match self.weights.get(&key) {
            Some(value) => *value,
            None => {
                let origin = frame.origin(item.name.span);
                let value = self.new_value(
                    frame,
                    &item.name,
                    FlatKind::Weight(declared, recipe),
                    origin,
                );
                self.weights.insert(key, value);
                value
            }
        };
        self.bind(frame, &item.name, Bound::Value(value))
    }

    fn view(&mut self, item: &'a ViewItem, frame: &mut Frame<'a>) -> Result<(), Problem> {
        let bound = match self.lookup(frame, &item.of, true)? {
            Bound::Value(of) => {
                let shape = item
                    .shape
                    .iter()
                    .map(|size| eval::size(size, &frame.env))
                    .collect::<Result<_, _>>()?;
                let offset = item
                    .offset
                    .as_ref()
                    .map_or(Ok(0), |offset| eval::count(offset, &frame.env))?;
                let origin = frame.origin(item.name.span);
                Bound::Value(self.new_value(
                    frame,
                    &item.name,
                    FlatKind::View { of, shape, offset },
                    origin,
                ))
            }
            other => other,
        };
        self.bind(frame, &item.name, bound)
    }

    /// A `Pass` or `Use` whose `when` is false: its names stand for what `otherwise` says, or stay as they were.
    fn left_out(
        &mut self,
        outputs: &'a Map<Name>,
        otherwise: &'a Map<Name>,
        frame: &mut Frame<'a>,
    ) -> Result<(), Problem> {
        let mut bound = Vec::new();
        for (name, instead) in otherwise {
            let Some((_, output)) = outputs
                .iter()
                .find(|(_, output)| output.value == name.value)
            else {
                let message = format!(
                    "`otherwise` names `{}`, which is not under `out`",
                    name.value
                );
                let names: Vec<Name> = outputs.iter().map(|(_, name)| name.clone()).collect();
                let error = Diagnostic::error(codes::UNKNOWN_VALUE, message).at(name.span, "");
                return Err(suggest(error, &name.value, &names).into());
            };
            bound.push((output, self.lookup(frame, instead, true)?));
        }
        for (name, value) in bound {
            self.bind(frame, name, value)?;
        }
        Ok(())
    }

    /// What a name stands for here; `forward`: a later binding of the same body will do.
    fn lookup(
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

    fn bind(&mut self, frame: &mut Frame<'a>, name: &Name, bound: Bound) -> Result<(), Problem> {
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
    fn close(&mut self, frame: &Frame<'a>) {
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

    fn carry_next(&mut self, frame: &mut Frame<'a>, next: &Name, carry: Option<Bound>) {
        let Some(Bound::Value(carry)) = carry else {
            return;
        };
        match self.lookup(frame, next, false) {
            Ok(Bound::Value(value)) => {
                if let FlatKind::Carry(_, slot) = &mut self.flat.values[carry].kind {
                    *slot = value;
                }
            }
            Ok(_) => {}
            Err(problem) => self.report(frame, problem),
        }
    }

    fn declare(
        &mut self,
        frame: &mut Frame<'a>,
        tensors: &Map<TensorDecl>,
        kind: impl Fn(Declared) -> FlatKind,
    ) {
        for (name, decl) in tensors {
            match self.declared(&decl.dtype, &decl.shape, &frame.env) {
                Ok(declared) => {
                    let value =
                        self.new_value(frame, name, kind(declared), frame.origin(name.span));
                    frame.names.insert(name.value.clone(), Bound::Value(value));
                }
                Err(problem) => {
                    self.report(frame, problem);
                    frame.names.insert(name.value.clone(), Bound::Broken);
                }
            }
        }
    }

    fn declared(&self, dtype: &Name, shape: &[Name], env: &Scope) -> Result<Declared, Problem> {
        let dtype = self.dtype(dtype)?;
        let sizes = shape
            .iter()
            .map(|size| eval::size(size, env))
            .collect::<Result<Vec<_>, _>>()?;
        let uneven = sizes.last().is_some_and(|row| !row.is_multiple_of(GROUP));
        if dtype.is_block()
            && uneven
            && let Some(last) = shape.last()
        {
            let message = format!(
                "{dtype} has groups of {GROUP} elements, rows of `{}` do not divide",
                last.value
            );
            return Err(Diagnostic::error(codes::BAD_SIZE, message)
                .at(last.span, "")
                .into());
        }
        if dtype.size_of(&sizes).is_none()
            && let Some(first) = shape.first()
        {
            let factors: Vec<String> = sizes.iter().map(u64::to_string).collect();
            let message = format!(
                "a tensor of {} elements of {dtype} has more than 2^64 bytes",
                factors.join(" * ")
            );
            return Err(Diagnostic::error(codes::BAD_SIZE, message)
                .at(first.span, "")
                .into());
        }
        Ok(Declared {
            dtype,
            shape: sizes,
            text: shape.iter().map(|size| size.value.clone()).collect(),
        })
    }

    fn dtype(&self, name: &Name) -> Result<DType, Problem> {
        let alias = self.flat.dtypes.get(&name.value).copied();
        alias
            .map_or_else(|| name.value.parse(), Ok)
            .map_err(|_| params::unknown_dtype(name, &self.flat.dtypes).into())
    }

    fn new_value(
        &mut self,
        frame: &Frame<'a>,
        name: &Name,
        kind: FlatKind,
        origin: Origin,
    ) -> ValueId {
        let name = unique(&mut self.paths, format!("{}{}", frame.prefix, name.value));
        self.flat.values.push(FlatValue { name, kind, origin })
    }

    fn is_state(&self, value: ValueId) -> bool {
        matches!(
            self.flat.values[self.flat.root(value)].kind,
            FlatKind::State(_)
        )
    }

    fn unknown(&self, frame: &Frame<'a>, name: &Name) -> Problem {
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

    fn check_depth(&self, frame: &Frame<'a>, span: Span) -> Result<(), Problem> {
        if frame.depth <= MAX_DEPTH {
            return Ok(());
        }
        let message = format!("blocks and repeats are nested deeper than {MAX_DEPTH}");
        Err(Diagnostic::error(codes::LIMIT, message).at(span, "").into())
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

impl<'a> Frame<'a> {
    fn origin(&self, span: Span) -> Origin {
        Origin {
            span,
            via: self.via.clone(),
        }
    }

    /// The frame of a body inside this one; it sees the names around it until the caller says otherwise.
    fn inner(
        &self,
        at: Span,
        index: Option<(String, i64)>,
        path: &Name,
        last: BTreeMap<&'a str, (usize, Span)>,
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
            last,
            later,
            at: 0,
            forward: BTreeMap::new(),
        }
    }
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

fn too_early(name: &Name, later: Span) -> Problem {
    let message = format!("`{}` is used before it exists", name.value);
    let error = Diagnostic::error(codes::TOO_EARLY, message)
        .at(name.span, "used here")
        .at(later, "bound here");
    error.help("move the item that binds it up").into()
}

/// One item cannot bind one name twice.
fn twice(outputs: &Map<Name>) -> Result<(), Problem> {
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

fn suggest(error: Diagnostic, wanted: &str, names: &[Name]) -> Diagnostic {
    let known = || names.iter().map(|name| name.value.as_str());
    match nearest(wanted, known()) {
        Some(near) => error.help(format!("did you mean `{near}`?")),
        None if names.is_empty() => error.help("it has none"),
        None => error.help(format!("it has {}", known().collect::<Vec<_>>().join(", "))),
    }
}

fn break_outputs(outputs: &Map<Name>, frame: &mut Frame<'_>) {
    for (_, name) in outputs {
        frame.names.insert(name.value.clone(), Bound::Broken);
    }
}

/// After a problem: what the item would have bound is broken, so that its readers stay silent.
fn break_names(item: &Item, frame: &mut Frame<'_>) {
    match item {
        Item::Pass(pass) => break_outputs(&pass.outputs, frame),
        Item::Use(item) => break_outputs(&item.outputs, frame),
        Item::Repeat(repeat) => break_outputs(&repeat.carry, frame),
        Item::Weight(WeightItem { name, .. }) | Item::View(ViewItem { name, .. }) => {
            frame.names.insert(name.value.clone(), Bound::Broken);
        }
    }
}

fn item_span(item: &Item) -> Span {
    match item {
        Item::Pass(pass) => pass.at.span,
        Item::Use(item) => item.block.span,
        Item::Repeat(repeat) => repeat.index.span,
        Item::Weight(weight) => weight.name.span,
        Item::View(view) => view.name.span,
    }
}

/// `path`, or `path_2`, `path_3`, .. if it is taken.
fn unique(taken: &mut BTreeMap<String, u32>, path: String) -> String {
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
