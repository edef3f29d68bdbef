//! Every kernel, variant and element type on the Vulkan device against its formulas in f64.
//!
//! The cases of a kernel are the passes of one graph, compiled as any other graph. The device runs it three times,
//! twice with other inputs, so an element that a shader forgets keeps a wrong value of the run before, and counters
//! that a shader leaves dirty spoil the last run. Every element of the last run is compared with what the
//! interpreter makes of the same plan. The seed of the inputs is printed; `GRAPHC_TEST_SEED` sets it.
//! `GRAPHC_TEST_VARIANT` names the only variant to run.

#![cfg(all(feature = "gpu", feature = "shaderc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use graphc::device::{Choice, DeviceProfile, Feature};
use graphc::dtype::{DType, tiles};
use graphc::expr::Value;
use graphc::formula::{decode, encode};
use graphc::kernel::{
    Access, Manifest, OptionDecl, Port, PortType, ShapeItem, Variant, type_values,
};
use support::gpu::{self, OnDevice};
use support::random::Random;

/// One pass to test.
#[derive(Clone, Debug, Default)]
struct Case {
    /// Sizes by dim name.
    dims: BTreeMap<String, i64>,
    options: BTreeMap<String, Value>,
    /// Optional ports that are bound.
    bound: BTreeSet<String>,
    /// Contents of `spans`, if the kernel has that port.
    spans: Vec<[u32; 2]>,
}

impl Case {
    fn new(dims: &[(&str, i64)]) -> Self {
        let dims = dims
            .iter()
            .map(|(name, size)| (name.to_string(), *size))
            .collect();
        Self {
            dims,
            ..Self::default()
        }
    }
    fn int(mut self, name: &str, value: i64) -> Self {
        self.options.insert(name.into(), Value::Int(value));
        self
    }
    fn float(mut self, name: &str, value: f64) -> Self {
        self.options.insert(name.into(), Value::Float(value));
        self
    }
    fn choice(mut self, name: &str, value: &str) -> Self {
        self.options.insert(name.into(), Value::Text(value.into()));
        self
    }
    fn flag(mut self, name: &str, value: bool) -> Self {
        self.options.insert(name.into(), Value::Bool(value));
        self
    }
    fn bind(mut self, ports: &[&str]) -> Self {
        self.bound.extend(ports.iter().map(|port| port.to_string()));
        self
    }
    fn spans(mut self, spans: &[[u32; 2]]) -> Self {
        self.spans = spans.to_vec();
        self.dims.insert("b".into(), spans.len() as i64);
        self
    }
    /// What tells this case from the others, for messages.
    fn label(&self) -> String {
        let mut label = String::new();
        for (name, size) in &self.dims {
            write!(label, "{name}={size} ").unwrap();
        }
        for (name, value) in &self.options {
            write!(label, "{name}:{value} ").unwrap();
        }
        for port in &self.bound {
            write!(label, "+{port} ").unwrap();
        }
        label.trim_end().into()
    }
}

/// The largest error of an element, relative to its own size plus the root mean square of its tensor, for f32
/// tensors and for those that have been through f16.
struct Tolerance {
    f32: f64,
    f16: f64,
}

/// One rounding to the storage type and a few f32 operations.
const EXACT: Tolerance = Tolerance {
    f32: 4e-7,
    f16: 1e-3,
};
/// Sums of some hundred products in f32.
const SUMS: Tolerance = Tolerance {
    f32: 4e-6,
    f16: 2e-3,
};
/// Sums of products with numbers that were rounded to 15 bits of the largest of 32 neighbours: half of what f16 may cost.
const FIFTEEN_BITS: f64 = 1e-3;
/// Sums of thousands of products: each addition rounds, so the error grows with the root of their number.
const LONG_SUMS: Tolerance = Tolerance {
    f32: 1.2e-5,
    f16: 2e-3,
};
/// Exponentials of sums that reach 20 or so: f32 knows a score s to about s * 2^-24, and its exponential to that much of
/// itself. The f16 numbers that come in are the same on both sides, so only the result is rounded.
const SCORES: Tolerance = Tolerance {
    f32: 2e-5,
    f16: 2e-3,
};
/// Sums, then sines and cosines of angles of up to 500 radians: an f32 angle is good to 2^-24 of itself, and drivers
/// add a few times that in `pow`.
const ANGLES: Tolerance = Tolerance {
    f32: 3e-4,
    f16: 2e-3,
};

#[test]
fn add() {
    let cases = [1, 4, 127, 1030].map(|n| Case::new(&[("n", n)]));
    run("add", &cases, &EXACT);
}

#[test]
fn add_bias() {
    let cases = [(1, 1), (3, 130), (67, 33)].map(|(m, n)| Case::new(&[("m", m), ("n", n)]));
    run("add_bias", &cases, &EXACT);
}

#[test]
fn activation() {
    let kinds = ["none", "relu", "gelu", "gelu_tanh", "silu"];
    let cases = kinds.map(|kind| Case::new(&[("n", 1037)]).choice("kind", kind));
    run("activation", &cases, &SUMS);
}

#[test]
fn gated_activation() {
    let kinds = ["silu", "gelu", "gelu_tanh"];
    let cases = kinds.map(|kind| Case::new(&[("m", 13), ("n", 142)]).choice("kind", kind));
    run("gated_activation", &cases, &SUMS);
}

#[test]
fn layer_norm() {
    let mut cases = Vec::new();
    for (m, n) in [(1, 5), (3, 384), (7, 1001)] {
        cases.push(Case::new(&[("m", m), ("n", n)]).float("eps", 1e-5));
        cases.push(Case::new(&[("m", m), ("n", n)]).bind(&["bias"]));
    }
    run("layer_norm", &cases, &SUMS);
}

#[test]
fn l2_normalize() {
    let cases = [(1, 3), (5, 384), (2, 1001)].map(|(m, n)| Case::new(&[("m", m), ("n", n)]));
    run("l2_normalize", &cases, &SUMS);
}

#[test]
fn embed_sum() {
    let sizes = Case::new(&[("m", 37), ("d", 70), ("v", 50), ("p", 19), ("t", 2)]);
    let mut cases = Vec::new();
    for tables in [
        &[][..],
        &["position", "positions"],
        &["kind"],
        &["position", "positions", "kind"],
    ] {
        for norm in [&[][..], &["norm_weight"], &["norm_weight", "norm_bias"]] {
            cases.push(sizes.clone().bind(tables).bind(norm));
        }
    }
    for (m, d) in [(1, 5), (3, 384)] {
        let sizes = Case::new(&[("m", m), ("d", d), ("v", 9), ("p", 4), ("t", 1)]);
        let all = ["position", "positions", "kind", "norm_weight", "norm_bias"];
        cases.push(sizes.float("eps", 1e-5).bind(&all));
    }
    let grouped = Case::new(&[("m", 37), ("d", 96), ("v", 21), ("p", 7), ("t", 2)]);
    let grouped = grouped.float("scale", 3.5);
    cases.push(grouped.clone());
    cases.push(
        grouped
            .clone()
            .bind(&["position", "positions", "kind", "norm_weight"]),
    );
    // A part of a table of 60 rows: the first, and one that leaves the rows of others as they are.
    cases.push(grouped.clone().int("rows", 60));
    cases.push(
        grouped
            .int("rows", 60)
            .int("first", 20)
            .bind(&["into", "kind"]),
    );
    run("embed_sum", &cases, &SUMS);
}

#[test]
fn rms_norm() {
    let mut cases = Vec::new();
    for (m, n) in [(1, 5), (3, 384), (7, 1001), (2, 2100), (1, 5376)] {
        let case = Case::new(&[("m", m), ("n", n)]);
        cases.push(case.clone().float("eps", 1e-5));
        cases.push(case.clone().bind(&["residual"]));
        cases.push(case.clone().bind(&["next_weight", "next"]));
        cases.push(case.bind(&["residual", "next_weight", "next"]));
    }
    run("rms_norm", &cases, &SUMS);
}

#[test]
fn rope() {
    let mut cases = Vec::new();
    for (heads, head_dim, n) in [(1, 2, 2), (3, 32, 96), (2, 64, 200), (1, 128, 130)] {
        let case = Case::new(&[("m", 11), ("n", n)]);
        cases.push(
            case.int("heads", heads)
                .int("head_dim", head_dim)
                .float("theta", 1000.0),
        );
    }
    run("rope", &cases, &ANGLES);
}

#[test]
fn pool() {
    // A gap, an empty sequence, one row, and rows after the last span.
    let spans = [[0, 5], [9, 1], [10, 0], [10, 33]];
    let mut cases = Vec::new();
    for kind in ["mean", "cls", "last", "max"] {
        for normalize in [false, true] {
            for d in [20, 150] {
                let case = Case::new(&[("m", 47), ("d", d)]).spans(&spans);
                cases.push(case.choice("kind", kind).flag("normalize", normalize));
            }
        }
    }
    run("pool", &cases, &SUMS);
}

/// Spans of no row, of one, of part of a tile and of several tiles, with rows of no span around them; a head_dim that is
/// no multiple of the shader's chunk of 32; and a grid that is longer than every span.
#[test]
fn attention() {
    let spans = [[0, 17], [20, 1], [21, 0], [23, 70]];
    let mut cases = Vec::new();
    for (head_dim, heads, kv_heads) in [
        (8, 1, 1),
        (32, 4, 2),
        (64, 2, 2),
        (80, 3, 1),
        (128, 2, 1),
        (256, 1, 1),
    ] {
        let case = Case::new(&[("m", 97)]).spans(&spans).int("max_len", 70);
        let case = case
            .int("heads", heads)
            .int("kv_heads", kv_heads)
            .int("head_dim", head_dim);
        cases.push(case.clone().int("window", 5).float("scale", -0.25));
        cases.push(case.clone().flag("causal", true).int("max_len", 133));
        if head_dim <= 80 {
            cases.push(case.clone());
            cases.push(case.flag("causal", true).int("window", 40));
        }
    }
    // Windows that end inside tiles, and one that only the first and the last tile do not fill.
    let long = Case::new(&[("m", 200)])
        .spans(&[[0, 200]])
        .int("max_len", 200);
    let long = long.int("heads", 1).int("kv_heads", 1).int("head_dim", 32);
    cases.push(long.clone());
    cases.push(long.clone().int("window", 64));
    cases.push(long.int("window", 199));
    run("attention", &cases, &SCORES);
}

const ACTS: [&str; 8] = [
    "none",
    "relu",
    "gelu",
    "gelu_tanh",
    "silu",
    "swiglu",
    "geglu",
    "geglu_tanh",
];

#[test]
fn linear_sizes() {
    let sizes = [
        (1, 1, 1),
        (1, 384, 384),
        (7, 33, 65),
        (64, 64, 64),
        (65, 100, 130),
        (130, 17, 66),
        (3, 500, 7),
        (32, 64, 48),
        (257, 72, 136),
    ];
    let cases = sizes.map(|(m, k, n)| Case::new(&[("m", m), ("k", k), ("n", n)]));
    run("linear", &cases, &SUMS);
}

/// Every activation with every kind of norm, every kind of norm with every set of optional operands, and every
/// activation with and without each operand: 40 epilogues of 320, or all of them if `GRAPHC_TEST_FULL` is set. Sizes
/// take turns: less than a tile, several tiles of rows and columns, rows that are no whole number of vectors.
#[test]
fn linear_epilogues() {
    let full = full();
    let sizes = [(19, 36, 132), (48, 64, 176), (5, 7, 70), (130, 96, 258)];
    let norms = [
        &[][..],
        &["norm_weight"],
        &["norm_weight", "norm_bias"],
        &["norm_weight", "sum"],
        &["norm_weight", "norm_bias", "sum"],
    ];
    let mut cases = Vec::new();
    for (a, act) in ACTS.into_iter().enumerate() {
        for (b, norm) in norms.into_iter().enumerate() {
            for bits in (0..8).filter(|bits| full || *bits == (a + 3 * b) % 8) {
                let (m, k, n) = sizes[(a + b + bits / 2) % sizes.len()];
                let optional = ["bias", "positions", "residual"];
                let bound: Vec<&str> = (0..3)
                    .filter(|bit| bits >> bit & 1 == 1)
                    .map(|bit| optional[bit])
                    .collect();
                // Heads of 10 columns end inside the four columns that the shaders finish together.
                let head_dim = if (a + b) % 2 == 0 { 20 } else { 10 };
                let case = Case::new(&[("m", m), ("k", k), ("n", n)]);
                cases.push(
                    case.choice("act", act)
                        .int("rope_heads", 3)
                        .int("rope_head_dim", head_dim)
                        .float("eps", 1e-6)
                        .bind(&bound)
                        .bind(norm),
                );
            }
        }
    }
    let turned = |case: &Case| case.bound.contains("positions");
    let (turned, plain): (Vec<Case>, Vec<Case>) = cases.into_iter().partition(turned);
    run("linear", &plain, &SUMS);
    run("linear", &turned, &ANGLES);
}

/// Rows that many workgroups share, of a width that no tile divides: whoever comes last finds all of the row.
#[test]
fn linear_rows_are_finished_by_the_last_workgroup() {
    let mut cases = Vec::new();
    for (m, k, n) in [
        (1, 5, 1),
        (3, 64, 777),
        (130, 33, 301),
        (200, 64, 322),
        (48, 64, 160),
    ] {
        let case = Case::new(&[("m", m), ("k", k), ("n", n)]).float("eps", 1e-6);
        cases.push(case.clone().bind(&["norm_weight", "residual"]));
        cases.push(case.bind(&["norm_weight", "norm_bias", "sum"]));
    }
    run("linear", &cases, &SUMS);
}

/// Sizes that block formats allow: rows of one group, of an odd number of groups, of more than one step of a workgroup;
/// whole tiles, and tiles that lack rows, or columns, or both. Groups of 64 and of 128 divide some of them.
const GROUPED: [(i64, i64, i64); 14] = [
    (1, 32, 5),
    (1, 1152, 20),
    // Nothing over: a team takes apart the x that its own tiles meet.
    (1, 4096, 24),
    (1, 4160, 33),
    (2, 96, 130),
    (2, 640, 80),
    (3, 256, 43),
    (5, 1056, 24),
    (6, 384, 43),
    (8, 544, 68),
    (19, 288, 71),
    (21, 640, 71),
    (33, 64, 96),
    (130, 96, 150),
];

#[test]
fn linear_block_formats_and_gain() {
    let mut cases = Vec::new();
    for (m, k, n) in GROUPED {
        let case = Case::new(&[("m", m), ("k", k), ("n", n)]).float("eps", 1e-5);
        cases.push(case.clone());
        cases.push(case.bind(&["gain"]));
    }
    let odd = Case::new(&[("m", 3), ("k", 45), ("n", 17)]).float("eps", 1e-5);
    cases.push(odd.bind(&["gain", "bias", "residual"]));
    let vectors = Case::new(&[("m", 3), ("k", 36), ("n", 17)]).float("eps", 1e-5);
    cases.push(vectors.bind(&["gain"]));
    let (long, short): (Vec<_>, Vec<_>) = cases.into_iter().partition(|case| case.dims["k"] > 1000);
    run("linear", &short, &SUMS);
    run("linear", &long, &LONG_SUMS);
}

/// Where k is no whole number of tiles, nothing is read behind the gain: were it NaN, zeros of x would not hide it. The tile
/// is wide enough to reach into the next tensor, on a device that reads past the end of what is bound (lavapipe does not).
#[test]
fn a_gain_is_not_read_past_its_end() {
    let text = r#"Graph(
        name: "case", params: {}, dtypes: { "act": "f32", "weight": "f32" },
        inputs: {
            "gain": Tensor("f32", ["64"]), "nan": Tensor("f32", ["64"]),
            "x": Tensor("f32", ["3", "64"]), "w": Tensor("f32", ["5", "64"]),
        },
        body: [
            Pass(kernel: "linear", in: { "x": "x", "w": "w", "gain": "gain" }, out: { "y": "y" }, set: { "eps": "1e-5" }),
            Pass(kernel: "add", in: { "a": "nan", "b": "nan" }, out: { "y": "z" }),
        ],
        outputs: ["y", "z"],
    )"#;
    let mut device = gpu::profile();
    let tile = [("TILE_M", 16), ("TILE_N", 16), ("TILE_K", 128)];
    let choice = Choice {
        when: None,
        variant: "tiled".into(),
        spec: tile.map(|(name, size)| (name.to_string(), size)).into(),
    };
    device.choices.insert("linear".into(), vec![choice]);
    let plan = gpu::compile_text(text, "linear", "tiled", &device).unwrap();
    let mut random = Random::from_env("a_gain_is_not_read_past_its_end");
    let mut draw = |count: usize| -> Vec<f64> {
        let number = |_| f64::from(random.unit() as f32);
        (0..count).map(number).collect()
    };
    let (x, gain, w) = (draw(3 * 64), draw(64), draw(5 * 64));
    let inputs = [
        ("x", &x),
        ("gain", &gain),
        ("w", &w),
        ("nan", &vec![f64::NAN; 64]),
    ];
    let inputs = inputs.map(|(name, values)| (name.to_string(), encode(DType::F32, values)));
    let mut on_device = OnDevice::open(&plan, |_| vec![]);
    let ticket = on_device.submit(0, &inputs.into());
    let y = decode(DType::F32, &on_device.wait(0, ticket)["y"]).unwrap();
    let want = |at: usize| {
        let (x, w) = (&x[at / 5 * 64..][..64], &w[at % 5 * 64..][..64]);
        let squares: f64 = x.iter().map(|x| x * x).sum();
        let dot: f64 = (0..64).map(|i| x[i] * gain[i] * w[i]).sum();
        dot / (squares / 64.0 + 1e-5).sqrt()
    };
    let all: Vec<f64> = (0..15).map(want).collect();
    let rms = (all.iter().map(|y| y * y).sum::<f64>() / 15.0).sqrt();
    assert_eq!(y.len(), all.len());
    for (got, want) in y.iter().zip(&all) {
        let most = SUMS.f32 * (want.abs() + rms);
        assert!((got - want).abs() <= most, "{got}, not {want}");
    }
}

/// Sizes that leave nothing over, for tiles, shares of k and columns of a workgroup: kernels read them without looking for
/// an end. The last ones are for shapes that only large devices choose.
#[test]
fn linear_block_formats_without_edges() {
    let mut sizes = vec![(1, 1024, 96), (3, 1024, 64), (16, 1024, 32)];
    if gpu::profile().features.contains(&Feature::CoopmatLanes) {
        sizes.extend([(1, 2048, 5408), (3, 1024, 4272), (5, 128, 8224)]);
    }
    let cases: Vec<Case> = sizes
        .into_iter()
        .map(|(m, k, n)| Case::new(&[("m", m), ("k", k), ("n", n)]).bind(&["residual"]))
        .collect();
    run("linear", &cases, &LONG_SUMS);
}

#[test]
fn linear_epilogues_of_decoders() {
    let mut cases = Vec::new();
    for (m, k, n) in [(1, 256, 96), (4, 96, 72), (21, 64, 132)] {
        let case = Case::new(&[("m", m), ("k", k), ("n", n)]).float("eps", 1e-5);
        for act in ["swiglu", "geglu_tanh"] {
            cases.push(case.clone().choice("act", act).bind(&["gain"]));
        }
        cases.push(case.clone().bind(&["residual"]));
        // A part of the columns of a wider product, first and later.
        let part = case.int("columns", 190);
        cases.push(
            part.clone()
                .int("column", 37)
                .bind(&["into", "bias", "residual"]),
        );
        let part = part.choice("act", "swiglu");
        cases.push(part.int("column", 3).bind(&["into", "gain"]));
    }
    run("linear", &cases, &SUMS);
}

/// Integers know neither NaN nor infinity: a row of x that holds one must not come out as numbers, and no other row may
/// be touched by it.
#[test]
fn integer_products_keep_what_is_not_finite() {
    let library = support::library();
    let manifest = &library.manifests["linear"];
    let device = gpu::profile();
    let each = [("dot", 2), ("stream", 1)].into_iter();
    let each = each.flat_map(|of| DType::block_formats().map(move |weight| (of, weight)));
    for ((name, rows), weight) in each {
        let variant = manifest.variants.iter().find(|v| v.name == name).unwrap();
        let k = 3 * weight.group() as i64;
        let case = Case::new(&[("m", rows), ("k", k), ("n", 12)]);
        let types = ["C", "S", "X"].map(|name| (name.to_string(), DType::F32));
        let mut types = Types::from(types);
        types.insert("W".into(), weight);
        let lacks = gpu::lacks(variant, &types, &device);
        if !lacks.is_empty() {
            eprintln!("SKIPPED linear {name} {weight}: the device lacks {lacks:?}");
            continue;
        }
        let graph = Text::of(manifest, &types, std::slice::from_ref(&case));
        let plan = gpu::compile_text(&graph.text, "linear", name, &device).unwrap();
        let mut random = Random::from_env("integer_products_keep_what_is_not_finite");
        // The last two are NaN as well, as NVIDIA's devices make it and with a sign.
        let bits = [
            0x7fc0_0000,
            0x7f80_0000,
            0xff80_0000,
            0x7fff_ffff,
            0xffc0_0001,
        ];
        for bad in bits.map(f32::from_bits) {
            let mut inputs: BTreeMap<String, Vec<u8>> = BTreeMap::new();
            for input in &graph.inputs {
                let mut bytes = input.bytes(&mut random);
                if input.port == "x" {
                    bytes[4 * 37..4 * 38].copy_from_slice(&bad.to_le_bytes());
                }
                inputs.insert(input.name.clone(), bytes);
            }
            let weights = graph.weights(&mut random);
            let mut on_device = OnDevice::open(&plan, |weight| weights[&weight.name].clone());
            let ticket = on_device.submit(0, &inputs);
            let got = on_device.wait(0, ticket);
            let y = decode(DType::F32, &got[&graph.outputs[0].name]).unwrap();
            let (first, second) = y.split_at(12);
            let what = format!("{:#x} in x, {name} {weight}: {y:?}", bad.to_bits());
            assert!(first.iter().all(|value| !value.is_finite()), "{what}");
            assert!(second.iter().all(|value| value.is_finite()), "{what}");
        }
    }
}

/// Queries to y, turned keys and values into the cache: several sequences, several rows a sequence, rows without a
/// token and past the end of the context.
#[test]
fn linear_appends_to_the_cache() {
    let mut cases = Vec::new();
    for (m, b, heads, kv_heads, head_dim) in [
        (1, 1, 2, 1, 32),
        (4, 4, 3, 2, 10),
        (6, 2, 1, 1, 64),
        (33, 1, 2, 1, 32),
        (33, 1, 4, 2, 16),
    ] {
        let n = (heads + 2 * kv_heads) * head_dim;
        let case = Case::new(&[("m", m), ("k", 96), ("n", n), ("b", b)]);
        let mut case = case
            .int("rope_heads", heads + kv_heads)
            .int("rope_head_dim", head_dim)
            .float("rope_theta", 500.0)
            .float("eps", 1e-5);
        for (dim, size) in [
            ("slots_n", 5),
            ("kv_heads", kv_heads),
            ("ctx", 40),
            ("head_dim", head_dim),
        ] {
            case.dims.insert(dim.into(), size);
        }
        let case = case.bind(&["positions", "slots", "k_cache", "v_cache"]);
        cases.push(case.clone().float("rope_scale", 0.125));
        cases.push(case.bind(&["gain", "rope_factors", "bias"]));
    }
    run("linear", &cases, &ANGLES);
}

/// No manifest without a test, and none that nobody runs.
#[test]
fn every_kernel_has_its_cases() {
    if let Ok(only) = std::env::var("GRAPHC_TEST_VARIANT") {
        let manifests = support::library().manifests;
        let mut variants = manifests.values().flat_map(|manifest| &manifest.variants);
        assert!(
            variants.any(|one| one.name == only),
            "no kernel has `{only}`"
        );
    }
    // Kernels with state are in `kernels_decode.rs`.
    let tested = [
        "activation",
        "add",
        "add_bias",
        "append_attention",
        "attention",
        "cached_attention",
        "embed_sum",
        "gated_activation",
        "l2_normalize",
        "layer_norm",
        "linear",
        "pool",
        "rms_norm",
        "rope",
        "rope_append",
        "sample",
        "step_begin",
    ];
    let library = support::library();
    let kernels: Vec<&str> = library.manifests.keys().map(String::as_str).collect();
    assert_eq!(kernels, tested);
}

/// Runs `cases` of `kernel` for every variant that the device can run, with the element types that [`chosen`] gives.
fn run(kernel: &str, cases: &[Case], tolerance: &Tolerance) {
    let library = support::library();
    let manifest = &library.manifests[kernel];
    let device = gpu::profile();
    let mut random = Random::from_env(kernel);
    let mut tested = 0;
    let only = std::env::var("GRAPHC_TEST_VARIANT").ok();
    let wanted = |variant: &&Variant| only.as_ref().is_none_or(|only| *only == variant.name);
    for variant in manifest.variants.iter().filter(wanted) {
        for device in gpu::views(kernel, variant, &device) {
            for (types, cases) in chosen(manifest, variant, cases, &device) {
                let random = &mut random;
                tested += run_variant(
                    manifest, variant, &types, &cases, tolerance, random, &device,
                );
            }
        }
    }
    assert!(
        tested > 0 || only.is_some(),
        "no variant of `{kernel}` could be tested on this device"
    );
}

/// An element type for each type variable.
type Types = BTreeMap<String, DType>;

/// Which cases a variant runs with which element types: each case with every type that a variable can have there, and
/// over all cases every two types of two variables together (a covering array of strength two, chosen greedily as in
/// Cohen et al., The AETG System, 1997). Making the pipelines is what takes the time, and their number is what this
/// keeps down. Of many cases all run with the plainest types and each other assignment takes a part of them.
/// `GRAPHC_TEST_FULL` asks for everything with everything.
fn chosen(
    manifest: &Manifest,
    variant: &Variant,
    cases: &[Case],
    device: &DeviceProfile,
) -> Vec<(Types, Vec<Case>)> {
    let what = format!("{} {}", manifest.name, variant.name);
    let able = |types: &Types| {
        let lacks = gpu::lacks(variant, types, device);
        if !lacks.is_empty() {
            eprintln!("SKIPPED {what} {types:?}: the device lacks {lacks:?}");
        }
        lacks.is_empty()
    };
    let mut all = assignments(manifest, cases);
    all.retain(able);
    let pairs = |types: &Types| {
        let one: Vec<_> = types
            .iter()
            .map(|(name, dtype)| (name.clone(), *dtype))
            .collect();
        let two = |a: usize| (0..a).map(move |b| (a, b));
        (0..one.len())
            .flat_map(two)
            .map(|(a, b)| (one[a].clone(), one[b].clone()))
            .collect::<Vec<_>>()
    };
    let parts = all.len().max(4);
    let most = |at: usize| match at % parts {
        _ if full() || cases.len() < 18 => usize::MAX,
        // The part of a number that no assignment has.
        turn if turn == 0 || turn >= all.len() => 1,
        _ => 2,
    };
    let mut taken: Vec<Vec<Case>> = vec![vec![]; all.len()];
    let mut seen = BTreeSet::new();
    for (number, case) in cases.iter().enumerate() {
        let mut left: Vec<usize> = (0..all.len())
            .filter(|at| possible(manifest, variant, &all[*at], case, device))
            .collect();
        let mut alone = BTreeSet::new();
        for turn in 0..most(number) {
            let gain = |at: usize| {
                let of_case = all[at].iter().filter(|one| !alone.contains(one)).count();
                let of_pairs = pairs(&all[at])
                    .iter()
                    .filter(|pair| !seen.contains(*pair))
                    .count();
                (of_case, of_pairs)
            };
            // The first has the plainest types, whatever they add; among equals that with the fewest cases.
            let best = match turn {
                0 => left.first().copied(),
                _ => left
                    .iter()
                    .copied()
                    .rev()
                    .max_by_key(|at| (gain(*at), std::cmp::Reverse(taken[*at].len()))),
            };
            let Some(best) = best.filter(|at| full() || turn == 0 || gain(*at).0 > 0) else {
                break;
            };
            alone.extend(&all[best]);
            seen.extend(pairs(&all[best]));
            taken[best].push(case.clone());
            left.retain(|at| *at != best);
        }
    }
    if taken.iter().all(Vec::is_empty) && !all.is_empty() {
        eprintln!("SKIPPED {what}: it takes none of the sizes");
    }
    let mut chosen: Vec<_> = all.into_iter().zip(taken).collect();
    chosen.retain(|(_, cases)| !cases.is_empty());
    chosen
}

/// Whether `GRAPHC_TEST_FULL` asks for every case: minutes on a GPU, much longer on a CPU.
fn full() -> bool {
    std::env::var_os("GRAPHC_TEST_FULL").is_some()
}

/// Every way to give a type to the variables that a bound port has; those of no bound port have their first.
fn assignments(manifest: &Manifest, cases: &[Case]) -> Vec<Types> {
    let bound =
        |port: &Port| !port.optional || cases.iter().any(|case| case.bound.contains(&port.name));
    let mut all = vec![BTreeMap::new()];
    for (variable, types) in &manifest.types {
        let of = |port: &&Port| port.dtype == PortType::Var(variable.clone());
        let matters = manifest.ports.iter().filter(of).any(bound);
        let types = &types[..if matters { types.len() } else { 1 }];
        all = types
            .iter()
            .flat_map(|dtype| {
                all.iter().map(|one| {
                    let mut one = one.clone();
                    one.insert(variable.clone(), *dtype);
                    one
                })
            })
            .collect();
    }
    all
}

/// Runs one variant and compares; gives the number of cases that were compared.
fn run_variant(
    manifest: &Manifest,
    variant: &Variant,
    types: &Types,
    cases: &[Case],
    tolerance: &Tolerance,
    random: &mut Random,
    device: &DeviceProfile,
) -> usize {
    let types_text: Vec<&str> = types.values().map(|dtype| dtype.name()).collect();
    let what = format!(
        "{} {} {} (subgroups of {})",
        manifest.name,
        variant.name,
        types_text.join(" "),
        device.limits.subgroup_size
    );
    let graph = Text::of(manifest, types, cases);
    let plan = gpu::compile_text(&graph.text, &manifest.name, &variant.name, device)
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let fill = |random: &mut Random| -> BTreeMap<String, Vec<u8>> {
        let inputs = graph.inputs.iter();
        inputs
            .map(|input| (input.name.clone(), input.bytes(random)))
            .collect()
    };
    let (first, second, last) = (fill(random), fill(random), fill(random));
    let weights = graph.weights(random);
    let mut on_device = OnDevice::open(&plan, |weight| weights[&weight.name].clone());
    for inputs in [&first, &second] {
        let ticket = on_device.submit(0, inputs);
        on_device.wait(0, ticket);
    }
    let ticket = on_device.submit(0, &last);
    let got = on_device.wait(0, ticket);
    let runs: &[_] = match graph.has_state {
        true => &[&first, &second, &last],
        false => &[&last],
    };
    let want = gpu::run_interpreter_often(&plan, |weight| weights[&weight.name].clone(), runs);
    let mut worst = 0_f64;
    for output in &graph.outputs {
        // What comes in is the same on both sides; activations may have been stored on the way.
        let half = output.dtype != DType::F32 || types.get("A").is_some_and(|dtype| *dtype != DType::F32)
            // Matrix units take weights and normed rows as f16, whatever they were.
            || variant.needs.contains(&Feature::CoopmatF16);
        let limit = if half {
            tolerance.f16
        } else if variant.needs.contains(&Feature::DotI8) {
            tolerance.f32.max(FIFTEEN_BITS)
        } else {
            tolerance.f32
        };
        let got = decode(output.dtype, &got[&output.name]).unwrap();
        let want = decode(output.dtype, &want[&output.name]).unwrap();
        worst = worst.max(compare(&what, output, &got, &want, limit));
    }
    eprintln!("{what}: {} cases, error {worst:.1e}", cases.len());
    cases.len()
}

/// Whether the variant's own condition takes this case.
fn possible(
    manifest: &Manifest,
    variant: &Variant,
    types: &Types,
    case: &Case,
    device: &DeviceProfile,
) -> bool {
    let mut env = environment(manifest, case, types);
    if !manifest
        .require
        .iter()
        .all(|rule| rule.eval_bool(&env).unwrap())
    {
        return false;
    }
    let limits = &device.limits;
    for (name, size) in [
        ("subgroup_size", limits.subgroup_size),
        ("compute_units", limits.compute_units.unwrap_or(0)),
    ] {
        env.insert(name.into(), Value::Int(size.into()));
    }
    let when = variant.when.as_ref();
    when.is_none_or(|when| when.eval_bool(&env).unwrap())
}

/// Gives the largest error.
fn compare(what: &str, output: &Output, got: &[f64], want: &[f64], limit: f64) -> f64 {
    assert_eq!(got.len(), want.len());
    // Of a cache that was empty only the rows that were written tell how large its numbers are.
    let counted = match output.is_state {
        true => want.iter().filter(|v| **v != 0.0).count().max(1),
        false => want.len(),
    };
    let rms = (want.iter().map(|v| v * v).sum::<f64>() / counted as f64).sqrt();
    let mut worst = (0.0, 0);
    for (at, (got, want)) in got.iter().zip(want).enumerate() {
        if !output.checks(at) {
            continue;
        }
        let error = (got - want).abs() / (want.abs() + rms).max(f64::MIN_POSITIVE);
        let error = if error.is_nan() { f64::INFINITY } else { error };
        if error > worst.0 {
            worst = (error, at);
        }
    }
    let (error, at) = worst;
    assert!(
        error <= limit,
        "{what}: `{}` of [{}]: element {at} is {} but must be {}, an error of {error:.2e} where {limit:.0e} is allowed",
        output.port,
        output.case,
        got[at],
        want[at],
    );
    error
}

/// A graph with one pass per case.
struct Text {
    text: String,
    inputs: Vec<Input>,
    /// What has a block format, which kernels expect of weights alone.
    weights: Vec<Input>,
    outputs: Vec<Output>,
    /// Whether runs depend on the runs before.
    has_state: bool,
}

/// An input or a weight of the graph and what may stand in it.
struct Input {
    name: String,
    port: String,
    dtype: DType,
    shape: Vec<u64>,
    case: Case,
}

/// An output of the graph.
struct Output {
    name: String,
    port: String,
    dtype: DType,
    case: String,
    /// A cache, empty before the first run.
    is_state: bool,
    /// Attention writes the rows of spans only: the spans and the row length.
    rows: Option<(Vec<[u32; 2]>, u64)>,
}

impl Output {
    /// Whether the kernel promises anything about that element.
    fn checks(&self, element: usize) -> bool {
        self.rows.as_ref().is_none_or(|(spans, width)| {
            let row = element as u64 / width;
            let inside = |[first, length]: &[u32; 2]| {
                (u64::from(*first)..u64::from(first + length)).contains(&row)
            };
            spans.iter().any(inside)
        })
    }
}

impl Text {
    fn of(manifest: &Manifest, types: &Types, cases: &[Case]) -> Self {
        let mut graph = Self {
            text: String::new(),
            inputs: vec![],
            weights: vec![],
            outputs: vec![],
            has_state: false,
        };
        let (mut body, mut state) = (String::new(), String::new());
        for (index, case) in cases.iter().enumerate() {
            let env = environment(manifest, case, types);
            let (mut reads, mut writes, mut before, mut after) = Default::default();
            let (reads, writes): (&mut String, &mut String) = (&mut reads, &mut writes);
            let (before, after): (&mut String, &mut String) = (&mut before, &mut after);
            for port in &manifest.ports {
                if port.scratch || port.optional && !case.bound.contains(&port.name) {
                    continue;
                }
                let name = format!("c{index}_{}", port.name);
                let dtype = match &port.dtype {
                    PortType::Fixed(dtype) => *dtype,
                    PortType::Var(variable) => types[variable],
                };
                let shape = shape(port, &env);
                let sizes: Vec<String> = shape.iter().map(|size| format!("\"{size}\"")).collect();
                let list = if port.access.writes() {
                    &mut *writes
                } else {
                    &mut *reads
                };
                // State comes out as a copy. What is written in place of `into` is made and kept for this pass alone,
                // as it is between the parts of a split product.
                let local = match (port.access, port.name.as_str()) {
                    (Access::ReadWrite, _) => format!("{name}_state"),
                    (_, "into") => format!("{name}_part"),
                    (_, "y") if case.bound.contains("into") => format!("{name}_whole"),
                    _ => name.clone(),
                };
                write!(list, "\"{}\": \"{local}\", ", port.name).unwrap();
                let copy = |from: &str, to: &str| {
                    format!(
                        "Pass(name: \"{to}_copy\", kernel: \"activation\", in: {{ \"x\": \"{from}\" }}, out: {{ \"y\": \"{to}\" }}, set: {{ \"kind\": \"'none'\" }}),\n"
                    )
                };
                if port.access == Access::ReadWrite {
                    graph.has_state = true;
                    write!(
                        state,
                        "\"{local}\": Tensor(\"{dtype}\", [{}]), ",
                        sizes.join(", ")
                    )
                    .unwrap();
                }
                if port.access.writes() && local != name {
                    after.push_str(&copy(&local, &name));
                } else if local != name {
                    before.push_str(&copy(&name, &local));
                }
                if port.access.writes() {
                    graph.outputs.push(Output {
                        name,
                        port: port.name.clone(),
                        dtype,
                        case: case.label(),
                        is_state: port.access == Access::ReadWrite,
                        rows: (manifest.name == "attention")
                            .then(|| (case.spans.clone(), shape[1])),
                    });
                } else {
                    let list = match dtype.is_block() {
                        true => {
                            before.push_str(&format!(
                                "Weight(name: \"{name}\", dtype: \"{dtype}\", shape: [{}], from: Tensor(\"{name}\")),\n",
                                sizes.join(", ")
                            ));
                            &mut graph.weights
                        }
                        false => &mut graph.inputs,
                    };
                    list.push(Input {
                        name,
                        port: port.name.clone(),
                        dtype,
                        shape,
                        case: case.clone(),
                    });
                }
            }
            let set: Vec<String> = case
                .options
                .iter()
                .map(|(name, value)| match value {
                    Value::Text(text) => format!("\"{name}\": \"'{text}'\""),
                    value => format!("\"{name}\": \"{value}\""),
                })
                .collect();
            let types: Vec<String> = types
                .iter()
                .map(|(name, dtype)| format!("\"{name}\": \"{dtype}\""))
                .collect();
            writeln!(
                body,
                "{before}Pass(name: \"c{index}\", kernel: \"{}\", in: {{ {reads} }}, out: {{ {writes} }}, set: {{ {} }}, types: {{ {} }}),\n{after}",
                manifest.name,
                set.join(", "),
                types.join(", ")
            )
            .unwrap();
        }
        let inputs: Vec<String> = graph
            .inputs
            .iter()
            .map(|input| {
                let sizes: Vec<String> = input
                    .shape
                    .iter()
                    .map(|size| format!("\"{size}\""))
                    .collect();
                format!(
                    "\"{}\": Tensor(\"{}\", [{}])",
                    input.name,
                    input.dtype,
                    sizes.join(", ")
                )
            })
            .collect();
        let outputs: Vec<String> = graph
            .outputs
            .iter()
            .map(|output| format!("\"{}\"", output.name))
            .collect();
        graph.text = format!(
            "Graph(name: \"case\", inputs: {{ {} }}, state: {{ {state} }}, body: [\n{body}], outputs: [{}])",
            inputs.join(", "),
            outputs.join(", ")
        );
        graph
    }

    /// The bytes of every weight by name.
    fn weights(&self, random: &mut Random) -> BTreeMap<String, Vec<u8>> {
        let tiled = |one: &Input, bytes| tiles::tiled(one.dtype, &one.shape, bytes);
        let weights = self.weights.iter();
        weights
            .map(|one| (one.name.clone(), tiled(one, one.bytes(random))))
            .collect()
    }
}

/// Dims, derived dims and options of a case, as the manifest's expressions see them.
fn environment(manifest: &Manifest, case: &Case, types: &Types) -> BTreeMap<String, Value> {
    let mut env: BTreeMap<String, Value> = BTreeMap::new();
    let texts = types
        .iter()
        .flat_map(|(name, dtype)| type_values(name, *dtype));
    env.extend(texts);
    for (name, option) in &manifest.options {
        let default = match option {
            OptionDecl::Int { default, .. } => default.map(Value::Int),
            OptionDecl::Float { default } => default.map(Value::Float),
            OptionDecl::Bool { default } => Some(Value::Bool(*default)),
            OptionDecl::Choice { default, .. } => Some(Value::Text(default.clone())),
        };
        let value = case.options.get(name).cloned().or(default);
        env.extend(value.map(|value| (name.clone(), value)));
    }
    for port in &manifest.ports {
        let bound = !port.scratch && (!port.optional || case.bound.contains(&port.name));
        env.insert(format!("has_{}", port.name), Value::Bool(bound));
        for item in &port.shape {
            if let ShapeItem::Dim(name) | ShapeItem::Leading(name) = item {
                env.entry(name.clone()).or_insert(Value::Int(0));
            }
        }
    }
    env.extend(
        case.dims
            .iter()
            .map(|(name, size)| (name.clone(), Value::Int(*size))),
    );
    for (name, expr) in &manifest.derive {
        let value = expr.eval(&env).unwrap();
        env.insert(name.clone(), value);
    }
    env
}

fn shape(port: &Port, env: &BTreeMap<String, Value>) -> Vec<u64> {
    let size = |item: &ShapeItem| match item {
        ShapeItem::Leading(dim) | ShapeItem::Dim(dim) => env[dim].as_int().unwrap() as u64,
        ShapeItem::Is(expr) => expr.eval_size(env).unwrap(),
    };
    port.shape.iter().map(size).collect()
}

impl Input {
    /// Rows of the table that ids count.
    fn table_rows(&self) -> u64 {
        let rows = self.case.options.get("rows").and_then(Value::as_int);
        rows.unwrap_or(self.case.dims["v"]) as u64
    }

    /// Fresh contents. Floats have variance about 1, except that a matrix of weights keeps the variance of what it
    /// multiplies; ids and positions reach a little past their tables.
    fn bytes(&self, random: &mut Random) -> Vec<u8> {
        let count = self.shape.iter().product::<u64>() as usize;
        let dim = |name: &str| self.case.dims.get(name).copied();
        let values: Vec<f64> = match self.port.as_str() {
            "spans" => self
                .case
                .spans
                .iter()
                .flatten()
                .map(|v| f64::from(*v))
                .collect(),
            "ids" => (0..count)
                .map(|_| random.below(self.table_rows() + 3) as f64)
                .collect(),
            "slots" => random.permutation(dim("slots_n").unwrap() as u64)[..count]
                .iter()
                .map(|slot| *slot as f64)
                .collect(),
            // Consecutive in each sequence, past the end of the cache at times; the last row holds no token.
            "positions" if dim("ctx").is_some() => {
                let (b, ctx) = (dim("b").unwrap() as usize, dim("ctx").unwrap() as u64);
                let first: Vec<u64> = (0..b).map(|_| random.below(ctx)).collect();
                let row = |row: usize| first[row / (count / b)] + (row % (count / b)) as u64;
                let mut all: Vec<f64> = (0..count).map(|at| row(at) as f64).collect();
                if count > 1 {
                    all[count - 1] = f64::from(u32::MAX);
                }
                all
            }
            "rope_factors" => (0..count)
                .map(|_| 1.0 + 4.0 * random.unit().abs())
                .collect(),
            "positions" => {
                let limit = dim("p").map_or(500, |p| p as u64 + 3);
                (0..count).map(|_| random.below(limit) as f64).collect()
            }
            port => {
                let scale = match port {
                    "w" => (3.0 / self.shape[1] as f64).sqrt(),
                    _ => 3_f64.sqrt(),
                };
                (0..count).map(|_| random.unit() * scale).collect()
            }
        };
        encode(self.dtype, &values)
    }
}
