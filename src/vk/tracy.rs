//! The Tracy profiler. In: spans of this crate (`tracing`) and sessions that were given a [`Tracy`]. Out: zones on the
//! loopback interface for a viewer of Tracy [`VERSION`].
//!
//! What always holds: nothing listens before [`Tracy::listen`], nothing is sent without a viewer (Tracy's on-demand
//! mode), nothing leaves the machine. The client runs until the last session, span and handle is gone; then it hands
//! what is left to the viewer and ends.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tracing_subscriber::layer::SubscriberExt as _;

use crate::diag::Code;

/// The release of Tracy whose viewer and capture tool understand this program.
pub const VERSION: &str = "0.14";
/// The number by which the two know each other.
pub const PROTOCOL: u32 = 82;
/// Where Tracy listens if `TRACY_PORT` does not say otherwise.
const PORT: u16 = 8086;

/// Why there is no Tracy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TracyError {
    /// Somebody else listens there.
    #[error(
        "port {port} of 127.0.0.1 is in use, so Tracy cannot listen there ({reason})\n\
         help: end the other program, or name another port here and in the viewer: TRACY_PORT={}", other(*port)
    )]
    PortInUse {
        /// The port.
        port: u16,
        /// What the system said.
        reason: String,
    },
    /// `TRACY_PORT` is no port.
    #[error("TRACY_PORT is `{0}`, a number from 1 to 65535 is needed")]
    BadPort(String),
    /// Tracy's client cannot be started again.
    #[error("Tracy was started before in this process, which it allows once")]
    Twice,
}

impl TracyError {
    /// The stable code for `graphc explain`.
    pub fn code(&self) -> Code {
        Code("G0717")
    }
}

/// A port to try instead.
fn other(port: u16) -> u16 {
    port.checked_add(1).unwrap_or(PORT)
}

/// The client while it runs.
#[derive(Debug)]
struct Running;

impl Drop for Running {
    fn drop(&mut self) {
        // SAFETY: the client was started by `listen`, once. Whatever calls it holds an `Arc` of this and is gone.
        unsafe { tracy_client_sys::___tracy_shutdown_profiler() };
    }
}

/// The layer that keeps the client running as long as some span could still end.
struct Keep {
    _running: Arc<Running>,
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Keep {}

/// Tracy's client, listening. Clones are the same client.
#[derive(Clone, Debug)]
pub struct Tracy {
    running: Arc<Running>,
    port: u16,
}

/// As long as it lives, spans of this thread are zones in Tracy.
#[must_use = "spans are shown as long as this lives"]
pub struct Spans {
    _guard: tracing::subscriber::DefaultGuard,
}

impl Tracy {
    /// Listens at `TRACY_PORT`, or at 8086.
    pub fn listen() -> Result<Self, TracyError> {
        static STARTED: AtomicBool = AtomicBool::new(false);
        let port = match std::env::var_os("TRACY_PORT") {
            None => PORT,
            Some(text) => parse_port(&text.to_string_lossy())?,
        };
        // Tracy's client says nothing when it cannot listen, so this is tried before.
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|error| TracyError::PortInUse {
            port,
            reason: error.to_string(),
        })?;
        if STARTED.swap(true, Ordering::AcqRel) {
            return Err(TracyError::Twice);
        }
        // The handle of the crate never ends the client; `Running` does.
        let _ = tracy_client::Client::start();
        Ok(Self {
            running: Arc::new(Running),
            port,
        })
    }

    /// Where it listens on the loopback interface.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Shows the spans of this thread.
    pub fn spans(&self) -> Spans {
        let keep = Keep {
            _running: Arc::clone(&self.running),
        };
        let subscriber = tracing_subscriber::registry()
            .with(tracing_tracy::TracyLayer::default())
            .with(keep);
        Spans {
            _guard: tracing::subscriber::set_default(subscriber),
        }
    }

    /// Whether a viewer is there.
    pub fn is_connected(&self) -> bool {
        tracy_client::Client::is_connected()
    }

    /// Waits for a viewer; false if none came in that time.
    pub fn wait_for_viewer(&self, time: Duration) -> bool {
        let start = Instant::now();
        while !self.is_connected() {
            if start.elapsed() >= time {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }
}

fn parse_port(text: &str) -> Result<u16, TracyError> {
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(TracyError::BadPort(text.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_a_number_from_1_to_65535() {
        assert_eq!(parse_port("9000"), Ok(9000));
        for text in ["", "0", "65536", "-1", "8086 ", "tracy"] {
            assert_eq!(parse_port(text), Err(TracyError::BadPort(text.into())));
        }
    }

    #[test]
    fn the_message_of_a_port_in_use_names_another_one() {
        let said = |port| {
            let reason = "Address already in use".into();
            TracyError::PortInUse { port, reason }.to_string()
        };
        assert!(said(8086).ends_with("TRACY_PORT=8087"), "{}", said(8086));
        assert!(said(65535).ends_with("TRACY_PORT=8086"), "{}", said(65535));
    }
}
