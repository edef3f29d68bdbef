//! The command line: arguments in, library calls, results on standard output and everything else on standard
//! error. One module per command; this file only parses and dispatches.
//!
//! Exit codes: 0 done; 1 what was asked for failed (no device, a plan that is not right, a file not formatted);
//! 2 bad input or usage (a graph with errors, an unknown flag, a file that cannot be read).

#[cfg(feature = "gpu")]
mod bench;
mod check;
mod compile;
mod context;
#[cfg(feature = "gpu")]
mod devices;
mod diff;
#[cfg(feature = "gpu")]
mod embed;
mod explain;
mod failure;
mod fmt;
#[cfg(feature = "gpu")]
mod generate;
mod inspect;
#[cfg(feature = "gpu")]
mod language;
mod manual;
#[cfg(feature = "gpu")]
mod measure;
#[cfg(feature = "gpu")]
mod model;
mod output;
#[cfg(feature = "gpu")]
mod perplexity;
#[cfg(feature = "gpu")]
mod profile;
mod request;
#[cfg(feature = "gpu")]
mod roof;
#[cfg(feature = "gpu")]
mod samples;
mod shaders;
#[cfg(feature = "gpu")]
mod sink;
#[cfg(feature = "gpu")]
mod subject;
#[cfg(feature = "gpu")]
mod tracy;
#[cfg(feature = "gpu")]
mod tune;
mod verify;
#[cfg(feature = "gpu")]
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use context::{Context, Global};

/// A render-graph compiler and runtime for transformer inference on Vulkan.
#[derive(Parser)]
#[command(
    name = "graphc",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "Exit codes: 0 done, 1 what was asked for failed, 2 bad input or usage, 130 interrupted.\n\
                  `graphc help COMMAND` has the details of a command, `graphc explain CODE` of an error."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Turn texts into embeddings
    #[cfg(feature = "gpu")]
    Embed(embed::Args),
    /// Continue prompts with a language model
    #[cfg(feature = "gpu")]
    Generate(generate::Args),
    /// Measure how well a language model foretells a text
    #[cfg(feature = "gpu")]
    Perplexity(perplexity::Args),
    /// Compile a graph into a plan
    Compile(compile::Args),
    /// Read, expand, type and fuse a graph without compiling it
    Check(check::Args),
    /// Print graph files in their canonical form
    Fmt(fmt::Args),
    /// Prove a plan file right
    Verify(verify::Args),
    /// Show the metadata and the tensors of a checkpoint
    Inspect(inspect::Args),
    /// Explain an error code
    Explain(explain::Args),
    /// List the Vulkan devices and what each lacks
    #[cfg(feature = "gpu")]
    Devices(devices::Args),
    /// Measure forward passes
    #[cfg(feature = "gpu")]
    Bench(bench::Args),
    /// Show where the time of a forward pass goes
    #[cfg(feature = "gpu")]
    Profile(profile::Args),
    /// Measure what a device can do at best, and write it to its profile
    #[cfg(feature = "gpu")]
    Roof(roof::Args),
    /// Compare two plans or two profiles
    Diff(diff::Args),
    /// Compile and measure a graph again whenever one of its files is saved
    #[cfg(feature = "gpu")]
    Watch(watch::Args),
    /// Try variants and constants of kernels, and write the fastest to the device's profile
    #[cfg(feature = "gpu")]
    Tune(tune::Args),
    /// Print a shell's completion script
    Completions(manual::CompletionsArgs),
    /// Print the manual page of graphc or of one command
    Man(manual::ManArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let context = Context::new(&cli.global);
    let result = match cli.command {
        #[cfg(feature = "gpu")]
        Command::Embed(args) => embed::run(args, &context),
        #[cfg(feature = "gpu")]
        Command::Generate(args) => generate::run(args, &context),
        #[cfg(feature = "gpu")]
        Command::Perplexity(args) => perplexity::run(args, &context),
        Command::Compile(args) => compile::run(args, &context),
        Command::Check(args) => check::run(args, &context),
        Command::Fmt(args) => fmt::run(args, &context),
        Command::Verify(args) => verify::run(args, &context),
        Command::Inspect(args) => inspect::run(args, &context),
        Command::Explain(args) => explain::run(args),
        #[cfg(feature = "gpu")]
        Command::Devices(args) => devices::run(args, &context),
        #[cfg(feature = "gpu")]
        Command::Bench(args) => bench::run(args, &context),
        #[cfg(feature = "gpu")]
        Command::Profile(args) => profile::run(args, &context),
        #[cfg(feature = "gpu")]
        Command::Roof(args) => roof::run(args, &context),
        Command::Diff(args) => diff::run(args, &context),
        #[cfg(feature = "gpu")]
        Command::Watch(args) => watch::run(args, &context),
        #[cfg(feature = "gpu")]
        Command::Tune(args) => tune::run(args, &context),
        Command::Completions(args) => manual::completions(args),
        Command::Man(args) => manual::man(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(&context),
    }
}
