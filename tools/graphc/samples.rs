//! Forwards with timestamps inside. In: a session and one of its entries. Out: times in run order, and when the host
//! did what.
//!
//! Each way of recording has its own forwards, after its own warm-up: what is measured in one never slows another.

use std::time::Instant;

use graphc::plan::Plan;
use graphc::report::Samples;
use graphc::report::trace::Forward;
use graphc::run::{EntryId, RunError, Session, Timing};

use crate::measure::{Input, inputs, submit, warm_up};

/// What was measured of an entry.
pub struct Measured {
    /// Times in run order.
    pub samples: Samples,
    /// The last forwards per wave.
    pub waves: Vec<Forward>,
    /// The last forwards per pass.
    pub passes: Vec<Forward>,
}

/// Forwards of each kind whose moments are kept.
const KEPT: usize = 3;

/// Measures the entry at place `index` of the plan.
pub fn measure(
    session: &mut Session,
    plan: &Plan,
    index: usize,
    runs: u32,
    context: u32,
) -> Result<Measured, RunError> {
    session.need_timestamps()?;
    let info = &plan.entries[index];
    let entry = session.entry(&info.name)?;
    let inputs = inputs(plan, info, context);
    let start = Instant::now();
    let mut all = |timing| series(session, entry, &inputs, timing, runs, start);
    let wall = all(Timing::Off)?;
    let whole = all(Timing::Ends)?;
    let waves = all(Timing::Waves)?;
    let passes = all(Timing::Passes)?;
    let stamps = |all: &[Forward]| all.iter().map(|one| one.stamps.clone()).collect();
    let last = |mut all: Vec<Forward>| all.split_off(all.len().saturating_sub(KEPT));
    Ok(Measured {
        samples: Samples {
            wall: wall
                .iter()
                .map(|one| (one.done - one.begin) * 1e3)
                .collect(),
            whole: whole
                .iter()
                .filter_map(|one| one.stamps.last().copied())
                .collect(),
            waves: stamps(&waves),
            passes: stamps(&passes),
        },
        waves: last(waves),
        passes: last(passes),
    })
}

fn series(
    session: &mut Session,
    entry: EntryId,
    inputs: &[Input],
    timing: Timing,
    runs: u32,
    start: Instant,
) -> Result<Vec<Forward>, RunError> {
    session.set_timing(timing)?;
    warm_up(session, entry, inputs)?;
    let now = || start.elapsed().as_secs_f64() * 1e6;
    let mut all = Vec::new();
    for _ in 0..runs {
        let begin = now();
        let ticket = submit(session, entry, inputs)?;
        let submitted = now();
        let output = session.wait(ticket)?;
        let done = now();
        all.push(Forward {
            begin,
            submitted,
            done,
            stamps: output.timestamps()?,
        });
    }
    Ok(all)
}
