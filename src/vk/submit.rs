//! Submitting and waiting. One timeline semaphore counts the segments that the queue has finished; each segment
//! of a forward waits for the one before.
//!
//! Waiting polls briefly and then blocks: a blocking wait costs tens of microseconds to wake up, which is more
//! than a small forward takes. It never blocks without a time-out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ash::vk;

use super::Counters;
use super::device::Device;
use super::error::VkError;

/// The queue's progress.
pub(crate) struct Timeline {
    semaphore: vk::Semaphore,
    /// The value of the last segment that was submitted.
    submitted: u64,
    device: Arc<Device>,
}

impl Timeline {
    pub(crate) fn new(device: &Arc<Device>) -> Result<Self, VkError> {
        let mut kind =
            vk::SemaphoreTypeCreateInfo::default().semaphore_type(vk::SemaphoreType::TIMELINE);
        let info = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
        // SAFETY: the device is alive.
        let semaphore = unsafe { device.raw.create_semaphore(&info, None) }
            .map_err(|result| VkError::call("making the timeline semaphore", result))?;
        Ok(Self {
            semaphore,
            submitted: 0,
            device: Arc::clone(device),
        })
    }

    /// Submits the segments in order. No allocation.
    pub(crate) fn submit(
        &mut self,
        segments: &[vk::CommandBuffer],
        counters: &mut Counters,
    ) -> Result<(), VkError> {
        for (index, commands) in segments.iter().enumerate() {
            let at = |value: u64, stage| {
                [vk::SemaphoreSubmitInfo::default()
                    .semaphore(self.semaphore)
                    .value(value)
                    .stage_mask(stage)]
            };
            let waits = at(self.submitted, vk::PipelineStageFlags2::COMPUTE_SHADER);
            // All commands: the barrier that shows results to the host ends in a later stage than compute.
            let signals = at(self.submitted + 1, vk::PipelineStageFlags2::ALL_COMMANDS);
            let buffers = [vk::CommandBufferSubmitInfo::default().command_buffer(*commands)];
            let mut info = vk::SubmitInfo2::default()
                .command_buffer_infos(&buffers)
                .signal_semaphore_infos(&signals);
            // The first segment needs no wait: the barriers at its start already order it after what the queue
            // did before.
            if index > 0 {
                info = info.wait_semaphore_infos(&waits);
            }
            // SAFETY: the buffers are recorded and not in flight (the session's parity).
            unsafe {
                self.device
                    .raw
                    .queue_submit2(self.device.queue, &[info], vk::Fence::null())
            }
            .map_err(|result| VkError::call("submitting a forward", result))?;
            self.submitted += 1;
            counters.submits += 1;
        }
        Ok(())
    }

    /// The value of the last submitted segment.
    pub(crate) fn submitted(&self) -> u64 {
        self.submitted
    }

    fn reached(&self) -> Result<u64, VkError> {
        // SAFETY: the semaphore is alive.
        unsafe { self.device.raw.get_semaphore_counter_value(self.semaphore) }
            .map_err(|result| VkError::call("waiting for a forward", result))
    }

    /// Waits until the queue has reached `value`: `poll` long by asking, then blocking until `time_out`.
    pub(crate) fn wait(
        &self,
        value: u64,
        poll: Duration,
        time_out: Duration,
    ) -> Result<(), VkError> {
        let start = Instant::now();
        loop {
            if self.reached()? >= value {
                return Ok(());
            }
            if start.elapsed() >= poll {
                break;
            }
            std::hint::spin_loop();
        }
        let semaphores = [self.semaphore];
        let values = [value];
        let info = vk::SemaphoreWaitInfo::default()
            .semaphores(&semaphores)
            .values(&values);
        let nanos = u64::try_from(time_out.as_nanos()).unwrap_or(u64::MAX / 2);
        // SAFETY: the semaphore is alive.
        unsafe { self.device.raw.wait_semaphores(&info, nanos) }.map_err(|result| match result {
            vk::Result::TIMEOUT => VkError::TimeOut {
                doing: "waiting for a forward".into(),
                waited: start.elapsed(),
            },
            result => VkError::call("waiting for a forward", result),
        })
    }
}

impl Drop for Timeline {
    fn drop(&mut self) {
        if self.device.is_abandoned() {
            return;
        }
        // SAFETY: the session waited for every submit.
        unsafe { self.device.raw.destroy_semaphore(self.semaphore, None) };
    }
}
