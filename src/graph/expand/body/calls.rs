//! The items that hold bodies: blocks and repeats.

use std::collections::{BTreeMap, BTreeSet};

use super::names::{Frame, suggest, too_early, twice, unique};
use super::{MAX_DEPTH, Problem, Unroller};
use crate::codes::graph as codes;
use crate::diag::{Diagnostic, nearest};
use crate::expr::Value;
use crate::graph::expand::eval::{self, Scope};
use crate::graph::expand::params;
use crate::span::Span;
use crate::text::ast::{Block, Name, RepeatItem, UseItem};

impl<'a> Unroller<'a> {
    pub(super) fn inline(
        &mut self,
        item: &'a UseItem,
        frame: &mut Frame<'a>,
    ) -> Result<(), Problem> {
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
        let mut inner = frame.inner(item.block.span, None, last, &block.body);
        let wanted = inner.prefix.trim_end_matches('/').to_string();
        let path = unique(&mut self.block_paths, wanted.clone());
        inner.numbered |= path != wanted;
        inner.prefix = path + "/";
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

    pub(super) fn block(&self, item: &'a UseItem, frame: &Frame<'a>) -> Result<&'a Block, Problem> {
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

    pub(super) fn block_env(
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

    pub(super) fn repeat(
        &mut self,
        item: &'a RepeatItem,
        frame: &mut Frame<'a>,
    ) -> Result<(), Problem> {
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
            let mut inner = frame.inner(item.index.span, via, &label, &item.body);
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

    pub(super) fn check_depth(&self, frame: &Frame<'a>, span: Span) -> Result<(), Problem> {
        if frame.depth <= MAX_DEPTH {
            return Ok(());
        }
        let message = format!("blocks and repeats are nested deeper than {MAX_DEPTH}");
        Err(Diagnostic::error(codes::LIMIT, message).at(span, "").into())
    }
}
