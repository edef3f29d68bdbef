//! `graphc verify PLAN`: the independent proof, on a plan file.

use std::io::Read as _;
use std::path::PathBuf;

use graphc::plan::{codec, verify};

use crate::context::Context;
use crate::failure::Failure;
use crate::output;

/// The largest plan file that is read, in bytes.
const MAX_PLAN_BYTES: u64 = 1 << 30;

/// Arguments of `verify`.
#[derive(clap::Args)]
pub struct Args {
    /// A plan file; `-` is standard input
    #[arg(value_name = "PLAN")]
    plan: PathBuf,
}

/// Says what was proved, or every reason why the plan is wrong.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let shown = match args.plan.as_os_str() == "-" {
        true => "standard input".into(),
        false => args.plan.display().to_string(),
    };
    let bytes = read(&args.plan)
        .map_err(|error| Failure::bad_input(format!("cannot read `{shown}`: {error}")))?;
    let plan =
        codec::decode(&bytes).map_err(|error| Failure::bad_input(format!("`{shown}`: {error}")))?;
    match verify::verify(&plan) {
        Ok(proof) => output::print(&format!(
            "{shown}: proved right; {} entries, {} passes, {} barriers, {} accesses\n",
            proof.entries, proof.passes, proof.barriers, proof.accesses
        )),
        Err(violations) => {
            for violation in &violations {
                context.say(&violation.to_string());
            }
            let count = violations.len();
            Err(Failure::failed(format!(
                "`{shown}` is wrong in {count} places"
            )))
        }
    }
}

fn read(path: &std::path::Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if path.as_os_str() == "-" {
        std::io::stdin()
            .take(MAX_PLAN_BYTES)
            .read_to_end(&mut bytes)?;
    } else {
        std::fs::File::open(path)?
            .take(MAX_PLAN_BYTES)
            .read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}
