//! `graphc diff A B`: two plans or two profiles side by side.

use std::path::{Path, PathBuf};

use graphc::plan::{Plan, codec};
use graphc::report::{Profile, diff};

use crate::context::Context;
use crate::failure::Failure;
use crate::{output, verify};

/// Arguments of `diff`.
#[derive(clap::Args)]
#[command(
    after_help = "Plans come from `graphc compile -o`, profiles from `graphc profile --format json`."
)]
pub struct Args {
    /// What was
    #[arg(value_name = "A")]
    before: PathBuf,
    /// What is
    #[arg(value_name = "B")]
    after: PathBuf,
}

enum Kind {
    Plan(Box<Plan>),
    Profile(Box<Profile>),
}

/// Compares.
pub fn run(args: Args, _: &Context) -> Result<(), Failure> {
    let text = match (read(&args.before)?, read(&args.after)?) {
        (Kind::Plan(a), Kind::Plan(b)) => diff::plans(&a, &b),
        (Kind::Profile(a), Kind::Profile(b)) => diff::profiles(&a, &b),
        _ => {
            return Err(Failure::bad_input(format!(
                "one of `{}` and `{}` is a plan and the other a profile; compare two of a kind",
                args.before.display(),
                args.after.display()
            )));
        }
    };
    output::print(&text)
}

fn read(path: &Path) -> Result<Kind, Failure> {
    let shown = path.display();
    let bytes = verify::read(path)?;
    let unusable = |error: String| Failure::bad_input(format!("cannot use `{shown}`: {error}"));
    if bytes.trim_ascii_start().first() == Some(&b'{') {
        let text = String::from_utf8_lossy(&bytes);
        let profile = Profile::from_json(&text).map_err(|error| unusable(error.to_string()))?;
        return Ok(Kind::Profile(Box::new(profile)));
    }
    let plan = codec::decode(&bytes).map_err(|error| unusable(error.to_string()))?;
    Ok(Kind::Plan(Box::new(plan)))
}
