//! The Vulkan instance and, when asked for, the validation layer with synchronisation validation.
//!
//! Every message of the layer lands in [`Messages`], which outlives the instance, so that a test can also see
//! what was said while everything was destroyed.

use std::ffi::{CStr, c_void};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ash::{ext, vk};

use super::error::VkError;

/// The layer that checks our use of Vulkan.
const VALIDATION_LAYER: &CStr = c"VK_LAYER_KHRONOS_validation";

/// A bare instance that is never destroyed. With the last instance of a process the loader unloads the drivers, and
/// NVIDIA's cannot be loaded again any number of times: after about ten sessions one after another there was no
/// device left.
static ANCHOR: OnceLock<(ash::Entry, ash::Instance)> = OnceLock::new();

/// What the validation layer said, in order. Clones share one list.
#[derive(Clone, Debug, Default)]
pub struct Messages {
    list: Arc<Mutex<Vec<String>>>,
}

impl Messages {
    /// Everything that was said so far.
    pub fn all(&self) -> Vec<String> {
        self.list
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        self.list
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }
}

/// A loaded Vulkan library and an instance of it.
pub struct Instance {
    pub(crate) raw: ash::Instance,
    debug: Option<(ext::debug_utils::Instance, vk::DebugUtilsMessengerEXT)>,
    /// Whether VK_EXT_debug_utils is enabled, which names and labels need.
    pub(crate) debug_utils: bool,
    /// Whether the validation layer looks.
    pub(crate) validates: bool,
    messages: Messages,
    /// The library: dropped last.
    pub(crate) entry: ash::Entry,
}

impl Instance {
    /// Loads Vulkan and creates an instance. `validation` needs the layer to be installed; `labels` asks for
    /// names and regions that GPU debuggers show.
    pub fn new(validation: bool, labels: bool) -> Result<Arc<Self>, VkError> {
        // SAFETY: libvulkan's initialisers have no preconditions; the library stays loaded as long as `entry`.
        let entry =
            unsafe { ash::Entry::load() }.map_err(|error| VkError::NoLoader(error.to_string()))?;
        // SAFETY: `entry` is a loaded library.
        let version = unsafe { entry.try_enumerate_instance_version() }
            .map_err(|result| VkError::call("asking the loader for its version", result))?
            .unwrap_or(vk::API_VERSION_1_0);
        if version < vk::API_VERSION_1_3 {
            return Err(VkError::OldLoader(version_text(version)));
        }
        if validation && !has_layer(&entry)? {
            return Err(VkError::NoValidationLayer);
        }
        let debug_utils = (validation || labels) && has_debug_utils(&entry, validation)?;
        let messages = Messages::default();
        let raw = create(&entry, validation, debug_utils, &messages)?;
        anchor(&entry);
        let mut instance = Instance {
            raw,
            debug: None,
            debug_utils,
            validates: validation,
            messages,
            entry,
        };
        if validation && debug_utils {
            let loader = ext::debug_utils::Instance::new(&instance.entry, &instance.raw);
            let info = messenger_info(&instance.messages);
            // SAFETY: the list that `info` points to lives as long as `instance.messages`, which is dropped
            // after the messenger.
            let messenger = unsafe { loader.create_debug_utils_messenger(&info, None) }
                .map_err(|result| VkError::call("creating the debug messenger", result))?;
            instance.debug = Some((loader, messenger));
        }
        Ok(Arc::new(instance))
    }

    /// What the validation layer says; empty for ever without validation.
    pub fn messages(&self) -> Messages {
        self.messages.clone()
    }
}

/// Sets the process's [`ANCHOR`] once. Without it everything works, until a driver refuses to come back.
fn anchor(entry: &ash::Entry) {
    if ANCHOR.get().is_none()
        && let Ok(raw) = create(entry, false, false, &Messages::default())
        && let Err((_, raw)) = ANCHOR.set((entry.clone(), raw))
    {
        // SAFETY: another thread was first; nothing was made from this instance.
        unsafe { raw.destroy_instance(None) };
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // SAFETY: everything made from this instance holds an `Arc` of it, so nothing is left.
        unsafe {
            if let Some((loader, messenger)) = self.debug.take() {
                loader.destroy_debug_utils_messenger(messenger, None);
            }
            self.raw.destroy_instance(None);
        }
    }
}

/// `1.3.239`.
pub(crate) fn version_text(version: u32) -> String {
    format!(
        "{}.{}.{}",
        vk::api_version_major(version),
        vk::api_version_minor(version),
        vk::api_version_patch(version)
    )
}

fn has_layer(entry: &ash::Entry) -> Result<bool, VkError> {
    // SAFETY: `entry` is a loaded library.
    let layers = unsafe { entry.enumerate_instance_layer_properties() }
        .map_err(|result| VkError::call("listing the Vulkan layers", result))?;
    Ok(layers
        .iter()
        .any(|layer| layer.layer_name_as_c_str() == Ok(VALIDATION_LAYER)))
}

fn has_debug_utils(entry: &ash::Entry, validation: bool) -> Result<bool, VkError> {
    for layer in [None, validation.then_some(VALIDATION_LAYER)] {
        // SAFETY: `entry` is a loaded library.
        let extensions = unsafe { entry.enumerate_instance_extension_properties(layer) }
            .map_err(|result| VkError::call("listing the instance extensions", result))?;
        if extensions
            .iter()
            .any(|found| found.extension_name_as_c_str() == Ok(ext::debug_utils::NAME))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn create(
    entry: &ash::Entry,
    validation: bool,
    debug_utils: bool,
    messages: &Messages,
) -> Result<ash::Instance, VkError> {
    let application = vk::ApplicationInfo::default()
        .application_name(c"graphc")
        .engine_name(c"graphc")
        .api_version(vk::API_VERSION_1_3);
    let layers = [VALIDATION_LAYER.as_ptr()];
    let mut extensions = Vec::new();
    if debug_utils {
        extensions.push(ext::debug_utils::NAME.as_ptr());
    }
    if validation {
        extensions.push(ext::validation_features::NAME.as_ptr());
    }
    let enabled = [vk::ValidationFeatureEnableEXT::SYNCHRONIZATION_VALIDATION];
    let mut features = vk::ValidationFeaturesEXT::default().enabled_validation_features(&enabled);
    // Chained in, it also hears what is said while the instance is created and destroyed.
    let mut messenger = messenger_info(messages);
    let mut info = vk::InstanceCreateInfo::default()
        .application_info(&application)
        .enabled_extension_names(&extensions);
    if validation {
        info = info.enabled_layer_names(&layers).push_next(&mut features);
        if debug_utils {
            info = info.push_next(&mut messenger);
        }
    }
    // SAFETY: `info` and all it points to live until the call returns; the message list lives longer than the
    // instance.
    unsafe { entry.create_instance(&info, None) }.map_err(|result| match result {
        vk::Result::ERROR_INCOMPATIBLE_DRIVER => VkError::NoDevice,
        result => VkError::call("creating the Vulkan instance", result),
    })
}

fn messenger_info(messages: &Messages) -> vk::DebugUtilsMessengerCreateInfoEXT<'static> {
    vk::DebugUtilsMessengerCreateInfoEXT::default()
        .message_severity(
            vk::DebugUtilsMessageSeverityFlagsEXT::WARNING
                | vk::DebugUtilsMessageSeverityFlagsEXT::ERROR,
        )
        .message_type(vk::DebugUtilsMessageTypeFlagsEXT::VALIDATION)
        .pfn_user_callback(Some(on_message))
        .user_data(Arc::as_ptr(&messages.list).cast_mut().cast::<c_void>())
}

/// Called by the layer, on any thread.
unsafe extern "system" fn on_message(
    _severity: vk::DebugUtilsMessageSeverityFlagsEXT,
    _kind: vk::DebugUtilsMessageTypeFlagsEXT,
    data: *const vk::DebugUtilsMessengerCallbackDataEXT<'_>,
    list: *mut c_void,
) -> vk::Bool32 {
    if data.is_null() || list.is_null() {
        return vk::FALSE;
    }
    // SAFETY: the layer passes a valid structure, and `list` is the mutex inside the instance's `Messages`, which
    // outlives the messenger; it is only ever shared.
    let (message, list) = unsafe { ((*data).p_message, &*list.cast::<Mutex<Vec<String>>>()) };
    let text = if message.is_null() {
        String::from("(no text)")
    } else {
        // SAFETY: a non-null message is a C string by the specification.
        unsafe { CStr::from_ptr(message) }
            .to_string_lossy()
            .into_owned()
    };
    list.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(text);
    vk::FALSE
}
