//! Descriptor sets: every pass of an entry at both parities, with the exact byte range of each tensor, so that
//! the validation layer sees hazards as precisely as the plan does. Made once with the entry's recordings.

use std::sync::Arc;

use ash::vk;

use super::Counters;
use super::arena::Arenas;
use super::device::Device;
use super::error::VkError;
use super::pipeline::Pipelines;
use crate::ids::{ArenaId, IdVec, PassId};
use crate::plan::{Entry, PassInfo, relay};

/// The sets of one entry.
pub(crate) struct Sets {
    pool: vk::DescriptorPool,
    by_parity: [IdVec<PassId, vk::DescriptorSet>; 2],
    /// Where the entry's guard lies: the same for both parities, as it is state.
    pub(crate) guard: Option<(vk::Buffer, u64)>,
    device: Arc<Device>,
}

impl Sets {
    pub(crate) fn new(
        device: &Arc<Device>,
        entry: &Entry,
        arenas: &Arenas,
        pipelines: &Pipelines,
        relay: Option<ArenaId>,
        counters: &mut Counters,
    ) -> Result<Self, VkError> {
        let cells = relay.map(|arena| arenas.buffer_of(arena));
        let failed =
            |result| VkError::call(format!("binding the passes of `{}`", entry.name), result);
        // Passes that touch no double-buffered tensor need one set for both parities.
        let counted = entry.passes.iter().map(|pass| {
            let sets = if same_places(entry, pass) { 1 } else { 2 };
            let cells = usize::from(pipelines.get(pass.kernel).relays);
            (sets, sets * (pass.binds.len() + cells))
        });
        let (sets, descriptors) = counted.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let narrow = |count: usize| u32::try_from(count.max(1)).unwrap_or(u32::MAX);
        let sizes = [vk::DescriptorPoolSize::default()
            .ty(vk::DescriptorType::STORAGE_BUFFER)
            .descriptor_count(narrow(descriptors))];
        let info = vk::DescriptorPoolCreateInfo::default()
            .max_sets(narrow(sets))
            .pool_sizes(&sizes);
        // SAFETY: the device is alive.
        let pool = unsafe { device.raw.create_descriptor_pool(&info, None) }.map_err(failed)?;
        let mut made = Self {
            pool,
            by_parity: [IdVec::new(), IdVec::new()],
            guard: entry.guard.map(|guard| {
                let tensor = &entry.tensors[guard];
                (arenas.buffer_of(tensor.arena), tensor.offset)
            }),
            device: Arc::clone(device),
        };
        for pass in &entry.passes {
            let pipeline = pipelines.get(pass.kernel);
            let cells = cells.filter(|_| pipeline.relays);
            let layouts = [pipeline.set_layout];
            let allocate = || {
                let info = vk::DescriptorSetAllocateInfo::default()
                    .descriptor_pool(pool)
                    .set_layouts(&layouts);
                // SAFETY: the pool has room for exactly these sets.
                unsafe { device.raw.allocate_descriptor_sets(&info) }
                    .map(|sets| sets[0])
                    .map_err(failed)
            };
            let even = allocate()?;
            write(device, entry, pass, arenas, 0, (even, cells), counters);
            let odd = if same_places(entry, pass) {
                even
            } else {
                let odd = allocate()?;
                write(device, entry, pass, arenas, 1, (odd, cells), counters);
                odd
            };
            made.by_parity[0].push(even);
            made.by_parity[1].push(odd);
        }
        Ok(made)
    }

    pub(crate) fn get(&self, parity: usize, pass: PassId) -> vk::DescriptorSet {
        self.by_parity[parity & 1][pass]
    }
}

fn same_places(entry: &Entry, pass: &PassInfo) -> bool {
    pass.binds.iter().all(|bind| {
        let tensor = &entry.tensors[bind.tensor];
        tensor.range(0) == tensor.range(1)
    })
}

fn write(
    device: &Device,
    entry: &Entry,
    pass: &PassInfo,
    arenas: &Arenas,
    parity: u64,
    (set, cells): (vk::DescriptorSet, Option<vk::Buffer>),
    counters: &mut Counters,
) {
    let places: Vec<_> = pass
        .binds
        .iter()
        .map(|bind| {
            let tensor = &entry.tensors[bind.tensor];
            let range = tensor.range(parity);
            [vk::DescriptorBufferInfo::default()
                .buffer(arenas.buffer_of(tensor.arena))
                .offset(range.start)
                .range(range.end - range.start)]
        })
        .collect();
    let cells = cells.map(|buffer| {
        [vk::DescriptorBufferInfo::default()
            .buffer(buffer)
            .range(vk::WHOLE_SIZE)]
    });
    let numbers = pass.binds.iter().map(|bind| bind.binding);
    let writes: Vec<_> = numbers
        .zip(&places)
        .chain(cells.as_ref().map(|cells| (relay::BINDING, cells)))
        .map(|(number, place)| {
            vk::WriteDescriptorSet::default()
                .dst_set(set)
                .dst_binding(number)
                .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                .buffer_info(place)
        })
        .collect();
    // SAFETY: no recording uses the set yet; ranges lie in their buffers (`Plan::validate`).
    unsafe { device.raw.update_descriptor_sets(&writes, &[]) };
    counters.descriptor_updates += writes.len() as u64;
}

impl Drop for Sets {
    fn drop(&mut self) {
        if self.device.is_abandoned() {
            return;
        }
        // SAFETY: the session waited for every submit; this frees the sets too.
        unsafe { self.device.raw.destroy_descriptor_pool(self.pool, None) };
    }
}
