//! `graphc bench`: what a forward pass takes, on the device and on the clock.

use graphc::plan::{Entry, Plan};
use graphc::run::Session;
use serde_json::json;

use crate::context::Context;
use crate::failure::Failure;
use crate::measure::{Figures, beyond, failed, measure, spread};
use crate::output;
use crate::subject::{Subject, SubjectArgs};
use crate::tracy::TracyArgs;

/// Arguments of `bench`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    graphc bench --model minilm --entry batch=1,seq=32 --entry batch=32,seq=128 --dtype f16\n  \
    graphc bench graphs/models/bert.ron --set layers=2 --set d_model=64 ... --entry batch=4,seq=16\n  \
    graphc bench minilm.plan --json")]
pub struct Args {
    #[command(flatten)]
    subject: SubjectArgs,
    /// Forwards that are measured for each entry and each way of running
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    runs: u32,
    /// Also list what each step of the recording takes
    #[arg(long, conflicts_with = "tracy")]
    steps: bool,
    /// Print one JSON object for each entry, in a list
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tracy: TracyArgs,
}

/// Measures.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let _watched = args.tracy.start(context)?;
    let Subject {
        mut session,
        plan,
        random_weights,
        chosen,
        ..
    } = args.subject.open(context)?;
    let device = session.device();
    let random = if random_weights {
        ", made-up weights"
    } else {
        ""
    };
    if !args.json {
        let (name, driver) = (&device.name, &device.driver);
        output::print(&format!(
            "{} on {name} ({driver}){random}, {} runs; times in ms, median and p95\n{HEAD}\n",
            plan.graph, args.runs
        ))?;
    }
    let bar = context.bar(chosen.len() as u64, "measuring");
    let mut objects = Vec::new();
    for index in chosen {
        let figures = measure(
            &mut session,
            &plan,
            index,
            args.runs,
            args.subject.context,
            args.steps,
        )
        .map_err(failed)?;
        let row = Row::new(&plan.entries[index], &figures);
        if args.json {
            objects.push(row.json(&session, &plan, random_weights, args.subject.context));
        } else {
            bar.suspend(|| output::print(&row.text()))?;
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    if args.json {
        let text = serde_json::to_string_pretty(&objects).map_err(Failure::failed)?;
        output::print(&format!("{text}\n"))?;
    }
    Ok(())
}

const HEAD: &str = "entry                     GPU          (p95)    wall         (p95)    beyond GPU   \
     sequences/s     tokens/s  overlapped t/s  passes submits";

/// An entry's figures, ready to print.
struct Row<'a> {
    entry: &'a Entry,
    figures: &'a Figures,
    sequences: f64,
    tokens: f64,
    /// Seconds of one forward: alone, and with two in flight.
    alone: f64,
    overlapped: f64,
    /// Milliseconds that a forward with timestamps took beyond its time on the GPU: the host's share, and about 5 us for the
    /// timestamps themselves.
    beyond: Option<f64>,
}

impl<'a> Row<'a> {
    fn new(entry: &'a Entry, figures: &'a Figures) -> Self {
        let size = |dim: &str| entry.dims.get(dim).copied().unwrap_or(1).max(1) as f64;
        let alone = spread(&figures.wall).map_or(f64::NAN, |wall| wall.median.as_secs_f64());
        let beyond = spread(&beyond(&figures.timed_wall, &figures.gpu));
        Self {
            entry,
            figures,
            sequences: size("batch"),
            tokens: size("batch") * size("seq") * size("steps"),
            alone,
            overlapped: figures.overlapped.as_secs_f64(),
            beyond: beyond.map(|beyond| beyond.median.as_secs_f64() * 1e3),
        }
    }

    fn json(
        &self,
        session: &Session,
        plan: &Plan,
        random_weights: bool,
        context: u32,
    ) -> serde_json::Value {
        let of = |times| {
            spread(times).map(|spread| {
                json!({
                    "median": spread.median.as_secs_f64() * 1e3,
                    "p95": spread.p95.as_secs_f64() * 1e3,
                })
            })
        };
        let steps = self.figures.steps.iter();
        let steps: Vec<_> = steps
            .map(|(step, time)| json!({ "step": step, "us": time.as_secs_f64() * 1e6 }))
            .collect();
        json!({
            "graph": plan.graph,
            "entry": self.entry.name,
            "profile": plan.profile,
            "device": session.device().name,
            "driver": session.device().driver,
            "random_weights": random_weights,
            "runs": self.figures.wall.len(),
            "gpu_ms": of(&self.figures.gpu),
            "wall_ms": of(&self.figures.wall),
            "context": context,
            "wall_beyond_gpu_ms": self.beyond,
            "inputs_written_ms": of(&self.figures.written),
            "submitted_ms": of(&self.figures.submitted),
            "wall_with_timestamps_ms": of(&self.figures.timed_wall),
            "sequences_per_s": self.sequences / self.alone,
            "tokens_per_s": self.tokens / self.alone,
            "overlapped_ms": self.overlapped * 1e3,
            "overlapped_sequences_per_s": self.sequences / self.overlapped,
            "overlapped_tokens_per_s": self.tokens / self.overlapped,
            "submits": self.entry.stats.submits,
            "passes": self.entry.stats.passes,
            "waves": self.entry.stats.waves,
            "steps": steps,
        })
    }

    fn text(&self) -> String {
        let of = |times| match spread(times) {
            Some(spread) => {
                let [median, p95] =
                    [spread.median, spread.p95].map(|time| time.as_secs_f64() * 1e3);
                format!("{median:<12.4} ({p95:.3})")
            }
            None => "none".into(),
        };
        let beyond = self.beyond.map_or("none".into(), |ms| format!("{ms:.4}"));
        let mut text = format!(
            "{:<25} {:<21} {:<21} {beyond:<12} {:>11.1} {:>12.0} {:>15.0} {:>7} {:>7}\n",
            self.entry.name,
            of(&self.figures.gpu),
            of(&self.figures.wall),
            self.sequences / self.alone,
            self.tokens / self.alone,
            self.tokens / self.overlapped,
            self.entry.stats.passes,
            self.entry.stats.submits,
        );
        for (step, time) in &self.figures.steps {
            text += &format!("  {:>10.2} us  {step}\n", time.as_secs_f64() * 1e6);
        }
        text
    }
}
