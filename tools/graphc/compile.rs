//! `graphc compile GRAPH.ron`: a plan file, dumps of the stages, the summary. Shaders are built and held against their
//! manifests whether the plan is written or not, so that a mistake in one is not found later.

use std::path::PathBuf;
use std::time::Instant;

use clap::builder::PossibleValuesParser;
use graphc::compile::{Compiled, Job, Stage, compile};
use graphc::diag::Diagnostics;
use graphc::kernel::build::Builder;
use graphc::plan::{codec, dump};
use graphc::profile;
use graphc::span::{SourceMap, Sources};

use crate::context::Context;
use crate::failure::Failure;
use crate::request::GraphArgs;
use crate::{output, shaders};

/// Arguments of `compile`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    graph: GraphArgs,
    /// Device to compile for: the name of a profile in profiles/devices, or a profile's path
    #[arg(
        long,
        value_name = "NAME|FILE",
        env = "GRAPHC_PROFILE",
        hide_env_values = true,
        default_value = "lavapipe"
    )]
    profile: String,
    /// Where the plan goes; `-` is standard output [default: no plan is written]
    #[arg(long, short, value_name = "OUT.plan")]
    output: Option<PathBuf>,
    /// Print what a stage made [repeatable]
    #[arg(long, value_name = "STAGE", value_parser = PossibleValuesParser::new(Stage::ALL.map(Stage::name)))]
    emit: Vec<String>,
    /// Print the numbers as JSON instead of the summary line
    #[arg(long)]
    json: bool,
    /// Longest time one submit should take; the plan is cut into several where needed
    #[arg(long, value_name = "MS", value_parser = crate::request::positive)]
    max_submit_ms: Option<f64>,
    /// Memory of the device's own that is used, for example 800MiB; weights beyond it lie in host memory [default: what
    /// the device has]
    #[arg(long, value_name = "BYTES|MiB|GiB", value_parser = crate::request::bytes)]
    device_memory_limit: Option<u64>,
    /// Do not build shaders: the plan can be studied but not run, and mistakes in shaders are not found. Nor are shaders
    /// built where `--emit` names only stages before them (flat, typed, fused)
    #[arg(long, conflicts_with = "output")]
    no_shaders: bool,
}

/// Compiles a graph.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let (sources, path) = context.graph(&args.graph.graph)?;
    let (profiles, profile) = context.profile(&args.profile)?;
    let emit = args.emit();
    // Who looks at a stage before shaders may be in the middle of writing one.
    let before = !emit.is_empty() && !emit.iter().any(|stage| stage.has_kernels());
    let builder = match args.no_shaders || before && args.output.is_none() {
        true => None,
        false => Some(shaders::builder(context)?),
    };
    let started = Instant::now();
    let mut map = SourceMap::default();
    let (graph, profile) = (
        (&sources as _, path.as_str()),
        (&profiles as _, profile.as_str()),
    );
    let builder = builder.as_deref();
    let compiled = match compiled(&args, &emit, graph, profile, builder, &mut map)? {
        Ok(compiled) => compiled,
        Err(problems) => return Err(Failure::Diagnosed(problems, map)),
    };
    let elapsed_ms = started.elapsed().as_secs_f64() * 1e3;
    let mut warnings = Diagnostics::default();
    compiled
        .warnings
        .iter()
        .cloned()
        .for_each(|warning| warnings.push(warning));
    context.warn(&warnings, &map);
    for (_, text) in &compiled.dumps {
        output::print(text)?;
    }
    if let Some(path) = &args.output {
        let bytes = codec::encode(&compiled.plan).map_err(Failure::failed)?;
        output::write(path, &bytes)?;
    }
    finish(&args, &compiled, builder.is_some(), elapsed_ms, context)
}

impl Args {
    fn emit(&self) -> Vec<Stage> {
        let named = |name: &String| Stage::ALL.into_iter().find(|stage| stage.name() == name);
        self.emit.iter().filter_map(named).collect()
    }
}

fn compiled(
    args: &Args,
    emit: &[Stage],
    (sources, path): (&dyn Sources, &str),
    (profiles, profile): (&dyn Sources, &str),
    builder: Option<&dyn Builder>,
    map: &mut SourceMap,
) -> Result<Result<Compiled, Diagnostics>, Failure> {
    let requests = args.graph.requests()?;
    let mut profile = match profile::load(profile, profiles, map) {
        Ok(profile) => profile,
        Err(problems) => return Ok(Err(problems)),
    };
    let limits = &mut profile.limits;
    limits.device_memory = args.device_memory_limit.or(limits.device_memory);
    let job = Job {
        fusion: args.graph.fusion(),
        builder,
        max_submit_ms: args.max_submit_ms,
        emit,
        ..Job::new(path, sources, &profile, &requests)
    };
    Ok(compile(&job, map))
}

/// The summary: on standard output, unless that carries the plan or JSON.
fn finish(
    args: &Args,
    compiled: &Compiled,
    shaders: bool,
    elapsed_ms: f64,
    context: &Context,
) -> Result<(), Failure> {
    let plan_on_stdout = args
        .output
        .as_ref()
        .is_some_and(|path| path.as_os_str() == "-");
    if args.json {
        let mut numbers = dump::json(&compiled.plan);
        numbers["compile_ms"] = serde_json::json!(elapsed_ms);
        let text = format!("{numbers:#}\n");
        return if plan_on_stdout {
            say(context, &text)
        } else {
            output::print(&text)
        };
    }
    let summary = dump::summary(&compiled.plan);
    let without = if shaders { "" } else { " without shaders" };
    let text = format!(
        "{}; compiled in {elapsed_ms:.0} ms{without}\n",
        summary.trim_end()
    );
    if plan_on_stdout {
        say(context, &text)
    } else {
        output::print(&text)
    }
}

fn say(context: &Context, text: &str) -> Result<(), Failure> {
    context.say(text.trim_end());
    Ok(())
}
