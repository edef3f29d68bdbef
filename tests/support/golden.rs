//! The goldens of `tests/reference`, and the made-up checkpoints that they were computed from. `tools/reference.py`
//! is the other side of this file: its `uniform` and `weight` are [`uniform`] and [`weight`] here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use serde::Deserialize;

/// A tiny random model and what `transformers` computes with it.
#[derive(Deserialize)]
pub struct Golden {
    /// config.json.
    pub config: serde_json::Value,
    /// tokenizer.json.
    #[serde(default)]
    pub tokenizer: serde_json::Value,
    /// Every tensor of the checkpoint with its shape.
    pub tensors: BTreeMap<String, Vec<usize>>,
    #[serde(default)]
    pub inputs: Vec<Example>,
}

/// One input with its embedding.
#[derive(Deserialize)]
pub struct Example {
    pub text: String,
    pub ids: Vec<u32>,
    /// Base64 of little-endian f32.
    embedding: String,
}

impl Example {
    pub fn embedding(&self) -> Vec<f64> {
        let bytes = base64(&self.embedding);
        let values = bytes.as_chunks::<4>().0.iter();
        values.map(|b| f32::from_le_bytes(*b).into()).collect()
    }
}

/// The golden of that name.
pub fn golden(name: &str) -> Golden {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/reference")
        .join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    serde_json::from_str(&text).unwrap()
}

impl Golden {
    /// Writes the model as a Hugging Face folder.
    pub fn write(&self, folder: &Path) -> PathBuf {
        let tensors: BTreeMap<&str, (&[usize], Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, shape)| {
                let bytes = weight(name, shape)
                    .into_iter()
                    .flat_map(f32::to_le_bytes)
                    .collect();
                (name.as_str(), (shape.as_slice(), bytes))
            })
            .collect();
        let views = tensors.iter().map(|(name, (shape, bytes))| {
            (
                *name,
                TensorView::new(safetensors::Dtype::F32, shape.to_vec(), bytes).unwrap(),
            )
        });
        safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
        for (file, json) in [
            ("config.json", &self.config),
            ("tokenizer.json", &self.tokenizer),
        ] {
            std::fs::write(folder.join(file), json.to_string()).unwrap();
        }
        folder.to_path_buf()
    }
}

/// `count` numbers in [-1, 1): SplitMix64 started at the FNV-1a hash of `name`, the top 24 bits of each output.
pub fn uniform(name: &str, count: usize) -> Vec<f64> {
    let start = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    (1..=count as u64)
        .map(|i| {
            let mut z = start.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^= z >> 31;
            (z >> 40) as f64 / f64::from(1 << 23) - 1.0
        })
        .collect()
}

/// Matrices have variance 1 / columns, norm weights lie around 1, biases around 0.
fn weight(name: &str, shape: &[usize]) -> Vec<f32> {
    let values = uniform(name, shape.iter().product());
    let scaled = values.into_iter().map(|u| match shape {
        [_, columns] => u * (3.0 / *columns as f64).sqrt(),
        _ if name.ends_with(".weight") => 1.0 + u / 4.0,
        _ => u / 4.0,
    });
    scaled.map(|value| value as f32).collect()
}

/// RFC 4648, as Python writes it.
pub fn base64(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => panic!("not base64: {}", char::from(c)),
    };
    let mut bytes = Vec::new();
    for four in text.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = four
            .iter()
            .fold(0_u32, |bits, c| bits << 6 | u32::from(digit(*c)));
        let bits = bits << (6 * (4 - four.len()));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..four.len()]);
    }
    bytes
}

/// The cosine of the angle between two vectors.
pub fn cosine(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
