//! What can go wrong with a session, each with its code.

use crate::diag::Code;
use crate::dtype::DType;
use crate::vk::VkError;

/// What can go wrong with a session.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The device, the driver or the plan.
    #[error(transparent)]
    Vk(#[from] VkError),
    /// No such entry.
    #[error(
        "the plan has no entry `{wanted}`; it has {has}\nhelp: compile it with --entry {wanted}"
    )]
    NoEntry {
        /// What was asked for.
        wanted: String,
        /// What there is.
        has: String,
    },
    /// No such input or output.
    #[error("entry `{entry}` has no {kind} `{wanted}`; it has {has}")]
    NoTensor {
        /// The entry.
        entry: String,
        /// `input` or `output`.
        kind: &'static str,
        /// What was asked for.
        wanted: String,
        /// What there is.
        has: String,
    },
    /// The tensor's elements are of another size.
    #[error(
        "tensor `{name}` holds {dtype} elements of {bytes} bytes, asked for were elements of {asked}"
    )]
    WrongType {
        /// The tensor.
        name: String,
        /// Its element type.
        dtype: DType,
        /// Its size.
        bytes: u64,
        /// The size that was asked for.
        asked: usize,
    },
    /// The device cannot say when a pass ended.
    #[error(
        "`{device}` has no timestamps on its compute queue, so nothing can be measured inside a forward\n\
         help: `graphc bench` measures whole forwards on the clock of the host"
    )]
    NoTimestamps {
        /// The device.
        device: String,
    },
    /// The result is gone: two later forwards were begun before this one was waited for.
    #[error(
        "the result of forward {0} was overwritten by a later one\nhelp: wait for a forward before beginning the second one after it"
    )]
    Stale(u64),
}

impl RunError {
    /// The stable code for `graphc explain`.
    pub fn code(&self) -> Code {
        match self {
            RunError::Vk(error) => error.code(),
            RunError::NoEntry { .. } | RunError::NoTensor { .. } => Code("G0714"),
            RunError::NoTimestamps { .. } => Code("G0716"),
            RunError::WrongType { .. } | RunError::Stale(_) => Code("G0715"),
        }
    }
}
