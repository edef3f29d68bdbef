//! How a session runs: what whoever opens it may choose.

use std::path::PathBuf;
use std::time::Duration;

use crate::vk::record::Timing;
#[cfg(feature = "tracy")]
use crate::vk::tracy::Tracy;

/// How to run.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// An index, a part of the name or a UUID; none: the first real GPU, else a device on the CPU.
    pub device: Option<String>,
    /// Load the validation layer with synchronisation validation; every message fails the session.
    pub validation: bool,
    /// Name passes and buffers for GPU debuggers.
    pub labels: bool,
    /// The folder of the pipeline cache; none: compile every time.
    pub pipeline_cache: Option<PathBuf>,
    /// The longest a wait asks again and again before it blocks; zero on a device that computes on the CPU, where
    /// asking would take a core from it.
    pub poll: Duration,
    /// How long a wait lasts before it is an error.
    pub time_out: Duration,
    /// Upload weights through a staging buffer even where the host can write them in place.
    pub staged_weights: bool,
    /// What is measured in each forward.
    pub timing: Timing,
    /// Show every pass of every forward in Tracy. Forwards are then timed as [`Timing::Passes`] says, whatever
    /// `timing` is.
    #[cfg(feature = "tracy")]
    pub tracy: Option<Tracy>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            device: None,
            validation: false,
            labels: false,
            pipeline_cache: None,
            poll: Duration::from_millis(100),
            time_out: Duration::from_secs(120),
            staged_weights: false,
            timing: Timing::Off,
            #[cfg(feature = "tracy")]
            tracy: None,
        }
    }
}

impl SessionOptions {
    /// The defaults, with validation if `GRAPHC_VALIDATION` is set and not 0.
    pub fn from_env() -> Self {
        let validation = std::env::var_os("GRAPHC_VALIDATION")
            .is_some_and(|value| !value.is_empty() && value != "0");
        Self {
            validation,
            labels: validation,
            ..Self::default()
        }
    }
}
