//! Every encoder graph of the repository on the Vulkan device against the interpreter, from the same plan: two entries
//! that share one memory, forwards of both in turn, two in flight.

#![cfg(all(feature = "gpu", feature = "shaderc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeSet;

use graphc::dtype::DType;
use graphc::formula::decode;
use graphc::interp::Interpreter;
use graphc::plan::Plan;
use graphc::sources::FsSources;
use graphc::span::Sources;
use support::decoder::DECODERS;
use support::gpu::{self, Bytes, OnDevice};
use support::random::Random;
use support::tiny::{made_up, request, tiny};

/// Batch and sequence length of the two entries. Rows of the second fill no tile and are longer than the local
/// attention of ModernBERT sees.
const SHAPES: [(usize, usize); 2] = [(3, 12), (2, 37)];

/// Entries of the forwards, in order. The recording of an entry depends on the parity of the forward, so each entry
/// comes at both, after itself and after the other.
const ORDERS: [&[usize]; 3] = [&[0, 1, 0, 1], &[1, 1, 1, 0, 0], &[0, 0, 1, 0]];

/// The largest error of an element, relative to its own size plus the root mean square of its tensor: rounding in
/// another order for f32, and for f16 a rounding of every tensor to 11 bits, in each of some ten passes a layer.
fn tolerance(dtype: DType) -> f64 {
    if dtype == DType::F32 { 1e-5 } else { 1e-2 }
}

#[test]
fn every_model_is_tested() {
    let models = FsSources::new(env!("CARGO_MANIFEST_DIR")).list("graphs/models");
    let models: BTreeSet<String> = models.unwrap().into_iter().collect();
    let mut tested: BTreeSet<String> = tiny().iter().map(|tiny| tiny.path.into()).collect();
    // Decoders keep state: tests/gpu_steps.rs runs them.
    tested.extend(DECODERS.iter().map(|(path, _)| (*path).into()));
    assert_eq!(tested, models);
}

#[test]
fn bert_is_what_the_interpreter_computes() {
    compare("graphs/models/bert.ron");
}

#[test]
fn nomic_bert_is_what_the_interpreter_computes() {
    compare("graphs/models/nomic_bert.ron");
}

#[test]
fn modernbert_is_what_the_interpreter_computes() {
    compare("graphs/models/modernbert.ron");
}

fn compare(path: &str) {
    let device = gpu::profile();
    let model = tiny().into_iter().find(|tiny| tiny.path == path).unwrap();
    let mut random = Random::from_env(path);
    for dtype in [DType::F32, DType::F16] {
        for fused in [true, false] {
            let requests = SHAPES.map(|(batch, seq)| request(&model.config, batch, seq, dtype));
            let plan = gpu::compile_graph(path, &requests, fused, &device);
            let mut on_device = OnDevice::open(&plan, made_up);
            let mut interpreter = Interpreter::new(&plan, made_up).unwrap();
            let mut worst = 0_f64;
            for order in ORDERS {
                let inputs: Vec<Bytes> = order
                    .iter()
                    .map(|entry| batch(&mut random, SHAPES[*entry]))
                    .collect();
                let got = forwards(&mut on_device, order, &inputs);
                for (forward, entry) in order.iter().enumerate() {
                    let name = &plan.entries[*entry].name;
                    let want = interpreter.run(name, forward as u64, &inputs[forward]);
                    let error = error(&plan, *entry, &got[forward], &want.unwrap());
                    assert!(
                        error <= tolerance(dtype),
                        "{path}, {dtype}, fused: {fused}: forward {forward} of {order:?} is off by {error:.1e}"
                    );
                    worst = worst.max(error);
                }
            }
            eprintln!("{path} {dtype}, fused: {fused}: error {worst:.1e}");
        }
    }
}

/// Runs the forwards so that each is submitted before the one ahead of it is read.
fn forwards(on_device: &mut OnDevice, order: &[usize], inputs: &[Bytes]) -> Vec<Bytes> {
    let mut outputs = Vec::new();
    let mut before = None;
    for (entry, inputs) in order.iter().zip(inputs) {
        let ticket = on_device.submit(*entry, inputs);
        if let Some((entry, ticket)) = before.replace((*entry, ticket)) {
            outputs.push(on_device.wait(entry, ticket));
        }
    }
    let (entry, ticket) = before.unwrap();
    outputs.push(on_device.wait(entry, ticket));
    outputs
}

/// Sequences of 1 to all of the columns, of ids that every vocabulary here has.
fn batch(random: &mut Random, (batch, seq): (usize, usize)) -> Bytes {
    let mut sequence = |length: u64| (0..length).map(|_| random.below(96) as u32).collect();
    let mut sequences: Vec<Vec<u32>> = vec![sequence(seq as u64)];
    sequences.extend((1..batch).map(|at| sequence(1 + (at * 5 % seq) as u64)));
    support::batch(&sequences, seq)
}

/// The largest error of any output.
fn error(plan: &Plan, entry: usize, got: &Bytes, want: &Bytes) -> f64 {
    let entry = &plan.entries[entry];
    let tensors = entry.outputs.iter().map(|id| &entry.tensors[*id]);
    let errors = tensors.flat_map(|tensor| {
        let got = decode(tensor.dtype, &got[&tensor.name]).unwrap();
        let want = decode(tensor.dtype, &want[&tensor.name]).unwrap();
        assert_eq!(got.len(), want.len());
        let rms = (want.iter().map(|v| v * v).sum::<f64>() / want.len() as f64).sqrt();
        assert!(rms > 0.0);
        let error = move |(got, want): (f64, f64)| (got - want).abs() / (want.abs() + rms);
        got.into_iter().zip(want).map(error).collect::<Vec<f64>>()
    });
    // A NaN must not pass for a small error.
    errors.fold(0.0, |worst, error| {
        if error.is_nan() {
            f64::INFINITY
        } else {
            worst.max(error)
        }
    })
}
