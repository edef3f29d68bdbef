//! The Vulkan runtime: the only module that names ash.
//!
//! In: a [`crate::plan::Plan`] and the bytes of its weights. Out: recordings that are submitted once per forward
//! pass. The way through: [`instance`] and [`device`] open a device and describe it as data; [`fit`] checks the
//! plan against it before anything is made; [`arena`] makes the memory; [`pipeline`] the pipelines; `bind` the
//! descriptor sets of every pass at both parities; `record` the command buffers; `submit` sends them and waits.
//! `upload` runs commands once, outside of forwards; `probe` runs passes one by one and looks at what they wrote.
//!
//! What always holds: nothing here decides anything about the model. The recorder walks the plan's steps; a
//! choice that is missing from the plan is a field that the plan lacks. After an entry's first use no forward
//! pass allocates memory, updates a descriptor or records a command ([`Counters`] counts, a test reads). Every
//! object is owned by one struct that destroys it, and holds its [`device::Device`] alive while it does.
#![allow(unsafe_code)]

pub mod arena;
pub(crate) mod bind;
pub mod cache;
pub mod device;
pub mod error;
pub mod features;
pub mod fit;
pub mod instance;
pub mod pipeline;
pub(crate) mod probe;
pub(crate) mod record;
pub(crate) mod submit;
#[cfg(feature = "tracy")]
pub mod tracy;
mod upload;
#[cfg(feature = "tracy")]
pub(crate) mod zones;

pub use error::VkError;

/// How often the session did what costs time. During forwards only `submits` grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Device memory allocations.
    pub allocations: u64,
    /// Pipelines created.
    pub pipelines: u64,
    /// Descriptors written.
    pub descriptor_updates: u64,
    /// Command buffers recorded.
    pub recordings: u64,
    /// Calls of `vkQueueSubmit2`.
    pub submits: u64,
}
