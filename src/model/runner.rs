//! Batches on a device: the [`Runner`] over a [`Session`].
//!
//! A plan of an embedding model takes the inputs `ids`, `positions` and `spans` (see [`lay_out`]; a model without
//! positions may lack them) and gives the output `embedding`, one row for each sequence.

use super::bucket::Bucket;
use super::embed::{BoxError, Runner};
use super::rows::lay_out;
use crate::plan::finite::NotFinite;
use crate::run::{RunError, Session, Slot, Ticket};

/// Runs batches on a session whose plan has an entry for each bucket.
pub struct SessionRunner {
    session: Session,
}

impl SessionRunner {
    /// Over a session that was opened.
    pub fn new(session: Session) -> Self {
        Self { session }
    }

    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// A forward of that bucket with its inputs written.
    fn laid_out(&mut self, bucket: Bucket, sequences: &[&[u32]]) -> Result<Slot<'_>, RunError> {
        let entry = self.session.entry(&bucket.to_string())?;
        let mut slot = self.session.begin(entry)?;
        // One input at a time: each borrows the slot. What the other two would hold goes nowhere.
        lay_out(bucket, sequences, slot.input("ids")?, &mut [], &mut []);
        // Positions are the bucket's, whatever the sequences are.
        if !slot.again()
            && let Ok(positions) = slot.input("positions")
        {
            lay_out(bucket, sequences, &mut [], positions, &mut []);
        }
        lay_out(bucket, sequences, &mut [], &mut [], slot.input("spans")?);
        Ok(slot)
    }
}

/// A forward in flight.
pub struct Flight {
    ticket: Ticket,
    batch: u32,
}

impl Runner for SessionRunner {
    type Ticket = Flight;

    fn submit(&mut self, bucket: Bucket, sequences: &[&[u32]]) -> Result<Flight, BoxError> {
        Ok(Flight {
            ticket: self.laid_out(bucket, sequences)?.submit()?,
            batch: bucket.batch,
        })
    }

    fn collect(
        &mut self,
        flight: Flight,
        rows: usize,
        take: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), BoxError> {
        let output = self.session.wait(flight.ticket)?;
        let embeddings = output.tensor::<f32>("embedding")?;
        let width = embeddings.len() / flight.batch.max(1) as usize;
        embeddings
            .chunks_exact(width.max(1))
            .take(rows)
            .enumerate()
            .for_each(|(row, one)| take(row, one));
        Ok(())
    }

    fn first_not_finite(
        &mut self,
        bucket: Bucket,
        sequence: &[u32],
    ) -> Result<Option<NotFinite>, BoxError> {
        Ok(self.laid_out(bucket, &[sequence])?.probe()?)
    }
}
