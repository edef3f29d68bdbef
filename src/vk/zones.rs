//! The passes of each forward as zones on a track in Tracy. In: an entry at each submit, the ticks of its recording
//! after the wait. Out: one zone a pass, named by the pass's path, with its place in the graph file as source.
//!
//! What always holds: zones are sent in the order in which the device runs the passes and do not overlap, because the
//! recording ([`Timing::Passes`](super::record::Timing)) runs one after another. A zone is a pair of query ids; a pair
//! is used again only after the ticks of both were sent. A forward that began before the viewer came has no zones.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use ash::{ext, khr, vk};
use tracy_client_sys as sys;

use super::device::Device;
use super::error::VkError;
use super::tracy::Tracy;
use super::upload::Upload;
use crate::plan::{Entry, Step};

/// Zones that there are ids for: two ids of 16 bits each.
const ALL: usize = 1 << 15;
/// Zones of a forward that leaves room for another one in flight.
const HALF: usize = ALL / 2;
/// The least time between two looks at both clocks: over shorter times their jitter counts for more than their drift.
const CALIBRATE_EVERY: Duration = Duration::from_millis(200);
/// Looks at both clocks, of which the one that took least is taken.
const LOOKS: usize = 4;

/// Numbers of tracks. Tracy counts them for the life of the process.
static TRACKS: AtomicU8 = AtomicU8::new(0);

/// A device's track.
pub(crate) struct Zones {
    context: u8,
    mask: u64,
    calibration: Option<Calibration>,
    /// Of each parity: the zones of the forward in flight whose ticks are not sent yet.
    open: [Option<Open>; 2],
    tracy: Tracy,
}

#[derive(Clone, Copy)]
struct Open {
    first: usize,
    zones: usize,
}

impl Zones {
    /// A track for `device`. None if there were 255 in this process already.
    pub(crate) fn new(
        device: &std::sync::Arc<Device>,
        tracy: &Tracy,
        time_out: Duration,
    ) -> Result<Option<Self>, VkError> {
        let next = |number: u8| number.checked_add(1);
        let Ok(context) = TRACKS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) else {
            return Ok(None);
        };
        let mask = device.timestamp_mask;
        let calibration = Calibration::new(device);
        let now = match &calibration {
            Some(calibration) => calibration.start.device,
            None => tick(device, time_out)?,
        };
        let name = &device.info.name;
        // SAFETY: the client runs (`tracy`), the number is new, the name is copied.
        unsafe {
            sys::___tracy_emit_gpu_new_context_serial(sys::___tracy_gpu_new_context_data {
                gpuTime: (now & mask).cast_signed(),
                period: device.timestamp_period.unwrap_or(1.0) as f32,
                context,
                // GpuContextCalibration: later looks at both clocks correct the drift between them.
                flags: u8::from(calibration.is_some()),
                type_: tracy_client::GpuContextType::Vulkan as u8,
            });
            sys::___tracy_emit_gpu_context_name_serial(sys::___tracy_gpu_context_name_data {
                context,
                name: name.as_ptr().cast(),
                len: u16::try_from(name.len()).unwrap_or(0),
            });
        }
        Ok(Some(Self {
            context,
            mask,
            calibration,
            open: [None, None],
            tracy: tracy.clone(),
        }))
    }

    /// Whether the ids of `entry` and of what is in flight at the other parity are too many.
    pub(crate) fn crowded(&self, entry: &Entry, parity: usize) -> bool {
        let wide = |open: &Open| open.zones > HALF;
        self.open[1 - parity].is_some_and(|other| passes(entry) > HALF || wide(&other))
    }

    /// The forward was submitted.
    pub(crate) fn submitted(&mut self, entry: &Entry, parity: usize) {
        if !self.tracy.is_connected() {
            // The next viewer knows nothing of what this one was told.
            if let Some(calibration) = &mut self.calibration {
                calibration.last = calibration.start.host;
            }
            self.open[parity] = None;
            return;
        }
        let all = passes(entry);
        let zones = all.min(ALL);
        if zones < all {
            tracing::warn!("only the first {zones} of {all} passes of a submit are shown");
        }
        let first = if all > HALF { 0 } else { parity * HALF };
        for (place, pass) in dispatches(entry).take(zones).enumerate() {
            let (file, line, _) = &pass.source;
            self.zone(first + place, &pass.path, file, *line);
        }
        self.open[parity] = Some(Open { first, zones });
    }

    /// The forward has ended with these timestamps: its start, and the end of each pass.
    pub(crate) fn landed(&mut self, parity: usize, ticks: &[u64]) {
        let Some(open) = self.open[parity].take() else {
            return;
        };
        for (place, pair) in ticks.windows(2).take(open.zones).enumerate() {
            for (id, tick) in ids(open.first + place).into_iter().zip(pair) {
                // SAFETY: the client runs.
                unsafe {
                    sys::___tracy_emit_gpu_time_serial(sys::___tracy_gpu_time_data {
                        gpuTime: (tick & self.mask).cast_signed(),
                        queryId: id,
                        context: self.context,
                    });
                }
            }
        }
        if let Some(calibration) = &mut self.calibration {
            calibration.correct(self.context, self.mask);
        }
    }

    /// A pass, with the file and the line of its source. Tracy copies the texts.
    fn zone(&self, place: usize, path: &str, file: &str, line: u32) {
        // Name and file share 64 KiB.
        let path = path.get(..path.len().min(4096)).unwrap_or("?");
        let file = file.get(..file.len().min(4096)).unwrap_or("?");
        let [begin, end] = ids(place);
        // SAFETY: the client runs; the texts are read as long as they are and copied.
        unsafe {
            let source = sys::___tracy_alloc_srcloc_name(
                line,
                file.as_ptr().cast(),
                file.len(),
                path.as_ptr().cast(),
                path.len(),
                path.as_ptr().cast(),
                path.len(),
                0,
            );
            sys::___tracy_emit_gpu_zone_begin_alloc_serial(sys::___tracy_gpu_zone_begin_data {
                srcloc: source,
                queryId: begin,
                context: self.context,
            });
            sys::___tracy_emit_gpu_zone_end_serial(sys::___tracy_gpu_zone_end_data {
                queryId: end,
                context: self.context,
            });
        }
    }
}

/// The query ids of a zone's begin and end.
fn ids(place: usize) -> [u16; 2] {
    [place * 2, place * 2 + 1].map(|id| u16::try_from(id).unwrap_or(u16::MAX))
}

/// The passes of a forward in the order of the recording, those of every round.
fn dispatches(entry: &Entry) -> impl Iterator<Item = &crate::plan::PassInfo> {
    entry.recording().filter_map(|step| match step {
        Step::Dispatch(pass) => entry.passes.get(*pass),
        _ => None,
    })
}

fn passes(entry: &Entry) -> usize {
    dispatches(entry).count()
}

/// The device's clock now, from a submit of its own: for devices whose clock the host cannot read.
fn tick(device: &std::sync::Arc<Device>, time_out: Duration) -> Result<u64, VkError> {
    let failed = |result| VkError::call("reading the device's clock", result);
    let info = vk::QueryPoolCreateInfo::default()
        .query_type(vk::QueryType::TIMESTAMP)
        .query_count(1);
    let mut ticks = [0u64];
    // SAFETY: the queue has timestamps (the session looked); the submit is waited for before the pool is read and
    // destroyed, and a pool that is lost to an error stays.
    unsafe {
        let pool = device.raw.create_query_pool(&info, None).map_err(failed)?;
        Upload::new(device, "reading the device's clock")?.run(time_out, |raw, commands| {
            raw.cmd_reset_query_pool(commands, pool, 0, 1);
            let stage = vk::PipelineStageFlags2::COMPUTE_SHADER;
            raw.cmd_write_timestamp2(commands, stage, pool, 0);
        })?;
        let flags = vk::QueryResultFlags::TYPE_64 | vk::QueryResultFlags::WAIT;
        let read = device
            .raw
            .get_query_pool_results(pool, 0, &mut ticks, flags);
        device.raw.destroy_query_pool(pool, None);
        read.map_err(failed)?;
    }
    Ok(ticks[0])
}

/// One moment on both clocks.
#[derive(Clone, Copy)]
struct Moment {
    device: u64,
    /// Nanoseconds.
    host: i64,
}

/// Device and host, looked at together.
struct Calibration {
    read: Reader,
    domain: vk::TimeDomainKHR,
    start: Moment,
    /// On the host's clock, the moment that the viewer was last told of.
    last: i64,
    next: Instant,
}

enum Reader {
    Khr(khr::calibrated_timestamps::Device),
    Ext(ext::calibrated_timestamps::Device),
}

impl Calibration {
    /// None if the device does not offer it with a clock of the host that counts nanoseconds.
    fn new(device: &Device) -> Option<Self> {
        let (entry, instance) = (&device.instance.entry, &device.instance.raw);
        let physical = device.physical;
        // SAFETY (for both calls): the extension was enabled.
        let (read, domains) = match device.support.calibrated()? {
            name if name == khr::calibrated_timestamps::NAME => {
                let of = khr::calibrated_timestamps::Instance::new(entry, instance);
                let domains =
                    unsafe { of.get_physical_device_calibrateable_time_domains(physical) };
                let read = khr::calibrated_timestamps::Device::new(instance, &device.raw);
                (Reader::Khr(read), domains.ok()?)
            }
            _ => {
                let of = ext::calibrated_timestamps::Instance::new(entry, instance);
                let domains =
                    unsafe { of.get_physical_device_calibrateable_time_domains(physical) };
                let read = ext::calibrated_timestamps::Device::new(instance, &device.raw);
                (Reader::Ext(read), domains.ok()?)
            }
        };
        let domain = [
            vk::TimeDomainKHR::CLOCK_MONOTONIC_RAW,
            vk::TimeDomainKHR::CLOCK_MONOTONIC,
        ]
        .into_iter()
        .find(|domain| domains.contains(domain))?;
        domains.contains(&vk::TimeDomainKHR::DEVICE).then_some(())?;
        let start = read.now(domain)?;
        Some(Self {
            read,
            domain,
            start,
            last: start.host,
            next: Instant::now() + CALIBRATE_EVERY,
        })
    }

    /// Tells the viewer how far both clocks went, from time to time.
    fn correct(&mut self, context: u8, mask: u64) {
        if Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + CALIBRATE_EVERY;
        let Some(now) = self.read.now(self.domain) else {
            return;
        };
        // SAFETY: the client runs.
        unsafe {
            sys::___tracy_emit_gpu_calibration_serial(sys::___tracy_gpu_calibration_data {
                gpuTime: (now.device & mask).cast_signed(),
                cpuDelta: now.host - self.last,
                context,
            });
        }
        self.last = now.host;
    }
}

impl Reader {
    fn now(&self, domain: vk::TimeDomainKHR) -> Option<Moment> {
        let infos = [vk::TimeDomainKHR::DEVICE, domain]
            .map(|domain| vk::CalibratedTimestampInfoKHR::default().time_domain(domain));
        // SAFETY: the extension is enabled and offers both domains.
        let look = || unsafe {
            match self {
                Reader::Khr(device) => device.get_calibrated_timestamps(&infos),
                Reader::Ext(device) => device.get_calibrated_timestamps(&infos),
            }
        };
        let looks = (0..LOOKS).filter_map(|_| look().ok());
        let (stamps, _) = looks.min_by_key(|(_, deviation)| *deviation)?;
        Some(Moment {
            device: stamps[0],
            host: stamps[1].cast_signed(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::unwrap_used)]
    fn a_submit_and_a_look_at_both_clocks_tell_the_same_time() {
        let instance = crate::vk::instance::Instance::new(false, false).unwrap();
        let wanted = std::env::var("GRAPHC_DEVICE").ok();
        let device = Device::open(&instance, wanted.as_deref()).unwrap();
        let time_out = Duration::from_secs(10);
        let before = tick(&device, time_out).unwrap();
        if let Some(calibration) = Calibration::new(&device) {
            let look = calibration.start.device;
            assert!(before < look && look < tick(&device, time_out).unwrap());
        }
    }

    #[test]
    fn two_forwards_in_flight_share_no_ids() {
        assert_eq!(ids(0), [0, 1]);
        assert_eq!(ids(HALF - 1), [32766, 32767]);
        assert_eq!(ids(HALF), [32768, 32769]);
        assert_eq!(ids(ALL - 1), [65534, 65535]);
    }
}
