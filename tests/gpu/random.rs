//! Random plans on the device: whatever the graph, what the recorder makes of its plan gives the numbers of the
//! interpreter, with two forwards in flight, and the validation layer sees no hazard. So all three witnesses look at the
//! same plan: views, results in place, shared bytes, state, carries, guards, rounds and several entries.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use graphc::dtype::DType;
use graphc::graph::Graph;
use graphc::interp::Interpreter;
use graphc::kernel::Access;
use graphc::plan::verify::verify;
use graphc::plan::{Kernel, Plan, Weight};
use graphc::run::{Session, Ticket};

use super::planning::plan;
use super::planning::random::{numbers, random_graphs, weight};
use super::seeds::Random;
use super::{checked, plans};

/// Elements of the largest tensor of a random graph.
const MOST: u32 = 300;
const THREADS: u32 = 64;

/// What the stand-in's formulas say, one after the other, as GLSL for one workgroup. A result is written when all that it
/// is made of is read, since it may take over the bytes of an argument. Numbers of elements are pushed, and which ports
/// are of u32.
fn glsl(kernel: &Kernel) -> String {
    let ports = kernel.bindings.len();
    let mut text = format!(
        "#version 450\nlayout(local_size_x = {THREADS}) in;\n\
         layout(push_constant) uniform Push {{ uint n[{ports}]; uint whole; }};\n\
         shared uint results[{MOST}];\n"
    );
    let mut sum = "1.0".to_string();
    for (at, (binding, access)) in kernel.bindings.iter().enumerate() {
        let only = match access {
            Access::Read => "readonly ",
            Access::Write => "writeonly ",
            Access::ReadWrite => "coherent ",
        };
        writeln!(
            text,
            "layout(std430, binding = {binding}) {only}buffer B{at} {{ uint p{at}[]; }};"
        )
        .unwrap();
        if access.reads() {
            writeln!(
                text,
                "float at{at}(uint i) {{ uint word = p{at}[i % n[{at}]]; \
                 return (whole >> {at} & 1u) == 1u ? float(word) : uintBitsToFloat(word); }}"
            )
            .unwrap();
            write!(sum, " + at{at}(i) / {}.0", binding + 3).unwrap();
        }
    }
    let each = format!("for (uint i = gl_LocalInvocationID.x; i < {MOST}; i += {THREADS})");
    let wait = "memoryBarrierShared();\nmemoryBarrierBuffer();\nbarrier();";
    text += "void main() {\n";
    let ports = kernel.bindings.iter().enumerate();
    let writing = ports.filter(|(_, (_, access))| access.writes());
    for ((at, _), formula) in writing.zip(&kernel.reference) {
        let value = match formula.split_once(" = ").unwrap().1 {
            "1 + i" => "1u + i".to_string(),
            kept if kept.ends_with("[i]") => format!("i < n[{at}] ? p{at}[i] : 0u"),
            _ => format!("floatBitsToUint({sum})"),
        };
        writeln!(text, "{each} results[i] = {value};\n{wait}").unwrap();
        writeln!(
            text,
            "{each} if (i < n[{at}]) p{at}[i] = results[i];\n{wait}"
        )
        .unwrap();
    }
    text + "}\n"
}

/// The plan with kernels that a device can run.
fn with_kernels(mut plan: Plan, built: &mut BTreeMap<String, Vec<u32>>) -> Plan {
    for kernel in plan.kernels.iter_mut() {
        let text = glsl(kernel);
        let spirv = built
            .entry(text)
            .or_insert_with_key(|text| plans::spirv("stand_in", text));
        kernel.spirv = spirv.clone();
        let ports = kernel.bindings.len() as u32;
        kernel.push_bytes = 4 * (ports + 1);
        kernel.shared_bytes = u64::from(4 * MOST);
        kernel.local_size = [THREADS, 1, 1];
    }
    for entry in &mut plan.entries {
        for pass in entry.passes.iter_mut() {
            let tensors = || pass.binds.iter().map(|bind| &entry.tensors[bind.tensor]);
            let whole = tensors()
                .enumerate()
                .filter(|(_, tensor)| tensor.dtype == DType::U32)
                .fold(0, |all, (at, _)| all | 1 << at);
            let push: Vec<u32> = tensors()
                .map(|tensor| tensor.shape.iter().product::<u64>() as u32)
                .chain([whole])
                .collect();
            pass.push = push.iter().flat_map(|word| word.to_ne_bytes()).collect();
            pass.groups = [1, 1, 1];
        }
    }
    plan
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let words = bytes.chunks_exact(4);
    words
        .map(|word| f32::from_le_bytes(word.try_into().unwrap()))
        .collect()
}

/// Several submits of the plan's entries in turn, on the device and interpreted.
fn compare(graphs: &[Graph], plan: &Plan) {
    let mut interpreter = Interpreter::new(plan, weight).unwrap();
    let mut session = Session::open(
        checked(),
        Arc::new(plan.clone()),
        &mut |_, info: &Weight, first: u64, into: &mut [u8]| {
            let bytes = weight(info);
            into.copy_from_slice(&bytes[first as usize..][..into.len()]);
            Ok(())
        },
        &mut |_| {},
    )
    .unwrap();
    let messages = session.messages();
    let mut before: Option<(Ticket, BTreeMap<String, Vec<u8>>)> = None;
    let read = |session: &mut Session, ticket, expected: &BTreeMap<String, Vec<u8>>| {
        let output = session.wait(ticket).unwrap();
        for (name, wanted) in expected {
            let got = output.tensor::<f32>(name).unwrap();
            for (i, (got, wanted)) in got.iter().zip(floats(wanted)).enumerate() {
                assert!(
                    (got - wanted).abs() <= 1e-4 * wanted.abs().max(1.0),
                    "{name}[{i}]: {got}, interpreted {wanted}\n{plan:#?}"
                );
            }
        }
    };
    for submit in 0..2 * graphs.len() as u64 + 2 {
        let graph = &graphs[submit as usize % graphs.len()];
        let inputs: BTreeMap<String, Vec<u8>> = graph
            .inputs
            .iter()
            .map(|input| {
                let info = &graph.values[*input];
                (info.name.clone(), numbers(info.shape[0], submit))
            })
            .collect();
        let expected = interpreter.run(&graph.entry, submit % 2, &inputs).unwrap();
        let entry = session.entry(&graph.entry).unwrap();
        let mut slot = session.begin(entry).unwrap();
        for (name, bytes) in &inputs {
            slot.input::<f32>(name)
                .unwrap()
                .copy_from_slice(&floats(bytes));
        }
        let ticket = slot.submit().unwrap();
        if let Some((ticket, expected)) = before.replace((ticket, expected)) {
            read(&mut session, ticket, &expected);
        }
    }
    let (ticket, expected) = before.unwrap();
    read(&mut session, ticket, &expected);
    drop(session);
    assert_eq!(messages.all(), Vec::<String>::new(), "{plan:#?}");
}

/// `GRAPHC_RANDOM_PLANS` says how many.
#[test]
fn random_plans_do_what_the_interpreter_says() {
    let count = std::env::var("GRAPHC_RANDOM_PLANS");
    let count = count.map_or(40, |count| count.parse().unwrap());
    let mut built = BTreeMap::new();
    let mut guarded = 0;
    Random::from_env("random_plans").check(count, 2048, |u| {
        let graphs = random_graphs(u)?;
        let plan = with_kernels(plan(&graphs), &mut built);
        verify(&plan).unwrap();
        guarded += usize::from(plan.entries.iter().any(|entry| entry.guard.is_some()));
        compare(&graphs, &plan);
        Ok(())
    });
    println!(
        "{count} plans, {guarded} with a guard, {} kernels",
        built.len()
    );
}
