//! What generation is asked for and what comes of it: sequences, the rows of a submit, the [`Runner`] that runs them,
//! events, errors and the [`Report`]. How they go together is in [`super::generate`].

use std::time::Duration;

use super::embed::BoxError;
use super::replay::Replay;
use crate::codes::model as codes;
use crate::diag::Code;
use crate::plan::finite::NotFinite;

/// No token: what a dead row gives.
pub const NONE: u32 = u32::MAX;
/// Instead of a token where the scores were not finite.
pub const NOT_FINITE: u32 = u32::MAX - 1;
/// Stop tokens that the device knows.
pub const DEVICE_STOPS: usize = 8;
/// Tokens of a prefill entry, from which [`super::generate::chunks`] takes.
pub const CHUNKS: [u32; 5] = [2048, 512, 128, 32, 8];

/// Why generation stopped.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// Nothing to continue.
    #[error("prompt {sequence} has no tokens, so there is nothing to continue")]
    Empty {
        /// Its number, from 1.
        sequence: usize,
    },
    /// The prompt alone fills the context.
    #[error(
        "prompt {sequence} has {tokens} tokens, and the context has {context}; one place at least is needed for an \
         answer\nhelp: a larger context is asked for with --ctx"
    )]
    TooLong {
        /// Its number, from 1.
        sequence: usize,
        /// Its length.
        tokens: usize,
        /// The places.
        context: u32,
    },
    /// The scores of the next token are not numbers.
    #[error(
        "the scores of token {position} of sequence {sequence} hold NaN or infinity, so no token can be chosen{}",
        found.as_ref().map(|first| format!("\nthe first such value: {first}")).unwrap_or_default()
    )]
    NotFinite {
        /// Its number, from 1.
        sequence: usize,
        /// The position whose successor was asked for.
        position: u32,
        /// What running the sequence again showed, if that was done and the fault came again.
        found: Option<Box<NotFinite>>,
    },
    /// The device broke a promise.
    #[error("the device gave token {token} for sequence {sequence} where {expected} was due")]
    Device {
        /// Its number, from 1.
        sequence: usize,
        /// What came.
        token: u32,
        /// What was due.
        expected: &'static str,
    },
    /// The device.
    #[error("{0}")]
    Run(#[source] BoxError),
    /// The taker of tokens, for example a closed pipe.
    #[error("{0}")]
    Sink(#[from] std::io::Error),
}

impl GenerateError {
    /// Its diagnostic code, if it has one of its own.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Empty { .. } | Self::TooLong { .. } => Some(codes::PROMPT),
            Self::NotFinite { .. } => Some(codes::LOGITS),
            Self::Device { .. } | Self::Run(_) | Self::Sink(_) => None,
        }
    }
}

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0: the best token, always.
    pub temperature: f32,
    /// Only among this many best ones; 0: all.
    pub top_k: u32,
    /// Only among the best ones with this probability together; 1: all.
    pub top_p: f32,
    /// The noise: equal seeds give equal texts.
    pub seed: u64,
}

impl Sampling {
    /// The best token, always.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        seed: 0,
    };
}

/// A prompt and what is wanted.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// The prompt.
    pub prompt: Vec<u32>,
    /// How many of its tokens the cache of the row already holds, from an earlier turn of a chat: only with one row.
    pub cached: usize,
    /// The most tokens to write.
    pub max_tokens: u32,
    /// How they are chosen.
    pub sampling: Sampling,
}

/// What the runner was compiled for.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Rows of a decode submit.
    pub batch: u32,
    /// Steps of a decode submit, K.
    pub steps: u32,
    /// Positions of a cache slot.
    pub context: u32,
    /// Lengths of the prefill entries, largest first.
    pub chunks: Vec<u32>,
}

/// A part of a prompt for a prefill entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk<'s> {
    /// The entry's length.
    pub size: u32,
    /// The cache slot.
    pub slot: u32,
    /// The position of the first token.
    pub first: u32,
    /// At most `size` of them; the rows that are left are dead.
    pub tokens: &'s [u32],
}

/// A row of a decode submit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// Its token, if it is fresh.
    pub id: u32,
    /// Its position, if it is fresh.
    pub position: u32,
    /// Whether it starts with this submit.
    pub fresh: bool,
    /// The first position that it must not reach.
    pub limit: u32,
    /// How tokens are chosen.
    pub sampling: Sampling,
}

impl Row {
    /// Nobody's.
    pub const DEAD: Self = Self {
        id: 0,
        position: 0,
        fresh: true,
        limit: 0,
        sampling: Sampling::GREEDY,
    };
}

/// Runs chunks and steps; a session on a device, or a stand-in in tests.
pub trait Runner {
    /// A decode submit in flight.
    type Ticket;
    /// Starts a prefill. It has no result; what follows on the device waits for it.
    fn prefill(&mut self, chunk: &Chunk<'_>) -> Result<(), BoxError>;
    /// Starts a decode submit of one row for each of the batch.
    fn decode(
        &mut self,
        rows: &[Row],
        stops: &[u32; DEVICE_STOPS],
    ) -> Result<Self::Ticket, BoxError>;
    /// Waits for a decode submit and gives its tokens, `steps` for each row.
    fn collect(&mut self, ticket: Self::Ticket) -> Result<Vec<u32>, BoxError>;
    /// Runs a sequence again, whose last token has scores that are not finite, and says where the first such value
    /// comes from. Nothing is in flight; what the cache held is lost.
    fn first_not_finite(&mut self, replay: &Replay<'_>) -> Result<Option<NotFinite>, BoxError>;
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it.
    Stop,
    /// It has the tokens that were asked for.
    MaxTokens,
    /// No place is left in its context.
    ContextFull,
    /// Somebody asked to stop.
    Interrupted,
}

impl Finish {
    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::MaxTokens => "max_tokens",
            Self::ContextFull => "context_full",
            Self::Interrupted => "interrupted",
        }
    }
}

/// What comes out, in the order in which it happens. Sequences are numbered from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The next token of a sequence. A stop token does not come.
    Token {
        /// Which sequence.
        sequence: usize,
        /// The token.
        id: u32,
    },
    /// A sequence ended.
    Finished {
        /// Which sequence.
        sequence: usize,
        /// Why.
        finish: Finish,
    },
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Sequences that ended.
    pub sequences: u64,
    /// Tokens of their prompts that were computed.
    pub prompt_tokens: u64,
    /// Tokens that were written, stop tokens included.
    pub tokens: u64,
    /// Prefill submits.
    pub prefills: u64,
    /// Decode submits.
    pub submits: u64,
    /// From the first prefill to the first token of what it started, summed.
    pub prompt_time: Duration,
    /// The rest.
    pub decode_time: Duration,
    /// Tokens that came within `decode_time`.
    pub decode_tokens: u64,
}

impl Report {
    /// Prompt tokens a second.
    pub fn prompt_rate(&self) -> f64 {
        rate(self.prompt_tokens, self.prompt_time)
    }

    /// Written tokens a second, all sequences together.
    pub fn decode_rate(&self) -> f64 {
        rate(self.decode_tokens, self.decode_time)
    }
}

fn rate(count: u64, time: Duration) -> f64 {
    match time.as_secs_f64() {
        seconds if seconds > 0.0 => count as f64 / seconds,
        _ => 0.0,
    }
}
