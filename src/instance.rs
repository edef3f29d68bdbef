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
use crate::kernel::build::{BuildError, BuildRequest, Builder, flatten};
use crate::kernel::check::check;
use crate::kernel::reflect::reflect;
use crate::kernel::select::{Selected, select};
use crate::kernel::{Access, Library, Manifest};
use crate::plan::Kernel;
use crate::plan::lower::Lowered;
use crate::span::Sources;

/// What distinguishes one instance from another.
type Key = (
    String,
    String,
    Vec<(String, String)>,
    Vec<(u32, u32)>,
    [u32; 3],
);

/// Collects the kernels of a plan.
pub struct Instances<'a> {
    profile: &'a DeviceProfile,
    sources: &'a dyn Sources,
    builder: Option<&'a dyn Builder>,
    forced: &'a BTreeMap<String, String>,
    kernels: IdVec<KernelId, Kernel>,
    known: BTreeMap<Key, KernelId>,
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
        let (groups, push, flops, matrix) = (
            selected.groups,
            selected.push.clone(),
            selected.flops,
            selected.matrix,
        );
        let kernel = self.instance(manifest, pass, selected).map_err(at)?;
        Ok(Lowered {
            kernel,
            groups,
            push,
            flops,
            matrix,
        })
    }

    fn instance(
        &mut self,
        manifest: &Manifest,
        pass: &Pass,
        selected: Selected,
    ) -> Result<KernelId, Diagnostic> {
        let key = (
            selected.kernel.clone(),
            selected.variant.clone(),
            selected.defines.clone(),
            selected.spec.clone(),
            selected.local_size,
        );
        if let Some(id) = self.known.get(&key) {
            return Ok(*id);
        }
        let (spirv, bindings) = match self.builder {
            Some(builder) => self.module(builder, manifest, pass, &selected)?,
            None => (Vec::new(), bound(pass)),
        };
        self.needs.extend(selected.needs.iter().copied());
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
            reference: manifest.reference.clone(),
        });
        self.known.insert(key, id);
        Ok(id)
    }

    /// Builds the module and has it say itself what it binds.
    fn module(
        &self,
        builder: &dyn Builder,
        manifest: &Manifest,
        pass: &Pass,
        selected: &Selected,
    ) -> Result<(Vec<u32>, Vec<(u32, Access)>), Diagnostic> {
        let fail = |message: String| Diagnostic::error(codes::BUILD, message);
        let request = BuildRequest {
            shader: &selected.shader,
            defines: &selected.defines,
        };
        let shader = flatten(request, self.sources).map_err(|error| fail(error.to_string()))?;
        let words = builder.build(&shader).map_err(|error| match error {
            BuildError::NoCompiler { .. } => {
                Diagnostic::error(codes::NO_COMPILER, error.to_string())
            }
            _ => fail(error.to_string()),
        })?;
        let module = reflect(&words, &selected.spec).map_err(|error| {
            let message = format!(
                "the module of shader `{}` is not usable: {error}",
                selected.shader
            );
            Diagnostic::error(codes::BAD_SPIRV, message)
        })?;
        let mut is_bound = vec![false; manifest.ports.len()];
        for (number, _) in bound(pass) {
            if let Some(flag) = is_bound.get_mut(number as usize) {
                *flag = true;
            }
        }
        let bindings = check(manifest, selected, &is_bound, &module)?;
        Ok((words, bindings))
    }
}

/// Bindings as the manifest declares them.
fn bound(pass: &Pass) -> Vec<(u32, Access)> {
    pass.ports
        .iter()
        .map(|port| (port.port, port.access))
        .collect()
}
