//! How well a model foretells a text: the perplexity.
//!
//! In: the tokens of a text, cut into windows that know nothing of each other, and who computes the logits of a
//! chunk. Out: exp of the mean of -log p(token | the tokens before it in its window). The first token of a window has
//! nothing before it and is not counted. Sums are in f64, whatever the device computes in.

use super::embed::BoxError;
use super::generate::{Chunk, GenerateError};
use crate::plan::finite::NotFinite;

/// Computes logits; a session on a device, or a stand-in in tests.
pub trait Scorer {
    /// The tokens of a chunk, at most.
    fn size(&self) -> u32;
    /// Gives the logits after each token of the chunk to `take`, with the token's place in it.
    fn score(
        &mut self,
        chunk: &Chunk<'_>,
        take: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), BoxError>;
    /// Runs the chunk that was scored last again, and says where its first value comes from that is not finite.
    fn first_not_finite(&mut self, chunk: &Chunk<'_>) -> Result<Option<NotFinite>, BoxError>;
}

/// A sum over tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// Tokens that were foretold.
    pub tokens: u64,
    /// Of -log p, in nats.
    pub nats: f64,
}

impl Score {
    /// As many equally likely tokens would be as hard to foretell.
    pub fn perplexity(&self) -> f64 {
        (self.nats / self.tokens as f64).exp()
    }
}

/// The natural logarithm of the probability of `token`; `None` if it is no number.
pub fn log_probability(logits: &[f32], token: u32) -> Option<f64> {
    let own = f64::from(*logits.get(token as usize)?);
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|logit| (f64::from(*logit) - f64::from(top)).exp())
        .sum();
    let log = own - f64::from(top) - sum.ln();
    log.is_finite().then_some(log)
}

/// Scores `tokens` in windows of `window`; `progress` hears how many are done.
pub fn perplexity<S: Scorer>(
    scorer: &mut S,
    tokens: &[u32],
    window: usize,
    progress: &mut dyn FnMut(usize),
) -> Result<Score, GenerateError> {
    let mut score = Score::default();
    let size = scorer.size().max(1) as usize;
    for (part, start) in tokens
        .chunks(window.max(2))
        .zip((0..).step_by(window.max(2)))
    {
        // Nothing follows the last token.
        let asked = &part[..part.len() - 1];
        for (chunk, first) in asked.chunks(size).zip((0..).step_by(size)) {
            let chunk = Chunk {
                size: size as u32,
                slot: 0,
                first: first as u32,
                tokens: chunk,
            };
            let mut bad = None;
            scorer
                .score(&chunk, &mut |row, logits| {
                    let Some(next) = part.get(first + row + 1) else {
                        return;
                    };
                    match log_probability(logits, *next) {
                        Some(log) => {
                            score.tokens += 1;
                            score.nats -= log;
                        }
                        None => {
                            bad.get_or_insert(first + row);
                        }
                    }
                })
                .map_err(GenerateError::Run)?;
            if let Some(position) = bad {
                return Err(GenerateError::NotFinite {
                    sequence: 1,
                    position: (start + position) as u32,
                    // A failure here would hide the one that is being explained.
                    found: scorer.first_not_finite(&chunk).ok().flatten().map(Box::new),
                });
            }
            progress(start + first + chunk.tokens.len());
        }
    }
    Ok(score)
}

#[cfg(feature = "gpu")]
pub use device::SessionScorer;

#[cfg(feature = "gpu")]
mod device {
    use super::{BoxError, Chunk, NotFinite, Scorer};
    use crate::model::generate_runner::write_chunk;
    use crate::run::{EntryId, RunError, Session};

    /// The [`Scorer`] over a session whose plan has a score entry.
    pub struct SessionScorer {
        session: Session,
        entry: EntryId,
        size: u32,
        /// The entry's only output. A value that a block makes has the block's name before its own.
        output: String,
    }

    impl SessionScorer {
        /// Over the entry of that name, which takes `size` tokens.
        pub fn new(session: Session, entry: &str, size: u32) -> Result<Self, RunError> {
            let plan = session.plan();
            let planned = plan.entries.iter().find(|planned| planned.name == entry);
            let output = planned.and_then(|planned| {
                let id = planned.outputs.first()?;
                Some(planned.tensors[*id].name.clone())
            });
            let entry = session.entry(entry)?;
            Ok(Self {
                session,
                entry,
                size,
                output: output.unwrap_or_else(|| "logits".into()),
            })
        }
    }

    impl Scorer for SessionScorer {
        fn size(&self) -> u32 {
            self.size
        }

        fn score(
            &mut self,
            chunk: &Chunk<'_>,
            take: &mut dyn FnMut(usize, &[f32]),
        ) -> Result<(), BoxError> {
            let mut slot = self.session.begin(self.entry)?;
            write_chunk(&mut slot, chunk)?;
            let ticket = slot.submit()?;
            let output = self.session.wait(ticket)?;
            let logits = output.tensor::<f32>(&self.output)?;
            let vocabulary = logits.len() / self.size.max(1) as usize;
            let rows = logits
                .chunks_exact(vocabulary.max(1))
                .take(chunk.tokens.len());
            rows.enumerate().for_each(|(row, logits)| take(row, logits));
            Ok(())
        }

        fn first_not_finite(&mut self, chunk: &Chunk<'_>) -> Result<Option<NotFinite>, BoxError> {
            let mut slot = self.session.begin(self.entry)?;
            write_chunk(&mut slot, chunk)?;
            Ok(slot.probe()?)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    /// Foretells that each token is followed by itself with probability 1/2, among four; remembers positions.
    struct Same(Vec<(u32, usize)>);

    impl Scorer for Same {
        fn size(&self) -> u32 {
            3
        }
        fn score(
            &mut self,
            chunk: &Chunk<'_>,
            take: &mut dyn FnMut(usize, &[f32]),
        ) -> Result<(), BoxError> {
            self.0.push((chunk.first, chunk.tokens.len()));
            for (row, token) in chunk.tokens.iter().enumerate() {
                let mut logits = [7.0; 4];
                logits[*token as usize] += 3f32.ln();
                take(row, &logits);
            }
            Ok(())
        }
        fn first_not_finite(&mut self, _: &Chunk<'_>) -> Result<Option<NotFinite>, BoxError> {
            Ok(None)
        }
    }

    #[test]
    fn windows_chunks_and_the_mean() {
        let mut same = Same(vec![]);
        let tokens = [1, 1, 1, 1, 1, 2, 2];
        let score = perplexity(&mut same, &tokens, 5, &mut |_| {}).unwrap();
        assert_eq!(same.0, [(0, 3), (3, 1), (0, 1)]);
        // The windows are 11111 and 22: five tokens that follow themselves.
        assert_eq!(score.tokens, 5);
        assert!((score.perplexity() - 2.0).abs() < 1e-6, "{score:?}");
        let score = perplexity(&mut same, &[0, 1], 5, &mut |_| {}).unwrap();
        assert!((score.perplexity() - 6.0).abs() < 1e-5, "{score:?}");
    }

    #[test]
    fn logits_that_are_not_finite_are_found() {
        assert_eq!(log_probability(&[0.0, f32::NAN], 0), None);
        assert_eq!(log_probability(&[0.0, f32::INFINITY], 0), None);
        assert_eq!(
            log_probability(&[0.0], 1),
            None,
            "a token past the vocabulary"
        );
        assert_eq!(log_probability(&[3.0], 0), Some(0.0));
    }
}
