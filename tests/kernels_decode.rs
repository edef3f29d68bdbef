//! The kernels of a decode step, which read and update state, on the Vulkan device against their formulas in f64 and,
//! for tokens, against a sampler written here. Inputs are fresh in every run; the seed is printed, and
//! `GRAPHC_TEST_SEED` sets it.

#![cfg(all(feature = "gpu", feature = "shaderc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;

use graphc::device::Feature;
use graphc::dtype::DType;
use graphc::expr::Value;
use graphc::formula::{decode, encode};
use graphc::kernel::Manifest;
use support::gpu;
use support::random::Random;
use support::rounds::{self, Input, Output, Pass, Seen, State};

const NONE: f64 = 4_294_967_295.0;
const INVALID: f64 = 4_294_967_294.0;

/// Every way to give the type variables a type.
fn assignments(manifest: &Manifest) -> Vec<BTreeMap<String, DType>> {
    let mut all = vec![BTreeMap::new()];
    for (variable, types) in &manifest.types {
        let with = |one: &BTreeMap<String, DType>, dtype: &DType| {
            let mut one = one.clone();
            one.insert(variable.clone(), *dtype);
            one
        };
        all = types
            .iter()
            .flat_map(|dtype| all.iter().map(|one| with(one, dtype)).collect::<Vec<_>>())
            .collect();
    }
    all
}

/// Runs the passes that `passes` makes for each assignment of types on every variant, and has every result looked at.
fn run(
    kernel: &str,
    passes: impl Fn(&BTreeMap<String, DType>) -> Vec<Pass>,
    mut look: impl FnMut(&[Pass], &Seen),
) {
    let library = support::library();
    let manifest = &library.manifests[kernel];
    let device = gpu::profile();
    let mut tested = 0;
    for (turn, types) in assignments(manifest).into_iter().enumerate() {
        let all = passes(&types);
        for variant in &manifest.variants {
            // Every assignment of types but the first takes another third of many cases, unless all were asked for. What
            // runs on matrix units takes one assignment alone, and so all of its cases.
            let full = turn == 0
                || all.len() < 6
                || variant.needs.contains(&Feature::CoopmatF16)
                || std::env::var_os("GRAPHC_TEST_FULL").is_some();
            let mut passes = all.clone();
            let mut at = 0..;
            passes.retain(|_| at.next().is_some_and(|at| full || at % 3 == turn % 3));
            for device in gpu::views(kernel, variant, &device) {
                for seen in rounds::run(kernel, variant, &types, &passes, &device) {
                    look(&passes, &seen);
                    tested += 1;
                }
            }
        }
    }
    assert!(tested > 0, "no variant of `{kernel}` could be tested");
}

fn same(passes: &[Pass], seen: &Seen) {
    assert_eq!(
        seen.device, seen.interpreter,
        "`{}` of [{}] in round {}: the device on the left",
        seen.port, passes[seen.pass].label, seen.round
    );
}

/// An input that does not change.
fn fixed(port: &'static str, dtype: DType, shape: &[u64], values: &[f64], rounds: usize) -> Input {
    changing(port, dtype, shape, vec![values.to_vec(); rounds])
}

fn changing(port: &'static str, dtype: DType, shape: &[u64], rounds: Vec<Vec<f64>>) -> Input {
    Input {
        port,
        dtype,
        shape: shape.to_vec(),
        rounds,
    }
}

fn output(port: &'static str, dtype: DType) -> Output {
    Output { port, dtype }
}

fn state(port: &'static str, dtype: DType, shape: &[u64]) -> State {
    State {
        port,
        dtype,
        shape: shape.to_vec(),
    }
}

/// Fresh or going on, in the first step or a later one, done or not, before or at the limit; more sequences than
/// invocations. In the second round all are at their limit, so that nobody is alive.
#[test]
fn step_begin() {
    let mut random = Random::from_env("step_begin");
    let (b, slots) = (133_u64, 141_u64);
    let order = permutation(&mut random, slots);
    let mut draw = |count: u64, limit: u64| -> Vec<f64> {
        (0..count).map(|_| random.below(limit) as f64).collect()
    };
    let flow: Vec<f64> = (0..b)
        .flat_map(|_| [draw(1, 2)[0], draw(1, 12)[0]])
        .collect();
    let at_the_limit = flow.chunks(2).flat_map(|pair| [pair[0], 0.0]).collect();
    let progress =
        (0..slots).flat_map(|_| [draw(1, 90)[0], draw(1, 12)[0], draw(1, 2)[0], draw(1, 2)[0]]);
    let progress: Vec<f64> = progress.collect();
    let (ids, positions) = (draw(b, 90), draw(b, 12));
    let pass = Pass {
        label: "all".into(),
        inputs: vec![
            fixed("ids", DType::U32, &[b], &ids, 2),
            fixed("positions", DType::U32, &[b], &positions, 2),
            changing("flow", DType::U32, &[b, 2], vec![flow, at_the_limit]),
            fixed("slots", DType::U32, &[b], &order[..b as usize], 2),
            fixed("progress", DType::U32, &[slots, 4], &progress, 2),
        ],
        states: vec![state("alive", DType::U32, &[1])],
        outputs: vec![
            output("next_ids", DType::U32),
            output("next_positions", DType::U32),
        ],
        ..Pass::default()
    };
    let mut alive = Vec::new();
    run(
        "step_begin",
        |_| vec![pass.clone()],
        |passes, seen| {
            same(passes, seen);
            alive.extend((seen.port == "alive").then(|| seen.device.clone()));
        },
    );
    assert_eq!(alive[..2], [[1.0], [0.0]], "somebody, then nobody");
}

fn permutation(random: &mut Random, count: u64) -> Vec<f64> {
    let mut order: Vec<f64> = (0..count).map(|slot| slot as f64).collect();
    for last in (1..order.len()).rev() {
        order.swap(last, random.below(last as u64 + 1) as usize);
    }
    order
}

/// How the logits of a row are made.
#[derive(Clone, Copy)]
enum Logits {
    /// Like those of a language model: a few stand out.
    Peaked,
    /// So flat that every list of candidates overflows.
    Flat,
    /// Whole numbers: many are equal.
    Ties,
    /// All the same.
    Equal,
    /// One is not a number, infinite, or all are minus infinity.
    Broken(f32),
    /// Half are minus infinity.
    Masked,
}

fn logits(random: &mut Random, kind: Logits, vocab: u64) -> Vec<f64> {
    let normal = |random: &mut Random| (0..6).map(|_| random.unit()).sum::<f64>() * 0.707;
    let mut row: Vec<f64> = (0..vocab)
        .map(|j| match kind {
            Logits::Peaked => f64::from((normal(random) * 4.0 + 3.0) as f32),
            Logits::Flat => f64::from((normal(random) * 0.01) as f32),
            Logits::Ties => random.below(4) as f64 - 2.0,
            Logits::Equal => 1.5,
            Logits::Broken(_) => f64::from(random.unit() as f32),
            Logits::Masked if j % 2 == 0 => f64::NEG_INFINITY,
            Logits::Masked => f64::from(random.unit() as f32),
        })
        .collect();
    if let Logits::Broken(value) = kind {
        if value == f32::NEG_INFINITY {
            row.fill(f64::NEG_INFINITY);
        } else {
            row[random.below(vocab) as usize] = value.into();
        }
    }
    row
}

/// One row of `sample`.
#[derive(Clone, Copy)]
struct Row {
    kind: Logits,
    sampling: [f64; 3],
}

/// What `sample` should pick, and the scores of all tokens (minus infinity for those that were cut).
fn reference(logits: &[f64], sampling: [f64; 3], seed: [u32; 2], position: u32) -> (f64, Vec<f64>) {
    let peak = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if logits.iter().any(|v| v.is_nan()) || peak.is_infinite() {
        return (INVALID, vec![]);
    }
    let [temperature, top_k, top_p] = sampling.map(|v| f64::from(v as f32));
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    if temperature == 0.0 {
        return (order[0] as f64, logits.to_vec());
    }
    let cut_k = if top_k > 0.0 && (top_k as usize) < logits.len() {
        logits[order[top_k as usize - 1]]
    } else {
        f64::NEG_INFINITY
    };
    order.retain(|j| logits[*j] >= cut_k);
    let weight = |j: usize| ((logits[j] - peak) / temperature).exp();
    let total: f64 = order.iter().map(|j| weight(*j)).sum();
    let mut scores = vec![f64::NEG_INFINITY; logits.len()];
    let (mut larger, mut equal, mut last) = (0.0, 0.0, f64::INFINITY);
    for j in order {
        if logits[j] < last {
            larger += equal;
            equal = 0.0;
            last = logits[j];
        }
        equal += weight(j);
        if top_p > 0.0 && top_p < 1.0 && larger >= top_p * total {
            continue;
        }
        let noise = pcg3d(seed[0], seed[1] ^ position, j as u32);
        scores[j] = (logits[j] - peak) / temperature - (-(1.0 - noise).ln()).ln();
    }
    let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let pick = scores.iter().position(|score| *score == best).unwrap();
    (pick as f64, scores)
}

/// As the paper has it (Jarzynski and Olano 2020), then 24 leading bits over 2^32.
fn pcg3d(x: u32, y: u32, z: u32) -> f64 {
    let step = |v: u32| v.wrapping_mul(1664525).wrapping_add(1013904223);
    let (mut x, mut y, mut z) = (step(x), step(y), step(z));
    for round in 0..2 {
        x = x.wrapping_add(y.wrapping_mul(z));
        y = y.wrapping_add(z.wrapping_mul(x));
        z = z.wrapping_add(x.wrapping_mul(y));
        if round == 0 {
            (x, y, z) = (x ^ x >> 16, y ^ y >> 16, z ^ z >> 16);
        }
    }
    let kept = (32 - x.leading_zeros()).saturating_sub(24);
    f64::from(x.max(1) >> kept << kept) / 2_f64.powi(32)
}

/// Three steps of greedy rows and of rows with every kind of cut, over logits with ties, without a clear peak, masked
/// and broken; vocabularies of one share and of several; dead sequences, stops and limits.
#[test]
fn sample() {
    let mut random = Random::from_env("sample");
    let mut rows = Vec::new();
    for kind in [
        Logits::Peaked,
        Logits::Flat,
        Logits::Ties,
        Logits::Equal,
        Logits::Masked,
    ] {
        for (k, p) in [
            (0, 0.0),
            (1, 1.0),
            (3, 0.0),
            (0, 0.5),
            (20, 0.9),
            (90, 0.99),
            (0, 0.95),
            (0, 0.999),
            (5000, 0.3),
        ] {
            let temperature = [0.0, 0.7, 1.0, 2.5][random.below(4) as usize];
            rows.push(Row {
                kind,
                sampling: [temperature, f64::from(k), p],
            });
        }
        rows.push(Row {
            kind,
            sampling: [0.0; 3],
        });
    }
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        rows.push(Row {
            kind: Logits::Broken(value),
            sampling: [0.0; 3],
        });
        rows.push(Row {
            kind: Logits::Broken(value),
            sampling: [1.0, 5.0, 0.5],
        });
    }
    // Formulas compare every logit with every other, so the longest rows are few.
    let few: Vec<Row> = rows
        .iter()
        .copied()
        .skip(random.below(4) as usize)
        .step_by(4)
        .collect();
    let tables = [(rows.clone(), 1, 1), (rows, 70, 3), (few, 2100, 3)];
    let passes = tables
        .clone()
        .map(|(rows, vocab, steps)| sampling_pass(&mut random, &rows, vocab, steps));
    run(
        "sample",
        |_| passes.to_vec(),
        |passes, seen| {
            let pass = &passes[seen.pass];
            same(passes, seen);
            if seen.port != "tokens" {
                return;
            }
            let steps = pass.options[0].1.as_int().unwrap() as usize;
            let step = seen.round % steps;
            let input = |port: &str| {
                let input = pass.inputs.iter().find(|input| input.port == port).unwrap();
                &input.rounds[seen.round]
            };
            let rows = &tables[seen.pass].0;
            let vocab = input("logits").len() / rows.len();
            for (i, row) in rows.iter().enumerate() {
                let token = seen.device[i * steps + step];
                let what = format!("row {i} of [{}] in round {}", pass.label, seen.round);
                if input("positions")[i] == NONE {
                    assert_eq!(token, NONE, "{what}");
                    continue;
                }
                let seed = [
                    input("seeds")[2 * i] as u32,
                    input("seeds")[2 * i + 1] as u32,
                ];
                let logits = &input("logits")[i * vocab..][..vocab];
                let (wanted, scores) =
                    reference(logits, row.sampling, seed, input("positions")[i] as u32);
                // The device works in f32, so two tokens may be as good as one.
                let near = || {
                    row.sampling[0] > 0.0 && scores[wanted as usize] - scores[token as usize] < 1e-5
                };
                assert!(
                    token == wanted || near(),
                    "{what}: {token} where {wanted} is right"
                );
            }
        },
    );
}

fn sampling_pass(random: &mut Random, rows: &[Row], vocab: u64, steps: u64) -> Pass {
    const ROUNDS: usize = 3;
    let b = rows.len() as u64;
    let slots = b + 3;
    let order = permutation(random, slots)[..rows.len()].to_vec();
    let mut positions = Vec::new();
    let mut scores = Vec::new();
    for _ in 0..ROUNDS {
        positions.push(
            (0..b)
                .map(|_| {
                    if random.below(6) == 0 {
                        NONE
                    } else {
                        random.below(30) as f64
                    }
                })
                .collect(),
        );
        scores.push(
            rows.iter()
                .flat_map(|row| logits(random, row.kind, vocab))
                .collect(),
        );
    }
    let word = |random: &mut Random| random.below(1 << 32) as f64;
    let seeds: Vec<f64> = (0..2 * b).map(|_| word(random)).collect();
    let flow: Vec<f64> = (0..b)
        .flat_map(|_| [0.0, random.below(40) as f64])
        .collect();
    let sampling: Vec<f64> = rows
        .iter()
        .flat_map(|row| [row.sampling[0], row.sampling[1], row.sampling[2], 0.0])
        .collect();
    let mut stops = vec![NONE; 8];
    (0..5).for_each(|i| stops[i] = random.below(vocab) as f64);
    Pass {
        label: format!("vocab {vocab}, {steps} steps"),
        options: vec![("steps", Value::Int(steps as i64))],
        inputs: vec![
            changing("logits", DType::F32, &[b, vocab], scores),
            changing("positions", DType::U32, &[b], positions),
            fixed("slots", DType::U32, &[b], &order, ROUNDS),
            fixed("flow", DType::U32, &[b, 2], &flow, ROUNDS),
            fixed("seeds", DType::U32, &[b, 2], &seeds, ROUNDS),
            fixed("sampling", DType::F32, &[b, 4], &sampling, ROUNDS),
            fixed("stops", DType::U32, &[8], &stops, ROUNDS),
        ],
        states: vec![
            state("progress", DType::U32, &[slots, 4]),
            state("ring", DType::U32, &[slots, 64]),
        ],
        outputs: vec![output("tokens", DType::U32)],
    }
}

/// The largest error of an element, relative to its own size plus the root mean square of those that are not zero.
fn near(passes: &[Pass], seen: &Seen, limits: [f64; 2]) {
    let whole: Vec<f64> = seen
        .interpreter
        .iter()
        .copied()
        .filter(|v| *v != 0.0)
        .collect();
    let rms = (whole.iter().map(|v| v * v).sum::<f64>() / whole.len().max(1) as f64).sqrt();
    let limit = limits[usize::from(seen.dtype == DType::F16)];
    for (at, (got, want)) in seen.device.iter().zip(&seen.interpreter).enumerate() {
        let error = (got - want).abs() / (want.abs() + rms).max(f64::MIN_POSITIVE);
        assert!(
            error <= limit,
            "`{}` of [{}] in round {}: element {at} is {got} but must be {want}, an error of {error:.1e} where {limit:.0e} is allowed",
            seen.port,
            passes[seen.pass].label,
            seen.round
        );
    }
}

/// Groups of int8 hold values within a level of each other, and few are not equal: a sum in f32 lies on the other side
/// of a half now and then.
fn levels(passes: &[Pass], seen: &Seen) {
    let what = format!(
        "`{}` of [{}] in round {}",
        seen.port, passes[seen.pass].label, seen.round
    );
    let mut turned = 0;
    for (got, want) in seen.device.chunks(32).zip(&mut seen.interpreter.chunks(32)) {
        let largest = want
            .iter()
            .fold(0.0, |most: f64, value| most.max(value.abs()));
        for (got, want) in got.iter().zip(want) {
            let apart = (got - want).abs() * 127.0;
            // f16 rounds a scale by 1/2048 at most, once on each side.
            assert!(
                apart <= 1.13 * largest,
                "{what}: {got} where {want} is due, of at most {largest}"
            );
            turned += usize::from(apart > 0.13 * largest);
        }
    }
    assert!(
        turned * 200 <= seen.device.len() + 200,
        "{what}: {turned} of {} are a level off",
        seen.device.len()
    );
}

fn floats(random: &mut Random, count: u64) -> Vec<f64> {
    (0..count).map(|_| random.unit() * 3_f64.sqrt()).collect()
}

/// A norm weight of heads, or the factors of their pairs.
fn of_heads(random: &mut Random, port: &'static str, head_dim: u64, rounds: usize) -> Input {
    let count = if port == "rope_factors" {
        head_dim / 2
    } else {
        head_dim
    };
    let values: Vec<f64> = (0..count).map(|_| 1.5 + random.unit() / 2.0).collect();
    fixed(port, DType::F32, &[count], &values, rounds)
}

/// Without the passes whose heads an int8 cache cannot have.
fn whole_groups(types: &BTreeMap<String, DType>, mut passes: Vec<Pass>) -> Vec<Pass> {
    let head_dim = |pass: &Pass| {
        pass.options
            .iter()
            .find(|one| one.0 == "head_dim")
            .unwrap()
            .1
            .as_int()
            .unwrap()
    };
    passes.retain(|pass| types["C"] != DType::Int8 || head_dim(pass) % 32 == 0);
    passes
}

/// Rows of several sequences at any places, dead ones and such past the end of the cache among them; what an earlier
/// round appended stays.
#[test]
fn rope_append() {
    const ROUNDS: usize = 3;
    let random = std::cell::RefCell::new(Random::from_env("rope_append"));
    let cases = [
        // heads, kv_heads, head_dim, rows of a sequence, sequences, ctx, bound
        (1, 1, 2, 1, 1, 5, &[][..]),
        (4, 1, 32, 1, 3, 40, &["q_norm", "k_norm"]),
        (3, 3, 80, 7, 2, 33, &["rope_factors"]),
        (8, 2, 64, 33, 1, 70, &["k_norm", "rope_factors"]),
        (2, 1, 256, 3, 2, 400, &["q_norm", "k_norm", "rope_factors"]),
        (6, 2, 96, 5, 1, 9, &["q_norm"]),
    ];
    let make = |types: &BTreeMap<String, DType>| {
        let mut random = random.borrow_mut();
        let random = &mut *random;
        let passes = cases.map(|(heads, kv_heads, head_dim, rows, b, ctx, bound)| {
            let (m, slots) = (rows * b, b + 1);
            let width = (heads + 2 * kv_heads) * head_dim;
            let mut positions = Vec::new();
            for _ in 0..ROUNDS {
                let mut all = Vec::new();
                for _ in 0..b {
                    let places = permutation(random, ctx + 3);
                    let dead = |v: &f64| if *v as u64 == ctx + 2 { NONE } else { *v };
                    all.extend(places.iter().cycle().take(rows as usize).map(dead));
                }
                positions.push(all);
            }
            let order = permutation(random, slots)[..b as usize].to_vec();
            let qkv = (0..ROUNDS).map(|_| floats(random, m * width)).collect();
            let mut inputs = vec![
                changing("qkv", types["A"], &[m, width], qkv),
                changing("positions", DType::U32, &[m], positions),
                fixed("slots", DType::U32, &[b], &order, ROUNDS),
            ];
            inputs.extend(bound.iter().map(|port| of_heads(random, port, head_dim, ROUNDS)));
            let cache = [slots, kv_heads, ctx, head_dim];
            Pass {
                label: format!("{heads}/{kv_heads} heads of {head_dim}, {b} x {rows} rows, ctx {ctx}, {bound:?}"),
                options: vec![
                    ("heads", Value::Int(heads as i64)),
                    ("kv_heads", Value::Int(kv_heads as i64)),
                    ("head_dim", Value::Int(head_dim as i64)),
                    ("theta", Value::Float(1000.0)),
                    ("rope_scale", Value::Float(0.5)),
                ],
                inputs,
                states: vec![state("k_cache", types["C"], &cache), state("v_cache", types["C"], &cache)],
                outputs: vec![output("y", types["A"])],
            }
        });
        whole_groups(types, passes.to_vec())
    };
    // As `rope`: sines and cosines of hundreds of radians.
    run("rope_append", make, |passes, seen| match seen.dtype {
        DType::Int8 => levels(passes, seen),
        _ => near(passes, seen, [3e-4, 2e-3]),
    });
}

/// One sequence or more, of one row or a chunk, at places around the borders of tiles, parts, windows and the cache;
/// every ratio of heads; dead rows.
#[test]
fn cached_attention() {
    const ROUNDS: usize = 3;
    let random = std::cell::RefCell::new(Random::from_env("cached_attention"));
    let cases = [
        // heads, kv_heads, head_dim, rows of a sequence, sequences, ctx, window, softcap
        (1, 1, 32, 1, 1, 1, 0, 0.0),
        (1, 1, 32, 1, 9, 200, 0, 0.0),
        (3, 1, 64, 1, 7, 131, 0, 0.0),
        (5, 1, 64, 1, 2, 300, 0, 0.0),
        (24, 8, 128, 1, 1, 700, 0, 0.0),
        (12, 2, 128, 1, 9, 90, 40, 0.0),
        (14, 2, 64, 1, 1, 1300, 0, 2.0),
        (8, 2, 128, 1, 9, 300, 0, 0.0),
        (4, 1, 128, 1, 3, 1100, 0, 0.0),
        (8, 1, 64, 1, 2, 700, 300, 0.0),
        (8, 1, 80, 1, 9, 97, 33, 0.0),
        (4, 4, 256, 1, 5, 70, 0, 5.0),
        (10, 1, 40, 1, 4, 60, 7, 0.0),
        (4, 1, 256, 2, 3, 600, 64, 0.0),
        (6, 2, 96, 5, 2, 100, 0, 0.0),
        (4, 2, 64, 16, 1, 90, 20, 3.0),
        (2, 1, 8, 6, 1, 40, 0, 0.0),
        (3, 1, 64, 17, 2, 77, 0, 0.0),
        (8, 2, 32, 70, 1, 150, 0, 0.0),
        (2, 2, 128, 33, 1, 130, 40, 0.0),
        (4, 1, 256, 40, 1, 64, 0, 2.0),
    ];
    let make = |types: &BTreeMap<String, DType>| {
        let mut random = random.borrow_mut();
        let random = &mut *random;
        let passes = cases.map(|(heads, kv_heads, head_dim, rows, b, ctx, window, softcap)| {
            let (m, slots) = (rows * b, b + 1);
            let rounds = |random: &mut Random, count| (0..ROUNDS).map(|_| floats(random, count)).collect();
            let positions = (0..ROUNDS).map(|_| (0..b).flat_map(|_| places(random, rows, ctx, window)).collect());
            let positions: Vec<Vec<f64>> = positions.collect();
            let order = permutation(random, slots)[..b as usize].to_vec();
            let cache = [slots, kv_heads, ctx, head_dim];
            Pass {
                label: format!(
                    "{heads}/{kv_heads} heads of {head_dim}, {b} x {rows} rows, ctx {ctx}, window {window}, positions {positions:?}"
                ),
                options: attention_options(random, [heads, kv_heads, head_dim], window, softcap),
                inputs: vec![
                    changing("q", types["A"], &[m, heads * head_dim], rounds(random, m * heads * head_dim)),
                    changing("positions", DType::U32, &[m], positions),
                    fixed("slots", DType::U32, &[b], &order, ROUNDS),
                    changing("k_cache", types["C"], &cache, rounds(random, cache.iter().product())),
                    changing("v_cache", types["C"], &cache, rounds(random, cache.iter().product())),
                ],
                outputs: vec![output("y", types["A"])],
                ..Pass::default()
            }
        });
        whole_groups(types, passes.to_vec())
    };
    // Exponentials of scores that reach 20 or so, as in `attention`.
    run("cached_attention", make, |passes, seen| {
        near(passes, seen, [2e-5, 2e-3])
    });
}

/// One row of each sequence, appended and seen at once: runs of neighbouring places that start at borders as above, so that
/// most of what a row sees was appended in rounds before it; dead rows, and such past the end of the cache.
#[test]
fn append_attention() {
    const ROUNDS: usize = 9;
    let random = std::cell::RefCell::new(Random::from_env("append_attention"));
    let cases = [
        // heads, kv_heads, head_dim, sequences, ctx, window, softcap, bound
        (1, 1, 8, 1, 7, 0, 0.0, &[][..]),
        (4, 2, 16, 3, 50, 8, 0.0, &["q_norm", "k_norm"]),
        (1, 1, 32, 1, 33, 0, 0.0, &[]),
        (2, 2, 128, 1, 70, 0, 0.0, &["q_norm", "k_norm"]),
        (8, 2, 64, 7, 131, 0, 0.0, &["rope_factors"]),
        (8, 2, 128, 1, 300, 0, 0.0, &[]),
        (4, 1, 128, 3, 1100, 0, 0.0, &["k_norm", "rope_factors"]),
        (8, 1, 64, 2, 700, 300, 0.0, &["q_norm"]),
        (
            8,
            1,
            80,
            9,
            97,
            33,
            0.0,
            &["q_norm", "k_norm", "rope_factors"],
        ),
        (4, 4, 256, 5, 70, 0, 5.0, &["q_norm", "k_norm"]),
        (10, 2, 40, 4, 60, 7, 0.0, &["q_norm", "k_norm"]),
        (24, 8, 128, 1, 700, 0, 0.0, &["rope_factors"]),
        (5, 1, 64, 2, 300, 0, 2.0, &[]),
        (12, 2, 128, 9, 90, 40, 0.0, &["q_norm", "k_norm"]),
        (14, 2, 64, 1, 1300, 0, 0.0, &[]),
        (3, 1, 128, 2, 40, 20, 2.0, &["q_norm", "k_norm"]),
    ];
    let make = |types: &BTreeMap<String, DType>| {
        let mut random = random.borrow_mut();
        let random = &mut *random;
        let passes = cases.map(
            |(heads, kv_heads, head_dim, b, ctx, window, softcap, bound)| {
                let slots = b + 1;
                let width = (heads + 2 * kv_heads) * head_dim;
                let mut positions: Vec<Vec<f64>> = Vec::new();
                for round in 0..ROUNDS {
                    let before = positions.last().cloned().unwrap_or_default();
                    let next = |at: u64, random: &mut Random| match before.get(at as usize) {
                        Some(place) if round % 3 > 0 && *place < ctx as f64 => place + 1.0,
                        _ => places(random, 1, ctx, window)[0],
                    };
                    positions.push((0..b).map(|at| next(at, random)).collect());
                }
                let order = permutation(random, slots)[..b as usize].to_vec();
                let qkv = (0..ROUNDS).map(|_| floats(random, b * width)).collect();
                let mut inputs = vec![
                    changing("qkv", types["A"], &[b, width], qkv),
                    changing("positions", DType::U32, &[b], positions.clone()),
                    fixed("slots", DType::U32, &[b], &order, ROUNDS),
                ];
                inputs.extend(bound.iter().map(|port| of_heads(random, port, head_dim, ROUNDS)));
                let mut options = attention_options(random, [heads, kv_heads, head_dim], window, softcap);
                options.push(("theta", Value::Float(1000.0)));
                options.push(("rope_scale", Value::Float(0.02)));
                let cache = [slots, kv_heads, ctx, head_dim];
                Pass {
                    label: format!(
                        "{heads}/{kv_heads} heads of {head_dim}, {b} rows, ctx {ctx}, window {window}, {bound:?}, positions {positions:?}"
                    ),
                    options,
                    inputs,
                    states: vec![
                        state("k_cache", types["C"], &cache),
                        state("v_cache", types["C"], &cache),
                    ],
                    outputs: vec![output("y", types["A"])],
                }
            },
        );
        passes.to_vec()
    };
    // Errors of sines and cosines, which grow with the angle, and exponentials of the scores that follow. A key that lies
    // between two f16 may be stored as either, which shows in y: so y is held to what stands in the caches.
    const LIMITS: [f64; 2] = [2e-4, 4e-3];
    let mut results: Vec<Seen> = Vec::new();
    run("append_attention", make, |passes, seen| {
        results.push(seen.clone());
        let [y, k, v] = results.as_slice() else {
            return;
        };
        let pass = &passes[y.pass];
        let of_interpreter = Seen {
            device: attended(pass, y.round, [&k.interpreter, &v.interpreter]),
            ..y.clone()
        };
        near(passes, &of_interpreter, [1e-6, 1e-3]);
        let on_device = Seen {
            interpreter: attended(pass, y.round, [&k.device, &v.device]),
            ..y.clone()
        };
        for result in [&on_device, k, v] {
            near(passes, result, LIMITS);
        }
        results.clear();
    });
}

/// What `append_attention` makes of what stands in the caches behind it, keys and values, in f64.
fn attended(pass: &Pass, round: usize, [keys, values]: [&[f64]; 2]) -> Vec<f64> {
    let option = |name: &str| match pass.options.iter().find(|(known, _)| *known == name) {
        Some((_, Value::Int(value))) => *value as f64,
        Some((_, Value::Float(value))) => *value,
        other => panic!("option {name}: {other:?}"),
    };
    let bound = |port: &str| {
        let input = pass.inputs.iter().find(|input| input.port == port)?;
        decode(input.dtype, &encode(input.dtype, &input.rounds[round]))
    };
    let [heads, kv_heads, dims, window] =
        ["heads", "kv_heads", "head_dim", "window"].map(|name| option(name) as usize);
    let (qkv, positions, slots) = (bound("qkv"), bound("positions"), bound("slots"));
    let (qkv, positions, slots) = (qkv.unwrap(), positions.unwrap(), slots.unwrap());
    let (norm, factors) = (bound("q_norm"), bound("rope_factors"));
    let ctx = pass.states[0].shape[2] as usize;
    let scale = match option("scale") {
        0.0 => 1.0 / (dims as f64).sqrt(),
        scale => scale,
    };
    let softcap = option("softcap");
    let mut y = Vec::new();
    for (row, (position, slot)) in positions.iter().zip(&slots).enumerate() {
        let after = if *position == NONE {
            0
        } else {
            *position as usize + 1
        };
        let start = if window > 0 {
            after.saturating_sub(window)
        } else {
            0
        };
        let places = start..after.min(ctx);
        for head in 0..heads {
            let from = (row * (heads + 2 * kv_heads) + head) * dims;
            let mut query = qkv[from..from + dims].to_vec();
            if let Some(weights) = &norm {
                let squares = query.iter().map(|x| x * x).sum::<f64>();
                let by = 1.0 / (squares / dims as f64 + 1e-6).sqrt();
                for (x, weight) in query.iter_mut().zip(weights) {
                    *x *= by * weight;
                }
            }
            for (number, pair) in query.chunks_exact_mut(2).enumerate() {
                let turn = option("theta").powf(-2.0 * number as f64 / dims as f64);
                let factor = factors.as_ref().map_or(1.0, |factors| factors[number]);
                let (sin, cos) = (position * option("rope_scale") * turn / factor).sin_cos();
                let (a, b) = (pair[0], pair[1]);
                pair.copy_from_slice(&[a * cos - b * sin, b * cos + a * sin]);
            }
            let first = (*slot as usize * kv_heads + head * kv_heads / heads) * ctx;
            let at = |place: usize| (first + place) * dims..(first + place + 1) * dims;
            let score = |place| {
                let products = query.iter().zip(&keys[at(place)]).map(|(q, k)| q * k);
                let score = scale * products.sum::<f64>();
                if softcap > 0.0 {
                    softcap * (score / softcap).tanh()
                } else {
                    score
                }
            };
            let scores: Vec<f64> = places.clone().map(score).collect();
            let peak = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - peak).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mut sums = vec![0.0; dims];
            for (place, weight) in places.clone().zip(weights) {
                for (sum, value) in sums.iter_mut().zip(&values[at(place)]) {
                    *sum += weight / total * value;
                }
            }
            y.extend(sums);
        }
    }
    y
}

/// Of attention with so many heads, so many key heads, and so many dimensions of each; the scale is a random one.
fn attention_options(
    random: &mut Random,
    [heads, kv_heads, head_dim]: [u64; 3],
    window: u64,
    softcap: f64,
) -> Vec<(&'static str, Value)> {
    vec![
        ("heads", Value::Int(heads as i64)),
        ("kv_heads", Value::Int(kv_heads as i64)),
        ("head_dim", Value::Int(head_dim as i64)),
        ("window", Value::Int(window as i64)),
        ("softcap", Value::Float(softcap)),
        (
            "scale",
            Value::Float([0.0, 0.2, -0.2][random.below(3) as usize]),
        ),
    ]
}

/// Places of the rows of one sequence: a chunk from anywhere with a dead end, or one row at a border.
fn places(random: &mut Random, rows: u64, ctx: u64, window: u64) -> Vec<f64> {
    if rows == 1 {
        let borders = [
            0,
            1,
            31,
            32,
            33,
            63,
            64,
            65,
            ctx - 1,
            ctx,
            window,
            window + 1,
            random.below(ctx),
        ];
        let place = borders[random.below(13) as usize];
        return vec![if random.below(8) == 0 {
            NONE
        } else {
            place.min(ctx + 1) as f64
        }];
    }
    let first = random.below((ctx + 1).saturating_sub(rows) + 1);
    let alive = rows - random.below(1 + rows / 3);
    let place = |r| if r < alive { (first + r) as f64 } else { NONE };
    (0..rows).map(place).collect()
}
