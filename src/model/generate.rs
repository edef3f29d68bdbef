//! Prompts to continuations: which tokens run in which entry, and when a sequence ends.
//!
//! ```text
//!   prompt[..n-1] -> prefill chunks (fill the cache) ┐
//!   prompt[n-1] ────> decode: K steps a submit ──────┴> K tokens ─> sink;  the next submit is already running
//! ```
//! In: sequences of token ids, and a [`Runner`] with a batch of rows. Out: the tokens of each sequence as they come,
//! how each ended, and a [`Report`]. What always holds: the host knows every position beforehand, only tokens come
//! back; at most two submits are in flight; a row that is done gets the next sequence; greedy tokens do not depend
//! on K, on the batch or on the chunks.
//!
//! A row of the batch owns the cache slot of its number. A row without a sequence is dead: its limit is 0.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::replay::{Replay, prefills};
pub use super::sequence::*;

/// Submits in flight.
const IN_FLIGHT: usize = 2;

/// The tail of a prompt takes one entry of up to so many rows rather than several smaller ones: on a GPU a step of 32
/// rows takes less than twice as long as one of four (`BENCHMARKS.md`, 8B with 4 and 32 streams).
const FEW_ROWS: u32 = 32;

/// Cuts `count` tokens into the sizes of prefill entries: as large as fits, and at the end the next larger one if
/// at least three quarters of it are used or it has few rows, else the smallest.
pub fn chunks(count: usize, sizes: &[u32]) -> Vec<u32> {
    let mut left = count;
    let mut cut = vec![];
    while left > 0 {
        let full = sizes
            .iter()
            .copied()
            .filter(|size| *size as usize <= left)
            .max();
        let over = sizes
            .iter()
            .copied()
            .filter(|size| *size as usize > left)
            .min();
        let size = match (full, over) {
            (Some(full), _) if full as usize == left => full,
            (Some(_), Some(over)) if over <= FEW_ROWS || left * 4 >= over as usize * 3 => over,
            (Some(full), _) => full,
            (None, Some(over)) => over,
            (None, None) => return cut,
        };
        cut.push(size);
        left = left.saturating_sub(size as usize);
    }
    cut
}

/// Checks that every sequence can be continued in a context of `context` positions.
pub fn check(sequences: &[Sequence], context: u32) -> Result<(), GenerateError> {
    for (sequence, number) in sequences.iter().zip(1..) {
        let tokens = sequence.prompt.len();
        if tokens == 0 {
            return Err(GenerateError::Empty { sequence: number });
        }
        if tokens >= context as usize {
            return Err(GenerateError::TooLong {
                sequence: number,
                tokens,
                context,
            });
        }
    }
    Ok(())
}

/// Continues every sequence. `stops` end one wherever they stand among the device's; `interrupted` ends all at the
/// next result.
pub fn generate<R: Runner>(
    runner: &mut R,
    shape: &Shape,
    sequences: &[Sequence],
    stops: &[u32],
    interrupted: &AtomicBool,
    sink: &mut dyn FnMut(Event) -> std::io::Result<()>,
) -> Result<Report, GenerateError> {
    check(sequences, shape.context)?;
    let mut device_stops = [NONE; DEVICE_STOPS];
    device_stops
        .iter_mut()
        .zip(stops)
        .for_each(|(slot, stop)| *slot = *stop);
    let mut work = Work {
        runner,
        shape,
        sequences,
        stops,
        device_stops,
        rows: (0..shape.batch).map(|_| None).collect(),
        next: 0,
        in_flight: VecDeque::with_capacity(IN_FLIGHT),
        sink,
        report: Report::default(),
        clock: Instant::now(),
        prompting: true,
    };
    let result = work.run(interrupted);
    // Nothing may stay in flight, also after an error.
    while let Some(flight) = work.in_flight.pop_front() {
        let _ = work.runner.collect(flight.ticket);
    }
    match result {
        Ok(()) => Ok(work.report),
        Err(error) => Err(work.explained(error)),
    }
}

/// A sequence in a row.
struct Running {
    sequence: usize,
    /// The position of the token that the next submit starts with.
    position: u32,
    limit: u32,
    /// Whether no submit has started it yet.
    fresh: bool,
    /// Tokens that came.
    tokens: Vec<u32>,
}

/// A decode submit and what was expected of it: for each row the sequence, its first position and its limit.
struct Flight<T> {
    ticket: T,
    rows: Vec<Option<(usize, u32, u32)>>,
}

struct Work<'w, R: Runner> {
    runner: &'w mut R,
    shape: &'w Shape,
    sequences: &'w [Sequence],
    stops: &'w [u32],
    device_stops: [u32; DEVICE_STOPS],
    rows: Vec<Option<Running>>,
    next: usize,
    in_flight: VecDeque<Flight<R::Ticket>>,
    sink: &'w mut dyn FnMut(Event) -> std::io::Result<()>,
    report: Report,
    clock: Instant,
    /// Whether the time since `clock` belongs to prompts.
    prompting: bool,
}

impl<R: Runner> Work<'_, R> {
    fn run(&mut self, interrupted: &AtomicBool) -> Result<(), GenerateError> {
        loop {
            if interrupted.load(Ordering::Relaxed) {
                return self.interrupt();
            }
            self.fill()?;
            while self.in_flight.len() < IN_FLIGHT && self.wants_submit() {
                self.submit()?;
            }
            if !self.collect()? {
                return Ok(());
            }
        }
    }

    /// Puts the next sequences into free rows. A prefill pushes the results of earlier submits out of their double
    /// buffer, so those are collected first, which may free more rows.
    fn fill(&mut self) -> Result<(), GenerateError> {
        while self.next < self.sequences.len() && self.rows.iter().any(Option::is_none) {
            if self.collect()? {
                continue;
            }
            self.lap(true);
            for slot in 0..self.rows.len() {
                if self.rows[slot].is_none() && self.next < self.sequences.len() {
                    self.start(slot, self.next)?;
                    self.next += 1;
                }
            }
        }
        Ok(())
    }

    fn start(&mut self, slot: usize, sequence: usize) -> Result<(), GenerateError> {
        let wanted = &self.sequences[sequence];
        // The last token of the prompt is the first that a decode step takes.
        let last = wanted.prompt.len().saturating_sub(1);
        let past = &wanted.prompt[..last];
        for chunk in prefills(slot as u32, past, wanted.cached, &self.shape.chunks) {
            self.runner.prefill(&chunk).map_err(GenerateError::Run)?;
            self.report.prefills += 1;
        }
        let position = last as u32;
        self.rows[slot] = Some(Running {
            sequence,
            position,
            limit: position
                .saturating_add(wanted.max_tokens.max(1))
                .min(self.shape.context),
            fresh: true,
            tokens: vec![],
        });
        self.report.prompt_tokens += (wanted.prompt.len() - wanted.cached.min(last)) as u64;
        Ok(())
    }

    /// Whether some row has a position left that no submit covers.
    fn wants_submit(&self) -> bool {
        self.rows
            .iter()
            .flatten()
            .any(|row| row.position < row.limit)
    }

    fn submit(&mut self) -> Result<(), GenerateError> {
        let mut rows = vec![];
        let mut expected = vec![];
        for running in &mut self.rows {
            let Some(running) = running else {
                rows.push(Row::DEAD);
                expected.push(None);
                continue;
            };
            let wanted = &self.sequences[running.sequence];
            rows.push(Row {
                id: wanted.prompt.last().copied().unwrap_or_default(),
                position: running.position,
                fresh: running.fresh,
                limit: running.limit,
                sampling: wanted.sampling,
            });
            expected.push(Some((running.sequence, running.position, running.limit)));
            running.fresh = false;
            running.position = running.position.saturating_add(self.shape.steps);
        }
        let ticket = self
            .runner
            .decode(&rows, &self.device_stops)
            .map_err(GenerateError::Run)?;
        self.report.submits += 1;
        self.in_flight.push_back(Flight {
            ticket,
            rows: expected,
        });
        Ok(())
    }

    /// Takes the tokens of the oldest submit; false if there is none.
    fn collect(&mut self) -> Result<bool, GenerateError> {
        let Some(flight) = self.in_flight.pop_front() else {
            return Ok(false);
        };
        let tokens = self
            .runner
            .collect(flight.ticket)
            .map_err(GenerateError::Run)?;
        let before = self.report.tokens;
        let steps = self.shape.steps as usize;
        for (slot, (expected, tokens)) in flight
            .rows
            .iter()
            .zip(tokens.chunks(steps.max(1)))
            .enumerate()
        {
            if let Some((sequence, position, limit)) = *expected {
                self.take(slot, sequence, position, limit, tokens)?;
            }
        }
        if self.prompting {
            self.lap(false);
        } else {
            self.report.decode_tokens += self.report.tokens - before;
        }
        // So that a caller who stops here has times that add up.
        self.lap(self.prompting);
        Ok(true)
    }

    /// The tokens of one row of a submit.
    fn take(
        &mut self,
        slot: usize,
        sequence: usize,
        first: u32,
        limit: u32,
        tokens: &[u32],
    ) -> Result<(), GenerateError> {
        for (token, position) in tokens.iter().zip(first..) {
            // The sequence may have ended in an earlier submit or step: then this row was dead.
            let Some(running) = self.rows[slot]
                .as_mut()
                .filter(|running| running.sequence == sequence)
            else {
                return Ok(());
            };
            if position >= limit {
                return Ok(());
            }
            let number = sequence + 1;
            let unexpected = |expected| GenerateError::Device {
                sequence: number,
                token: *token,
                expected,
            };
            match *token {
                NONE => return Err(unexpected("a token")),
                NOT_FINITE => {
                    return Err(GenerateError::NotFinite {
                        sequence: number,
                        position,
                        found: None,
                    });
                }
                _ => {}
            }
            running.tokens.push(*token);
            self.report.tokens += 1;
            let finish = if self.stops.contains(token) {
                Some(Finish::Stop)
            } else {
                (self.sink)(Event::Token {
                    sequence,
                    id: *token,
                })?;
                let enough = running.tokens.len() >= self.sequences[sequence].max_tokens as usize;
                match position + 1 >= limit {
                    true if enough => Some(Finish::MaxTokens),
                    true => Some(Finish::ContextFull),
                    false => None,
                }
            };
            if let Some(finish) = finish {
                self.finish(slot, sequence, finish)?;
            }
        }
        Ok(())
    }

    /// The error with the pass that is to blame, where running the sequence again finds one.
    fn explained(&mut self, mut error: GenerateError) -> GenerateError {
        let GenerateError::NotFinite {
            sequence, found, ..
        } = &mut error
        else {
            return error;
        };
        let at = *sequence - 1;
        let rows = self.rows.iter().zip(0..);
        let mut running = rows.filter_map(|(row, slot)| Some((row.as_ref()?, slot)));
        let Some((running, slot)) = running.find(|(row, _)| row.sequence == at) else {
            return error;
        };
        let wanted = &self.sequences[at];
        let replay = Replay {
            slot,
            batch: self.shape.batch,
            chunks: &self.shape.chunks,
            tokens: &[&wanted.prompt[..], &running.tokens].concat(),
            prompt: wanted.prompt.len(),
            sampling: wanted.sampling,
        };
        // A failure here would hide the one that is being explained.
        *found = self
            .runner
            .first_not_finite(&replay)
            .ok()
            .flatten()
            .map(Box::new);
        error
    }

    fn finish(
        &mut self,
        slot: usize,
        sequence: usize,
        finish: Finish,
    ) -> Result<(), GenerateError> {
        self.rows[slot] = None;
        self.report.sequences += 1;
        Ok((self.sink)(Event::Finished { sequence, finish })?)
    }

    /// Ends every sequence that runs; what was computed for them so far was given out.
    fn interrupt(&mut self) -> Result<(), GenerateError> {
        while self.collect()? {}
        for slot in 0..self.rows.len() {
            if let Some(sequence) = self.rows[slot].as_ref().map(|running| running.sequence) {
                self.finish(slot, sequence, Finish::Interrupted)?;
            }
        }
        Ok(())
    }

    /// Books the time since the last lap and says what the next one belongs to.
    fn lap(&mut self, prompting: bool) {
        let lap = std::mem::replace(&mut self.clock, Instant::now()).elapsed();
        if self.prompting {
            self.report.prompt_time += lap;
        } else {
            self.report.decode_time += lap;
        }
        self.prompting = prompting;
    }
}

#[cfg(test)]
#[path = "generate_tests.rs"]
mod tests;
