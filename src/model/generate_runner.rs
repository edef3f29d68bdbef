//! Chunks and steps on a device: the [`Runner`] over a [`Session`].
//!
//! A plan of a language model has a decode entry and prefill entries. They take `ids`, `positions`, `slots`, `flow`,
//! `seeds`, `sampling` and `stops`, each as far as it reads them, and decode gives `tokens`: K for each row. The
//! cache and the progress of each slot stay on the device between submits.

use super::embed::BoxError;
use super::generate::{Chunk, DEVICE_STOPS, NONE, Row, Runner};
use super::replay::Replay;
use crate::plan::finite::NotFinite;
use crate::run::{EntryId, RunError, Session, Slot, Ticket};

/// Runs chunks and steps on a session.
pub struct GenerateRunner {
    session: Session,
    decode: EntryId,
    /// By length.
    prefill: Vec<(u32, EntryId)>,
}

impl GenerateRunner {
    /// Over a session whose plan has these entries, prefill ones with their lengths.
    pub fn new(
        session: Session,
        decode: &str,
        prefill: &[(u32, String)],
    ) -> Result<Self, RunError> {
        let decode = session.entry(decode)?;
        let prefill = prefill
            .iter()
            .map(|(size, name)| Ok((*size, session.entry(name)?)))
            .collect::<Result<_, RunError>>()?;
        Ok(Self {
            session,
            decode,
            prefill,
        })
    }

    /// Records every entry, so that the first submit takes no longer than the others.
    pub fn prepare(&mut self) -> Result<(), RunError> {
        self.session.prepare(self.decode)?;
        self.prefill
            .iter()
            .try_for_each(|(_, entry)| self.session.prepare(*entry))
    }

    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The slot of a prefill entry, with its inputs.
    fn chunk(&mut self, chunk: &Chunk<'_>) -> Result<Slot<'_>, RunError> {
        let entry = self.prefill.iter().find(|(size, _)| *size == chunk.size);
        let (_, entry) = entry.ok_or_else(|| RunError::NoEntry {
            wanted: format!("prefill of {}", chunk.size),
            has: format!(
                "{:?}",
                self.prefill
                    .iter()
                    .map(|(size, _)| size)
                    .collect::<Vec<_>>()
            ),
        })?;
        let mut slot = self.session.begin(*entry)?;
        write_chunk(&mut slot, chunk)?;
        Ok(slot)
    }

    /// The slot of the decode entry, with its inputs.
    fn step(&mut self, rows: &[Row], stops: &[u32; DEVICE_STOPS]) -> Result<Slot<'_>, RunError> {
        let mut slot = self.session.begin(self.decode)?;
        write(&mut slot, "ids", rows.iter().map(|row| row.id))?;
        write(&mut slot, "positions", rows.iter().map(|row| row.position))?;
        write(&mut slot, "slots", 0u32..)?;
        let flow = rows
            .iter()
            .flat_map(|row| [u32::from(row.fresh), row.limit]);
        write(&mut slot, "flow", flow)?;
        let seeds = rows.iter().map(|row| row.sampling.seed);
        write(
            &mut slot,
            "seeds",
            seeds.flat_map(|seed| [seed as u32, (seed >> 32) as u32]),
        )?;
        let sampling = rows.iter().flat_map(|row| {
            let how = row.sampling;
            [how.temperature, how.top_k as f32, how.top_p, 0.0]
        });
        write(&mut slot, "sampling", sampling)?;
        write(&mut slot, "stops", stops.iter().copied())?;
        Ok(slot)
    }
}

impl Runner for GenerateRunner {
    type Ticket = Ticket;

    fn prefill(&mut self, chunk: &Chunk<'_>) -> Result<(), BoxError> {
        // The device takes submits in order, so nobody waits for this one.
        let _ticket = self.chunk(chunk)?.submit()?;
        Ok(())
    }

    fn decode(&mut self, rows: &[Row], stops: &[u32; DEVICE_STOPS]) -> Result<Ticket, BoxError> {
        Ok(self.step(rows, stops)?.submit()?)
    }

    fn collect(&mut self, ticket: Ticket) -> Result<Vec<u32>, BoxError> {
        let output = self.session.wait(ticket)?;
        Ok(output.tensor::<u32>("tokens")?.to_vec())
    }

    /// Looks into the prompt, whose chunks have no scores, and into the step that failed. Steps before it gave finite
    /// scores and run as they are.
    fn first_not_finite(&mut self, replay: &Replay<'_>) -> Result<Option<NotFinite>, BoxError> {
        self.session.forget()?;
        for chunk in replay.prefills() {
            if let Some(found) = self.chunk(&chunk)?.probe()? {
                return Ok(Some(found));
            }
        }
        let mut steps = replay.decodes().peekable();
        while let Some(rows) = steps.next() {
            let slot = self.step(&rows, &[NONE; DEVICE_STOPS])?;
            if steps.peek().is_none() {
                return Ok(slot.probe()?);
            }
            let _ticket = slot.submit()?;
        }
        Ok(None)
    }
}

/// The inputs of a prefill or score entry.
pub(super) fn write_chunk(slot: &mut Slot<'_>, chunk: &Chunk<'_>) -> Result<(), RunError> {
    let dead = |value| std::iter::repeat(value);
    write(slot, "ids", chunk.tokens.iter().copied().chain(dead(0)))?;
    let positions = (chunk.first..).take(chunk.tokens.len());
    write(slot, "positions", positions.chain(dead(NONE)))?;
    write(slot, "slots", dead(chunk.slot))
}

/// Fills an input in order, because it may lie in device memory. An input that the entry does not read is absent.
pub(super) fn write<T: bytemuck::Pod>(
    slot: &mut Slot<'_>,
    name: &str,
    values: impl Iterator<Item = T>,
) -> Result<(), RunError> {
    match slot.input::<T>(name) {
        Ok(input) => {
            input
                .iter_mut()
                .zip(values)
                .for_each(|(element, value)| *element = value);
            Ok(())
        }
        Err(RunError::NoTensor { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
