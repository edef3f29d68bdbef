//! The models of the repository through the graph stages: the passes that are left after fusion are the ones that
//! the design promises.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod graphs;

use std::collections::BTreeMap;

use graphc::dtype::DType;
use graphc::expr::Value;
use graphc::graph::{FuseOptions, Request};
use graphs::{Stages, metadata};

/// A request for 12 layers of a small model.
fn request(keys: &[(&str, i64)]) -> Request {
    let pairs: Vec<(&str, Value)> = keys
        .iter()
        .map(|(key, value)| (*key, Value::Int(*value)))
        .collect();
    Request {
        params: metadata(&pairs),
        dims: BTreeMap::from([("batch".into(), 4), ("seq".into(), 32)]),
        ..Request::default()
    }
}

fn bert() -> Request {
    request(&[
        ("num_hidden_layers", 12),
        ("hidden_size", 384),
        ("num_attention_heads", 12),
        ("intermediate_size", 1536),
        ("vocab_size", 30522),
        ("max_position_embeddings", 512),
    ])
}

fn nomic() -> Request {
    request(&[
        ("n_layer", 12),
        ("n_embd", 768),
        ("n_head", 12),
        ("n_inner", 3072),
        ("vocab_size", 30528),
    ])
}

fn modernbert() -> Request {
    request(&[
        ("num_hidden_layers", 12),
        ("hidden_size", 768),
        ("num_attention_heads", 12),
        ("intermediate_size", 1152),
        ("vocab_size", 50368),
        ("max_position_embeddings", 8192),
    ])
}

/// How many passes stand under each layer.
fn passes_per_layer(stages: &Stages) -> Vec<usize> {
    let paths: Vec<&str> = stages
        .fused
        .graph()
        .passes
        .iter()
        .map(|pass| pass.path.as_str())
        .collect();
    (0..12)
        .map(|layer| {
            paths
                .iter()
                .filter(|path| path.starts_with(&format!("l{layer}/")))
                .count()
        })
        .collect()
}

fn kernels(stages: &Stages) -> Vec<&str> {
    stages
        .fused
        .graph()
        .passes
        .iter()
        .map(|pass| pass.kernel.as_str())
        .collect()
}

#[test]
fn twelve_layers_of_bert_take_five_passes_each() {
    let stages = Stages::of("graphs/models/bert.ron", &bert(), &FuseOptions::default());
    assert_eq!(stages.warnings, Vec::<String>::new());
    assert_eq!(
        passes_per_layer(&stages),
        [5; 12],
        "{}",
        stages.fused.dump()
    );
    // embedding sum + norm, 12 * 5, pooling + normalisation
    assert_eq!(stages.fused.graph().passes.len(), 62);
    assert_eq!(
        kernels(&stages)[..7],
        [
            "embed_sum",
            "linear",
            "attention",
            "linear",
            "linear",
            "linear",
            "linear"
        ]
    );
    assert_eq!(kernels(&stages)[61], "pool");
}

#[test]
fn the_five_passes_of_a_layer_carry_what_was_fused_into_them() {
    let stages = Stages::of("graphs/models/bert.ron", &bert(), &FuseOptions::default());
    let graph = stages.fused.graph();
    let layer: Vec<Vec<&str>> = graph
        .passes
        .iter()
        .filter(|pass| pass.path.starts_with("l3/"))
        .map(|pass| {
            pass.ports
                .iter()
                .map(|port| port.name.as_str())
                .filter(|name| *name != "counters")
                .collect()
        })
        .collect();
    let norm = vec![
        "x",
        "w",
        "bias",
        "residual",
        "norm_weight",
        "norm_bias",
        "y",
    ];
    let expected = vec![
        vec!["x", "w", "bias", "y"],
        vec!["qkv", "spans", "y"],
        norm.clone(),
        vec!["x", "w", "bias", "y"],
        norm,
    ];
    assert_eq!(layer, expected);
}

#[test]
fn nomic_bert_takes_five_passes_a_layer() {
    let stages = Stages::of(
        "graphs/models/nomic_bert.ron",
        &nomic(),
        &FuseOptions::default(),
    );
    assert_eq!(
        passes_per_layer(&stages),
        [5; 12],
        "{}",
        stages.fused.dump()
    );
    assert_eq!(stages.fused.graph().passes.len(), 62);
}

#[test]
fn modernbert_takes_five_passes_a_layer() {
    let stages = Stages::of(
        "graphs/models/modernbert.ron",
        &modernbert(),
        &FuseOptions::default(),
    );
    assert_eq!(
        passes_per_layer(&stages),
        [5; 12],
        "{}",
        stages.fused.dump()
    );
    assert_eq!(stages.fused.graph().passes.len(), 62);
}

#[test]
fn modernbert_windows_and_thetas_alternate() {
    let stages = Stages::of(
        "graphs/models/modernbert.ron",
        &modernbert(),
        &FuseOptions::default(),
    );
    let graph = stages.fused.graph();
    let option = |kernel: &str, name: &str| -> Vec<Value> {
        let passes = graph.passes.iter().filter(|pass| {
            pass.kernel == kernel && pass.path.ends_with("attn/qkv") | (kernel == "attention")
        });
        passes
            .map(|pass| pass.binding.options[name].clone())
            .collect()
    };
    let every_third = |global: Value, local: Value| -> Vec<Value> {
        (0..12)
            .map(|layer| {
                if layer % 3 == 0 {
                    global.clone()
                } else {
                    local.clone()
                }
            })
            .collect()
    };
    assert_eq!(
        option("attention", "window"),
        every_third(Value::Int(0), Value::Int(64))
    );
    assert_eq!(
        option("linear", "rope_theta"),
        every_third(Value::Float(160_000.0), Value::Float(10_000.0))
    );
}

#[test]
fn without_fusion_every_pass_of_the_file_is_there() {
    let none = FuseOptions {
        none: true,
        ..FuseOptions::default()
    };
    let stages = Stages::of("graphs/models/bert.ron", &bert(), &none);
    // linear, add_bias, attention, linear, add_bias, add, layer_norm, linear, add_bias, activation, linear, add_bias,
    // add, layer_norm
    assert_eq!(passes_per_layer(&stages), [14; 12]);
    assert!(stages.fused.fired().is_empty());
}

#[test]
fn a_rule_that_is_off_leaves_its_passes() {
    let off = FuseOptions {
        off: ["linear_activation".to_string()].into(),
        ..FuseOptions::default()
    };
    let stages = Stages::of("graphs/models/bert.ron", &bert(), &off);
    assert_eq!(
        kernels(&stages)
            .iter()
            .filter(|kernel| **kernel == "activation")
            .count(),
        12
    );
    assert_eq!(passes_per_layer(&stages), [6; 12]);
}

#[test]
fn dtype_reaches_activations_and_weights_but_not_norms() {
    let mut request = bert();
    request.dtypes = BTreeMap::from([("act".into(), DType::F16), ("weight".into(), DType::F16)]);
    let stages = Stages::of("graphs/models/bert.ron", &request, &FuseOptions::default());
    let graph = stages.fused.graph();
    let port = |pass: &str, name: &str| {
        let pass = graph.passes.iter().find(|info| info.path == pass).unwrap();
        let port = pass.ports.iter().find(|port| port.name == name).unwrap();
        graph.values[port.value].dtype
    };
    let out = graph
        .passes
        .iter()
        .find(|pass| {
            pass.ports.iter().any(|port| port.name == "norm_weight") && pass.kernel == "linear"
        })
        .unwrap();
    let types: Vec<DType> = ["x", "w", "residual", "norm_weight", "y"]
        .iter()
        .map(|name| port(&out.path, name))
        .collect();
    assert_eq!(
        types,
        [DType::F16, DType::F16, DType::F16, DType::F32, DType::F16]
    );
    assert_eq!(graph.values[graph.outputs[0]].dtype, DType::F32);
}
