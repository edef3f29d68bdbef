//! `graphc verify PLAN`: the independent proof, on a plan file.

use std::io::Read;
use std::path::{Path, PathBuf};

use graphc::plan::{codec, verify};

use crate::context::Context;
use crate::failure::Failure;
use crate::output;

/// The most bytes of a plan file that are read: what can be a plan, and a little more.
const MAX_PLAN_BYTES: u64 = codec::MAX_PLAIN + (1 << 20);

/// Arguments of `verify`.
#[derive(clap::Args)]
pub struct Args {
    /// A plan file; `-` is standard input
    #[arg(value_name = "PLAN")]
    plan: PathBuf,
}

/// Says what was proved, or every reason why the plan is wrong.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let shown = shown(&args.plan);
    let bytes = read(&args.plan)?;
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

/// The bytes of a plan file, from a pipe too; `-` is standard input.
pub fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let mut whole = |from: &mut dyn Read| from.take(MAX_PLAN_BYTES).read_to_end(&mut bytes);
    let read = match path.as_os_str() == "-" {
        true => whole(&mut std::io::stdin()),
        false => std::fs::File::open(path).and_then(|mut file| whole(&mut file)),
    };
    match read {
        Ok(_) => Ok(bytes),
        Err(error) => Err(Failure::bad_input(format!(
            "cannot read `{}`: {error}",
            shown(path)
        ))),
    }
}

fn shown(path: &Path) -> String {
    match path.as_os_str() == "-" {
        true => "standard input".into(),
        false => path.display().to_string(),
    }
}
