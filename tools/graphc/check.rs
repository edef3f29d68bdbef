//! `graphc check GRAPH.ron`: everything that needs no device.

use graphc::span::SourceMap;

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

/// Loads the graph and says what is in it.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let (sources, path) = context.graph(&args.graph.graph)?;
    let mut map = SourceMap::default();
    match graphc::text::load(&path, &sources, &mut map) {
        Ok(loaded) => output::print(&format!(
            "{path}: {} blocks, {} fusion rules\n",
            loaded.blocks.len(),
            loaded.fusions.len()
        )),
        Err(problems) => Err(Failure::Diagnosed(problems, map)),
    }
}
