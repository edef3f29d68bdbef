//! Recording: a plan's entry at one parity becomes command buffers, one per segment between cuts.
//!
//! The recorder decides nothing. It walks the steps; what a barrier means in Vulkan stands in [`masks`] alone.
//! Recordings are compute-only: a queue that alternates copies and compute pays for it.

use std::ffi::CString;
use std::sync::Arc;

use ash::vk;

use super::Counters;
use super::bind::Sets;
use super::device::{Device, DeviceKind};
use super::error::VkError;
use super::pipeline::Pipelines;
use crate::ids::{Id as _, PassId};
use crate::plan::{Barrier, Entry, PassInfo, Step};

/// What is measured while a recording runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    /// Nothing: the recording has no query.
    Off,
    /// One timestamp at its start and one at its end.
    Ends,
    /// One more after every step of every round, so that each wave has its time. Slower than without.
    Steps,
    /// One at the start of the recording, one between each two waves and one at the end; the barriers are those of the
    /// plan.
    Waves,
    /// The same between each two passes, with a barrier before each pass that the plan lets run beside another, so that
    /// each has the device for itself.
    Passes,
}

/// Where the timestamp between two waves or passes is written.
///
/// A timestamp that waits for the work before it costs 1.1 to 1.4 us on the hardware that was measured (NVIDIA H200),
/// wherever around the barrier it stands: an eighth of a short pass. One that waits for nothing and stands right behind
/// the next dispatch costs nothing that could be measured. It is written once that dispatch has begun, because the
/// barrier before the dispatch held the device's front end until the work before was done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Between {
    /// When the next one has begun.
    Beginnings,
    /// When the one before has ended: where a dispatch is over before the next command is looked at (lavapipe), so that
    /// its beginning cannot be told.
    Ends,
}

impl Between {
    fn on(device: &Device) -> Self {
        match device.info.kind {
            DeviceKind::Cpu => Self::Ends,
            _ => Self::Beginnings,
        }
    }
}

/// The command buffers of one entry at one parity.
pub(crate) struct Recording {
    /// One per segment.
    pub(crate) segments: Vec<vk::CommandBuffer>,
    pub(crate) queries: vk::QueryPool,
    pub(crate) query_count: u32,
    pool: vk::CommandPool,
    device: Arc<Device>,
}

/// Source and destination stages and accesses of each kind of barrier, on a device that decides by guards or on one that
/// cannot and runs every pass. As narrow as they can be: on the hardware
/// that was measured, wider stages double the cost of a dependent pass.
fn masks(barrier: Barrier, conditional: bool) -> vk::MemoryBarrier2<'static> {
    let from =
        vk::MemoryBarrier2::default().src_stage_mask(vk::PipelineStageFlags2::COMPUTE_SHADER);
    match barrier {
        Barrier::Guard if conditional => {
            let stages = vk::PipelineStageFlags2::COMPUTE_SHADER
                | vk::PipelineStageFlags2::CONDITIONAL_RENDERING_EXT;
            masks(Barrier::Memory, conditional)
                .src_stage_mask(stages)
                .dst_stage_mask(stages)
                .dst_access_mask(
                    vk::AccessFlags2::SHADER_STORAGE_READ
                        | vk::AccessFlags2::SHADER_STORAGE_WRITE
                        | vk::AccessFlags2::CONDITIONAL_RENDERING_READ_EXT,
                )
        }
        Barrier::Memory | Barrier::Guard | Barrier::Relay => from
            .src_access_mask(vk::AccessFlags2::SHADER_STORAGE_WRITE)
            .dst_stage_mask(vk::PipelineStageFlags2::COMPUTE_SHADER)
            .dst_access_mask(
                vk::AccessFlags2::SHADER_STORAGE_READ | vk::AccessFlags2::SHADER_STORAGE_WRITE,
            ),
        Barrier::Execution => from.dst_stage_mask(vk::PipelineStageFlags2::COMPUTE_SHADER),
        Barrier::Host => from
            .src_access_mask(vk::AccessFlags2::SHADER_STORAGE_WRITE)
            .dst_stage_mask(vk::PipelineStageFlags2::HOST)
            .dst_access_mask(vk::AccessFlags2::HOST_READ),
    }
}

impl Recording {
    pub(crate) fn new(
        device: &Arc<Device>,
        entry: &Entry,
        parity: usize,
        sets: &Sets,
        pipelines: &Pipelines,
        timing: Timing,
        counters: &mut Counters,
    ) -> Result<Self, VkError> {
        let failed = |result| VkError::call(format!("recording `{}`", entry.name), result);
        let raw = &device.raw;
        let info = vk::CommandPoolCreateInfo::default().queue_family_index(device.family);
        let mut recording = Self {
            segments: Vec::new(),
            queries: vk::QueryPool::null(),
            query_count: 0,
            // SAFETY: the device is alive.
            pool: unsafe { raw.create_command_pool(&info, None) }.map_err(failed)?,
            device: Arc::clone(device),
        };
        let cuts = entry.recording().filter(|step| **step == Step::Cut).count();
        let info = vk::CommandBufferAllocateInfo::default()
            .command_pool(recording.pool)
            .command_buffer_count(u32::try_from(cuts + 1).unwrap_or(u32::MAX));
        // SAFETY: the pool was just made.
        recording.segments = unsafe { raw.allocate_command_buffers(&info) }.map_err(failed)?;
        recording.query_count = match timing {
            Timing::Off => 0,
            Timing::Ends => 2,
            // Not all of them are written by `Waves` and `Passes`; what was written is counted below.
            Timing::Steps | Timing::Waves | Timing::Passes => {
                u32::try_from(entry.recording().count() + 2).unwrap_or(u32::MAX)
            }
        };
        if recording.query_count > 0 {
            let info = vk::QueryPoolCreateInfo::default()
                .query_type(vk::QueryType::TIMESTAMP)
                .query_count(recording.query_count);
            // SAFETY: the queue has timestamps; the caller looked.
            recording.queries = unsafe { raw.create_query_pool(&info, None) }.map_err(failed)?;
        }
        let mut walk = Walk {
            device,
            entry,
            parity,
            sets,
            pipelines,
            bound: vk::Pipeline::null(),
            queries: recording.queries,
            next_query: 0,
            timing,
            between: Between::on(device),
            begun: false,
            open: false,
            guard: device.conditional.as_ref().zip(sets.guard),
            guarding: false,
        };
        let mut steps = entry.recording();
        let count = recording.segments.len();
        for (index, commands) in recording.segments.iter().enumerate() {
            // SAFETY: the buffer is new.
            unsafe { raw.begin_command_buffer(*commands, &Default::default()) }.map_err(failed)?;
            if index == 0 && recording.query_count > 0 {
                // SAFETY: recording outside a render pass; the range is the whole pool.
                unsafe {
                    raw.cmd_reset_query_pool(
                        *commands,
                        recording.queries,
                        0,
                        recording.query_count,
                    );
                }
                walk.timestamp(*commands);
            }
            walk.segment(*commands, &mut steps);
            if index + 1 == count && walk.stamps_end() {
                walk.timestamp(*commands);
            }
            // SAFETY: the buffer is recording.
            unsafe { raw.end_command_buffer(*commands) }.map_err(failed)?;
            counters.recordings += 1;
        }
        recording.query_count = walk.next_query;
        Ok(recording)
    }

    /// The timestamps in nanoseconds since the first; the submit has completed.
    pub(crate) fn timestamps(&self, period: f64) -> Result<Vec<f64>, VkError> {
        let ticks = self.ticks()?;
        let Some(first) = ticks.first() else {
            return Ok(Vec::new());
        };
        Ok(ticks
            .iter()
            .map(|tick| (tick.wrapping_sub(*first) & self.device.timestamp_mask) as f64 * period)
            .collect())
    }

    /// The timestamps as the device wrote them; the submit has completed.
    pub(crate) fn ticks(&self) -> Result<Vec<u64>, VkError> {
        let mut ticks = vec![0u64; self.query_count as usize];
        if ticks.is_empty() {
            return Ok(ticks);
        }
        // SAFETY: the pool is alive and its queries were written by a completed submit.
        unsafe {
            self.device.raw.get_query_pool_results(
                self.queries,
                0,
                &mut ticks,
                vk::QueryResultFlags::TYPE_64,
            )
        }
        .map_err(|result| VkError::call("reading timestamps", result))?;
        Ok(ticks)
    }
}

/// Where the recorder is.
struct Walk<'a> {
    device: &'a Device,
    entry: &'a Entry,
    parity: usize,
    sets: &'a Sets,
    pipelines: &'a Pipelines,
    bound: vk::Pipeline,
    queries: vk::QueryPool,
    next_query: u32,
    timing: Timing,
    between: Between,
    /// What leaves out guarded passes, and by which number.
    guard: Option<(
        &'a ash::ext::conditional_rendering::Device,
        (vk::Buffer, u64),
    )>,
    /// Whether what is recorded now may be left out.
    guarding: bool,
    /// Whether a pass was recorded.
    begun: bool,
    /// Whether passes were recorded since the last barrier or cut.
    open: bool,
}

impl Walk<'_> {
    /// Records steps up to the next cut.
    fn segment<'a>(
        &mut self,
        commands: vk::CommandBuffer,
        steps: &mut impl Iterator<Item = &'a Step>,
    ) {
        self.bound = vk::Pipeline::null();
        for step in steps {
            if *step == Step::Cut {
                self.guarding(commands, false);
                self.end_wave(commands);
                if self.timing == Timing::Steps {
                    self.timestamp(commands);
                }
                return;
            }
            match step {
                Step::Dispatch(pass) => {
                    if self.timing == Timing::Passes && self.open {
                        self.barrier(commands, Barrier::Memory);
                    }
                    self.dispatch(commands, *pass);
                    self.begin(commands);
                }
                Step::Barrier(barrier) => {
                    self.end_wave(commands);
                    if *barrier != Barrier::Relay || self.parts_relays() {
                        self.barrier(commands, *barrier);
                    }
                }
                Step::Cut => {}
            }
            if self.timing == Timing::Steps {
                self.timestamp(commands);
            }
        }
        self.guarding(commands, false);
        self.end_wave(commands);
    }

    /// Whether passes that wait for each other in their own code have a barrier between them all the same: where each is
    /// timed by itself, where the validation layer looks, which knows barriers alone, and on a CPU, which has nothing to
    /// gain by waiting in a loop.
    fn parts_relays(&self) -> bool {
        !matches!(self.timing, Timing::Off | Timing::Ends)
            || self.device.instance.validates
            || self.device.info.kind == DeviceKind::Cpu
    }

    /// From here on what is recorded is left out where the guard is 0, or no longer.
    fn guarding(&mut self, commands: vk::CommandBuffer, wanted: bool) {
        let Some((conditional, (buffer, offset))) = self.guard else {
            return;
        };
        if wanted == self.guarding {
            return;
        }
        self.guarding = wanted;
        let info = vk::ConditionalRenderingBeginInfoEXT::default()
            .buffer(buffer)
            .offset(offset);
        // SAFETY: recording; the buffer was made for it, and begin and end take turns within a command buffer.
        unsafe {
            if wanted {
                (conditional.fp().cmd_begin_conditional_rendering_ext)(commands, &info);
            } else {
                (conditional.fp().cmd_end_conditional_rendering_ext)(commands);
            }
        }
    }

    /// A pass was recorded.
    fn begin(&mut self, commands: vk::CommandBuffer) {
        let parted = self.timing == Timing::Passes || (self.timing == Timing::Waves && !self.open);
        match self.between {
            // The timestamp at the start of the recording is that of the first.
            Between::Beginnings if parted && self.begun => {
                self.timestamp_at(commands, vk::PipelineStageFlags2::TOP_OF_PIPE);
            }
            Between::Ends if self.timing == Timing::Passes => self.timestamp(commands),
            _ => {}
        }
        self.begun = true;
        self.open = true;
    }

    /// The passes since the last barrier or cut were a wave.
    fn end_wave(&mut self, commands: vk::CommandBuffer) {
        let parted = self.timing == Timing::Waves && self.between == Between::Ends;
        if parted && self.open {
            self.timestamp(commands);
        }
        self.open = false;
    }

    /// Whether a timestamp is still to come when all steps are recorded.
    fn stamps_end(&self) -> bool {
        match self.timing {
            Timing::Off => false,
            Timing::Ends | Timing::Steps => true,
            Timing::Waves | Timing::Passes => self.between == Between::Beginnings,
        }
    }

    fn dispatch(&mut self, commands: vk::CommandBuffer, id: PassId) {
        let pass = &self.entry.passes[id];
        self.guarding(commands, pass.guarded);
        let pipeline = self.pipelines.get(pass.kernel);
        let raw = &self.device.raw;
        self.begin_label(commands, pass, id);
        let mut relay = pass.relay;
        if self.parts_relays() {
            // The barrier has waited.
            relay.waits = None;
        }
        // SAFETY: recording; all objects live as long as the recording, and sizes were checked (`fit`).
        unsafe {
            if self.bound != pipeline.raw {
                raw.cmd_bind_pipeline(commands, vk::PipelineBindPoint::COMPUTE, pipeline.raw);
                self.bound = pipeline.raw;
            }
            raw.cmd_bind_descriptor_sets(
                commands,
                vk::PipelineBindPoint::COMPUTE,
                pipeline.layout,
                0,
                &[self.sets.get(self.parity, id)],
                &[],
            );
            pipeline.push(raw, commands, &pass.push, &relay);
            let [x, y, z] = pass.groups;
            raw.cmd_dispatch(commands, x, y, z);
            if let Some(labels) = &self.device.labels {
                labels.cmd_end_debug_utils_label(commands);
            }
        }
    }

    /// GPU debuggers and the validation layer name the pass and the line of the graph file.
    fn begin_label(&self, commands: vk::CommandBuffer, pass: &PassInfo, id: PassId) {
        let Some(labels) = &self.device.labels else {
            return;
        };
        let (file, line, _) = &pass.source;
        let text = format!("{} {} ({file}:{line})", id.index(), pass.path);
        let text = CString::new(text).unwrap_or_default();
        let label = vk::DebugUtilsLabelEXT::default().label_name(&text);
        // SAFETY: recording; the text outlives the call.
        unsafe { labels.cmd_begin_debug_utils_label(commands, &label) };
    }

    fn barrier(&self, commands: vk::CommandBuffer, barrier: Barrier) {
        let memory = [masks(barrier, self.device.conditional.is_some())];
        let dependency = vk::DependencyInfo::default().memory_barriers(&memory);
        // SAFETY: recording, with synchronization2 enabled.
        unsafe { self.device.raw.cmd_pipeline_barrier2(commands, &dependency) };
    }

    /// Written when all work before it has ended.
    fn timestamp(&mut self, commands: vk::CommandBuffer) {
        self.timestamp_at(commands, vk::PipelineStageFlags2::COMPUTE_SHADER);
    }

    /// Written when all work before it has got past that stage.
    fn timestamp_at(&mut self, commands: vk::CommandBuffer, stage: vk::PipelineStageFlags2) {
        // SAFETY: recording; every query is written once.
        unsafe {
            self.device
                .raw
                .cmd_write_timestamp2(commands, stage, self.queries, self.next_query);
        }
        self.next_query += 1;
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if self.device.is_abandoned() {
            return;
        }
        // SAFETY: the session waited for every submit; destroying the pool frees its buffers.
        unsafe {
            self.device.raw.destroy_query_pool(self.queries, None);
            self.device.raw.destroy_command_pool(self.pool, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn barriers_are_as_narrow_as_they_can_be() {
        type Stage = vk::PipelineStageFlags2;
        type Access = vk::AccessFlags2;
        let read_write = Access::SHADER_STORAGE_READ | Access::SHADER_STORAGE_WRITE;
        // barrier               destination stage     source access                 destination access
        for (barrier, stage, from, to) in [
            (
                Barrier::Memory,
                Stage::COMPUTE_SHADER,
                Access::SHADER_STORAGE_WRITE,
                read_write,
            ),
            (
                Barrier::Guard,
                Stage::COMPUTE_SHADER,
                Access::SHADER_STORAGE_WRITE,
                read_write,
            ),
            (
                Barrier::Execution,
                Stage::COMPUTE_SHADER,
                Access::NONE,
                Access::NONE,
            ),
            (
                Barrier::Host,
                Stage::HOST,
                Access::SHADER_STORAGE_WRITE,
                Access::HOST_READ,
            ),
        ] {
            let made = masks(barrier, false);
            assert_eq!(made.src_stage_mask, Stage::COMPUTE_SHADER, "{barrier:?}");
            assert_eq!(made.dst_stage_mask, stage, "{barrier:?}");
            assert_eq!(made.src_access_mask, from, "{barrier:?}");
            assert_eq!(made.dst_access_mask, to, "{barrier:?}");
        }
        let made = masks(Barrier::Guard, true);
        let stages = Stage::COMPUTE_SHADER | Stage::CONDITIONAL_RENDERING_EXT;
        assert_eq!((made.src_stage_mask, made.dst_stage_mask), (stages, stages));
        assert_eq!(
            (made.src_access_mask, made.dst_access_mask),
            (
                Access::SHADER_STORAGE_WRITE,
                read_write | Access::CONDITIONAL_RENDERING_READ_EXT
            )
        );
    }
}
