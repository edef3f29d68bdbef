//! Bindings that are larger than the device binds at once. A pass that reads such a weight becomes a chain of passes,
//! each with a range of the weight's rows, as the kernel's manifest says ([`Split`]):
//!
//! ```text
//!   x ── linear ── y      becomes      x ── linear ── y/part0 ── linear ── y
//!          w                              w/rows0                w/rows8192
//! ```
//! The ranges are weights of their own, so nothing views into a block format; passes that read the same weight cut it
//! alike and share the parts. What cannot be cut is left as it is, and the packer says that it does not fit.

use std::collections::{BTreeMap, BTreeSet};

use super::check::compact;
use super::expand::expanded_from;
use super::infer::port_uses;
use super::{Class, Fused, Graph, Pass, Recipe, ValueInfo};
use crate::codes::plan as codes;
use crate::diag::{Diagnostic, Diagnostics};
use crate::expr::Value;
use crate::ids::{IdVec, ValueId};
use crate::kernel::{Library, Manifest, ShapeItem, Split, bind};

/// Ranges start at multiples of this many rows where they can, so that tiles and pairs of rows stay whole.
const ROWS: u64 = 64;

/// Splits what is larger than `limit` bytes.
pub fn split(mut fused: Fused, library: &Library, limit: u64) -> Result<Fused, Diagnostics> {
    let too_large = |graph: &Graph, value: ValueId| {
        let info = &graph.values[value];
        info.recipe.is_some() && info.bytes().is_some_and(|bytes| bytes > limit)
    };
    let mut splitter = Splitter {
        limit,
        passes: IdVec::new(),
        parts: BTreeMap::new(),
        problems: Diagnostics::default(),
        graph: fused.graph,
    };
    for pass in std::mem::take(&mut splitter.graph.passes).iter() {
        let manifest = library.manifests.get(&pass.kernel);
        let cut = manifest.and_then(|manifest| Some((manifest, manifest.split.as_ref()?)));
        let large = cut.and_then(|(manifest, split)| {
            let port = pass.ports.iter().find(|port| port.name == split.port)?;
            too_large(&splitter.graph, port.value).then_some((manifest, split, port.value))
        });
        match large {
            Some((manifest, split, weight)) => splitter.chain(pass, manifest, split, weight),
            None => {
                splitter.passes.push(pass.clone());
            }
        }
    }
    splitter.problems.into_result()?;
    let mut graph = splitter.graph;
    graph.passes = splitter.passes;
    fused.graph = compact(graph, &BTreeSet::new());
    Ok(fused)
}

struct Splitter {
    limit: u64,
    graph: Graph,
    passes: IdVec<crate::ids::PassId, Pass>,
    /// Parts of weights by the weight and the first row.
    parts: BTreeMap<(ValueId, u64), ValueId>,
    problems: Diagnostics,
}

impl Splitter {
    fn chain(&mut self, pass: &Pass, manifest: &Manifest, split: &Split, weight: ValueId) {
        let ranges = self.ranges(weight);
        let count = ranges.len();
        let mut before = None;
        for (index, (start, rows)) in ranges.into_iter().enumerate() {
            let last = index + 1 == count;
            match self.link(pass, manifest, split, (start, rows), before, last) {
                Ok(written) => before = Some(written),
                Err(problem) => {
                    let message = format!(
                        "`{}` cannot be cut into {count} passes of at most {} bytes a binding: {problem}",
                        pass.path, self.limit
                    );
                    let error = Diagnostic::error(codes::NOT_SPLIT, message)
                        .at(pass.origin.span, "this pass")
                        .help(
                            "switch the fusion that made it off, or let another pass do the rest",
                        );
                    return self.problems.push(expanded_from(error, &pass.origin.via));
                }
            }
        }
    }

    /// First row and count of each part: as few and as equal as the limit allows.
    fn ranges(&self, weight: ValueId) -> Vec<(u64, u64)> {
        let info = &self.graph.values[weight];
        let rows = info.shape.first().copied().unwrap_or(0).max(1);
        let row_bytes = (info.bytes().unwrap_or(u64::MAX) / rows).max(1);
        let most = (self.limit / row_bytes).clamp(1, rows);
        let step = if most >= ROWS { ROWS } else { 1 };
        let most = most / step * step;
        let parts = rows.div_ceil(most);
        let each = rows.div_ceil(parts).div_ceil(step).saturating_mul(step);
        let starts = (0..parts).map(|part| part * each);
        starts
            .filter(|start| *start < rows)
            .map(|start| (start, each.min(rows - start)))
            .collect()
    }

    /// One pass of a chain; gives what it writes.
    fn link(
        &mut self,
        pass: &Pass,
        manifest: &Manifest,
        split: &Split,
        (start, rows): (u64, u64),
        before: Option<ValueId>,
        last: bool,
    ) -> Result<ValueId, String> {
        let mut values: Vec<Option<ValueId>> = vec![None; manifest.ports.len()];
        for port in &pass.ports {
            let decl = &manifest.ports[port.port as usize];
            if decl.scratch {
                continue;
            }
            let cut = matches!(decl.shape.first(), Some(ShapeItem::Dim(dim)) if *dim == split.dim);
            values[port.port as usize] = Some(match cut {
                true => self.part(port.value, start, rows)?,
                false => port.value,
            });
        }
        let index = |name: &str| manifest.port(name).map(|(index, _)| index);
        let (Some(into), Some(out)) = (index(&split.into), index(&split.out)) else {
            return Err("its manifest names ports that it lacks".into());
        };
        let whole = values[out].ok_or("it does not bind the port that is cut")?;
        if values[into].is_some() {
            return Err(format!("its port `{}` is bound already", split.into));
        }
        if !matches!(
            self.graph.values[whole].class,
            Class::Transient | Class::Output
        ) {
            return Err(format!(
                "`{}` survives the entry, so parts cannot take over its bytes",
                self.graph.values[whole].name
            ));
        }
        values[into] = before;
        let result = if last {
            whole
        } else {
            self.result(whole, start)
        };
        values[out] = Some(result);
        let written: Vec<&str> = pass
            .ports
            .iter()
            .filter(|port| port.access.writes() && !manifest.ports[port.port as usize].scratch)
            .map(|port| port.name.as_str())
            .collect();
        if written != [split.out.as_str()] {
            return Err(format!("it writes {}", written.join(", ")));
        }
        let mut set = pass.binding.options.clone();
        let total = pass.binding.dims.get(&split.total).copied();
        let total = total
            .and_then(|total| u64::try_from(total).ok())
            .ok_or_else(|| format!("its kernel has no dim `{}`", split.total))?;
        let all = self.all_rows(pass, split);
        // Gated kinds make one column of two rows.
        let at = start
            .checked_mul(total)
            .filter(|product| product.is_multiple_of(all))
            .ok_or("a part would end inside a column")?
            / all;
        set.insert(split.of.clone(), int(total));
        set.insert(split.at.clone(), int(at));
        let given = self.graph.given(manifest, &values);
        let types = pass.binding.types.clone();
        let binding = bind(manifest, &given, &set, &types, &|name| {
            types.get(name).copied()
        })
        .map_err(|error| error.to_string())?;
        let wanted = &self.graph.values[whole];
        if binding.ports[out] != Some((wanted.dtype, wanted.shape.clone())) {
            return Err(format!("a part would not write all of `{}`", wanted.name));
        }
        let path = match start {
            0 => pass.path.clone(),
            start => format!("{}/rows{start}", pass.path),
        };
        let first_scratch = self.graph.values.len();
        let (ports, scratch) = port_uses(
            manifest,
            &values,
            &binding,
            &path,
            &pass.origin,
            first_scratch,
        );
        scratch.into_iter().for_each(|value| {
            self.graph.values.push(value);
        });
        self.passes.push(Pass {
            path,
            kernel: pass.kernel.clone(),
            ports,
            binding,
            origin: pass.origin.clone(),
            fused: pass.fused.clone(),
        });
        Ok(result)
    }

    fn all_rows(&self, pass: &Pass, split: &Split) -> u64 {
        let port = pass.ports.iter().find(|port| port.name == split.port);
        let shape = port.map(|port| &self.graph.values[port.value].shape);
        shape
            .and_then(|shape| shape.first().copied())
            .unwrap_or(1)
            .max(1)
    }

    /// Rows of a weight as a weight.
    fn part(&mut self, weight: ValueId, start: u64, count: u64) -> Result<ValueId, String> {
        if let Some(part) = self.parts.get(&(weight, start)) {
            return Ok(*part);
        }
        let info = &self.graph.values[weight];
        let Some(recipe) = &info.recipe else {
            return Err(format!(
                "`{}` is no weight, and would have to be cut too",
                info.name
            ));
        };
        let mut shape = info.shape.clone();
        if let Some(rows) = shape.first_mut() {
            *rows = count;
        }
        let part = ValueInfo {
            name: format!("{}/rows{start}", info.name),
            shape,
            recipe: Some(Recipe::Slice {
                of: Box::new(recipe.clone()),
                start,
                count,
            }),
            ..info.clone()
        };
        let part = self.graph.values.push(part);
        self.parts.insert((weight, start), part);
        Ok(part)
    }

    /// What a pass before the last leaves.
    fn result(&mut self, whole: ValueId, start: u64) -> ValueId {
        let info = &self.graph.values[whole];
        let part = ValueInfo {
            name: format!("{}/from{start}", info.name),
            ..info.clone()
        };
        self.graph.values.push(part)
    }
}

fn int(number: u64) -> Value {
    Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
}
