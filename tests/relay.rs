//! Passes that wait for each other in their own code: which passes of a plan do, that the verifier sees every way in which
//! they could wait for the wrong thing, and that a chain computes on the device what the interpreter does, forward after
//! forward, with and, where the device has workgroups that wait, without barriers between its passes.
#![cfg(all(feature = "gpu", feature = "shaderc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;

use graphc::compile::Job;
use graphc::device::{DeviceProfile, Feature};
use graphc::dtype::DType;
use graphc::formula::{decode, encode};
use graphc::graph::Request;
use graphc::ids::PassId;
use graphc::plan::verify::{Rule, verify};
use graphc::plan::{Barrier, Plan, Relay, Step, Weight};
use graphc::span::{SourceError, Sources};
use graphc::weights::RandomWeights;
use support::gpu::{Bytes, OnDevice, build, profile, run_interpreter_often};
use support::random::Random;

/// A block of a decoder without its attention: a chain of five, the pass in front that prepares it, and one at each end that
/// these need a barrier for. Sizes leave a rest in every tile.
const GRAPH: &str = r#"Graph(
    name: "block", params: {}, dtypes: { "act": "f32", "weight": "int8" },
    dims: { "d": Is("96"), "f": Is("1056") },
    inputs: { "x": Tensor("f32", ["1", "d"]) },
    body: [
        Weight(name: "g", dtype: "f32", shape: ["d"], from: Tensor("g.weight")),
        Weight(name: "up", dtype: "weight", shape: ["f", "d"], from: Tensor("up.weight")),
        Weight(name: "down", dtype: "weight", shape: ["d", "f"], from: Tensor("down.weight")),
        Pass(kernel: "rms_norm", in: { "x": "x", "weight": "g" }, out: { "y": "m" }, set: { "eps": "1e-5" }),
        Pass(kernel: "rms_norm", in: { "x": "m", "weight": "g" }, out: { "y": "n" }, set: { "eps": "1e-5" }),
        Pass(kernel: "linear", in: { "x": "n", "w": "up", "gain": "g" }, out: { "y": "a" }, set: { "act": "silu", "eps": "1e-5" }),
        Pass(kernel: "linear", in: { "x": "a", "w": "down", "residual": "x" }, out: { "y": "b" }),
        Pass(kernel: "rms_norm", in: { "x": "b", "weight": "g" }, out: { "y": "c" }, set: { "eps": "1e-5" }),
        Pass(kernel: "linear", in: { "x": "c", "w": "up" }, out: { "y": "e" }, set: { "act": "silu" }),
        Pass(kernel: "linear", in: { "x": "e", "w": "down", "residual": "b" }, out: { "y": "h" }),
        Pass(kernel: "rms_norm", in: { "x": "h", "weight": "g" }, out: { "y": "y" }, set: { "eps": "1e-5" }),
    ],
    outputs: ["y"],
)"#;
const CHAIN: usize = 5;

/// Products in a row, whose values take turns in the same bytes: the first one of the next forward writes where the third of
/// this one did, and the second where the fourth did.
const LINE: &str = r#"Graph(
    name: "line", params: {}, dtypes: { "act": "f32", "weight": "int8" },
    dims: { "d": Is("96") },
    inputs: { "x": Tensor("f32", ["1", "d"]) },
    body: [
        Weight(name: "w", dtype: "weight", shape: ["d", "d"], from: Tensor("w.weight")),
        Pass(kernel: "linear", in: { "x": "x", "w": "w" }, out: { "y": "a" }),
        Pass(kernel: "linear", in: { "x": "a", "w": "w" }, out: { "y": "b" }),
        Pass(kernel: "linear", in: { "x": "b", "w": "w" }, out: { "y": "c" }),
        Pass(kernel: "linear", in: { "x": "c", "w": "w" }, out: { "y": "e" }),
        Pass(kernel: "linear", in: { "x": "e", "w": "w" }, out: { "y": "y" }),
    ],
    outputs: ["y"],
)"#;

/// Attention over a cache that it appends to itself, of which it reads what is there before it waits.
const ATTENTION: &str = r#"Graph(
    name: "attention", include: ["graphs/fusions/decoder.ron"],
    params: {}, dtypes: { "act": "f16", "weight": "int8" },
    dims: { "d": Is("96"), "ctx": Is("40") },
    inputs: { "x": Tensor("f16", ["1", "d"]), "positions": Tensor("u32", ["1"]), "slots": Tensor("u32", ["1"]) },
    body: [
        State(name: "k", dtype: "f16", shape: ["1", "2", "ctx", "64"]),
        State(name: "v", dtype: "f16", shape: ["1", "2", "ctx", "64"]),
        Weight(name: "g", dtype: "f32", shape: ["64"], from: Tensor("g.weight")),
        Weight(name: "d", dtype: "f32", shape: ["d"], from: Tensor("d.weight")),
        Weight(name: "qkv", dtype: "weight", shape: ["512", "d"], from: Tensor("qkv.weight")),
        Weight(name: "out", dtype: "weight", shape: ["d", "256"], from: Tensor("out.weight")),
        Weight(name: "wide", dtype: "weight", shape: ["d", "512"], from: Tensor("wide.weight")),
        Pass(kernel: "rms_norm", in: { "x": "x", "weight": "d" }, out: { "y": "m" }),
        Pass(kernel: "rms_norm", in: { "x": "m", "weight": "d" }, out: { "y": "n" }),
        Pass(kernel: "linear", in: { "x": "n", "w": "qkv" }, out: { "y": "a" }),
        Pass(
            kernel: "rope_append",
            in: { "qkv": "a", "positions": "positions", "slots": "slots", "q_norm": "g", "k_norm": "g" },
            out: { "y": "q", "k_cache": "k", "v_cache": "v" },
            set: { "heads": "4", "kv_heads": "2", "head_dim": "64" },
        ),
        Pass(
            kernel: "cached_attention",
            in: { "q": "q", "positions": "positions", "slots": "slots", "k_cache": "k", "v_cache": "v" },
            out: { "y": "b" },
            set: { "heads": "4", "kv_heads": "2", "head_dim": "64" },
        ),
        Pass(kernel: "linear", in: { "x": "b", "w": "out", "residual": "x" }, out: { "y": "c" }),
        Pass(kernel: "linear", in: { "x": "c", "w": "qkv" }, out: { "y": "e" }, types: { "S": "f32" }),
        Pass(kernel: "linear", in: { "x": "e", "w": "wide" }, out: { "y": "y" }, types: { "S": "f32" }),
    ],
    outputs: ["y"],
)"#;

struct With;

impl Sources for With {
    fn read(&self, path: &str) -> Result<String, SourceError> {
        match path {
            "block.ron" => Ok(GRAPH.into()),
            "attention.ron" => Ok(ATTENTION.into()),
            "line.ron" => Ok(LINE.into()),
            // On lavapipe (Mesa 22.3) a chain with the loop in its shaders gives wrong numbers, also where there is nothing
            // to wait for. Where the device cannot relay, the runtime's barriers wait, and one look does.
            "shaders/include/relay.glsl" if !profile().features.contains(&Feature::Relay) => {
                let text = support::sources().read(path)?;
                assert!(text.contains("while (atomicLoad("));
                Ok(text.replace("while (atomicLoad(", "if (atomicLoad("))
            }
            path => support::sources().read(path),
        }
    }
    fn list(&self, path: &str) -> Result<Vec<String>, SourceError> {
        support::sources().list(path)
    }
}

fn compile(path: &str, sources: &dyn Sources, device: &DeviceProfile) -> Result<Plan, String> {
    let request = [Request::default()];
    let mut job = Job::new(path, sources, device, &request);
    job.variants.insert("linear".into(), "stream".into());
    build(&mut job)
}

fn compiled(path: &str, device: &DeviceProfile) -> Plan {
    compile(path, &With, device).unwrap_or_else(|error| panic!("{error}"))
}

/// For the device, as if it could relay.
fn chained(path: &str) -> Plan {
    let mut device = profile();
    device.features.insert(Feature::Relay);
    compiled(path, &device)
}

fn relays(plan: &Plan) -> usize {
    let steps = plan.entries[0].steps.iter();
    steps
        .filter(|step| **step == Step::Barrier(Barrier::Relay))
        .count()
}

fn weights(weight: &Weight) -> Vec<u8> {
    let bytes = weight.dtype.size_of(&weight.shape).unwrap();
    let mut bytes = vec![0; bytes as usize];
    RandomWeights::new(7).write(weight, 0, &mut bytes).unwrap();
    bytes
}

#[test]
fn a_chain_is_made_of_passes_that_relay_and_only_where_the_device_can() {
    let plan = chained("attention.ron");
    assert_eq!((relays(&plan), plan.entries[0].passes.len()), (3, 6));
    verify(&plan).unwrap();

    let plan = chained("block.ron");
    assert_eq!(relays(&plan), CHAIN - 1);
    let cells = plan.relay.map(|arena| plan.arenas[arena].bytes / 4);
    assert_eq!(cells, Some(CHAIN as u64 - 1));
    verify(&plan).unwrap();

    let mut device = profile();
    device.features.remove(&Feature::Relay);
    let plan = compiled("block.ron", &device);
    assert_eq!((relays(&plan), plan.relay), (0, None));
    assert!(plan.kernels.iter().all(|kernel| kernel.relays.is_none()));
}

/// Texts in which one buffer that passes of a chain share is one that they need not see each other's stores in.
struct Forgetful;

impl Sources for Forgetful {
    fn read(&self, path: &str) -> Result<String, SourceError> {
        let text = With.read(path)?;
        if path != "shaders/rms_norm_vectors.comp" {
            return Ok(text);
        }
        let marked = "layout(binding = BIND_X) RELAYED readonly";
        assert!(text.contains(marked));
        Ok(text.replace(marked, "layout(binding = BIND_X) readonly"))
    }
    fn list(&self, path: &str) -> Result<Vec<String>, SourceError> {
        With.list(path)
    }
}

#[test]
fn a_shader_that_relays_marks_what_its_chain_shares() {
    let mut device = profile();
    device.features.remove(&Feature::Relay);
    compile("block.ron", &Forgetful, &device).unwrap();
    device.features.insert(Feature::Relay);
    let error = compile("block.ron", &Forgetful, &device).unwrap_err();
    let said = "the buffer of port `x` (binding 0), which is not in `before`, is not `RELAYED`";
    assert!(error.contains(said), "{error}");
}

/// A relay orders the passes of its chain alone. In the line nothing but the barrier in front of its last pass keeps the next
/// forward, which starts without one, from the values of this.
#[test]
fn a_chain_ends_in_front_of_a_barrier() {
    let plan = chained("line.ron");
    verify(&plan).unwrap();
    let steps = &plan.entries[0].steps;
    let barrier = |at: usize| match steps[at] {
        Step::Barrier(barrier) => Some(barrier),
        _ => None,
    };
    assert_eq!(barrier(0), None, "{steps:?}");
    let between = [1, 3, 5, 7].map(|at| barrier(at).unwrap());
    let (memory, relay) = (Barrier::Memory, Barrier::Relay);
    assert_eq!(between, [memory, memory, relay, memory], "{steps:?}");

    // The same with its last pass in the chain.
    let mut longer = plan.clone();
    let entry = &mut longer.entries[0];
    let passes: Vec<PassId> = entry.passes.ids().collect();
    let groups = entry.passes[passes[3]].groups.iter().product();
    entry.steps[7] = Step::Barrier(Barrier::Relay);
    entry.passes[passes[1]].relay.clears = Some(1);
    entry.passes[passes[3]].relay.signals = Some(1);
    entry.passes[passes[4]].relay.waits = Some((1, groups));
    entry.passes[passes[4]].relay.clears = Some(0);
    longer.arenas[plan.relay.unwrap()].bytes += 4;
    let violations = verify(&longer).unwrap_err();
    let all_order = violations
        .iter()
        .all(|violation| violation.rule == Rule::Order);
    assert!(all_order, "{violations:#?}");
}

#[test]
fn the_verifier_sees_every_relay_that_waits_for_the_wrong_thing() {
    let plan = chained("block.ron");
    let passes: Vec<PassId> = plan.entries[0].passes.ids().collect();
    let mutants = std::cell::Cell::new(0);
    let rejected = |what: &str, change: &dyn Fn(&mut Plan)| {
        let mut mutant = plan.clone();
        change(&mut mutant);
        assert_ne!(mutant, plan, "{what}");
        let violations = verify(&mutant).expect_err(what);
        let found = violations.iter().any(|violation| {
            let named = violation.pass.is_some() || violation.tensor.is_some();
            violation.rule == Rule::Shape || violation.rule == Rule::Relay && named
        });
        assert!(found, "{what}: {violations:#?}");
        mutants.set(mutants.get() + 1);
    };
    // The chain, which the second pass prepares.
    for (number, id) in passes.iter().copied().enumerate().skip(1).take(CHAIN + 1) {
        let place = number.saturating_sub(2);
        let relay = |plan: &mut Plan, change: &dyn Fn(&mut Relay)| {
            change(&mut plan.entries[0].passes[id].relay);
        };
        let own = plan.entries[0].passes[id].relay;
        if let Some((cell, count)) = own.waits {
            rejected("does not wait", &|plan| {
                relay(plan, &|one| one.waits = None)
            });
            for count in [0, count - 1, count + 1] {
                rejected("waits too short or for ever", &|plan| {
                    relay(plan, &|one| one.waits = Some((cell, count)));
                });
            }
            rejected("waits for another pass", &|plan| {
                relay(plan, &|one| one.waits = Some(((cell + 1) % 4, count)));
            });
        }
        if let Some(cell) = own.signals {
            rejected("does not signal", &|plan| {
                relay(plan, &|one| one.signals = None)
            });
            rejected("signals another cell", &|plan| {
                relay(plan, &|one| one.signals = Some((cell + 1) % 4));
            });
        } else {
            rejected("signals nobody", &|plan| {
                relay(plan, &|one| one.signals = Some(0))
            });
        }
        if own.clears.is_some() {
            rejected("does not clear", &|plan| {
                relay(plan, &|one| one.clears = None)
            });
        }
        // A cell that is waited for at that time, or added to.
        for cell in [place.saturating_sub(1), place] {
            rejected("clears what is in use", &|plan| {
                relay(plan, &|one| one.clears = Some(cell as u32));
            });
        }
        rejected("uses a cell that is not there", &|plan| {
            relay(plan, &|one| one.clears = Some(4));
        });
        rejected("has a kernel that does not relay", &|plan| {
            let kernel = plan.entries[0].passes[id].kernel;
            plan.kernels[kernel].relays = None;
        });
        if own.waits.is_some() {
            rejected("reads before it waits what the chain writes", &|plan| {
                let kernel = plan.entries[0].passes[id].kernel;
                plan.kernels[kernel].relays = Some(vec![0]);
            });
        }
        rejected("is guarded, unlike the others", &|plan| {
            plan.entries[0].passes[id].guarded = true;
        });
    }
    rejected("has a barrier where the next pass still waits", &|plan| {
        let steps = &mut plan.entries[0].steps;
        let at = steps
            .iter()
            .position(|step| *step == Step::Barrier(Barrier::Relay));
        steps[at.unwrap()] = Step::Barrier(Barrier::Memory);
    });
    // In front of the pass that prepares the chain, and of the chain.
    for at in [1, 3] {
        for change in [Some(Step::Barrier(Barrier::Execution)), None] {
            rejected("starts where cells are not seen", &|plan| {
                let steps = &mut plan.entries[0].steps;
                assert_eq!(steps[at], Step::Barrier(Barrier::Memory));
                match &change {
                    Some(step) => steps[at] = step.clone(),
                    None => drop(steps.remove(at)),
                }
            });
        }
    }
    rejected("is prepared by its own first pass", &|plan| {
        let cell = plan.entries[0].passes[passes[1]].relay.clears.take();
        plan.entries[0].passes[passes[2]].relay.clears = cell;
    });
    rejected("has no cells", &|plan| plan.relay = None);
    rejected("has cells that are not there", &|plan| {
        plan.relay = Some(graphc::ids::ArenaId(99));
    });
    rejected("has its cells where a tensor lies", &|plan| {
        plan.relay = Some(plan.entries[0].tensors.iter().next().unwrap().arena);
    });
    assert!(mutants.get() > 50, "{}", mutants.get());
}

/// Forwards of fresh inputs one after another, so that cells count from where the last forward left them.
fn forwards(plan: &Plan, mut device: OnDevice, inputs: &[Bytes], limit: f64) {
    for (at, input) in inputs.iter().enumerate() {
        let ticket = device.submit(0, input);
        let got = decode(DType::F32, &device.wait(0, ticket)["y"]).unwrap();
        let so_far: Vec<&Bytes> = inputs[..=at].iter().collect();
        let want = run_interpreter_often(plan, weights, &so_far);
        let want = decode(DType::F32, &want["y"]).unwrap();
        let rms = (want.iter().map(|v| v * v).sum::<f64>() / want.len() as f64).sqrt();
        let worst = got
            .iter()
            .zip(&want)
            .map(|(got, want)| (got - want).abs() / (want.abs() + rms))
            .fold(0.0, f64::max);
        assert!(
            rms > 0.0 && worst < limit,
            "rms {rms:.2e}, error {worst:.2e}"
        );
    }
}

/// What an element may be off, relative to itself and the root mean square of all.
const BLOCK_LIMIT: f64 = 2e-3;
/// The same where activations and cache are f16, as in `tests/kernels_decode.rs`.
const ATTENTION_LIMIT: f64 = 4e-3;

fn random_x(random: &mut Random, dtype: DType) -> (String, Vec<u8>) {
    let x: Vec<f64> = (0..96).map(|_| 2.0 * random.unit() - 1.0).collect();
    ("x".to_string(), encode(dtype, &x))
}

fn block_inputs() -> Vec<Bytes> {
    let mut random = Random::from_env("relay");
    let input = |_| BTreeMap::from([random_x(&mut random, DType::F32)]);
    (0..5).map(input).collect()
}

/// Tokens of one sequence, one after another.
fn attention_inputs() -> Vec<Bytes> {
    let mut random = Random::from_env("relay");
    let word = |name: &str, value: u32| (name.to_string(), value.to_ne_bytes().to_vec());
    let input = |position| {
        BTreeMap::from([
            random_x(&mut random, DType::F16),
            word("positions", position),
            word("slots", 0),
        ])
    };
    (0..36).map(input).collect()
}

#[test]
fn a_chain_gives_the_numbers_of_the_interpreter() {
    let plan = chained("block.ron");
    forwards(
        &plan,
        OnDevice::unchecked(&plan, weights),
        &block_inputs(),
        BLOCK_LIMIT,
    );
}

/// Only where workgroups wait: on lavapipe (Mesa 22.3) attention gives wrong numbers, NaN among them, in shaders with the
/// Vulkan memory model, which relays need, and the right ones in the same shaders without it.
#[test]
fn attention_in_a_chain_gives_the_numbers_of_the_interpreter() {
    if !profile().features.contains(&Feature::Relay) {
        return;
    }
    let plan = chained("attention.ron");
    let device = OnDevice::unchecked(&plan, weights);
    forwards(&plan, device, &attention_inputs(), ATTENTION_LIMIT);
}

#[test]
fn a_chain_says_nothing_wrong_to_the_validation_layer() {
    let plan = chained("block.ron");
    let bytes: Vec<Vec<u8>> = plan.weights.iter().map(weights).collect();
    forwards(
        &plan,
        OnDevice::checked(&plan, &bytes),
        &block_inputs(),
        BLOCK_LIMIT,
    );
}
