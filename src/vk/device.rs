//! Devices: which there are, which one is meant, and the logical device.
//!
//! A device is never chosen silently: what was asked for is found or an error lists what is there, and the
//! chosen one is reported in [`DeviceInfo`]. Without a wish the first real GPU wins over a device on the CPU.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ash::vk;
use serde::Serialize;

use super::error::VkError;
use super::features::{self, Support};
use super::instance::{Instance, version_text};
use crate::device::{DeviceProfile, Feature, Limits, Roofs};

/// What kind of hardware it is, best choice first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum DeviceKind {
    Discrete,
    Integrated,
    Virtual,
    Other,
    Cpu,
}

impl DeviceKind {
    /// The words in lists.
    pub fn words(self) -> &'static str {
        match self {
            DeviceKind::Discrete => "GPU",
            DeviceKind::Integrated => "integrated GPU",
            DeviceKind::Virtual => "virtual GPU",
            DeviceKind::Other => "other device",
            DeviceKind::Cpu => "runs on the CPU",
        }
    }
}

/// A device as people see it.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceInfo {
    /// Its number for `--device`.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// Its UUID for `--device`, stable over restarts.
    pub uuid: String,
    /// What kind of hardware it is.
    pub kind: DeviceKind,
    /// Vulkan version.
    pub vulkan: String,
    /// Driver name and version.
    pub driver: String,
    /// Bytes of its largest own memory.
    pub memory_bytes: u64,
    /// Whether the host can write to all of that memory in place.
    pub memory_host_visible: bool,
    /// Limits and features as the compiler wants them; roofs and choices come from a profile file.
    pub profile: DeviceProfile,
    /// Why it cannot run anything; empty for a usable device.
    pub unusable: Vec<String>,
}

impl DeviceInfo {
    /// What it lacks, and what that costs.
    pub fn missing(&self) -> impl Iterator<Item = (Feature, &'static str)> {
        Feature::ALL
            .into_iter()
            .filter(|feature| !self.profile.features.contains(feature))
            .map(|feature| (feature, feature.cost_of_lack()))
    }

    /// One line for lists and error messages.
    pub fn line(&self) -> String {
        let Self {
            index,
            name,
            uuid,
            kind,
            ..
        } = self;
        format!("  {index}: {name} ({}, {uuid})", kind.words())
    }
}

/// A physical device with everything that was asked about it.
pub(crate) struct Found {
    pub(crate) raw: vk::PhysicalDevice,
    pub(crate) info: DeviceInfo,
    pub(crate) support: Support,
    pub(crate) identity: Identity,
    family: Option<u32>,
    timestamp_bits: u32,
    timestamp_period: f32,
}

/// What a pipeline cache is tied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// PCI vendor.
    pub vendor: u32,
    /// PCI device.
    pub device: u32,
    /// The driver's own version number.
    pub driver_version: u32,
    /// `pipelineCacheUUID`.
    pub cache_uuid: [u8; 16],
    /// `deviceUUID`.
    pub device_uuid: [u8; 16],
    /// `driverUUID`.
    pub driver_uuid: [u8; 16],
}

/// Every device that the loader knows.
pub fn list() -> Result<Vec<DeviceInfo>, VkError> {
    let instance = Instance::new(false, false)?;
    Ok(enumerate(&instance)?
        .into_iter()
        .map(|found| found.info)
        .collect())
}

/// The device that `wanted` names, as data: what `graphc compile` uses when no profile is named.
pub fn describe(wanted: Option<&str>) -> Result<DeviceInfo, VkError> {
    let instance = Instance::new(false, false)?;
    let mut all = enumerate(&instance)?;
    let index = choose(
        &all.iter().map(|found| &found.info).collect::<Vec<_>>(),
        wanted,
    )?;
    Ok(all.swap_remove(index).info)
}

pub(crate) fn enumerate(instance: &Instance) -> Result<Vec<Found>, VkError> {
    // SAFETY: the instance is alive.
    let raw = unsafe { instance.raw.enumerate_physical_devices() }
        .map_err(|result| VkError::call("listing the devices", result))?;
    if raw.is_empty() {
        return Err(VkError::NoDevice);
    }
    Ok(raw
        .into_iter()
        .enumerate()
        .map(|(index, raw)| found(instance, index, raw))
        .collect())
}

fn found(instance: &Instance, index: usize, raw: vk::PhysicalDevice) -> Found {
    let support = features::probe(&instance.entry, &instance.raw, raw);
    let mut ids = vk::PhysicalDeviceIDProperties::default();
    let mut driver = vk::PhysicalDeviceDriverProperties::default();
    let mut properties = vk::PhysicalDeviceProperties2::default()
        .push_next(&mut ids)
        .push_next(&mut driver);
    // SAFETY: `raw` comes from this instance; the chained structures outlive the call.
    unsafe {
        instance
            .raw
            .get_physical_device_properties2(raw, &mut properties)
    };
    let basic = properties.properties;
    // SAFETY: `raw` comes from this instance.
    let (families, memory) = unsafe {
        (
            instance
                .raw
                .get_physical_device_queue_family_properties(raw),
            instance.raw.get_physical_device_memory_properties(raw),
        )
    };
    let family = compute_family(&families);
    let (memory_bytes, memory_host_visible) = device_memory(&memory);
    let name = c_text(basic.device_name_as_c_str());
    let mut unusable = support.lacks.clone();
    if family.is_none() {
        unusable.push("it has no compute queue".into());
    }
    let driver = format!(
        "{} {}",
        c_text(driver.driver_name_as_c_str()),
        c_text(driver.driver_info_as_c_str())
    );
    Found {
        raw,
        info: DeviceInfo {
            index,
            uuid: uuid_text(&ids.device_uuid),
            kind: kind(basic.device_type),
            vulkan: version_text(basic.api_version),
            driver: driver.trim().to_owned(),
            memory_bytes,
            memory_host_visible,
            profile: DeviceProfile {
                name: name.clone(),
                matches: name.clone(),
                limits: Limits {
                    device_memory: own_memory(kind(basic.device_type), memory_bytes),
                    ..support.limits.clone()
                },
                features: asked(&support.features),
                roofs: Roofs::default(),
                choices: BTreeMap::new(),
                max_submit_ms: None,
                tokens_per_submit: None,
            },
            name,
            unusable,
        },
        identity: Identity {
            vendor: basic.vendor_id,
            device: basic.device_id,
            driver_version: basic.driver_version,
            cache_uuid: basic.pipeline_cache_uuid,
            device_uuid: ids.device_uuid,
            driver_uuid: ids.driver_uuid,
        },
        support,
        family,
        timestamp_bits: family.map_or(0, |family| families[family as usize].timestamp_valid_bits),
        timestamp_period: basic.limits.timestamp_period,
    }
}

/// The features that a device was asked about.
fn asked(features: &BTreeSet<Feature>) -> BTreeSet<Feature> {
    let asked = features.iter().filter(|feature| !feature.is_measured());
    asked.copied().collect()
}

fn c_text(text: Result<&std::ffi::CStr, std::ffi::FromBytesUntilNulError>) -> String {
    text.map_or_else(
        |_| String::from("?"),
        |text| text.to_string_lossy().into_owned(),
    )
}

fn kind(raw: vk::PhysicalDeviceType) -> DeviceKind {
    match raw {
        vk::PhysicalDeviceType::DISCRETE_GPU => DeviceKind::Discrete,
        vk::PhysicalDeviceType::INTEGRATED_GPU => DeviceKind::Integrated,
        vk::PhysicalDeviceType::VIRTUAL_GPU => DeviceKind::Virtual,
        vk::PhysicalDeviceType::CPU => DeviceKind::Cpu,
        _ => DeviceKind::Other,
    }
}

fn uuid_text(uuid: &[u8; 16]) -> String {
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    [
        &uuid[..4],
        &uuid[4..6],
        &uuid[6..8],
        &uuid[8..10],
        &uuid[10..],
    ]
    .map(hex)
    .join("-")
}

/// The first family that computes, even if it draws as well. On an H200 (driver 580) the wall time of a forward
/// exceeds its GPU time by 13 to 15 us on that family and by about 40 us on the one that only computes.
fn compute_family(families: &[vk::QueueFamilyProperties]) -> Option<u32> {
    families
        .iter()
        .position(|family| {
            family.queue_count > 0 && family.queue_flags.contains(vk::QueueFlags::COMPUTE)
        })
        .and_then(|index| u32::try_from(index).ok())
}

/// The size of the largest device-local heap, and whether the host can map all of it.
fn device_memory(memory: &vk::PhysicalDeviceMemoryProperties) -> (u64, bool) {
    let heaps = memory.memory_heaps_as_slice();
    let largest = heaps
        .iter()
        .enumerate()
        .filter(|(_, heap)| heap.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL))
        .max_by_key(|(_, heap)| heap.size);
    let Some((index, heap)) = largest else {
        return (0, false);
    };
    let wanted = vk::MemoryPropertyFlags::DEVICE_LOCAL
        | vk::MemoryPropertyFlags::HOST_VISIBLE
        | vk::MemoryPropertyFlags::HOST_COHERENT;
    let visible = memory
        .memory_types_as_slice()
        .iter()
        .any(|kind| kind.heap_index as usize == index && kind.property_flags.contains(wanted));
    (heap.size, visible)
}

/// What plans may take of the device's own memory: all but a part that drivers keep and other programs hold. A device on
/// the CPU has none of its own, and what it reports is no limit (lavapipe of Mesa 22 says 2 GiB on every machine).
fn own_memory(kind: DeviceKind, bytes: u64) -> Option<u64> {
    (kind == DeviceKind::Discrete).then(|| bytes - bytes / 32)
}

/// The position of the device that `wanted` names: an index, a UUID (or its beginning, from 8 digits on) or a
/// part of the name, in any case. Without a wish: the first usable one of the best kind.
fn choose(all: &[&DeviceInfo], wanted: Option<&str>) -> Result<usize, VkError> {
    let listing = || {
        all.iter()
            .map(|info| info.line())
            .collect::<Vec<_>>()
            .join("\n")
    };
    let Some(wanted) = wanted.map(str::trim).filter(|wanted| !wanted.is_empty()) else {
        return all
            .iter()
            .filter(|info| info.unusable.is_empty())
            .min_by_key(|info| (info.kind, info.index))
            .map(|info| info.index)
            .ok_or_else(|| {
                let reasons = all
                    .iter()
                    .map(|info| format!("{}: {}", info.line(), info.unusable.join(", ")));
                VkError::NoUsableDevice(reasons.collect::<Vec<_>>().join("\n"))
            });
    };
    let lower = wanted.to_lowercase();
    let matching: Vec<&&DeviceInfo> = if let Ok(index) = wanted.parse::<usize>() {
        all.iter().filter(|info| info.index == index).collect()
    } else {
        all.iter()
            .filter(|info| {
                info.name.to_lowercase().contains(&lower)
                    || (lower.len() >= 8 && info.uuid.starts_with(&lower))
            })
            .collect()
    };
    match matching.as_slice() {
        [info] if info.unusable.is_empty() => Ok(info.index),
        [info] => Err(VkError::Unusable {
            device: info.name.clone(),
            lacks: info.unusable.join(", "),
        }),
        several => Err(VkError::DeviceNotFound {
            wanted: wanted.to_owned(),
            several: !several.is_empty(),
            list: listing(),
        }),
    }
}

/// A logical device with its one compute queue. Everything made from it holds an `Arc` of it.
pub struct Device {
    pub(crate) raw: ash::Device,
    pub(crate) physical: vk::PhysicalDevice,
    pub(crate) queue: vk::Queue,
    pub(crate) family: u32,
    pub(crate) info: DeviceInfo,
    pub(crate) support: Support,
    pub(crate) identity: Identity,
    /// Nanoseconds of one timestamp step, or none if the queue has no timestamps.
    pub(crate) timestamp_period: Option<f64>,
    /// The bits of a timestamp that count.
    pub(crate) timestamp_mask: u64,
    pub(crate) labels: Option<ash::ext::debug_utils::Device>,
    /// Leaves out commands by a number in a buffer, where the device can.
    pub(crate) conditional: Option<ash::ext::conditional_rendering::Device>,
    abandoned: AtomicBool,
    pub(crate) instance: Arc<Instance>,
}

impl Device {
    /// Opens the device that `wanted` names.
    pub fn open(instance: &Arc<Instance>, wanted: Option<&str>) -> Result<Arc<Self>, VkError> {
        let mut all = enumerate(instance)?;
        let index = choose(
            &all.iter().map(|found| &found.info).collect::<Vec<_>>(),
            wanted,
        )?;
        let found = all.swap_remove(index);
        let family = found.family.ok_or_else(|| VkError::Unusable {
            device: found.info.name.clone(),
            lacks: "it has no compute queue".into(),
        })?;
        let raw = found
            .support
            .create_device(&instance.raw, found.raw, family)
            .map_err(|result| {
                VkError::call(format!("opening device `{}`", found.info.name), result)
            })?;
        // SAFETY: one queue of this family was asked for.
        let queue = unsafe { raw.get_device_queue(family, 0) };
        let labels = instance
            .debug_utils
            .then(|| ash::ext::debug_utils::Device::new(&instance.raw, &raw));
        let conditional = found
            .support
            .conditional()
            .then(|| ash::ext::conditional_rendering::Device::new(&instance.raw, &raw));
        Ok(Arc::new(Self {
            raw,
            physical: found.raw,
            queue,
            family,
            timestamp_period: (found.timestamp_bits > 0)
                .then_some(f64::from(found.timestamp_period)),
            timestamp_mask: u64::MAX
                .checked_shr(64u32.saturating_sub(found.timestamp_bits))
                .unwrap_or(0),
            info: found.info,
            support: found.support,
            identity: found.identity,
            labels,
            conditional,
            abandoned: AtomicBool::new(false),
            instance: Arc::clone(instance),
        }))
    }

    /// Gives up: work that never ended may still use every object of this device, so none is destroyed any more.
    pub(crate) fn abandon(&self) {
        if !self.abandoned.swap(true, Ordering::Relaxed) {
            // The instance stays as well: a device must not outlive it.
            std::mem::forget(Arc::clone(&self.instance));
        }
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }

    /// The device as people see it.
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if self.is_abandoned() {
            return;
        }
        // SAFETY: everything made from this device holds an `Arc` of it and is gone; the session waited for the
        // queue before.
        unsafe { self.raw.destroy_device(None) };
    }
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
