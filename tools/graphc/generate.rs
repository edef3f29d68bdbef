//! `graphc generate`: prompts in, continuations out as they come.

use std::io::{BufReader, IsTerminal as _, Read as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use graphc::model::chat::{ChatError, ChatTemplate, Message};
use graphc::model::detokenize::Detokenizer;
use graphc::model::generate::{
    Event, Finish, GenerateError, Report, Sampling, Sequence, Shape, check, generate,
};
use graphc::model::generate_runner::GenerateRunner;
use graphc::model::text_tokenizer::{Special, TextTokenizer};
use graphc::model::texts::Texts;
use graphc::plan::place;
use graphc::run::RunError;
use serde_json::json;

use crate::context::Context;
use crate::failure::{Failure, INTERRUPTED};
use crate::language::{DecodeArgs, Language, LanguageArgs};
use crate::model::ModelArgs;
use crate::output;
use crate::tracy::TracyArgs;

/// The longest prompt that is read from standard input.
const MAX_PROMPT_BYTES: u64 = 16 << 20;

/// Arguments of `generate`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    graphc generate --model SmolLM2.gguf --prompt \"Why is the sky blue?\"\n  \
    graphc generate --model gemma.gguf --raw --prompt \"The capital of France is\" --max-tokens 16\n  \
    graphc generate --model SmolLM2.gguf --prompts questions.txt --temperature 0.7 --seed 1 --json\n  \
    graphc generate --model SmolLM2.gguf --chat")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    language: LanguageArgs,
    #[command(flatten)]
    decode: DecodeArgs,
    /// Text to answer or continue [default: standard input]
    #[arg(long, short, value_name = "TEXT", conflicts_with_all = ["prompts", "chat"])]
    prompt: Option<String>,
    /// Continue each line of this file; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "chat")]
    prompts: Option<PathBuf>,
    /// The lines of --prompts are JSON objects, and this field of each is the prompt
    #[arg(long, value_name = "FIELD", requires = "prompts", conflicts_with_all = ["prompt", "chat"])]
    jsonl: Option<String>,
    /// Talk: each line of standard input is a turn
    #[arg(long, conflicts_with_all = ["raw", "json"])]
    chat: bool,
    /// A system message before the prompt, where the model's chat template takes one
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
    /// Continue the prompt as it is, without the model's chat template
    #[arg(long)]
    raw: bool,
    /// The most tokens to write for each prompt
    #[arg(long, allow_negative_numbers = true, short = 'n', value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// How freely tokens are drawn; 0 always takes the best one
    #[arg(long, allow_negative_numbers = true, value_name = "T", default_value_t = 0.0, value_parser = temperature)]
    temperature: f32,
    /// Draw among the K best tokens only; 0: all
    #[arg(long, allow_negative_numbers = true, value_name = "K", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    top_k: u32,
    /// Draw among the best tokens that have the probability P together; 1: all
    #[arg(long, allow_negative_numbers = true, value_name = "P", default_value_t = 1.0, value_parser = probability)]
    top_p: f32,
    /// Seed of the draws: equal seeds give equal texts
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Print one JSON object with texts, tokens and rates at the end
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tracy: TracyArgs,
}

fn temperature(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if (0.0..=100.0).contains(&value) => Ok(value),
        _ => Err("a number from 0 to 100 is needed".into()),
    }
}

fn probability(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if value > 0.0 && value <= 1.0 => Ok(value),
        _ => Err("a number above 0 and up to 1 is needed".into()),
    }
}

/// Generates.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let _watched = args.tracy.start(context)?;
    let start = Instant::now();
    let language = Language::open(&args.model, &args.language, &args.decode, context)?;
    let template = match args.raw {
        true => None,
        false => match ChatTemplate::of(language.metadata()) {
            Ok(template) => Some(template),
            // A model that was trained on no chats continues texts.
            Err(ChatError::None { .. }) if !args.chat && args.system.is_none() => None,
            Err(error) => return Err(Failure::coded(error.code(), &error)),
        },
    };
    let job = Work {
        language,
        template,
        start,
    };
    if args.chat {
        return talk(&job, &args, context);
    }
    let prompts = prompts(&args)?;
    if prompts.is_empty() {
        return Err(Failure::bad_input("there is no prompt: the input is empty"));
    }
    once(&job, prompts, &args, context)
}

struct Work {
    language: Language,
    template: Option<ChatTemplate>,
    start: Instant,
}

impl Work {
    fn tokenizer(&self) -> &TextTokenizer {
        &self.language.tokenizer
    }

    /// The tokens of a chat, or of a text as it is.
    fn encode(&self, messages: &[Message]) -> Result<Vec<u32>, Failure> {
        let raw = messages.last().map_or("", |message| &message.content);
        let rendered = match &self.template {
            Some(template) => Some(
                template
                    .render(messages)
                    .map_err(|error| Failure::coded(error.code(), &error))?,
            ),
            None => None,
        };
        let text = rendered.as_deref().unwrap_or(raw);
        // A template spells out the token that begins a text.
        let tokenizer = self.tokenizer();
        let spelled = rendered.is_some()
            && tokenizer
                .bos()
                .is_some_and(|bos| !bos.is_empty() && text.starts_with(bos));
        tokenizer
            .encode(text, Special::Parsed, !spelled, self.language.rows)
            .map_err(|error| Failure::diagnosed(error.code(), &error))
    }

    /// Continues these sequences, on standard output if `print`.
    fn write(
        &self,
        runner: &mut GenerateRunner,
        shape: &Shape,
        sequences: &[Sequence],
        interrupted: &AtomicBool,
        print: bool,
    ) -> Result<(Report, Vec<Row<'_>>), Failure> {
        let mut texts = Writer::new(self.tokenizer(), sequences.len(), print);
        let stops = self.tokenizer().stops();
        let report = generate(runner, shape, sequences, stops, interrupted, &mut |event| {
            texts.take(event)
        });
        texts.end_line()?;
        Ok((report.map_err(failure)?, texts.rows))
    }
}

/// The prompts that the flags name.
fn prompts(args: &Args) -> Result<Vec<String>, Failure> {
    if let Some(prompt) = &args.prompt {
        return Ok(vec![prompt.clone()]);
    }
    let lines = |reader: Box<dyn std::io::BufRead>| {
        Texts::new(reader, args.jsonl.clone())
            .collect::<Result<Vec<String>, _>>()
            .map_err(Failure::bad_input)
    };
    match &args.prompts {
        Some(path) if path.as_os_str() != "-" => {
            let file = std::fs::File::open(path).map_err(|error| {
                Failure::bad_input(format!("cannot read `{}`: {error}", path.display()))
            })?;
            lines(Box::new(BufReader::new(file)))
        }
        Some(_) => lines(Box::new(std::io::stdin().lock())),
        None => {
            let mut text = String::new();
            let mut input = std::io::stdin().take(MAX_PROMPT_BYTES + 1);
            input.read_to_string(&mut text).map_err(|error| {
                Failure::bad_input(format!("cannot read the prompt on standard input: {error}"))
            })?;
            if text.len() as u64 > MAX_PROMPT_BYTES {
                return Err(Failure::bad_input(format!(
                    "the prompt is longer than {MAX_PROMPT_BYTES} bytes"
                )));
            }
            let text = text.strip_suffix('\n').unwrap_or(&text);
            Ok(if text.is_empty() {
                vec![]
            } else {
                vec![text.to_string()]
            })
        }
    }
}

fn sampling(args: &Args, number: u64) -> Sampling {
    Sampling {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        // Sequences draw apart from each other: the output function of SplitMix64 (Steele, Lea and Flood 2014).
        seed: {
            let mut seed = args
                .seed
                .wrapping_add(number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            seed = (seed ^ (seed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            seed = (seed ^ (seed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            seed ^ (seed >> 31)
        },
    }
}

fn system(args: &Args) -> Vec<Message> {
    let message = |content: &String| Message {
        role: "system".into(),
        content: content.clone(),
    };
    args.system.iter().map(message).collect()
}

/// Continues every prompt and ends.
fn once(work: &Work, prompts: Vec<String>, args: &Args, context: &Context) -> Result<(), Failure> {
    let sequences = prompts
        .iter()
        .zip(0..)
        .map(|(prompt, number)| {
            let mut messages = system(args);
            messages.push(Message::user(prompt));
            Ok(Sequence {
                prompt: work.encode(&messages)?,
                cached: 0,
                max_tokens: args.max_tokens,
                sampling: sampling(args, number),
            })
        })
        .collect::<Result<Vec<_>, Failure>>()?;
    let longest = sequences
        .iter()
        .map(|sequence| sequence.prompt.len())
        .max()
        .unwrap_or(0);
    let shape = work
        .language
        .shape(sequences.len(), longest, args.max_tokens, false)?;
    check(&sequences, shape.context).map_err(failure)?;
    let (mut runner, times) = work.language.runner(&shape, context)?;
    let loaded = work.start.elapsed();
    let interrupted = interruption(&Arc::default());
    let (report, texts) = work.write(&mut runner, &shape, &sequences, &interrupted, !args.json)?;
    let whole = texts
        .iter()
        .all(|row| row.finish.is_some_and(|how| how != Finish::Interrupted));
    if args.json {
        let rows = sequences.iter().zip(&prompts).zip(&texts);
        let rows: Vec<_> = rows
            .map(|((sequence, prompt), row)| {
                json!({
                    "prompt": prompt, "prompt_tokens": sequence.prompt, "text": row.text, "tokens": row.tokens,
                    "finish": row.finish.map(Finish::name),
                })
            })
            .collect();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let arenas = &runner.session().plan().arenas;
        let (on_device, everything) = (place::device_bytes(arenas), place::all_bytes(arenas));
        let weights = place::weight_bytes(arenas);
        let all = json!({
            "weight_bytes": { "device": weights - (everything - on_device), "host": everything - on_device },
            "other_device_bytes": everything - weights,
            "device": runner.session().device().name,
            "context": shape.context, "batch": shape.batch, "tokens_per_submit": shape.steps,
            "sequences": rows,
            "prompt_tokens": report.prompt_tokens, "prompt_tokens_per_second": report.prompt_rate(),
            "tokens": report.tokens, "tokens_per_second": report.decode_rate(),
            "prefills": report.prefills, "submits": report.submits,
            "load_ms": ms(loaded), "compile_ms": ms(times.compile), "open_ms": ms(times.open),
            "prompt_ms": ms(report.prompt_time), "decode_ms": ms(report.decode_time),
        });
        output::print(&format!("{all:#}\n"))?;
    }
    for (row, number) in texts.iter().zip(1..) {
        if row.finish == Some(Finish::ContextFull) {
            let of = if sequences.len() > 1 {
                format!("text {number} ")
            } else {
                String::new()
            };
            context.say(&format!(
                "{of}stopped: its context of {} tokens is full (--ctx N asks for more)",
                shape.context
            ));
        }
    }
    say(&report, loaded, !whole, context);
    if whole {
        Ok(())
    } else {
        Err(Failure::Interrupted)
    }
}

fn say(report: &Report, loaded: Duration, interrupted: bool, context: &Context) {
    let interrupted = if interrupted { "; interrupted" } else { "" };
    context.say(&format!(
        "load {:.2} s; prompt {} tokens, {:.1} tok/s; decode {} tokens, {:.1} tok/s{interrupted}",
        loaded.as_secs_f64(),
        report.prompt_tokens,
        report.prompt_rate(),
        report.tokens,
        report.decode_rate(),
    ));
}

/// A flag that Ctrl-C sets; a second Ctrl-C ends the program at once, and so does the first one while `idle` is set.
fn interruption(idle: &Arc<AtomicBool>) -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    #[cfg(unix)]
    {
        use signal_hook::consts::{SIGINT, SIGTERM};
        for signal in [SIGINT, SIGTERM] {
            // Without the handlers a signal ends the program as always.
            for flag in [&flag, idle] {
                let flag = Arc::clone(flag);
                let _ = signal_hook::flag::register_conditional_shutdown(signal, INTERRUPTED, flag);
            }
            let _ = signal_hook::flag::register(signal, Arc::clone(&flag));
        }
    }
    flag
}

/// What stopped a language model, as a command says it.
pub fn failure(error: GenerateError) -> Failure {
    match (error.code(), error) {
        (_, GenerateError::Sink(error)) => Failure::from(error),
        (Some(code), error) => Failure::coded(code, &error),
        (None, GenerateError::Run(error)) => match error.downcast_ref::<RunError>() {
            Some(known) => Failure::coded(known.code(), &error),
            None => Failure::failed(error),
        },
        (None, error) => Failure::failed(error),
    }
}

/// A text that grows.
struct Row<'t> {
    words: Detokenizer<'t>,
    text: String,
    tokens: Vec<u32>,
    finish: Option<Finish>,
}

/// Texts on standard output: a single one as it comes, several in the order of their prompts, each when it ends.
struct Writer<'t> {
    rows: Vec<Row<'t>>,
    print: bool,
    /// The next text to print, when there are several.
    next: usize,
}

impl<'t> Writer<'t> {
    fn new(tokenizer: &'t TextTokenizer, count: usize, print: bool) -> Self {
        let row = || Row {
            words: Detokenizer::continuing(tokenizer),
            text: String::new(),
            tokens: vec![],
            finish: None,
        };
        Self {
            rows: (0..count).map(|_| row()).collect(),
            print,
            next: 0,
        }
    }

    fn take(&mut self, event: Event) -> std::io::Result<()> {
        let (Event::Token { sequence, .. } | Event::Finished { sequence, .. }) = event;
        let single = self.rows.len() == 1;
        let Some(row) = self.rows.get_mut(sequence) else {
            return Ok(());
        };
        let text = match event {
            Event::Token { id, .. } => {
                row.tokens.push(id);
                row.words.push(id)
            }
            Event::Finished { finish, .. } => {
                row.finish = Some(finish);
                row.words.finish()
            }
        };
        row.text.push_str(&text);
        if !self.print {
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        if single {
            out.write_all(text.as_bytes())?;
        } else {
            while let Some(row) = self.rows.get(self.next).filter(|row| row.finish.is_some()) {
                writeln!(out, "{}", row.text)?;
                self.next += 1;
            }
        }
        out.flush()
    }

    /// A single text does not end its line by itself.
    fn end_line(&self) -> Result<(), Failure> {
        match (self.print, self.rows.as_slice()) {
            (true, [row]) if !row.text.ends_with('\n') => output::print("\n"),
            _ => Ok(()),
        }
    }
}

/// Turns: each line of standard input is answered in the light of those before. What the cache still holds of the
/// chat is not computed again.
fn talk(work: &Work, args: &Args, context: &Context) -> Result<(), Failure> {
    let shape = work.language.shape(1, 0, args.max_tokens, true)?;
    let (mut runner, _) = work.language.runner(&shape, context)?;
    let loaded = work.start.elapsed();
    let input = std::io::stdin();
    if input.is_terminal() {
        context.say("each line is a turn; end with Ctrl-D");
    }
    let mut messages = system(args);
    let mut cache: Vec<u32> = vec![];
    let mut all = Report::default();
    let idle = Arc::new(AtomicBool::new(true));
    let interrupted = interruption(&idle);
    let mut stopped = false;
    for (line, turn) in Texts::new(input.lock(), None).zip(0..) {
        let line = line.map_err(|error| Failure::bad_input(format!("standard input: {error}")))?;
        if line.is_empty() {
            continue;
        }
        idle.store(false, Ordering::Relaxed);
        messages.push(Message::user(&line));
        let prompt = work.encode(&messages)?;
        if prompt.len() >= shape.context as usize {
            context.say(&format!(
                "with this turn the chat has {} tokens, and its context {} (--ctx N asks for more)",
                prompt.len(),
                shape.context
            ));
            break;
        }
        let cached = prompt
            .iter()
            .zip(&cache)
            .take_while(|(new, old)| new == old)
            .count();
        let sequences = [Sequence {
            prompt,
            cached,
            max_tokens: args.max_tokens,
            sampling: sampling(args, turn),
        }];
        let (report, mut texts) =
            work.write(&mut runner, &shape, &sequences, &interrupted, true)?;
        let Some(row) = texts.pop() else { break };
        cache = sequences
            .into_iter()
            .flat_map(|sequence| sequence.prompt)
            .collect();
        // Nothing was computed from the last token, unless a stop token followed it.
        let kept =
            row.tokens.len() - usize::from(row.finish != Some(Finish::Stop)).min(row.tokens.len());
        cache.extend(&row.tokens[..kept]);
        messages.push(Message {
            role: "assistant".into(),
            content: row.text.trim().to_string(),
        });
        add(&mut all, &report);
        match row.finish {
            Some(Finish::ContextFull) => {
                context.say(&format!(
                    "the context of {} tokens is full (--ctx N asks for more)",
                    shape.context
                ));
                break;
            }
            Some(Finish::Interrupted) => {
                stopped = true;
                break;
            }
            _ => {}
        }
        idle.store(true, Ordering::Relaxed);
    }
    say(&all, loaded, stopped, context);
    if stopped {
        Err(Failure::Interrupted)
    } else {
        Ok(())
    }
}

fn add(all: &mut Report, turn: &Report) {
    all.sequences += turn.sequences;
    all.prompt_tokens += turn.prompt_tokens;
    all.tokens += turn.tokens;
    all.prefills += turn.prefills;
    all.submits += turn.submits;
    all.prompt_time += turn.prompt_time;
    all.decode_time += turn.decode_time;
    all.decode_tokens += turn.decode_tokens;
}
