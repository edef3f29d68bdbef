//! Puts a replacement in the place of a match, if that is legal.

use std::collections::{BTreeMap, BTreeSet};

use super::rule::{Rule, Setting};
use super::search::{self, Match, Uses, is_scratch};
use crate::codes::fuse as codes;
use crate::diag::{Diagnostic, Diagnostics};
use crate::dtype::DType;
use crate::expr::{Expr, Value};
use crate::graph::check::compact;
use crate::graph::expand::expanded_from;
use crate::graph::infer::{default_type, port_uses};
use crate::graph::stages::Fired;
use crate::graph::{Class, Graph, Pass};
use crate::ids::{PassId, ValueId};
use crate::kernel::{Binding, Given, Library, Manifest, PortType, bind, shape_text, type_value};
use crate::span::Span;

/// A graph being rewritten. Passes that are gone stay in the list until [`Self::finish`], so ids stay valid.
pub(super) struct Rewriter<'a> {
    graph: Graph,
    dtypes: BTreeMap<String, DType>,
    library: &'a Library,
    /// Passes that are still there.
    live: BTreeSet<PassId>,
}

/// A legal replacement that has not been made yet.
struct Replacement {
    found: Match,
    pass: Pass,
    /// Passes between the matched ones that must move behind the replacement, in order.
    movers: Vec<PassId>,
}

impl<'a> Rewriter<'a> {
    pub(super) fn new(graph: Graph, dtypes: BTreeMap<String, DType>, library: &'a Library) -> Self {
        let live = graph.passes.ids().collect();
        Self {
            graph,
            dtypes,
            library,
            live,
        }
    }

    /// Applies one rule wherever it matches, at most `limit` times.
    pub(super) fn exhaust(&mut self, rule: &Rule, limit: usize) -> Result<Vec<Fired>, Diagnostics> {
        let mut fired = Vec::new();
        let mut uses = Uses::of(&self.graph, &self.live);
        let mut next = self.live.first().copied();
        while let Some(anchor) = next.filter(|_| fired.len() < limit) {
            let mut attempt = |found: &Match| self.legal(rule, &uses, found);
            let replacement =
                search::find(rule, (&self.graph, &uses), anchor, &mut attempt).transpose()?;
            if let Some(replacement) = replacement {
                // Only passes between the first and the last matched one change or move.
                let passes = &replacement.found.passes;
                let (first, last) = (passes.iter().min(), passes.iter().max());
                if let (Some(first), Some(last)) = (first.copied(), last.copied()) {
                    uses.forget(&self.graph, self.live.range(first..=last).copied());
                    fired.push(self.replace(rule, replacement));
                    uses.add(&self.graph, self.live.range(first..=last).copied());
                }
            }
            next = self
                .live
                .range((
                    std::ops::Bound::Excluded(anchor),
                    std::ops::Bound::Unbounded,
                ))
                .next()
                .copied();
        }
        Ok(fired)
    }

    pub(super) fn finish(self) -> Graph {
        let dead = self
            .graph
            .passes
            .ids()
            .filter(|pass| !self.live.contains(pass))
            .collect();
        compact(self.graph, &dead)
    }

    /// The replacement for a match, `None` if it would not be legal, an error if the rule is wrong.
    fn legal(
        &self,
        rule: &Rule,
        uses: &Uses,
        found: &Match,
    ) -> Option<Result<Replacement, Diagnostics>> {
        match self.condition(rule, found) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(problem) => return Some(Err((*problem).into())),
        }
        let kept: BTreeSet<ValueId> = rule
            .writes
            .iter()
            .filter_map(|(_, variable)| found.variables.get(variable).copied().flatten())
            .collect();
        let from = rule.from.and_then(|index| found.passes.get(index)).copied();
        let written = found.passes.iter().flat_map(|pass| {
            let ports = self.graph.passes[*pass]
                .ports
                .iter()
                .filter(|port| port.access.writes());
            ports.map(move |port| (*pass, port))
        });
        for (pass, port) in written {
            // Scratch is made anew; what the kept pass writes beside the pattern stays with it.
            let stays = kept.contains(&port.value)
                || is_scratch(&self.graph, port)
                || from == Some(pass) && !is_named(rule, found, pass, &port.name);
            if !stays && !uses.may_vanish(&self.graph, port.value, &found.passes) {
                return None;
            }
        }
        let movers = self.movers(uses, found, &kept)?;
        let pass = match self.replacement(rule, found) {
            Ok(pass) => pass,
            Err(problem) => return Some(Err((*problem).into())),
        };
        Some(Ok(Replacement {
            found: found.clone(),
            pass,
            movers,
        }))
    }

    /// Passes between the matched ones that depend on a kept result, which is now written later. `None` if one of
    /// them feeds the match, or if moving would change the order of accesses to state.
    fn movers(&self, uses: &Uses, found: &Match, kept: &BTreeSet<ValueId>) -> Option<Vec<PassId>> {
        let (first, last) = (*found.passes.iter().min()?, *found.passes.iter().max()?);
        let between: Vec<PassId> = self
            .live
            .range(first..last)
            .copied()
            .filter(|pass| !found.passes.contains(pass))
            .collect();
        let mut late: BTreeSet<ValueId> = kept.clone();
        let mut movers = Vec::new();
        for id in &between {
            let pass = &self.graph.passes[*id];
            if pass
                .ports
                .iter()
                .any(|port| !port.access.writes() && late.contains(&self.graph.root(port.value)))
            {
                movers.push(*id);
                late.extend(
                    pass.ports
                        .iter()
                        .filter(|port| port.access.writes())
                        .map(|port| self.graph.root(port.value)),
                );
            }
        }
        let feeds = |id: &PassId| {
            let written = self.graph.passes[*id]
                .ports
                .iter()
                .filter(|port| port.access.writes());
            written.map(|port| port.value).any(|value| {
                uses.readers.get(&value).is_some_and(|readers| {
                    readers.iter().any(|reader| found.passes.contains(reader))
                })
            })
        };
        if movers.iter().any(feeds) {
            return None;
        }
        // Everything that moves, moves down to `last` or just behind it: it must not pass a conflicting access. Matched passes
        // that stand as in the pattern become one that does what they did, in their order.
        let moving: Vec<PassId> = found
            .passes
            .iter()
            .chain(&movers)
            .copied()
            .filter(|id| *id != last)
            .collect();
        let place = |id: &PassId| found.passes.iter().position(|pass| pass == id);
        let in_order =
            |a: &PassId, b: &PassId| matches!((place(a), place(b)), (Some(a), Some(b)) if a < b);
        let conflict = moving.iter().any(|id| {
            let passed = self.live.range(*id..=last);
            let passed = passed.filter(|other| *other != id && !in_order(id, other));
            passed
                .into_iter()
                .any(|other| self.state_conflict(*id, *other))
        });
        (!conflict).then_some(movers)
    }

    /// Whether two passes touch the same state, at least one of them writing.
    fn state_conflict(&self, a: PassId, b: PassId) -> bool {
        let touched = |id: PassId| {
            let ports = self.graph.passes[id].ports.iter();
            ports.map(|port| (self.graph.root(port.value), port.access.writes()))
        };
        let state = |root: ValueId| matches!(self.graph.values[root].class, Class::State);
        touched(a).any(|(root, writes)| {
            state(root) && touched(b).any(|(other, also)| other == root && (writes || also))
        })
    }

    fn condition(&self, rule: &Rule, found: &Match) -> Result<bool, Box<Diagnostic>> {
        let Some((when, span)) = &rule.when else {
            return Ok(true);
        };
        when.eval_bool(&|name: &str| self.name(found, name))
            .map_err(|error| expression(rule, when, *span, &error.message))
    }

    /// `p1.eps`: an option, dim or type of matched pass 1; any other name is a param or dim of the graph.
    fn name(&self, found: &Match, name: &str) -> Option<Value> {
        let matched = name.strip_prefix('p').and_then(|rest| rest.split_once('.'));
        let Some((index, name)) = matched else {
            return self.graph.env.get(name).cloned();
        };
        let pass = &self.graph.passes[*found.passes.get(index.parse::<usize>().ok()?)?];
        let binding = &pass.binding;
        let option = binding.options.get(name).cloned();
        option
            .or_else(|| binding.dims.get(name).map(|dim| Value::Int(*dim)))
            .or_else(|| type_value(&binding.types, name))
            .or_else(|| {
                Some(Value::Bool(pass.ports.iter().any(|port| {
                    Some(port.name.as_str()) == name.strip_prefix("has_")
                })))
                .filter(|_| name.starts_with("has_"))
            })
    }

    /// The pass that takes over, bound to its kernel.
    fn replacement(&self, rule: &Rule, found: &Match) -> Result<Pass, Box<Diagnostic>> {
        let manifest = self
            .library
            .manifests
            .get(&rule.kernel)
            .ok_or_else(|| wrong(rule, "names an unknown kernel".into()))?;
        let kept = rule
            .from
            .and_then(|index| found.passes.get(index))
            .map(|id| (&self.graph.passes[*id], *id));
        let values = self.ports(rule, found, manifest, kept)?;
        let set = self.options(rule, found, manifest, kept.map(|(pass, _)| pass))?;
        let given = self.graph.given(manifest, &values);
        // What a port now reads decides its type variable: the rule may have put another value there.
        let read = |name: &String| {
            let mut ports = manifest.ports.iter().zip(&given);
            ports.any(|(port, given)| {
                matches!((&port.dtype, given), (PortType::Var(of), Given::Read(..)) if of == name)
            })
        };
        let types = kept.map(|(pass, _)| {
            let known = pass.binding.types.iter().filter(|(name, _)| {
                manifest.types.contains_key(*name) && self.stands(pass, name) && !read(name)
            });
            known.map(|(name, dtype)| (name.clone(), *dtype)).collect()
        });
        let first = kept.map_or_else(|| found.passes.first().copied(), |(_, id)| Some(id));
        let Some(first) = first else {
            return Err(wrong(rule, "matches no pass".into()).into());
        };
        let (path, origin) = (
            &self.graph.passes[first].path,
            &self.graph.passes[first].origin,
        );
        let misfit = |problem: String| {
            Box::new(expanded_from(
                wrong(rule, problem).at(origin.span, "the pass"),
                &origin.via,
            ))
        };
        let binding = bind(
            manifest,
            &given,
            &set,
            &types.unwrap_or_default(),
            &|name| default_type(&self.dtypes, name),
        )
        .map_err(|error| {
            misfit(format!(
                "makes a pass at `{path}` that does not fit kernel `{}`: {error}",
                manifest.name
            ))
        })?;
        self.same_types(manifest, &values, &given, &binding)
            .map_err(|problem| misfit(format!("at `{path}` {problem}")))?;
        let (ports, _) = port_uses(
            manifest,
            &values,
            &binding,
            path,
            origin,
            self.graph.values.len(),
        );
        let mut fused = Vec::new();
        for id in found.passes.iter() {
            let pass = &self.graph.passes[*id];
            fused.extend(Some(&pass.path).filter(|_| *id != first).cloned());
            fused.extend(pass.fused.iter().cloned());
        }
        Ok(Pass {
            path: path.clone(),
            kernel: manifest.name.clone(),
            ports,
            binding,
            origin: origin.clone(),
            fused,
        })
    }

    /// The value on each port: what the kept pass has there beside the pattern, then what the rule says.
    fn ports(
        &self,
        rule: &Rule,
        found: &Match,
        manifest: &Manifest,
        kept: Option<(&Pass, PassId)>,
    ) -> Result<Vec<Option<ValueId>>, Box<Diagnostic>> {
        let mut values = vec![None; manifest.ports.len()];
        if let Some((pass, id)) = kept {
            for port in pass
                .ports
                .iter()
                .filter(|port| !is_scratch(&self.graph, port))
            {
                if is_named(rule, found, id, &port.name) {
                    continue;
                }
                match manifest.port(&port.name) {
                    Some((index, _)) => values[index] = Some(port.value),
                    None => {
                        return Err(wrong(
                            rule,
                            format!(
                                "keeps port `{}`, which kernel `{}` does not have",
                                port.name, manifest.name
                            ),
                        )
                        .into());
                    }
                }
            }
        }
        for (port, variable) in rule.reads.iter().chain(&rule.writes) {
            if let Some((index, _)) = manifest.port(port) {
                values[index] = found.variables.get(variable).copied().flatten();
            }
        }
        Ok(values)
    }

    fn options(
        &self,
        rule: &Rule,
        found: &Match,
        manifest: &Manifest,
        kept: Option<&Pass>,
    ) -> Result<BTreeMap<String, Value>, Box<Diagnostic>> {
        let mut set = BTreeMap::new();
        for (name, value) in kept.iter().flat_map(|pass| &pass.binding.options) {
            if manifest.options.contains_key(name) {
                set.insert(name.clone(), value.clone());
            }
        }
        for (name, setting, span) in &rule.set {
            let value = match setting {
                Setting::Word(word) => Value::Text(word.clone()),
                Setting::Expr(expr) => expr
                    .eval(&|name: &str| self.name(found, name))
                    .map_err(|error| expression(rule, expr, *span, &error.message))?,
            };
            set.insert(name.clone(), value);
        }
        Ok(set)
    }

    /// The replacement must write what the matched passes wrote, type and shape.
    /// Whether a bound port of `pass` has the type variable `name`; what others stand for was nobody's choice.
    fn stands(&self, pass: &Pass, name: &str) -> bool {
        let manifest = self.library.manifests.get(&pass.kernel);
        let ports = manifest.map(|manifest| manifest.ports.iter().zip(&pass.binding.ports));
        ports.into_iter().flatten().any(|(port, bound)| {
            bound.is_some() && matches!(&port.dtype, PortType::Var(variable) if variable == name)
        })
    }

    fn same_types(
        &self,
        manifest: &Manifest,
        values: &[Option<ValueId>],
        given: &[Given],
        binding: &Binding,
    ) -> Result<(), String> {
        for (index, value) in values.iter().enumerate() {
            let (Some(value), Given::Written, Some(Some((dtype, shape)))) =
                (value, &given[index], binding.ports.get(index))
            else {
                continue;
            };
            let info = &self.graph.values[*value];
            if (info.dtype, &info.shape) != (*dtype, shape) {
                let (port, name) = (&manifest.ports[index].name, &info.name);
                let (is, was) = (shape_text(shape), shape_text(&info.shape));
                return Err(format!(
                    "writes {dtype} {is} through `{port}`, but `{name}` is {} {was}",
                    info.dtype
                ));
            }
        }
        Ok(())
    }

    fn replace(&mut self, rule: &Rule, replacement: Replacement) -> Fired {
        let Replacement {
            found,
            mut pass,
            movers,
        } = replacement;
        let path = pass.path.clone();
        let replaced = found
            .passes
            .iter()
            .map(|id| self.graph.passes[*id].path.clone())
            .filter(|other| *other != path)
            .collect();
        if let Some(manifest) = self.library.manifests.get(&pass.kernel) {
            let values: Vec<Option<ValueId>> = manifest
                .ports
                .iter()
                .map(|port| {
                    let bound = pass.ports.iter().find(|used| used.name == port.name);
                    bound.filter(|_| !port.scratch).map(|used| used.value)
                })
                .collect();
            let (ports, scratch) = port_uses(
                manifest,
                &values,
                &pass.binding,
                &path,
                &pass.origin,
                self.graph.values.len(),
            );
            pass.ports = ports;
            scratch.into_iter().for_each(|value| {
                self.graph.values.push(value);
            });
        }
        let Some(last) = found.passes.iter().max().copied() else {
            return Fired {
                rule: rule.name.clone(),
                path,
                replaced,
            };
        };
        // The replacement takes the last matched pass's slot. Movers shift down into the slots between: the replacement
        // comes first, then they follow in order, which needs as many slots as there are.
        let mut slots: Vec<PassId> = movers.iter().copied().chain([last]).collect();
        slots.sort_unstable();
        let moved: Vec<Pass> = movers
            .iter()
            .map(|id| self.graph.passes[*id].clone())
            .collect();
        let tail: Vec<PassId> = self
            .live
            .range(slots[0]..=last)
            .copied()
            .filter(|id| !found.passes.contains(id) && !movers.contains(id))
            .collect();
        let order: Vec<Pass> = tail
            .iter()
            .map(|id| self.graph.passes[*id].clone())
            .chain([pass])
            .chain(moved)
            .collect();
        let mut places: Vec<PassId> = tail.into_iter().chain(slots).collect();
        places.sort_unstable();
        for (place, pass) in places.into_iter().zip(order) {
            self.graph.passes[place] = pass;
        }
        for id in found.passes.iter().filter(|id| **id != last) {
            self.live.remove(id);
        }
        Fired {
            rule: rule.name.clone(),
            path,
            replaced,
        }
    }
}

/// Whether the rule's pattern names this port of a matched pass.
fn is_named(rule: &Rule, found: &Match, pass: PassId, port: &str) -> bool {
    let index = found.passes.iter().position(|id| *id == pass);
    index
        .and_then(|index| rule.patterns.get(index))
        .is_some_and(|pattern| {
            pattern
                .reads
                .iter()
                .chain(&pattern.writes)
                .any(|named| named.port == port)
        })
}

fn wrong(rule: &Rule, problem: String) -> Diagnostic {
    let message = format!("fusion rule `{}` {problem}", rule.name);
    Diagnostic::error(codes::RULE_ILL_TYPED, message).at(rule.span, "the rule")
}

fn expression(rule: &Rule, expr: &Expr, span: Span, reason: &str) -> Box<Diagnostic> {
    let message = format!(
        "fusion rule `{}`: `{expr}` has no value: {reason}",
        rule.name
    );
    Diagnostic::error(codes::RULE_EXPRESSION, message)
        .at(span, "")
        .help("`p0.` is followed by an option, a dim or a type of the kernel of matched pass 0")
        .into()
}
