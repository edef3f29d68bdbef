//! Kernels that update state: passes with every input given for each of several rounds, on the Vulkan device and on
//! the interpreter. After every round all outputs and all of the state are there from both; state is copied out by a
//! kernel that only tests have.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use graphc::device::DeviceProfile;
use graphc::dtype::DType;
use graphc::expr::Value;
use graphc::formula::{decode, encode};
use graphc::interp::Interpreter;
use graphc::kernel::Variant;

use super::gpu::{self, OnDevice};

/// One pass to test.
#[derive(Clone, Debug, Default)]
pub struct Pass {
    /// What tells it from the others, for messages.
    pub label: String,
    pub options: Vec<(&'static str, Value)>,
    pub inputs: Vec<Input>,
    pub states: Vec<State>,
    pub outputs: Vec<Output>,
}

/// What stands in a read port in each round.
#[derive(Clone, Debug)]
pub struct Input {
    pub port: &'static str,
    pub dtype: DType,
    pub shape: Vec<u64>,
    pub rounds: Vec<Vec<f64>>,
}

/// A port that is read and written; zero before the first round.
#[derive(Clone, Debug)]
pub struct State {
    pub port: &'static str,
    pub dtype: DType,
    pub shape: Vec<u64>,
}

#[derive(Clone, Debug)]
pub struct Output {
    pub port: &'static str,
    pub dtype: DType,
}

/// A written port or state after a round.
#[derive(Clone, Debug)]
pub struct Seen {
    pub round: usize,
    pub pass: usize,
    pub port: &'static str,
    pub dtype: DType,
    pub device: Vec<f64>,
    pub interpreter: Vec<f64>,
}

const PEEK: &str = r#"Kernel(
    name: "peek", doc: "y = x", types: { "T": ["f32", "f16", "u32", "int8"] },
    ports: { "x": Read(of: "T", shape: ["n..."]), "y": Write(of: "T", shape: ["n..."]) },
    reference: ["y[i<n] = x[i]"], push: { "n": U32("n") },
    variants: [Variant(name: "plain", shader: "peek.comp", local_size: ["64", "1", "1"], dispatch: ["ceil(n / 64)", "1", "1"])],
)"#;

const PEEK_SHADER: &str = r#"#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_shader_16bit_storage : enable
#include "include/storage.glsl"
layout(local_size_x = LOCAL_X) in;
#if T_INT8
// Groups of 34 bytes, of which any number may be there.
#define COUNT (n / 32 * 17)
layout(binding = BIND_X) readonly buffer In { uint16_t x[]; };
layout(binding = BIND_Y) writeonly buffer Out { uint16_t y[]; };
#else
#define COUNT n
layout(binding = BIND_X) readonly buffer In { T x[]; };
layout(binding = BIND_Y) writeonly buffer Out { T y[]; };
#endif
layout(push_constant) uniform Push { uint n; };
void main() {
    uint i = workgroup_number() * LOCAL_X + gl_LocalInvocationID.x;
    if (i < COUNT) {
        y[i] = x[i];
    }
}
"#;

/// Runs the passes that `variant` takes, all in one graph, for all rounds. Gives nothing if it takes none.
pub fn run(
    kernel: &str,
    variant: &Variant,
    types: &BTreeMap<String, DType>,
    passes: &[Pass],
    device: &DeviceProfile,
) -> Vec<Seen> {
    let what = format!(
        "{kernel} {} {types:?} (subgroups of {})",
        variant.name, device.limits.subgroup_size
    );
    let lacks = gpu::lacks(variant, types, device);
    if !lacks.is_empty() {
        eprintln!("SKIPPED {what}: the device lacks {lacks:?}");
        return vec![];
    }
    let compile = |passes: &[(usize, &Pass)], shaders| {
        let text = graph(kernel, types, passes);
        let texts = [
            ("case.ron", text.as_str()),
            ("shaders/peek.ron", PEEK),
            ("shaders/peek.comp", PEEK_SHADER),
        ];
        gpu::compile_texts(&texts, kernel, &variant.name, device, shaders)
    };
    let mut taken = Vec::new();
    for (index, pass) in passes.iter().enumerate() {
        match compile(&[(index, pass)], false) {
            Ok(_) => taken.push((index, pass)),
            Err(error) if error.contains("does not hold") => {}
            Err(error) => panic!("{what} [{}]: {error}", pass.label),
        }
    }
    if taken.is_empty() {
        eprintln!("SKIPPED {what}: it takes none of the sizes");
        return vec![];
    }
    let plan = compile(&taken, true).unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut on_device = OnDevice::open(&plan, |_| vec![]);
    let mut interpreter = Interpreter::new(&plan, |_| vec![]).unwrap();
    let rounds = passes[0].inputs[0].rounds.len();
    let mut seen = Vec::new();
    for round in 0..rounds {
        let inputs = taken.iter().flat_map(|(index, pass)| {
            pass.inputs.iter().map(move |input| {
                let bytes = encode(input.dtype, &input.rounds[round]);
                (format!("c{index}_{}", input.port), bytes)
            })
        });
        let inputs: gpu::Bytes = inputs.collect();
        let ticket = on_device.submit(0, &inputs);
        let got = on_device.wait(0, ticket);
        let want = interpreter
            .run(&plan.entries[0].name, round as u64 & 1, &inputs)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        for (index, pass) in &taken {
            let outputs = pass.outputs.iter().map(|one| (one.port, one.dtype, ""));
            let states = pass.states.iter().map(|one| (one.port, one.dtype, "_now"));
            for (port, dtype, suffix) in outputs.chain(states) {
                let name = format!("c{index}_{port}{suffix}");
                seen.push(Seen {
                    round,
                    pass: *index,
                    port,
                    dtype,
                    device: decode(dtype, &got[&name]).unwrap(),
                    interpreter: decode(dtype, &want[&name]).unwrap(),
                });
            }
        }
    }
    eprintln!("{what}: {} passes", taken.len());
    seen
}

/// A graph with those passes; their tensors are named after their numbers.
fn graph(kernel: &str, types: &BTreeMap<String, DType>, passes: &[(usize, &Pass)]) -> String {
    let tensor = |name: &str, dtype: DType, shape: &[u64]| {
        let sizes: Vec<String> = shape.iter().map(|size| format!("\"{size}\"")).collect();
        format!("\"{name}\": Tensor(\"{dtype}\", [{}]), ", sizes.join(", "))
    };
    let (mut inputs, mut state, mut body, mut outputs) =
        (String::new(), String::new(), String::new(), String::new());
    for (index, pass) in passes {
        let (mut reads, mut writes, mut peeks) = (String::new(), String::new(), String::new());
        for input in &pass.inputs {
            let name = format!("c{index}_{}", input.port);
            inputs += &tensor(&name, input.dtype, &input.shape);
            write!(reads, "\"{}\": \"{name}\", ", input.port).unwrap();
        }
        for one in &pass.states {
            let name = format!("c{index}_{}", one.port);
            state += &tensor(&name, one.dtype, &one.shape);
            write!(writes, "\"{}\": \"{name}\", ", one.port).unwrap();
            writeln!(peeks, "Pass(kernel: \"peek\", in: {{ \"x\": \"{name}\" }}, out: {{ \"y\": \"{name}_now\" }}),").unwrap();
            write!(outputs, "\"{name}_now\", ").unwrap();
        }
        for one in &pass.outputs {
            let name = format!("c{index}_{}", one.port);
            write!(writes, "\"{}\": \"{name}\", ", one.port).unwrap();
            write!(outputs, "\"{name}\", ").unwrap();
        }
        let set: Vec<String> = pass
            .options
            .iter()
            .map(|(name, value)| format!("\"{name}\": \"{value}\""))
            .collect();
        let types: Vec<String> = types
            .iter()
            .map(|(name, dtype)| format!("\"{name}\": \"{dtype}\""))
            .collect();
        writeln!(
            body,
            "Pass(name: \"c{index}\", kernel: \"{kernel}\", in: {{ {reads} }}, out: {{ {writes} }}, set: {{ {} }}, types: {{ {} }}),\n{peeks}",
            set.join(", "),
            types.join(", ")
        )
        .unwrap();
    }
    format!(
        "Graph(name: \"case\", inputs: {{ {inputs} }}, state: {{ {state} }}, body: [\n{body}], outputs: [{outputs}])"
    )
}
