//! config.json and the files of sentence-transformers: what the graphs read from them, and what is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod model_files;

use std::collections::BTreeMap;
use std::path::Path;

use graphc::expr::Value;
use graphc::model::metadata::{MetadataError, ModelMetadata, find_graph};
use graphc::sources::FsSources;
use model_files::*;

const CONFIG: &str = r#"{"model_type": "bert", "num_hidden_layers": 6, "layer_norm_eps": 1e-12,
    "hidden_act": "gelu_new", "max_position_embeddings": 512, "rope_parameters": {"full": [{"theta": 1e4}]}}"#;
const POOLING: &str = r#"{"word_embedding_dimension": 384, "pooling_mode_cls_token": false,
    "pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": false, "include_prompt": true}"#;
const MODULES: &str = r#"[
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}]"#;

fn model(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        put(folder.path(), name, text);
    }
    folder
}

fn values(files: &[(&str, &str)]) -> BTreeMap<String, Value> {
    ModelMetadata::open(model(files).path()).unwrap().values
}

#[test]
fn sentence_transformers_layout() {
    let found = values(&[
        ("config.json", CONFIG),
        ("modules.json", MODULES),
        ("1_Pooling/config.json", POOLING),
        (
            "sentence_bert_config.json",
            r#"{"max_seq_length": 256, "do_lower_case": false}"#,
        ),
    ]);
    let text = |value: &str| Value::Text(value.into());
    for (key, value) in [
        ("num_hidden_layers", Value::Int(6)),
        ("layer_norm_eps", Value::Float(1e-12)),
        ("hidden_act", text("gelu_tanh")),
        ("rope_parameters.full.0.theta", Value::Float(1e4)),
        ("max_positions", Value::Int(512)),
        ("pooling.mode", text("mean")),
        ("normalize", Value::Bool(true)),
        ("max_seq_length", Value::Int(256)),
    ] {
        assert_eq!(found.get(key), Some(&value), "{key}");
    }
}

#[test]
fn what_no_file_says_stays_open() {
    let plain = values(&[("config.json", CONFIG)]);
    for key in ["pooling.mode", "normalize", "max_seq_length"] {
        assert_eq!(plain.get(key), None, "{key}");
    }
    let no_modules = values(&[("config.json", CONFIG), ("1_Pooling/config.json", POOLING)]);
    assert_eq!(
        no_modules.get("pooling.mode"),
        Some(&Value::Text("mean".into()))
    );
    assert_eq!(no_modules.get("normalize"), None);
    let modules = MODULES.replace("models.Normalize", "models.Dropout");
    let not_normalized = values(&[
        ("config.json", CONFIG),
        ("1_Pooling/config.json", POOLING),
        ("modules.json", &modules),
    ]);
    assert_eq!(not_normalized.get("normalize"), Some(&Value::Bool(false)));
}

#[test]
fn transformer_in_its_own_folder() {
    let modules = MODULES.replace(r#""path": """#, r#""path": "0_Transformer""#);
    let folder = model(&[
        ("modules.json", &modules),
        ("0_Transformer/config.json", CONFIG),
        (
            "0_Transformer/sentence_bert_config.json",
            r#"{"max_seq_length": 128}"#,
        ),
        ("1_Pooling/config.json", POOLING),
    ]);
    let found = ModelMetadata::open(folder.path()).unwrap();
    assert_eq!(found.folder, folder.path().join("0_Transformer"));
    assert_eq!(found.values.get("max_seq_length"), Some(&Value::Int(128)));
}

#[test]
fn every_pooling_of_the_kernel() {
    for (config, mode) in [
        (POOLING.to_string(), "mean"),
        (
            POOLING
                .replace("cls_token\": false", "cls_token\": true")
                .replace("mean_tokens\": true", "mean_tokens\": false"),
            "cls",
        ),
        (
            POOLING
                .replace("max_tokens\": false", "max_tokens\": true")
                .replace("mean_tokens\": true", "mean_tokens\": false"),
            "max",
        ),
        (r#"{"pooling_mode_lasttoken": true}"#.to_string(), "last"),
        (r#"{"pooling_mode": "cls"}"#.to_string(), "cls"),
        (r#"{"pooling_mode": "lasttoken"}"#.to_string(), "last"),
    ] {
        let found = values(&[("config.json", CONFIG), ("1_Pooling/config.json", &config)]);
        assert_eq!(
            found.get("pooling.mode"),
            Some(&Value::Text(mode.into())),
            "{config}"
        );
    }
}

#[test]
fn what_is_refused() {
    let dense = MODULES.replace("models.Normalize", "models.Dense");
    let early = MODULES
        .replace("\"idx\": 2", "\"idx\": 0")
        .replacen("\"idx\": 0", "\"idx\": 2", 1);
    let outside = MODULES.replace("1_Pooling", "../1_Pooling");
    let pooling = |text: &str| ("1_Pooling/config.json", text.to_string());
    let config = ("config.json", CONFIG.to_string());
    let many = format!("{{\"a\": {}1{}}}", "[".repeat(200), "]".repeat(200));
    let cases: Vec<(&str, Vec<(&str, String)>)> = vec![
        ("G0820_no_config", vec![]),
        (
            "G0820_cut_off",
            vec![("config.json", CONFIG[..40].to_string())],
        ),
        (
            "G0820_key_twice",
            vec![(
                "config.json",
                r#"{"hidden_size": 1, "hidden_size": 2}"#.into(),
            )],
        ),
        ("G0820_list", vec![("config.json", "[1, 2]".into())]),
        ("G0820_deep", vec![("config.json", many)]),
        (
            "G0820_too_long",
            vec![("config.json", " ".repeat((4 << 20) + 1))],
        ),
        (
            "G0820_no_pooling_config",
            vec![config.clone(), ("modules.json", MODULES.into())],
        ),
        (
            "G0822_dense",
            vec![config.clone(), pooling(POOLING), ("modules.json", dense)],
        ),
        (
            "G0822_order",
            vec![config.clone(), pooling(POOLING), ("modules.json", early)],
        ),
        (
            "G0822_outside_the_folder",
            vec![config.clone(), pooling(POOLING), ("modules.json", outside)],
        ),
        (
            "G0822_not_json",
            vec![config.clone(), ("modules.json", "{".into())],
        ),
        (
            "G0822_empty",
            vec![config.clone(), ("modules.json", "[]".into())],
        ),
        (
            "G0823_two_modes",
            vec![config.clone(), pooling(&POOLING.replace("false", "true"))],
        ),
        ("G0823_none", vec![config.clone(), pooling("{}")]),
        (
            "G0823_weighted",
            vec![
                config.clone(),
                pooling(r#"{"pooling_mode_weightedmean_tokens": true}"#),
            ],
        ),
        (
            "G0823_number",
            vec![config, pooling(r#"{"pooling_mode_cls_token": 1}"#)],
        ),
    ];
    for (name, files) in cases {
        let files: Vec<(&str, &str)> = files
            .iter()
            .map(|(name, text)| (*name, text.as_str()))
            .collect();
        let folder = model(&files);
        let error = ModelMetadata::open(folder.path()).expect_err(name);
        assert_message(name, error.diagnostic(), folder.path());
    }
}

#[test]
fn graphs_by_architecture() {
    let sources = FsSources::new(env!("CARGO_MANIFEST_DIR"));
    for model_type in ["bert", "nomic_bert", "modernbert"] {
        let path = find_graph(model_type, &sources, "graphs/models").unwrap();
        assert_eq!(path, format!("graphs/models/{model_type}.ron"));
    }
    // A graph that does not load does not hide the others.
    let text = |name: &str| {
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
    };
    let broken: BTreeMap<String, String> = BTreeMap::from([
        ("m/a.ron".into(), "Graph(".into()),
        ("m/bert.ron".into(), text("graphs/models/bert.ron")),
        ("m/blocks.ron".into(), text("graphs/blocks/encoder.ron")),
    ]);
    assert_eq!(find_graph("bert", &broken, "m").unwrap(), "m/bert.ron");
    let error = find_graph("t5", &broken, "m").unwrap_err();
    assert_message("G0821_t5", error.diagnostic(), Path::new("m/"));
}

#[test]
fn model_type_must_be_a_text() {
    for config in ["{}", r#"{"model_type": 3}"#] {
        let folder = model(&[("config.json", config)]);
        let metadata = ModelMetadata::open(folder.path()).unwrap();
        assert!(
            matches!(metadata.model_type(), Err(MetadataError::Config { .. })),
            "{config}"
        );
    }
}

/// Every parameter that a graph reads without a default is there for the configuration that transformers writes.
#[test]
fn graphs_find_their_keys() {
    let sources = FsSources::new(env!("CARGO_MANIFEST_DIR"));
    for name in ["nomic_bert", "modernbert"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/reference")
            .join(format!("{name}.json"));
        let reference: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let folder = model(&[("config.json", &reference["config"].to_string())]);
        let metadata = ModelMetadata::open(folder.path()).unwrap();
        let path = find_graph(metadata.model_type().unwrap(), &sources, "graphs/models").unwrap();
        let mut map = graphc::span::SourceMap::default();
        let loaded = graphc::text::load(&path, &sources, &mut map)
            .unwrap_or_else(|problems| panic!("{}", problems.render(&map, false)));
        for (param, declared) in &loaded.graph.params {
            let found = declared
                .from
                .iter()
                .any(|key| metadata.values.contains_key(key.as_str()));
            assert!(
                found || declared.default.is_some(),
                "{name}: `{}`",
                param.value
            );
        }
    }
}
