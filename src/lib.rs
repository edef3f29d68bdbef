//! graphc: a render-graph compiler and runtime for transformer inference on Vulkan.
//!
//! A transformer's forward pass is a *frame*. Graphics engines draw frames from render graphs: declare passes and
//! what they read and write; let a compiler order them, place barriers, alias memory, and record the result. graphc
//! does this for inference. A model is a RON file; [`compile`](mod@compile) turns it into a [`plan::Plan`]; the
//! runtime records the plan into a command buffer once; every forward pass after that is a single queue submit.
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | pass | one compute dispatch |
//! | kernel | a shader with a typed interface: `shaders/x.comp` and its manifest `shaders/x.ron` |
//! | stage | one step of the compiler |
//! | wave | passes with no barrier between them |
//! | plan | the compiler's serialisable result |
//! | recording | a Vulkan command buffer made from a plan |
//! | entry | one compiled shape of a graph, for example `batch=32,seq=512` |
//! | arena | one memory range that the runtime binds (weights, transients, state, ..) |
//! | state | what survives a submit and is updated in place |
//! | carry | a double-buffered value: slot p is read, slot 1 - p is written |
//! | round | one run of a graph's body, several of which may be recorded in one submit |
//! | guard | state that says whether a round has anything to do; where it is 0, guarded passes are left out |
//! | parity | p, which alternates from submit to submit |
//!
//! # The way of the data
//!
//! ```text
//! graphs/*.ron -> text -> graph: expand -> infer -> check -> fuse -> plan: schedule -> pack -> sync -> lower -> Plan
//!                                                                          (verify: an independent proof)
//! Plan + weights -> vk: device, arenas, pipelines, record (once) -> run: write inputs, submit, read outputs
//! ```
//!
//! # What always holds
//!
//! - The same input gives the same plan, byte for byte.
//! - Whatever a file says, nothing panics and nothing is allocated on a file's word alone.
//! - The planner knows no Vulkan and the recorder knows no graph; the recorder decides nothing.
//! - Reads and writes are byte ranges in arenas; names never decide whether two passes conflict.
//! - A plan that leaves [`compile`](mod@compile) has been proved by [`plan::verify`], which shares no code with the
//!   stages that made it.
//!
//! `ARCHITECTURE.md` is the map of the code; `graphs/README.md`, `shaders/README.md` and `profiles/README.md` document
//! the formats that people write.

pub mod codes;
pub mod compile;
pub mod device;
pub mod diag;
pub mod dtype;
pub mod expr;
pub mod formula;
pub mod graph;
pub mod ids;
pub mod instance;
pub mod interp;
pub mod kernel;
pub mod model;
pub mod plan;
pub mod profile;
pub mod report;
#[cfg(feature = "gpu")]
pub mod run;
pub mod sources;
pub mod span;
pub mod text;
#[cfg(feature = "gpu")]
pub mod vk;
pub mod weights;
