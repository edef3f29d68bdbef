//! One forward as its caller sees it: inputs are written in place, then it is submitted, and its outputs are read in
//! place.
//!
//! In: names of tensors, the session whose parity says where they lie. Out: slices of mapped memory, in the type that
//! the plan gives the tensor. Always: a slice lies in what belongs to this parity, so nobody writes what the device
//! still reads.

use std::sync::Arc;
use std::time::Instant;

use super::{EntryId, Flight, RunError, Session, Ticket, names, stranger};
use crate::ids::TensorId;
use crate::plan::Entry;
use crate::vk::VkError;

/// A forward that is being prepared: its inputs can be written.
pub struct Slot<'s> {
    pub(super) session: &'s mut Session,
    pub(super) entry: EntryId,
    pub(super) again: bool,
}

impl Slot<'_> {
    /// Whether every input holds what the last forward of this entry at this parity had: no other entry was begun here
    /// since. What cannot have changed need not be written again.
    pub fn again(&self) -> bool {
        self.again
    }

    /// An input's elements. They hold what an earlier forward left there, see [`Slot::again`]; may be device memory, so
    /// write in order and do not read.
    pub fn input<T: bytemuck::Pod>(&mut self, name: &str) -> Result<&mut [T], RunError> {
        let parity = self.session.parity() as u64;
        let Session { plan, arenas, .. } = &mut *self.session;
        let entry = &plan.entries[self.entry.0];
        let id = tensor(entry, &entry.inputs, "input", name)?;
        let info = &entry.tensors[id];
        if info.dtype.bytes() != std::mem::size_of::<T>() as u64 {
            return Err(wrong_type::<T>(entry, id));
        }
        let bytes = arenas
            .bytes_mut(info.arena, info.range(parity))
            .ok_or_else(|| not_mapped(entry, id))?;
        bytemuck::try_cast_slice_mut(bytes).map_err(|_| wrong_type::<T>(entry, id))
    }

    /// Submits it.
    pub fn submit(self) -> Result<Ticket, RunError> {
        let parity = self.session.parity();
        let session = self.session;
        let plan = Arc::clone(&session.plan);
        let info = &plan.entries[self.entry.0];
        let _span = tracing::info_span!("submit", entry = info.name.as_str()).entered();
        #[cfg(feature = "tracy")]
        if let Some(zones) = &session.zones
            && zones.crowded(info, parity)
        {
            session.land(1 - parity)?;
        }
        let Some(prepared) = &session.prepared[self.entry.0] else {
            return Err(stranger(self.entry, &session.plan));
        };
        let segments = &prepared.recordings[parity].segments;
        let start = Instant::now();
        let submitted = session.timeline.submit(segments, &mut session.counters);
        let number = session.next;
        // Also after an error: some segments may be in flight, and the slot must not be used before they end.
        let value = session.timeline.submitted();
        session.flights[parity] = Some(Flight {
            number,
            entry: self.entry,
            value,
            start,
            landed: false,
        });
        submitted?;
        session.filled[parity] = Some(self.entry);
        #[cfg(feature = "tracy")]
        if let Some(zones) = &mut session.zones {
            zones.submitted(info, parity);
        }
        session.next += 1;
        Ok(Ticket {
            number,
            entry: self.entry,
        })
    }
}

/// The outputs of a finished forward, read in place.
pub struct Output<'s> {
    pub(super) session: &'s Session,
    pub(super) entry: EntryId,
    pub(super) parity: usize,
}

impl<'s> Output<'s> {
    /// An output's elements.
    pub fn tensor<T: bytemuck::Pod>(&self, name: &str) -> Result<&'s [T], RunError> {
        let entry = &self.session.plan.entries[self.entry.0];
        let id = tensor(entry, &entry.outputs, "output", name)?;
        let info = &entry.tensors[id];
        if info.dtype.bytes() != std::mem::size_of::<T>() as u64 {
            return Err(wrong_type::<T>(entry, id));
        }
        let bytes = self
            .session
            .arenas
            .bytes(info.arena, info.range(self.parity as u64))
            .ok_or_else(|| not_mapped(entry, id))?;
        bytemuck::try_cast_slice(bytes).map_err(|_| wrong_type::<T>(entry, id))
    }

    /// The index of the first element of an f32 output that is not finite.
    pub fn first_not_finite(&self, name: &str) -> Result<Option<usize>, RunError> {
        let values = self.tensor::<f32>(name)?;
        Ok(values.iter().position(|value| !value.is_finite()))
    }

    /// Nanoseconds from the start of the forward to each timestamp; empty unless [`Timing`](super::Timing) asked for
    /// them. The last one is the GPU time of the forward.
    pub fn timestamps(&self) -> Result<Vec<f64>, RunError> {
        let session = self.session;
        let (Some(prepared), Some(period)) = (
            &session.prepared[self.entry.0],
            session.device.timestamp_period,
        ) else {
            return Ok(Vec::new());
        };
        Ok(prepared.recordings[self.parity].timestamps(period)?)
    }
}

/// The tensor of that name among `list`.
fn tensor(
    entry: &Entry,
    list: &[TensorId],
    kind: &'static str,
    wanted: &str,
) -> Result<TensorId, RunError> {
    list.iter()
        .copied()
        .find(|id| entry.tensors[*id].name == wanted)
        .ok_or_else(|| RunError::NoTensor {
            entry: entry.name.clone(),
            kind,
            wanted: wanted.to_owned(),
            has: names(list.iter().map(|id| entry.tensors[*id].name.as_str())),
        })
}

fn wrong_type<T>(entry: &Entry, id: TensorId) -> RunError {
    let tensor = &entry.tensors[id];
    RunError::WrongType {
        name: tensor.name.clone(),
        dtype: tensor.dtype,
        bytes: tensor.dtype.bytes(),
        asked: std::mem::size_of::<T>(),
    }
}

fn not_mapped(entry: &Entry, id: TensorId) -> RunError {
    VkError::BadPlan(format!(
        "tensor `{}` of entry `{}` is not in mapped memory",
        entry.tensors[id].name, entry.name
    ))
    .into()
}
