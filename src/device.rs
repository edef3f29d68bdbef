//! A device as data: limits, features, measured roofs and tuned choices. The compiler knows devices only
//! through this, so a plan for a device can be compiled where that device is not.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// What a kernel variant may need. Each has a sentence in `graphc devices` that says what its lack costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// 16-bit floats in storage buffers.
    StorageF16,
    /// 16-bit float arithmetic.
    ArithmeticF16,
    /// 8-bit integers in storage buffers.
    StorageI8,
    /// Subgroup arithmetic in compute shaders.
    SubgroupArithmetic,
    /// Subgroups of exactly 32, with full subgroups.
    Subgroup32,
    /// KHR cooperative matrix, f16 inputs, f32 accumulator, 16x16x16, subgroup scope.
    CoopmatF16,
    /// Broadcasts within a subgroup in compute shaders.
    SubgroupBroadcast,
    /// Products of four packed 8-bit integers with four others in one instruction, whatever it costs.
    DotI8,
    /// Which invocation holds which element of a 16x16 fragment of [`Feature::CoopmatF16`] is as `shaders/README.md` says,
    /// and so it is for 16x8x16 products, which are there too.
    CoopmatLanes,
    /// Workgroups of a dispatch start once all of the dispatches before it in the queue have started, so that one that
    /// waits in its own code for an earlier dispatch keeps none of it from running; and what was stored before a counter was
    /// released is seen by coherent loads behind a look at the counter (`shaders/README.md`, "Relays").
    Relay,
    /// Exchanges among four neighbouring invocations of a subgroup in compute shaders.
    SubgroupQuad,
}

impl Feature {
    /// Every feature, in the order in which lists show them.
    pub const ALL: [Feature; 11] = [
        Feature::StorageF16,
        Feature::ArithmeticF16,
        Feature::StorageI8,
        Feature::SubgroupArithmetic,
        Feature::Subgroup32,
        Feature::CoopmatF16,
        Feature::SubgroupBroadcast,
        Feature::DotI8,
        Feature::CoopmatLanes,
        Feature::Relay,
        Feature::SubgroupQuad,
    ];

    /// Whether `graphc roof` looks for it, as the device cannot be asked about it.
    pub fn is_sought(self) -> bool {
        self == Feature::CoopmatLanes
    }

    /// Whether a device cannot be asked about it. Then its profile says so, once it was seen there.
    pub fn is_measured(self) -> bool {
        matches!(self, Feature::CoopmatLanes | Feature::Relay)
    }

    /// The name in manifests and profiles.
    pub fn name(self) -> &'static str {
        match self {
            Feature::StorageF16 => "storage_f16",
            Feature::ArithmeticF16 => "arithmetic_f16",
            Feature::StorageI8 => "storage_i8",
            Feature::SubgroupArithmetic => "subgroup_arithmetic",
            Feature::Subgroup32 => "subgroup32",
            Feature::CoopmatF16 => "coopmat_f16",
            Feature::SubgroupBroadcast => "subgroup_broadcast",
            Feature::DotI8 => "dot_i8",
            Feature::CoopmatLanes => "coopmat_lanes",
            Feature::Relay => "relay",
            Feature::SubgroupQuad => "subgroup_quad",
        }
    }

    /// What a device without it cannot do or does more slowly.
    pub fn cost_of_lack(self) -> &'static str {
        match self {
            Feature::StorageF16 => {
                "`--dtype f16` is not possible: weights and activations take twice the memory"
            }
            Feature::ArithmeticF16 => {
                "kernels that compute on 16-bit floats are not possible; the f32 ones run instead"
            }
            Feature::StorageI8 => "8-bit quantised weights are not possible",
            Feature::SubgroupArithmetic => {
                "reductions go through shared memory, which costs attention and norms some speed"
            }
            Feature::Subgroup32 => {
                "kernels tuned for subgroups of 32 are left out; the plain ones run instead"
            }
            Feature::CoopmatF16 => {
                "matrix units stay idle: f16 matrix products run several times slower than this class of hardware could"
            }
            Feature::SubgroupBroadcast => {
                "kernels for CPUs are left out; the plain ones run instead, several times slower there"
            }
            Feature::DotI8 => {
                "8-bit and 4-bit weights are widened before each product, which costs decoding some speed"
            }
            Feature::CoopmatLanes => {
                "8-bit and 4-bit weights go through shared memory on their way to the matrix units, which costs prompts and several streams about a third of their speed, and attention goes through it likewise; `graphc roof` sees whether the device can have it"
            }
            Feature::Relay => {
                "every pass of a decode step waits until the one before it has left the device, instead of fetching its weights meanwhile; a profile that was measured says whether the device can have it"
            }
            Feature::SubgroupQuad => {
                "the product for passes that wait for each other in their own code is left out"
            }
        }
    }
}

/// `profiles/devices/<name>.ron`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceProfile {
    /// The profile's name, for `--profile`.
    pub name: String,
    /// A part of the Vulkan device name that this profile describes, for example `H200`.
    pub matches: String,
    /// Limits that placement and kernel selection obey.
    pub limits: Limits,
    /// What the device can do.
    pub features: BTreeSet<Feature>,
    /// Measured roofs; what is missing is not used.
    #[serde(default)]
    pub roofs: Roofs,
    /// Kernel name to chosen variant and specialisation; a missing kernel uses the manifest's preference.
    #[serde(default)]
    pub choices: BTreeMap<String, Vec<Choice>>,
    /// Longest time one submit should take, for devices with a watchdog; none means one submit.
    #[serde(default)]
    pub max_submit_ms: Option<f64>,
    /// Steps of a language model that one submit holds, where nobody asks for another number; 1 to
    /// [`MAX_TOKENS_PER_SUBMIT`].
    #[serde(default)]
    pub tokens_per_submit: Option<u32>,
}

/// The most steps that one submit may hold.
pub const MAX_TOKENS_PER_SUBMIT: u32 = 64;

/// Device limits, named as Vulkan names them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// `maxStorageBufferRange` in bytes.
    pub max_storage_buffer_range: u64,
    /// `maxMemoryAllocationSize` in bytes.
    pub max_allocation: u64,
    /// `minStorageBufferOffsetAlignment` in bytes.
    pub min_storage_alignment: u64,
    /// `maxComputeSharedMemorySize` in bytes.
    pub max_shared_memory: u64,
    /// `maxComputeWorkGroupInvocations`.
    pub max_invocations: u32,
    /// `maxComputeWorkGroupSize`.
    pub max_workgroup_size: [u32; 3],
    /// `maxComputeWorkGroupCount`.
    pub max_workgroup_count: [u32; 3],
    /// `maxPushConstantsSize` in bytes.
    pub max_push_constants: u32,
    /// `maxPerStageDescriptorStorageBuffers`.
    pub max_storage_buffers: u32,
    /// The subgroup size that kernels run with.
    pub subgroup_size: u32,
    /// Number of compute units, if known (132 SMs of an H200).
    #[serde(default)]
    pub compute_units: Option<u32>,
    /// Bytes of the device's own memory that a plan may take; none: as many as it needs. Weights beyond them lie in
    /// the host's memory.
    #[serde(default)]
    pub device_memory: Option<u64>,
    /// Bytes of all memory that the device reaches, its own and the host's; none: not known.
    #[serde(default)]
    pub all_memory: Option<u64>,
}

impl Default for Limits {
    /// What Vulkan 1.3 promises of every device, with subgroups of one.
    fn default() -> Self {
        Self {
            max_storage_buffer_range: 1 << 27,
            max_allocation: 1 << 30,
            min_storage_alignment: 256,
            max_shared_memory: 16 << 10,
            max_invocations: 128,
            max_workgroup_size: [128, 128, 64],
            max_workgroup_count: [65535; 3],
            max_push_constants: 128,
            max_storage_buffers: 4,
            subgroup_size: 1,
            compute_units: None,
            device_memory: None,
            all_memory: None,
        }
    }
}

/// Measured speeds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Roofs {
    /// Bytes read from device memory a second.
    pub read_bytes_per_s: Option<f64>,
    /// Matrix-unit rate with f16 inputs and f32 accumulation, FLOP a second.
    pub matrix_f16_flops: Option<f64>,
    /// Plain f32 arithmetic, FLOP a second.
    pub f32_flops: Option<f64>,
    /// A dispatch that waits for the one before, in seconds.
    pub dependent_pass_s: Option<f64>,
    /// Bytes read and written a second by a copy, both counted.
    pub copy_bytes_per_s: Option<f64>,
    /// Plain f16 arithmetic, FLOP a second.
    pub f16_flops: Option<f64>,
    /// A dispatch beside the one before, in seconds.
    pub independent_pass_s: Option<f64>,
    /// What it costs a round to ask its guard whether passes run, in seconds.
    pub guard_s: Option<f64>,
    /// From the call that submits a forward with nothing to do until its end is known, in seconds.
    pub submit_s: Option<f64>,
}

/// A tuned choice for one kernel where `when` holds (an expression over the kernel's dims; always if empty).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// Condition over the kernel's dims and options.
    #[serde(default)]
    pub when: Option<String>,
    /// The variant.
    pub variant: String,
    /// Specialisation constants by name.
    #[serde(default)]
    pub spec: BTreeMap<String, u32>,
}
