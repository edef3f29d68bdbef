//! Every diagnostic code with its long explanation, for `graphc explain CODE`. A test asserts that each code has
//! a case under `tests/errors/`.

use crate::diag::Code;

pub mod device;
pub mod fuse;
pub mod graph;
pub mod kernel;
pub mod metadata;
pub mod model;
pub mod plan;
pub mod text;
pub mod weights;

/// A code, its title and what to know about it.
#[derive(Clone, Copy, Debug)]
pub struct Explained {
    /// The code.
    pub code: Code,
    /// A few words, without a full stop.
    pub title: &'static str,
    /// Why it is an error, an example, what to do.
    pub text: &'static str,
}

/// All codes, in order of their parts.
pub fn all() -> impl Iterator<Item = &'static Explained> {
    [
        text::CODES,
        graph::CODES,
        fuse::CODES,
        kernel::CODES,
        plan::CODES,
        weights::CODES,
        device::CODES,
        model::CODES,
        metadata::CODES,
    ]
    .into_iter()
    .flatten()
}

/// The explanation of a code such as `G0207`, in any case.
pub fn explain(code: &str) -> Option<&'static Explained> {
    all().find(|explained| explained.code.0.eq_ignore_ascii_case(code.trim()))
}
