//! `graphc embed`.

use crate::context::Context;
use crate::failure::Failure;

/// Arguments of `embed`.
#[derive(clap::Args)]
pub struct Args {}

/// Not there yet.
pub fn run(_args: Args, _context: &Context) -> Result<(), Failure> {
    Err(Failure::failed("`embed` is not there yet"))
}
