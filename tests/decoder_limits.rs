//! Decoders on devices that are too small for them: tables, heads and products cut into parts that a binding holds, and
//! weights in the host's memory. Tokens and logits stay what they are, on the interpreter and on the Vulkan device.

#![cfg(all(feature = "gpu", feature = "shaderc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;

use graphc::device::{DeviceProfile, Limits};
use graphc::dtype::DType;
use graphc::expr::Value;
use graphc::formula;
use graphc::graph::{Recipe, Request};
use graphc::interp::Interpreter;
use graphc::plan::{ArenaKind, Plan, Weight};
use support::decoder::{CTX, DECODERS, Reference, Row, decode, inputs, prefill, score, words};
use support::gpu::{self, Bytes, OnDevice};
use support::tiny::made_up;

/// Wide enough for several parts of what grows with them.
const SIZES: [(&str, i64); 2] = [("vocab", 768), ("d_ff", 288)];
/// Holds what cannot be cut, the largest of which is a layer's query, key and value weight: 256 x 64.
const RANGE: u64 = 256 * 64 * 4;
const PROMPT: [u32; 11] = [5, 90, 17, 3, 66, 42, 9, 71, 28, 80, 33];
const STEPS: u32 = 4;

/// Prefill, decode, score.
fn requests(golden: &str) -> Vec<Request> {
    let reference = Reference::load(golden);
    let types = ["act", "weight", "kv"].map(|name| (name, DType::F32));
    let shapes = [prefill(16), decode(1, STEPS), score(11)];
    let request = |shape| {
        let mut request = reference.request(shape, &types, 1);
        let sizes = SIZES.map(|(name, size)| (name.to_string(), Value::Int(size)));
        request.set.extend(sizes);
        request
    };
    shapes.map(request).into()
}

fn plan((path, golden): (&str, &str), change: impl Fn(&mut Limits)) -> Plan {
    let mut device: DeviceProfile = gpu::profile();
    change(&mut device.limits);
    gpu::compile_graph(path, &requests(golden), true, &device)
}

/// A part of a weight has the whole one's bytes.
fn weights(weight: &Weight) -> Vec<u8> {
    let Recipe::Slice { of, start, count } = &weight.recipe else {
        return made_up(weight);
    };
    let mut whole = weight.clone();
    whole.recipe = (**of).clone();
    whole.shape[0] = start + count;
    let bytes = made_up(&whole);
    let row = bytes.len() / (start + count) as usize;
    bytes[*start as usize * row..].to_vec()
}

/// What each submit is told: a prompt, tokens of it that are decoded twice, and logits of another text.
fn submits() -> [(usize, Bytes); 4] {
    let (last, past) = PROMPT.split_last().unwrap();
    let fresh = Row::new(0, &[*last], past.len() as u32);
    let more = Row {
        ids: vec![],
        ..fresh.clone()
    };
    let other = Row::new(0, &PROMPT, CTX - 11);
    [
        (0, inputs(&[Row::new(0, past, 0)], 16, &[])),
        (1, inputs(&[fresh], 1, &[])),
        (1, inputs(&[more], 1, &[])),
        (2, inputs(&[other], 11, &[])),
    ]
}

/// Only what the entry reads.
fn read(plan: &Plan, entry: usize, inputs: &Bytes) -> Bytes {
    let entry = &plan.entries[entry];
    let names = entry.inputs.iter().map(|id| &entry.tensors[*id].name);
    names
        .map(|name| (name.clone(), inputs[name].clone()))
        .collect()
}

/// Tokens and logits.
type Said = (Vec<u32>, Vec<f64>);

fn said(outputs: &[Bytes]) -> Said {
    let tokens = outputs[1..3]
        .iter()
        .flat_map(|bytes| words(&bytes["tokens"]));
    let logits = formula::decode(DType::F32, &outputs[3]["logits"]).unwrap();
    (tokens.collect(), logits)
}

fn interpreted(plan: &Plan) -> Said {
    let mut interpreter = Interpreter::new(plan, weights).unwrap();
    let outputs = submits()
        .into_iter()
        .enumerate()
        .map(|(at, (entry, inputs))| {
            let name = &plan.entries[entry].name;
            let inputs: BTreeMap<String, Vec<u8>> = read(plan, entry, &inputs);
            interpreter.run(name, at as u64 % 2, &inputs).unwrap()
        });
    said(&outputs.collect::<Vec<_>>())
}

fn on_device(plan: &Plan) -> Said {
    let mut device = OnDevice::open(plan, weights);
    let outputs = submits().into_iter().map(|(entry, inputs)| {
        let ticket = device.submit(entry, &read(plan, entry, &inputs));
        device.wait(entry, ticket)
    });
    said(&outputs.collect::<Vec<_>>())
}

fn nmse(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let error: f64 = got.iter().zip(want).map(|(g, w)| (g - w) * (g - w)).sum();
    error / want.iter().map(|w| w * w).sum::<f64>()
}

/// The passes of the chain that the pass of this path and kernel became.
fn parts(plan: &Plan, entry: usize, kernel: &str, what: impl Fn(&str) -> bool) -> usize {
    let passes = plan.entries[entry].passes.iter();
    passes
        .filter(|pass| plan.kernels[pass.kernel].name == kernel && pass.path.contains("/rows"))
        .filter(|pass| pass.binds.iter().any(|bind| what(&bind.port)))
        .count()
}

#[test]
fn what_is_larger_than_a_binding_gives_the_same_in_parts() {
    for decoder in DECODERS {
        let whole = plan(decoder, |_| {});
        let cut = plan(decoder, |limits| limits.max_storage_buffer_range = RANGE);
        for entry in &cut.entries {
            for bind in entry.passes.iter().flat_map(|pass| &pass.binds) {
                assert!(entry.tensors[bind.tensor].bytes <= RANGE);
            }
        }
        // The first part of a chain keeps the path of the pass.
        assert!(
            parts(&cut, 1, "embed_sum", |port| port == "word") >= 2,
            "{}",
            decoder.0
        );
        assert!(
            parts(&cut, 2, "linear", |port| port == "w") >= 2,
            "{}",
            decoder.0
        );
        assert!(
            parts(&cut, 1, "linear", |port| port == "gain") >= 2,
            "{}",
            decoder.0
        );
        if decoder.0.contains("llama") {
            assert!(parts(&cut, 1, "linear", |port| port == "residual") >= 1);
        }
        let want = interpreted(&whole);
        assert_eq!(interpreted(&cut), want, "{}", decoder.0);
        for plan in [&whole, &cut] {
            let got = on_device(plan);
            assert_eq!(got.0, want.0, "{}", decoder.0);
            let error = nmse(&got.1, &want.1);
            assert!(error < 1e-9, "{}: NMSE {error:.1e}", decoder.0);
        }
    }
}

fn weight_bytes(plan: &Plan, kind: ArenaKind) -> u64 {
    let arenas = plan.arenas.iter().filter(|arena| arena.kind == kind);
    arenas.map(|arena| arena.bytes).sum()
}

#[test]
fn weights_in_host_memory_give_the_same() {
    for decoder in DECODERS {
        let all = plan(decoder, |limits| limits.device_memory = None);
        let want = on_device(&all);
        let bytes = weight_bytes(&all, ArenaKind::Weight);
        let others: u64 = all.arenas.iter().map(|arena| arena.bytes).sum::<u64>() - bytes;
        for share in [0, bytes / 2, bytes - 1] {
            let placed = plan(decoder, |limits| {
                limits.device_memory = Some(others + share)
            });
            let (device, host) = (
                weight_bytes(&placed, ArenaKind::Weight),
                weight_bytes(&placed, ArenaKind::HostWeight),
            );
            assert_eq!(device + host, bytes);
            assert!(device <= share && host > 0);
            // The room is used as far as the weights' sizes allow.
            let smallest = placed
                .weights
                .iter()
                .filter(|weight| placed.arenas[weight.arena].kind == ArenaKind::HostWeight);
            let smallest = smallest.filter_map(|weight| weight.dtype.size_of(&weight.shape));
            // Places start at multiples of 256 bytes.
            let smallest = smallest.min().unwrap().next_multiple_of(256);
            assert!(smallest > share - device, "{smallest} {share} {device}");
            assert_eq!(on_device(&placed), want, "{}: {share} bytes", decoder.0);
        }
        // A table that is only gathered from is the first to go.
        if decoder.0.contains("llama") {
            let placed = plan(decoder, |limits| {
                limits.device_memory = Some(others + bytes - 1)
            });
            let out: Vec<&Weight> = placed
                .weights
                .iter()
                .filter(|weight| placed.arenas[weight.arena].kind == ArenaKind::HostWeight)
                .collect();
            assert_eq!(out.len(), 1);
            assert_eq!(out[0].shape, [768, 64]);
            assert!(format!("{:?}", out[0].recipe).contains("token_embd"));
        }
    }
}
