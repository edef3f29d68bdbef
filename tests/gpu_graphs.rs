//! Every encoder graph of the repository at a small size on the device, under the validation layer with synchronisation
//! validation inside and between submits: not one message, the numbers of the interpreter, and forwards that only
//! submit, whatever runs before, beside and after them. Decoders have theirs in
//! `tests/gpu_steps.rs`.
#![cfg(all(feature = "gpu", feature = "shaderc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use graphc::compile::Job;
use graphc::graph::Request;
use graphc::model::bucket::Bucket;
use graphc::model::embed::Runner as _;
use graphc::model::runner::SessionRunner;
use graphc::plan::{Plan, Step, Weight};
use graphc::run::{Session, SessionOptions, Ticket};
use graphc::weights::RandomWeights;
use support::golden::golden;
use support::gpu::{Bytes, build, profile, run_interpreter, wanted};
use support::metadata;

const GRAPHS: [&str; 3] = ["bert", "nomic_bert", "modernbert"];
/// Entries as (batch, seq).
const ENTRIES: [(usize, usize); 2] = [(2, 9), (1, 16)];

/// A small config.json.
fn config(model: &str) -> serde_json::Value {
    if model != "bert" {
        return golden(&format!("{model}.json")).config;
    }
    serde_json::json!({
        "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 96,
        "vocab_size": 96, "type_vocab_size": 2, "max_position_embeddings": 32, "hidden_act": "gelu",
    })
}

/// A plan of both entries for the test device, cut into submits of at most `max_submit_ms` by made-up roofs.
fn plan(model: &str, fused: bool, max_submit_ms: Option<f64>) -> Plan {
    let params = metadata(&config(model));
    let graph = format!("graphs/models/{model}.ron");
    let requests = ENTRIES.map(|(batch, seq)| Request {
        params: params.clone(),
        dims: BTreeMap::from([("batch".into(), batch as i64), ("seq".into(), seq as i64)]),
        ..Request::default()
    });
    let mut profile = profile();
    profile.roofs.f32_flops = Some(1e9);
    profile.roofs.read_bytes_per_s = Some(1e9);
    let sources = support::sources();
    let mut job = Job::new(&graph, &sources, &profile, &requests);
    job.fusion.none = !fused;
    job.max_submit_ms = max_submit_ms;
    build(&mut job).unwrap_or_else(|error| panic!("{error}"))
}

fn weights(weight: &Weight) -> Vec<u8> {
    let elements: u64 = weight.shape.iter().product();
    let mut bytes = vec![0; (elements * weight.dtype.bytes()) as usize];
    RandomWeights::new(7).write(weight, 0, &mut bytes).unwrap();
    bytes
}

fn open(plan: &Arc<Plan>) -> Session {
    // Without this switch the layer of Debian 12 looks at each submit alone.
    let switches = std::env::var("VK_LAYER_ENABLES").unwrap_or_default();
    assert!(switches.contains("SYNCHRONIZATION_VALIDATION_QUEUE_SUBMIT"));
    let options = SessionOptions {
        device: wanted(),
        validation: true,
        labels: true,
        ..SessionOptions::default()
    };
    let mut fill = |_: usize, weight: &Weight, start: u64, into: &mut [u8]| {
        into.copy_from_slice(&weights(weight)[start as usize..][..into.len()]);
        Ok(())
    };
    Session::open(options, Arc::clone(plan), &mut fill, &mut |_| {}).unwrap()
}

/// Tokens of forward `number`: others and of other lengths each time.
fn sequences(entry: usize, number: usize) -> Vec<Vec<u32>> {
    let (batch, seq) = ENTRIES[entry];
    (0..batch)
        .map(|b| {
            let length = seq - (number + 3 * b) % 5;
            (0..length)
                .map(|at| ((5 * at + 7 * number + b) % 20) as u32)
                .collect()
        })
        .collect()
}

fn inputs(entry: usize, number: usize) -> Bytes {
    support::batch(&sequences(entry, number), ENTRIES[entry].1)
}

fn submit(session: &mut Session, plan: &Plan, entry: usize, number: usize) -> Ticket {
    let info = &plan.entries[entry];
    let id = session.entry(&info.name).unwrap();
    let inputs = inputs(entry, number);
    let mut slot = session.begin(id).unwrap();
    for id in &info.inputs {
        let name = &info.tensors[*id].name;
        let words = inputs[name].as_chunks::<4>().0.iter();
        let into = slot.input::<u32>(name).unwrap();
        into.iter_mut()
            .zip(words)
            .for_each(|(into, word)| *into = u32::from_le_bytes(*word));
    }
    slot.submit().unwrap()
}

fn result(session: &mut Session, ticket: Ticket) -> Vec<f32> {
    let output = session.wait(ticket).unwrap();
    output.tensor::<f32>("embedding").unwrap().to_vec()
}

/// Forwards 0.. of the entries in turn, each waited for before the next is begun.
fn one_by_one(session: &mut Session, plan: &Plan, forwards: usize) -> Vec<Vec<f32>> {
    (0..forwards)
        .map(|number| {
            let ticket = submit(session, plan, number % 2, number);
            result(session, ticket)
        })
        .collect()
}

/// The same with the next one submitted before one is read.
fn two_in_flight(session: &mut Session, plan: &Plan, forwards: usize) -> Vec<Vec<f32>> {
    let mut results = Vec::new();
    let mut before = None;
    for number in 0..forwards {
        let ticket = submit(session, plan, number % 2, number);
        if let Some(ticket) = before.replace(ticket) {
            results.push(result(session, ticket));
        }
    }
    results.extend(before.map(|ticket| result(session, ticket)));
    results
}

/// Panics unless the embeddings of forward 0 are those of the interpreter.
fn assert_interpreted(plan: &Plan, embedding: &[f32]) {
    let outputs = run_interpreter(plan, weights, &inputs(0, 0));
    let wanted = outputs["embedding"].as_chunks::<4>().0.iter();
    let wanted: Vec<f32> = wanted.map(|bytes| f32::from_le_bytes(*bytes)).collect();
    assert_eq!(wanted.len(), embedding.len());
    for (index, (wanted, found)) in wanted.iter().zip(embedding).enumerate() {
        // Rounding of some hundred sums of numbers below 1.
        let near = (wanted - found).abs() < 2e-5;
        assert!(near, "embedding[{index}] is {found}, interpreted {wanted}");
    }
}

#[test]
fn graphs_run_without_a_message_and_only_submit() {
    for graph in GRAPHS {
        for fused in [true, false] {
            let plan = Arc::new(plan(graph, fused, None));
            let mut session = open(&plan);
            let messages = session.messages();
            let alone = one_by_one(&mut session, &plan, 7);
            assert_interpreted(&plan, &alone[0]);
            // The same tokens are another forward's: a slot that was not written would show.
            assert_ne!(alone[0], alone[2], "{graph}");

            let before = session.counters();
            let overlapped = two_in_flight(&mut session, &plan, 7);
            assert_eq!(overlapped, alone, "{graph}, fused: {fused}");
            let mut after = session.counters();
            assert_eq!(after.submits, before.submits + 7);
            after.submits = before.submits;
            assert_eq!(after, before, "a forward did more than submit");
            drop(session);
            assert_eq!(messages.all(), Vec::<String>::new(), "{graph}");
        }
    }
}

#[test]
fn a_plan_cut_into_submits_gives_the_same_numbers() {
    let whole = Arc::new(plan(GRAPHS[0], true, None));
    let wanted = one_by_one(&mut open(&whole), &whole, 4);

    let cut = Arc::new(plan(GRAPHS[0], true, Some(0.02)));
    let submits: Vec<u64> = cut
        .entries
        .iter()
        .map(|entry| entry.stats.submits)
        .collect();
    for (entry, submits) in cut.entries.iter().zip(&submits) {
        let cuts = entry.steps.iter().filter(|step| **step == Step::Cut);
        assert_eq!(cuts.count() as u64 + 1, *submits);
        assert!(*submits > 2, "{}: {submits} submits", entry.name);
    }
    let mut session = open(&cut);
    let messages = session.messages();
    assert_eq!(one_by_one(&mut session, &cut, 4), wanted);
    let before = session.counters().submits;
    assert_eq!(two_in_flight(&mut session, &cut, 4), wanted);
    let grown = session.counters().submits - before;
    assert_eq!(grown, 2 * submits.iter().sum::<u64>());
    drop(session);
    assert_eq!(messages.all(), Vec::<String>::new());
}

/// Entries share the memory of their inputs, so positions that are written once for many batches must come back after a
/// batch of the other entry, whatever the order.
#[test]
fn batches_of_two_entries_keep_their_positions() {
    let plan = Arc::new(plan(GRAPHS[0], true, None));
    let range = |entry: usize, name: &str| {
        let info = &plan.entries[entry];
        let mut tensors = info.inputs.iter().map(|id| &info.tensors[*id]);
        tensors.find(|tensor| tensor.name == name).unwrap().range(0)
    };
    let (kept, other) = (range(0, "positions"), range(1, "positions"));
    assert!(kept.contains(&other.start), "{kept:?} {other:?}");

    let mut written = open(&plan);
    let mut runner = SessionRunner::new(open(&plan));
    let order = [0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 1, 1, 1, 1, 0, 1, 1, 0, 0, 0];
    for (number, entry) in order.into_iter().enumerate() {
        let ticket = submit(&mut written, &plan, entry, number);
        let wanted = result(&mut written, ticket);
        let (batch, seq) = ENTRIES[entry];
        let bucket = Bucket {
            batch: batch as u32,
            seq: seq as u32,
        };
        let sequences = sequences(entry, number);
        let sequences: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
        let flight = runner.submit(bucket, &sequences).unwrap();
        let mut found = Vec::new();
        let mut take = |_: usize, row: &[f32]| found.extend_from_slice(row);
        runner.collect(flight, batch, &mut take).unwrap();
        assert_eq!(found, wanted, "forward {number} of {order:?}");
    }
    assert_eq!(runner.session().messages().all(), Vec::<String>::new());
}

#[test]
fn a_slot_comes_again_only_after_a_submit_of_the_same_entry() {
    let plan = Arc::new(plan(GRAPHS[0], true, None));
    let mut session = open(&plan);
    let ids = [0, 1].map(|at: usize| session.entry(&plan.entries[at].name).unwrap());
    let again = |session: &mut Session, entry: usize| session.begin(ids[entry]).unwrap().again();
    let run = |session: &mut Session, entry| {
        let ticket = submit(session, &plan, entry, 0);
        result(session, ticket);
    };
    for parity in 0..2 {
        assert!(!again(&mut session, 0), "nothing ran at parity {parity}");
        run(&mut session, 0);
    }
    // Parity 0, then parity 1 after one more submit.
    assert!(again(&mut session, 0));
    assert!(!again(&mut session, 0), "the last slot was given up");
    run(&mut session, 0);
    assert!(!again(&mut session, 1), "parity 1 had the other entry");
    run(&mut session, 1);
    assert!(again(&mut session, 0));
    run(&mut session, 0);
    assert!(!again(&mut session, 0), "parity 1 had the other entry");
}
