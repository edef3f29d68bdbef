//! From passes to kernels of a plan: selects a variant for each pass, builds its module, checks the module against the
//! manifest, and gives equal instances one id.
//!
//! In: a fused graph, manifests, a device, a builder. Out: one [`Lowered`] a pass, and the kernels they name in the
//! order of their first use.

use std::collections::{BTreeMap, BTreeSet};

use crate::codes::kernel as codes;
use crate::device::{DeviceProfile, Feature};
use crate::diag::{Diagnostic, Diagnostics};
use crate::graph::{Graph, Pass};
use crate::ids::{IdVec, KernelId, PassId};
use crate::kernel::build::{BuildError, BuildRequest, Builder, Flattened, flatten};
use crate::kernel::check::check;
use crate::kernel::reflect::reflect;
use crate::kernel::select::{Selected, select};
use crate::kernel::{Access, Library, Manifest};
use crate::plan::Kernel;
use crate::plan::lower::Lowered;
use crate::span::Sources;

/// What distinguishes one instance from another before its text is known. The definitions hold more than a shader
/// looks at, so that several of these can be one kernel.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Wanted {
    kernel: String,
    variant: String,
    defines: Vec<(String, String)>,
    spec: Vec<(u32, u32)>,
    local_size: [u32; 3],
    bindings: Vec<(u32, Access)>,
}

impl Wanted {
    fn new(pass: &Pass, selected: &Selected) -> Self {
        Self {
            kernel: selected.kernel.clone(),
            variant: selected.variant.clone(),
            defines: selected.defines.clone(),
            spec: selected.spec.clone(),
            local_size: selected.local_size,
            bindings: bound(pass),
        }
    }
}

/// What makes two instances one kernel: the same with the text in place of the definitions, and what the manifest
/// promises of it.
type Same = (Wanted, String, u64, bool);

/// Collects the kernels of a plan.
pub struct Instances<'a> {
    profile: &'a DeviceProfile,
    sources: &'a dyn Sources,
    builder: Option<&'a dyn Builder>,
    forced: &'a BTreeMap<String, String>,
    kernels: IdVec<KernelId, Kernel>,
    known: BTreeMap<Wanted, KernelId>,
    same: BTreeMap<Same, KernelId>,
    needs: BTreeSet<Feature>,
}

impl<'a> Instances<'a> {
    /// No kernels yet. Without a `builder` kernels have no modules and their bindings are the manifest's word.
    pub fn new(
        profile: &'a DeviceProfile,
        sources: &'a dyn Sources,
        builder: Option<&'a dyn Builder>,
        forced: &'a BTreeMap<String, String>,
    ) -> Self {
        Self {
            profile,
            sources,
            builder,
            forced,
            kernels: IdVec::new(),
            known: BTreeMap::new(),
            same: BTreeMap::new(),
            needs: BTreeSet::new(),
        }
    }

    /// Chooses a kernel for every pass of `graph`.
    pub fn choose(
        &mut self,
        graph: &Graph,
        library: &Library,
    ) -> Result<IdVec<PassId, Lowered>, Diagnostics> {
        let mut found = Diagnostics::default();
        let mut lowered = IdVec::new();
        for pass in &graph.passes {
            match self.pass(pass, library) {
                Ok(one) => {
                    lowered.push(one);
                }
                Err(problem) => found.push(problem),
            }
        }
        found.into_result().map(|_| lowered)
    }

    /// The kernels and the features they need.
    pub fn finish(self) -> (IdVec<KernelId, Kernel>, BTreeSet<Feature>) {
        (self.kernels, self.needs)
    }

    fn pass(&mut self, pass: &Pass, library: &Library) -> Result<Lowered, Diagnostic> {
        let at = |problem: Diagnostic| {
            let problem = problem.note(format!("for pass `{}`", pass.path));
            if problem.labels.is_empty() {
                problem.at(pass.origin.span, "")
            } else {
                problem
            }
        };
        // `infer` has looked the kernel up already; an unknown one here is a mistake of ours, said plainly.
        let manifest = library.manifests.get(&pass.kernel).ok_or_else(|| {
            at(Diagnostic::error(
                codes::BUILD,
                format!("kernel `{}` is gone", pass.kernel),
            ))
        })?;
        let forced = self.forced.get(&pass.kernel).map(String::as_str);
        let selected = select(manifest, &pass.binding, self.profile, forced).map_err(at)?;
        let (groups, push, flops, touched, matrix) = (
            selected.groups,
            selected.push.clone(),
            selected.flops,
            selected.touched.clone(),
            selected.matrix,
        );
        let kernel = self.instance(manifest, pass, selected).map_err(at)?;
        Ok(Lowered {
            kernel,
            groups,
            push,
            flops,
            touched,
            matrix,
        })
    }

    fn instance(
        &mut self,
        manifest: &Manifest,
        pass: &Pass,
        selected: Selected,
    ) -> Result<KernelId, Diagnostic> {
        let wanted = Wanted::new(pass, &selected);
        if let Some(id) = self.known.get(&wanted) {
            return Ok(*id);
        }
        self.needs.extend(selected.needs.iter().copied());
        let mut new = None;
        let (mut spirv, mut bindings) = (Vec::new(), wanted.bindings.clone());
        if let Some(builder) = self.builder {
            let shader = self.text(&selected)?;
            let same = (
                Wanted {
                    defines: Vec::new(),
                    ..wanted.clone()
                },
                shader.text.clone(),
                selected.shared_bytes.unwrap_or(0),
                selected.full_subgroups,
            );
            if let Some(id) = self.same.get(&same) {
                self.known.insert(wanted, *id);
                return Ok(*id);
            }
            (spirv, bindings) = module(builder, &shader, manifest, &wanted, &selected)?;
            new = Some(same);
        }
        let id = self.kernels.push(Kernel {
            name: selected.kernel,
            variant: selected.variant,
            label: selected.label,
            spirv,
            spec: selected.spec,
            bindings,
            push_bytes: selected.push.len() as u32,
            local_size: selected.local_size,
            shared_bytes: selected.shared_bytes.unwrap_or(0),
            full_subgroups: selected.full_subgroups,
            relays: selected.relays,
            reference: manifest.reference.clone(),
        });
        self.known.insert(wanted, id);
        self.same.extend(new.map(|same| (same, id)));
        Ok(id)
    }

    fn text(&self, selected: &Selected) -> Result<Flattened, Diagnostic> {
        let request = BuildRequest {
            shader: &selected.shader,
            defines: &selected.defines,
        };
        flatten(request, self.sources).map_err(|error| not_built(&error))
    }
}

/// The words of a module, and its bindings with how it touches them.
type Module = (Vec<u32>, Vec<(u32, Access)>);

/// Builds the module and compares it with the manifest.
fn module(
    builder: &dyn Builder,
    shader: &Flattened,
    manifest: &Manifest,
    wanted: &Wanted,
    selected: &Selected,
) -> Result<Module, Diagnostic> {
    let words = builder.build(shader).map_err(|error| not_built(&error))?;
    let module = reflect(&words, &selected.spec).map_err(|error| {
        let shader = &selected.shader;
        let message = format!("the module of shader `{shader}` is not usable: {error}");
        Diagnostic::error(codes::BAD_SPIRV, message)
    })?;
    let numbers = 0..manifest.ports.len() as u32;
    let is_bound = |number| wanted.bindings.iter().any(|(bound, _)| *bound == number);
    let bound: Vec<bool> = numbers.map(is_bound).collect();
    let bindings = check(manifest, selected, &bound, &module)?;
    Ok((words, bindings))
}

fn not_built(error: &BuildError) -> Diagnostic {
    let code = match error {
        BuildError::NoCompiler { .. } => codes::NO_COMPILER,
        _ => codes::BUILD,
    };
    let mut diagnostic = Diagnostic::error(code, error.to_string());
    diagnostic.help.extend(error.help().map(String::from));
    diagnostic
}

/// Bindings as the manifest declares them.
fn bound(pass: &Pass) -> Vec<(u32, Access)> {
    pass.ports
        .iter()
        .map(|port| (port.port, port.access))
        .collect()
}
