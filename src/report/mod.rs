//! Where the time goes. In: a plan, and times that somebody measured. Out: tables, advice, traces, comparisons and
//! pages. Pure functions: no device, no files, no clocks.
//!
//! A forward is measured in two ways. *Per wave*: the recording of production with a timestamp between each
//! two waves. *Per pass*: the same passes one after another, with a barrier between any two, because passes of one
//! wave overlap and cannot be told apart. The sum of the passes therefore differs from the whole, and the report says
//! by how much.

use serde::{Deserialize, Serialize};

use crate::device::Roofs;
use crate::plan::{Entry, Plan, waves::waves};

pub mod advice;
pub mod diff;
pub mod page;
pub mod picture;
pub mod row;
pub mod text;
pub mod trace;

use row::Row;

/// The number in a profile's `format`; a reader refuses every other one.
pub const FORMAT: u32 = 1;

/// Times of forwards, in the order in which they ran.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// Nanoseconds on the clock of the host, without any timestamp in the recording.
    pub wall: Vec<f64>,
    /// Nanoseconds on the device between two timestamps, at the start and at the end.
    pub whole: Vec<f64>,
    /// Timestamps of each forward in nanoseconds since the first: the start, and the end of each wave.
    pub waves: Vec<Vec<f64>>,
    /// The same for passes that run one after another.
    pub passes: Vec<Vec<f64>>,
}

/// Where and with what the times were measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// The device's name.
    pub device: String,
    /// Its driver.
    pub driver: String,
    /// Whether the weights were made up.
    pub random_weights: bool,
    /// What the device can do at best.
    pub roofs: Roofs,
}

/// Half of all times are at most `median` microseconds, 19 of 20 at most `p95`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The 50th percentile, by nearest rank.
    pub median: f64,
    /// The 95th.
    pub p95: f64,
    /// The 5th.
    pub p5: f64,
}

impl Spread {
    /// Of times in nanoseconds.
    pub fn of(nanoseconds: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = nanoseconds.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        // The nearest rank: the smallest time that at least this part of all times does not exceed.
        let at = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100).max(1);
            sorted.get(rank - 1).copied().unwrap_or(0.0) / 1e3
        };
        Self {
            median: at(50),
            p95: at(95),
            p5: at(5),
        }
    }
}

/// A measured entry of a plan. This is what `--format json` prints and `graphc diff` reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// [`FORMAT`].
    pub format: u32,
    /// The graph's name.
    pub graph: String,
    /// The entry's.
    pub entry: String,
    /// The device profile that the plan was compiled for.
    pub profile: String,
    /// Where it was measured.
    pub setting: Setting,
    /// Forwards that each time is taken from.
    pub runs: u64,
    /// How often a submit runs the entry's steps; all times are of a whole submit.
    pub rounds: u64,
    /// Barriers of the recording.
    pub barriers: u64,
    /// Transient bytes of the plan.
    pub transient_bytes: u64,
    /// Bytes of weights.
    pub weight_bytes: u64,
    /// On the host's clock, with nothing measured inside.
    pub wall: Spread,
    /// On the device, from the first command to the last.
    pub whole: Spread,
    /// The sum over waves, with a timestamp between each two.
    pub waves_sum: Spread,
    /// The sum over passes that run one after another.
    pub passes_sum: Spread,
    /// Every wave in order.
    pub waves: Vec<Row>,
    /// Every pass in order.
    pub passes: Vec<Row>,
    /// Waves that differ only in the index of a repeat as one, the longest first.
    pub folded_waves: Vec<Row>,
    /// Passes likewise.
    pub folded: Vec<Row>,
    /// Where most time could be won, in words.
    pub advice: Vec<String>,
}

/// Why there is no report.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ReportError {
    /// The plan and the times do not belong together.
    #[error("entry `{entry}` has {wanted} timestamps in a forward, got {got}")]
    Timestamps {
        /// The entry.
        entry: String,
        /// By the plan.
        wanted: usize,
        /// By the measurement.
        got: usize,
    },
    /// Nothing was measured.
    #[error("no forward of entry `{0}` was measured")]
    NoRuns(String),
    /// A file of another version or of another kind.
    #[error("{0}")]
    NotAProfile(String),
}

impl Profile {
    /// Puts measured times and what the plan knows side by side.
    pub fn new(
        plan: &Plan,
        entry: &Entry,
        setting: Setting,
        samples: &Samples,
    ) -> Result<Self, ReportError> {
        let of_wave: Vec<_> = waves(entry);
        let of_pass: Vec<_> = of_wave.iter().flatten().map(|pass| vec![*pass]).collect();
        let rounds = u64::from(entry.repeat.max(1));
        let waves = row::rows(
            plan,
            entry,
            &of_wave,
            &setting.roofs,
            &samples.waves,
            rounds,
        )?;
        let passes = row::rows(
            plan,
            entry,
            &of_pass,
            &setting.roofs,
            &samples.passes,
            rounds,
        )?;
        let folded = row::folded(&passes, &setting.roofs);
        let sum = |all: &[Vec<f64>]| Spread::of(all.iter().filter_map(|one| one.last().copied()));
        let strip = |rows: Vec<row::Timed>| rows.into_iter().map(|timed| timed.row).collect();
        let mut profile = Self {
            format: FORMAT,
            graph: plan.graph.clone(),
            entry: entry.name.clone(),
            profile: plan.profile.clone(),
            setting,
            runs: samples.passes.len() as u64,
            rounds,
            barriers: entry.stats.barriers,
            transient_bytes: entry.stats.transient_planned,
            weight_bytes: entry.stats.weight_bytes,
            wall: Spread::of(samples.wall.iter().copied()),
            whole: Spread::of(samples.whole.iter().copied()),
            waves_sum: sum(&samples.waves),
            passes_sum: sum(&samples.passes),
            folded_waves: Vec::new(),
            waves: Vec::new(),
            passes: Vec::new(),
            folded,
            advice: Vec::new(),
        };
        profile.folded_waves = row::folded(&waves, &profile.setting.roofs);
        profile.waves = strip(waves);
        profile.passes = strip(passes);
        profile.advice = advice::advice(&profile);
        Ok(profile)
    }

    /// The rows of passes alone, in the order of recording.
    pub fn passes_of(
        plan: &Plan,
        entry: &Entry,
        setting: &Setting,
        samples: &Samples,
    ) -> Result<Vec<Row>, ReportError> {
        let items: Vec<_> = waves(entry)
            .into_iter()
            .flatten()
            .map(|pass| vec![pass])
            .collect();
        let rounds = u64::from(entry.repeat.max(1));
        let rows = row::rows(plan, entry, &items, &setting.roofs, &samples.passes, rounds)?;
        Ok(rows.into_iter().map(|timed| timed.row).collect())
    }

    /// Reads what was printed as JSON.
    pub fn from_json(text: &str) -> Result<Self, ReportError> {
        let refuse = |reason: String| ReportError::NotAProfile(reason);
        let value: serde_json::Value =
            serde_json::from_str(text).map_err(|error| refuse(format!("no JSON: {error}")))?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            Some(format) if format == u64::from(FORMAT) => {}
            Some(format) => {
                return Err(refuse(format!(
                    "a profile of format {format}, this program reads format {FORMAT}"
                )));
            }
            None => {
                return Err(refuse(
                    "JSON without `format`; `graphc profile --format json` makes profiles".into(),
                ));
            }
        }
        serde_json::from_value(value).map_err(|error| refuse(format!("no profile: {error}")))
    }
}
