//! The Vulkan runtime on whatever device is here, under the validation layer with synchronisation validation.
//! A machine without a Vulkan device fails these tests: a skip would prove nothing.
#![cfg(all(feature = "gpu", feature = "shaderc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bad;
mod command;
mod forward;
#[path = "../planning/mod.rs"]
mod planning;
mod plans;
mod random;
#[path = "../support/random.rs"]
#[allow(dead_code)]
mod seeds;

use std::sync::Arc;

use graphc::plan::Plan;
use graphc::run::{RunError, Session, SessionOptions};

/// Options with validation on.
fn checked() -> SessionOptions {
    SessionOptions {
        validation: true,
        labels: true,
        ..SessionOptions::default()
    }
}

fn open(options: SessionOptions, plan: Plan) -> Result<Session, RunError> {
    Session::open(options, Arc::new(plan), &mut plans::fill, &mut |_| {})
}
