//! Passes one by one: each is recorded, submitted and waited for by itself, and what it wrote is copied to the host
//! before another pass can take its bytes over. For looking at a plan from inside; a forward never comes here.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use ash::vk;

use super::arena::{Arenas, Memory, PIECE_BYTES};
use super::bind::Sets;
use super::device::Device;
use super::error::VkError;
use super::pipeline::Pipelines;
use super::upload::{Upload, everything};
use crate::ids::{ArenaId, PassId};
use crate::plan::{Entry, Relay};

/// Runs passes of one entry at one parity. Nothing may be in flight.
pub(crate) struct Probe<'a> {
    device: Arc<Device>,
    arenas: &'a mut Arenas,
    sets: &'a Sets,
    pipelines: &'a Pipelines,
    /// `None` only when it is destroyed.
    copy: Option<Memory>,
    upload: Upload,
    time_out: Duration,
}

impl<'a> Probe<'a> {
    pub(crate) fn new(
        device: &Arc<Device>,
        arenas: &'a mut Arenas,
        sets: &'a Sets,
        pipelines: &'a Pipelines,
        time_out: Duration,
    ) -> Result<Self, VkError> {
        Ok(Self {
            upload: Upload::new(device, "running a pass by itself")?,
            copy: Some(arenas.read_back()?),
            device: Arc::clone(device),
            arenas,
            sets,
            pipelines,
            time_out,
        })
    }

    /// Runs a pass. The ranges in `zeroed` are zero when it starts.
    pub(crate) fn run(
        &mut self,
        entry: &Entry,
        pass: PassId,
        parity: usize,
        zeroed: &[(ArenaId, Range<u64>)],
    ) -> Result<(), VkError> {
        let info = &entry.passes[pass];
        let pipeline = self.pipelines.get(info.kernel);
        let set = self.sets.get(parity, pass);
        let arenas = &*self.arenas;
        self.upload.run(self.time_out, |raw, commands| {
            let memory = [everything()];
            let dependency = vk::DependencyInfo::default().memory_barriers(&memory);
            // SAFETY: recording; all objects live as long as the session, nothing else is in flight, and the ranges
            // lie in their buffers (`Plan::validate`).
            unsafe {
                for (arena, range) in zeroed {
                    // Whole words: a last half that is left over is written by the pass.
                    let bytes = (range.end - range.start) / 4 * 4;
                    if bytes > 0 {
                        let buffer = arenas.buffer_of(*arena);
                        raw.cmd_fill_buffer(commands, buffer, range.start, bytes, 0);
                    }
                }
                raw.cmd_pipeline_barrier2(commands, &dependency);
                let point = vk::PipelineBindPoint::COMPUTE;
                raw.cmd_bind_pipeline(commands, point, pipeline.raw);
                raw.cmd_bind_descriptor_sets(commands, point, pipeline.layout, 0, &[set], &[]);
                // A submit of its own waits for nothing.
                pipeline.push(raw, commands, &info.push, &Relay::default());
                let [x, y, z] = info.groups;
                raw.cmd_dispatch(commands, x, y, z);
                raw.cmd_pipeline_barrier2(commands, &dependency);
            }
        })
    }

    /// Gives the bytes of a range to `take`, piece by piece, each with where it begins in the range; until `take`
    /// gives something.
    pub(crate) fn read<T>(
        &mut self,
        arena: ArenaId,
        range: Range<u64>,
        take: &mut dyn FnMut(u64, &[u8]) -> Option<T>,
    ) -> Result<Option<T>, VkError> {
        let lost = || VkError::Allocator {
            what: "what a pass wrote".into(),
            message: "it is not mapped".into(),
        };
        let copy = self.copy.as_ref().ok_or_else(lost)?;
        let from = self.arenas.buffer_of(arena);
        let mut start = range.start;
        while start < range.end {
            let size = PIECE_BYTES.min(range.end - start);
            let regions = [vk::BufferCopy {
                src_offset: start,
                dst_offset: 0,
                size,
            }];
            self.upload.run(self.time_out, |raw, commands| {
                let memory = [everything()];
                let dependency = vk::DependencyInfo::default().memory_barriers(&memory);
                // SAFETY: recording; both ranges lie in their buffers.
                unsafe {
                    raw.cmd_copy_buffer(commands, from, copy.buffer, &regions);
                    raw.cmd_pipeline_barrier2(commands, &dependency);
                }
            })?;
            let bytes = copy.read(0..size).ok_or_else(lost)?;
            if let Some(taken) = take(start - range.start, bytes) {
                return Ok(Some(taken));
            }
            start += size;
        }
        Ok(None)
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        if let Some(copy) = self.copy.take()
            && !self.device.is_abandoned()
        {
            self.arenas.free(copy);
        }
    }
}
