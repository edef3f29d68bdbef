//! `graphc bench`: what a forward pass takes, on the device and on the clock.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use graphc::compile::{Job, compile};
use graphc::diag::Diagnostics;
use graphc::model::metadata::ModelMetadata;
use graphc::plan::{Entry, Plan, codec};
use graphc::run::{RunError, Session, SessionOptions};
use graphc::span::SourceMap;
use graphc::vk::device::describe;
use graphc::weights::{RandomWeights, Weights};
use serde_json::json;

use crate::context::Context;
use crate::failure::Failure;
use crate::measure::{Figures, SEED, measure, spread};
use crate::request::{EntryArg, GraphArgs};
use crate::{model, output, request, shaders};

/// Arguments of `bench`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    graphc bench --model minilm --entry batch=1,seq=32 --entry batch=32,seq=128 --dtype f16\n  \
    graphc bench graphs/models/bert.ron --set layers=2 --set d_model=64 ... --entry batch=4,seq=16\n  \
    graphc bench minilm.plan --json")]
pub struct Args {
    /// Graph file, or a plan that `graphc compile -o` made [default: the graph that accepts the model]
    #[arg(value_name = "GRAPH.ron|FILE.plan", required_unless_present = "model")]
    file: Option<PathBuf>,
    /// Model folder, or hf:org/name from the local Hugging Face cache; without it, weights are made up
    #[arg(long, value_name = "DIR")]
    model: Option<String>,
    /// A shape: dimensions, or the name of an entry [repeatable; default: all of a plan, else batch=1,seq=32]
    #[arg(long = "entry", value_name = "batch=32,seq=512", value_parser = request::entry)]
    entry: Vec<EntryArg>,
    /// Element type of activations and weights [default: the graph's]
    #[arg(long, value_name = "TYPE", env = "GRAPHC_DTYPE", hide_env_values = true, value_parser = ["f32", "f16"])]
    dtype: Option<String>,
    /// Device: a number, a part of the name, or a UUID (see `graphc devices`)
    #[arg(
        long,
        value_name = "N|NAME|UUID",
        env = "GRAPHC_DEVICE",
        hide_env_values = true,
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    device: Option<String>,
    /// Forwards that are measured for each entry and each way of running
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    runs: u32,
    /// Tokens that a language model has in its caches before each forward
    #[arg(long, value_name = "N", default_value_t = 0)]
    context: u32,
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
    /// Also list what each step of the recording takes
    #[arg(long)]
    steps: bool,
    /// Print one JSON object for each entry, in a list
    #[arg(long)]
    json: bool,
}

/// Measures.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let folder = args
        .model
        .as_deref()
        .map(|name| request::model_folder(name, false));
    let folder = folder.transpose()?;
    let plan = match &args.file {
        Some(file) if file.extension().is_none_or(|ending| ending != "ron") => read(&args, file)?,
        _ => compiled(&args, folder.as_deref(), context)?,
    };
    let chosen = chosen(&args, &plan)?;
    let plan = Arc::new(plan);
    let weights = match &folder {
        Some(folder) if !args.random_weights => model::packed(folder, &plan, context)?,
        _ => Weights::Random(RandomWeights::new(SEED)),
    };
    let options = SessionOptions {
        device: args.device.clone(),
        ..SessionOptions::from_env()
    };
    let mut session = model::open(options, Arc::clone(&plan), &weights, context)?;
    let device = session.device();
    let random = if matches!(weights, Weights::Random(_)) {
        ", made-up weights"
    } else {
        ""
    };
    if !args.json {
        let (name, driver) = (&device.name, &device.driver);
        output::print(&format!(
            "{} on {name} ({driver}){random}, {} runs; times in ms, median and p95\n{HEAD}\n",
            plan.graph, args.runs
        ))?;
    }
    let bar = context.bar(chosen.len() as u64, "measuring");
    let mut objects = Vec::new();
    for index in chosen {
        let figures = measure(
            &mut session,
            &plan,
            index,
            args.runs,
            args.context,
            args.steps,
        )
        .map_err(failed)?;
        let row = Row::new(&plan.entries[index], &figures);
        if args.json {
            objects.push(row.json(&session, &plan, &weights, args.context));
        } else {
            bar.suspend(|| output::print(&row.text()))?;
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    if args.json {
        let text = serde_json::to_string_pretty(&objects).map_err(Failure::failed)?;
        output::print(&format!("{text}\n"))?;
    }
    Ok(())
}

fn failed(error: RunError) -> Failure {
    Failure::coded(error.code(), &error)
}

/// A plan file. What only the compiler can do was done when it was made.
fn read(args: &Args, file: &Path) -> Result<Plan, Failure> {
    let shown = file.display();
    let late = [
        ("--set", !args.set.is_empty()),
        ("--no-fusion", !args.no_fusion.is_empty()),
        ("--max-submit-ms", args.max_submit_ms.is_some()),
    ];
    if let Some((flag, _)) = late.iter().find(|(_, given)| *given) {
        return Err(Failure::bad_input(format!(
            "`{shown}` is compiled already, {flag} comes too late; give it to `graphc compile`, or bench the graph"
        )));
    }
    let bytes = std::fs::read(file)
        .map_err(|error| Failure::bad_input(format!("cannot read `{shown}`: {error}")))?;
    codec::decode(&bytes)
        .map_err(|error| Failure::bad_input(format!("cannot use `{shown}`: {error}")))
}

/// A plan for the device, made now.
fn compiled(args: &Args, folder: Option<&Path>, context: &Context) -> Result<Plan, Failure> {
    let (sources, graph) = match (&args.file, folder) {
        (Some(file), _) => context.graph(file)?,
        (None, folder) => {
            let sources = context.sources()?;
            let metadata =
                ModelMetadata::open(folder.unwrap_or(Path::new(""))).map_err(|error| {
                    let found = Diagnostics::from(error.diagnostic());
                    Failure::Diagnosed(found, SourceMap::default())
                })?;
            let graph = model::graph_of(&metadata, &sources)?;
            (sources, graph)
        }
    };
    let entry = if args.entry.is_empty() {
        let dims = [("batch", 1), ("seq", 32)];
        vec![EntryArg::Dims(
            dims.map(|(name, size)| (name.into(), size)).into(),
        )]
    } else {
        args.entry.clone()
    };
    let wanted = GraphArgs {
        graph: PathBuf::from(&graph),
        model: args.model.clone(),
        set: args.set.clone(),
        entry,
        dtype: args.dtype.clone(),
        weights: None,
        no_fusion: args.no_fusion.clone(),
    };
    let requests = wanted.requests()?;
    let info =
        describe(args.device.as_deref()).map_err(|error| Failure::coded(error.code(), &error))?;
    let profile = model::tuned(&info, &sources)?;
    let builder = shaders::builder(context)?;
    let job = Job {
        fusion: wanted.fusion(),
        builder: Some(&*builder),
        max_submit_ms: args.max_submit_ms.or(profile.max_submit_ms),
        ..Job::new(&graph, &sources, &profile, &requests)
    };
    let mut map = SourceMap::default();
    let compiled = match compile(&job, &mut map) {
        Ok(compiled) => compiled,
        Err(found) => return Err(Failure::Diagnosed(found, map)),
    };
    let mut warnings = Diagnostics::default();
    compiled
        .warnings
        .into_iter()
        .for_each(|warning| warnings.push(warning));
    context.warn(&warnings, &map);
    Ok(compiled.plan)
}

/// Places of the entries to measure: those asked for in that order, or all.
fn chosen(args: &Args, plan: &Plan) -> Result<Vec<usize>, Failure> {
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

const HEAD: &str = "entry                     GPU          (p95)    wall         (p95)    beyond GPU   \
     sequences/s     tokens/s  overlapped t/s  passes submits";

/// An entry's figures, ready to print.
struct Row<'a> {
    entry: &'a Entry,
    figures: &'a Figures,
    sequences: f64,
    tokens: f64,
    /// Seconds of one forward: alone, and with two in flight.
    alone: f64,
    overlapped: f64,
    /// Milliseconds of the median wall time over the median GPU time.
    beyond: Option<f64>,
}

impl<'a> Row<'a> {
    fn new(entry: &'a Entry, figures: &'a Figures) -> Self {
        let size = |dim: &str| entry.dims.get(dim).copied().unwrap_or(1).max(1) as f64;
        let alone = spread(&figures.wall).map_or(f64::NAN, |wall| wall.median.as_secs_f64());
        let gpu = spread(&figures.gpu).map(|gpu| gpu.median.as_secs_f64());
        Self {
            entry,
            figures,
            sequences: size("batch"),
            tokens: size("batch") * size("seq") * size("steps"),
            alone,
            overlapped: figures.overlapped.as_secs_f64(),
            beyond: gpu.map(|gpu| (alone - gpu) * 1e3),
        }
    }

    fn json(
        &self,
        session: &Session,
        plan: &Plan,
        weights: &Weights,
        context: u32,
    ) -> serde_json::Value {
        let of = |times| {
            spread(times).map(|spread| {
                json!({
                    "median": spread.median.as_secs_f64() * 1e3,
                    "p95": spread.p95.as_secs_f64() * 1e3,
                })
            })
        };
        let steps = self.figures.steps.iter();
        let steps: Vec<_> = steps
            .map(|(step, time)| json!({ "step": step, "us": time.as_secs_f64() * 1e6 }))
            .collect();
        json!({
            "graph": plan.graph,
            "entry": self.entry.name,
            "profile": plan.profile,
            "device": session.device().name,
            "driver": session.device().driver,
            "random_weights": matches!(weights, Weights::Random(_)),
            "runs": self.figures.wall.len(),
            "gpu_ms": of(&self.figures.gpu),
            "wall_ms": of(&self.figures.wall),
            "context": context,
            "wall_beyond_gpu_ms": self.beyond,
            "wall_with_timestamps_ms": of(&self.figures.timed_wall),
            "sequences_per_s": self.sequences / self.alone,
            "tokens_per_s": self.tokens / self.alone,
            "overlapped_ms": self.overlapped * 1e3,
            "overlapped_sequences_per_s": self.sequences / self.overlapped,
            "overlapped_tokens_per_s": self.tokens / self.overlapped,
            "submits": self.entry.stats.submits,
            "passes": self.entry.stats.passes,
            "waves": self.entry.stats.waves,
            "steps": steps,
        })
    }

    fn text(&self) -> String {
        let of = |times| match spread(times) {
            Some(spread) => {
                let [median, p95] =
                    [spread.median, spread.p95].map(|time| time.as_secs_f64() * 1e3);
                format!("{median:<12.4} ({p95:.3})")
            }
            None => "none".into(),
        };
        let beyond = self.beyond.map_or("none".into(), |ms| format!("{ms:.4}"));
        let mut text = format!(
            "{:<25} {:<21} {:<21} {beyond:<12} {:>11.1} {:>12.0} {:>15.0} {:>7} {:>7}\n",
            self.entry.name,
            of(&self.figures.gpu),
            of(&self.figures.wall),
            self.sequences / self.alone,
            self.tokens / self.alone,
            self.tokens / self.overlapped,
            self.entry.stats.passes,
            self.entry.stats.submits,
        );
        for (step, time) in &self.figures.steps {
            text += &format!("  {:>10.2} us  {step}\n", time.as_secs_f64() * 1e6);
        }
        text
    }
}
