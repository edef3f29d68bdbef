//! `graphc completions SHELL` and `graphc man [COMMAND]`, both made from the same description as the parser.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::Cli;
use crate::failure::Failure;
use crate::output;

/// Arguments of `completions`.
#[derive(clap::Args)]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Arguments of `man`.
#[derive(clap::Args)]
pub struct ManArgs {
    /// The command; without one, the page of graphc itself
    command: Option<String>,
}

/// Prints a completion script.
pub fn completions(args: CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "graphc", &mut script);
    output::print_bytes(&script)
}

/// Prints a manual page in troff.
pub fn man(args: ManArgs) -> Result<(), Failure> {
    let mut cli = Cli::command();
    cli.build();
    let command = match &args.command {
        None => cli,
        Some(name) => cli
            .find_subcommand(name)
            .cloned()
            .map(|found| found.display_name(format!("graphc-{name}")))
            .ok_or_else(|| {
                Failure::bad_input(format!(
                    "there is no command `{name}`; `graphc help` lists them"
                ))
            })?,
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    output::print_bytes(&page)
}
