//! Every decoder graph of the repository at a small size on the device, under the validation layer with
//! synchronisation validation inside and between submits: not one message; the logits that `transformers` computes;
//! the same text for every number of steps a submit, every batch and every cut; and submits that only submit.
#![cfg(all(feature = "gpu", feature = "shaderc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::VecDeque;

use graphc::compile::Job;
use graphc::dtype::DType;
use graphc::formula;
use graphc::graph::Request;
use graphc::plan::Plan;
use support::decoder::{
    DECODERS, NONE, Reference, Row, Shape, decode, inputs, prefill, score, words,
};
use support::gpu::{Bytes, OnDevice, build, profile};

const PREFILL: usize = 0;
const ONE_STEP: usize = 1;
const FOUR_STEPS: usize = 2;
const THREE_ROWS: usize = 3;
const SCORE: usize = 4;
/// Tokens of each text.
const COUNT: usize = 8;

fn shapes() -> [Shape; 5] {
    [
        prefill(24),
        decode(1, 1),
        decode(1, 4),
        decode(3, 2),
        score(40),
    ]
}

/// A tiny decoder, compiled for the test device.
struct Model {
    reference: Reference,
    plan: Plan,
    weights: Vec<Vec<u8>>,
}

/// Compiles all entries with these types of activations and caches; made-up roofs cut them into submits of at most
/// `max_submit_ms`.
fn model(
    (path, golden): (&str, &str),
    (act, kv): (DType, DType),
    fused: bool,
    max_submit_ms: Option<f64>,
) -> Model {
    let reference = Reference::load(golden);
    let types = [("act", act), ("weight", DType::F32), ("kv", kv)];
    let requests: Vec<Request> = shapes()
        .iter()
        .map(|shape| reference.request(*shape, &types, 3))
        .collect();
    let mut profile = profile();
    profile.roofs.f32_flops = Some(1e9);
    profile.roofs.read_bytes_per_s = Some(1e9);
    let sources = support::sources();
    let mut job = Job::new(path, &sources, &profile, &requests);
    job.fusion.none = !fused;
    job.max_submit_ms = max_submit_ms;
    let plan = build(&mut job).unwrap_or_else(|error| panic!("{error}"));
    let weights = reference.weights(&plan);
    Model {
        reference,
        plan,
        weights,
    }
}

impl Model {
    fn open(&self) -> Run<'_> {
        Run {
            model: self,
            on_device: OnDevice::checked(&self.plan, &self.weights),
        }
    }

    /// Three prompts, each for a slot of its own. The last one is sampled, the others are greedy.
    fn prompts(&self) -> [Row; 3] {
        let ids = &self.reference.ids;
        let mut last = Row::new(2, &ids[30..54], 0);
        last.sampling = [0.8, 20.0, 0.9];
        [Row::new(0, &ids[..20], 0), Row::new(1, &ids[5..9], 0), last]
    }
}

struct Run<'m> {
    model: &'m Model,
    on_device: OnDevice,
}

impl Run<'_> {
    /// What is submitted and not waited for yet is left in `flight`, at most one submit of the two that may be.
    fn submit(
        &mut self,
        flight: &mut VecDeque<(usize, graphc::run::Ticket)>,
        entry: usize,
        rows: &[Row],
    ) -> Option<Bytes> {
        let info = &self.model.plan.entries[entry];
        let mut inputs = inputs(rows, info.dims["seq"] as u32, &[]);
        inputs.retain(|name, _| info.inputs.iter().any(|id| info.tensors[*id].name == *name));
        let ticket = self.on_device.submit(entry, &inputs);
        flight.push_back((entry, ticket));
        if flight.len() < 2 {
            return None;
        }
        let (entry, ticket) = flight.pop_front()?;
        Some(self.on_device.wait(entry, ticket))
    }

    fn rest(&mut self, flight: VecDeque<(usize, graphc::run::Ticket)>) -> Vec<Bytes> {
        let tickets = flight.into_iter();
        tickets
            .map(|(entry, ticket)| self.on_device.wait(entry, ticket))
            .collect()
    }

    /// The texts of these prompts by a decode entry. There are always two submits in flight: the prompts' last
    /// tokens are fresh, and every submit after goes on from what the device knows.
    fn texts(&mut self, entry: usize, prompts: &[Row]) -> Vec<Vec<u32>> {
        let steps = self.model.plan.entries[entry].dims["steps"] as usize;
        let (mut flight, mut outputs, mut rows) = (VecDeque::new(), vec![], vec![]);
        for prompt in prompts {
            let (last, past) = prompt.ids.split_last().unwrap();
            let row = |ids: &[u32], position| Row {
                ids: ids.to_vec(),
                position,
                ..prompt.clone()
            };
            outputs.extend(self.submit(&mut flight, PREFILL, &[row(past, 0)]));
            rows.push(row(&[*last], past.len() as u32));
        }
        for _ in 0..COUNT / steps {
            outputs.extend(self.submit(&mut flight, entry, &rows));
            rows.iter_mut().for_each(|row| row.ids.clear());
        }
        outputs.extend(self.rest(flight));
        let mut texts = vec![Vec::new(); rows.len()];
        // A prompt's submits give nothing.
        for tokens in outputs.iter().filter_map(|outputs| outputs.get("tokens")) {
            let tokens = words(tokens);
            for (text, tokens) in texts.iter_mut().zip(tokens.chunks(steps)) {
                text.extend(tokens);
            }
        }
        texts
    }

    /// Rows of logits of `ids` from the first position on.
    fn logits(&mut self, ids: &[u32]) -> Vec<Vec<f64>> {
        let mut flight = VecDeque::new();
        self.submit(&mut flight, SCORE, &[Row::new(0, ids, 0)]);
        let outputs = self.rest(flight).remove(0);
        let all = formula::decode(DType::F32, &outputs["logits"]).unwrap();
        let vocab = all.len() / self.model.plan.entries[SCORE].dims["seq"] as usize;
        all.chunks(vocab)
            .take(ids.len())
            .map(<[f64]>::to_vec)
            .collect()
    }
}

/// The normalised mean square error.
fn nmse(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let error: f64 = got.iter().zip(want).map(|(g, w)| (g - w) * (g - w)).sum();
    error / want.iter().map(|w| w * w).sum::<f64>()
}

/// In f32 throughout, what is left is the order of sums. Caches in f16 round keys and values to 11 bits; with f16
/// activations every tensor between passes is rounded so. Gemma adds one to the weights of its norms, which makes the
/// made-up ones of queries and keys about two instead of one and a score more than four times as large as Qwen3's. An
/// error of a score is a relative one of its weight in the softmax, so there any rounding has a larger effect, in seven
/// layers after one another; without rounding Gemma is as exact as the others. An int8 cache has the bound of int8 weights.
fn bound(path: &str, types: (DType, DType)) -> f64 {
    match types {
        (DType::F32, DType::F32) => 1e-9,
        (DType::F32, DType::Int8) => 5e-4,
        (DType::F32, _) if path.contains("gemma3") => 2e-5,
        (DType::F32, _) => 1e-6,
        _ if path.contains("gemma3") => 1e-3,
        _ => 1e-4,
    }
}

#[test]
fn decoders_run_without_a_message_and_only_submit() {
    for decoder in DECODERS {
        for (types, fused) in [
            ((DType::F32, DType::F32), true),
            ((DType::F32, DType::F16), true),
            ((DType::F32, DType::F16), false),
            ((DType::F16, DType::F16), true),
            ((DType::F32, DType::Int8), true),
        ] {
            let (act, kv) = types;
            // Any rounding has a larger effect there (see `bound`), and this one no bound that says anything.
            if kv == DType::Int8 && decoder.0.contains("gemma3") {
                continue;
            }
            let what = format!("{} {act}, cache {kv}, fused: {fused}", decoder.0);
            let model = model(decoder, types, fused, None);
            let mut run = model.open();
            let messages = run.on_device.session.messages();

            let ids = &model.reference.ids[..40];
            let logits = run.logits(ids);
            let mut worst = 0_f64;
            for (position, want) in model.reference.logits().range(..40) {
                worst = worst.max(nmse(&logits[*position], want));
            }
            eprintln!("{what}: NMSE {worst:.1e}");
            assert!(worst < bound(decoder.0, types), "{what}: NMSE {worst:.1e}");

            let prompts = model.prompts();
            let each = |run: &mut Run, entry| {
                let alone = prompts
                    .iter()
                    .map(|prompt| run.texts(entry, std::slice::from_ref(prompt)));
                alone.flatten().collect::<Vec<_>>()
            };
            let wanted = each(&mut run, ONE_STEP);
            assert!(
                wanted
                    .iter()
                    .all(|text| text.len() == COUNT && !text.contains(&NONE)),
                "{wanted:?}"
            );
            assert_eq!(
                each(&mut run, FOUR_STEPS),
                wanted,
                "{what}: four steps a submit"
            );
            assert_eq!(run.texts(THREE_ROWS, &prompts), wanted, "{what}: a batch");

            // Greedy tokens are the arg-max of what the graph says about the ones before them.
            let text = [&prompts[1].ids[..], &wanted[1][..COUNT - 1]].concat();
            let logits = run.logits(&text);
            for (row, token) in logits[prompts[1].ids.len() - 1..].iter().zip(&wanted[1]) {
                let best = row.iter().copied().fold(f64::MIN, f64::max);
                assert!(
                    best - row[*token as usize] <= 1e-2 * best.abs(),
                    "{what}: {token}"
                );
            }

            let before = run.on_device.session.counters();
            run.texts(FOUR_STEPS, &prompts[..1]);
            let mut after = run.on_device.session.counters();
            assert_eq!(after.submits, before.submits + 1 + COUNT as u64 / 4);
            after.submits = before.submits;
            assert_eq!(after, before, "{what}: a forward did more than submit");
            drop(run);
            assert_eq!(messages.all(), Vec::<String>::new(), "{what}");
        }
    }
}

/// Cuts fall between passes and between steps.
#[test]
fn steps_cut_into_submits_give_the_same_texts() {
    let whole = model(DECODERS[0], (DType::F32, DType::F16), true, None);
    let wanted = whole.open().texts(FOUR_STEPS, &whole.prompts()[..1]);
    let cut = model(DECODERS[0], (DType::F32, DType::F16), true, Some(0.05));
    let submits = cut.plan.entries[FOUR_STEPS].stats.submits;
    assert!(submits > 4, "{submits} submits");
    let mut run = cut.open();
    let messages = run.on_device.session.messages();
    assert_eq!(run.texts(FOUR_STEPS, &cut.prompts()[..1]), wanted);
    drop(run);
    assert_eq!(messages.all(), Vec::<String>::new());
}
