//! The kernels that measure a device compute what their formulas say, so that what they measure is what was asked for.
#![cfg(all(feature = "gpu", feature = "shaderc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use graphc::compile::Job;
use graphc::formula::encode;
use graphc::graph::Request;
use graphc::plan::Weight;
use graphc::span::{SourceError, Sources};
use support::gpu::{Bytes, OnDevice, build, profile, run_interpreter};

struct Probe(String);

impl Sources for Probe {
    fn read(&self, path: &str) -> Result<String, SourceError> {
        match path {
            "roof.ron" => Ok(self.0.clone()),
            path => support::sources().read(path),
        }
    }
    fn list(&self, path: &str) -> Result<Vec<String>, SourceError> {
        let path = if path == "shaders" {
            "shaders/roof"
        } else {
            path
        };
        support::sources().list(path)
    }
}

fn fill(weight: &Weight) -> Vec<u8> {
    let count = weight.shape.iter().product::<u64>();
    let values: Vec<f64> = (0..count)
        .map(|at| 0.125 + (at % 7) as f64 / 16.0)
        .collect();
    encode(weight.dtype, &values)
}

/// Runs a graph of one pass on the device and by its formulas.
fn same(weights: &[(&str, &str, &str)], kernel: &str, set: &str, tolerance: f32) {
    same_with("", "", weights, kernel, set, tolerance);
}

/// The same with more fields of the graph, and more names that the pass binds.
fn same_with(
    fields: &str,
    out: &str,
    weights: &[(&str, &str, &str)],
    kernel: &str,
    set: &str,
    tolerance: f32,
) {
    let weight = |(name, dtype, shape): &(&str, &str, &str)| {
        format!(
            "Weight(name: \"{name}\", dtype: \"{dtype}\", shape: [{shape}], from: Tensor(\"{name}\")), "
        )
    };
    let inputs = weights
        .iter()
        .map(|(name, ..)| format!("\"{name}\": \"{name}\""));
    let text = format!(
        "Graph(name: \"roof\", {fields}body: [{}Pass(kernel: \"{kernel}\", in: {{ {} }}, out: {{ \"y\": \"y\"{out} }}, set: {{ {set} }})], outputs: [\"y\"])",
        weights.iter().map(weight).collect::<String>(),
        inputs.collect::<Vec<_>>().join(", ")
    );
    let (sources, device) = (Probe(text), profile());
    let entries = [Request::default()];
    let plan = build(&mut Job::new("roof.ron", &sources, &device, &entries)).unwrap();
    let wanted = run_interpreter(&plan, fill, &Bytes::new());
    let mut on = OnDevice::open(&plan, fill);
    let ticket = on.submit(0, &Bytes::new());
    let got = on.wait(0, ticket);
    let floats = |bytes: &Bytes| -> Vec<f32> {
        let words = bytes["y"].as_chunks::<4>().0.iter();
        words.map(|word| f32::from_le_bytes(*word)).collect()
    };
    let (wanted, got) = (floats(&wanted), floats(&got));
    assert!(!wanted.is_empty() && wanted.len() == got.len());
    for (at, (wanted, got)) in wanted.iter().zip(&got).enumerate() {
        let close = (wanted - got).abs() <= tolerance * wanted.abs().max(1e-3);
        assert!(close, "{kernel} at {at}: {got}, the formulas say {wanted}");
    }
}

#[test]
fn roof_kernels_compute_their_formulas() {
    same(
        &[("x", "f32", "\"4096\"")],
        "roof_read",
        "\"parts\": \"64\"",
        1e-5,
    );
    // A part that the four loads at once do not divide.
    same(
        &[("x", "f32", "\"1536\"")],
        "roof_read",
        "\"parts\": \"64\"",
        1e-5,
    );
    same(&[("x", "f32", "\"1024\"")], "roof_copy", "", 0.0);
    same(&[("x", "f32", "\"100\"")], "roof_step", "", 0.0);
    same_with(
        "guard: \"busy\", state: { \"busy\": Tensor(\"u32\", [\"1\"]) }, ",
        ", \"busy\": \"busy\"",
        &[("x", "f32", "\"100\"")],
        "roof_decide",
        "",
        0.0,
    );
    let rounds = "\"rounds\": \"5\"";
    same(
        &[("x", "f32", "\"96\""), ("u", "f32", "\"96\"")],
        "roof_multiply",
        rounds,
        1e-5,
    );
    same(
        &[("x", "f16", "\"96\""), ("u", "f16", "\"96\"")],
        "roof_multiply",
        rounds,
        1e-2,
    );
    same(&[], "roof_lanes", "", 0.0);
    let matrices = [
        ("x", "f16", "\"4\", \"16\", \"16\""),
        ("w", "f16", "\"4\", \"16\", \"16\""),
    ];
    same(
        &matrices,
        "roof_matrix",
        "\"rounds\": \"3\", \"subgroups\": \"8\"",
        1e-3,
    );
}
