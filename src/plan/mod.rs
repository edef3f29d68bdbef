//! The plan: what the runtime records, as data. Stages 6 to 9 make it: `schedule` (waves), `pack` (places in
//! arenas), `sync` (barriers), `lower` (this type). `verify` proves a finished plan right and shares no code with
//! those four.
//!
//! Pure functions over ids: no Vulkan, no files, no clocks, no hash-map order. Same input, same bytes.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::device::{Feature, Limits};
use crate::dtype::DType;
use crate::expr::Value;
use crate::graph::Recipe;
use crate::ids::{ArenaId, IdVec, KernelId, PassId, TensorId};
use crate::kernel::{Access, push_size};

pub mod codec;
pub mod dump;
pub mod estimate;
pub mod finite;
mod fit;
pub mod guard;
pub mod live;
pub mod lower;
pub mod pack;
pub mod place;
pub mod relay;
pub mod schedule;
pub mod sync;
pub mod validate;
pub mod verify;
pub mod waves;

/// The number in a plan file's header; a reader refuses every other one.
pub const FORMAT: u32 = 7;

/// A compiled model: one or more entries that share kernels, weights and state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The graph's name.
    pub graph: String,
    /// The device profile it was compiled for, by name.
    pub profile: String,
    /// A part of the names of the devices that the profile describes: what it says of them beyond what a device can be
    /// asked about ([`Feature::is_measured`]) holds for these.
    pub device: String,
    /// The limits it obeys; a device with smaller ones cannot run it.
    pub limits: Limits,
    /// Features that the chosen kernels need.
    pub needs: BTreeSet<Feature>,
    /// blake3 of every text and number that went in.
    pub source_hash: [u8; 32],
    /// Resolved params of the graph.
    pub params: BTreeMap<String, Value>,
    /// Every kernel that some pass runs.
    pub kernels: IdVec<KernelId, Kernel>,
    /// Memory ranges that the runtime makes.
    pub arenas: IdVec<ArenaId, Arena>,
    /// The cells by which passes wait for each other in their own code, u32 each, if any do: state of the runtime that no
    /// tensor lies in.
    pub relay: Option<ArenaId>,
    /// What fills the weight arenas.
    pub weights: Vec<Weight>,
    /// Compiled shapes, smallest first.
    pub entries: Vec<Entry>,
    /// Files that spans in `PassInfo::source` refer to are spelled out there; this lists them for people.
    pub sources: Vec<String>,
}

/// A built kernel: SPIR-V with all choices made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kernel {
    /// The manifest's name.
    pub name: String,
    /// The variant's name.
    pub variant: String,
    /// Distinguishes instances of one variant, for example `f16 bias gelu`.
    pub label: String,
    /// The module; empty in plans that were compiled without a shader builder (tests of the planner).
    pub spirv: Vec<u32>,
    /// Specialisation constants: id and value.
    pub spec: Vec<(u32, u32)>,
    /// Descriptor bindings in use: number and access, as reflected from the module.
    pub bindings: Vec<(u32, Access)>,
    /// Size of the push constant block.
    pub push_bytes: u32,
    /// Workgroup size.
    pub local_size: [u32; 3],
    /// Shared memory in bytes.
    pub shared_bytes: u64,
    /// Whether the pipeline must be made with full subgroups of the plan's subgroup size.
    pub full_subgroups: bool,
    /// If its passes can wait for the one before them in their own code, and say when they are done: the bindings that no
    /// earlier pass of their chain may write. The module then has the cells of [`Plan::relay`] at binding
    /// [`RELAY_BINDING`](crate::kernel::RELAY_BINDING), and [`RELAY_WORDS`](crate::kernel::RELAY_WORDS) more push constants.
    pub relays: Option<Vec<u32>>,
    /// The manifest's formulas, for the interpreter.
    pub reference: Vec<String>,
}

impl Kernel {
    /// Storage buffers that are bound for it, the cells of relays included.
    pub fn storage_buffers(&self) -> u64 {
        self.bindings.len() as u64 + u64::from(self.relays.is_some())
    }

    /// Bytes of all its push constants, those for relays included.
    pub fn push_size(&self) -> u32 {
        push_size(self.push_bytes, self.relays.is_some())
    }
}

/// What an arena is for, which decides its kind of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ArenaKind {
    /// Written once at load.
    Weight,
    /// Lives within one submit; contents undefined before its first write.
    Transient,
    /// Survives submits; zero before the first.
    State,
    /// Double-buffered values that cross submits; zero before the first.
    Carry,
    /// Host-visible, written by the host before a submit.
    Input,
    /// Host-visible and host-cached, read by the host after a submit.
    Output,
    /// Written once at load, for weights that the device's own memory has no room for: in the host's memory, read over
    /// the bus.
    HostWeight,
}

impl ArenaKind {
    /// Whether it counts as the device's own memory.
    pub fn on_device(self) -> bool {
        !matches!(self, ArenaKind::HostWeight)
    }
}

/// One memory range that is bound as a whole buffer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arena {
    /// What it is for.
    pub kind: ArenaKind,
    /// Its size, all slots included.
    pub bytes: u64,
}

/// A tensor of the checkpoint in the runtime's own layout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Weight {
    /// The value's path.
    pub name: String,
    /// Element type in the arena.
    pub dtype: DType,
    /// Sizes, outermost first.
    pub shape: Vec<u64>,
    /// How it is made.
    pub recipe: Recipe,
    /// Where it lies.
    pub arena: ArenaId,
    /// First byte there.
    pub offset: u64,
}

/// How a tensor's place depends on the submit's parity p (0, 1, 0, 1, ..).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Slot {
    /// Not at all.
    Fixed,
    /// At `offset + p * stride`: inputs, outputs, the read side of a carry.
    Same {
        /// Distance of the two slots in bytes.
        stride: u64,
    },
    /// At `offset + (1 - p) * stride`: the written side of a carry.
    Other {
        /// Distance of the two slots in bytes.
        stride: u64,
    },
}

/// What a tensor is in its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Role {
    Input,
    Weight,
    State,
    /// Belongs to one pass, zero between passes: entries may use the same bytes for it.
    Scratch,
    /// The read side of a carry.
    Carry,
    /// The value that becomes the carry of the next submit.
    CarryNext,
    Transient,
    Output,
    /// A part or another shape of the tensor named by `view_of`.
    View,
}

/// A value with a place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tensor {
    /// Its path.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Element type.
    pub dtype: DType,
    /// Sizes, outermost first.
    pub shape: Vec<u64>,
    /// The tensor whose bytes it shows, if it is a view.
    pub view_of: Option<TensorId>,
    /// The arena.
    pub arena: ArenaId,
    /// First byte at parity 0 (for `Slot::Other`: first byte of slot 0).
    pub offset: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// How the place depends on the parity.
    pub slot: Slot,
}

impl Tensor {
    /// The byte range in its arena at parity 0 or 1. Numbers of a damaged plan saturate, and so lie outside.
    pub fn range(&self, parity: u64) -> std::ops::Range<u64> {
        let start = match self.slot {
            Slot::Fixed => self.offset,
            Slot::Same { stride } => self.offset.saturating_add(parity.saturating_mul(stride)),
            Slot::Other { stride } => {
                let other = 1u64.saturating_sub(parity);
                self.offset.saturating_add(other.saturating_mul(stride))
            }
        };
        start..start.saturating_add(self.bytes)
    }
}

/// One bound port of a pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bind {
    /// Binding number.
    pub binding: u32,
    /// The port's name in the kernel's manifest.
    pub port: String,
    /// The tensor.
    pub tensor: TensorId,
    /// How the kernel touches it.
    pub access: Access,
    /// For a written binding: the read binding of this pass whose bytes it takes over, element for element.
    pub in_place: Option<u32>,
}

/// One dispatch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PassInfo {
    /// Its path, for example `l3/attn/qkv`.
    pub path: String,
    /// RON file, line and column it comes from.
    pub source: (String, u32, u32),
    /// What runs.
    pub kernel: KernelId,
    /// Workgroup counts.
    pub groups: [u32; 3],
    /// Push constant bytes.
    pub push: Vec<u8>,
    /// Bound ports.
    pub binds: Vec<Bind>,
    /// Whether it need not run in a round whose guard is 0: see [`Entry::guard`].
    pub guarded: bool,
    /// Its part in a chain of passes that wait for each other in their own code.
    pub relay: Relay,
    /// Dims of the kernel, for the interpreter and for reports.
    pub dims: BTreeMap<String, i64>,
    /// Options of the kernel, for the interpreter and for reports.
    pub options: BTreeMap<String, Value>,
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes read and written at least once.
    pub bytes: u64,
    /// Paths of the passes that fusion folded into this one.
    pub fused: Vec<String>,
}

/// What a barrier separates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Barrier {
    /// Earlier writes become visible to later reads and writes (read after write, write after write).
    Memory,
    /// Earlier reads end before later writes start; nothing to make visible (write after read only).
    Execution,
    /// What `Memory` is, also between shaders and whatever reads the guard to decide which passes run, both ways.
    Guard,
    /// Earlier shader writes become visible to the host. Only at the end of an entry.
    Host,
    /// What `Memory` is, between one pass before and one after it, and nothing that the device is told: the later pass
    /// starts beside the earlier one and waits for it in its own code ([`Relay`]).
    Relay,
}

/// What a pass of a kernel that relays does with the cells of [`Plan::relay`]. Each of the `count` workgroups of a pass
/// adds one to the cell that the pass signals when all that it wrote can be seen; the next pass waits for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relay {
    /// The cell that it waits for, and how far.
    pub waits: Option<(u32, u32)>,
    /// The cell that its workgroups add to.
    pub signals: Option<u32>,
    /// A cell that nobody waits for any more, and which it sets to zero.
    pub clears: Option<u32>,
}

/// One step of a recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Run a pass.
    Dispatch(PassId),
    /// Wait between compute work before and after.
    Barrier(Barrier),
    /// Cut: what follows goes into the next submit. Submits of one queue are ordered by a semaphore.
    Cut,
}

/// One compiled shape of the graph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name, for example `batch=32,seq=512`.
    pub name: String,
    /// The graph's dims.
    pub dims: BTreeMap<String, i64>,
    /// Everything with a place.
    pub tensors: IdVec<TensorId, Tensor>,
    /// Every dispatch.
    pub passes: IdVec<PassId, PassInfo>,
    /// The recording: waves in order, a barrier before each wave that needs one (also before the first, against
    /// the submit before).
    pub steps: Vec<Step>,
    /// How often a submit runs the steps, with the same bindings and the same parity; at least 1. What a round leaves
    /// in state is what the next one finds; transient memory and outputs start anew. A [`Step::Cut`] at the very
    /// start cuts between rounds.
    pub repeat: u32,
    /// State whose first u32 decides, once the pass that writes it has run, whether this round's guarded passes do: not
    /// if it is 0. A device may run them all the same, so nothing may hang on what they write then. Some wherever a
    /// pass writes it.
    pub guard: Option<TensorId>,
    /// Tensors that the host writes.
    pub inputs: Vec<TensorId>,
    /// Tensors that the host reads.
    pub outputs: Vec<TensorId>,
    /// Numbers for the summary line.
    pub stats: Stats,
}

impl Entry {
    /// The steps of a whole submit in the order of recording: every round, then the barrier for the host.
    pub fn recording(&self) -> impl Iterator<Item = &Step> {
        let (round, host) = self.parts();
        let first = usize::from(round.first() == Some(&Step::Cut));
        let rounds = (1..self.repeat).flat_map(move |_| round);
        round[first..].iter().chain(rounds).chain(host)
    }

    /// The steps of one round, and the barrier for the host, which stands once at the end.
    pub fn parts(&self) -> (&[Step], Option<&Step>) {
        match self.steps.split_last() {
            Some((host @ Step::Barrier(Barrier::Host), round)) => (round, Some(host)),
            _ => (&self.steps, None),
        }
    }
}

/// What the summary line and `--json` print.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Dispatches of one round.
    pub passes: u64,
    /// Waves of one round.
    pub waves: u64,
    /// Passes on the longest dependency path, which no schedule can beat.
    pub critical_path: u64,
    /// Barriers of one round that the device is told, and the one for the host.
    pub barriers: u64,
    /// Relays of one round, which stand for a barrier each.
    pub relays: u64,
    /// Queue submits of the whole recording.
    pub submits: u64,
    /// Passes of the most common repeat round, if the graph repeats.
    pub passes_per_layer: Option<u64>,
    /// Transient bytes if nothing shared memory.
    pub transient_naive: u64,
    /// Transient bytes of this plan.
    pub transient_planned: u64,
    /// Largest sum of bytes that are live at once: no plan with these waves needs less.
    pub transient_bound: u64,
    /// Bytes of weights.
    pub weight_bytes: u64,
    /// Bytes of them in the host's memory.
    pub weight_host_bytes: u64,
    /// Bytes of state and carries.
    pub state_bytes: u64,
    /// Estimated time of one round from the profile's roofs, in milliseconds.
    pub estimate_ms: Option<f64>,
}
