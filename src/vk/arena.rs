//! Memory: one VkBuffer with its own allocation per arena of the plan, made once.
//!
//! Weights (but those that the plan puts into the host's), transients, state and carries lie in the device's memory;
//! where the host can map all of it, weights are written in place, otherwise through a staging buffer at load. Inputs
//! are mapped (in device memory where that is possible), outputs are mapped and host-cached. State and carries are zero
//! before the first submit.
//!
//! Always true: a mapped slice covers only a range that the device does not touch at that time; the session's
//! parity guarantees it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use ash::vk;
use ash::vk::Handle as _;
use gpu_allocator::vulkan::{
    Allocation, AllocationCreateDesc, AllocationScheme, Allocator, AllocatorCreateDesc,
};
use gpu_allocator::{AllocationError, AllocationSizes, MemoryLocation};

use super::Counters;
use super::device::Device;
use super::error::VkError;
use super::fit::weight_bytes;
use super::upload::Upload;
use crate::ids::{ArenaId, IdVec};
use crate::plan::place::{arena_word, memory_table};
use crate::plan::{Arena, ArenaKind, Plan, Weight};

/// Bytes that a weight is filled with at once: bounds the staging buffer and lets progress move.
pub(super) const PIECE_BYTES: u64 = 32 << 20;

/// Why a source has no bytes.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// Gives the packed bytes of each weight of a plan.
pub trait WeightSource {
    /// Writes the bytes of `weight`, the `index`-th of the plan, from its byte `start` on, over all of `into`.
    /// Pieces begin and end at whole elements. `into` may be device memory: write each byte once, in order, and read
    /// none.
    fn fill(
        &mut self,
        index: usize,
        weight: &Weight,
        start: u64,
        into: &mut [u8],
    ) -> Result<(), SourceError>;
}

impl<F> WeightSource for F
where
    F: FnMut(usize, &Weight, u64, &mut [u8]) -> Result<(), SourceError>,
{
    fn fill(
        &mut self,
        index: usize,
        weight: &Weight,
        start: u64,
        into: &mut [u8],
    ) -> Result<(), SourceError> {
        self(index, weight, start, into)
    }
}

/// All arenas of a session.
pub(crate) struct Arenas {
    items: IdVec<ArenaId, Memory>,
    /// Dropped by hand, before the device.
    allocator: Option<Allocator>,
    /// Whether weights in the device's memory are written in place; those in the host's always are.
    in_place: bool,
    device: Arc<Device>,
}

/// A buffer that fills its own allocation.
pub(super) struct Memory {
    pub(super) buffer: vk::Buffer,
    /// `None` only while it is made or destroyed.
    allocation: Option<Allocation>,
    bytes: u64,
}

impl Memory {
    /// The mapped place of a range; `None` if the memory is not mapped or too small.
    fn mapped(&self, range: Range<u64>) -> Option<(*mut u8, usize)> {
        let pointer = self.allocation.as_ref()?.mapped_ptr()?;
        if range.start > range.end || range.end > self.bytes {
            return None;
        }
        let start = usize::try_from(range.start).ok()?;
        let length = usize::try_from(range.end - range.start).ok()?;
        // SAFETY: the mapping covers the whole allocation, which is at least `bytes` long.
        Some((unsafe { pointer.as_ptr().cast::<u8>().add(start) }, length))
    }

    /// The bytes of a range, which the device does not touch at this time.
    pub(super) fn read(&self, range: Range<u64>) -> Option<&[u8]> {
        let (start, length) = self.mapped(range)?;
        // SAFETY: `mapped` gave a valid, mapped range; the caller waited for the device.
        Some(unsafe { std::slice::from_raw_parts(start, length) })
    }
}

impl Arenas {
    /// Makes the memory of every arena of `plan`; its limits were checked before. `staged`: do not write weights in
    /// place even where that is possible.
    pub(crate) fn new(
        device: &Arc<Device>,
        plan: &Plan,
        staged: bool,
        counters: &mut Counters,
    ) -> Result<Self, VkError> {
        let allocator = Allocator::new(&AllocatorCreateDesc {
            instance: device.instance.raw.clone(),
            device: device.raw.clone(),
            physical_device: device.physical,
            debug_settings: Default::default(),
            buffer_device_address: false,
            allocation_sizes: AllocationSizes::default(),
        })
        .map_err(|error| allocation_error(error, "the allocator".into(), plan, device))?;
        let mut arenas = Self {
            items: IdVec::new(),
            allocator: Some(allocator),
            in_place: device.info.memory_host_visible && !staged,
            device: Arc::clone(device),
        };
        for (id, arena) in plan.arenas.enumerate() {
            let name = format!("arena {} ({})", id.0, arena_word(arena.kind));
            arenas
                .make(arena, &name, counters)
                .map_err(|error| match error {
                    Failed::Allocation(error) => {
                        allocation_error(error, name.clone(), plan, device)
                    }
                    Failed::Call(error) => with_table(error, plan, device),
                })?;
        }
        Ok(arenas)
    }

    fn make(
        &mut self,
        arena: &Arena,
        name: &str,
        counters: &mut Counters,
    ) -> Result<ArenaId, Failed> {
        let location = match arena.kind {
            ArenaKind::Weight if self.in_place => MemoryLocation::CpuToGpu,
            ArenaKind::Weight | ArenaKind::Transient | ArenaKind::State | ArenaKind::Carry => {
                MemoryLocation::GpuOnly
            }
            ArenaKind::Input => MemoryLocation::CpuToGpu,
            // Cached memory of the host, which a discrete device reads without taking of its own.
            ArenaKind::Output | ArenaKind::HostWeight => MemoryLocation::GpuToCpu,
        };
        // Loading and probing copy; a forward does not.
        let mut usage = vk::BufferUsageFlags::STORAGE_BUFFER
            | vk::BufferUsageFlags::TRANSFER_DST
            | vk::BufferUsageFlags::TRANSFER_SRC;
        // Guards are state.
        if arena.kind == ArenaKind::State && self.device.conditional.is_some() {
            usage |= vk::BufferUsageFlags::CONDITIONAL_RENDERING_EXT;
        }
        let memory = self.buffer(arena.bytes, usage, location, name)?;
        // The allocator falls back to the host's memory, from where every forward would read weights over the bus.
        let properties = memory.allocation.as_ref().map(|a| a.memory_properties());
        let local =
            properties.is_some_and(|has| has.contains(vk::MemoryPropertyFlags::DEVICE_LOCAL));
        if arena.kind == ArenaKind::Weight && !local {
            self.free(memory);
            return Err(Failed::Allocation(AllocationError::OutOfMemory));
        }
        counters.allocations += 1;
        name_object(&self.device, memory.buffer, name);
        Ok(self.items.push(memory))
    }

    fn buffer(
        &mut self,
        bytes: u64,
        usage: vk::BufferUsageFlags,
        location: MemoryLocation,
        name: &str,
    ) -> Result<Memory, Failed> {
        let Some(allocator) = self.allocator.as_mut() else {
            return Err(Failed::Allocation(AllocationError::Internal(
                "closed".into(),
            )));
        };
        let raw = &self.device.raw;
        // An arena that holds nothing still gets a buffer, so that ids keep their meaning.
        let info = vk::BufferCreateInfo::default()
            .size(bytes.max(4))
            .usage(usage)
            .sharing_mode(vk::SharingMode::EXCLUSIVE);
        // SAFETY: the device is alive; sizes were held against its limits.
        let buffer = unsafe { raw.create_buffer(&info, None) }
            .map_err(|result| Failed::Call(VkError::call(format!("making {name}"), result)))?;
        // SAFETY: `buffer` was just made.
        let requirements = unsafe { raw.get_buffer_memory_requirements(buffer) };
        let allocation = allocator.allocate(&AllocationCreateDesc {
            name,
            requirements,
            location,
            linear: true,
            // Exactly as large as the arena: the shared blocks of the allocator would round small plans up.
            allocation_scheme: AllocationScheme::DedicatedBuffer(buffer),
        });
        let allocation = match allocation {
            Ok(allocation) => allocation,
            Err(error) => {
                // SAFETY: nothing uses the buffer yet.
                unsafe { raw.destroy_buffer(buffer, None) };
                return Err(Failed::Allocation(error));
            }
        };
        let memory = Memory {
            buffer,
            bytes,
            allocation: Some(allocation),
        };
        if let Some(allocation) = &memory.allocation {
            // SAFETY: both were just made for each other and the memory is not bound yet.
            let bound =
                unsafe { raw.bind_buffer_memory(buffer, allocation.memory(), allocation.offset()) };
            if let Err(result) = bound {
                self.free(memory);
                return Err(Failed::Call(VkError::call(
                    format!("binding {name}"),
                    result,
                )));
            }
        }
        Ok(memory)
    }

    pub(super) fn free(&mut self, mut memory: Memory) {
        // SAFETY: the caller saw that no recording uses the buffer any more.
        unsafe { self.device.raw.destroy_buffer(memory.buffer, None) };
        if let (Some(allocator), Some(allocation)) = (&mut self.allocator, memory.allocation.take())
        {
            // Freeing fails only for an allocation of another allocator.
            let _ = allocator.free(allocation);
        }
    }

    pub(crate) fn buffer_of(&self, arena: ArenaId) -> vk::Buffer {
        self.items[arena].buffer
    }

    /// The mapped bytes of a range of an arena, to write; `None` if the arena is not mapped or too small.
    pub(crate) fn bytes_mut(&mut self, arena: ArenaId, range: Range<u64>) -> Option<&mut [u8]> {
        let (start, length) = self.items.get(arena)?.mapped(range)?;
        // SAFETY: `mapped` gave a valid, mapped range. The device does not touch it: the caller holds the slot
        // of a parity that is not in flight. `&mut self` keeps the host's side unique.
        Some(unsafe { std::slice::from_raw_parts_mut(start, length) })
    }

    /// The mapped bytes of a range of an arena, to read.
    pub(crate) fn bytes(&self, arena: ArenaId, range: Range<u64>) -> Option<&[u8]> {
        // The submit that wrote it has completed and the next one of this parity can only start through
        // `&mut Session`.
        self.items.get(arena)?.read(range)
    }

    /// Zeroes state and carries, and fills every weight from `source`. `progress` hears (bytes done, all bytes).
    pub(crate) fn load(
        &mut self,
        plan: &Plan,
        source: &mut dyn WeightSource,
        progress: &mut dyn FnMut(u64, u64),
        counters: &mut Counters,
        time_out: Duration,
    ) -> Result<(), VkError> {
        let mut upload = Upload::new(&self.device, "uploading weights")?;
        self.clear(plan, &mut upload, time_out)?;
        let total = plan
            .weights
            .iter()
            .filter_map(weight_bytes)
            .fold(0u64, |sum, bytes| sum.saturating_add(bytes));
        let staged = |weight: &&Weight| {
            !self.in_place && plan.arenas[weight.arena].kind == ArenaKind::Weight
        };
        let largest = plan
            .weights
            .iter()
            .filter(staged)
            .filter_map(weight_bytes)
            .max()
            .unwrap_or(0);
        let staging = if largest == 0 {
            None
        } else {
            counters.allocations += 1;
            Some(self.staging(largest.min(PIECE_BYTES))?)
        };
        let filled = self.fill_all(
            plan,
            source,
            staging.as_ref(),
            &mut upload,
            time_out,
            &mut |done| {
                progress(done, total);
            },
        );
        if let Some(staging) = staging
            && !self.device.is_abandoned()
        {
            self.free(staging);
        }
        filled
    }

    /// Zeroes state and carries. Nothing is in flight.
    fn clear(&self, plan: &Plan, upload: &mut Upload, time_out: Duration) -> Result<(), VkError> {
        let cleared: Vec<vk::Buffer> = plan
            .arenas
            .enumerate()
            .filter(|(_, arena)| matches!(arena.kind, ArenaKind::State | ArenaKind::Carry))
            .map(|(id, _)| self.items[id].buffer)
            .collect();
        if cleared.is_empty() {
            return Ok(());
        }
        upload.run(time_out, |raw, commands| {
            for buffer in &cleared {
                // SAFETY: recording; the buffers have TRANSFER_DST and nothing else runs.
                unsafe { raw.cmd_fill_buffer(commands, *buffer, 0, vk::WHOLE_SIZE, 0) };
            }
        })
    }

    /// State and carries are zero again, as before the first submit. Nothing is in flight.
    pub(crate) fn forget(&self, plan: &Plan, time_out: Duration) -> Result<(), VkError> {
        let mut upload = Upload::new(&self.device, "clearing state")?;
        self.clear(plan, &mut upload, time_out)
    }

    fn staging(&mut self, bytes: u64) -> Result<Memory, VkError> {
        let usage = vk::BufferUsageFlags::TRANSFER_SRC;
        let (location, name) = (MemoryLocation::CpuToGpu, "the staging buffer");
        self.buffer(bytes, usage, location, name)
            .map_err(|error| copying(error, bytes, "to upload weights"))
    }

    /// Memory for a piece that comes back.
    pub(super) fn read_back(&mut self) -> Result<Memory, VkError> {
        let usage = vk::BufferUsageFlags::TRANSFER_DST;
        let (location, name) = (MemoryLocation::GpuToCpu, "the buffer to read from");
        self.buffer(PIECE_BYTES, usage, location, name)
            .map_err(|error| copying(error, PIECE_BYTES, "to read back"))
    }

    /// Fills every weight piece by piece, in place or through `staging`.
    fn fill_all(
        &mut self,
        plan: &Plan,
        source: &mut dyn WeightSource,
        staging: Option<&Memory>,
        upload: &mut Upload,
        time_out: Duration,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), VkError> {
        let mut done = 0;
        progress(done);
        for (index, weight) in plan.weights.iter().enumerate() {
            let bytes = weight_bytes(weight).unwrap_or(0);
            let staging = staging.filter(|_| plan.arenas[weight.arena].kind == ArenaKind::Weight);
            let mut start = 0;
            while start < bytes {
                let piece = PIECE_BYTES.min(bytes - start);
                let at = weight.offset.saturating_add(start);
                let into = match staging {
                    None => self.bytes_mut(weight.arena, at..at.saturating_add(piece)),
                    Some(staging) => staging.mapped(0..piece).map(|(pointer, length)| {
                        // SAFETY: a valid, mapped range; the copy of the piece before was waited for.
                        unsafe { std::slice::from_raw_parts_mut(pointer, length) }
                    }),
                };
                let into = into.ok_or_else(|| VkError::Allocator {
                    what: format!("the memory of weight `{}`", weight.name),
                    message: "it is not mapped".into(),
                })?;
                source
                    .fill(index, weight, start, into)
                    .map_err(|source| VkError::Weight {
                        name: weight.name.clone(),
                        source,
                    })?;
                if let Some(staging) = staging {
                    let target = self.items[weight.arena].buffer;
                    upload.copy(staging.buffer, target, at, piece, time_out)?;
                }
                start += piece;
                done += piece;
                progress(done);
            }
        }
        Ok(())
    }
}

impl Drop for Arenas {
    fn drop(&mut self) {
        if self.device.is_abandoned() {
            std::mem::forget(self.allocator.take());
            return;
        }
        let Self {
            items,
            allocator,
            device,
            ..
        } = self;
        for memory in items.iter_mut() {
            // SAFETY: the session waited for every submit before it drops its arenas.
            unsafe { device.raw.destroy_buffer(memory.buffer, None) };
            if let (Some(allocator), Some(allocation)) = (&mut *allocator, memory.allocation.take())
            {
                // Freeing fails only for an allocation of another allocator.
                let _ = allocator.free(allocation);
            }
        }
        self.allocator = None;
    }
}

enum Failed {
    Allocation(AllocationError),
    Call(VkError),
}

fn copying(error: Failed, bytes: u64, purpose: &str) -> VkError {
    match error {
        Failed::Call(error) => error,
        Failed::Allocation(error) => VkError::Allocator {
            what: format!("{bytes} bytes {purpose}"),
            message: error.to_string(),
        },
    }
}

fn allocation_error(error: AllocationError, what: String, plan: &Plan, device: &Device) -> VkError {
    match error {
        AllocationError::OutOfMemory => VkError::OutOfMemory {
            place: "device",
            what,
            table: memory_table(&plan.arenas, ("the device", device.info.memory_bytes)),
        },
        error => VkError::Allocator {
            what,
            message: error.to_string(),
        },
    }
}

fn with_table(error: VkError, plan: &Plan, device: &Device) -> VkError {
    match error {
        VkError::OutOfMemory { place, what, .. } => VkError::OutOfMemory {
            place,
            what,
            table: memory_table(&plan.arenas, ("the device", device.info.memory_bytes)),
        },
        error => error,
    }
}

/// Gives a buffer the name that debuggers and the validation layer show.
fn name_object(device: &Device, buffer: vk::Buffer, name: &str) {
    let (Some(labels), Ok(name)) = (&device.labels, std::ffi::CString::new(name)) else {
        return;
    };
    let info = vk::DebugUtilsObjectNameInfoEXT {
        object_type: vk::ObjectType::BUFFER,
        object_handle: buffer.as_raw(),
        p_object_name: name.as_ptr(),
        ..Default::default()
    };
    // SAFETY: the buffer is alive and `name` outlives the call. A name that is not set changes nothing.
    let _ = unsafe { labels.set_debug_utils_object_name(&info) };
}
