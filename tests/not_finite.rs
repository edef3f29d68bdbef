//! A model whose weights are finite and whose layers overflow: generation stops, and the message names the pass that
//! was the first to write a value that is no number.
#![cfg(all(feature = "gpu", feature = "shaderc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::atomic::AtomicBool;

use graphc::dtype::DType;
use graphc::graph::Request;
use graphc::model::generate::{GenerateError, Sampling, Sequence, Shape, generate};
use graphc::model::generate_runner::GenerateRunner;
use graphc::model::score::{SessionScorer, perplexity};
use graphc::plan::{Entry, Plan};
use support::decoder::{CTX, DECODERS, Reference, decode, prefill, score};
use support::gpu::{OnDevice, compile_graph, profile};

const DECODE: usize = 0;
const PREFILL: usize = 1;
const SCORE: usize = 2;
const CHUNK: u32 = 8;

struct Model {
    reference: Reference,
    plan: Plan,
    weights: Vec<Vec<u8>>,
}

impl Model {
    /// With a weight that is stretched so far that its largest element is just finite.
    fn new((path, golden): (&str, &str), stretched: Option<&str>) -> Self {
        let reference = Reference::load(golden);
        let types = [("act", DType::F32), ("weight", DType::F32)];
        let requests: Vec<Request> = [decode(2, 3), prefill(CHUNK), score(CHUNK)]
            .iter()
            .map(|shape| reference.request(*shape, &types, 2))
            .collect();
        let plan = compile_graph(path, &requests, true, &profile());
        let mut weights = reference.weights(&plan);
        if let Some(name) = stretched {
            let named = |weight: &graphc::plan::Weight| weight.name == name;
            let at = plan.weights.iter().position(named).unwrap();
            let elements = weights[at].as_chunks_mut::<4>().0;
            let values = elements.iter().map(|element| f32::from_le_bytes(*element));
            let largest = values.fold(0.0, |largest: f32, value| largest.max(value.abs()));
            for element in elements {
                let large = f32::from_le_bytes(*element) / largest * 3e38;
                assert!(large.is_finite());
                *element = large.to_le_bytes();
            }
        }
        Self {
            reference,
            plan,
            weights,
        }
    }

    /// What generation ends with, from as many tokens.
    fn generate(&self, prompt: usize) -> Result<(), GenerateError> {
        let device = OnDevice::checked(&self.plan, &self.weights);
        let messages = device.session.messages();
        let name = |entry: usize| self.plan.entries[entry].name.clone();
        let prefills = [(CHUNK, name(PREFILL))];
        let mut runner = GenerateRunner::new(device.session, &name(DECODE), &prefills).unwrap();
        let shape = Shape {
            batch: 2,
            steps: 3,
            context: CTX,
            chunks: vec![CHUNK],
        };
        let sequence = Sequence {
            prompt: self.reference.ids[..prompt].to_vec(),
            cached: 0,
            max_tokens: 7,
            sampling: Sampling::GREEDY,
        };
        let (flag, mut sink) = (AtomicBool::new(false), |_| Ok(()));
        let ended = generate(&mut runner, &shape, &[sequence], &[], &flag, &mut sink);
        drop(runner);
        assert_eq!(messages.all(), Vec::<String>::new());
        ended.map(|_| ())
    }

    /// What scoring ends with.
    fn score(&self) -> Result<(), GenerateError> {
        let device = OnDevice::checked(&self.plan, &self.weights);
        let name = &self.plan.entries[SCORE].name;
        let mut scorer = SessionScorer::new(device.session, name, CHUNK).unwrap();
        let ids = &self.reference.ids[..20];
        perplexity(&mut scorer, ids, 10, &mut |_| {}).map(|_| ())
    }

    /// The pass that reads the weight, as the message has it.
    fn reader(&self, entry: usize, weight: &str) -> String {
        let entry: &Entry = &self.plan.entries[entry];
        let reads = |tensor| {
            let tensor = &entry.tensors[tensor];
            tensor.role == graphc::plan::Role::Weight && tensor.name == weight
        };
        let pass = entry
            .passes
            .iter()
            .find(|pass| pass.binds.iter().any(|bind| reads(bind.tensor)))
            .unwrap();
        let kernel = &self.plan.kernels[pass.kernel];
        let (file, line, column) = &pass.source;
        format!(
            "\nthe first such value: pass `{}` (kernel {}/{}, {file}:{line}:{column}) of entry `{}` wrote ",
            pass.path, kernel.name, kernel.variant, entry.name
        )
    }
}

fn assert_names(said: Result<(), GenerateError>, place: &str, reader: &str) {
    let error = said.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with(place) && text.contains(reader), "{text}");
    let GenerateError::NotFinite {
        found: Some(found), ..
    } = error
    else {
        panic!("{text}");
    };
    assert!(!found.value.is_finite());
    assert!(found.source.0.ends_with(".ron") && found.source.1 > 0);
}

#[test]
fn the_first_pass_that_overflows_is_named() {
    for (decoder, weight) in [
        (DECODERS[0], "l1/mlp/w_up"),
        (DECODERS[0], "l0/attn/w_qkv"),
        (DECODERS[1], "l2/mlp/w_up"),
    ] {
        let model = Model::new(decoder, Some(weight));
        // A prompt goes through a prefill entry, which has no scores; a prompt of one token has nothing to prefill.
        for (prompt, entry) in [(13, PREFILL), (1, DECODE)] {
            let place = format!("the scores of token {} of sequence 1 hold", prompt - 1);
            assert_names(model.generate(prompt), &place, &model.reader(entry, weight));
        }
        let place = "the scores of token 0 of sequence 1 hold";
        assert_names(model.score(), place, &model.reader(SCORE, weight));
    }
}

#[test]
fn a_sound_model_is_not_looked_into() {
    let model = Model::new(DECODERS[0], None);
    model.generate(13).unwrap();
    model.score().unwrap();
}
