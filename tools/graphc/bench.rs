//! `graphc bench`.

use crate::context::Context;
use crate::failure::Failure;

/// Arguments of `bench`.
#[derive(clap::Args)]
pub struct Args {}

/// Not there yet.
pub fn run(_args: Args, _context: &Context) -> Result<(), Failure> {
    Err(Failure::failed("`bench` is not there yet"))
}
