//! What a physical device can do, asked once and put into words and data.
//!
//! The same list decides what is reported and what is enabled ([`Support`] holds both), so that nothing is
//! promised that the logical device then lacks.

use std::collections::BTreeSet;

use ash::{ext, khr, nv, vk};

use crate::device::{Feature, Limits};

/// SPIR-V capabilities by their numbers in the SPIR-V specification, as far as kernels may use them.
pub(crate) mod capability {
    /// Matrix and Shader: every Vulkan device has them.
    pub const ALWAYS: [u32; 2] = [0, 1];
    pub const FLOAT16: u32 = 9;
    pub const INT16: u32 = 22;
    pub const INT8: u32 = 39;
    pub const GROUP_NON_UNIFORM: [(u32, ash::vk::SubgroupFeatureFlags); 8] = [
        (61, ash::vk::SubgroupFeatureFlags::BASIC),
        (62, ash::vk::SubgroupFeatureFlags::VOTE),
        (63, ash::vk::SubgroupFeatureFlags::ARITHMETIC),
        (64, ash::vk::SubgroupFeatureFlags::BALLOT),
        (65, ash::vk::SubgroupFeatureFlags::SHUFFLE),
        (66, ash::vk::SubgroupFeatureFlags::SHUFFLE_RELATIVE),
        (67, ash::vk::SubgroupFeatureFlags::CLUSTERED),
        (68, ash::vk::SubgroupFeatureFlags::QUAD),
    ];
    pub const STORAGE_16: u32 = 4433;
    pub const STORAGE_8: u32 = 4448;
    pub const MEMORY_MODEL: u32 = 5345;
    pub const MEMORY_MODEL_DEVICE_SCOPE: u32 = 5346;
    pub const DOT_PRODUCT_PACKED: u32 = 6018;
    pub const DOT_PRODUCT: u32 = 6019;
    pub const COOPERATIVE_MATRIX: u32 = 6022;

    /// The name in the SPIR-V specification.
    pub fn name(number: u32) -> String {
        match number {
            FLOAT16 => "Float16".into(),
            10 => "Float64".into(),
            11 => "Int64".into(),
            INT16 => "Int16".into(),
            INT8 => "Int8".into(),
            61..=68 => format!("GroupNonUniform (capability {number})"),
            STORAGE_16 => "StorageBuffer16BitAccess".into(),
            STORAGE_8 => "StorageBuffer8BitAccess".into(),
            MEMORY_MODEL => "VulkanMemoryModel".into(),
            MEMORY_MODEL_DEVICE_SCOPE => "VulkanMemoryModelDeviceScope".into(),
            DOT_PRODUCT_PACKED => "DotProductInput4x8BitPacked".into(),
            DOT_PRODUCT => "DotProduct".into(),
            COOPERATIVE_MATRIX => "CooperativeMatrixKHR".into(),
            other => format!("number {other}"),
        }
    }
}

/// What a device offers of what graphc can use.
#[derive(Clone, Debug)]
pub struct Support {
    /// Its limits.
    pub limits: Limits,
    /// Features that kernel variants may ask for, and those that it may have but cannot be asked about
    /// ([`Feature::is_measured`]).
    pub features: BTreeSet<Feature>,
    /// SPIR-V capabilities that modules may declare.
    pub capabilities: BTreeSet<u32>,
    /// What every plan needs and this device lacks; empty for a usable device.
    pub lacks: Vec<String>,
    /// Whether pipelines must name their subgroup size, because the driver could choose another.
    pub(crate) varying_subgroups: bool,
    /// Whether pipelines can name their subgroup size at all.
    pub(crate) size_control: bool,
    enable: Enable,
}

/// The switches to turn on.
#[derive(Clone, Copy, Debug, Default)]
struct Enable {
    storage_16: bool,
    storage_8: bool,
    float16: bool,
    int8: bool,
    int16: bool,
    memory_model: bool,
    memory_model_device: bool,
    size_control: bool,
    full_subgroups: bool,
    maintenance4: bool,
    cooperative_matrix: bool,
    integer_dot: bool,
    /// Whether the device can leave out commands by a number in a buffer: VK_EXT_conditional_rendering.
    conditional: bool,
    /// The extension that reads the clocks of device and host together; only Tracy needs it.
    calibrated: Option<&'static std::ffi::CStr>,
}

/// Asks the device. It must offer Vulkan 1.3; an older one is reported through `lacks` alone.
pub(crate) fn probe(
    entry: &ash::Entry,
    instance: &ash::Instance,
    physical: vk::PhysicalDevice,
) -> Support {
    let mut subgroup = vk::PhysicalDeviceSubgroupProperties::default();
    let mut sizes = vk::PhysicalDeviceSubgroupSizeControlProperties::default();
    let mut maintenance3 = vk::PhysicalDeviceMaintenance3Properties::default();
    let mut multiprocessors = vk::PhysicalDeviceShaderSMBuiltinsPropertiesNV::default();
    // SAFETY (for all calls below): `physical` comes from `instance`; the chained structures live until the
    // calls return. Structures of a version that the device does not know are left as they are.
    let basic = unsafe { instance.get_physical_device_properties(physical) };
    if basic.api_version < vk::API_VERSION_1_3 {
        return too_old(&basic);
    }
    let mut properties = vk::PhysicalDeviceProperties2::default()
        .push_next(&mut subgroup)
        .push_next(&mut sizes)
        .push_next(&mut maintenance3);
    let counts = has_extension(instance, physical, nv::shader_sm_builtins::NAME);
    if counts {
        properties = properties.push_next(&mut multiprocessors);
    }
    unsafe { instance.get_physical_device_properties2(physical, &mut properties) };

    let mut v11 = vk::PhysicalDeviceVulkan11Features::default();
    let mut v12 = vk::PhysicalDeviceVulkan12Features::default();
    let mut v13 = vk::PhysicalDeviceVulkan13Features::default();
    let mut matrix = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default();
    let has_matrix = has_extension(instance, physical, khr::cooperative_matrix::NAME);
    let mut conditions = vk::PhysicalDeviceConditionalRenderingFeaturesEXT::default();
    let has_conditions = has_extension(instance, physical, ext::conditional_rendering::NAME);
    let mut asked = vk::PhysicalDeviceFeatures2::default()
        .push_next(&mut v11)
        .push_next(&mut v12)
        .push_next(&mut v13);
    if has_matrix {
        asked = asked.push_next(&mut matrix);
    }
    if has_conditions {
        asked = asked.push_next(&mut conditions);
    }
    unsafe { instance.get_physical_device_features2(physical, &mut asked) };
    let int16 = asked.features.shader_int16 == vk::TRUE;

    let in_compute = |stages: vk::ShaderStageFlags| stages.contains(vk::ShaderStageFlags::COMPUTE);
    let size_control =
        v13.subgroup_size_control == vk::TRUE && in_compute(sizes.required_subgroup_size_stages);
    let enable = Enable {
        storage_16: v11.storage_buffer16_bit_access == vk::TRUE,
        storage_8: v12.storage_buffer8_bit_access == vk::TRUE,
        float16: v12.shader_float16 == vk::TRUE,
        int8: v12.shader_int8 == vk::TRUE,
        int16,
        memory_model: v12.vulkan_memory_model == vk::TRUE,
        memory_model_device: v12.vulkan_memory_model_device_scope == vk::TRUE,
        size_control,
        full_subgroups: v13.compute_full_subgroups == vk::TRUE,
        maintenance4: v13.maintenance4 == vk::TRUE,
        integer_dot: v13.shader_integer_dot_product == vk::TRUE,
        cooperative_matrix: has_matrix && matrix.cooperative_matrix == vk::TRUE,
        conditional: has_conditions && conditions.conditional_rendering == vk::TRUE,
        calibrated: [
            khr::calibrated_timestamps::NAME,
            ext::calibrated_timestamps::NAME,
        ]
        .into_iter()
        .find(|name| cfg!(feature = "tracy") && has_extension(instance, physical, name)),
    };
    let operations = if in_compute(subgroup.supported_stages) {
        subgroup.supported_operations
    } else {
        vk::SubgroupFeatureFlags::empty()
    };
    let can_be_32 = size_control
        && enable.full_subgroups
        && (sizes.min_subgroup_size..=sizes.max_subgroup_size).contains(&32);
    let features = features(&enable, operations, can_be_32, || {
        matrix_f16(entry, instance, physical)
    });
    let subgroup_size = if can_be_32 {
        32
    } else {
        subgroup.subgroup_size
    };
    let mut lacks = Vec::new();
    for (there, name) in [
        (v12.timeline_semaphore == vk::TRUE, "timelineSemaphore"),
        (v13.synchronization2 == vk::TRUE, "synchronization2"),
    ] {
        if !there {
            lacks.push(format!("it lacks the feature {name}"));
        }
    }
    Support {
        limits: Limits {
            compute_units: counts.then_some(multiprocessors.shader_sm_count),
            ..limits(
                &basic.limits,
                maintenance3.max_memory_allocation_size,
                subgroup_size,
            )
        },
        capabilities: capabilities(&enable, operations),
        features,
        lacks,
        varying_subgroups: sizes.min_subgroup_size != sizes.max_subgroup_size,
        size_control,
        enable,
    }
}

fn too_old(basic: &vk::PhysicalDeviceProperties) -> Support {
    Support {
        limits: limits(&basic.limits, 1 << 30, 1),
        features: BTreeSet::new(),
        capabilities: BTreeSet::new(),
        lacks: vec![format!(
            "it offers Vulkan {}, graphc needs 1.3",
            super::instance::version_text(basic.api_version)
        )],
        varying_subgroups: false,
        size_control: false,
        enable: Enable::default(),
    }
}

fn limits(limits: &vk::PhysicalDeviceLimits, max_allocation: u64, subgroup_size: u32) -> Limits {
    Limits {
        max_storage_buffer_range: u64::from(limits.max_storage_buffer_range),
        max_allocation,
        min_storage_alignment: limits.min_storage_buffer_offset_alignment,
        max_shared_memory: u64::from(limits.max_compute_shared_memory_size),
        max_invocations: limits.max_compute_work_group_invocations,
        max_workgroup_size: limits.max_compute_work_group_size,
        max_workgroup_count: limits.max_compute_work_group_count,
        max_push_constants: limits.max_push_constants_size,
        max_storage_buffers: limits.max_per_stage_descriptor_storage_buffers,
        subgroup_size,
        compute_units: None,
        device_memory: None,
        all_memory: None,
    }
}

fn features(
    enable: &Enable,
    operations: vk::SubgroupFeatureFlags,
    can_be_32: bool,
    matrix_f16: impl FnOnce() -> Vec<u32>,
) -> BTreeSet<Feature> {
    let arithmetic = vk::SubgroupFeatureFlags::BASIC | vk::SubgroupFeatureFlags::ARITHMETIC;
    let can_use_matrices =
        enable.cooperative_matrix && enable.memory_model && enable.storage_16 && enable.float16;
    let widths = if can_use_matrices {
        matrix_f16()
    } else {
        vec![]
    };
    let coopmat = widths.contains(&16);
    let lanes_of_32 = can_be_32 && operations.contains(vk::SubgroupFeatureFlags::SHUFFLE);
    [
        (Feature::StorageF16, enable.storage_16),
        (Feature::ArithmeticF16, enable.float16),
        (Feature::StorageI8, enable.storage_8 && enable.int8),
        // Kernels that use them count on full subgroups of a known size.
        (
            Feature::SubgroupArithmetic,
            enable.full_subgroups && operations.contains(arithmetic),
        ),
        (
            Feature::SubgroupBroadcast,
            operations.contains(vk::SubgroupFeatureFlags::BALLOT),
        ),
        // Kernels for 32-wide subgroups exchange values between lanes.
        (Feature::Subgroup32, lanes_of_32),
        (Feature::CoopmatF16, coopmat),
        (Feature::DotI8, enable.integer_dot),
        (
            Feature::SubgroupQuad,
            operations.contains(vk::SubgroupFeatureFlags::QUAD),
        ),
        // It may: only its profile knows.
        (
            Feature::Relay,
            enable.memory_model && enable.memory_model_device,
        ),
        (
            Feature::CoopmatLanes,
            coopmat && widths.contains(&8) && lanes_of_32,
        ),
    ]
    .into_iter()
    .filter_map(|(feature, there)| there.then_some(feature))
    .collect()
}

fn capabilities(enable: &Enable, operations: vk::SubgroupFeatureFlags) -> BTreeSet<u32> {
    let switched = [
        (capability::FLOAT16, enable.float16),
        (capability::INT16, enable.int16),
        (capability::INT8, enable.int8),
        (capability::STORAGE_16, enable.storage_16),
        (capability::STORAGE_8, enable.storage_8),
        (capability::MEMORY_MODEL, enable.memory_model),
        (
            capability::MEMORY_MODEL_DEVICE_SCOPE,
            enable.memory_model_device,
        ),
        (capability::COOPERATIVE_MATRIX, enable.cooperative_matrix),
        (capability::DOT_PRODUCT, enable.integer_dot),
        (capability::DOT_PRODUCT_PACKED, enable.integer_dot),
    ];
    let grouped =
        capability::GROUP_NON_UNIFORM.map(|(number, bit)| (number, operations.contains(bit)));
    capability::ALWAYS
        .into_iter()
        .map(|number| (number, true))
        .chain(switched)
        .chain(grouped)
        .filter_map(|(number, there)| there.then_some(number))
        .collect()
}

fn has_extension(
    instance: &ash::Instance,
    physical: vk::PhysicalDevice,
    name: &std::ffi::CStr,
) -> bool {
    // SAFETY: `physical` comes from `instance`.
    unsafe { instance.enumerate_device_extension_properties(physical) }.is_ok_and(|list| {
        list.iter()
            .any(|found| found.extension_name_as_c_str() == Ok(name))
    })
}

/// The N for which 16xNx16 products of f16 with f32 sums are offered at subgroup scope.
fn matrix_f16(
    entry: &ash::Entry,
    instance: &ash::Instance,
    physical: vk::PhysicalDevice,
) -> Vec<u32> {
    let loader = khr::cooperative_matrix::Instance::new(entry, instance);
    // SAFETY: the caller saw the extension on this device.
    let shapes = unsafe { loader.get_physical_device_cooperative_matrix_properties(physical) };
    let offered = |shape: &vk::CooperativeMatrixPropertiesKHR<'_>| {
        (shape.m_size, shape.k_size) == (16, 16)
            && shape.a_type == vk::ComponentTypeKHR::FLOAT16
            && shape.b_type == vk::ComponentTypeKHR::FLOAT16
            && shape.c_type == vk::ComponentTypeKHR::FLOAT32
            && shape.result_type == vk::ComponentTypeKHR::FLOAT32
            && shape.scope == vk::ScopeKHR::SUBGROUP
    };
    let shapes = shapes.unwrap_or_default().into_iter().filter(offered);
    shapes.map(|shape| shape.n_size).collect()
}

impl Support {
    /// The enabled extension that reads the clocks of device and host together.
    #[cfg(feature = "tracy")]
    pub(crate) fn calibrated(&self) -> Option<&'static std::ffi::CStr> {
        self.enable.calibrated
    }

    /// Whether commands can be left out by a number in a buffer.
    pub(crate) fn conditional(&self) -> bool {
        self.enable.conditional
    }

    /// Creates the logical device with everything that was found, one compute queue of `family`.
    pub(crate) fn create_device(
        &self,
        instance: &ash::Instance,
        physical: vk::PhysicalDevice,
        family: u32,
    ) -> Result<ash::Device, vk::Result> {
        let on = &self.enable;
        let mut v11 = vk::PhysicalDeviceVulkan11Features::default()
            .storage_buffer16_bit_access(on.storage_16);
        let mut v12 = vk::PhysicalDeviceVulkan12Features::default()
            .timeline_semaphore(true)
            .storage_buffer8_bit_access(on.storage_8)
            .shader_float16(on.float16)
            .shader_int8(on.int8)
            .vulkan_memory_model(on.memory_model)
            .vulkan_memory_model_device_scope(on.memory_model_device);
        let mut v13 = vk::PhysicalDeviceVulkan13Features::default()
            .synchronization2(true)
            .maintenance4(on.maintenance4)
            .shader_integer_dot_product(on.integer_dot)
            .subgroup_size_control(on.size_control)
            .compute_full_subgroups(on.full_subgroups);
        let mut matrix =
            vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default().cooperative_matrix(true);
        let mut conditions = vk::PhysicalDeviceConditionalRenderingFeaturesEXT::default()
            .conditional_rendering(true);
        let core = vk::PhysicalDeviceFeatures::default().shader_int16(on.int16);
        let priorities = [1.0];
        let queues = [vk::DeviceQueueCreateInfo::default()
            .queue_family_index(family)
            .queue_priorities(&priorities)];
        let mut extensions = Vec::new();
        if on.cooperative_matrix {
            extensions.push(khr::cooperative_matrix::NAME.as_ptr());
        }
        if on.conditional {
            extensions.push(ext::conditional_rendering::NAME.as_ptr());
        }
        extensions.extend(on.calibrated.map(std::ffi::CStr::as_ptr));
        let mut info = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&extensions)
            .enabled_features(&core)
            .push_next(&mut v11)
            .push_next(&mut v12)
            .push_next(&mut v13);
        if on.cooperative_matrix {
            info = info.push_next(&mut matrix);
        }
        if on.conditional {
            info = info.push_next(&mut conditions);
        }
        // SAFETY: only what the device offered is asked for; all structures live until the call returns.
        unsafe { instance.create_device(physical, &info, None) }
    }
}
