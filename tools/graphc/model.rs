//! The flags that name a model, and the way from a model's folder to a session on a device. Shared by the commands
//! that run one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use graphc::codes::plan as codes;
use graphc::compile::{Job, compile};
use graphc::device::DeviceProfile;
use graphc::diag::{Diagnostics, Severity};
use graphc::dtype::DType;
use graphc::graph::{FuseOptions, Request, Tensors};
use graphc::model::bucket::Bucket;
use graphc::model::metadata::{ModelMetadata, find_graph};
use graphc::model::tokenizer::Tokenizer;
use graphc::plan::Plan;
use graphc::run::{Progress, Session, SessionOptions};
use graphc::sources::FsSources;
use graphc::span::SourceMap;
use graphc::vk::device::{DeviceInfo, DeviceKind, describe};
use graphc::weights::{Checkpoint, PackOptions, PackedWeights, Weights};

use crate::context::Context;
use crate::failure::Failure;
use crate::{request, shaders};

/// Which model, how, and where.
#[derive(clap::Args)]
pub struct ModelArgs {
    /// GGUF file, model folder in the Hugging Face layout, or hf:org/name from the local Hugging Face cache
    #[arg(
        long,
        value_name = "FILE.gguf|DIR",
        env = "GRAPHC_MODEL",
        hide_env_values = true
    )]
    model: String,
    /// Let hf:org/name be downloaded if it is not in the cache
    #[arg(long)]
    download: bool,
    /// Graph file [default: the one in graphs/models that accepts the model's type]
    #[arg(long, value_name = "GRAPH.ron")]
    graph: Option<PathBuf>,
    /// Device by number, part of its name, or UUID [default: the first GPU, else a device on the CPU]
    #[arg(
        long,
        value_name = "N|NAME|UUID",
        env = "GRAPHC_DEVICE",
        hide_env_values = true,
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    device: Option<String>,
    /// Element type of activations and weights
    #[arg(long, value_name = "TYPE", default_value = "f32", env = "GRAPHC_DTYPE", hide_env_values = true,
          value_parser = ["f32", "f16"])]
    dtype: String,
    /// Give a parameter of the graph a value; wins over the model [repeatable]
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = request::setting)]
    set: Vec<(String, String)>,
    /// Switch a fusion rule off; `all` switches every rule off [repeatable]
    #[arg(long = "no-fusion", value_name = "RULE")]
    no_fusion: Vec<String>,
    /// Name every pass for GPU debuggers (VK_EXT_debug_utils): its number, path, and line in the graph
    #[arg(long)]
    labels: bool,
    /// Memory of the device's own that is used, for example 800MiB; weights beyond it lie in host memory [default: what
    /// the device has]
    #[arg(long, value_name = "BYTES|MiB|GiB", value_parser = request::bytes)]
    device_memory_limit: Option<u64>,
}

/// A model and the device that will run it.
pub struct Model {
    metadata: ModelMetadata,
    sources: FsSources,
    graph: String,
    info: DeviceInfo,
    profile: DeviceProfile,
    device: Option<String>,
    request: Request,
    fusion: FuseOptions,
    labels: bool,
}

impl Model {
    /// Finds the folder, its graph and the device. The graph must have the output `read`.
    pub fn open(args: &ModelArgs, read: &str, context: &Context) -> Result<Self, Failure> {
        let folder = request::model_folder(&args.model, args.download)?;
        let metadata =
            ModelMetadata::open(&folder).map_err(|error| diagnosed(error.diagnostic()))?;
        let (sources, graph) = match &args.graph {
            Some(file) => context.graph(file)?,
            None => {
                let sources = context.sources()?;
                let graph = graph_of(&metadata, &sources)?;
                (sources, graph)
            }
        };
        has_output(&graph, read, &sources)?;
        let info = describe(args.device.as_deref())
            .map_err(|error| Failure::coded(error.code(), &error))?;
        let mut profile = tuned(&info, &sources)?;
        let limits = &mut profile.limits;
        limits.device_memory = args.device_memory_limit.or(limits.device_memory);
        let dtype: DType = args.dtype.parse().map_err(Failure::bad_input)?;
        let request = Request {
            params: metadata.values.clone(),
            file: Some(metadata.file().display().to_string()),
            set: args
                .set
                .iter()
                .map(|(name, text)| (name.clone(), request::value(text)))
                .collect(),
            entry: None,
            dims: BTreeMap::new(),
            dtype: Some(dtype),
            dtypes: BTreeMap::new(),
            native: None,
        };
        Ok(Self {
            metadata,
            sources,
            graph,
            info,
            profile,
            device: args.device.clone(),
            labels: args.labels,
            request,
            fusion: request::fusion(&args.no_fusion),
        })
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> Result<Tokenizer, Failure> {
        let positions = self.number("max_positions", Some(u64::MAX))?;
        let rows = self.number("vocab_size", None)?;
        Tokenizer::load(&self.metadata.folder, positions, rows)
            .map_err(|error| Failure::diagnosed(error.code(), &error))
    }

    /// A number of the model above 0; `otherwise` where its files do not have the key.
    pub fn number(&self, key: &str, otherwise: Option<u64>) -> Result<u64, Failure> {
        let number = self
            .metadata
            .positive(key)
            .map_err(|error| diagnosed(error.diagnostic()))?;
        match number.or(otherwise) {
            Some(number) => Ok(number),
            None => Err(diagnosed(self.metadata.missing(key).diagnostic())),
        }
    }

    /// What one more submit costs, in rows of a batch. On a CPU a row is dear and a submit is not; on a GPU the
    /// time of a small batch is mostly the latency of its passes.
    pub fn per_submit(&self) -> u64 {
        match self.info.kind {
            DeviceKind::Cpu => 8,
            _ => 1024,
        }
    }

    /// A plan with an entry for each bucket. A bucket whose tensors are larger than the device can bind gets
    /// a smaller batch.
    pub fn compile(&self, buckets: &mut Vec<Bucket>, context: &Context) -> Result<Plan, Failure> {
        loop {
            let mut map = SourceMap::default();
            match self.try_compile(buckets, &mut map, context)? {
                Ok(plan) => return Ok(plan),
                Err(found) => {
                    if !(too_large(&found) && shrink_largest(buckets)) {
                        return Err(Failure::Diagnosed(found, map));
                    }
                }
            }
        }
    }

    fn try_compile(
        &self,
        buckets: &[Bucket],
        map: &mut SourceMap,
        context: &Context,
    ) -> Result<Result<Plan, Diagnostics>, Failure> {
        let entries: Vec<Request> = buckets.iter().map(|bucket| self.entry(*bucket)).collect();
        self.compile_entries(&entries, map, context)
    }

    /// A plan with an entry for each request, in their order.
    pub fn compile_entries(
        &self,
        entries: &[Request],
        map: &mut SourceMap,
        context: &Context,
    ) -> Result<Result<Plan, Diagnostics>, Failure> {
        let builder = shaders::builder(context)?;
        let mut job = Job::new(&self.graph, &self.sources, &self.profile, entries);
        job.fusion = self.fusion.clone();
        job.builder = Some(&*builder);
        job.max_submit_ms = self.profile.max_submit_ms;
        let compiled = match compile(&job, map) {
            Ok(compiled) => compiled,
            Err(found) => return Ok(Err(found)),
        };
        let graph = (&self.sources, self.graph.as_str());
        unread(graph, entries, &self.metadata.checkpoint, context)?;
        // A prefill fills the caches only, so much of its last layer has no effect; that is meant.
        let meant = |request: &Request| request.dims.get("steps") == Some(&0);
        let mut warnings = Diagnostics::default();
        compiled
            .warnings
            .into_iter()
            .filter(|warning| warning.code.0 != "G0222" || !entries.iter().any(meant))
            .for_each(|warning| warnings.push(warning));
        if !warnings.items().is_empty() {
            context.say(warnings.render(map, context.color).trim_end());
        }
        Ok(Ok(compiled.plan))
    }

    /// What its files say.
    pub fn metadata(&self) -> &ModelMetadata {
        &self.metadata
    }

    /// What every entry asks for.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// How many steps a submit should hold, if the device's profile says so.
    pub fn tokens_per_submit(&self) -> Option<u32> {
        self.profile.tokens_per_submit
    }

    /// Whether the device computes on the CPU.
    pub fn on_cpu(&self) -> bool {
        self.info.kind == DeviceKind::Cpu
    }

    fn entry(&self, bucket: Bucket) -> Request {
        let dims = [("batch", bucket.batch), ("seq", bucket.seq)];
        let dims = dims
            .map(|(name, size)| (name.to_string(), i64::from(size)))
            .into();
        Request {
            dims,
            ..self.request.clone()
        }
    }

    /// Packs the weights, opens the device and loads them.
    pub fn open_session(&self, plan: Plan, context: &Context) -> Result<Session, Failure> {
        let weights = packed(&self.metadata.checkpoint, &plan, context)?;
        let mut options = SessionOptions {
            device: self.device.clone(),
            ..SessionOptions::from_env()
        };
        options.labels |= self.labels;
        open(options, Arc::new(plan), &weights, context)
    }
}

/// Says which tensors of the checkpoint at `path` a graph leaves out, or fails if they are whole layers.
pub fn unread(
    (sources, graph): (&FsSources, &str),
    requests: &[Request],
    path: &Path,
    context: &Context,
) -> Result<(), Failure> {
    let mut map = SourceMap::default();
    let loaded = match graphc::text::load(graph, sources, &mut map) {
        Ok(loaded) => loaded,
        Err(found) => return Err(Failure::Diagnosed(found, map)),
    };
    let checkpoint = Checkpoint::open(path).map_err(|error| diagnosed(error.diagnostic()))?;
    // Mostly the entries that run read all that there is; to look at the others takes as long as to compile.
    let left = checkpoint.unread(&Tensors::asked(&loaded, requests));
    match left.and_then(|_| checkpoint.unread(&Tensors::of(&loaded, requests))) {
        Some(found) if found.severity == Severity::Error => Err(diagnosed(found)),
        found => {
            let found = found.map(Diagnostics::from);
            context.warn(&found.unwrap_or_default(), &map);
            Ok(())
        }
    }
}

/// The weights of the checkpoint at `path` as `plan` wants them, from its cache file or packed now.
pub fn packed(path: &Path, plan: &Plan, context: &Context) -> Result<Weights, Failure> {
    let weight_failure = |error: graphc::weights::WeightError| diagnosed(error.diagnostic());
    let checkpoint = Checkpoint::open(path).map_err(weight_failure)?;
    let bar = context.byte_bar(0, "packing weights");
    let options = PackOptions::default();
    let packed = PackedWeights::open_or_pack(plan, &checkpoint, &options, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let packed = packed.map_err(weight_failure)?;
    packed.notes.iter().for_each(|note| context.say(note));
    for lossy in &packed.lossy {
        context.say(&format!(
            "warning: weight `{}`: {}",
            lossy.weight, lossy.losses
        ));
    }
    Ok(Weights::Packed(packed))
}

/// Opens the device that the options name and loads the weights.
pub fn open(
    options: SessionOptions,
    plan: Arc<Plan>,
    weights: &Weights,
    context: &Context,
) -> Result<Session, Failure> {
    let mut options = SessionOptions {
        pipeline_cache: Some(context.cache_dir()?.join("pipelines")),
        time_out: context.timeout,
        ..options
    };
    context.listening.show(&mut options);
    let of = Arc::clone(&plan);
    let mut fill = |index: usize, _: &graphc::plan::Weight, start: u64, into: &mut [u8]| {
        Ok(weights.write(&of, index, start, into)?)
    };
    let weight_bar = context.byte_bar(0, "loading weights");
    let kernel_bar = context.bar(0, "compiling kernels");
    let session = Session::open(options, plan, &mut fill, &mut |progress| {
        let (bar, done, total) = match progress {
            Progress::Weights { done, total } => (&weight_bar, done, total),
            Progress::Pipelines { done, total } => (&kernel_bar, done, total),
        };
        bar.set_length(total);
        bar.set_position(done);
    });
    weight_bar.finish_and_clear();
    kernel_bar.finish_and_clear();
    let session = session.map_err(|error| Failure::coded(error.code(), &error))?;
    session.notes().iter().for_each(|note| context.say(note));
    Ok(session)
}

/// The graph file that accepts the model.
pub fn graph_of(metadata: &ModelMetadata, sources: &FsSources) -> Result<String, Failure> {
    metadata
        .model_type()
        .and_then(|name| find_graph(name, sources, "graphs/models"))
        .map_err(|error| diagnosed(error.diagnostic()))
}

/// That a graph computes what the command reads: an encoder writes no tokens, a language model no embedding.
fn has_output(graph: &str, read: &str, sources: &FsSources) -> Result<(), Failure> {
    let mut map = SourceMap::default();
    let loaded = match graphc::text::load(graph, sources, &mut map) {
        Ok(loaded) => loaded,
        Err(found) => return Err(Failure::Diagnosed(found, map)),
    };
    let outputs = &loaded.graph.outputs;
    if outputs.iter().any(|output| output.value == read) {
        return Ok(());
    }
    let names: Vec<String> = outputs
        .iter()
        .map(|output| format!("`{}`", output.value))
        .collect();
    Err(Failure::bad_input(format!(
        "{graph} is no graph for this command, which reads `{read}`: its outputs are {}",
        names.join(", ")
    )))
}

/// The device's own limits and features with the roofs and choices of the profile that describes it, if one does.
pub fn tuned(info: &DeviceInfo, sources: &FsSources) -> Result<DeviceProfile, Failure> {
    let mut map = SourceMap::default();
    graphc::profile::tune(info.profile.clone(), sources, &mut map)
        .map_err(|found| Failure::Diagnosed(found, map))
}

fn diagnosed(diagnostic: graphc::diag::Diagnostic) -> Failure {
    Failure::Diagnosed(diagnostic.into(), SourceMap::default())
}

/// Whether every error says that a tensor is larger than one binding or one allocation.
fn too_large(found: &Diagnostics) -> bool {
    found
        .items()
        .iter()
        .all(|item| [codes::OVER_BINDING, codes::OVER_ALLOCATION].contains(&item.code))
}

/// Halves the batch of the buckets with the most rows; false if those are single sequences.
fn shrink_largest(buckets: &mut Vec<Bucket>) -> bool {
    let Some(most) = buckets
        .iter()
        .filter(|bucket| bucket.batch > 1)
        .map(|bucket| bucket.rows())
        .max()
    else {
        return false;
    };
    for bucket in buckets
        .iter_mut()
        .filter(|bucket| bucket.batch > 1 && bucket.rows() == most)
    {
        bucket.batch /= 2;
    }
    buckets.sort_unstable();
    buckets.dedup();
    true
}
