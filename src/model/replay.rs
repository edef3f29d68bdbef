//! How the tokens of a sequence reach the device: the chunks of its prompt, and all of it once more when something
//! went wrong.

use super::generate::{Chunk, Row, Sampling, chunks};

/// The chunks that put `tokens` into the cache of a slot, of which it holds `cached` already.
pub fn prefills<'t>(
    slot: u32,
    tokens: &'t [u32],
    cached: usize,
    sizes: &[u32],
) -> impl Iterator<Item = Chunk<'t>> {
    let mut first = cached.min(tokens.len());
    let cut = chunks(tokens.len() - first, sizes);
    cut.into_iter().map(move |size| {
        let end = tokens.len().min(first + size as usize);
        let chunk = Chunk {
            size,
            slot,
            first: first as u32,
            tokens: &tokens[first..end],
        };
        first = end;
        chunk
    })
}

/// A sequence up to the token whose step failed.
#[derive(Clone, Debug)]
pub struct Replay<'r> {
    /// Its row and cache slot.
    pub slot: u32,
    /// Rows of a decode submit.
    pub batch: u32,
    /// Lengths of the prefill entries.
    pub chunks: &'r [u32],
    /// Its prompt and what was written; the last one failed.
    pub tokens: &'r [u32],
    /// How many of them were the prompt.
    pub prompt: usize,
    /// How tokens were chosen.
    pub sampling: Sampling,
}

impl Replay<'_> {
    /// What goes through prefill entries.
    pub fn prefills(&self) -> impl Iterator<Item = Chunk<'_>> {
        let last = self.prompt.min(self.tokens.len()).saturating_sub(1);
        prefills(self.slot, &self.tokens[..last], 0, self.chunks)
    }

    /// The rows of decode submits of one step each, in order; the last ones failed.
    pub fn decodes(&self) -> impl Iterator<Item = Vec<Row>> {
        let first = self.prompt.saturating_sub(1);
        let steps = self.tokens.iter().zip(0u32..).skip(first);
        steps.map(|(id, position)| {
            let mut rows = vec![Row::DEAD; self.batch as usize];
            if let Some(row) = rows.get_mut(self.slot as usize) {
                *row = Row {
                    id: *id,
                    position,
                    fresh: true,
                    limit: position.saturating_add(1),
                    sampling: self.sampling,
                };
            }
            rows
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_runs_again_as_it_ran_at_first() {
        let tokens: Vec<u32> = (100..109).collect();
        let replay = Replay {
            slot: 1,
            batch: 2,
            chunks: &[4, 2],
            tokens: &tokens,
            prompt: 7,
            sampling: Sampling::GREEDY,
        };
        let parts: Vec<_> = replay
            .prefills()
            .map(|chunk| (chunk.slot, chunk.size, chunk.first, chunk.tokens))
            .collect();
        assert_eq!(parts, [(1, 4, 0, &tokens[..4]), (1, 2, 4, &tokens[4..6])]);
        let steps: Vec<_> = replay
            .decodes()
            .map(|rows| (rows[0].limit, rows[1].id, rows[1].position, rows[1].limit))
            .collect();
        assert_eq!(steps, [(0, 106, 6, 7), (0, 107, 7, 8), (0, 108, 8, 9)]);
        // A cache that holds more than there is has nothing to do.
        assert_eq!(prefills(0, &tokens, 20, &[4]).count(), 0);
    }
}
