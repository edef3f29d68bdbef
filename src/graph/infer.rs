//! Stage 3: every value gets its type and shape from the kernels' interfaces. Passes are bound one after the other;
//! what a kernel writes is known once what it reads is.

mod misfit;

use std::collections::{BTreeMap, BTreeSet};

use super::expand::expanded_from;
use super::flat::{Flat, FlatKind, FlatPass};
use super::{Class, Graph, Origin, Pass, PortUse, Typed, ValueInfo};
use crate::codes::graph as codes;
use crate::diag::{Code, Diagnostic, Diagnostics, nearest};
use crate::dtype::DType;
use crate::ids::{IdVec, ValueId};
use crate::kernel::{Binding, Given, Library, Manifest, Port, bind, shape_text};
use crate::text::ast::Name;

/// Element type and shape.
type Type = (DType, Vec<u64>);

/// The element type that a type variable has if nothing else fixes it: activations, weights, the residual stream and
/// the key and value cache follow the graph's aliases. A graph that names no stream keeps it in the activations' type.
pub(super) fn default_type(dtypes: &BTreeMap<String, DType>, variable: &str) -> Option<DType> {
    let alias = match variable {
        "A" => "act",
        "W" => "weight",
        "S" => "stream",
        "C" => "kv",
        _ => return None,
    };
    let own = dtypes.get(alias).copied();
    match variable {
        "S" => own.or_else(|| default_type(dtypes, "A")),
        _ => own,
    }
}

/// Types `flat` by the kernels of `library`.
pub fn infer(flat: Flat, library: &Library) -> Result<Typed, Diagnostics> {
    let mut typer = Typer {
        types: flat
            .values
            .iter()
            .map(|value| declared_type(&value.kind))
            .collect(),
        flat: &flat,
        library,
        passes: IdVec::new(),
        scratch: Vec::new(),
        problems: Diagnostics::default(),
        reported: BTreeSet::new(),
    };
    for pass in &flat.passes {
        if let Err(problem) = typer.pass(pass) {
            typer.report(*problem, &pass.origin);
        }
    }
    let views = flat
        .values
        .ids()
        .filter(|value| matches!(flat.values[*value].kind, FlatKind::View { .. }));
    for value in views {
        if let Err(problem) = typer.view(value) {
            typer.report(*problem, &flat.values[value].origin);
        }
    }
    typer.finish()
}

fn declared_type(kind: &FlatKind) -> Option<Type> {
    match kind {
        FlatKind::Input(d)
        | FlatKind::Weight(d, _)
        | FlatKind::State(d)
        | FlatKind::Carry(d, _) => Some((d.dtype, d.shape.clone())),
        FlatKind::Written | FlatKind::View { .. } => None,
    }
}

struct Typer<'a> {
    flat: &'a Flat,
    library: &'a Library,
    types: IdVec<ValueId, Option<Type>>,
    passes: IdVec<crate::ids::PassId, Pass>,
    /// Scratch values, which follow the graph's own.
    scratch: Vec<ValueInfo>,
    problems: Diagnostics,
    reported: BTreeSet<(Code, u32, u32)>,
}

impl<'a> Typer<'a> {
    fn pass(&mut self, pass: &'a FlatPass) -> Result<(), Box<Diagnostic>> {
        let manifest = self.manifest(&pass.kernel)?;
        let mut given = vec![Given::Unbound; manifest.ports.len()];
        let mut values = vec![None; manifest.ports.len()];
        for (name, value) in &pass.reads {
            let index = port(manifest, name, false)?;
            let Some(typed) = self.type_of(*value) else {
                // The value's own pass has been reported.
                return Ok(());
            };
            self.stored_as_read(pass, &manifest.ports[index], name, *value, &typed)?;
            given[index] = Given::Read(typed.0, typed.1);
            values[index] = Some(*value);
        }
        for (name, value) in &pass.writes {
            let index = port(manifest, name, true)?;
            given[index] = self.written(manifest, index, name, *value)?;
            values[index] = Some(*value);
        }
        let set = pass
            .set
            .iter()
            .map(|setting| (setting.name.value.clone(), setting.value.clone()))
            .collect();
        let types = pass
            .types
            .iter()
            .map(|(name, dtype)| (name.value.clone(), *dtype))
            .collect();
        let binding = bind(manifest, &given, &set, &types, &|name| {
            default_type(&self.flat.dtypes, name)
        })
        .map_err(|error| self.bind_error(pass, manifest, &error))?;
        for ((index, value), typed) in values.iter().enumerate().zip(&binding.ports) {
            if let (Some(value), Given::Written) = (value, &given[index]) {
                self.settle(pass, manifest, index, *value, typed.clone())?;
            }
        }
        let first_scratch = self.flat.values.len() + self.scratch.len();
        let (ports, scratch) = port_uses(
            manifest,
            &values,
            &binding,
            &pass.path,
            &pass.origin,
            first_scratch,
        );
        self.scratch.extend(scratch);
        self.passes.push(Pass {
            path: pass.path.clone(),
            kernel: pass.kernel.value.clone(),
            ports,
            binding,
            origin: pass.origin.clone(),
            fused: vec![],
        });
        Ok(())
    }

    /// Refuses a block format where the shader looks for its elements in another order than the value has: weights
    /// stand in tiles, all else row after row.
    fn stored_as_read(
        &self,
        pass: &FlatPass,
        port: &Port,
        name: &Name,
        value: ValueId,
        (dtype, shape): &Type,
    ) -> Result<(), Box<Diagnostic>> {
        let root = &self.flat.values[self.flat.root(value)];
        let weight = matches!(root.kind, FlatKind::Weight(..));
        if !dtype.is_block() || port.tiles == weight {
            return Ok(());
        }
        let (kind, wants, help) = match port.tiles {
            true => (
                "",
                "wants tiles, which weights alone are packed in",
                "bind a weight, or a value in f16 or f32",
            ),
            false => (
                "weight ",
                "wants rows one after another, and weights are packed in tiles",
                "bind state; a port for weights in block formats says `tiles: true` (shaders/README.md)",
            ),
        };
        let message = format!(
            "`{}` reads {kind}`{}` {dtype} {} but port `{}` of kernel `{}` {wants}",
            pass.path,
            root.name,
            shape_text(shape),
            name.value,
            pass.kernel.value,
        );
        Err(Diagnostic::error(codes::DTYPE, message)
            .at(name.span, "")
            .help(help)
            .into())
    }

    /// What a written port gives the kernel: a new value, or state whose type is known.
    fn written(
        &self,
        manifest: &Manifest,
        index: usize,
        name: &Name,
        value: ValueId,
    ) -> Result<Given, Box<Diagnostic>> {
        let access = manifest.ports[index].access;
        if access.reads() {
            let state = matches!(
                self.flat.values[self.flat.root(value)].kind,
                FlatKind::State(_)
            );
            return match self.type_of(value) {
                Some((dtype, shape)) if state => Ok(Given::Read(dtype, shape)),
                _ => {
                    let message = format!(
                        "port `{}` of kernel `{}` updates its value in place, and `{}` is not state",
                        name.value, manifest.name, self.flat.values[value].name
                    );
                    Err(Diagnostic::error(codes::NOT_STATE, message)
                        .at(name.span, "")
                        .help("declare a tensor under `state` of the graph and bind that")
                        .into())
                }
            };
        }
        Ok(Given::Written)
    }

    /// Gives a written value its type; state has one already, and it must be the kernel's.
    fn settle(
        &mut self,
        pass: &FlatPass,
        manifest: &Manifest,
        index: usize,
        value: ValueId,
        typed: Option<Type>,
    ) -> Result<(), Box<Diagnostic>> {
        let Some(typed) = typed else { return Ok(()) };
        let Some(known) = self.type_of(value) else {
            self.types[value] = Some(typed);
            return Ok(());
        };
        if known == typed {
            return Ok(());
        }
        let message = format!(
            "`{}` writes {} {} to `{}`, which is {} {}",
            pass.path,
            typed.0,
            shape_text(&typed.1),
            self.flat.values[value].name,
            known.0,
            shape_text(&known.1)
        );
        let code = if known.0 == typed.0 {
            codes::SHAPE
        } else {
            codes::DTYPE
        };
        let port = &manifest.ports[index].name;
        Err(Diagnostic::error(code, message)
            .at(pass.place(port), "")
            .into())
    }

    fn manifest(&self, kernel: &Name) -> Result<&'a Manifest, Box<Diagnostic>> {
        self.library.manifests.get(&kernel.value).ok_or_else(|| {
            let error = Diagnostic::error(
                codes::UNKNOWN_KERNEL,
                format!("unknown kernel `{}`", kernel.value),
            )
            .at(kernel.span, "");
            let known = self.library.manifests.keys().map(String::as_str);
            match nearest(&kernel.value, known) {
                Some(near) => error.help(format!("did you mean `{near}`?")),
                None => error.help("kernels are the manifests `shaders/*.ron`"),
            }
            .into()
        })
    }

    /// The type of a value; of a view: its own shape in the type of what it looks into.
    fn type_of(&self, value: ValueId) -> Option<Type> {
        match &self.flat.values[value].kind {
            FlatKind::View { shape, .. } => {
                let (dtype, _) = self.types[self.flat.root(value)].as_ref()?;
                Some((*dtype, shape.clone()))
            }
            _ => self.types[value].clone(),
        }
    }

    /// Checks that a view lies inside its value.
    fn view(&mut self, value: ValueId) -> Result<(), Box<Diagnostic>> {
        let FlatKind::View { of, shape, offset } = &self.flat.values[value].kind else {
            return Ok(());
        };
        let Some((dtype, whole)) = self.type_of(*of) else {
            return Ok(());
        };
        if dtype.is_block() {
            let info = &self.flat.values[value];
            let message = format!(
                "view `{}` looks into {dtype} `{}`",
                info.name, self.flat.values[*of].name
            );
            return Err(Diagnostic::error(codes::VIEW, message)
                .at(info.origin.span, "")
                .help("the scales of a block format lie behind all of its elements: make the part a weight of its own")
                .into());
        }
        let last = elements(shape).and_then(|count| count.checked_add(*offset));
        if last.is_some_and(|last| elements(&whole).is_some_and(|count| last <= count)) {
            return Ok(());
        }
        let info = &self.flat.values[value];
        let message = format!(
            "view `{}` shows {} from element {offset} of `{}`, which is {}",
            info.name,
            shape_text(shape),
            self.flat.values[*of].name,
            shape_text(&whole)
        );
        let mut error = Diagnostic::error(codes::VIEW, message).at(info.origin.span, "");
        if let (Some(last), Some(count)) = (last, elements(&whole)) {
            error = error.note(format!("the view ends at element {last} of {count}"));
        }
        Err(error
            .help("show fewer elements or start at a smaller `offset`")
            .into())
    }

    fn report(&mut self, problem: Diagnostic, origin: &Origin) {
        let at = problem
            .labels
            .first()
            .map_or((0, 0), |label| (label.span.file.0, label.span.start));
        if self.reported.insert((problem.code, at.0, at.1)) {
            self.problems.push(expanded_from(problem, &origin.via));
        }
    }

    fn finish(self) -> Result<Typed, Diagnostics> {
        self.problems.into_result()?;
        let flat = self.flat;
        let mut values = IdVec::new();
        for ((id, value), typed) in flat.values.enumerate().zip(&self.types) {
            let (class, recipe) = match &value.kind {
                FlatKind::Input(_) => (Class::Input, None),
                FlatKind::Weight(_, recipe) => (Class::Weight, Some(recipe.clone())),
                FlatKind::State(_) => (Class::State, None),
                FlatKind::Carry(_, next) => (Class::Carry { next: *next }, None),
                FlatKind::Written | FlatKind::View { .. } => (Class::Transient, None),
            };
            let root = flat.root(id);
            let typed = typed.clone().or_else(|| {
                let (dtype, _) = self.types[root].as_ref()?;
                let FlatKind::View { shape, .. } = &value.kind else {
                    return None;
                };
                Some((*dtype, shape.clone()))
            });
            // A value without a type has no writer, which `expand` has refused.
            let (dtype, shape) = typed.unwrap_or((DType::U8, vec![0]));
            let view = (root != id).then(|| (root, first_byte(flat, id, dtype)));
            values.push(ValueInfo {
                name: value.name.clone(),
                class,
                dtype,
                shape,
                view,
                recipe,
                origin: value.origin.clone(),
            });
        }
        self.scratch.into_iter().for_each(|value| {
            values.push(value);
        });
        let mut graph = Graph {
            name: flat.name.clone(),
            entry: flat.entry.clone(),
            env: flat.env.clone(),
            values,
            passes: self.passes,
            repeat: flat.repeat,
            guard: flat.guard.clone(),
            inputs: flat.inputs.clone(),
            outputs: flat.outputs.iter().map(|(_, value)| *value).collect(),
        };
        share_class_of_roots(&mut graph);
        Ok(Typed {
            graph,
            dtypes: flat.dtypes.clone(),
            output_names: flat.outputs.iter().map(|(name, _)| name.clone()).collect(),
            unnamed: flat
                .values
                .enumerate()
                .filter(|(_, value)| !value.named)
                .map(|(id, _)| id)
                .collect(),
        })
    }
}

/// A view is of the class of what it looks into.
fn share_class_of_roots(graph: &mut Graph) {
    for value in graph.values.ids() {
        let root = graph.root(value);
        if root != value {
            graph.values[value].class = graph.values[root].class.clone();
        }
    }
}

/// The first byte of a view in its root; in range, as every view lies inside the next.
fn first_byte(flat: &Flat, value: ValueId, dtype: DType) -> u64 {
    let (mut at, mut first) = (value, 0u64);
    while let FlatKind::View { of, offset, .. } = flat.values[at].kind {
        first = first.saturating_add(offset.saturating_mul(dtype.bytes()));
        at = of;
    }
    first
}

fn elements(shape: &[u64]) -> Option<u64> {
    shape
        .iter()
        .try_fold(1u64, |product, size| product.checked_mul(*size))
}

/// The index of a port that stands on the right side of the pass.
fn port(manifest: &Manifest, name: &Name, written: bool) -> Result<usize, Box<Diagnostic>> {
    let sides = ["in", "out"];
    let fail = |message: String| Diagnostic::error(codes::UNKNOWN_PORT, message).at(name.span, "");
    match manifest.port(&name.value) {
        Some((index, port)) if !port.scratch && port.access.writes() == written => Ok(index),
        Some((_, port)) if port.scratch => {
            let message = format!(
                "port `{}` of kernel `{}` is scratch; the compiler binds it",
                name.value, manifest.name
            );
            Err(fail(message).into())
        }
        Some(_) => {
            let message = format!(
                "port `{}` of kernel `{}` stands under `{}`, not `{}`",
                name.value,
                manifest.name,
                sides[usize::from(!written)],
                sides[usize::from(written)]
            );
            Err(fail(message).into())
        }
        None => {
            let known = || {
                manifest
                    .ports
                    .iter()
                    .filter(|port| !port.scratch && port.access.writes() == written)
                    .map(|port| port.name.as_str())
            };
            let error = fail(format!(
                "kernel `{}` has no port `{}`",
                manifest.name, name.value
            ));
            Err(match nearest(&name.value, known()) {
                Some(near) => error.help(format!("did you mean `{near}`?")),
                None => error.help(format!(
                    "under `{}` it has {}",
                    sides[usize::from(written)],
                    known().collect::<Vec<_>>().join(", ")
                )),
            }
            .into())
        }
    }
}

/// Bound ports in manifest order, and the scratch values among them, whose ids start at `first_scratch`.
pub(super) fn port_uses(
    manifest: &Manifest,
    values: &[Option<ValueId>],
    binding: &Binding,
    path: &str,
    origin: &Origin,
    first_scratch: usize,
) -> (Vec<PortUse>, Vec<ValueInfo>) {
    use crate::ids::Id as _;
    let mut scratch = Vec::new();
    let mut uses = Vec::new();
    for (index, port) in manifest.ports.iter().enumerate() {
        let value = match (
            port.scratch,
            binding.ports.get(index).and_then(Option::as_ref),
        ) {
            (true, Some((dtype, shape))) => {
                let id = ValueId::new(first_scratch + scratch.len());
                scratch.push(ValueInfo {
                    name: format!("{path}/{}", port.name),
                    class: match port.zero {
                        true => Class::Scratch,
                        false => Class::Workspace,
                    },
                    dtype: *dtype,
                    shape: shape.clone(),
                    view: None,
                    recipe: None,
                    origin: origin.clone(),
                });
                Some(id)
            }
            (true, None) => None,
            (false, _) => values.get(index).copied().flatten(),
        };
        let Some(value) = value else { continue };
        let taken = port
            .in_place
            .as_ref()
            .and_then(|name| manifest.port(name))
            .map(|(index, _)| index);
        uses.push(PortUse {
            port: index as u32,
            name: port.name.clone(),
            value,
            access: port.access,
            in_place: taken
                .filter(|index| values.get(*index).is_some_and(Option::is_some))
                .map(|index| index as u32),
        });
    }
    (uses, scratch)
}
