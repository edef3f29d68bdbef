//! How a command ends when it does not end well.

use std::io::Write as _;
use std::process::ExitCode;

use graphc::diag::{Code, Diagnostics};
use graphc::span::SourceMap;

use crate::context::Context;

/// The exit code of what Ctrl-C ended, as shells have it.
#[cfg(feature = "gpu")]
pub const INTERRUPTED: i32 = 130;

/// Why a command stopped.
pub enum Failure {
    /// What was asked for failed (exit code 1).
    Failed(String),
    /// Bad input or usage (exit code 2).
    BadInput(String),
    /// A graph, kernel or plan with errors (exit code 2).
    Diagnosed(Diagnostics, SourceMap),
    /// The reader of standard output has gone: nothing is wrong and nobody listens.
    BrokenPipe,
    /// Somebody asked it to stop, and what was there until then was written ([`INTERRUPTED`]).
    #[cfg(feature = "gpu")]
    Interrupted,
}

impl Failure {
    /// What was asked for failed.
    pub fn failed(message: impl std::fmt::Display) -> Self {
        Self::Failed(message.to_string())
    }

    /// Bad input or usage.
    pub fn bad_input(message: impl std::fmt::Display) -> Self {
        Self::BadInput(message.to_string())
    }

    /// What was asked for failed, for a reason that `graphc explain` knows more about.
    pub fn coded(code: Code, message: impl std::fmt::Display) -> Self {
        Self::Failed(format!(
            "{message}\nhelp: `graphc explain {}` says more",
            code.0
        ))
    }

    /// Bad input, for a reason with a code. What stands behind `help: ` in the message is advice.
    #[cfg(feature = "gpu")]
    pub fn diagnosed(code: Code, message: impl std::fmt::Display) -> Self {
        let message = message.to_string();
        let mut parts = message.split("\nhelp: ");
        let diagnostic = graphc::diag::Diagnostic::error(code, parts.next().unwrap_or_default());
        let diagnostic = parts.fold(diagnostic, graphc::diag::Diagnostic::help);
        Self::Diagnosed(diagnostic.into(), SourceMap::default())
    }

    /// Says it on standard error and gives the exit code.
    pub fn report(self, context: &Context) -> ExitCode {
        let (text, code) = match self {
            Self::BrokenPipe => return ExitCode::SUCCESS,
            #[cfg(feature = "gpu")]
            Self::Interrupted => return ExitCode::from(INTERRUPTED as u8),
            Self::Diagnosed(problems, sources) => (problems.render(&sources, context.color), 2),
            Self::Failed(message) => (context.error_line(&message), 1),
            Self::BadInput(message) => (context.error_line(&message), 2),
        };
        // Standard error may be closed as well; then the exit code has to do.
        let _ = std::io::stderr().write_all(text.as_bytes());
        ExitCode::from(code)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::Failed(error.to_string()),
        }
    }
}
