//! `graphc embed`: texts in, embeddings out.
//!
//! Reading and tokenising run on a thread of their own. The first window says which shapes are worth compiling:
//! all of the ladder for a long stream, only those it needs if the stream ends with it.

use std::io::{BufReader, IsTerminal as _};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use graphc::model::bucket::{Bucket, MAX_ROWS, group, ladder};
use graphc::model::embed::{BoxError, EmbedError, Report, Window, embed, tokenize, too_long};
use graphc::model::output::Format;
use graphc::model::runner::SessionRunner;
use graphc::model::texts::Texts;

use crate::context::Context;
use crate::failure::Failure;
use crate::model::{Model, ModelArgs};
use crate::sink::Sink;
use crate::tracy::TracyArgs;

/// Arguments of `embed`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    graphc embed --model minilm \"a text\" \"another text\"\n  \
    graphc embed --model hf:BAAI/bge-small-en-v1.5 --format npy -o out.npy < lines.txt\n  \
    graphc embed --model minilm --jsonl body < articles.jsonl > embeddings.jsonl")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Read JSON objects from standard input, one a line, and embed this field
    #[arg(long, value_name = "FIELD", conflicts_with = "texts")]
    jsonl: Option<String>,
    /// How embeddings are written: JSON arrays a line, a NumPy array, or numbers a line
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "json",
        env = "GRAPHC_FORMAT",
        hide_env_values = true
    )]
    format: FormatArg,
    /// Write to this file, which is complete or untouched [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Say on standard error what was done and how long each part took
    #[arg(long, visible_alias = "verbose")]
    timings: bool,
    #[command(flatten)]
    tracy: TracyArgs,
    /// Texts; without any, one is read from each line of standard input
    #[arg(value_name = "TEXT")]
    texts: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum FormatArg {
    Json,
    Npy,
    Text,
}

impl From<FormatArg> for Format {
    fn from(format: FormatArg) -> Self {
        match format {
            FormatArg::Json => Format::Json,
            FormatArg::Npy => Format::Npy,
            FormatArg::Text => Format::Text,
        }
    }
}

/// What each part took.
#[derive(Default)]
struct Timings {
    start: Duration,
    compile: Duration,
    open: Duration,
    embed: Duration,
}

/// Embeds texts.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let _watched = args.tracy.start(context)?;
    let start = Instant::now();
    let mut timings = Timings::default();
    let model = Model::open(&args.model, "embedding", context)?;
    let tokenizer = model.tokenizer()?;
    let limit = u32::try_from(tokenizer.limit()).unwrap_or(u32::MAX);
    let total = (!args.texts.is_empty()).then_some(args.texts.len() as u64);
    let mut sink = Sink::new(args.format.into(), args.output.as_deref())?;
    timings.start = start.elapsed();

    let (send, receive) = mpsc::sync_channel(1);
    let source = source(&args, context);
    let report = std::thread::scope(|scope| {
        let tokenizer = &tokenizer;
        scope.spawn(move || tokenize(tokenizer, source, &send));
        let Some(first) = receive.iter().next() else {
            return Err(Failure::failed("the reader of texts ended without a word"));
        };
        let first = first.map_err(|error| failure(error, &model))?;
        if first.tokens.is_empty() {
            return Ok(Report::default());
        }
        let mut runner = None;
        let result = (|| {
            let mut buckets = ladder(limit, MAX_ROWS);
            let per_submit = model.per_submit();
            if first.last {
                buckets = needed(&first, &buckets, per_submit)
                    .ok_or_else(|| failure(too_long(&first), &model))?;
            }
            let clock = Instant::now();
            let plan = model.compile(&mut buckets, context)?;
            timings.compile = clock.elapsed();
            let clock = Instant::now();
            let runner = runner.insert(SessionRunner::new(model.open_session(plan, context)?));
            timings.open = clock.elapsed();
            let clock = Instant::now();
            let bar = context.bar(total.unwrap_or(0), "embedding");
            let windows = std::iter::once(Ok(first)).chain(receive.iter());
            let report = embed(
                runner,
                &buckets,
                per_submit,
                windows,
                &mut |input, embedding| {
                    bar.set_position(input);
                    sink.push(embedding)
                },
            );
            bar.finish_and_clear();
            timings.embed = clock.elapsed();
            report.map_err(|error| failure(error, &model))
        })();
        // A reader that waits to send its next window learns here that nobody wants it.
        drop(receive);
        result
    });
    // What was embedded before an error is in order and complete.
    let written = sink.finish(report.is_ok());
    let report = report?;
    written?;
    say(&report, &timings, limit, &args, context);
    Ok(())
}

type Source = Box<dyn Iterator<Item = Result<String, BoxError>> + Send>;

fn source(args: &Args, context: &Context) -> Source {
    if !args.texts.is_empty() {
        return Box::new(args.texts.clone().into_iter().map(Ok));
    }
    let input = std::io::stdin();
    if input.is_terminal() {
        context.say("reading texts, one a line; end them with Ctrl-D");
    }
    Box::new(Texts::new(BufReader::new(input), args.jsonl.clone()))
}

/// The buckets that a stream of one window uses.
fn needed(window: &Window, buckets: &[Bucket], per_submit: u64) -> Option<Vec<Bucket>> {
    let groups = group(&window.lengths(), buckets, per_submit)?;
    let mut used: Vec<Bucket> = groups.iter().map(|group| group.bucket).collect();
    used.sort_unstable();
    used.dedup();
    Some(used)
}

fn failure(error: EmbedError, model: &Model) -> Failure {
    let advice = error.advice(&model.request().dtypes);
    match (error.code(), error) {
        (_, EmbedError::Sink(error)) => Failure::from(error),
        (Some(code), error) => match advice {
            Some(advice) => Failure::diagnosed(code, format!("{error}\nhelp: {advice}")),
            None => Failure::diagnosed(code, error),
        },
        (None, error) => Failure::failed(error),
    }
}

fn say(report: &Report, timings: &Timings, limit: u32, args: &Args, context: &Context) {
    if report.truncated > 0 {
        let (cut, all) = (report.truncated, report.inputs);
        context.say(&format!(
            "{cut} of {all} texts were longer than {limit} tokens and were cut"
        ));
    }
    if args.timings {
        let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
        context.say(&format!(
            "{} texts, {} tokens, {} batches of {} rows in all",
            report.inputs, report.tokens, report.batches, report.rows
        ));
        context.say(&format!(
            "read model {}, compile {}, open device and load weights {}, embed {} (waited for tokens {}, for the device {})",
            ms(timings.start),
            ms(timings.compile),
            ms(timings.open),
            ms(timings.embed),
            ms(report.waited_for_tokens),
            ms(report.waited_for_device),
        ));
    }
}
