//! Every model graph of the repository on the interpreter: the same numbers from planned and from naive placement,
//! in every order inside waves, fused and unfused; and the numbers that `transformers` computes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;

use graphc::dtype::DType;
use graphc::expr::Value;
use graphc::formula::{Formula, decode};
use graphc::interp::{Interpreter, Placement};
use graphc::plan::Plan;
use graphc::weights::{CachePlace, Checkpoint, PackOptions, PackedWeights};
use support::golden::{cosine, golden, uniform};
use support::tiny::{made_up, request, tiny};

#[test]
fn every_manifest_says_what_it_writes() {
    let library = support::library();
    assert!(!library.manifests.is_empty());
    for manifest in library.manifests.values() {
        let formula = Formula::parse(&manifest.reference);
        let checked = formula.and_then(|formula| formula.check(manifest));
        checked.unwrap_or_else(|error| panic!("{}: {error}", manifest.path));
    }
}

/// The numbers that `tools/reference.py` prints for the same name.
#[test]
fn checkpoints_are_made_as_in_python() {
    assert_eq!(uniform("emb_ln.weight", 3), PYTHON);
}

const PYTHON: [f64; 3] = [
    -0.739_230_513_572_692_9,
    0.527_622_461_318_969_7,
    0.710_055_947_303_772,
];

fn embed(
    plan: &Plan,
    placement: Placement,
    seed: u64,
    inputs: &BTreeMap<String, Vec<u8>>,
) -> Vec<f64> {
    let interpreter = Interpreter::new(plan, made_up).unwrap();
    let mut interpreter = interpreter.with_placement(placement).with_seed(seed);
    let entry = &plan.entries[0];
    // The second run starts from what the first one left.
    interpreter.run(&entry.name, 0, inputs).unwrap();
    let outputs = interpreter.run(&entry.name, 1, inputs).unwrap();
    let dtype = entry.tensors[entry.outputs[0]].dtype;
    decode(dtype, outputs.values().next().unwrap()).unwrap()
}

#[test]
fn placement_and_order_do_not_change_a_single_bit() {
    let sequences = [
        vec![2, 9, 30, 31, 7, 3],
        vec![2, 3],
        vec![2, 50, 51, 52, 53, 54, 55, 56, 57, 58, 3],
    ];
    let inputs = support::batch(&sequences, 12);
    for tiny in tiny() {
        for fused in [false, true] {
            for dtype in [DType::F32, DType::F16] {
                let plan = support::plan(tiny.path, &request(&tiny.config, 3, 12, dtype), fused);
                let want = embed(&plan, Placement::Naive, 0, &inputs);
                assert!(want.iter().any(|value| *value != 0.0));
                for seed in 0..4 {
                    let got = embed(&plan, Placement::Planned, seed, &inputs);
                    assert_eq!(
                        got, want,
                        "{} fused: {fused}, {dtype}, seed {seed}",
                        tiny.path
                    );
                }
            }
        }
    }
}

#[test]
fn fusion_keeps_the_numbers() {
    let sequences = [vec![2, 9, 30, 31, 7, 3], vec![2, 8, 3]];
    let inputs = support::batch(&sequences, 7);
    for tiny in tiny() {
        let embed = |fused| {
            let plan = support::plan(tiny.path, &request(&tiny.config, 2, 7, DType::F32), fused);
            (
                plan.entries[0].passes.len(),
                embed(&plan, Placement::Planned, 0, &inputs),
            )
        };
        let ((plain_passes, plain), (fused_passes, fused)) = (embed(false), embed(true));
        assert!(
            fused_passes < plain_passes,
            "{}: {fused_passes} passes of {plain_passes}",
            tiny.path
        );
        for (plain, fused) in plain.iter().zip(&fused) {
            assert!(
                (plain - fused).abs() < 1e-5,
                "{}: {plain} and {fused}",
                tiny.path
            );
        }
    }
}

#[test]
fn nomic_bert_is_what_transformers_computes() {
    matches_golden("nomic_bert.json", "graphs/models/nomic_bert.ron");
}

#[test]
fn modernbert_is_what_transformers_computes() {
    matches_golden("modernbert.json", "graphs/models/modernbert.ron");
}

fn matches_golden(name: &str, path: &str) {
    let golden = golden(name);
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::open(&golden.write(folder.path())).unwrap();
    let sequences: Vec<Vec<u32>> = golden
        .inputs
        .iter()
        .map(|input| input.ids.clone())
        .collect();
    let seq = sequences.iter().map(Vec::len).max().unwrap();
    let inputs = support::batch(&sequences, seq);
    for fused in [false, true] {
        let request = request(&golden.config, sequences.len(), seq, DType::F32);
        let plan = support::plan(path, &request, fused);
        let options = PackOptions {
            place: CachePlace::Memory,
            ..PackOptions::default()
        };
        let packed =
            PackedWeights::open_or_pack(&plan, &checkpoint, &options, &mut |_, _| {}).unwrap();
        let mut index = 0..;
        let mut interpreter =
            Interpreter::new(&plan, |_| packed.bytes(index.next().unwrap()).to_vec()).unwrap();
        let outputs = interpreter.run(&plan.entries[0].name, 0, &inputs).unwrap();
        let got = decode(DType::F32, outputs.values().next().unwrap()).unwrap();
        for (input, got) in golden
            .inputs
            .iter()
            .zip(got.chunks(got.len() / golden.inputs.len()))
        {
            let want = input.embedding();
            let cosine = cosine(got, &want);
            assert!(
                cosine > 1.0 - 1e-9,
                "{} tokens, fused: {fused}: cosine {cosine}",
                input.ids.len()
            );
            for (got, want) in got.iter().zip(&want) {
                assert!(
                    (got - want).abs() < 2e-6,
                    "{} tokens, fused: {fused}: {got}, not {want}",
                    input.ids.len()
                );
            }
        }
    }
}

/// Guards `request` against params that silently keep their defaults.
#[test]
fn params_come_from_the_configuration() {
    let request = request(&golden("modernbert.json").config, 1, 8, DType::F32);
    let plan = support::plan("graphs/models/modernbert.ron", &request, true);
    assert_eq!(plan.params["global_theta"], Value::Float(160_000.0));
    assert_eq!(plan.params["local_attention"], Value::Int(16));
}
