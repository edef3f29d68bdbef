//! A graph on the Vulkan device and on the interpreter, from one plan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use graphc::compile::{Job, compile};
use graphc::device::{Choice, DeviceProfile, Feature};
use graphc::diag::Diagnostics;
use graphc::dtype::DType;
use graphc::expr::Expr;
use graphc::graph::Request;
use graphc::interp::Interpreter;
use graphc::kernel::Variant;
use graphc::kernel::build::{CachedBuilder, ShadercBuilder};
use graphc::plan::{Entry, Plan, Weight};
use graphc::run::{Session, SessionOptions, Ticket};
use graphc::span::{SourceError, SourceMap, Sources};
use graphc::vk::arena::WeightSource;

/// Tensors by name, as stored.
pub type Bytes = BTreeMap<String, Vec<u8>>;

/// The device that tests run on: `GRAPHC_DEVICE` names it, else the runtime's own choice.
pub fn wanted() -> Option<String> {
    std::env::var("GRAPHC_DEVICE")
        .ok()
        .filter(|wanted| !wanted.is_empty())
}

/// That device as data.
pub fn profile() -> DeviceProfile {
    let info = graphc::vk::device::describe(wanted().as_deref());
    let mut profile = info
        .unwrap_or_else(|error| panic!("no Vulkan device to test on: {error}"))
        .profile;
    // With what a device cannot be asked about; without roofs and choices, which would change plans.
    let tuned = graphc::profile::tune(
        profile.clone(),
        &super::sources(),
        &mut SourceMap::default(),
    );
    profile.features = tuned.expect("profiles in the repository are good").features;
    profile
}

/// The device, and if its subgroups are small also the device as if it had those of a GPU: manifests choose variants
/// and tile sizes by them, and what a GPU gets should be right here too. Shaders that really use subgroups say so in
/// `needs`, and are left out where the device has no such subgroups. A variant with several shapes of tile, which it
/// chooses by the size of the work, is looked at with each of them.
pub fn views(kernel: &str, variant: &Variant, device: &DeviceProfile) -> Vec<DeviceProfile> {
    let mut views = vec![device.clone()];
    let constant = |name: &str| variant.spec.iter().find(|constant| constant.name == name);
    let with = |spec: &[(&str, u32)]| {
        let mut view = device.clone();
        let choice = Choice {
            when: None,
            variant: variant.name.clone(),
            spec: spec
                .iter()
                .map(|(name, value)| (name.to_string(), *value))
                .collect(),
        };
        view.choices.insert(kernel.into(), vec![choice]);
        view
    };
    if let Some(shapes) = constant("SHAPE") {
        views = (shapes.min..=shapes.max)
            .map(|shape| with(&[("SHAPE", shape)]))
            .collect();
    }
    // What is finished in batches is looked at in small ones, too, by few workgroups, and small products as if they were
    // large ones: of two column tiles beside each other one comes behind x, and so does what the epilogue reads.
    if constant("BATCH").is_some() {
        let large = [("DOWN", 1), ("BESIDE", 2), ("FIRST", 1), ("LOOK", 0)];
        let batches = [("BATCH", 1), ("UNITS", 1)];
        views.push(with(&batches));
        views.push(with(&[("BATCH", 3), ("UNITS", 1)]));
        views.push(with(&large));
        views.push(with(&[large.as_slice(), &batches].concat()));
    }
    // Shares of a row are scanned by teams of a workgroup, how many of them the size of the work or the device says.
    if constant("LIST").is_some() {
        views.push(with(&[("TEAMS", 8)]));
    }
    // What is left to large products is looked at with small ones, on a device for which these are large.
    if variant
        .when
        .as_ref()
        .is_some_and(|when| when.to_string().contains("compute_units"))
    {
        let mut small = device.clone();
        small.limits.compute_units = Some(1);
        views.push(small);
    }
    let constants = variant.spec.iter().map(|constant| &constant.default);
    let by_subgroup = |expr: &Expr| expr.to_string().contains("subgroup_size");
    if variant.needs.contains(&Feature::SubgroupArithmetic) {
        return views;
    }
    if device.limits.subgroup_size < 32 && constants.chain(&variant.when).any(by_subgroup) {
        let mut other = device.clone();
        other.limits.subgroup_size = 32;
        views.push(other);
    }
    views
}

/// The repository with more texts, by path.
struct With<'a> {
    texts: &'a [(&'a str, &'a str)],
}

impl Sources for With<'_> {
    fn read(&self, path: &str) -> Result<String, SourceError> {
        match self.texts.iter().find(|(known, _)| *known == path) {
            Some((_, text)) => Ok(text.to_string()),
            None => super::sources().read(path),
        }
    }
    fn list(&self, path: &str) -> Result<Vec<String>, SourceError> {
        let mut listed = super::sources().list(path)?;
        let here = |text: &&str| {
            text.ends_with(".ron") && text.rsplit_once('/').map(|at| at.0) == Some(path)
        };
        listed.extend(
            self.texts
                .iter()
                .map(|(path, _)| *path)
                .filter(here)
                .map(String::from),
        );
        Ok(listed)
    }
}

/// What `variant` needs for these element types and `device` lacks.
pub fn lacks(
    variant: &Variant,
    types: &BTreeMap<String, DType>,
    device: &DeviceProfile,
) -> BTreeSet<Feature> {
    let half = types
        .values()
        .any(|dtype| *dtype == DType::F16)
        .then_some(Feature::StorageF16);
    let needs = variant.needs.iter().copied().chain(half);
    needs
        .filter(|feature| !device.features.contains(feature))
        .collect()
}

/// Compiles the graph `text` with one kernel held to one variant. A variant that these sizes or this device rule out
/// is an error.
pub fn compile_text(
    text: &str,
    kernel: &str,
    variant: &str,
    device: &DeviceProfile,
) -> Result<Plan, String> {
    compile_texts(&[("case.ron", text)], kernel, variant, device, true)
}

/// The same for the graph `case.ron` among `texts`, which may bring kernels of its own. Without `shaders` the plan is
/// for the interpreter alone.
pub fn compile_texts(
    texts: &[(&str, &str)],
    kernel: &str,
    variant: &str,
    device: &DeviceProfile,
    shaders: bool,
) -> Result<Plan, String> {
    let sources = With { texts };
    let request = [Request::default()];
    let mut job = Job::new("case.ron", &sources, device, &request);
    job.variants.insert(kernel.into(), variant.into());
    if shaders {
        return build(&mut job);
    }
    let mut map = SourceMap::default();
    let compiled = compile(&job, &mut map);
    compiled
        .map(|compiled| compiled.plan)
        .map_err(|errors| errors.render(&map, false))
}

/// Compiles a graph of the repository with one entry for each request.
pub fn compile_graph(
    path: &str,
    requests: &[Request],
    fused: bool,
    device: &DeviceProfile,
) -> Plan {
    let sources = super::sources();
    let mut job = Job::new(path, &sources, device, requests);
    job.fusion.none = !fused;
    build(&mut job).unwrap_or_else(|error| panic!("{error}"))
}

/// Compiles a job with shaders.
pub fn build(job: &mut Job<'_>) -> Result<Plan, String> {
    let cache = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("spirv");
    let builder = CachedBuilder::new(cache, ShadercBuilder::new().unwrap());
    let job = Job {
        builder: Some(&builder),
        variants: std::mem::take(&mut job.variants),
        fusion: std::mem::take(&mut job.fusion),
        ..*job
    };
    let mut map = SourceMap::default();
    let render = |errors: Diagnostics, map: &SourceMap| errors.render(map, false);
    compile(&job, &mut map)
        .map(|compiled| compiled.plan)
        .map_err(|errors| render(errors, &map))
}

/// A plan on the device, with and without validation as the environment says.
pub struct OnDevice {
    pub session: Session,
    plan: Arc<Plan>,
}

impl OnDevice {
    pub fn open(plan: &Plan, weights: impl Fn(&Weight) -> Vec<u8>) -> Self {
        Self::open_as(SessionOptions::from_env(), plan, weights)
    }

    /// Without validation, whatever the environment says: under it the runtime has barriers between passes that relay.
    pub fn unchecked(plan: &Plan, weights: impl Fn(&Weight) -> Vec<u8>) -> Self {
        Self::open_as(SessionOptions::default(), plan, weights)
    }

    fn open_as(options: SessionOptions, plan: &Plan, weights: impl Fn(&Weight) -> Vec<u8>) -> Self {
        let options = SessionOptions {
            device: wanted(),
            ..options
        };
        let mut fill = |_: usize, weight: &Weight, start: u64, into: &mut [u8]| {
            into.copy_from_slice(&weights(weight)[start as usize..][..into.len()]);
            Ok(())
        };
        Self::open_with(plan, options, &mut fill)
    }

    /// Under validation inside and between submits, whatever the environment says; weights in the plan's order.
    pub fn checked(plan: &Plan, weights: &[Vec<u8>]) -> Self {
        // Without this switch the layer of Debian 12 looks at each submit alone.
        let switches = std::env::var("VK_LAYER_ENABLES").unwrap_or_default();
        assert!(switches.contains("SYNCHRONIZATION_VALIDATION_QUEUE_SUBMIT"));
        let options = SessionOptions {
            device: wanted(),
            validation: true,
            labels: true,
            ..SessionOptions::default()
        };
        let mut fill = |at: usize, _: &Weight, start: u64, into: &mut [u8]| {
            into.copy_from_slice(&weights[at][start as usize..][..into.len()]);
            Ok(())
        };
        Self::open_with(plan, options, &mut fill)
    }

    fn open_with(plan: &Plan, options: SessionOptions, weights: &mut dyn WeightSource) -> Self {
        let plan = Arc::new(plan.clone());
        let session = Session::open(options, plan.clone(), weights, &mut |_| {}).unwrap();
        Self { session, plan }
    }

    /// Starts a forward of the entry of that number.
    pub fn submit(&mut self, entry: usize, inputs: &Bytes) -> Ticket {
        let entry = &self.plan.entries[entry];
        let id = self.session.entry(&entry.name).unwrap();
        let mut slot = self.session.begin(id).unwrap();
        for (name, bytes) in inputs {
            write(&mut slot, entry, name, bytes);
        }
        slot.submit().unwrap()
    }

    /// The outputs of a forward of that entry.
    pub fn wait(&mut self, entry: usize, ticket: Ticket) -> Bytes {
        let entry = &self.plan.entries[entry];
        let result = self.session.wait(ticket).unwrap();
        let outputs = entry.outputs.iter().map(|id| &entry.tensors[*id]);
        let bytes = outputs.map(|tensor| match tensor.dtype.bytes() {
            1 => result.tensor::<u8>(&tensor.name).unwrap().to_vec(),
            2 => {
                let words = result.tensor::<u16>(&tensor.name).unwrap();
                words.iter().flat_map(|v| v.to_le_bytes()).collect()
            }
            _ => {
                let words = result.tensor::<u32>(&tensor.name).unwrap();
                words.iter().flat_map(|v| v.to_le_bytes()).collect()
            }
        });
        let names = entry
            .outputs
            .iter()
            .map(|id| entry.tensors[*id].name.clone());
        names.zip(bytes.collect::<Vec<_>>()).collect()
    }
}

fn write(slot: &mut graphc::run::Slot<'_>, entry: &Entry, name: &str, bytes: &[u8]) {
    let find = |id: &&graphc::ids::TensorId| entry.tensors[**id].name == name;
    let Some(id) = entry.inputs.iter().find(find) else {
        panic!("the plan has no input `{name}`");
    };
    match entry.tensors[*id].dtype.bytes() {
        1 => slot.input::<u8>(name).unwrap().copy_from_slice(bytes),
        2 => slot
            .input::<u16>(name)
            .unwrap()
            .copy_from_slice(&words(bytes, u16::from_le_bytes)),
        _ => slot
            .input::<u32>(name)
            .unwrap()
            .copy_from_slice(&words(bytes, u32::from_le_bytes)),
    }
}

fn words<T, const N: usize>(bytes: &[u8], word: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes
        .as_chunks::<N>()
        .0
        .iter()
        .map(|bytes| word(*bytes))
        .collect()
}

/// The outputs of one run of the interpreter.
pub fn run_interpreter(plan: &Plan, weights: impl Fn(&Weight) -> Vec<u8>, inputs: &Bytes) -> Bytes {
    run_interpreter_often(plan, weights, &[inputs])
}

/// The outputs of the last of several runs of the interpreter, between which state stays.
pub fn run_interpreter_often(
    plan: &Plan,
    weights: impl Fn(&Weight) -> Vec<u8>,
    runs: &[&Bytes],
) -> Bytes {
    let mut interpreter = Interpreter::new(plan, weights).unwrap();
    let mut outputs = Bytes::new();
    for (run, inputs) in runs.iter().enumerate() {
        outputs = interpreter
            .run(&plan.entries[0].name, run as u64 % 2, inputs)
            .unwrap_or_else(|error| panic!("{error}"));
    }
    outputs
}
