//! Submitting and waiting. One timeline semaphore counts the segments that the queue has finished; each segment
//! of a forward waits for the one before.
//!
//! Waiting sleeps through most of a long forward, asks again and again around its end, and then blocks: see
//! [`Patience`]. All waiting has a time-out; whether the queue is idle is asked only behind that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ash::vk;

use super::Counters;
use super::device::Device;
use super::error::VkError;

/// The shortest nap of a host that sleeps through a forward, and the longest: what it lasted the last time may have been
/// many times as much.
const NAPS: [Duration; 2] = [Duration::from_micros(50), Duration::from_millis(1)];

/// How to wait. On the hardware that was measured, a host that polls learns of the end of a forward about 14 us
/// after it, one that blocks 33 to 40 us after it, so the end is polled for. A long forward is slept through up to
/// some time before its end, in naps that grow shorter. That time is not short: a core that has slept writes the next
/// inputs and submits several times slower for a while after (54 us instead of 12 behind a forward of 24 ms with 2 ms
/// of polling before its end, 47 us behind one of 44 ms with 25 ms of it). One that takes much longer than expected is
/// blocked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patience {
    /// First sleep for this long.
    sleep: Duration,
    /// Then poll for this long.
    poll: Duration,
    /// Then block until so much time has passed in all.
    time_out: Duration,
}

impl Patience {
    /// Blocks at once.
    pub(crate) fn blocking(time_out: Duration) -> Self {
        Self {
            sleep: Duration::ZERO,
            poll: Duration::ZERO,
            time_out,
        }
    }

    /// For a forward that was submitted `ago` and `lasted` so long the last time, if it ran before. Polls at most
    /// `limit` long.
    pub(crate) fn expecting(
        lasted: Option<Duration>,
        ago: Duration,
        limit: Duration,
        time_out: Duration,
    ) -> Self {
        let lasted = lasted.unwrap_or(limit / 2);
        // Half the polling lies before the expected end and half after it.
        let sleep = lasted.saturating_sub(limit / 2).saturating_sub(ago);
        Self {
            sleep: if limit.is_zero() {
                limit
            } else {
                sleep.min(time_out)
            },
            poll: (lasted * 2).min(limit),
            time_out,
        }
    }
}

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

    /// Waits until the queue has reached `value`. True if it had to wait, so that now is when it was reached.
    pub(crate) fn wait(&self, value: u64, patience: Patience) -> Result<bool, VkError> {
        let start = Instant::now();
        if self.reached()? >= value {
            return Ok(false);
        }
        let mut left = patience.sleep;
        while left > Duration::ZERO {
            std::thread::sleep(left.min((left / 8).clamp(NAPS[0], NAPS[1])));
            if self.reached()? >= value {
                return Ok(true);
            }
            left = patience.sleep.saturating_sub(start.elapsed());
        }
        let polling = Instant::now();
        while polling.elapsed() < patience.poll {
            if self.reached()? >= value {
                return Ok(true);
            }
            // Not a yield: coming back from one can take longer than a small forward.
            std::hint::spin_loop();
        }
        let left = patience.time_out.saturating_sub(start.elapsed());
        if self.block(value, left)? {
            return Ok(true);
        }
        Err(VkError::TimeOut {
            doing: "waiting for a forward".into(),
            waited: start.elapsed(),
        })
    }

    /// Waits until nothing of what was submitted is in use any more, so that it may be destroyed.
    ///
    /// By the specification a reached value is enough. Lavapipe (Mesa 22.3) reaches it before its queue's thread has
    /// let go of the submit, and crashes if the semaphore or the commands are destroyed in between; so the queue
    /// itself is asked as well, which by then takes no time that matters.
    pub(crate) fn drain(&self, time_out: Duration) -> Result<(), VkError> {
        self.wait(self.submitted, Patience::blocking(time_out))?;
        // SAFETY: one thread owns the session and with it the queue.
        unsafe { self.device.raw.queue_wait_idle(self.device.queue) }
            .map_err(|result| VkError::call("waiting for the queue", result))
    }

    /// Blocks for at most `time`; false if the value was not reached.
    fn block(&self, value: u64, time: Duration) -> Result<bool, VkError> {
        let semaphores = [self.semaphore];
        let values = [value];
        let info = vk::SemaphoreWaitInfo::default()
            .semaphores(&semaphores)
            .values(&values);
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2);
        // SAFETY: the semaphore is alive.
        match unsafe { self.device.raw.wait_semaphores(&info, nanos) } {
            Ok(()) => Ok(true),
            Err(vk::Result::TIMEOUT) => Ok(false),
            Err(result) => Err(VkError::call("waiting for a forward", result)),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_forward_is_polled_for() {
        let ms = Duration::from_millis;
        // lasted, submitted ago, most polling -> sleep, poll
        for (lasted, ago, limit, sleep, poll) in [
            (None, 0, 4, 0, 4),
            (Some(1), 0, 4, 0, 2),
            (Some(3), 0, 4, 1, 4),
            (Some(50), 0, 4, 48, 4),
            (Some(50), 30, 4, 18, 4),
            (Some(50), 60, 4, 0, 4),
            (Some(50), 0, 0, 0, 0),
        ] {
            let made = Patience::expecting(lasted.map(ms), ms(ago), ms(limit), ms(1000));
            let (sleep, poll, time_out) = (ms(sleep), ms(poll), ms(1000));
            let wanted = Patience {
                sleep,
                poll,
                time_out,
            };
            assert_eq!(made, wanted, "{lasted:?} {ago} {limit}");
        }
    }
}
