//! The repository's encoders, small enough to interpret, with made-up weights.

use std::collections::BTreeMap;

use graphc::dtype::{DType, tiles};
use graphc::formula::encode;
use graphc::graph::Request;
use graphc::plan::Weight;

use super::golden::{golden, uniform};

/// A graph with a model small enough to interpret.
pub struct Tiny {
    pub path: &'static str,
    pub config: serde_json::Value,
}

/// Every encoder of `graphs/models` with a configuration.
pub fn tiny() -> [Tiny; 3] {
    let bert = serde_json::json!({
        "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 96,
        "vocab_size": 96, "max_position_embeddings": 64, "hidden_act": "gelu",
    });
    let of = |path, config| Tiny { path, config };
    [
        of("graphs/models/bert.ron", bert),
        of(
            "graphs/models/nomic_bert.ron",
            golden("nomic_bert.json").config,
        ),
        of(
            "graphs/models/modernbert.ron",
            golden("modernbert.json").config,
        ),
    ]
}

/// A request for one shape and one type of activations and weights.
pub fn request(config: &serde_json::Value, batch: usize, seq: usize, dtype: DType) -> Request {
    Request {
        params: super::metadata(config),
        dims: BTreeMap::from([("batch".into(), batch as i64), ("seq".into(), seq as i64)]),
        dtypes: BTreeMap::from([("act".into(), dtype), ("weight".into(), dtype)]),
        ..Request::default()
    }
}

/// Weights by name, so that fused and unfused plans get the same ones.
pub fn made_up(weight: &Weight) -> Vec<u8> {
    let count = weight.shape.iter().product::<u64>() as usize;
    let values = uniform(&format!("{:?}", weight.recipe), count).into_iter();
    let scaled: Vec<f64> = match weight.shape.as_slice() {
        [_, columns] => values.map(|u| u * (3.0 / *columns as f64).sqrt()).collect(),
        _ => values.map(|u| 1.0 + u / 4.0).collect(),
    };
    let by_rows = encode(weight.dtype, &scaled);
    tiles::tiled(weight.dtype, &weight.shape, by_rows)
}
