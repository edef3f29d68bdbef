//! The decoder graphs at a small size, one plan on the Vulkan device and on the interpreter: the logits of score
//! entries behind prefill chunks, across the borders of chunks, of the sliding window and of the cached past; greedy
//! and sampled tokens for one step and four a submit and for a batch of three. The interpreter multiplies by the
//! dequantised weights in f64, so that for int8 and int4 the error is what the kernels lose and not what the format does.
#![cfg(all(feature = "gpu", feature = "shaderc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;

use graphc::dtype::DType;
use graphc::formula;
use graphc::graph::Request;
use graphc::interp::Interpreter;
use graphc::plan::{Plan, Weight};
use support::decoder::{DECODERS, Reference, Row, Shape, decode, inputs, prefill, score, words};
use support::gpu::{Bytes, OnDevice, compile_graph, profile};

/// Entries of every plan here, by number.
const SHAPES: [Shape; 6] = [
    prefill(24),
    prefill(7),
    score(11),
    decode(1, 1),
    decode(1, 4),
    decode(3, 4),
];
const SLOTS: u32 = 3;

/// Types of activations, weights and cache, and the most that one row of logits may be off (NMSE). What is stored in f16
/// may be rounded to the other neighbour; the residual stream of Gemma, which is not normalised, makes most of that. In
/// int8 the neighbours are 1/127 of a group's largest value apart, and one key or value that is rounded to the other one
/// makes 4e-4 there, 3e-9 in the other models.
const TYPES: [(DType, DType, DType, f64); 9] = [
    (DType::F32, DType::F32, DType::F32, 1e-9),
    (DType::F32, DType::F16, DType::F16, 2e-5),
    (DType::F32, DType::Int8, DType::F16, 2e-5),
    (DType::F32, DType::Int4, DType::F16, 2e-5),
    (DType::F16, DType::F16, DType::F16, 5e-4),
    (DType::F16, DType::Int8, DType::F16, 5e-4),
    (DType::F16, DType::Int4, DType::F16, 5e-4),
    (DType::F32, DType::F32, DType::Int8, 2e-3),
    (DType::F16, DType::Int8, DType::Int8, 5e-3),
];

/// A tiny model on both.
struct Both {
    ids: Vec<u32>,
    plan: Plan,
    weights: Vec<Vec<u8>>,
    label: String,
}

/// What both made of one submit.
struct Pair {
    device: Bytes,
    interpreter: Bytes,
}

impl Both {
    fn new(
        (path, golden): (&str, &str),
        (act, weight, kv): (DType, DType, DType),
        fused: bool,
    ) -> Self {
        let reference = Reference::load(golden);
        let types = [("act", act), ("weight", weight), ("kv", kv)];
        let requests: Vec<Request> = SHAPES
            .iter()
            .map(|shape| reference.request(*shape, &types, SLOTS))
            .collect();
        let plan = compile_graph(path, &requests, fused, &profile());
        Self {
            weights: reference.weights(&plan),
            ids: reference.ids,
            plan,
            label: format!("{path} act {act} weights {weight} kv {kv} fused {fused}"),
        }
    }

    fn run<'m>(&'m self) -> Run<'m> {
        let of = |weight: &Weight| {
            let known = |one: &Weight| one.name == weight.name;
            let at = self.plan.weights.iter().position(known).unwrap();
            self.weights[at].clone()
        };
        Run {
            both: self,
            device: OnDevice::open(&self.plan, of),
            interpreter: Interpreter::new(&self.plan, of).unwrap(),
            submits: 0,
        }
    }
}

/// Submits in order.
struct Run<'m> {
    both: &'m Both,
    device: OnDevice,
    interpreter: Interpreter<'m>,
    submits: u64,
}

impl Run<'_> {
    fn submit(&mut self, at: usize, rows: &[Row], stops: &[u32]) -> Pair {
        let entry = &self.both.plan.entries[at];
        let mut inputs = inputs(rows, SHAPES[at].seq, stops);
        inputs.retain(|name, _| {
            entry
                .inputs
                .iter()
                .any(|id| entry.tensors[*id].name == *name)
        });
        let ticket = self.device.submit(at, &inputs);
        let device = self.device.wait(at, ticket);
        let parity = self.submits % 2;
        self.submits += 1;
        let interpreter = self.interpreter.run(&entry.name, parity, &inputs).unwrap();
        Pair {
            device,
            interpreter,
        }
    }

    /// Fills a slot with a prompt's tokens in chunks of the two prefill entries, long ones first.
    fn prefill(&mut self, slot: u32, ids: &[u32]) {
        let mut at = 0;
        while at < ids.len() {
            let entry = usize::from(ids.len() - at < 24);
            let end = (at + SHAPES[entry].seq as usize).min(ids.len());
            self.submit(entry, &[Row::new(slot, &ids[at..end], at as u32)], &[]);
            at = end;
        }
    }

    /// The logits of one chunk, (device, interpreter) by row.
    fn logits(&mut self, row: &Row) -> Vec<(Vec<f64>, Vec<f64>)> {
        let pair = self.submit(2, std::slice::from_ref(row), &[]);
        let rows = |bytes: &Bytes| {
            let all = formula::decode(DType::F32, bytes.values().next().unwrap()).unwrap();
            let vocab = all.len() / SHAPES[2].seq as usize;
            let rows = all.chunks(vocab).take(row.ids.len());
            rows.map(<[f64]>::to_vec).collect::<Vec<_>>()
        };
        let (device, interpreter) = (rows(&pair.device), rows(&pair.interpreter));
        device.into_iter().zip(interpreter).collect()
    }

    /// Decodes until each row has `count` tokens: (device, interpreter).
    fn text(&mut self, at: usize, rows: &[Row], count: usize) -> [Vec<Vec<u32>>; 2] {
        let mut texts = [(); 2].map(|()| vec![Vec::new(); rows.len()]);
        let mut rows = rows.to_vec();
        while texts[0][0].len() < count {
            let pair = self.submit(at, &rows, &[]);
            for (texts, bytes) in texts.iter_mut().zip([pair.device, pair.interpreter]) {
                let tokens = words(&bytes["tokens"]);
                let each = tokens.chunks(SHAPES[at].steps as usize);
                texts
                    .iter_mut()
                    .zip(each)
                    .for_each(|(text, more)| text.extend(more));
            }
            rows.iter_mut().for_each(|row| row.ids.clear());
        }
        texts
    }
}

fn nmse(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let error: f64 = got.iter().zip(want).map(|(g, w)| (g - w) * (g - w)).sum();
    error / want.iter().map(|w| w * w).sum::<f64>()
}

/// The logits of all positions, some through the cache of prefill chunks and some through that of score chunks.
fn all_logits(both: &Both) -> BTreeMap<usize, (Vec<f64>, Vec<f64>)> {
    let mut run = both.run();
    let mut all = BTreeMap::new();
    let mut at = 0;
    for chunk in ["score", "prefill", "score", "score", "prefill", "score"] {
        let end = both
            .ids
            .len()
            .min(at + if chunk == "score" { 11 } else { 9 });
        let ids = &both.ids[at..end];
        if chunk == "score" {
            let rows = run.logits(&Row::new(1, ids, at as u32));
            all.extend((at..).zip(rows));
        } else {
            run.submit(0, &[Row::new(1, ids, at as u32)], &[]);
        }
        at = end;
    }
    all
}

#[test]
fn logits_are_the_interpreters() {
    for decoder in DECODERS {
        for (act, weight, kv, bound) in TYPES {
            let both = Both::new(decoder, (act, weight, kv), true);
            let rows = all_logits(&both);
            assert_eq!(rows.len(), 44, "{}", both.label);
            let errors = rows.iter().map(|(at, (got, want))| (nmse(got, want), *at));
            let (worst, at) = errors.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
            eprintln!("{}: NMSE {worst:.1e} at {at}", both.label);
            assert!(worst <= bound, "{}: NMSE {worst:.1e} at {at}", both.label);
        }
    }
}

#[test]
fn unfused_is_fused() {
    for decoder in DECODERS {
        for (act, weight, kv, bound) in [TYPES[0], TYPES[2]] {
            let [fused, unfused] = [true, false]
                .map(|fused| all_logits(&Both::new(decoder, (act, weight, kv), fused)));
            for ((at, (fused, _)), (unfused, _)) in fused.iter().zip(unfused.values()) {
                let error = nmse(unfused, fused);
                assert!(
                    error <= bound,
                    "{} {weight}: NMSE {error:.1e} at {at}",
                    decoder.0
                );
            }
        }
    }
}

/// Greedy and sampled, one step and four a submit, alone and in a batch where every row stands elsewhere.
#[test]
fn tokens_are_the_interpreters() {
    for decoder in DECODERS {
        for (act, weight, kv, _) in TYPES {
            // Rounded twice, and some eighty times larger by made-up norms: the logits are too far apart for one text.
            if (act, kv) == (DType::F16, DType::Int8) && decoder == DECODERS[1] {
                continue;
            }
            let both = Both::new(decoder, (act, weight, kv), true);
            // One session for all: what stands in a slot from before must not matter.
            let mut run = both.run();
            for sampling in [[0.0, 0.0, 1.0], [0.9, 0.0, 1.0], [1.3, 12.0, 0.8]] {
                let prompts = [&both.ids[..31], &both.ids[5..9], &both.ids[30..54]];
                let label = format!("{} {sampling:?}", both.label);
                let mut alone = Vec::new();
                for (slot, prompt) in (0..).zip(prompts) {
                    let mut texts = Vec::new();
                    for entry in [3, 4] {
                        let (last, past) = prompt.split_last().unwrap();
                        run.prefill(slot, past);
                        let row = Row {
                            sampling,
                            ..Row::new(slot, &[*last], past.len() as u32)
                        };
                        let [device, interpreter] = run.text(entry, &[row], 8);
                        assert_eq!(device, interpreter, "{label} entry {entry}");
                        texts.extend(device);
                    }
                    assert_eq!(texts[0], texts[1], "{label}: one step and four");
                    alone.push(texts.remove(0));
                }
                let mut rows = Vec::new();
                for (slot, prompt) in (0..).zip(prompts) {
                    let (last, past) = prompt.split_last().unwrap();
                    run.prefill(slot, past);
                    rows.push(Row {
                        sampling,
                        ..Row::new(slot, &[*last], past.len() as u32)
                    });
                }
                let [device, interpreter] = run.text(5, &rows, 8);
                assert_eq!(device, interpreter, "{label}: a batch");
                assert_eq!(device, alone, "{label}: a batch and alone");
            }
        }
    }
}
