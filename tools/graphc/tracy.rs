//! `--tracy`: listens for Tracy's viewer while a command runs.

use std::time::Duration;

use graphc::run::SessionOptions;

use crate::context::Context;
use crate::failure::Failure;

/// Flags of the commands that can be watched.
#[derive(clap::Args)]
pub struct TracyArgs {
    /// Show stages and passes in the Tracy profiler: waits for its viewer on 127.0.0.1
    #[arg(long)]
    tracy: bool,
    /// How long to wait for the viewer before going on without it
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "tracy", value_parser = clap::value_parser!(u64).range(0..=86400))]
    tracy_wait: u64,
}

/// As long as it lives, spans of this thread are shown.
#[must_use]
pub struct Watched {
    #[cfg(feature = "tracy")]
    _spans: Option<graphc::run::tracy::Spans>,
}

/// Tracy's client, kept for the sessions of a command.
#[derive(Default)]
pub struct Listening {
    #[cfg(feature = "tracy")]
    tracy: std::sync::OnceLock<graphc::run::Tracy>,
}

impl Listening {
    /// Lets a session show its passes, if a command listens.
    pub fn show(&self, options: &mut SessionOptions) {
        #[cfg(feature = "tracy")]
        {
            options.tracy = self.tracy.get().cloned();
        }
        #[cfg(not(feature = "tracy"))]
        let _ = options;
    }
}

impl TracyArgs {
    /// Listens and waits for the viewer, if that was asked for.
    pub fn start(&self, context: &Context) -> Result<Watched, Failure> {
        if !self.tracy {
            return Ok(Watched {
                #[cfg(feature = "tracy")]
                _spans: None,
            });
        }
        self.listen(context, Duration::from_secs(self.tracy_wait))
    }

    #[cfg(feature = "tracy")]
    fn listen(&self, context: &Context, wait: Duration) -> Result<Watched, Failure> {
        use graphc::run::tracy::{PROTOCOL, Tracy, VERSION};
        let tracy = Tracy::listen().map_err(|error| Failure::coded(error.code(), &error))?;
        let port = tracy.port();
        context.say(&format!(
            "waiting for Tracy {VERSION} (protocol {PROTOCOL}) on 127.0.0.1:{port}, {} s at most",
            wait.as_secs()
        ));
        let words = match tracy.wait_for_viewer(wait) {
            true => {
                "Tracy is connected; passes run one after another, so that each has its own time"
            }
            false => "no viewer came; going on, and showing what is left once one comes",
        };
        context.say(words);
        let spans = tracy.spans();
        // The first one stays; a command listens once.
        let _ = context.listening.tracy.set(tracy);
        Ok(Watched {
            _spans: Some(spans),
        })
    }

    #[cfg(not(feature = "tracy"))]
    fn listen(&self, _: &Context, _: Duration) -> Result<Watched, Failure> {
        Err(Failure::bad_input(
            "this graphc was built without Tracy\nhelp: build it with `cargo build --features tracy`",
        ))
    }
}
