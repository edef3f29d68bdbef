//! Flags of the commands that run a language model, and the way from its files to a runner.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use graphc::device::MAX_TOKENS_PER_SUBMIT;
use graphc::dtype::DType;
use graphc::expr::Value;
use graphc::graph::{NativeTypes, Request};
use graphc::model::generate::{CHUNKS, Shape, chunks};
use graphc::model::generate_runner::GenerateRunner;
use graphc::model::metadata::ModelMetadata;
use graphc::model::text_tokenizer::TextTokenizer;
use graphc::plan::Plan;
use graphc::run::Session;
use graphc::span::SourceMap;
use graphc::weights::Checkpoint;

use crate::context::Context;
use crate::failure::Failure;
use crate::model::{Model, ModelArgs};
use crate::request;

/// Batches that decode entries are compiled for, as long as no other is asked for.
const BATCHES: [usize; 4] = [1, 4, 16, 32];
/// The smallest context; below it nothing is saved.
const SMALLEST_CONTEXT: u64 = 512;
/// The context of a chat, whose length nobody knows beforehand.
const CHAT_CONTEXT: u64 = 4096;

/// How a language model is run.
#[derive(clap::Args)]
pub struct LanguageArgs {
    /// Positions of the context: prompt and answer together [default: what the prompt and --max-tokens need]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(32..=16_777_216))]
    ctx: Option<u32>,
    /// Element type of the weights: what the checkpoint has, or another
    #[arg(long, value_name = "TYPE", default_value = "native", value_parser = request::WEIGHT_TYPES)]
    weights: String,
    /// Element type of the cache of keys and values; int8 has a scale for every 32 elements of a head
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = ["f32", "f16", "int8"])]
    kv: String,
}

/// How it writes.
#[derive(clap::Args, Default)]
pub struct DecodeArgs {
    /// Decode steps of a submit [default: chosen for the device]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_TOKENS_PER_SUBMIT)))]
    tokens_per_submit: Option<u32>,
    /// Sequences that decode together [default: as many as there are prompts, up to 32]
    #[arg(long, value_name = "B", value_parser = clap::value_parser!(u32).range(1..=64))]
    batch: Option<u32>,
}

/// What starting took.
pub struct Times {
    /// From the graph to the plan.
    pub compile: Duration,
    /// Device, weights, kernels, recordings.
    pub open: Duration,
}

/// A language model before anything of it runs.
pub struct Language {
    model: Model,
    /// Its tokenizer.
    pub tokenizer: TextTokenizer,
    /// Rows of its embedding table.
    pub rows: u64,
    positions: u64,
    /// With `--weights native`, the type of each weight.
    native: Option<NativeTypes>,
    args: Asked,
}

struct Asked {
    ctx: Option<u32>,
    weights: String,
    kv: String,
    steps: Option<u32>,
    batch: Option<u32>,
}

impl Language {
    /// Finds the model, its graph, its tokenizer and the device.
    pub fn open(
        model: &ModelArgs,
        args: &LanguageArgs,
        decode: &DecodeArgs,
        context: &Context,
    ) -> Result<Self, Failure> {
        let model = Model::open(model, "tokens", context)?;
        let sized = [("ctx", "--ctx"), ("slots", "`graphc generate --batch`")];
        let mut sized = sized.into_iter();
        if let Some((name, flag)) = sized.find(|(name, _)| model.request().set.contains_key(*name))
        {
            return Err(Failure::bad_input(format!(
                "`--set {name}=..` would give the caches another size than texts are cut by; {flag} gives both"
            )));
        }
        let tokenizer = TextTokenizer::of(model.metadata())
            .map_err(|error| Failure::diagnosed(error.code(), &error))?;
        let native = match args.weights.as_str() {
            "native" => {
                let checkpoint =
                    Checkpoint::open(&model.metadata().checkpoint).map_err(|error| {
                        Failure::Diagnosed(error.diagnostic().into(), SourceMap::default())
                    })?;
                Some(NativeTypes::new(move |recipe| {
                    checkpoint.native_dtype(recipe)
                }))
            }
            _ => None,
        };
        Ok(Self {
            native,
            rows: model.number("vocab_size", None)?,
            positions: model.number("max_positions", Some(u64::from(u32::MAX)))?,
            tokenizer,
            model,
            args: Asked {
                ctx: args.ctx,
                weights: args.weights.clone(),
                kv: args.kv.clone(),
                steps: decode.tokens_per_submit,
                batch: decode.batch,
            },
        })
    }

    /// What its files say.
    pub fn metadata(&self) -> &ModelMetadata {
        self.model.metadata()
    }

    /// The shapes to compile for `count` prompts of at most `longest` tokens. An `open` one takes prompts of any
    /// length.
    pub fn shape(
        &self,
        count: usize,
        longest: usize,
        max_tokens: u32,
        open: bool,
    ) -> Result<Shape, Failure> {
        let context = self.context(longest, max_tokens, open)?;
        let fits = |size: &u32| *size <= context.max(32);
        let sizes: Vec<u32> = CHUNKS.into_iter().filter(fits).collect();
        let used = match open {
            // What is long in a chat comes rarely.
            true => sizes.iter().copied().filter(|size| *size <= 512).collect(),
            false => chunks(longest.saturating_sub(1), &sizes),
        };
        let mut chunks: Vec<u32> = sizes
            .iter()
            .copied()
            .filter(|size| used.contains(size))
            .collect();
        if chunks.is_empty() || count > 1 {
            // Shorter prompts than the longest one take smaller entries.
            chunks = sizes
                .iter()
                .copied()
                .filter(|size| used.first().is_none_or(|most| size <= most))
                .collect();
        }
        let steps = self.args.steps.or(self.model.tokens_per_submit());
        let steps = steps.unwrap_or(if self.model.on_cpu() { 1 } else { 8 });
        Ok(Shape {
            batch: self.args.batch.unwrap_or_else(|| {
                let enough = BATCHES.iter().copied().find(|batch| *batch >= count);
                enough.unwrap_or(32) as u32
            }),
            steps: steps.min(max_tokens.max(1)),
            context,
            chunks,
        })
    }

    fn context(&self, longest: usize, max_tokens: u32, open: bool) -> Result<u32, Failure> {
        let most = u32::try_from(self.positions).unwrap_or(u32::MAX);
        match self.args.ctx {
            Some(asked) if asked > most => Err(Failure::bad_input(format!(
                "--ctx {asked} is more than the {most} positions that the model was trained for"
            ))),
            Some(asked) => Ok(asked),
            None => {
                let needed = if open {
                    CHAT_CONTEXT
                } else {
                    longest as u64 + u64::from(max_tokens)
                };
                let rounded = needed.max(SMALLEST_CONTEXT).next_power_of_two();
                Ok(u32::try_from(rounded).unwrap_or(u32::MAX).min(most))
            }
        }
    }

    /// A context of `--ctx`, or of `window` positions.
    pub fn fitting_context(&self, window: u32) -> Result<u32, Failure> {
        let context = self.context(window as usize, 0, false)?;
        if context < window {
            return Err(Failure::bad_input(format!(
                "a window of {window} tokens does not fit in a context of {context} positions"
            )));
        }
        Ok(context)
    }

    /// The element type of the weights, as it was asked for.
    pub fn weights(&self) -> &str {
        &self.args.weights
    }

    /// Packs the weights of a plan and loads it.
    pub fn open_session(&self, plan: Plan, context: &Context) -> Result<Session, Failure> {
        self.model.open_session(plan, context)
    }

    /// An entry with these dimensions.
    pub fn entry(&self, shape: &Shape, dims: [(&str, u32); 4]) -> Request {
        let mut request = self.model.request().clone();
        for (name, value) in [("ctx", shape.context), ("slots", shape.batch)] {
            request
                .set
                .entry(name.into())
                .or_insert(Value::Int(i64::from(value)));
        }
        // Without a type for all, each weight has its own, and the graph's where none is known.
        let act = request.dtype.take();
        request
            .dtypes
            .extend(act.map(|dtype| ("act".into(), dtype)));
        request.native = self.native.clone();
        for (name, text) in [("weight", &self.args.weights), ("kv", &self.args.kv)] {
            if let Ok(dtype) = text.parse::<DType>() {
                request.dtypes.insert(name.into(), dtype);
            }
        }
        request.dims = dims
            .map(|(name, size)| (name.to_string(), i64::from(size)))
            .into_iter()
            .collect::<BTreeMap<_, _>>();
        request
    }

    /// The plan of these entries.
    pub fn compile(&self, entries: &[Request], context: &Context) -> Result<Plan, Failure> {
        let mut map = SourceMap::default();
        self.model
            .compile_entries(entries, &mut map, context)?
            .map_err(|found| Failure::Diagnosed(found, map))
    }

    /// Compiles, packs and loads.
    pub fn runner(
        &self,
        shape: &Shape,
        context: &Context,
    ) -> Result<(GenerateRunner, Times), Failure> {
        let clock = Instant::now();
        let decode = [
            ("batch", shape.batch),
            ("seq", 1),
            ("steps", shape.steps),
            ("score", 0),
        ];
        let mut entries = vec![self.entry(shape, decode)];
        for size in &shape.chunks {
            let prefill = [("batch", 1), ("seq", *size), ("steps", 0), ("score", 0)];
            entries.push(self.entry(shape, prefill));
        }
        let plan = self.compile(&entries, context)?;
        let compile = clock.elapsed();
        let clock = Instant::now();
        let names: Vec<String> = plan
            .entries
            .iter()
            .map(|entry| entry.name.clone())
            .collect();
        let session = self.model.open_session(plan, context)?;
        let failed = |error: graphc::run::RunError| Failure::coded(error.code(), &error);
        let prefill: Vec<(u32, String)> = shape
            .chunks
            .iter()
            .copied()
            .zip(names.iter().skip(1).cloned())
            .collect();
        let decode = names.first().map_or("", String::as_str);
        let mut runner = GenerateRunner::new(session, decode, &prefill).map_err(failed)?;
        runner.prepare().map_err(failed)?;
        let open = clock.elapsed();
        Ok((runner, Times { compile, open }))
    }
}
