//! A forward from inside: its first round again, pass by pass, and after each pass a look at what it wrote. For the
//! question which pass was the first to write NaN or infinity, once somebody has seen that one did.

use super::{RunError, Session, Slot, stranger};
use crate::ids::{PassId, TensorId};
use crate::plan::finite::{self, NotFinite};
use crate::plan::{Entry, Step};
use crate::vk::probe::Probe;

impl Session {
    /// Waits for all submits; then state and carries are zero, as before the first one.
    pub fn forget(&mut self) -> Result<(), RunError> {
        self.idle()?;
        Ok(self.arenas.forget(&self.plan, self.options.time_out)?)
    }
}

impl Slot<'_> {
    /// Runs the first round of the forward, one pass after the other in the order of the plan, up to the first one
    /// that writes a NaN or an infinity, and says which. Whatever the passes do to state stays done. Takes as many
    /// submits as there are passes and tensors that they write.
    ///
    /// Elements that a pass leaves alone count as zero, so nothing that lay there before is taken for its work.
    pub fn probe(self) -> Result<Option<NotFinite>, RunError> {
        let session = self.session;
        session.idle()?;
        let parity = session.parity();
        let entry = &session.plan.entries[self.entry.0];
        let Some(prepared) = &session.prepared[self.entry.0] else {
            return Err(stranger(self.entry, &session.plan));
        };
        let mut probe = Probe::new(
            &session.device,
            &mut session.arenas,
            &prepared.sets,
            &session.pipelines,
            session.options.time_out,
        )?;
        let mut found = None;
        for step in entry.parts().0 {
            if let Step::Dispatch(pass) = step
                && let Some((tensor, element)) = look(&mut probe, entry, *pass, parity)?
            {
                found = Some(NotFinite::new(
                    &session.plan,
                    entry,
                    (*pass, tensor),
                    element,
                ));
                break;
            }
        }
        drop(probe);
        // It was a forward, though nobody waits for its outputs.
        session.flights[parity] = None;
        session.next += 1;
        session.check_messages()?;
        Ok(found)
    }
}

type Found = (TensorId, (u64, f32));

/// Runs a pass and gives the first element that it made NaN or infinite.
fn look(
    probe: &mut Probe<'_>,
    entry: &Entry,
    pass: PassId,
    parity: usize,
) -> Result<Option<Found>, RunError> {
    let written = finite::written(entry, pass);
    let place = |tensor| {
        let tensor = &entry.tensors[tensor];
        (tensor.arena, tensor.range(parity as u64))
    };
    let zeroed: Vec<_> = written
        .iter()
        .filter(|written| written.whole)
        .map(|written| place(written.tensor))
        .collect();
    probe.run(entry, pass, parity, &zeroed)?;
    for written in written {
        let tensor = &entry.tensors[written.tensor];
        if !finite::may_fail(tensor.dtype) {
            continue;
        }
        let (arena, range) = place(written.tensor);
        let found = probe.read(arena, range, &mut |start, bytes| {
            finite::first(tensor, start, bytes)
        })?;
        if let Some(element) = found {
            return Ok(Some((written.tensor, element)));
        }
    }
    Ok(None)
}
