//! A model whose weights are finite and whose layers overflow: generating, scoring and embedding stop, and the message
//! names the pass that was the first to write a value that is no number.
#![cfg(all(feature = "gpu", feature = "shaderc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::atomic::AtomicBool;

use graphc::dtype::DType;
use graphc::graph::Request;
use graphc::model::bucket::Bucket;
use graphc::model::embed::{EmbedError, Report, Window, embed};
use graphc::model::generate::{GenerateError, Sampling, Sequence, Shape, generate};
use graphc::model::generate_runner::GenerateRunner;
use graphc::model::runner::SessionRunner;
use graphc::model::score::{SessionScorer, perplexity};
use graphc::model::tokenizer::Tokens;
use graphc::plan::{PassInfo, Plan, Role, Weight};
use support::decoder::{CTX, DECODERS, Reference, decode, prefill, score};
use support::gpu::{OnDevice, compile_graph, profile};
use support::tiny;

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
            stretch(&plan, &mut weights, name);
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
}

/// Makes the elements of a weight so large that the largest is just finite.
fn stretch(plan: &Plan, weights: &mut [Vec<u8>], name: &str) {
    let named = |weight: &Weight| weight.name == name;
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

/// The pass of an entry that reads the weight, as the message has it.
fn reader(plan: &Plan, entry: usize, weight: &str) -> String {
    let entry = &plan.entries[entry];
    let reads = |tensor| {
        let tensor = &entry.tensors[tensor];
        tensor.role == Role::Weight && tensor.name == weight
    };
    let reads = |pass: &&PassInfo| pass.binds.iter().any(|bind| reads(bind.tensor));
    let pass = entry.passes.iter().find(reads).unwrap();
    let kernel = &plan.kernels[pass.kernel];
    let (file, line, column) = &pass.source;
    format!(
        "\nthe first such value: pass `{}` (kernel {}/{}, {file}:{line}:{column}) of entry `{}` wrote ",
        pass.path, kernel.name, kernel.variant, entry.name
    )
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
            assert_names(
                model.generate(prompt),
                &place,
                &reader(&model.plan, entry, weight),
            );
        }
        let place = "the scores of token 0 of sequence 1 hold";
        assert_names(model.score(), place, &reader(&model.plan, SCORE, weight));
    }
}

#[test]
fn a_sound_model_is_not_looked_into() {
    let model = Model::new(DECODERS[0], None);
    model.generate(13).unwrap();
    model.score().unwrap();
}

/// Four texts of an encoder, in two batches that are in flight together.
fn embed_with(plan: &Plan, weights: &[Vec<u8>]) -> Result<Report, EmbedError> {
    let device = OnDevice::checked(plan, weights);
    let messages = device.session.messages();
    let mut runner = SessionRunner::new(device.session);
    let text = |length| Tokens {
        ids: (1..=length).collect(),
        truncated: false,
    };
    let window = Window {
        first: 1,
        tokens: [7, 1, 12, 16].map(text).into(),
        last: true,
    };
    let bucket = Bucket { batch: 2, seq: 16 };
    let windows = std::iter::once(Ok(window));
    let ended = embed(&mut runner, &[bucket], 0, windows, &mut |_, _| Ok(()));
    drop(runner);
    assert_eq!(messages.all(), Vec::<String>::new());
    ended
}

#[test]
fn an_embedding_that_overflows_names_the_first_pass() {
    for tiny in tiny::tiny() {
        let request = tiny::request(&tiny.config, 2, 16, DType::F32);
        let plan = compile_graph(tiny.path, &[request], true, &profile());
        let mut weights: Vec<Vec<u8>> = plan.weights.iter().map(tiny::made_up).collect();
        assert_eq!(embed_with(&plan, &weights).unwrap().inputs, 4);
        let second = |weight: &&Weight| weight.shape.len() == 2 && weight.name.starts_with("l1/");
        let name = &plan.weights.iter().find(second).unwrap().name;
        stretch(&plan, &mut weights, name);
        let error = embed_with(&plan, &weights).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&reader(&plan, 0, name)), "{text}");
        let EmbedError::NotFinite { found, .. } = error else {
            panic!("{text}");
        };
        assert!(!found.unwrap().value.is_finite());
    }
}
