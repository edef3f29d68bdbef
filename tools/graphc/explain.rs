//! `graphc explain CODE`.

use graphc::codes;

use crate::failure::Failure;
use crate::output;

/// Arguments of `explain`.
#[derive(clap::Args)]
pub struct Args {
    /// A code such as G0207; without one, all codes are listed
    code: Option<String>,
}

/// Prints the long explanation of a code.
pub fn run(args: Args) -> Result<(), Failure> {
    let Some(code) = args.code else {
        let lines: Vec<String> = codes::all()
            .map(|known| format!("{}  {}\n", known.code.0, known.title))
            .collect();
        return output::print(&lines.concat());
    };
    match codes::explain(&code) {
        Some(known) => output::print(&format!(
            "{}: {}\n\n{}\n",
            known.code.0,
            known.title,
            known.text.trim()
        )),
        None => Err(Failure::bad_input(format!(
            "there is no code `{code}`; `graphc explain` lists all codes"
        ))),
    }
}
