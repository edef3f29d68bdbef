//! `graphc perplexity`: how well a language model foretells a text, to compare weight types.

use std::path::PathBuf;
use std::time::Instant;

use graphc::model::generate::Shape;
use graphc::model::score::{SessionScorer, perplexity};
use graphc::model::text_tokenizer::Special;
use serde_json::json;

use crate::context::Context;
use crate::failure::Failure;
use crate::generate::failure;
use crate::language::{DecodeArgs, Language, LanguageArgs};
use crate::model::ModelArgs;
use crate::output;

/// The largest text that is read.
const MAX_TEXT_BYTES: u64 = 16 << 20;
/// The most bytes of logits of a chunk.
const LOGIT_BYTES: u64 = 64 << 20;

/// Arguments of `perplexity`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    graphc perplexity --model SmolLM2.gguf text.txt\n  \
    graphc perplexity --model SmolLM2.gguf --weights int4 --json text.txt")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    language: LanguageArgs,
    /// Tokens that are read together; the windows know nothing of each other
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(32..=65_536))]
    window: u32,
    /// Score the first N tokens only
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    tokens: Option<u32>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// A text
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Scores.
pub fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let language = Language::open(&args.model, &args.language, &DecodeArgs::default(), context)?;
    let shown = args.file.display();
    let bytes =
        graphc::weights::read_bounded(&args.file, MAX_TEXT_BYTES).map_err(Failure::bad_input)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::bad_input(format!("`{shown}` is not UTF-8")))?;
    let mut tokens = language
        .tokenizer
        .encode(&text, Special::AsText, true, language.rows)
        .map_err(|error| Failure::diagnosed(error.code(), &error))?;
    tokens.truncate(args.tokens.map_or(usize::MAX, |most| most as usize));
    if tokens.len() < 2 {
        return Err(Failure::bad_input(format!(
            "`{shown}` has fewer than two tokens"
        )));
    }
    let fits =
        |size: &u32| *size <= args.window && u64::from(*size) * language.rows * 4 <= LOGIT_BYTES;
    let size = [512, 128, 32].into_iter().find(fits).unwrap_or(32);
    let shape = Shape {
        batch: 1,
        steps: 0,
        context: language.fitting_context(args.window)?,
        chunks: vec![],
    };
    let entry = language.entry(
        &shape,
        [("batch", 1), ("seq", size), ("steps", 0), ("score", 1)],
    );
    let plan = language.compile(&[entry], context)?;
    let name = plan
        .entries
        .first()
        .map(|entry| entry.name.clone())
        .unwrap_or_default();
    let session = language.open_session(plan, context)?;
    let device = session.device().name.clone();
    let mut scorer = SessionScorer::new(session, &name, size)
        .map_err(|error| Failure::coded(error.code(), &error))?;
    let bar = context.bar(tokens.len() as u64, "scoring");
    let clock = Instant::now();
    let score = perplexity(&mut scorer, &tokens, args.window as usize, &mut |done| {
        bar.set_position(done as u64)
    });
    bar.finish_and_clear();
    let score = score.map_err(failure)?;
    let rate = score.tokens as f64 / clock.elapsed().as_secs_f64();
    if args.json {
        let all = json!({
            "device": device, "weights": language.weights(), "window": args.window, "tokens": score.tokens,
            "perplexity": score.perplexity(), "tokens_per_second": rate,
        });
        return output::print(&format!("{all:#}\n"));
    }
    output::print(&format!(
        "perplexity {:.4} over {} tokens in windows of {}, weights {}, {rate:.1} tok/s on {device}\n",
        score.perplexity(),
        score.tokens,
        args.window,
        language.weights(),
    ))
}
