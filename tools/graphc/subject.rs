//! What a measuring command measures: the flags that name a graph, a plan or a model with its shapes and its device,
//! and the way from them to a session. Shared by `bench`, `profile` and `tune`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use graphc::compile::{Job, compile};
use graphc::device::DeviceProfile;
use graphc::diag::Diagnostics;
use graphc::model::metadata::ModelMetadata;
use graphc::plan::{Entry, Plan, codec};
use graphc::run::{Session, SessionOptions};
use graphc::sources::FsSources;
use graphc::span::SourceMap;
use graphc::text;
use graphc::vk::device::{DeviceInfo, describe};
use graphc::weights::{RandomWeights, Weights};

use crate::context::Context;
use crate::failure::Failure;
use crate::measure::SEED;
use crate::request::{EntryArg, GraphArgs};
use crate::{model, request, shaders, verify};

/// What is measured, and where.
#[derive(clap::Args)]
pub struct SubjectArgs {
    /// Graph file, or for `bench` and `profile` a plan that `graphc compile -o` made [default: the graph that accepts the
    /// model]
    #[arg(value_name = "GRAPH.ron|FILE.plan", required_unless_present = "model")]
    pub file: Option<PathBuf>,
    /// GGUF file, model folder, or hf:org/name from the local Hugging Face cache; without it, weights are made up
    #[arg(long, value_name = "FILE.gguf|DIR")]
    pub model: Option<String>,
    /// A shape: dimensions, or the name of an entry [repeatable; default: all of a plan, else the graph's first entry, or
    /// batch=1,seq=32 if it names none]
    #[arg(long = "entry", value_name = "batch=32,seq=512", value_parser = request::entry)]
    pub entry: Vec<EntryArg>,
    /// Element type of activations and weights [default: the graph's]
    #[arg(long, value_name = "TYPE", env = "GRAPHC_DTYPE", hide_env_values = true, value_parser = ["f32", "f16"])]
    dtype: Option<String>,
    /// Element type of weights: what the checkpoint has (native), or one type for all; `--dtype` when missing
    #[arg(long, value_name = "TYPE", value_parser = request::WEIGHT_TYPES)]
    weights: Option<String>,
    /// Device: a number, a part of the name, or a UUID (see `graphc devices`)
    #[arg(
        long,
        value_name = "N|NAME|UUID",
        env = "GRAPHC_DEVICE",
        hide_env_values = true,
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    pub device: Option<String>,
    /// Tokens that a language model has in its caches before each forward
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub context: u32,
    /// Make weights up although there is a model: its shapes without its numbers
    #[arg(long)]
    random_weights: bool,
    /// Give a parameter of the graph a value; wins over the model [repeatable]
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = request::setting)]
    set: Vec<(String, String)>,
    /// Switch a fusion rule off; `all` switches every rule off [repeatable]
    #[arg(long = "no-fusion", value_name = "RULE")]
    no_fusion: Vec<String>,
    /// Longest time one submit should take [default: the device's profile says]
    #[arg(long, value_name = "MS", value_parser = request::positive)]
    max_submit_ms: Option<f64>,
    /// Memory of the device's own that is used, for example 800MiB; weights beyond it lie in host memory [default: what
    /// the device has]
    #[arg(long, value_name = "BYTES|MiB|GiB", value_parser = request::bytes)]
    device_memory_limit: Option<u64>,
    /// Name every pass for GPU debuggers (VK_EXT_debug_utils): its number, path, and line in the graph
    #[arg(long)]
    labels: bool,
}

/// A plan with the texts that it was made from.
pub struct Planned {
    /// The plan.
    pub plan: Plan,
    /// The texts; none of a plan file.
    pub map: SourceMap,
}

/// A session that is ready to be measured.
pub struct Subject {
    /// The plan on its device.
    pub session: Session,
    /// The plan.
    pub plan: Arc<Plan>,
    /// Whether the weights are made up.
    pub random_weights: bool,
    /// Places of the entries to measure, in the order in which they were asked for.
    pub chosen: Vec<usize>,
    /// The texts that the plan was made from.
    pub map: SourceMap,
}

/// The device that was asked for, with what its profile file knows.
pub struct Target {
    /// The device.
    pub info: DeviceInfo,
    /// Its limits, roofs and choices.
    pub profile: DeviceProfile,
}

impl SubjectArgs {
    /// Makes or reads the plan, and opens the device with the weights in place.
    pub fn open(&self, context: &Context) -> Result<Subject, Failure> {
        let planned = self.planned(context)?;
        self.start(planned, context)
    }

    /// The plan of these arguments.
    pub fn planned(&self, context: &Context) -> Result<Planned, Failure> {
        match &self.file {
            Some(file) if is_plan(file) => Ok(Planned {
                plan: read(self, file)?,
                map: SourceMap::default(),
            }),
            _ => {
                let target = self.target(context)?;
                let mut map = SourceMap::default();
                match self.compile(&target.profile, &mut map, context)? {
                    Ok(plan) => {
                        self.unread(context)?;
                        Ok(Planned { plan, map })
                    }
                    Err(found) => Err(Failure::Diagnosed(found, map)),
                }
            }
        }
    }

    /// Opens the device and puts the plan with its weights there.
    pub fn start(&self, planned: Planned, context: &Context) -> Result<Subject, Failure> {
        let chosen = chosen(self, &planned.plan)?;
        for index in &chosen {
            fits_context(&planned.plan, &planned.plan.entries[*index], self.context)?;
        }
        let plan = Arc::new(planned.plan);
        let weights = match self.folder()? {
            Some(folder) if !self.random_weights => model::packed(&folder, &plan, context)?,
            _ => Weights::Random(RandomWeights::new(SEED)),
        };
        let mut options = SessionOptions {
            device: self.device.clone(),
            ..SessionOptions::from_env()
        };
        options.labels |= self.labels;
        let session = model::open(options, Arc::clone(&plan), &weights, context)?;
        Ok(Subject {
            session,
            plan,
            random_weights: matches!(weights, Weights::Random(_)),
            chosen,
            map: planned.map,
        })
    }

    /// An error where a plan was named, of which only a graph can be made anew.
    pub fn must_be_graph(&self, command: &str) -> Result<(), Failure> {
        match &self.file {
            Some(file) if is_plan(file) => Err(Failure::bad_input(format!(
                "`{}` is no .ron file: `graphc {command}` compiles again and again, and needs the graph",
                file.display()
            ))),
            _ => Ok(()),
        }
    }

    /// The device, without opening it.
    pub fn target(&self, context: &Context) -> Result<Target, Failure> {
        let info = describe(self.device.as_deref())
            .map_err(|error| Failure::coded(error.code(), &error))?;
        let mut profile = model::tuned(&info, &context.sources()?)?;
        let limits = &mut profile.limits;
        limits.device_memory = self.device_memory_limit.or(limits.device_memory);
        Ok(Target { info, profile })
    }

    fn folder(&self) -> Result<Option<PathBuf>, Failure> {
        let folder = self.model.as_deref();
        folder
            .map(|name| request::model_folder(name, false))
            .transpose()
    }

    /// The reader of texts, and the graph's path in it.
    pub fn graph(&self, context: &Context) -> Result<(FsSources, String), Failure> {
        let folder = match &self.file {
            Some(file) => return context.graph(file),
            None => self.folder()?,
        };
        let sources = context.sources()?;
        let metadata =
            ModelMetadata::open(folder.as_deref().unwrap_or(Path::new(""))).map_err(|error| {
                let found = Diagnostics::from(error.diagnostic());
                Failure::Diagnosed(found, SourceMap::default())
            })?;
        let graph = model::graph_of(&metadata, &sources)?;
        Ok((sources, graph))
    }

    /// What is asked of the graph, or what is wrong with its text, which then is in `map`.
    fn wanted(
        &self,
        graph: &str,
        sources: &FsSources,
        map: &mut SourceMap,
    ) -> Result<GraphArgs, Diagnostics> {
        let entry = match self.entry.as_slice() {
            [] => vec![usual_entry(graph, sources, map)?],
            asked => asked.to_vec(),
        };
        Ok(GraphArgs {
            graph: PathBuf::from(graph),
            model: self.model.clone(),
            set: self.set.clone(),
            entry,
            dtype: self.dtype.clone(),
            weights: self.weights.clone(),
            no_fusion: self.no_fusion.clone(),
        })
    }

    /// Says which tensors of the model its graph leaves out.
    fn unread(&self, context: &Context) -> Result<(), Failure> {
        let Some(folder) = self.folder()?.filter(|_| !self.random_weights) else {
            return Ok(());
        };
        let (sources, graph) = self.graph(context)?;
        let mut map = SourceMap::default();
        let requests = match self.wanted(&graph, &sources, &mut map) {
            Ok(wanted) => wanted.requests()?,
            Err(found) => return Err(Failure::Diagnosed(found, map)),
        };
        model::unread((&sources, &graph), &requests, &folder, context)
    }

    /// A plan for the device, made now. Every text that was read is in `map`, also after an error.
    pub fn compile(
        &self,
        profile: &DeviceProfile,
        map: &mut SourceMap,
        context: &Context,
    ) -> Result<Result<Plan, Diagnostics>, Failure> {
        let (sources, graph) = self.graph(context)?;
        let wanted = match self.wanted(&graph, &sources, map) {
            Ok(wanted) => wanted,
            Err(found) => return Ok(Err(found)),
        };
        let requests = wanted.requests()?;
        let builder = shaders::builder(context)?;
        let job = Job {
            fusion: wanted.fusion(),
            builder: Some(&*builder),
            max_submit_ms: self.max_submit_ms.or(profile.max_submit_ms),
            ..Job::new(&graph, &sources, profile, &requests)
        };
        let compiled = match compile(&job, map) {
            Ok(compiled) => compiled,
            Err(found) => return Ok(Err(found)),
        };
        let mut warnings = Diagnostics::default();
        compiled
            .warnings
            .into_iter()
            .for_each(|warning| warnings.push(warning));
        context.warn(&warnings, map);
        Ok(Ok(compiled.plan))
    }
}

/// The entry that is measured where none is asked for: the graph's first, or a text of 32 tokens.
fn usual_entry(
    graph: &str,
    sources: &FsSources,
    map: &mut SourceMap,
) -> Result<EntryArg, Diagnostics> {
    // Whoever compiles the graph reads it again; only its mistakes are shown with these texts.
    let mut own = SourceMap::default();
    let loaded = match text::load(graph, sources, &mut own) {
        Ok(loaded) => loaded,
        Err(found) => {
            *map = own;
            return Err(found);
        }
    };
    if let Some((name, _)) = loaded.graph.entries.first() {
        return Ok(EntryArg::Named(name.value.clone()));
    }
    let dims = [("batch", 1), ("seq", 32)].into_iter();
    let declared = dims.filter(|(name, _)| {
        let mut names = loaded.graph.dims.iter().map(|(name, _)| &name.value);
        names.any(|declared| declared == name)
    });
    Ok(EntryArg::Dims(
        declared
            .map(|(name, size)| (name.to_string(), size))
            .collect(),
    ))
}

/// Graphs are named so; every other file is taken for a plan.
fn is_plan(file: &Path) -> bool {
    file.extension().is_none_or(|ending| ending != "ron")
}

/// A plan file. What only the compiler can do was done when it was made.
fn read(args: &SubjectArgs, file: &Path) -> Result<Plan, Failure> {
    let shown = file.display();
    // What the environment gives is for graphs, and nobody's mistake here.
    let from_env = std::env::var("GRAPHC_DTYPE").ok();
    let late = [
        ("--set", !args.set.is_empty()),
        ("--dtype", args.dtype.is_some() && args.dtype != from_env),
        ("--weights", args.weights.is_some()),
        ("--device-memory-limit", args.device_memory_limit.is_some()),
        ("--no-fusion", !args.no_fusion.is_empty()),
        ("--max-submit-ms", args.max_submit_ms.is_some()),
    ];
    if let Some((flag, _)) = late.iter().find(|(_, given)| *given) {
        return Err(Failure::bad_input(format!(
            "`{shown}` is compiled already, {flag} comes too late; give it to `graphc compile`, or bench the graph"
        )));
    }
    let bytes = verify::read(file)?;
    codec::decode(&bytes)
        .map_err(|error| Failure::bad_input(format!("cannot use `{shown}`: {error}")))
}

/// Whether the caches have places for what is there before a forward and for what it adds.
fn fits_context(plan: &Plan, entry: &Entry, context: u32) -> Result<(), Failure> {
    let places = plan.params.get("ctx").and_then(|value| value.as_int());
    let Some(places) = places else {
        return match context {
            0 => Ok(()),
            _ => Err(Failure::bad_input(format!(
                "--context {context} is for models with caches, and `{}` has no `ctx`",
                plan.graph
            ))),
        };
    };
    let dim = |name: &str| entry.dims.get(name).copied().unwrap_or(1).max(1);
    let added = dim("seq").max(dim("steps"));
    if i64::from(context).saturating_add(added) <= places {
        return Ok(());
    }
    Err(Failure::bad_input(format!(
        "entry `{}` adds {added} tokens to the {context} of --context, but the caches have {places} places (`ctx`)",
        entry.name
    )))
}

/// Places of the entries to measure: those asked for in that order, or all.
fn chosen(args: &SubjectArgs, plan: &Plan) -> Result<Vec<usize>, Failure> {
    if args.entry.is_empty() {
        return Ok((0..plan.entries.len()).collect());
    }
    let fits = |entry: &Entry, wanted: &EntryArg| match wanted {
        EntryArg::Named(name) => entry.name == *name,
        EntryArg::Dims(dims) => dims
            .iter()
            .all(|(name, size)| entry.dims.get(name) == Some(size)),
    };
    let place = |wanted: &EntryArg| {
        let found = plan.entries.iter().position(|entry| fits(entry, wanted));
        found.ok_or_else(|| {
            let has: Vec<&str> = plan.entries.iter().map(|entry| &*entry.name).collect();
            Failure::bad_input(format!(
                "the plan has no entry `{wanted}`; it has {}",
                has.join(" and ")
            ))
        })
    };
    args.entry.iter().map(place).collect()
}
