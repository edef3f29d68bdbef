//! The decoder graphs on the interpreter: logits as `transformers` computes them in f64, whatever the chunks; greedy
//! text the same for every number of steps a submit and every batch; placement, order and fusion without effect.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;

use graphc::dtype::{DType, tiles};
use graphc::formula;
use graphc::graph::Request;
use graphc::interp::{Interpreter, Placement};
use graphc::plan::Plan;
use support::decoder::{
    DECODERS, NONE, Reference, Row, Shape, decode, inputs, plan, prefill, score, words,
};

const F32: [(&str, DType); 3] = [
    ("act", DType::F32),
    ("weight", DType::F32),
    ("kv", DType::F32),
];

/// A tiny model, compiled.
struct Model {
    reference: Reference,
    plan: Plan,
    weights: Vec<Vec<u8>>,
}

impl Model {
    fn new(
        (path, golden): (&str, &str),
        shapes: &[Shape],
        types: &[(&str, DType)],
        slots: u32,
        fused: bool,
    ) -> Self {
        let reference = Reference::load(golden);
        let request = |shape: &Shape| reference.request(*shape, types, slots);
        let requests: Vec<Request> = shapes.iter().map(request).collect();
        let plan = plan(path, &requests, &support::profile(), None, fused);
        let weights = reference.weights(&plan);
        Self {
            reference,
            plan,
            weights,
        }
    }

    fn interpreter(&self) -> Interpreter<'_> {
        let mut weights = self.weights.iter().cloned();
        Interpreter::new(&self.plan, |_| weights.next().unwrap()).unwrap()
    }
}

/// Submits in order: each alternates the parity.
struct Run<'m> {
    model: &'m Model,
    interpreter: Interpreter<'m>,
    submits: u64,
}

impl<'m> Run<'m> {
    fn new(model: &'m Model) -> Self {
        Self {
            model,
            interpreter: model.interpreter(),
            submits: 0,
        }
    }

    fn submit(&mut self, entry: usize, rows: &[Row], stops: &[u32]) -> BTreeMap<String, Vec<u8>> {
        let entry = &self.model.plan.entries[entry];
        let inputs = inputs(rows, entry.dims["seq"] as u32, stops);
        let parity = self.submits % 2;
        self.submits += 1;
        self.interpreter.run(&entry.name, parity, &inputs).unwrap()
    }

    /// Rows of logits.
    fn logits(&mut self, entry: usize, row: &Row) -> Vec<Vec<f64>> {
        let count = row.ids.len();
        let outputs = self.submit(entry, std::slice::from_ref(row), &[]);
        let all = formula::decode(DType::F32, &outputs["logits"]).unwrap();
        let vocab = all.len() / self.model.plan.entries[entry].dims["seq"] as usize;
        all.chunks(vocab).take(count).map(<[f64]>::to_vec).collect()
    }

    /// Greedy text: the fresh token first, then on until `count` tokens came from each row.
    fn greedy(&mut self, entry: usize, rows: &[Row], count: usize) -> Vec<Vec<u32>> {
        let steps = self.model.plan.entries[entry].dims["steps"] as usize;
        let mut texts = vec![Vec::new(); rows.len()];
        let mut rows = rows.to_vec();
        while texts[0].len() < count {
            let outputs = self.submit(entry, &rows, &[]);
            let tokens = words(&outputs["tokens"]);
            for (text, tokens) in texts.iter_mut().zip(tokens.chunks(steps)) {
                text.extend(tokens);
            }
            rows.iter_mut().for_each(|row| row.ids.clear());
        }
        texts.iter_mut().for_each(|text| text.truncate(count));
        texts
    }
}

/// The normalised mean square error of one row, and whether the largest logit is the same.
fn nmse(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let error: f64 = got.iter().zip(want).map(|(g, w)| (g - w) * (g - w)).sum();
    error / want.iter().map(|w| w * w).sum::<f64>()
}

#[test]
fn logits_are_what_transformers_computes() {
    for decoder in DECODERS {
        for fused in [false, true] {
            let model = Model::new(decoder, &[score(80)], &F32, 1, fused);
            let ids = model.reference.ids.clone();
            let got = Run::new(&model).logits(0, &Row::new(0, &ids, 0));
            for (position, want) in model.reference.logits() {
                let error = nmse(&got[position], &want);
                assert!(
                    error < 1e-10,
                    "{}, fused: {fused}: NMSE {error:.1e} at {position}",
                    decoder.0
                );
            }
        }
    }
}

/// Linear scaling by 8 is what Llama 3's factors are where every rotation counts as slow. The factors are tested
/// against published ones.
#[test]
fn linear_scaling_is_llama_3s_for_slow_rotations() {
    let logits = |scaling: serde_json::Value| {
        let mut reference = Reference::load(DECODERS[0].1);
        reference.model.config["rope_parameters"] = scaling;
        let request = reference.request(score(40), &F32, 1);
        let plan = plan(DECODERS[0].0, &[request], &support::profile(), None, true);
        let weights = reference.weights(&plan);
        let model = Model {
            reference,
            plan,
            weights,
        };
        let ids = model.reference.ids[..40].to_vec();
        Run::new(&model).logits(0, &Row::new(0, &ids, 0)).concat()
    };
    let theta = 10000.0;
    let factors = logits(serde_json::json!({
        "rope_type": "llama3", "factor": 8.0, "rope_theta": theta, "original_max_position_embeddings": 32,
        "low_freq_factor": 1e6, "high_freq_factor": 2e6,
    }));
    let linear = serde_json::json!({ "rope_type": "linear", "factor": 8.0, "rope_theta": theta });
    let plain = serde_json::json!({ "rope_type": "default", "factor": 8.0, "rope_theta": theta });
    let (linear, plain) = (logits(linear), logits(plain));
    assert!(nmse(&linear, &factors) < 1e-10);
    assert!(nmse(&plain, &factors) > 1e-3);
}

/// Borders of chunks, of the cached past and of the sliding window fall differently each time.
#[test]
fn chunks_do_not_change_logits() {
    for decoder in DECODERS {
        let shapes = [prefill(24), prefill(7), score(32), score(11)];
        let model = Model::new(decoder, &shapes, &F32, 2, true);
        let ids = model.reference.ids.clone();
        let want = model.reference.logits();
        for chunks in [&[0, 1, 2][..], &[1, 1, 1, 2, 3], &[3, 3, 0, 2]] {
            let mut run = Run::new(&model);
            let mut at = 0;
            for entry in chunks {
                let seq = shapes[*entry].seq as usize;
                let end = (at + seq).min(ids.len());
                let row = Row::new(1, &ids[at..end], at as u32);
                if shapes[*entry].score == 0 {
                    run.submit(*entry, &[row], &[]);
                } else {
                    for (row, got) in run.logits(*entry, &row).iter().enumerate() {
                        if let Some(want) = want.get(&(at + row)) {
                            let error = nmse(got, want);
                            assert!(
                                error < 1e-10,
                                "{} {chunks:?}: NMSE {error:.1e} at {}",
                                decoder.0,
                                at + row
                            );
                        }
                    }
                }
                at = end;
            }
        }
    }
}

#[test]
fn greedy_text_is_the_same_for_every_number_of_steps_and_every_batch() {
    for decoder in DECODERS {
        let shapes = [
            prefill(24),
            decode(1, 1),
            decode(1, 4),
            decode(3, 2),
            score(11),
        ];
        let model = Model::new(decoder, &shapes, &F32, 3, true);
        let ids = model.reference.ids.clone();
        let prompts = [&ids[..20], &ids[5..9], &ids[30..54]];
        let mut alone = Vec::new();
        for (slot, prompt) in (0..).zip(prompts) {
            let mut texts = Vec::new();
            for entry in [1, 2] {
                let mut run = Run::new(&model);
                let (last, past) = prompt.split_last().unwrap();
                run.submit(0, &[Row::new(slot, past, 0)], &[]);
                let row = Row::new(slot, &[*last], past.len() as u32);
                texts.push(run.greedy(entry, &[row], 8).remove(0));
            }
            assert_eq!(texts[0], texts[1], "{}: one step and four", decoder.0);
            alone.push(texts.remove(0));
        }
        // Each token is the arg-max of what the graph says about the ones before it.
        let mut run = Run::new(&model);
        let text: Vec<u32> = prompts[1].iter().chain(&alone[1][..7]).copied().collect();
        let logits = run.logits(4, &Row::new(0, &text, 0));
        for (row, token) in logits[3..].iter().zip(&alone[1]) {
            let best = row.iter().copied().fold(f64::MIN, f64::max);
            assert_eq!(row[*token as usize], best, "{}", decoder.0);
        }
        let mut run = Run::new(&model);
        let mut rows = Vec::new();
        for (slot, prompt) in (0..).zip(prompts) {
            let (last, past) = prompt.split_last().unwrap();
            run.submit(0, &[Row::new(slot, past, 0)], &[]);
            rows.push(Row::new(slot, &[*last], past.len() as u32));
        }
        assert_eq!(run.greedy(3, &rows, 8), alone, "{}: a batch", decoder.0);
    }
}

#[test]
fn a_stop_token_and_the_limit_end_a_row() {
    let model = Model::new(DECODERS[0], &[prefill(24), decode(1, 6)], &F32, 1, true);
    let ids = model.reference.ids.clone();
    let mut run = Run::new(&model);
    run.submit(0, &[Row::new(0, &ids[..20], 0)], &[]);
    let row = Row::new(0, &[ids[20]], 20);
    let text = run.greedy(1, std::slice::from_ref(&row), 6).remove(0);
    let distinct = text.iter().position(|token| *token == text[2]).unwrap();
    let stopped = words(&run.submit(1, std::slice::from_ref(&row), &[text[2]])["tokens"]);
    assert_eq!(stopped[..=distinct], text[..=distinct]);
    assert_eq!(stopped[distinct + 1..], vec![NONE; 5 - distinct]);
    // What is over stays over.
    let more = Row {
        ids: vec![],
        ..row.clone()
    };
    assert_eq!(words(&run.submit(1, &[more], &[])["tokens"]), [NONE; 6]);
    let short = Row { limit: 24, ..row };
    let limited = words(&run.submit(1, &[short], &[])["tokens"]);
    assert_eq!(limited[..4], text[..4]);
    assert_eq!(limited[4..], [NONE; 2]);
}

#[test]
fn placement_and_order_do_not_change_a_single_token() {
    for decoder in DECODERS {
        let shapes = [prefill(12), decode(2, 3), score(9)];
        for fused in [false, true] {
            let model = Model::new(decoder, &shapes, &F32, 2, fused);
            let ids = model.reference.ids.clone();
            let run = |placement, seed| {
                let interpreter = model
                    .interpreter()
                    .with_placement(placement)
                    .with_seed(seed);
                let mut run = Run {
                    model: &model,
                    interpreter,
                    submits: 0,
                };
                run.submit(0, &[Row::new(0, &ids[..11], 0)], &[]);
                run.submit(0, &[Row::new(1, &ids[20..26], 0)], &[]);
                let rows = [Row::new(0, &ids[11..12], 11), Row::new(1, &ids[26..27], 6)];
                let text = run.greedy(1, &rows, 6);
                (text, run.submit(2, &[Row::new(1, &ids[40..49], 12)], &[]))
            };
            let want = run(Placement::Naive, 0);
            for seed in 0..4 {
                assert_eq!(
                    run(Placement::Planned, seed),
                    want,
                    "{} fused: {fused}",
                    decoder.0
                );
            }
        }
    }
}

/// What the packed bytes of a weight say, by the table in `src/dtype.rs`: all small integers, then what groups share as
/// f16, both in tiles.
fn dequantised(dtype: DType, shape: &[u64], bytes: &[u8]) -> Vec<f64> {
    let elements = shape.iter().product::<u64>() as usize;
    let bytes = tiles::by_rows(dtype, shape, bytes.to_vec());
    let half = |at: usize| f64::from(half::f16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let element = |i: usize| match dtype {
        DType::F32 => f64::from(f32::from_le_bytes(
            bytes[4 * i..4 * i + 4].try_into().unwrap(),
        )),
        DType::F16 => half(2 * i),
        DType::Int8 => half(elements + i / 32 * 2) * f64::from(bytes[i] as i8),
        DType::Int8g64 => half(elements + i / 64 * 2) * f64::from(bytes[i] as i8),
        DType::Int4 | DType::Int4g128 => {
            let group = if dtype == DType::Int4 { 32 } else { 128 };
            let q = bytes[i / 2] >> (i % 2 * 4) & 15;
            let pair = elements / 2 + i / group * 4;
            half(pair) * f64::from(q) + half(pair + 2)
        }
        other => panic!("no weight is {other}"),
    };
    (0..elements).map(element).collect()
}

/// A decoder with weights in one format, the same with the values of these weights in f32, and with the unrounded
/// ones.
struct Formats {
    stored: Model,
    exact: Model,
    plain: Model,
}

impl Formats {
    fn new(decoder: (&str, &str), weight: DType) -> Self {
        let of = |weight| {
            let types = [("act", DType::F32), ("weight", weight), ("kv", DType::F32)];
            Model::new(decoder, &[score(40)], &types, 1, true)
        };
        let (stored, plain, mut exact) = (of(weight), of(DType::F32), of(DType::F32));
        for (bytes, info) in exact.weights.iter_mut().zip(&plain.plan.weights) {
            let known = stored.plan.weights.iter().zip(&stored.weights);
            let (from, of) = known
                .filter(|(other, _)| other.name == info.name && other.shape == info.shape)
                .max_by_key(|(other, _)| other.recipe == info.recipe)
                .unwrap();
            let values = dequantised(from.dtype, &info.shape, of);
            *bytes = values
                .iter()
                .flat_map(|value| (*value as f32).to_le_bytes())
                .collect();
        }
        Self {
            stored,
            exact,
            plain,
        }
    }

    /// The largest rounding of a weight, as NMSE.
    fn rounding(&self) -> f64 {
        let floats = |bytes: &Vec<u8>| dequantised(DType::F32, &[bytes.len() as u64 / 4], bytes);
        let pairs = self.exact.weights.iter().zip(&self.plain.weights);
        pairs
            .map(|(rounded, plain)| nmse(&floats(rounded), &floats(plain)))
            .fold(0.0, f64::max)
    }
}

/// Logits of the golden's positions, one after another.
fn some_logits(model: &Model) -> Vec<f64> {
    let ids = &model.reference.ids[..40];
    let rows = Run::new(model).logits(0, &Row::new(0, ids, 0));
    let positions = model.reference.logits();
    let rows = positions.range(..40).map(|(position, _)| &rows[*position]);
    rows.flatten().copied().collect()
}

/// Formulas multiply by the values that the packed bytes stand for. (That shaders do, too, is in `decoders_device.rs`.)
#[test]
fn quantised_weights_count_with_what_their_bytes_say() {
    for decoder in DECODERS {
        // Rows of 64, 96 and 128: wide groups are in some weights, narrow ones in the others.
        for (weight, most) in [
            (DType::F16, 12),
            (DType::Int8, 12),
            (DType::Int4, 12),
            (DType::Int8g64, 9),
            (DType::Int4g128, 2),
        ] {
            let formats = Formats::new(decoder, weight);
            let weights = &formats.stored.plan.weights;
            let count = weights.iter().filter(|info| info.dtype == weight).count();
            assert!(count > most, "{count} weights are {weight}");
            let alike = |info: &&graphc::plan::Weight| info.dtype.narrow() == weight.narrow();
            assert!(weights.iter().filter(alike).count() > 12, "{weight}");
            let error = nmse(&some_logits(&formats.stored), &some_logits(&formats.exact));
            eprintln!("{} {weight}: NMSE {error:.1e}", decoder.0);
            // What may be lost is 5e-4; nothing is.
            assert!(error < 1e-10, "{} {weight}: NMSE {error:.1e}", decoder.0);
        }
    }
}

/// How far rounded weights move the logits, as NMSE: the rounding of a weight (mean squares) times the products that
/// it passes through.
///
/// A format's own part: an even spread of values in -a..a gets steps of `a / 127` in int8 and `a / 7.5` in int4, whose
/// rounding has a mean square of a twelfth of the step's. Over the values' `a^2 / 3` that is 1.6e-5 and 4.5e-3; in f16
/// with steps of 2^-10 at most it is below 8e-8.
///
/// The model's part: each product adds the rounding of its own weight, and norms, gates and residual sums hand an error on
/// as large as it was. Llama and Qwen3 have three layers of seven (queries, keys, values, out, gate, up, down) between
/// embedding and logits, so 23. Gemma's scores spread over more than four (see `gpu_steps.rs`), where a softmax hands
/// errors on larger than they were, in seven layers after one another; the factor is not
/// derived but seen: 710 in f16, 1330 in int8. In int4 that says nothing, for the logits have an error of the size of
/// themselves.
#[test]
fn quantised_weights_stay_close() {
    for decoder in DECODERS {
        let products = match decoder.0.contains("gemma3") {
            true => 1500.0,
            false => 23.0,
        };
        for (weight, bound) in [
            (DType::F16, 8e-8),
            (DType::Int8, 1.6e-5),
            (DType::Int4, 4.5e-3),
            (DType::Int8g64, 1.6e-5),
            (DType::Int4g128, 4.5e-3),
        ] {
            let what = format!("{} {weight}", decoder.0);
            let formats = Formats::new(decoder, weight);
            let rounding = formats.rounding();
            assert!(rounding > 0.0 && rounding < bound, "{what}: {rounding:.1e}");
            let error = nmse(&some_logits(&formats.stored), &some_logits(&formats.plain));
            let factor = error / rounding;
            eprintln!("{what}: rounding {rounding:.1e}, NMSE {error:.1e}, {factor:.0} times it");
            assert!(error < products * rounding, "{what}: NMSE {error:.1e}");
        }
    }
}

/// An int8 cache rounds keys and values as int8 weights are rounded, and nothing else: it moves the logits, but less than
/// those do.
#[test]
fn an_int8_cache_moves_logits_less_than_int8_weights() {
    for decoder in [DECODERS[0], DECODERS[2]] {
        let logits = |weight, kv| {
            let types = [("act", DType::F32), ("weight", weight), ("kv", kv)];
            some_logits(&Model::new(decoder, &[score(40)], &types, 1, true))
        };
        let exact = logits(DType::F32, DType::F32);
        let cache = nmse(&logits(DType::F32, DType::Int8), &exact);
        let weights = nmse(&logits(DType::Int8, DType::F32), &exact);
        eprintln!(
            "{}: int8 cache {cache:.1e}, int8 weights {weights:.1e}",
            decoder.0
        );
        assert!(
            cache > 1e-6 && cache < weights,
            "{}: {cache:.1e} {weights:.1e}",
            decoder.0
        );
    }
}
