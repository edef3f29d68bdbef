//! Chrome's trace event format, which Perfetto and `chrome://tracing` read. In: an entry, what happened in some
//! forwards, and when. Out: JSON.
//!
//! One process for each way of recording (waves as production runs them; passes one after another), each with a track
//! of the host (inputs and submit, wait), one of the device and a counter of transient bytes in use. All events are
//! complete (`ph: X`), counters (`C`) or names (`M`), ordered by time within a track. The clocks of host and device
//! are not compared: a forward's first timestamp is put where its submit returned, or so that its last one is not
//! later than the end that the host saw.

use serde_json::{Value, json};

use super::Profile;
use super::row::Row;
use crate::plan::{Entry, waves};

/// Moments of one forward on the host's clock, in microseconds, and its timestamps.
#[derive(Clone, Debug, PartialEq)]
pub struct Forward {
    /// Before the inputs are written.
    pub begin: f64,
    /// After the submit.
    pub submitted: f64,
    /// When its end was known.
    pub done: f64,
    /// Nanoseconds since the first.
    pub stamps: Vec<f64>,
}

/// Forwards of one entry, measured in both ways.
#[derive(Clone, Copy, Debug)]
pub struct Traced<'a> {
    /// The entry.
    pub entry: &'a Entry,
    /// Its profile, whose rows name what the timestamps separate.
    pub profile: &'a Profile,
    /// Forwards with a timestamp between each two waves.
    pub waves: &'a [Forward],
    /// Forwards with a timestamp between each two passes.
    pub passes: &'a [Forward],
}

const HOST: u32 = 1;
const DEVICE: u32 = 2;

/// The trace of all entries.
pub fn trace(entries: &[Traced<'_>]) -> Value {
    let mut events = Vec::new();
    for (number, traced) in (0u32..).zip(entries) {
        let name = &traced.profile.entry;
        let live = waves::live_bytes(traced.entry);
        let ways = [
            (
                "waves as in production",
                traced.waves,
                &traced.profile.waves,
            ),
            (
                "passes one after another",
                traced.passes,
                &traced.profile.passes,
            ),
        ];
        for (way, (title, forwards, rows)) in (1u32..).zip(ways) {
            let process = Process {
                pid: 2 * number + way,
                live: &live,
                rows,
                rounds: traced.entry.repeat.max(1) as usize,
            };
            process.names(
                &format!("{name}: {title}"),
                &traced.profile.setting.device,
                &mut events,
            );
            forwards
                .iter()
                .for_each(|forward| process.forward(forward, &mut events));
        }
    }
    json!({ "displayTimeUnit": "ns", "traceEvents": events })
}

struct Process<'a> {
    pid: u32,
    live: &'a [u64],
    rows: &'a [Row],
    rounds: usize,
}

impl Process<'_> {
    fn names(&self, title: &str, device: &str, events: &mut Vec<Value>) {
        let mut name = |tid: u32, what: &str, name: &str| {
            events.push(json!({
                "ph": "M", "pid": self.pid, "tid": tid, "name": what, "args": { "name": name },
            }));
        };
        name(HOST, "process_name", title);
        name(HOST, "thread_name", "host: inputs and submit, wait");
        name(DEVICE, "thread_name", &format!("GPU: {device}"));
    }

    fn forward(&self, forward: &Forward, events: &mut Vec<Value>) {
        let zone = |tid: u32, name: &str, start: f64, end: f64, args: Value| {
            json!({
                "ph": "X", "pid": self.pid, "tid": tid, "name": name, "cat": "graphc",
                "ts": start, "dur": (end - start).max(0.0), "args": args,
            })
        };
        let nothing = json!({});
        let Forward {
            begin,
            submitted,
            done,
            ..
        } = *forward;
        events.push(zone(
            HOST,
            "inputs and submit",
            begin,
            submitted,
            nothing.clone(),
        ));
        events.push(zone(HOST, "wait", submitted, done, nothing));
        let length = forward.stamps.last().copied().unwrap_or(0.0) / 1e3;
        let start = submitted.min(done - length);
        let at = |index: usize| start + forward.stamps.get(index).copied().unwrap_or(0.0) / 1e3;
        let all = (0..self.rounds)
            .flat_map(|_| self.rows)
            .take(forward.stamps.len().saturating_sub(1));
        let mut in_use = None;
        for (index, row) in all.enumerate() {
            let bytes = self.live.get(row.wave as usize).copied().unwrap_or(0);
            if in_use != Some(bytes) {
                events.push(self.counter(at(index), bytes));
                in_use = Some(bytes);
            }
            let args = json!({
                "kernel": row.runs(), "label": row.label, "wave": row.wave, "source": row.place(),
                "bytes": row.bytes, "flops": row.flops, "workgroups": row.groups,
            });
            events.push(zone(DEVICE, &row.path, at(index), at(index + 1), args));
        }
        events.push(self.counter(start + length, 0));
    }

    fn counter(&self, ts: f64, bytes: u64) -> Value {
        json!({
            "ph": "C", "pid": self.pid, "name": "transient bytes in use", "ts": ts, "args": { "bytes": bytes },
        })
    }
}
