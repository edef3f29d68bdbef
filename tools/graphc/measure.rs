//! Forwards on the clock. In: a session and one of its entries. Out: times, each in run order.
//!
//! Timestamps cost several microseconds a forward on some devices, so the wall time is taken from a recording
//! without them and the GPU time from one with them; the two never share a forward.

use std::time::{Duration, Instant};

use graphc::dtype::DType;
use graphc::plan::{Entry, Plan, Step};
use graphc::run::{EntryId, Output, RunError, Session, Slot, Ticket, Timing};
use half::{bf16, f16};

use crate::failure::Failure;

/// Forwards before anything is measured, at least: the entry is recorded, pages are touched.
const WARM_UP_RUNS: usize = 3;
/// Time before anything is measured, at least: clocks rise.
const WARM_UP: Duration = Duration::from_millis(200);
/// A single forward is enough to warm up if it takes this long.
const LONG: Duration = Duration::from_secs(2);
/// Seed of made-up token ids, so that two runs measure the same work.
pub const SEED: u64 = 1;

/// What was measured.
pub struct Figures {
    /// From the first command to the last; empty if the queue has no timestamps.
    pub gpu: Vec<Duration>,
    /// From before the inputs are written until the result can be read, without timestamps.
    pub wall: Vec<Duration>,
    /// The first part of `wall`: until the inputs are written.
    pub written: Vec<Duration>,
    /// The first two parts of `wall`: until the driver has taken the submit.
    pub submitted: Vec<Duration>,
    /// The same with timestamps, for the same forwards as `gpu`.
    pub timed_wall: Vec<Duration>,
    /// Wall time of a forward when two are in flight.
    pub overlapped: Duration,
    /// Time of each step of the entry, if asked for, from one forward.
    pub steps: Vec<(String, Duration)>,
}

/// What each forward took beyond its time on the GPU, if both times are of the same forwards in the same order: medians of
/// different forwards differ by more than that.
pub fn beyond(wall: &[Duration], gpu: &[Duration]) -> Vec<Duration> {
    let forwards = wall.iter().zip(gpu);
    forwards
        .map(|(wall, gpu)| wall.saturating_sub(*gpu))
        .collect()
}

/// The median and the 95th percentile.
#[derive(Clone, Copy)]
pub struct Spread {
    /// Half are longer.
    pub median: Duration,
    /// One in twenty is longer.
    pub p95: Duration,
}

/// The spread of these times; none if there are none.
pub fn spread(times: &[Duration]) -> Option<Spread> {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    // The nearest rank: the smallest time that at least this part of all times does not exceed.
    let at = |percent: usize| {
        let rank = (sorted.len() * percent).div_ceil(100);
        sorted.get(rank.saturating_sub(1)).copied()
    };
    Some(Spread {
        median: at(50)?,
        p95: at(95)?,
    })
}

/// Runs the entry at place `index` of the plan. Rows of a language model stand behind `context` cached tokens.
pub fn measure(
    session: &mut Session,
    plan: &Plan,
    index: usize,
    runs: u32,
    context: u32,
    steps: bool,
) -> Result<Figures, RunError> {
    let info = &plan.entries[index];
    let entry = session.entry(&info.name)?;
    let inputs = inputs(plan, info, context);

    session.set_timing(Timing::Off)?;
    warm_up(session, entry, &inputs)?;
    let mut wall = Vec::new();
    let (mut written, mut submitted) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let start = Instant::now();
        let slot = write(session, entry, &inputs)?;
        written.push(start.elapsed());
        let ticket = slot.submit()?;
        submitted.push(start.elapsed());
        session.wait(ticket)?;
        wall.push(start.elapsed());
    }
    let start = Instant::now();
    let mut before = None;
    for _ in 0..runs {
        let ticket = submit(session, entry, &inputs)?;
        if let Some(ticket) = before.replace(ticket) {
            session.wait(ticket)?;
        }
    }
    if let Some(ticket) = before {
        session.wait(ticket)?;
    }
    let overlapped = start.elapsed() / runs.max(1);

    session.set_timing(Timing::Ends)?;
    warm_up(session, entry, &inputs)?;
    let (mut gpu, mut timed_wall) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let start = Instant::now();
        let output = forward(session, entry, &inputs)?;
        timed_wall.push(start.elapsed());
        gpu.extend(output.timestamps()?.last().map(|end| nanoseconds(*end)));
    }
    let steps = if steps {
        step_times(session, info, entry, &inputs)?
    } else {
        Vec::new()
    };
    Ok(Figures {
        gpu,
        wall,
        written,
        submitted,
        timed_wall,
        overlapped,
        steps,
    })
}

/// An error of the session as a failure of the command.
pub fn failed(error: RunError) -> Failure {
    Failure::coded(error.code(), &error)
}

/// Runs an entry until clocks have risen and pages are touched.
pub fn warm_up(session: &mut Session, entry: EntryId, inputs: &[Input]) -> Result<(), RunError> {
    let start = Instant::now();
    let mut runs = 0;
    while start.elapsed() < LONG && (runs < WARM_UP_RUNS || start.elapsed() < WARM_UP) {
        forward(session, entry, inputs)?;
        runs += 1;
    }
    Ok(())
}

fn step_times(
    session: &mut Session,
    info: &Entry,
    entry: EntryId,
    inputs: &[Input],
) -> Result<Vec<(String, Duration)>, RunError> {
    session.set_timing(Timing::Steps)?;
    warm_up(session, entry, inputs)?;
    let stamps = forward(session, entry, inputs)?.timestamps()?;
    let names = info.recording().map(|step| match step {
        Step::Dispatch(pass) => info.passes[*pass].path.clone(),
        Step::Barrier(barrier) => format!("({barrier:?} barrier)"),
        Step::Cut => "(cut)".into(),
    });
    let times = stamps.windows(2).map(|pair| nanoseconds(pair[1] - pair[0]));
    Ok(names.zip(times).collect())
}

fn nanoseconds(time: f64) -> Duration {
    Duration::from_secs_f64(time.max(0.0) * 1e-9)
}

/// Submits a forward and waits for it.
pub fn forward<'s>(
    session: &'s mut Session,
    entry: EntryId,
    inputs: &[Input],
) -> Result<Output<'s>, RunError> {
    let ticket = submit(session, entry, inputs)?;
    session.wait(ticket)
}

/// Submits a forward.
pub fn submit(session: &mut Session, entry: EntryId, inputs: &[Input]) -> Result<Ticket, RunError> {
    write(session, entry, inputs)?.submit()
}

/// Writes the inputs of a forward: what a caller with new texts would, not the positions of padded sequences, which are the
/// entry's own (see [`graphc::model::rows`]), while they are still there.
fn write<'s>(
    session: &'s mut Session,
    entry: EntryId,
    inputs: &[Input],
) -> Result<Slot<'s>, RunError> {
    let mut slot = session.begin(entry)?;
    let padded = inputs.iter().any(|(name, _)| name == "spans");
    let kept = padded && slot.again();
    for (name, elements) in inputs {
        if kept && name == "positions" {
            continue;
        }
        match elements {
            Elements::Words(all) => slot.input(name)?.copy_from_slice(all),
            Elements::Halves(all) => slot.input(name)?.copy_from_slice(all),
            Elements::Bytes(all) => slot.input(name)?.copy_from_slice(all),
        }
    }
    Ok(slot)
}

/// The elements of an input, as they are stored.
pub enum Elements {
    /// Of four bytes each.
    Words(Vec<u32>),
    /// Of two.
    Halves(Vec<u16>),
    /// Of one.
    Bytes(Vec<u8>),
}

/// An input of a forward by name.
pub type Input = (String, Elements);

/// Inputs of an entry: token ids at random within the vocabulary, every sequence at its full length; numbers from -1 to 1
/// where elements are no integers. Language models decode greedily and never stop.
pub fn inputs(plan: &Plan, entry: &Entry, context: u32) -> Vec<Input> {
    let dim = |name: &str| {
        let found = entry
            .dims
            .get(name)
            .and_then(|size| u32::try_from(*size).ok());
        found.unwrap_or(1).max(1)
    };
    let seq = dim("seq");
    let vocab = plan.params.get("vocab").and_then(|value| value.as_int());
    let vocab = vocab
        .and_then(|vocab| u32::try_from(vocab).ok())
        .unwrap_or(1)
        .max(1);
    let mut state = SEED;
    let mut random = move || {
        // SplitMix64 (Steele, Lea, Flood 2014).
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    };
    entry
        .inputs
        .iter()
        .map(|id| {
            let tensor = &entry.tensors[*id];
            let count = u32::try_from(tensor.bytes / tensor.dtype.bytes().max(1)).unwrap_or(0);
            // What steers a forward, by the name that the runtime knows it by, is nothing to make up.
            let told = |at: u32| match tensor.name.as_str() {
                "positions" => Some(context.saturating_add(at % seq)),
                "spans" if at.is_multiple_of(2) => Some(at / 2 * seq),
                "spans" => Some(seq),
                "slots" => Some(at),
                // Pairs: a fresh token, and no end.
                "flow" if at.is_multiple_of(2) => Some(1),
                "flow" | "stops" => Some(u32::MAX),
                // A temperature of zero takes the largest.
                "sampling" | "seeds" => Some(0),
                _ => None,
            };
            let number = |random: u64| (random >> 40) as f32 / (1u32 << 23) as f32 - 1.0;
            let elements = match tensor.dtype {
                DType::F16 => {
                    let half = |value| f16::from_f32(value).to_bits();
                    Elements::Halves((0..count).map(|_| half(number(random()))).collect())
                }
                DType::Bf16 => {
                    let half = |value| bf16::from_f32(value).to_bits();
                    Elements::Halves((0..count).map(|_| half(number(random()))).collect())
                }
                dtype if dtype.bytes() != 4 => {
                    Elements::Bytes((0..tensor.bytes).map(|_| random() as u8).collect())
                }
                dtype => {
                    let word = |at| {
                        let random = random();
                        told(at).unwrap_or_else(|| match dtype {
                            DType::F32 => number(random).to_bits(),
                            _ => (random % u64::from(vocab)) as u32,
                        })
                    };
                    Elements::Words((0..count).map(word).collect())
                }
            };
            (tensor.name.clone(), elements)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used, clippy::panic)]
    use super::*;
    use graphc::compile::{Job, compile};
    use graphc::expr::Value;
    use graphc::graph::Request;
    use graphc::profile;
    use graphc::sources::FsSources;
    use graphc::span::SourceMap;

    /// The parameters of sampling are floats, as what is made up from -1 to 1 is: a benchmark would measure how long it takes
    /// to draw.
    #[test]
    fn decoding_is_greedy_and_never_ends() {
        let sources = FsSources::new(env!("CARGO_MANIFEST_DIR"));
        let ints = |items: &[(&str, i64)]| items.iter().map(|(n, v)| (n.to_string(), *v)).collect();
        let sizes = [
            ("layers", 1),
            ("d_model", 64),
            ("heads", 2),
            ("d_ff", 64),
            ("vocab", 96),
            ("max_positions", 64),
            ("slots", 3),
        ];
        let mut request = Request {
            dims: ints(&[("batch", 3), ("seq", 1), ("steps", 4), ("score", 0)]),
            ..Request::default()
        };
        let sizes = sizes.map(|(name, value)| (name.to_string(), Value::Int(value)));
        request.set.extend(sizes);
        request.set.insert("eps".into(), Value::Float(1e-5));
        let mut map = SourceMap::default();
        let device = profile::load("lavapipe", &sources, &mut map).expect("its profile");
        let requests = [request];
        let job = Job::new("graphs/models/llama.ron", &sources, &device, &requests);
        let plan = match compile(&job, &mut map) {
            Ok(compiled) => compiled.plan,
            Err(found) => panic!("{}", found.render(&map, false)),
        };
        let made: Vec<Input> = inputs(&plan, &plan.entries[0], 7);
        let words = |wanted: &str| match made.iter().find(|(name, _)| name == wanted) {
            Some((_, Elements::Words(words))) => words.clone(),
            _ => panic!("no words for `{wanted}`"),
        };
        assert_eq!(words("sampling"), [0; 12]);
        assert_eq!(words("stops"), [u32::MAX; 8]);
        assert_eq!(words("flow"), [1, u32::MAX, 1, u32::MAX, 1, u32::MAX]);
        assert_eq!(words("positions"), [7; 3]);
        assert_eq!(words("slots"), [0, 1, 2]);
        assert!(words("ids").iter().all(|id| *id < 96));
    }

    #[test]
    fn what_is_beyond_the_gpu_belongs_to_one_forward() {
        let times = |us: &[u64]| {
            us.iter()
                .map(|us| Duration::from_micros(*us))
                .collect::<Vec<_>>()
        };
        // The medians differ by 20, which no forward took.
        let (wall, gpu) = (times(&[110, 150, 95]), times(&[100, 80, 90]));
        assert_eq!(beyond(&wall, &gpu), times(&[10, 70, 5]));
        // Clocks that disagree make nothing negative.
        assert_eq!(beyond(&times(&[5]), &times(&[7])), times(&[0]));
        assert_eq!(beyond(&wall, &[]), []);
    }
}
