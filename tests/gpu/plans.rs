//! Small plans made by hand, so that the runtime is tested without the compiler.

use std::collections::{BTreeMap, BTreeSet};

use graphc::device::Limits;
use graphc::dtype::DType;
use graphc::graph::Recipe;
use graphc::ids::{ArenaId, IdVec, KernelId, PassId, TensorId};
use graphc::kernel::Access;
use graphc::plan::{
    Arena, ArenaKind, Barrier, Bind, Entry, Kernel, PassInfo, Plan, Role, Slot, Stats, Step,
    Tensor, Weight,
};

/// Elements of every tensor.
pub const N: usize = 64;
const BYTES: u64 = 4 * N as u64;

const SCALE: &str = r"#version 450
layout(local_size_x = 32) in;
layout(constant_id = 0) const uint FACTOR = 1;
layout(push_constant) uniform Push { uint n; } push;
layout(binding = 0) readonly buffer X { float x[]; };
layout(binding = 1) readonly buffer W { float w[]; };
layout(binding = 2) writeonly buffer Y { float y[]; };
void main() {
    uint i = gl_GlobalInvocationID.x;
    if (i < push.n) y[i] = FACTOR * x[i] + w[i];
}";

const SUM: &str = r"#version 450
layout(local_size_x = 64) in;
layout(binding = 0) readonly buffer Y { float y[]; };
layout(binding = 1) buffer S { float s[]; };
layout(binding = 2) readonly buffer C { float c[]; };
layout(binding = 3) writeonly buffer D { float d[]; };
layout(binding = 4) writeonly buffer Z { float z[]; };
void main() {
    uint i = gl_GlobalInvocationID.x;
    s[i] += 1.0;
    d[i] = c[i] + y[i];
    z[i] = y[i] + 1000.0 * s[i] + c[i];
}";

/// GLSL to SPIR-V words.
pub fn spirv(name: &str, glsl: &str) -> Vec<u32> {
    let compiler = shaderc::Compiler::new().unwrap();
    let mut options = shaderc::CompileOptions::new().unwrap();
    options.set_target_env(
        shaderc::TargetEnv::Vulkan,
        shaderc::EnvVersion::Vulkan1_3 as u32,
    );
    compiler
        .compile_into_spirv(
            glsl,
            shaderc::ShaderKind::Compute,
            name,
            "main",
            Some(&options),
        )
        .unwrap()
        .as_binary()
        .to_vec()
}

fn kernel(name: &str, glsl: &str, bindings: &[Access], push_bytes: u32, threads: u32) -> Kernel {
    Kernel {
        name: name.into(),
        variant: "plain".into(),
        label: String::new(),
        spirv: spirv(name, glsl),
        spec: vec![],
        bindings: (0..).zip(bindings.iter().copied()).collect(),
        push_bytes,
        local_size: [threads, 1, 1],
        shared_bytes: 0,
        full_subgroups: false,
        relays: None,
        reference: vec![],
    }
}

fn tensor(name: &str, role: Role, arena: u32, slot: Slot) -> Tensor {
    Tensor {
        name: name.into(),
        role,
        dtype: DType::F32,
        shape: vec![N as u64],
        view_of: None,
        arena: ArenaId(arena),
        offset: 0,
        bytes: BYTES,
        slot,
    }
}

fn pass(
    path: &str,
    kernel: u32,
    groups: u32,
    push: &[u32],
    binds: &[(&str, u32, Access)],
) -> PassInfo {
    PassInfo {
        path: path.into(),
        source: ("test.ron".into(), 1, 1),
        kernel: KernelId(kernel),
        groups: [groups, 1, 1],
        push: push.iter().flat_map(|word| word.to_ne_bytes()).collect(),
        guarded: false,
        relay: Default::default(),
        binds: (0..)
            .zip(binds)
            .map(|(binding, (port, tensor, access))| Bind {
                binding,
                port: (*port).into(),
                tensor: TensorId(*tensor),
                access: *access,
                in_place: None,
            })
            .collect(),
        dims: BTreeMap::new(),
        options: BTreeMap::new(),
        flops: 0,
        bytes: 0,
        fused: vec![],
    }
}

/// Every kind of arena and of slot in two passes:
/// ```text
///   x ─► ┌───────────────┐      ┌─────────────────────┐
///        │ scale         │─ y ─►│ sum                 │─► z
///   w ─► │ y = 3 x + w   │  s ─►│ s += 1              │─► s      (state)
///        └───────────────┘  c ─►│ next c = c + y      │─► next c (carry)
///                               │ z = y + 1000 s + c  │
///                               └─────────────────────┘
/// ```
pub fn chain() -> Plan {
    use Access::{Read, ReadWrite, Write};
    let same = Slot::Same { stride: BYTES };
    let mut scale = kernel("scale", SCALE, &[Read, Read, Write], 4, 32);
    scale.spec = vec![(0, 3)];
    let sum = kernel("sum", SUM, &[Read, ReadWrite, Read, Write, Write], 0, 64);
    let arena = |kind, bytes| Arena { kind, bytes };
    let entry = Entry {
        repeat: 1,
        guard: None,
        name: "n=64".into(),
        dims: BTreeMap::new(),
        tensors: IdVec::from_iter([
            tensor("x", Role::Input, 3, same),
            tensor("w", Role::Weight, 0, Slot::Fixed),
            tensor("y", Role::Transient, 1, Slot::Fixed),
            tensor("s", Role::State, 4, Slot::Fixed),
            tensor("c", Role::Carry, 5, same),
            tensor("c'", Role::CarryNext, 5, Slot::Other { stride: BYTES }),
            tensor("z", Role::Output, 2, same),
        ]),
        passes: IdVec::from_iter([
            pass(
                "scale",
                0,
                2,
                &[N as u32],
                &[("x", 0, Read), ("w", 1, Read), ("y", 2, Write)],
            ),
            pass(
                "sum",
                1,
                1,
                &[],
                &[
                    ("y", 2, Read),
                    ("s", 3, ReadWrite),
                    ("c", 4, Read),
                    ("d", 5, Write),
                    ("z", 6, Write),
                ],
            ),
        ]),
        steps: vec![
            Step::Barrier(Barrier::Memory),
            Step::Dispatch(PassId(0)),
            Step::Barrier(Barrier::Memory),
            Step::Dispatch(PassId(1)),
            Step::Barrier(Barrier::Host),
        ],
        inputs: vec![TensorId(0)],
        outputs: vec![TensorId(6)],
        stats: Stats::default(),
    };
    Plan {
        graph: "chain".into(),
        profile: "test".into(),
        device: String::new(),
        limits: limits(),
        needs: BTreeSet::new(),
        source_hash: [0; 32],
        params: BTreeMap::new(),
        kernels: IdVec::from_iter([scale, sum]),
        relay: None,
        arenas: IdVec::from_iter([
            arena(ArenaKind::Weight, BYTES),
            arena(ArenaKind::Transient, BYTES),
            arena(ArenaKind::Output, 2 * BYTES),
            arena(ArenaKind::Input, 2 * BYTES),
            arena(ArenaKind::State, BYTES),
            arena(ArenaKind::Carry, 2 * BYTES),
        ]),
        weights: vec![Weight {
            name: "w".into(),
            dtype: DType::F32,
            shape: vec![N as u64],
            recipe: Recipe::Tensor("w".into()),
            arena: ArenaId(0),
            offset: 0,
        }],
        entries: vec![entry],
        sources: vec![],
    }
}

const COUNT: &str = r"#version 450
layout(local_size_x = 64) in;
layout(binding = 0) buffer S { float s[]; };
void main() {
    s[gl_GlobalInvocationID.x] += 1.0;
}";

const SHOW: &str = r"#version 450
layout(local_size_x = 64) in;
layout(binding = 0) readonly buffer S { float s[]; };
layout(binding = 1) writeonly buffer Z { float z[]; };
void main() {
    uint i = gl_GlobalInvocationID.x;
    z[i] = s[i];
}";

/// Two rounds a submit, in which a pass runs only where the first element of the input is not 0 (w[0] is):
/// ```text
///   x, w ─► decide: guard = 3 x + w  ─► count, guarded: s += 1  ─► show: z = s
/// ```
pub fn guarded() -> Plan {
    use Access::{Read, ReadWrite, Write};
    let mut plan = chain();
    let scale = plan.kernels[KernelId(0)].clone();
    plan.kernels = IdVec::from_iter([
        scale,
        kernel("count", COUNT, &[ReadWrite], 0, 64),
        kernel("show", SHOW, &[Read, Write], 0, 64),
    ]);
    let guard = plan.arenas.push(Arena {
        kind: ArenaKind::State,
        bytes: BYTES,
    });
    let entry = &mut plan.entries[0];
    let mut tensor = entry.tensors[TensorId(2)].clone();
    (tensor.name, tensor.role, tensor.arena) = ("guard".into(), Role::State, guard);
    tensor.dtype = DType::U32;
    entry.tensors[TensorId(2)] = tensor;
    let mut count = pass("count", 1, 1, &[], &[("s", 3, ReadWrite)]);
    count.guarded = true;
    entry.passes = IdVec::from_iter([
        pass(
            "decide",
            0,
            2,
            &[N as u32],
            &[("x", 0, Read), ("w", 1, Read), ("y", 2, Write)],
        ),
        count,
        pass("show", 2, 1, &[], &[("s", 3, Read), ("z", 6, Write)]),
    ]);
    entry.steps = vec![
        Step::Barrier(Barrier::Guard),
        Step::Dispatch(PassId(0)),
        Step::Barrier(Barrier::Guard),
        Step::Dispatch(PassId(1)),
        Step::Barrier(Barrier::Memory),
        Step::Dispatch(PassId(2)),
        Step::Barrier(Barrier::Host),
    ];
    entry.guard = Some(TensorId(2));
    entry.repeat = 2;
    plan
}

/// [`chain`] with a first pass that takes about a second.
pub fn slow() -> Plan {
    let mut plan = chain();
    let busy = SCALE.replace(
        "if (i < push.n)",
        "float t = x[i]; for (uint k = 0; k < 30000000u; ++k) t = t * 0.5 + 1.0; if (i < push.n && t > 0.0)",
    );
    plan.kernels[KernelId(0)].spirv = spirv("slow", &busy);
    plan
}

/// No limits: what the device can do is what these tests ask about.
fn limits() -> Limits {
    Limits {
        max_storage_buffer_range: u64::MAX,
        max_allocation: u64::MAX,
        min_storage_alignment: 1,
        max_shared_memory: u64::MAX,
        max_invocations: u32::MAX,
        max_workgroup_size: [u32::MAX; 3],
        max_workgroup_count: [u32::MAX; 3],
        max_push_constants: u32::MAX,
        max_storage_buffers: u32::MAX,
        subgroup_size: 8,
        compute_units: None,
        device_memory: None,
        all_memory: None,
    }
}

/// The weight of [`chain`]: w[i] = i / 2.
pub fn weight(i: usize) -> f32 {
    i as f32 / 2.0
}

/// Fills the weight of [`chain`].
pub fn fill(
    _: usize,
    _: &Weight,
    _: u64,
    into: &mut [u8],
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    for (i, bytes) in into.chunks_exact_mut(4).enumerate() {
        bytes.copy_from_slice(&weight(i).to_ne_bytes());
    }
    Ok(())
}

/// What [`chain`] computes, forward after forward.
pub struct Expected {
    s: f32,
    c: [f32; N],
}

impl Expected {
    pub fn new() -> Self {
        Self {
            s: 0.0,
            c: [0.0; N],
        }
    }
    pub fn forward(&mut self, x: &[f32; N]) -> Vec<f32> {
        self.s += 1.0;
        (0..N)
            .map(|i| {
                let y = 3.0 * x[i] + weight(i);
                let z = y + 1000.0 * self.s + self.c[i];
                self.c[i] += y;
                z
            })
            .collect()
    }
}
