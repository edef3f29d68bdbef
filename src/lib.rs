//! graphc: a render-graph compiler and runtime for transformer inference on Vulkan.

pub mod codes;
pub mod device;
pub mod diag;
pub mod dtype;
pub mod expr;
pub mod graph;
pub mod ids;
pub mod kernel;
pub mod plan;
pub mod span;
pub mod text;
