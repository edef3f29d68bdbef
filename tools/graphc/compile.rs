//! `graphc compile`.

use crate::context::Context;
use crate::failure::Failure;

/// Arguments of `compile`.
#[derive(clap::Args)]
pub struct Args {}

/// Not there yet.
pub fn run(_args: Args, _context: &Context) -> Result<(), Failure> {
    Err(Failure::failed("`compile` is not there yet"))
}
