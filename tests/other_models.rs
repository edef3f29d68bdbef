//! Models that a graph of `graphs/models` does not compute: a configuration that says so is refused, and tensors that no
//! weight reads are named. What the graphs do compute stays quiet.
// Both `model_files` and `support` have the device of tests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::duplicate_mod
)]

mod graphs;
mod model_files;
mod support;

use graphc::diag::{Diagnostic, Diagnostics, Severity};
use graphc::expr::Value;
use graphc::graph::{Request, Tensors, expand};
use graphc::span::SourceMap;
use graphc::weights::Checkpoint;
use serde_json::json;
use support::golden::{Golden, golden};

/// Every graph, with a configuration that it runs.
const MODELS: [(&str, &str); 6] = [
    ("bert", ""),
    ("nomic_bert", "nomic_bert.json"),
    ("modernbert", "modernbert.json"),
    ("llama", "tiny_llama.json"),
    ("gemma3", "tiny_gemma3.json"),
    ("qwen3", "tiny_qwen3.json"),
];

fn reference(graph: &str) -> Option<Golden> {
    let (_, file) = MODELS.iter().find(|(name, _)| *name == graph).unwrap();
    (!file.is_empty()).then(|| golden(file))
}

fn config(graph: &str) -> serde_json::Value {
    reference(graph).map_or_else(
        || {
            json!({
                "model_type": "bert", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 2,
                "intermediate_size": 96, "vocab_size": 96, "max_position_embeddings": 128, "hidden_act": "gelu",
                "position_embedding_type": "absolute",
            })
        },
        |reference| reference.config,
    )
}

/// A request with these keys beside or in place of those of the configuration.
fn request(graph: &str, keys: &[(&str, Value)]) -> Request {
    let mut params = support::metadata(&config(graph));
    // A GGUF file has its own keys alone.
    if keys.iter().any(|(key, _)| key.starts_with("rope.")) {
        params.retain(|key, _| !key.starts_with("rope_parameters"));
    }
    params.extend(
        keys.iter()
            .map(|(key, value)| ((*key).into(), value.clone())),
    );
    let decodes = !["bert", "nomic_bert", "modernbert"].contains(&graph);
    let set = if decodes {
        Vec::from([("ctx", 32)])
    } else {
        vec![]
    };
    Request {
        params,
        file: Some("model/config.json".into()),
        set: set
            .into_iter()
            .map(|(name, value)| (name.into(), Value::Int(value)))
            .collect(),
        entry: Some(if decodes { "decode" } else { "one" }.into()),
        ..Request::default()
    }
}

fn path(graph: &str) -> String {
    format!("graphs/models/{graph}.ron")
}

/// What expanding says.
fn said(graph: &str, keys: &[(&str, Value)]) -> Result<(), String> {
    let mut map = SourceMap::default();
    let loaded = graphc::text::load(&path(graph), &support::sources(), &mut map).unwrap();
    match expand(&loaded, &request(graph, keys)) {
        Ok(_) => Ok(()),
        Err(problems) => Err(problems.render(&map, false)),
    }
}

fn text(value: &str) -> Value {
    Value::Text(value.into())
}

#[test]
fn configurations_that_a_graph_does_not_compute_are_refused() {
    let (yes, one) = (Value::Bool(true), Value::Int(1));
    let half = Value::Float(0.5);
    let decoders = [
        ("attention_bias", yes.clone()),
        ("partial_rotary_factor", half.clone()),
        ("rope_parameters.partial_rotary_factor", half.clone()),
        ("rope_scaling.type", text("dynamic")),
        ("rope_scaling.rope_type", text("longrope")),
        ("rope_scaling.type", text("foo")),
        ("rope.scaling.type", text("longrope")),
        ("rope.dimension_count", Value::Int(16)),
        ("expert_count", Value::Int(8)),
        ("attention.causal", Value::Bool(false)),
    ];
    let own = [
        ("llama", "mlp_bias", yes.clone()),
        ("llama", "hidden_act", text("gelu")),
        ("qwen3", "hidden_act", text("relu")),
        ("qwen3", "use_sliding_window", yes.clone()),
        ("qwen3", "layer_types.1", text("sliding_attention")),
        ("qwen3", "rope_scaling.type", text("llama3")),
        ("gemma3", "hidden_activation", text("silu")),
        ("gemma3", "use_bidirectional_attention", yes.clone()),
        ("gemma3", "final_logit_softcapping", Value::Float(30.0)),
        (
            "gemma3",
            "rope_parameters.full_attention.rope_type",
            text("yarn2"),
        ),
        (
            "gemma3",
            "rope_parameters.sliding_attention.rope_type",
            text("linear"),
        ),
        // Global are the sixth of seven layers and the first and the fourth of four.
        ("gemma3", "layer_types.0", text("full_attention")),
        ("gemma3", "layer_types.5", text("sliding_attention")),
        ("modernbert", "layer_types.1", text("full_attention")),
        ("modernbert", "layer_types.3", text("sliding_attention")),
        ("bert", "position_embedding_type", text("relative_key")),
        ("bert", "is_decoder", yes.clone()),
        (
            "modernbert",
            "rope_parameters.full_attention.rope_type",
            text("yarn"),
        ),
        ("nomic_bert", "activation_function", text("gelu")),
        ("nomic_bert", "hidden_act", text("gelu")),
        ("nomic_bert", "rotary_emb_fraction", half),
        ("nomic_bert", "rotary_emb_interleaved", yes.clone()),
        ("nomic_bert", "rotary_emb_scale_base", Value::Float(512.0)),
        ("nomic_bert", "rope_parameters.rope_type", text("yarn")),
        ("nomic_bert", "prenorm", yes.clone()),
        ("nomic_bert", "parallel_block", yes.clone()),
        ("nomic_bert", "use_rms_norm", yes.clone()),
        ("nomic_bert", "causal", yes),
        ("nomic_bert", "moe_every_n_layers", one),
    ];
    let of_decoders = ["llama", "gemma3", "qwen3"].into_iter().flat_map(|graph| {
        decoders
            .iter()
            .map(move |(key, value)| (graph, *key, value.clone()))
    });
    for (graph, key, value) in of_decoders.chain(own) {
        let said = said(graph, &[(key, value.clone())]).expect_err(key);
        let sides = format!(
            "key `{key}` of model/config.json is {value}, but the graph `{graph}` runs models"
        );
        assert!(
            said.contains("error[G0122]") && said.contains(&sides),
            "{said}"
        );
    }
    // Where the choice is a param's, the param says it.
    let said = said("bert", &[("hidden_act", text("tanh"))]).unwrap_err();
    assert!(
        said.contains("got `tanh` from key `hidden_act` of model/config.json"),
        "{said}"
    );
}

#[test]
fn keys_of_gguf_files_are_named_as_they_stand_there() {
    let keys = [
        ("rope.scaling.type", text("yarn")),
        ("llama.rope.scaling.type", text("yarn")),
        ("rope.scaling.factor", Value::Float(4.0)),
    ];
    let said = said(
        "qwen3",
        &[&keys[..], &[("model_type", text("llama"))]].concat(),
    )
    .unwrap_err();
    assert!(
        said.contains("key `llama.rope.scaling.type` of model/config.json is yarn"),
        "{said}"
    );
}

#[test]
fn what_the_graphs_compute_is_not_refused() {
    for (graph, _) in MODELS {
        said(graph, &[]).unwrap_or_else(|said| panic!("{said}"));
    }
    for graph in ["llama", "gemma3", "qwen3"] {
        for keys in [
            &[("rope.scaling.type", text("none"))][..],
            &[
                ("rope.scaling.type", text("linear")),
                ("rope.scaling.factor", Value::Float(4.0)),
            ],
            &[
                ("rope.scaling.type", text("yarn")),
                ("rope.scaling.factor", Value::Float(1.0)),
            ],
            &[("rope.scale_linear", Value::Float(2.0))],
            // As llama.cpp has it, 0 is no factor.
            &[("rope.scaling.factor", Value::Float(0.0))],
            &[("rope.dimension_count", Value::Int(32))],
            &[("rope.dimension_count", Value::Float(32.0))],
            &[("expert_count", Value::Int(0))],
            &[("partial_rotary_factor", Value::Float(1.0))],
        ] {
            said(graph, keys).unwrap_or_else(|said| panic!("{graph} {keys:?}\n{said}"));
        }
    }
}

/// The factor of linear scaling reaches RoPE, other types of scaling leave it at 1.
#[test]
fn linear_scaling_divides_positions() {
    let scales = |graph: &str, keys: &[(&str, Value)]| -> Vec<f64> {
        let mut map = SourceMap::default();
        let loaded = graphc::text::load(&path(graph), &support::sources(), &mut map).unwrap();
        let flat = expand(&loaded, &request(graph, keys)).unwrap();
        let scale = |pass: &graphc::graph::flat::FlatPass| {
            let set = pass.set.iter().find(|set| set.name.value == "rope_scale")?;
            set.value.as_float()
        };
        flat.passes.iter().filter_map(scale).collect()
    };
    let keys = |kind: &str, factor: f64| {
        [
            ("rope_scaling.rope_type", text(kind)),
            ("rope_scaling.factor", Value::Float(factor)),
        ]
    };
    for graph in ["llama", "qwen3"] {
        assert_eq!(scales(graph, &keys("linear", 4.0)), [0.25; 3], "{graph}");
        assert_eq!(scales(graph, &keys("default", 4.0)), [1.0; 3], "{graph}");
        let old = [("rope.scale_linear", Value::Float(2.0))];
        assert_eq!(scales(graph, &old), [0.5; 3], "{graph}");
    }
    assert_eq!(scales("llama", &keys("llama3", 8.0)), [1.0; 3]);
    // One of seven layers is global.
    let scaled = |keys: &[(&str, Value)]| {
        let scales = scales("gemma3", keys);
        (scales.len(), scales[5], scales.iter().sum::<f64>())
    };
    assert_eq!(scaled(&keys("linear", 8.0)), (7, 0.125, 6.125));
    let newer = [
        ("rope_parameters.full_attention.rope_type", text("linear")),
        ("rope_parameters.full_attention.factor", Value::Float(8.0)),
    ];
    assert_eq!(scaled(&newer), (7, 0.125, 6.125));
}

/// A tiny checkpoint with more tensors, and what is said about it.
fn unread(
    graph: &str,
    more: &[&str],
    set: &[(&str, i64)],
) -> (Option<Diagnostic>, tempfile::TempDir) {
    let mut reference = reference(graph).unwrap();
    let more = more.iter().map(|name| ((*name).to_string(), vec![2, 2]));
    reference.tensors.extend(more);
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::open(&reference.write(folder.path())).unwrap();
    let mut map = SourceMap::default();
    let loaded = graphc::text::load(&path(graph), &support::sources(), &mut map).unwrap();
    let rope = Value::Bool(graph == "llama");
    let mut request = request(graph, &[("rope_factors", rope)]);
    request.set.extend(
        set.iter()
            .map(|(name, value)| ((*name).into(), Value::Int(*value))),
    );
    (checkpoint.unread(&Tensors::of(&loaded, &[request])), folder)
}

#[test]
fn tensors_that_no_weight_reads_are_named() {
    let biases: Vec<String> = (0..3)
        .flat_map(|layer| {
            ["q", "k"].map(|part| format!("model.layers.{layer}.self_attn.{part}_proj.bias"))
        })
        .collect();
    let biases: Vec<&str> = biases.iter().map(String::as_str).collect();
    let (found, folder) = unread("llama", &biases, &[]);
    let found = found.unwrap();
    assert_eq!(found.severity, Severity::Warning);
    model_files::assert_message("G0612_biases", found, folder.path());
    let (found, folder) = unread("qwen3", &["score.weight"], &[]);
    model_files::assert_message("G0612_one", found.unwrap(), folder.path());
}

#[test]
fn layers_beyond_the_last_one_are_an_error() {
    let more = [
        "model.layers.3.input_layernorm.weight",
        "model.layers.10.mlp.up_proj.weight",
    ];
    let (found, folder) = unread("llama", &more, &[]);
    let found = found.unwrap();
    assert_eq!(found.severity, Severity::Error);
    model_files::assert_message("G0613_more_layers", found, folder.path());
    // Fewer layers that are asked for are meant.
    for (set, severity) in [
        (("layers", 2), Severity::Warning),
        (("slots", 2), Severity::Error),
    ] {
        let (found, _) = unread("llama", &more, &[set]);
        assert_eq!(found.unwrap().severity, severity, "{set:?}");
    }
}

#[test]
fn usual_checkpoints_are_quiet() {
    let shown = |found: Option<Diagnostic>| {
        found.map(|found| Diagnostics::from(found).render(&SourceMap::default(), false))
    };
    for (graph, more) in [
        (
            "llama",
            &[
                "model.layers.0.self_attn.rotary_emb.inv_freq",
                "model.rotary_emb.inv_freq",
            ][..],
        ),
        // The table once more.
        ("gemma3", &["lm_head.weight"]),
        ("qwen3", &["lm_head.weight"]),
        (
            "modernbert",
            &["head.dense.weight", "head.norm.weight", "decoder.bias"],
        ),
        (
            "nomic_bert",
            &[
                "pooler.dense.weight",
                "embeddings.position_ids",
                "cls.predictions.bias",
            ],
        ),
    ] {
        assert_eq!(shown(unread(graph, &[], &[]).0), None, "{graph}");
        assert_eq!(shown(unread(graph, more, &[]).0), None, "{graph}");
    }
    // BERT's, by name alone.
    let mut map = SourceMap::default();
    let loaded =
        graphc::text::load("graphs/models/bert.ron", &support::sources(), &mut map).unwrap();
    let tensors = Tensors::of(&loaded, &[request("bert", &[])]);
    for name in [
        "pooler.dense.weight",
        "bert.pooler.dense.bias",
        "embeddings.position_ids",
        "bert.embeddings.position_ids",
        "cls.predictions.transform.dense.weight",
    ] {
        assert!(tensors.ignores(name), "{name}");
    }
    assert!(!tensors.ignores("classifier.weight"));
    assert!(tensors.names.contains("embeddings.word_embeddings.weight"));
}
