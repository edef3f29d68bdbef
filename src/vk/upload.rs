//! Commands that run once and are waited for, outside of forwards: filling weights, clearing state, reading back.

use std::sync::Arc;
use std::time::Duration;

use ash::vk;

use super::device::Device;
use super::error::VkError;

/// All that came before has ended, and all that follows sees it, the host as well.
pub(super) fn everything() -> vk::MemoryBarrier2<'static> {
    vk::MemoryBarrier2::default()
        .src_stage_mask(vk::PipelineStageFlags2::ALL_COMMANDS)
        .src_access_mask(vk::AccessFlags2::MEMORY_WRITE)
        .dst_stage_mask(vk::PipelineStageFlags2::ALL_COMMANDS | vk::PipelineStageFlags2::HOST)
        .dst_access_mask(vk::AccessFlags2::MEMORY_READ | vk::AccessFlags2::MEMORY_WRITE)
}

/// Commands that run once, each waited for, outside of forwards.
pub(super) struct Upload {
    /// For messages.
    doing: &'static str,
    pool: vk::CommandPool,
    commands: vk::CommandBuffer,
    fence: vk::Fence,
    device: Arc<Device>,
}

impl Upload {
    pub(super) fn new(device: &Arc<Device>, doing: &'static str) -> Result<Self, VkError> {
        let failed = |result| VkError::call(doing, result);
        let info = vk::CommandPoolCreateInfo::default()
            .queue_family_index(device.family)
            .flags(vk::CommandPoolCreateFlags::TRANSIENT);
        let mut upload = Self {
            doing,
            // SAFETY: the device is alive.
            pool: unsafe { device.raw.create_command_pool(&info, None) }.map_err(failed)?,
            commands: vk::CommandBuffer::null(),
            fence: vk::Fence::null(),
            device: Arc::clone(device),
        };
        let info = vk::CommandBufferAllocateInfo::default()
            .command_pool(upload.pool)
            .command_buffer_count(1);
        // SAFETY: the pool was just made; the fence needs nothing.
        unsafe {
            upload.commands = device
                .raw
                .allocate_command_buffers(&info)
                .map_err(failed)?
                .remove(0);
            upload.fence = device
                .raw
                .create_fence(&Default::default(), None)
                .map_err(failed)?;
        }
        Ok(upload)
    }

    pub(super) fn copy(
        &mut self,
        from: vk::Buffer,
        to: vk::Buffer,
        offset: u64,
        bytes: u64,
        time_out: Duration,
    ) -> Result<(), VkError> {
        let regions = [vk::BufferCopy {
            src_offset: 0,
            dst_offset: offset,
            size: bytes,
        }];
        self.run(time_out, |raw, commands| {
            // SAFETY: recording; both ranges lie in their buffers (`Plan::validate`).
            unsafe { raw.cmd_copy_buffer(commands, from, to, &regions) };
        })
    }

    pub(super) fn run(
        &mut self,
        time_out: Duration,
        record: impl FnOnce(&ash::Device, vk::CommandBuffer),
    ) -> Result<(), VkError> {
        let doing = self.doing;
        let raw = &self.device.raw;
        let begin = vk::CommandBufferBeginInfo::default()
            .flags(vk::CommandBufferUsageFlags::ONE_TIME_SUBMIT);
        let buffers = [vk::CommandBufferSubmitInfo::default().command_buffer(self.commands)];
        let submit = [vk::SubmitInfo2::default().command_buffer_infos(&buffers)];
        let nanos = u64::try_from(time_out.as_nanos()).unwrap_or(u64::MAX / 2);
        // SAFETY: the commands are not in flight: each run ends by waiting for its fence.
        unsafe {
            raw.reset_command_pool(self.pool, Default::default())
                .and_then(|()| raw.begin_command_buffer(self.commands, &begin))
                .map_err(|result| VkError::call(doing, result))?;
            let ended = [everything()];
            let dependency = vk::DependencyInfo::default().memory_barriers(&ended);
            raw.cmd_pipeline_barrier2(self.commands, &dependency);
            record(raw, self.commands);
            // Later submits see what was copied: this barrier's second scope is all that follows on the queue.
            let seen = [vk::MemoryBarrier2::default()
                .src_stage_mask(vk::PipelineStageFlags2::ALL_TRANSFER)
                .src_access_mask(vk::AccessFlags2::TRANSFER_WRITE)
                .dst_stage_mask(vk::PipelineStageFlags2::COMPUTE_SHADER)
                .dst_access_mask(
                    vk::AccessFlags2::SHADER_STORAGE_READ | vk::AccessFlags2::SHADER_STORAGE_WRITE,
                )];
            let dependency = vk::DependencyInfo::default().memory_barriers(&seen);
            raw.cmd_pipeline_barrier2(self.commands, &dependency);
            raw.end_command_buffer(self.commands)
                .and_then(|()| raw.reset_fences(&[self.fence]))
                .and_then(|()| raw.queue_submit2(self.device.queue, &submit, self.fence))
                .and_then(|()| raw.wait_for_fences(&[self.fence], true, nanos))
                .map_err(|result| match result {
                    vk::Result::TIMEOUT => {
                        self.device.abandon();
                        VkError::TimeOut {
                            doing: doing.into(),
                            waited: time_out,
                        }
                    }
                    result => VkError::call(doing, result),
                })
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.device.is_abandoned() {
            return;
        }
        // SAFETY: every run was waited for; the queue is asked as well for the reason that `Timeline::drain` gives, and
        // what it answers changes nothing here.
        unsafe {
            let _ = self.device.raw.queue_wait_idle(self.device.queue);
            self.device.raw.destroy_fence(self.fence, None);
            self.device.raw.destroy_command_pool(self.pool, None);
        }
    }
}
