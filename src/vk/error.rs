//! What can go wrong between a plan and its result, in words that say what to do.

use std::path::PathBuf;
use std::time::Duration;

use ash::vk;

use crate::device::Feature;
use crate::diag::Code;

/// An error of the Vulkan runtime.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The fields are named in each message.
pub enum VkError {
    /// libvulkan could not be loaded.
    #[error(
        "no Vulkan loader found ({0})\nhelp: install it: `apt install libvulkan1` on Debian and Ubuntu, `dnf install vulkan-loader` on Fedora; for a machine without a GPU also `mesa-vulkan-drivers`"
    )]
    NoLoader(String),
    /// The loader is older than Vulkan 1.3.
    #[error("the Vulkan loader offers {0}, graphc needs 1.3\nhelp: update libvulkan1")]
    OldLoader(String),
    /// No physical device at all.
    #[error(
        "the Vulkan loader found no device\nhelp: install your GPU's Vulkan driver, or `apt install mesa-vulkan-drivers` for a device on the CPU; if VK_ICD_FILENAMES or VK_DRIVER_FILES is set, check that it names an existing file"
    )]
    NoDevice,
    /// Devices exist, but none can run graphc.
    #[error("no device can run graphc:\n{0}\nhelp: `graphc devices` shows what each one lacks")]
    NoUsableDevice(String),
    /// `--device` names none of them, or several.
    #[error("{} matches `{wanted}`; there is:\n{list}\nhelp: name one by its number, more of its name, or its UUID",
        if *.several { "more than one device" } else { "no device" })]
    DeviceNotFound {
        wanted: String,
        several: bool,
        list: String,
    },
    /// The device lacks something that every plan needs.
    #[error("device `{device}` cannot run graphc: {lacks}")]
    Unusable { device: String, lacks: String },
    /// The device lacks a feature that this plan's kernels need.
    #[error(
        "device `{device}` lacks {}, which the plan for profile `{profile}` needs\nhelp: compile the plan for this device (leave out --profile), or choose another device",
        features.iter().map(|feature| format!("`{}`", feature.name())).collect::<Vec<_>>().join(", ")
    )]
    MissingFeatures {
        device: String,
        profile: String,
        features: Vec<Feature>,
    },
    /// The plan does not fit the device's limits; one line each.
    #[error(
        "the plan for profile `{profile}` does not fit device `{device}`:\n{}\nhelp: compile the plan for this device (leave out --profile)",
        problems.iter().map(|problem| format!("  {problem}")).collect::<Vec<_>>().join("\n")
    )]
    DoesNotFit {
        device: String,
        profile: String,
        problems: Vec<String>,
    },
    /// The plan contradicts itself; it did not come out of this compiler unharmed.
    #[error("the plan is damaged: {0}\nhelp: compile it again")]
    BadPlan(String),
    /// The device has too little free memory.
    #[error(
        "out of {place} memory while making {what}\n{table}help: use smaller entries (batch, seq), --dtype f16, or another device; other programs may hold memory of this one"
    )]
    OutOfMemory {
        place: &'static str,
        what: String,
        table: String,
    },
    /// The device was lost.
    #[error(
        "the device was lost while {doing}\nhelp: a pass ran past the driver's watchdog (try --max-submit-ms), a kernel broke a limit, or the GPU was reset; `dmesg` has the driver's words"
    )]
    DeviceLost { doing: String },
    /// A wait took too long.
    #[error(
        "no result after {waited:?} while {doing}\nhelp: the device may hang or be busy with other work; raise the time-out if the model needs longer (`--timeout SECONDS`)"
    )]
    TimeOut { doing: String, waited: Duration },
    /// The validation layer was asked for and is not there.
    #[error(
        "validation was asked for, but VK_LAYER_KHRONOS_validation is not installed\nhelp: `apt install vulkan-validationlayers`, or unset GRAPHC_VALIDATION"
    )]
    NoValidationLayer,
    /// The validation layer said something.
    #[error("the validation layer reports {} problem(s); the first: {}", .0.len(), .0.first().map_or("", String::as_str))]
    Validation(Vec<String>),
    /// The weights' source failed.
    #[error("weight `{name}`: {source}")]
    Weight {
        name: String,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The pipeline cache could not be written. Never fatal: the session notes it and goes on.
    #[error("the pipeline cache `{path}` was not written: {source}")]
    CacheNotWritten {
        path: PathBuf,
        source: std::io::Error,
    },
    /// The allocator failed for another reason than memory.
    #[error("allocating {what}: {message}")]
    Allocator { what: String, message: String },
    /// Any other Vulkan error.
    #[error("{doing} failed: {result}")]
    Call { doing: String, result: vk::Result },
}

impl VkError {
    /// The error for `result` of a Vulkan call that was `doing` something.
    pub(crate) fn call(doing: impl Into<String>, result: vk::Result) -> Self {
        let doing = doing.into();
        match result {
            vk::Result::ERROR_DEVICE_LOST => VkError::DeviceLost { doing },
            vk::Result::ERROR_OUT_OF_DEVICE_MEMORY => VkError::OutOfMemory {
                place: "device",
                what: doing,
                table: String::new(),
            },
            vk::Result::ERROR_OUT_OF_HOST_MEMORY => VkError::OutOfMemory {
                place: "host",
                what: doing,
                table: String::new(),
            },
            result => VkError::Call { doing, result },
        }
    }

    /// The stable code for `graphc explain`.
    pub fn code(&self) -> Code {
        Code(match self {
            VkError::NoLoader(_) | VkError::OldLoader(_) => "G0701",
            VkError::NoDevice | VkError::NoUsableDevice(_) | VkError::Unusable { .. } => "G0702",
            VkError::DeviceNotFound { .. } => "G0703",
            VkError::MissingFeatures { .. } => "G0704",
            VkError::DoesNotFit { .. } => "G0705",
            VkError::BadPlan(_) => "G0706",
            VkError::OutOfMemory { .. } => "G0707",
            VkError::DeviceLost { .. } => "G0708",
            VkError::TimeOut { .. } => "G0709",
            VkError::NoValidationLayer | VkError::Validation(_) => "G0710",
            VkError::Weight { .. } => "G0711",
            VkError::CacheNotWritten { .. } => "G0712",
            VkError::Allocator { .. } | VkError::Call { .. } => "G0713",
        })
    }
}
