//! Pipelines: one per kernel of the plan, with its descriptor set layout and pipeline layout.
//!
//! Drivers compile each one for milliseconds to seconds, so they are made on several threads, through a cache
//! that is kept on disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use ash::vk;

use super::Counters;
use super::cache;
use super::device::Device;
use super::error::VkError;
use crate::ids::{Id as _, IdVec, KernelId};
use crate::plan::{Kernel, Plan, Relay, relay};

/// The most threads that compile.
const MAX_THREADS: usize = 8;

/// What passes of one kernel are recorded with.
#[derive(Clone, Copy)]
pub(crate) struct Pipeline {
    pub(crate) set_layout: vk::DescriptorSetLayout,
    pub(crate) layout: vk::PipelineLayout,
    pub(crate) raw: vk::Pipeline,
    /// Whether it takes the cells of relays and their push constants.
    pub(crate) relays: bool,
}

impl Pipeline {
    /// Records the push constants of a pass: its own, and behind them what it does with the cells of relays, if its module
    /// has any.
    ///
    /// # Safety
    ///
    /// `commands` is recording, and the pipeline's layout lives as long as the recording.
    pub(crate) unsafe fn push(
        &self,
        raw: &ash::Device,
        commands: vk::CommandBuffer,
        own: &[u8],
        relay: &Relay,
    ) {
        let mut bytes = own.to_vec();
        if self.relays {
            bytes.extend(relay.words().map(u32::to_ne_bytes).concat());
        }
        if !bytes.is_empty() {
            let stage = vk::ShaderStageFlags::COMPUTE;
            // SAFETY: the caller's promise; the layout has a range of this size (`layouts`).
            unsafe { raw.cmd_push_constants(commands, self.layout, stage, 0, &bytes) };
        }
    }
}

/// All pipelines of a session.
pub(crate) struct Pipelines {
    items: IdVec<KernelId, Pipeline>,
    cache: vk::PipelineCache,
    device: Arc<Device>,
}

impl Pipelines {
    /// Makes every kernel's pipeline. `folder` is where the cache lies, if anywhere; what kept it from being
    /// written is appended to `notes`. `progress` hears (pipelines done, all).
    pub(crate) fn new(
        device: &Arc<Device>,
        plan: &Plan,
        folder: Option<&PathBuf>,
        progress: &mut dyn FnMut(u64, u64),
        counters: &mut Counters,
        notes: &mut Vec<String>,
    ) -> Result<Self, VkError> {
        let path = folder.map(|folder| cache::path(folder, &device.identity));
        let known = path
            .as_ref()
            .map(|path| cache::load(path, &device.identity))
            .unwrap_or_default();
        let info = vk::PipelineCacheCreateInfo::default().initial_data(&known);
        // SAFETY: the data is empty or was made by exactly this driver.
        let cache = unsafe { device.raw.create_pipeline_cache(&info, None) }
            .map_err(|result| VkError::call("making the pipeline cache", result))?;
        let mut pipelines = Self {
            items: IdVec::new(),
            cache,
            device: Arc::clone(device),
        };
        for kernel in &plan.kernels {
            let layouts = layouts(device, kernel)?;
            pipelines.items.push(layouts);
        }
        pipelines.compile(plan, progress)?;
        counters.pipelines += pipelines.items.len() as u64;
        if let Some(path) = path {
            // SAFETY: the cache is alive.
            match unsafe { device.raw.get_pipeline_cache_data(cache) } {
                Ok(now) if now == known => {}
                Ok(now) => {
                    let saved = cache::save(&path, &device.identity, &now);
                    notes.extend(saved.err().map(|error| error.to_string()));
                }
                // What was saved before stays.
                Err(result) => {
                    let error = VkError::call("reading the pipeline cache", result);
                    notes.push(error.to_string());
                }
            }
        }
        Ok(pipelines)
    }

    fn compile(&mut self, plan: &Plan, progress: &mut dyn FnMut(u64, u64)) -> Result<(), VkError> {
        let total = plan.kernels.len();
        let threads = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(MAX_THREADS)
            .min(total);
        let next = AtomicUsize::new(0);
        let (sender, receiver) = mpsc::channel();
        let (device, cache, items) = (&*self.device, self.cache, &self.items);
        let mut made = Vec::with_capacity(total);
        progress(0, total as u64);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let (sender, next) = (sender.clone(), &next);
                scope.spawn(move || {
                    loop {
                        let id = KernelId::new(next.fetch_add(1, Ordering::Relaxed));
                        let (Some(kernel), Some(layouts)) = (plan.kernels.get(id), items.get(id))
                        else {
                            return;
                        };
                        let result = create(device, cache, plan, kernel, layouts);
                        if sender.send((id, result)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            for result in receiver {
                made.push(result);
                progress(made.len() as u64, total as u64);
            }
        });
        let mut first_error = None;
        for (id, result) in made {
            match result {
                Ok(raw) => self.items[id].raw = raw,
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    pub(crate) fn get(&self, kernel: KernelId) -> Pipeline {
        self.items[kernel]
    }
}

fn layouts(device: &Device, kernel: &Kernel) -> Result<Pipeline, VkError> {
    let failed = |result| VkError::call(format!("making the layout of `{}`", kernel.name), result);
    let cells = kernel.relays.as_ref().map(|_| relay::BINDING);
    let bindings: Vec<_> = kernel
        .bindings
        .iter()
        .map(|(number, _)| *number)
        .chain(cells)
        .map(|number| {
            vk::DescriptorSetLayoutBinding::default()
                .binding(number)
                .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                .descriptor_count(1)
                .stage_flags(vk::ShaderStageFlags::COMPUTE)
        })
        .collect();
    let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
    // SAFETY: the device is alive; the structures outlive the calls.
    let set_layout =
        unsafe { device.raw.create_descriptor_set_layout(&info, None) }.map_err(failed)?;
    let set_layouts = [set_layout];
    let push = [vk::PushConstantRange::default()
        .stage_flags(vk::ShaderStageFlags::COMPUTE)
        .size(kernel.push_size())];
    let mut info = vk::PipelineLayoutCreateInfo::default().set_layouts(&set_layouts);
    if kernel.push_size() > 0 {
        info = info.push_constant_ranges(&push);
    }
    // SAFETY: as above.
    let layout = unsafe { device.raw.create_pipeline_layout(&info, None) }.map_err(|result| {
        // SAFETY: nothing uses it yet.
        unsafe { device.raw.destroy_descriptor_set_layout(set_layout, None) };
        failed(result)
    })?;
    Ok(Pipeline {
        set_layout,
        layout,
        raw: vk::Pipeline::null(),
        relays: kernel.relays.is_some(),
    })
}

/// Compiles one kernel. Its limits were checked: a driver may lose the device over too much shared memory.
fn create(
    device: &Device,
    cache: vk::PipelineCache,
    plan: &Plan,
    kernel: &Kernel,
    layouts: &Pipeline,
) -> Result<vk::Pipeline, VkError> {
    let failed = |result| {
        VkError::call(
            format!(
                "compiling kernel `{}/{}` ({})",
                kernel.name, kernel.variant, kernel.label
            ),
            result,
        )
    };
    let info = vk::ShaderModuleCreateInfo::default().code(&kernel.spirv);
    // SAFETY: the compiler built the module and held it against its manifest, and its capabilities are enabled (`fit`). Of a
    // plan file this is taken on trust (ARCHITECTURE.md, "A file is hostile").
    let module = unsafe { device.raw.create_shader_module(&info, None) }.map_err(failed)?;
    let values: Vec<u8> = kernel
        .spec
        .iter()
        .flat_map(|(_, value)| value.to_ne_bytes())
        .collect();
    let entries: Vec<_> = (0u32..)
        .zip(&kernel.spec)
        .map(|(index, (id, _))| {
            vk::SpecializationMapEntry::default()
                .constant_id(*id)
                .offset(index * 4)
                .size(4)
        })
        .collect();
    let special = vk::SpecializationInfo::default()
        .map_entries(&entries)
        .data(&values);
    let mut size = vk::PipelineShaderStageRequiredSubgroupSizeCreateInfo::default()
        .required_subgroup_size(plan.limits.subgroup_size);
    let mut stage = vk::PipelineShaderStageCreateInfo::default()
        .stage(vk::ShaderStageFlags::COMPUTE)
        .module(module)
        .name(c"main")
        .specialization_info(&special);
    if kernel.full_subgroups {
        stage = stage.flags(vk::PipelineShaderStageCreateFlags::REQUIRE_FULL_SUBGROUPS);
    }
    // Where the driver could choose, kernels get the size that they were compiled for. One that counts on no size runs on
    // devices that do not have it, too; `fit` saw to the others.
    let support = &device.support;
    let same = plan.limits.subgroup_size == device.info.profile.limits.subgroup_size;
    if support.size_control && (kernel.full_subgroups || support.varying_subgroups && same) {
        stage = stage.push_next(&mut size);
    }
    let info = vk::ComputePipelineCreateInfo::default()
        .stage(stage)
        .layout(layouts.layout);
    // SAFETY: module, layout and cache are alive; a pipeline cache may be used from several threads.
    let made = unsafe { device.raw.create_compute_pipelines(cache, &[info], None) };
    // SAFETY: a module is not needed once its pipelines exist.
    unsafe { device.raw.destroy_shader_module(module, None) };
    match made {
        Ok(pipelines) => pipelines
            .first()
            .copied()
            .ok_or_else(|| failed(vk::Result::ERROR_UNKNOWN)),
        Err((_, result)) => Err(failed(result)),
    }
}

impl Drop for Pipelines {
    fn drop(&mut self) {
        if self.device.is_abandoned() {
            return;
        }
        let raw = &self.device.raw;
        // SAFETY: the session waited for every submit; null handles are ignored.
        unsafe {
            for pipeline in &self.items {
                raw.destroy_pipeline(pipeline.raw, None);
                raw.destroy_pipeline_layout(pipeline.layout, None);
                raw.destroy_descriptor_set_layout(pipeline.set_layout, None);
            }
            raw.destroy_pipeline_cache(self.cache, None);
        }
    }
}
