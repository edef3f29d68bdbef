//! A stream of texts to a stream of embeddings.
//!
//! ```text
//!   texts -> windows (tokenised on a thread) -> groups by length -> submit .. submit -> wait -> in input order
//!                                                                   \__ two in flight __/
//! ```
//! In: texts in any number. Out: one embedding for each, in input order, and a [`Report`]. What always holds: memory
//! is bounded by a window, whatever the stream's length; at most two batches are in flight, so tokenising and
//! writing batch k + 1 overlap the device's work on k; an embedding that is not finite is an error.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::bucket::{Bucket, Group, group};
use super::tokenizer::{Tokenizer, TokenizerError, Tokens};
use crate::codes::model as codes;
use crate::diag::Code;
use crate::dtype::DType;
use crate::plan::finite::NotFinite;

/// The first window is small, so that the first results come soon; each later one is twice as large, up to
/// [`LARGEST_WINDOW`]. Sorting by length needs many inputs to choose from.
const FIRST_WINDOW: usize = 64;
/// The most inputs of a window.
const LARGEST_WINDOW: usize = 1024;
/// The most bytes of text of a window, except that one text always has a place.
const WINDOW_BYTES: usize = 8 << 20;
/// Batches in flight, one per slot of the double-buffered inputs and outputs.
const IN_FLIGHT: usize = 2;

/// An error of the layer below or above, whatever it is.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a stream of texts stopped.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// Reading or tokenising a text.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The source of texts.
    #[error("{0}")]
    Source(#[source] BoxError),
    /// The device.
    #[error("{0}")]
    Run(#[source] BoxError),
    /// The taker of embeddings, for example a full disk.
    #[error("cannot write the embeddings: {0}")]
    Sink(#[from] std::io::Error),
    /// An embedding that would poison every similarity.
    #[error(
        "the embedding of input {input} holds {value} at index {index}{}",
        found.as_ref().map(|first| format!("\nthe first such value: {first}")).unwrap_or_default()
    )]
    NotFinite {
        /// Number of the input, from 1.
        input: u64,
        /// Where in the embedding.
        index: usize,
        /// NaN or an infinity.
        value: f32,
        /// What embedding the input again showed, if that was done and the fault came again.
        found: Option<Box<NotFinite>>,
    },
    /// A text is longer than every bucket.
    #[error("input {input} has {tokens} tokens, and no entry of the plan is that long")]
    NoBucket {
        /// Number of the input, from 1.
        input: u64,
        /// Its length.
        tokens: usize,
    },
}

impl EmbedError {
    /// Its diagnostic code, if it has one of its own.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Tokenizer(error) => Some(error.code()),
            Self::Source(_) => Some(codes::INPUT_LINE),
            Self::NotFinite { .. } => Some(codes::NOT_FINITE),
            Self::NoBucket { .. } => Some(codes::TOKEN_LIMIT),
            Self::Run(_) | Self::Sink(_) => None,
        }
    }

    /// What may help where the aliases of the graph have these types.
    pub fn advice(&self, dtypes: &BTreeMap<String, DType>) -> Option<&'static str> {
        let half = dtypes.values().any(|dtype| *dtype == DType::F16);
        match self {
            Self::NotFinite { .. } if half => {
                Some("with f16 an activation may have overflowed; try --dtype f32")
            }
            Self::NotFinite { .. } => Some(
                "f32 is not too narrow for a sound model: its weights or its configuration are not what they should be",
            ),
            _ => None,
        }
    }
}

/// Runs batches; a session on a device, or a stand-in in tests.
pub trait Runner {
    /// A batch in flight.
    type Ticket;
    /// Starts a batch: sequence i of `sequences` becomes row i of the result. There are never more than the
    /// bucket's, and none is longer than its rows.
    fn submit(&mut self, bucket: Bucket, sequences: &[&[u32]]) -> Result<Self::Ticket, BoxError>;
    /// Waits for a batch and gives its first `rows` embeddings, one after the other, to `take`.
    fn collect(
        &mut self,
        ticket: Self::Ticket,
        rows: usize,
        take: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), BoxError>;
    /// Runs a sequence whose embedding is not finite once more, and says where the first such value comes from. What
    /// is in flight is lost.
    fn first_not_finite(
        &mut self,
        bucket: Bucket,
        sequence: &[u32],
    ) -> Result<Option<NotFinite>, BoxError>;
}

/// A part of the stream, tokenised.
#[derive(Debug, Default)]
pub struct Window {
    /// Number of its first input, from 1.
    pub first: u64,
    /// The inputs in order.
    pub tokens: Vec<Tokens>,
    /// Whether the stream ends with it.
    pub last: bool,
}

impl Window {
    /// The lengths in tokens.
    pub fn lengths(&self) -> Vec<u32> {
        self.tokens
            .iter()
            .map(|tokens| u32::try_from(tokens.ids.len()).unwrap_or(u32::MAX))
            .collect()
    }
}

/// Reads texts and tokenises them window by window, each sent as soon as it is complete. Runs on a thread of its
/// own; the channel's bound keeps it from running ahead. Ends early, without an error, if nobody receives.
pub fn tokenize(
    tokenizer: &Tokenizer,
    texts: impl Iterator<Item = Result<String, BoxError>>,
    send: &mpsc::SyncSender<Result<Window, EmbedError>>,
) {
    let mut texts = texts;
    let mut first = 1;
    let mut size = FIRST_WINDOW;
    loop {
        let (batch, end) = match read_window(&mut texts, size) {
            // An empty window would say that the stream ended well.
            (batch, End::Failed(error)) if batch.is_empty() => {
                let _ = send.send(Err(EmbedError::Source(error)));
                return;
            }
            window => window,
        };
        let count = batch.len() as u64;
        let window = tokenizer.encode(&batch, first).map_err(EmbedError::from);
        let failed = window.is_err();
        let last = matches!(end, End::OfStream);
        if send
            .send(window.map(|tokens| Window {
                first,
                tokens,
                last,
            }))
            .is_err()
            || failed
            || last
        {
            return;
        }
        if let End::Failed(error) = end {
            // What came before the failure was sent; the receiver is told now, or has gone.
            let _ = send.send(Err(EmbedError::Source(error)));
            return;
        }
        first += count;
        size = (size * 2).min(LARGEST_WINDOW);
    }
}

/// Why a window is complete.
enum End {
    Full,
    OfStream,
    Failed(BoxError),
}

fn read_window(
    texts: &mut impl Iterator<Item = Result<String, BoxError>>,
    size: usize,
) -> (Vec<String>, End) {
    let mut window = vec![];
    let mut bytes = 0;
    while window.len() < size && bytes < WINDOW_BYTES {
        match texts.next() {
            None => return (window, End::OfStream),
            Some(Err(error)) => return (window, End::Failed(error)),
            Some(Ok(text)) => {
                bytes += text.len();
                window.push(text);
            }
        }
    }
    (window, End::Full)
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Texts embedded.
    pub inputs: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Texts that were cut at the limit.
    pub truncated: u64,
    /// Batches submitted.
    pub batches: u64,
    /// Rows computed, padding included.
    pub rows: u64,
    /// Time in which this thread had nothing to submit and waited for tokens.
    pub waited_for_tokens: Duration,
    /// Time in which it waited for the device.
    pub waited_for_device: Duration,
}

/// Embeds tokenised windows. `sink` gets each embedding in input order, numbered from 1; `per_submit` is what a
/// submit costs, in rows (see [`group`]).
pub fn embed<R: Runner>(
    runner: &mut R,
    buckets: &[Bucket],
    per_submit: u64,
    windows: impl Iterator<Item = Result<Window, EmbedError>>,
    sink: &mut dyn FnMut(u64, &[f32]) -> std::io::Result<()>,
) -> Result<Report, EmbedError> {
    let mut stream = Stream {
        runner,
        in_flight: VecDeque::with_capacity(IN_FLIGHT),
        done: BTreeMap::new(),
        next: 1,
        sink,
        report: Report::default(),
    };
    let mut windows = windows;
    loop {
        let waiting = Instant::now();
        let Some(window) = windows.next() else { break };
        stream.report.waited_for_tokens += waiting.elapsed();
        match window {
            Ok(window) => stream.run(&Rc::new(window), buckets, per_submit)?,
            Err(error) => {
                // What was submitted before the failure is complete and is still delivered.
                stream.drain()?;
                return Err(error);
            }
        }
    }
    stream.drain()?;
    Ok(stream.report)
}

/// A batch in flight.
struct Flight<T> {
    ticket: T,
    bucket: Bucket,
    window: Rc<Window>,
    /// Its inputs by their places in the window.
    inputs: Vec<usize>,
}

struct Stream<'s, R: Runner> {
    runner: &'s mut R,
    in_flight: VecDeque<Flight<R::Ticket>>,
    /// Embeddings that wait for an earlier input: at most a window's.
    done: BTreeMap<u64, Vec<f32>>,
    /// The input whose embedding is due.
    next: u64,
    sink: &'s mut dyn FnMut(u64, &[f32]) -> std::io::Result<()>,
    report: Report,
}

impl<R: Runner> Stream<'_, R> {
    fn run(
        &mut self,
        window: &Rc<Window>,
        buckets: &[Bucket],
        per_submit: u64,
    ) -> Result<(), EmbedError> {
        let groups =
            group(&window.lengths(), buckets, per_submit).ok_or_else(|| too_long(window))?;
        self.report.inputs += window.tokens.len() as u64;
        for tokens in &window.tokens {
            self.report.tokens += tokens.ids.len() as u64;
            self.report.truncated += u64::from(tokens.truncated);
        }
        groups
            .iter()
            .try_for_each(|group| self.submit(window, group))
    }

    fn submit(&mut self, window: &Rc<Window>, group: &Group) -> Result<(), EmbedError> {
        if self.in_flight.len() == IN_FLIGHT {
            self.collect_oldest()?;
        }
        let sequences: Vec<&[u32]> = group
            .inputs
            .iter()
            .map(|input| window.tokens[*input].ids.as_slice())
            .collect();
        let ticket = self
            .runner
            .submit(group.bucket, &sequences)
            .map_err(EmbedError::Run)?;
        self.in_flight.push_back(Flight {
            ticket,
            bucket: group.bucket,
            window: window.clone(),
            inputs: group.inputs.clone(),
        });
        self.report.batches += 1;
        self.report.rows += group.bucket.rows();
        Ok(())
    }

    fn drain(&mut self) -> Result<(), EmbedError> {
        while !self.in_flight.is_empty() {
            self.collect_oldest()?;
        }
        Ok(())
    }

    fn collect_oldest(&mut self) -> Result<(), EmbedError> {
        let Some(flight) = self.in_flight.pop_front() else {
            return Ok(());
        };
        let (window, inputs) = (&flight.window, &flight.inputs);
        let done = &mut self.done;
        let mut bad = None;
        let waiting = Instant::now();
        self.runner
            .collect(flight.ticket, inputs.len(), &mut |row, embedding| {
                let index = embedding.iter().position(|value| !value.is_finite());
                match (index, inputs.get(row)) {
                    (Some(index), Some(input)) => {
                        bad.get_or_insert((*input, index, embedding[index]));
                    }
                    (None, Some(input)) => {
                        done.insert(window.first + *input as u64, embedding.to_vec());
                    }
                    (_, None) => {}
                }
            })
            .map_err(EmbedError::Run)?;
        self.report.waited_for_device += waiting.elapsed();
        while let Some(embedding) = self.done.remove(&self.next) {
            (self.sink)(self.next, &embedding)?;
            self.next += 1;
        }
        let Some((input, index, value)) = bad else {
            return Ok(());
        };
        // A failure here would hide the one that is being explained.
        let again = self
            .runner
            .first_not_finite(flight.bucket, &window.tokens[input].ids);
        Err(EmbedError::NotFinite {
            input: window.first + input as u64,
            index,
            value,
            found: again.ok().flatten().map(Box::new),
        })
    }
}

/// That the longest text of `window` fits no bucket.
pub fn too_long(window: &Window) -> EmbedError {
    let longest = window
        .tokens
        .iter()
        .zip(window.first..)
        .max_by_key(|(tokens, _)| tokens.ids.len());
    let (tokens, input) = longest.map_or((0, window.first), |(tokens, input)| {
        (tokens.ids.len(), input)
    });
    EmbedError::NoBucket { input, tokens }
}

#[cfg(test)]
#[path = "embed_tests.rs"]
mod tests;
