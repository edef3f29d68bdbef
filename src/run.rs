//! Running a plan. In: a [`Plan`], a source of weights, and per forward the input tensors. Out: the output
//! tensors.
//!
//! ```text
//!   begin -> Slot: write inputs in place -> submit -> Ticket -> wait -> Output: read in place
//! ```
//! A session owns the parity: forward n uses slot n mod 2 of every double-buffered tensor and the recording of
//! that parity. Two forwards can be in flight, so the host writes batch k + 1 while the device works on batch k.
//!
//! What always holds: after an entry was prepared (its first use, or [`Session::prepare`]) a forward allocates
//! nothing on the host or the device, updates no descriptor, records nothing and submits once per segment of
//! the plan. [`Session::counters`] shows it.

mod error;
mod forward;
mod options;
mod probe;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::plan::Plan;
use crate::vk::arena::{Arenas, WeightSource};
use crate::vk::bind::Sets;
use crate::vk::device::{Device, DeviceInfo, DeviceKind};
use crate::vk::instance::{Instance, Messages};
use crate::vk::pipeline::Pipelines;
use crate::vk::record::Recording;
use crate::vk::submit::{Patience, Timeline};
#[cfg(feature = "tracy")]
use crate::vk::zones::Zones;
use crate::vk::{Counters, VkError, fit};

pub use self::error::RunError;
pub use self::forward::{Output, Slot};
pub use self::options::SessionOptions;
pub use crate::vk::record::Timing;
#[cfg(feature = "tracy")]
pub use crate::vk::tracy::{self, Tracy, TracyError};

/// What opening a session is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Bytes of weights that are in place, of all.
    Weights {
        /// So far.
        done: u64,
        /// In the end.
        total: u64,
    },
    /// Pipelines that are compiled, of all.
    Pipelines {
        /// So far.
        done: u64,
        /// In the end.
        total: u64,
    },
}

/// An entry of the session's plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryId(usize);

/// A submitted forward.
#[must_use = "a forward's result is read through its ticket"]
#[derive(Debug)]
pub struct Ticket {
    number: u64,
    entry: EntryId,
}

/// A plan on a device, ready to run. Fields are dropped in this order.
pub struct Session {
    prepared: Vec<Option<Prepared>>,
    timeline: Timeline,
    #[cfg(feature = "tracy")]
    zones: Option<Zones>,
    pipelines: Pipelines,
    arenas: Arenas,
    device: Arc<Device>,
    plan: Arc<Plan>,
    options: SessionOptions,
    counters: Counters,
    notes: Vec<String>,
    /// Forwards begun so far; the next one has this number.
    next: u64,
    flights: [Option<Flight>; 2],
    /// By parity: the entry whose inputs lie there as its last forward had them. Entries may share that memory.
    filled: [Option<EntryId>; 2],
}

/// The last forward of a parity.
#[derive(Clone, Copy, Debug)]
struct Flight {
    number: u64,
    entry: EntryId,
    /// What the timeline reaches when it has ended.
    value: u64,
    /// When it was submitted.
    start: Instant,
    /// Whether its end was waited for.
    landed: bool,
}

/// The recordings of an entry at both parities, and what they use.
struct Prepared {
    recordings: [Recording; 2],
    /// How long the last forward took that was waited for to its end.
    lasted: Option<Duration>,
    sets: Sets,
}

impl Session {
    /// Opens a device, makes everything the plan needs on it and fills the weights.
    pub fn open(
        mut options: SessionOptions,
        plan: Arc<Plan>,
        weights: &mut dyn WeightSource,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, RunError> {
        plan.validate()
            .map_err(|error| VkError::BadPlan(error.to_string()))?;
        let device = tracing::info_span!("open device").in_scope(|| {
            let instance = Instance::new(options.validation, options.labels)?;
            let device = Device::open(&instance, options.device.as_deref())?;
            check(&plan, &device)?;
            Ok::<_, RunError>(device)
        })?;
        if device.info().kind == DeviceKind::Cpu {
            options.poll = Duration::ZERO;
        }
        let mut counters = Counters::default();
        let mut notes = Vec::new();
        let mut arenas = tracing::info_span!("make arenas")
            .in_scope(|| Arenas::new(&device, &plan, options.staged_weights, &mut counters))?;
        let span = tracing::info_span!("make pipelines").entered();
        let pipelines = Pipelines::new(
            &device,
            &plan,
            options.pipeline_cache.as_ref(),
            &mut |done, total| progress(Progress::Pipelines { done, total }),
            &mut counters,
            &mut notes,
        )?;
        drop(span);
        let span = tracing::info_span!("load weights").entered();
        arenas.load(
            &plan,
            weights,
            &mut |done, total| progress(Progress::Weights { done, total }),
            &mut counters,
            options.time_out,
        )?;
        drop(span);
        let session = Self {
            prepared: plan.entries.iter().map(|_| None).collect(),
            #[cfg(feature = "tracy")]
            zones: zones(&device, &options)?,
            timeline: Timeline::new(&device)?,
            pipelines,
            arenas,
            device,
            plan,
            options,
            counters,
            notes,
            next: 0,
            flights: [None, None],
            filled: [None, None],
        };
        session.check_messages()?;
        Ok(session)
    }

    /// The device it runs on.
    pub fn device(&self) -> &DeviceInfo {
        self.device.info()
    }

    /// The plan it runs.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What went wrong without stopping anything, for example a cache that could not be written.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What the validation layer says. The list outlives the session.
    pub fn messages(&self) -> Messages {
        self.device.instance.messages()
    }

    /// The entry of that name.
    pub fn entry(&self, name: &str) -> Result<EntryId, RunError> {
        let found = self
            .plan
            .entries
            .iter()
            .position(|entry| entry.name == name);
        found.map(EntryId).ok_or_else(|| RunError::NoEntry {
            wanted: name.to_owned(),
            has: names(self.plan.entries.iter().map(|entry| entry.name.as_str())),
        })
    }

    /// Makes the descriptor sets and recordings of `entry`, unless they exist.
    pub fn prepare(&mut self, entry: EntryId) -> Result<(), RunError> {
        let Some(slot) = self.prepared.get_mut(entry.0) else {
            return Err(stranger(entry, &self.plan));
        };
        if slot.is_some() {
            return Ok(());
        }
        let info = &self.plan.entries[entry.0];
        let _span = tracing::info_span!("record", entry = info.name.as_str()).entered();
        let timing = match self.device.timestamp_period {
            #[cfg(feature = "tracy")]
            Some(_) if self.zones.is_some() => Timing::Passes,
            Some(_) => self.options.timing,
            None => Timing::Off,
        };
        let counters = &mut self.counters;
        let sets = Sets::new(
            &self.device,
            info,
            &self.arenas,
            &self.pipelines,
            self.plan.relay,
            counters,
        )?;
        let mut record = |parity| {
            Recording::new(
                &self.device,
                info,
                parity,
                &sets,
                &self.pipelines,
                timing,
                counters,
            )
        };
        let recordings = [record(0)?, record(1)?];
        *slot = Some(Prepared {
            recordings,
            lasted: None,
            sets,
        });
        self.check_messages()
    }

    /// Changes what is measured; entries are recorded anew at their next use.
    pub fn set_timing(&mut self, timing: Timing) -> Result<(), RunError> {
        if timing != self.options.timing {
            self.land(0)?;
            self.land(1)?;
            self.idle()?;
            self.options.timing = timing;
            self.prepared.iter_mut().for_each(|slot| *slot = None);
        }
        Ok(())
    }

    /// An error if the device cannot say when a pass ended.
    pub fn need_timestamps(&self) -> Result<(), RunError> {
        match self.device.timestamp_period {
            Some(_) => Ok(()),
            None => Err(RunError::NoTimestamps {
                device: self.device().name.clone(),
            }),
        }
    }

    /// Changes how long a wait lasts before it is an error.
    pub fn set_time_out(&mut self, time_out: Duration) {
        self.options.time_out = time_out;
    }

    /// Waits for everything that was submitted.
    pub fn idle(&self) -> Result<(), RunError> {
        Ok(self.timeline.drain(self.options.time_out)?)
    }

    /// The next forward's slot. Waits for the forward before the last one, whose slot it takes over.
    pub fn begin(&mut self, entry: EntryId) -> Result<Slot<'_>, RunError> {
        self.prepare(entry)?;
        let parity = self.parity();
        self.land(parity)?;
        // Until it is submitted, nobody knows how much of its inputs was written.
        let again = self.filled[parity].take() == Some(entry);
        Ok(Slot {
            session: self,
            entry,
            again,
        })
    }

    fn parity(&self) -> usize {
        usize::from(self.next % 2 == 1)
    }

    /// Waits for a forward and gives its outputs, which stay until the second forward after it is begun.
    pub fn wait(&mut self, ticket: Ticket) -> Result<Output<'_>, RunError> {
        let parity = usize::from(ticket.number % 2 == 1);
        self.flights[parity]
            .filter(|flight| flight.number == ticket.number)
            .ok_or(RunError::Stale(ticket.number))?;
        self.land(parity)?;
        self.check_messages()?;
        Ok(Output {
            session: self,
            entry: ticket.entry,
            parity,
        })
    }

    /// Waits for the last forward of a parity, unless that was done before, and learns how long its entry takes.
    fn land(&mut self, parity: usize) -> Result<(), RunError> {
        let Some(flight) = self.flights[parity].filter(|flight| !flight.landed) else {
            return Ok(());
        };
        let _span = tracing::info_span!("wait").entered();
        let lasted = self.prepared[flight.entry.0]
            .as_ref()
            .and_then(|prepared| prepared.lasted);
        let patience = Patience::expecting(
            lasted,
            flight.start.elapsed(),
            self.options.poll,
            self.options.time_out,
        );
        if self.timeline.wait(flight.value, patience)?
            && let Some(prepared) = &mut self.prepared[flight.entry.0]
        {
            prepared.lasted = Some(flight.start.elapsed());
        }
        #[cfg(feature = "tracy")]
        if let (Some(zones), Some(prepared)) = (&mut self.zones, &self.prepared[flight.entry.0]) {
            zones.landed(parity, &prepared.recordings[parity].ticks()?);
        }
        self.flights[parity] = Some(Flight {
            landed: true,
            ..flight
        });
        Ok(())
    }

    /// An error if the validation layer said anything so far.
    fn check_messages(&self) -> Result<(), RunError> {
        if self.options.validation {
            let messages = self.messages();
            if !messages.is_empty() {
                return Err(VkError::Validation(messages.all()).into());
            }
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let idle = self.idle().is_ok();
        if !idle && !self.device_is_lost() {
            self.device.abandon();
        }
        // Nobody waited for these, and Tracy still wants their times.
        #[cfg(feature = "tracy")]
        for parity in [0, 1].into_iter().filter(|_| idle) {
            let _ = self.land(parity);
        }
    }
}

impl Session {
    /// After a loss the device's objects may be destroyed; after a time-out they may still be in use.
    fn device_is_lost(&self) -> bool {
        matches!(
            self.timeline.wait(
                self.timeline.submitted(),
                Patience::blocking(Duration::ZERO)
            ),
            Err(VkError::DeviceLost { .. })
        )
    }
}

/// The device's track in Tracy, if it is asked for.
#[cfg(feature = "tracy")]
fn zones(device: &Arc<Device>, options: &SessionOptions) -> Result<Option<Zones>, RunError> {
    let Some(tracy) = &options.tracy else {
        return Ok(None);
    };
    if device.timestamp_period.is_none() {
        return Err(RunError::NoTimestamps {
            device: device.info().name.clone(),
        });
    }
    Ok(Zones::new(device, tracy, options.time_out)?)
}

fn check(plan: &Plan, device: &Device) -> Result<(), VkError> {
    let info = device.info();
    let features = fit::missing(plan, &device.support.features, &info.name);
    if !features.is_empty() {
        return Err(VkError::MissingFeatures {
            device: info.name.clone(),
            profile: plan.profile.clone(),
            features,
        });
    }
    let problems = fit::limits(plan, &device.support.limits, &device.support.capabilities);
    if !problems.is_empty() {
        return Err(VkError::DoesNotFit {
            device: info.name.clone(),
            profile: plan.profile.clone(),
            problems,
        });
    }
    Ok(())
}

fn stranger(entry: EntryId, plan: &Plan) -> RunError {
    RunError::NoEntry {
        wanted: format!("number {}", entry.0),
        has: names(plan.entries.iter().map(|entry| entry.name.as_str())),
    }
}

fn names<'a>(all: impl Iterator<Item = &'a str>) -> String {
    let list: Vec<String> = all.map(|name| format!("`{name}`")).collect();
    if list.is_empty() {
        "none".into()
    } else {
        list.join(", ")
    }
}
