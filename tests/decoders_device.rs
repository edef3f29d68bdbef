//! The decoder graphs at a small size, one plan on the Vulkan device and on the interpreter: the logits of score
//! entries behind prefill chunks, across the borders of chunks, of the sliding window and of the cached past; greedy
//! and sampled tokens for one step and four a submit and for a batch of three. The interpreter multiplies by the
//! dequantised weights in f64, so that for int8 and int4 the error is what the kernels lose and not what the format does.
#![cfg(all(feature = "gpu", feature = "shaderc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::{BTreeMap, VecDeque};

use graphc::compile::Job;
use graphc::device::Feature;
use graphc::dtype::DType;
use graphc::formula;
use graphc::graph::Request;
use graphc::interp::Interpreter;
use graphc::plan::{Plan, Weight};
use support::decoder::{DECODERS, Reference, Row, Shape, decode, inputs, prefill, score, words};
use support::gpu::{Bytes, OnDevice, build, compile_graph, profile};

/// Entries of every plan here, by number.
const SHAPES: [Shape; 7] = [
    prefill(24),
    prefill(7),
    score(11),
    decode(1, 1),
    decode(1, 4),
    decode(3, 4),
    decode(2, 4),
];
const SLOTS: u32 = 3;

/// Types of activations, weights and cache, and the most that one row of logits may be off (NMSE). What is stored in f16
/// may be rounded to the other neighbour; the residual stream of Gemma, which is not normalised, makes most of that. In
/// int8 the neighbours are 1/127 of a group's largest value apart, and one key or value that is rounded to the other one
/// makes 4e-4 there, 3e-9 in the other models.
const TYPES: [Types; 11] = [
    (DType::F32, DType::F32, DType::F32, 1e-9),
    (DType::F32, DType::F16, DType::F16, 2e-5),
    (DType::F32, DType::Int8, DType::F16, 2e-5),
    (DType::F32, DType::Int4, DType::F16, 2e-5),
    (DType::F16, DType::F16, DType::F16, 5e-4),
    (DType::F16, DType::Int8, DType::F16, 5e-4),
    (DType::F16, DType::Int4, DType::F16, 5e-4),
    (DType::F16, DType::Int8g64, DType::F16, 5e-4),
    (DType::F32, DType::Int4g128, DType::F16, 2e-5),
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

/// Who runs a submit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Device,
    Interpreter,
}

const SIDES: [Side; 2] = [Side::Device, Side::Interpreter];

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
    /// Submits to the interpreter.
    submits: u64,
}

impl Run<'_> {
    fn submit(&mut self, side: Side, at: usize, rows: &[Row]) -> Bytes {
        let entry = &self.both.plan.entries[at];
        let mut inputs = inputs(rows, SHAPES[at].seq, &[]);
        inputs.retain(|name, _| {
            entry
                .inputs
                .iter()
                .any(|id| entry.tensors[*id].name == *name)
        });
        if side == Side::Device {
            let ticket = self.device.submit(at, &inputs);
            return self.device.wait(at, ticket);
        }
        let parity = self.submits % 2;
        self.submits += 1;
        self.interpreter.run(&entry.name, parity, &inputs).unwrap()
    }

    /// Fills a slot with a prompt's tokens in chunks of the two prefill entries, long ones first.
    fn prefill(&mut self, side: Side, slot: u32, ids: &[u32]) {
        let mut at = 0;
        while at < ids.len() {
            let entry = usize::from(ids.len() - at < 24);
            let end = (at + SHAPES[entry].seq as usize).min(ids.len());
            self.submit(side, entry, &[Row::new(slot, &ids[at..end], at as u32)]);
            at = end;
        }
    }

    /// The logits of one chunk by row.
    fn logits(&mut self, side: Side, row: &Row) -> Vec<Vec<f64>> {
        let bytes = self.submit(side, 2, std::slice::from_ref(row));
        let all = formula::decode(DType::F32, bytes.values().next().unwrap()).unwrap();
        let vocab = all.len() / SHAPES[2].seq as usize;
        let rows = all.chunks(vocab).take(row.ids.len());
        rows.map(<[f64]>::to_vec).collect()
    }

    /// Decodes until each row has `count` tokens.
    fn text(&mut self, side: Side, at: usize, rows: &[Row], count: usize) -> Vec<Vec<u32>> {
        let mut texts = vec![Vec::new(); rows.len()];
        let mut rows = rows.to_vec();
        while texts[0].len() < count {
            let tokens = words(&self.submit(side, at, &rows)["tokens"]);
            let each = tokens.chunks(SHAPES[at].steps as usize);
            texts
                .iter_mut()
                .zip(each)
                .for_each(|(text, more)| text.extend(more));
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

type Logits = BTreeMap<usize, Vec<f64>>;

/// The logits of all positions, some through the cache of prefill chunks and some through that of score chunks.
fn all_logits(run: &mut Run<'_>, side: Side) -> Logits {
    let both = run.both;
    let mut all = BTreeMap::new();
    let mut at = 0;
    for chunk in ["score", "prefill", "score", "score", "prefill", "score"] {
        let end = both
            .ids
            .len()
            .min(at + if chunk == "score" { 11 } else { 9 });
        let row = Row::new(1, &both.ids[at..end], at as u32);
        if chunk == "score" {
            all.extend((at..).zip(run.logits(side, &row)));
        } else {
            run.submit(side, 0, &[row]);
        }
        at = end;
    }
    assert_eq!(all.len(), 44, "{}", both.label);
    all
}

type Types = (DType, DType, DType, f64);

/// Everything that is asked of a model, with each of [`TYPES`] that has these activations. Making pipelines takes most
/// of the time, so that one plan serves all questions, and the tests below share few pipelines with their neighbours.
fn device_is_interpreter(decoder: (&str, &str), activations: DType) {
    for (at, types) in (0..).zip(TYPES) {
        let (act, weight, kv, bound) = types;
        if act != activations {
            continue;
        }
        let both = Both::new(decoder, (act, weight, kv), true);
        // One session for all: what stands in a slot from before must not matter.
        let mut run = both.run();
        let rows = logits_are_the_interpreters(&mut run, bound);
        if [0, 2].contains(&at) {
            unfused_is_fused(decoder, types, &rows);
        }
        // Rounded twice, and some eighty times larger by made-up norms: the logits are too far apart from the
        // interpreter's for one text, with int8 weights for a drawn one. The device's own must still be one.
        let rounded = |kind| (act, kind) == (DType::F16, DType::Int8) && decoder == DECODERS[1];
        tokens_agree(&mut run, act, |temperature| {
            !rounded(kv) && (temperature == 0.0 || !rounded(weight))
        });
    }
}

#[test]
fn llama_in_f32() {
    device_is_interpreter(DECODERS[0], DType::F32);
}

#[test]
fn llama_in_f16() {
    device_is_interpreter(DECODERS[0], DType::F16);
}

#[test]
fn gemma3_in_f32() {
    device_is_interpreter(DECODERS[1], DType::F32);
}

#[test]
fn gemma3_in_f16() {
    device_is_interpreter(DECODERS[1], DType::F16);
}

#[test]
fn qwen3_in_f32() {
    device_is_interpreter(DECODERS[2], DType::F32);
}

#[test]
fn qwen3_in_f16() {
    device_is_interpreter(DECODERS[2], DType::F16);
}

/// One row a step, four steps a submit, two submits on their way, and products that wait for the pass before them in their
/// own code where the device can: the text is that of the same products behind barriers, one submit after the other.
#[test]
fn relays_write_the_text_of_barriers() {
    let can_relay = profile().features.contains(&Feature::Relay);
    for (path, golden) in DECODERS {
        let reference = Reference::load(golden);
        let types = [
            ("act", DType::F16),
            ("weight", DType::Int8),
            ("kv", DType::F16),
        ];
        let request = [reference.request(decode(1, 4), &types, SLOTS)];
        let [relayed, parted] = [true, false].map(|relays| {
            let mut device = profile();
            if !relays {
                device.features.remove(&Feature::Relay);
            }
            let sources = support::sources();
            let mut job = Job::new(path, &sources, &device, &request);
            job.variants.insert("linear".into(), "stream".into());
            let plan = build(&mut job).unwrap_or_else(|error| panic!("{error}"));
            let chained = plan.entries[0].stats.relays > 0;
            assert_eq!(chained, relays && can_relay, "{path}");
            streamed_text(&reference, &plan, if relays { 2 } else { 1 })
        });
        assert_eq!(relayed, parted, "{path}");
    }
}

/// 24 tokens behind the first one of the reference, with so many submits on their way.
fn streamed_text(reference: &Reference, plan: &Plan, on_their_way: usize) -> Vec<u32> {
    let weights = reference.weights(plan);
    let mut device = OnDevice::unchecked(plan, |weight| {
        let at = plan.weights.iter().position(|one| one.name == weight.name);
        weights[at.unwrap()].clone()
    });
    let entry = &plan.entries[0];
    let mut row = Row::new(1, &reference.ids[..1], 0);
    let (mut text, mut tickets) = (Vec::new(), VecDeque::new());
    for submit in 0..6 + on_their_way {
        if submit < 6 {
            let mut inputs = inputs(std::slice::from_ref(&row), 1, &[]);
            let known = |name: &String| {
                let mut ids = entry.inputs.iter();
                ids.any(|id| entry.tensors[*id].name == *name)
            };
            inputs.retain(|name, _| known(name));
            tickets.push_back(device.submit(0, &inputs));
            row.ids.clear();
        }
        if tickets.len() == on_their_way || submit >= 6 {
            let done = tickets.pop_front().map(|ticket| device.wait(0, ticket));
            text.extend(
                done.map(|outputs| words(&outputs["tokens"]))
                    .unwrap_or_default(),
            );
        }
    }
    assert_eq!(text.len(), 24);
    text
}

/// Gives those of the device.
fn logits_are_the_interpreters(run: &mut Run<'_>, bound: f64) -> Logits {
    let [got, want] = SIDES.map(|side| all_logits(run, side));
    let both = run.both;
    let errors = got.iter().map(|(at, got)| (nmse(got, &want[at]), *at));
    let (worst, at) = errors.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
    eprintln!("{}: NMSE {worst:.1e} at {at}", both.label);
    assert!(worst <= bound, "{}: NMSE {worst:.1e} at {at}", both.label);
    got
}

fn unfused_is_fused(decoder: (&str, &str), (act, weight, kv, bound): Types, fused: &Logits) {
    let both = Both::new(decoder, (act, weight, kv), false);
    let unfused = all_logits(&mut both.run(), Side::Device);
    for (at, fused) in fused {
        let error = nmse(&unfused[at], fused);
        assert!(
            error <= bound,
            "{} {weight}: NMSE {error:.1e} at {at}",
            decoder.0
        );
    }
}

/// Greedy and sampled, one step and four a submit, alone and in a batch where every row stands elsewhere: all as the
/// interpreter's, which takes one step a submit (`tests/decoders.rs` has it take several) and fills its slots once, or,
/// at temperatures where it is not `like` it, as the device's own in single steps.
///
/// A batch of two writes what each of its rows does alone, and one of three does with activations in f32. In f16 it does
/// not have to: three rows have a pass for their norms, which stores them, and one row has not. So there it is held
/// against the interpreter's, or, where the device's is not like it, against the device's with its rows in another order.
fn tokens_agree(run: &mut Run<'_>, activations: DType, like: impl Fn(f32) -> bool) {
    let both = run.both;
    let prompts = [&both.ids[..31], &both.ids[5..9], &both.ids[30..54]];
    for (slot, prompt) in (0..).zip(prompts) {
        run.prefill(Side::Interpreter, slot, &prompt[..prompt.len() - 1]);
    }
    for sampling in [[0.0, 0.0, 1.0], [0.9, 0.0, 1.0], [1.3, 12.0, 0.8]] {
        let label = format!("{} {sampling:?}", both.label);
        let row = |slot: u32, prompt: &[u32]| Row {
            sampling,
            ..Row::new(slot, &prompt[prompt.len() - 1..], prompt.len() as u32 - 1)
        };
        let mut alone = Vec::new();
        for (slot, prompt) in (0..).zip(prompts) {
            let row = row(slot, prompt);
            let mut want = None;
            if like(sampling[0]) {
                want = Some(run.text(Side::Interpreter, 3, std::slice::from_ref(&row), 8));
            }
            for entry in [3, 4] {
                run.prefill(Side::Device, slot, &prompt[..prompt.len() - 1]);
                let got = run.text(Side::Device, entry, std::slice::from_ref(&row), 8);
                let want = want.get_or_insert_with(|| got.clone());
                assert_eq!(got, *want, "{label} entry {entry}");
            }
            alone.extend(want.unwrap());
        }
        let mut rows = Vec::new();
        for (slot, prompt) in (0..).zip(prompts) {
            run.prefill(Side::Device, slot, &prompt[..prompt.len() - 1]);
            rows.push(row(slot, prompt));
        }
        let two = run.text(Side::Device, 6, &rows[..2], 8);
        assert_eq!(two, alone[..2], "{label}: a batch of two and alone");
        for (slot, prompt) in (0..).zip(prompts) {
            run.prefill(Side::Device, slot, &prompt[..prompt.len() - 1]);
        }
        let together = run.text(Side::Device, 5, &rows, 8);
        let want = if activations == DType::F32 {
            alone
        } else if like(sampling[0]) {
            run.text(Side::Interpreter, 5, &rows, 8)
        } else {
            for (slot, prompt) in (0..).zip(prompts) {
                run.prefill(Side::Device, slot, &prompt[..prompt.len() - 1]);
            }
            rows.reverse();
            let turned = run.text(Side::Device, 5, &rows, 8);
            turned.into_iter().rev().collect()
        };
        assert_eq!(together, want, "{label}: a batch of three");
    }
}
