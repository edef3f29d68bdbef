//! `graphc check GRAPH.ron`: stages 1 to 5, which need no device.

use graphc::diag::Diagnostics;
use graphc::graph::{self, FuseOptions, Request};
use graphc::kernel::{self, Library};
use graphc::span::{SourceMap, Sources};
use graphc::text::{self, Loaded};

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::request::GraphArgs;

/// Arguments of `check`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    graph: GraphArgs,
}

/// Reads, expands, types, checks and fuses the graph, and says what became of it.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let (sources, path) = context.graph(&args.graph.graph)?;
    let requests = args.graph.requests()?;
    let mut map = SourceMap::default();
    match lines(&path, &sources, &requests, &args.graph.fusion(), &mut map) {
        Ok((lines, warnings)) => {
            context.warn(&warnings, &map);
            output::print(&lines)
        }
        Err(problems) => Err(Failure::Diagnosed(problems, map)),
    }
}

/// One line per entry, and all warnings.
fn lines(
    path: &str,
    sources: &dyn Sources,
    requests: &[Request],
    fusion: &FuseOptions,
    map: &mut SourceMap,
) -> Result<(String, Diagnostics), Diagnostics> {
    let loaded = text::load(path, sources, map)?;
    let library = kernel::load(sources, map)?;
    let mut fusion = fusion.clone();
    fusion.disabled.extend(loaded.graph.disable.iter().cloned());
    let mut lines = String::new();
    let mut warnings = Diagnostics::default();
    for request in requests.iter().flat_map(|request| request.shapes(&loaded)) {
        lines += &entry(&loaded, &library, &request, &fusion, &mut warnings)?;
    }
    Ok((lines, warnings))
}

fn entry(
    loaded: &Loaded,
    library: &Library,
    request: &Request,
    fusion: &FuseOptions,
    warnings: &mut Diagnostics,
) -> Result<String, Diagnostics> {
    let checked = graph::check(graph::infer(graph::expand(loaded, request)?, library)?)?;
    let before = checked.graph().passes.len();
    let fused = graph::fuse(checked, &loaded.fusions, library, fusion)?;
    for warning in fused.warnings() {
        if !warnings
            .items()
            .iter()
            .any(|earlier| earlier.message == warning.message)
        {
            warnings.push(warning.clone());
        }
    }
    let graph = fused.graph();
    let fusions = fused.fired().len();
    let passes = graph.passes.len();
    let entry = match graph.entry.as_str() {
        "" => String::new(),
        entry => format!(" {entry}"),
    };
    Ok(format!(
        "{}{entry}: {before} passes, {passes} after {fusions} fusions\n",
        graph.name
    ))
}
