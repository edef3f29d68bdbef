//! Decoder language models small enough to interpret: plans with several entries, the inputs of a step, and what
//! `transformers` computes for them in f64.

use std::collections::BTreeMap;

use graphc::compile::{Job, compile};
use graphc::device::DeviceProfile;
use graphc::dtype::DType;
use graphc::expr::Value;
use graphc::graph::Request;
use graphc::kernel::build::Builder;
use graphc::plan::Plan;
use graphc::span::SourceMap;
use graphc::weights::{CachePlace, Checkpoint, PackOptions, PackedWeights};
use serde::Deserialize;

use super::golden::{Golden, base64};

/// No position: the row is dead.
pub const NONE: u32 = u32::MAX;
/// Every graph of `graphs/models` that decodes, with its golden.
pub const DECODERS: [(&str, &str); 3] = [
    ("graphs/models/llama.ron", "tiny_llama.json"),
    ("graphs/models/gemma3.ron", "tiny_gemma3.json"),
    ("graphs/models/qwen3.ron", "tiny_qwen3.json"),
];
/// Positions of a cache in these tests.
pub const CTX: u32 = 96;

/// A golden of `tools/reference.py decoders`.
#[derive(Deserialize)]
pub struct Reference {
    #[serde(flatten)]
    pub model: Golden,
    pub ids: Vec<u32>,
    /// Base64 of little-endian f32 by position.
    logits: BTreeMap<String, String>,
}

impl Reference {
    pub fn load(name: &str) -> Self {
        let path = format!("{}/tests/reference/{name}", env!("CARGO_MANIFEST_DIR"));
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    /// Positions and their logits, in order.
    pub fn logits(&self) -> BTreeMap<usize, Vec<f64>> {
        let floats = |text: &String| {
            let bytes = base64(text);
            let values = bytes.as_chunks::<4>().0.iter();
            values.map(|b| f64::from(f32::from_le_bytes(*b))).collect()
        };
        let parsed = |(at, text): (&String, &String)| (at.parse().unwrap(), floats(text));
        self.logits.iter().map(parsed).collect()
    }

    /// The packed weights of a plan.
    pub fn weights(&self, plan: &Plan) -> Vec<Vec<u8>> {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::open(&self.model.write(folder.path())).unwrap();
        let options = PackOptions {
            place: CachePlace::Memory,
            ..PackOptions::default()
        };
        let packed =
            PackedWeights::open_or_pack(plan, &checkpoint, &options, &mut |_, _| {}).unwrap();
        (0..packed.len())
            .map(|at| packed.bytes(at).to_vec())
            .collect()
    }

    /// A request for an entry: `batch` sequences of `seq` tokens each; `steps` > 0 decodes, `score` gives logits.
    pub fn request(&self, entry: Shape, types: &[(&str, DType)], slots: u32) -> Request {
        let mut params = super::metadata(&self.model.config);
        // What the model's metadata adds for a checkpoint with stretched rotations.
        if self.model.config["rope_parameters"]["rope_type"] == "llama3" {
            params.insert("rope_freqs".into(), Value::Bool(true));
        }
        let set = [("ctx", CTX), ("slots", slots)];
        let dims = [
            ("batch", entry.batch),
            ("seq", entry.seq),
            ("steps", entry.steps),
            ("score", entry.score),
        ];
        Request {
            params,
            set: set
                .map(|(name, n)| (name.into(), Value::Int(n.into())))
                .into(),
            dims: dims.map(|(name, n)| (name.into(), n.into())).into(),
            dtypes: types
                .iter()
                .map(|(name, dtype)| ((*name).into(), *dtype))
                .collect(),
            ..Request::default()
        }
    }
}

/// The shape of an entry.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub batch: u32,
    pub seq: u32,
    pub steps: u32,
    pub score: u32,
}

/// Logits of `seq` tokens of one sequence.
pub const fn score(seq: u32) -> Shape {
    Shape {
        batch: 1,
        seq,
        steps: 0,
        score: 1,
    }
}

/// `seq` tokens of one sequence into the caches.
pub const fn prefill(seq: u32) -> Shape {
    Shape {
        batch: 1,
        seq,
        steps: 0,
        score: 0,
    }
}

/// `steps` tokens for each of `batch` sequences.
pub const fn decode(batch: u32, steps: u32) -> Shape {
    Shape {
        batch,
        seq: 1,
        steps,
        score: 0,
    }
}

/// One plan with an entry for each request, in order.
pub fn plan(
    path: &str,
    requests: &[Request],
    profile: &DeviceProfile,
    builder: Option<&dyn Builder>,
    fused: bool,
) -> Plan {
    let sources = super::sources();
    let mut job = Job::new(path, &sources, profile, requests);
    job.builder = builder;
    job.fusion.none = !fused;
    let mut map = SourceMap::default();
    let compiled = compile(&job, &mut map);
    compiled
        .unwrap_or_else(|errors| super::fail(&errors, &map))
        .plan
}

/// What a submit is told about one sequence.
#[derive(Clone, Debug)]
pub struct Row {
    pub slot: u32,
    /// The tokens of this submit; at decode the fresh token, or none to go on.
    pub ids: Vec<u32>,
    /// The position of the first of them.
    pub position: u32,
    pub limit: u32,
    /// Temperature, top-k, top-p.
    pub sampling: [f32; 3],
}

impl Row {
    pub fn new(slot: u32, ids: &[u32], position: u32) -> Self {
        Self {
            slot,
            ids: ids.to_vec(),
            position,
            limit: CTX,
            sampling: [0.0, 0.0, 1.0],
        }
    }
}

/// Stored inputs of a submit of `rows`, padded to `seq` tokens each.
pub fn inputs(rows: &[Row], seq: u32, stops: &[u32]) -> BTreeMap<String, Vec<u8>> {
    let each = |f: &dyn Fn(&Row) -> Vec<u32>| -> Vec<u8> {
        rows.iter().flat_map(f).flat_map(u32::to_le_bytes).collect()
    };
    let padded = |row: &Row, value: &dyn Fn(u32) -> u32, pad: u32| {
        let count = row.ids.len() as u32;
        (0..seq)
            .map(|at| if at < count { value(at) } else { pad })
            .collect::<Vec<u32>>()
    };
    let fresh = |row: &Row| u32::from(!row.ids.is_empty());
    let mut stops = stops.to_vec();
    stops.resize(8, NONE);
    BTreeMap::from([
        (
            "ids".into(),
            each(&|row| padded(row, &|at| row.ids[at as usize], 0)),
        ),
        (
            "positions".into(),
            each(&|row| padded(row, &|at| row.position + at, NONE)),
        ),
        ("slots".into(), each(&|row| vec![row.slot])),
        ("flow".into(), each(&|row| vec![fresh(row), row.limit])),
        ("seeds".into(), each(&|row| vec![7, row.slot])),
        (
            "sampling".into(),
            each(&|row| {
                let [temperature, k, p] = row.sampling;
                [temperature, k, p, 0.0].map(f32::to_bits).to_vec()
            }),
        ),
        (
            "stops".into(),
            stops.into_iter().flat_map(u32::to_le_bytes).collect(),
        ),
    ])
}

/// Stored `u32`s.
pub fn words(bytes: &[u8]) -> Vec<u32> {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| u32::from_le_bytes(*b))
        .collect()
}
