//! `graphc bench`: what a forward pass takes, on the device and on the clock.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use graphc::plan::{Entry, Plan, codec};
use graphc::run::{EntryId, Output, Progress, RunError, Session, SessionOptions, Timing};
use graphc::weights::{RandomWeights, Weights};
use serde_json::json;

use crate::context::Context;
use crate::failure::Failure;
use crate::output;

/// Forwards before anything is measured: clocks rise, caches fill, entries are recorded.
const WARM_UP: usize = 5;
/// Seed of made-up weights and token ids, so that two runs measure the same work.
const SEED: u64 = 1;

/// Arguments of `bench`.
#[derive(clap::Args)]
pub struct Args {
    /// Plan to run with made-up weights of its real shapes (`graphc compile -o FILE` makes one)
    #[arg(value_name = "FILE.plan")]
    plan: PathBuf,
    /// Entries to measure, by name [default: all of the plan]
    #[arg(long = "entry", value_name = "batch=32,seq=512")]
    entry: Vec<String>,
    /// Forwards that are measured for each entry
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    runs: u32,
    /// Device: a number, a part of the name, or a UUID (see `graphc devices`)
    #[arg(
        long,
        value_name = "DEVICE",
        env = "GRAPHC_DEVICE",
        hide_env_values = true
    )]
    device: Option<String>,
    /// Also list what each step of the recording takes
    #[arg(long)]
    steps: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Measures.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let shown = args.plan.display();
    let bytes = std::fs::read(&args.plan)
        .map_err(|error| Failure::bad_input(format!("cannot read `{shown}`: {error}")))?;
    let plan = codec::decode(&bytes)
        .map_err(|error| Failure::bad_input(format!("cannot use `{shown}`: {error}")))?;
    let plan = Arc::new(plan);
    let mut session = open(&args, context, &plan)?;
    let names: Vec<String> = if args.entry.is_empty() {
        plan.entries
            .iter()
            .map(|entry| entry.name.clone())
            .collect()
    } else {
        args.entry.clone()
    };
    let mut lines = Vec::new();
    for name in &names {
        let entry = session.entry(name).map_err(failed)?;
        let figures = measure(&mut session, &plan, entry, name, args.runs).map_err(failed)?;
        let steps = if args.steps {
            step_times(&mut session, &plan, entry, name).map_err(failed)?
        } else {
            Vec::new()
        };
        lines.push(figures.json(&session, &plan, name, &steps));
        if !args.json {
            output::print(&figures.text(&session, name, &steps))?;
        }
    }
    if args.json {
        let text = serde_json::to_string_pretty(&lines).map_err(Failure::failed)?;
        output::print(&format!("{text}\n"))?;
    }
    Ok(())
}

fn failed(error: RunError) -> Failure {
    Failure::failed(format!("[{}] {error}", error.code().0))
}

fn open(args: &Args, context: &Context, plan: &Arc<Plan>) -> Result<Session, Failure> {
    let options = SessionOptions {
        device: args.device.clone(),
        pipeline_cache: Some(context.cache_dir()?.join("pipelines")),
        timing: Timing::Ends,
        ..SessionOptions::from_env()
    };
    let weights = Weights::Random(RandomWeights::new(SEED));
    let of = Arc::clone(plan);
    let mut source = |index: usize, _: &graphc::plan::Weight, start: u64, into: &mut [u8]| {
        weights
            .write(&of, index, start, into)
            .map_err(|error| Box::new(error).into())
    };
    let weight_bar = context.byte_bar(0, "weights");
    let kernel_bar = context.bar(0, "kernels");
    let mut progress = |progress| {
        let (bar, done, total) = match progress {
            Progress::Weights { done, total } => (&weight_bar, done, total),
            Progress::Pipelines { done, total } => (&kernel_bar, done, total),
        };
        bar.set_length(total);
        bar.set_position(done);
    };
    let session = Session::open(options, Arc::clone(plan), &mut source, &mut progress);
    weight_bar.finish_and_clear();
    kernel_bar.finish_and_clear();
    let session = session.map_err(failed)?;
    context.say(&format!("device: {}", session.device().line().trim()));
    session.notes().iter().for_each(|note| context.say(note));
    Ok(session)
}

/// What was measured, each in run order.
struct Figures {
    /// On the device, from the first command to the last; empty if its queue has no timestamps.
    gpu: Vec<Duration>,
    /// From before the inputs are written until the result can be read, in a recording without timestamps.
    wall: Vec<Duration>,
    /// Wall time less GPU time of the same forward.
    beyond: Vec<Duration>,
    /// Wall time of a forward when two are in flight.
    overlapped: Duration,
    sequences: f64,
    tokens: f64,
}

fn measure(
    session: &mut Session,
    plan: &Plan,
    entry: EntryId,
    name: &str,
    runs: u32,
) -> Result<Figures, RunError> {
    let info = plan.entries.iter().find(|info| info.name == name);
    let size = |dim: &str| {
        let found = info.and_then(|info| info.dims.get(dim).copied());
        found.unwrap_or(1).max(1) as f64
    };
    let inputs = info.map(|info| inputs(plan, info)).unwrap_or_default();
    let mut figures = Figures {
        gpu: Vec::new(),
        wall: Vec::new(),
        beyond: Vec::new(),
        overlapped: Duration::ZERO,
        sequences: size("batch"),
        tokens: size("batch") * size("seq"),
    };
    session.set_timing(Timing::Ends)?;
    for run in 0..WARM_UP + runs as usize {
        let start = Instant::now();
        let output = forward(session, entry, &inputs)?;
        let wall = start.elapsed();
        let gpu = output.timestamps()?.last().copied();
        if let Some(gpu) = gpu.filter(|_| run >= WARM_UP) {
            let gpu = Duration::from_secs_f64(gpu.max(0.0) * 1e-9);
            figures.gpu.push(gpu);
            figures.beyond.push(wall.saturating_sub(gpu));
        }
    }
    session.set_timing(Timing::Off)?;
    for run in 0..WARM_UP + runs as usize {
        let start = Instant::now();
        forward(session, entry, &inputs)?;
        if run >= WARM_UP {
            figures.wall.push(start.elapsed());
        }
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
    figures.overlapped = start.elapsed() / runs;
    Ok(figures)
}

/// Time of each step of the entry in nanoseconds, from one forward after warming up.
fn step_times(
    session: &mut Session,
    plan: &Plan,
    entry: EntryId,
    name: &str,
) -> Result<Vec<(String, f64)>, RunError> {
    let Some(info) = plan.entries.iter().find(|info| info.name == name) else {
        return Ok(Vec::new());
    };
    let inputs = inputs(plan, info);
    session.set_timing(Timing::Steps)?;
    let mut stamps = Vec::new();
    for _ in 0..WARM_UP {
        stamps = forward(session, entry, &inputs)?.timestamps()?;
    }
    let names = info.steps.iter().map(|step| match step {
        graphc::plan::Step::Dispatch(pass) => info.passes[*pass].path.clone(),
        graphc::plan::Step::Barrier(barrier) => format!("({barrier:?} barrier)"),
        graphc::plan::Step::Cut => "(cut)".into(),
    });
    let times = stamps.windows(2).map(|pair| pair[1] - pair[0]);
    Ok(names.zip(times).collect())
}

fn forward<'s>(
    session: &'s mut Session,
    entry: EntryId,
    inputs: &[(String, Vec<u32>)],
) -> Result<Output<'s>, RunError> {
    let ticket = submit(session, entry, inputs)?;
    session.wait(ticket)
}

fn submit(
    session: &mut Session,
    entry: EntryId,
    inputs: &[(String, Vec<u32>)],
) -> Result<graphc::run::Ticket, RunError> {
    let mut slot = session.begin(entry)?;
    for (name, words) in inputs {
        slot.input::<u32>(name)?.copy_from_slice(words);
    }
    slot.submit()
}

/// Inputs of an entry as 4-byte words: token ids at random within the vocabulary, every sequence at its full length.
fn inputs(plan: &Plan, entry: &Entry) -> Vec<(String, Vec<u32>)> {
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
            let words = u32::try_from(tensor.bytes / 4).unwrap_or(0);
            let word = |at: u32| match tensor.name.as_str() {
                "positions" => at % seq,
                "spans" if at.is_multiple_of(2) => at / 2 * seq,
                "spans" => seq,
                _ => (random() % u64::from(vocab)) as u32,
            };
            (tensor.name.clone(), (0..words).map(word).collect())
        })
        .collect()
}

/// The median and the 95th percentile, in milliseconds.
fn spread(times: &[Duration]) -> Option<(f64, f64)> {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let at = |part: f64| {
        let index = ((sorted.len() as f64 * part).ceil() as usize).saturating_sub(1);
        sorted.get(index).map(|time| time.as_secs_f64() * 1e3)
    };
    Some((at(0.5)?, at(0.95)?))
}

impl Figures {
    fn json(
        &self,
        session: &Session,
        plan: &Plan,
        name: &str,
        steps: &[(String, f64)],
    ) -> serde_json::Value {
        let of = |times: &[Duration]| {
            spread(times).map(|(median, p95)| json!({ "median": median, "p95": p95 }))
        };
        let wall = spread(&self.wall).map_or(f64::INFINITY, |(median, _)| median / 1e3);
        let overlapped = self.overlapped.as_secs_f64();
        let stats = plan.entries.iter().find(|entry| entry.name == name);
        let stats = stats.map(|entry| &entry.stats);
        let steps: Vec<_> = steps
            .iter()
            .map(|(step, ns)| json!({ "step": step, "us": ns / 1e3 }))
            .collect();
        json!({
            "graph": plan.graph,
            "entry": name,
            "profile": plan.profile,
            "device": session.device().name,
            "driver": session.device().driver,
            "runs": self.wall.len(),
            "gpu_ms": of(&self.gpu),
            "wall_ms": of(&self.wall),
            "wall_beyond_gpu_ms": of(&self.beyond),
            "sequences_per_s": self.sequences / wall,
            "tokens_per_s": self.tokens / wall,
            "overlapped_ms": overlapped * 1e3,
            "overlapped_tokens_per_s": self.tokens / overlapped,
            "submits": stats.map(|stats| stats.submits),
            "passes": stats.map(|stats| stats.passes),
            "waves": stats.map(|stats| stats.waves),
            "steps": steps,
        })
    }

    fn text(&self, session: &Session, name: &str, steps: &[(String, f64)]) -> String {
        let mut text = format!(
            "{name} on {}, {} runs\n",
            session.device().name,
            self.wall.len()
        );
        let mut line = |what: &str, times: &[Duration]| {
            text += &match spread(times) {
                Some((median, p95)) => {
                    format!("  {what:<22}{median:>10.4} ms median {p95:>10.4} ms p95\n")
                }
                None => format!("  {what:<22}the device has no timestamps\n"),
            };
        };
        line("GPU", &self.gpu);
        line("wall", &self.wall);
        line("wall beyond GPU", &self.beyond);
        let rate = |time: f64| (self.sequences / time, self.tokens / time);
        let wall = spread(&self.wall).map_or(f64::INFINITY, |(median, _)| median / 1e3);
        for (what, time) in [
            ("one at a time", wall),
            ("two in flight", self.overlapped.as_secs_f64()),
        ] {
            let (sequences, tokens) = rate(time);
            text += &format!("  {what:<22}{sequences:>10.1} sequences/s {tokens:>12.0} tokens/s\n");
        }
        for (step, ns) in steps {
            text += &format!("  {:>10.2} us  {step}\n", ns / 1e3);
        }
        text
    }
}
