//! The factors that Llama 3.1 and later divide the angles of rotary embeddings by.
//!
//! In: a config.json with `rope_scaling` of the type `llama3`. Out: one factor per pair of a head's dimensions, 1 for
//! fast rotations, `factor` for slow ones, and a smooth way between, as "The Llama 3 Herd of Models" (2024) stretches
//! the context. GGUF files carry the result as the tensor [`TENSOR`]. Other types of scaling are for graphs to compute or,
//! under `requires`, to refuse.

use std::path::Path;

use serde_json::Value;

use super::{WeightError, read_bounded};

/// The name of the tensor with the factors.
pub(super) const TENSOR: &str = "rope_freqs.weight";
/// Longest config.json that is read.
const MAX_CONFIG_BYTES: u64 = 4 << 20;
/// Largest head that factors are made for.
const MAX_HEAD_DIM: u64 = 4096;

/// The factors for the model in `folder`; `None` if its config.json asks for none or is not there. A config.json that
/// cannot be read is reported by whoever needs it.
pub(super) fn factors_of(folder: &Path) -> Result<Option<Vec<f32>>, WeightError> {
    let path = folder.join("config.json");
    let Ok(text) = read_bounded(&path, MAX_CONFIG_BYTES) else {
        return Ok(None);
    };
    let Ok(config) = serde_json::from_slice::<Value>(&text) else {
        return Ok(None);
    };
    factors(&config).map_err(|reason| WeightError::File { path, reason })
}

fn factors(config: &Value) -> Result<Option<Vec<f32>>, String> {
    // `rope_parameters` is the newer name, which also holds `rope_theta`.
    let scaling = ["rope_scaling", "rope_parameters"]
        .iter()
        .find_map(|key| config.get(key).filter(|value| value.is_object()));
    let Some(scaling) = scaling else {
        return Ok(None);
    };
    let kind = scaling.get("rope_type").or_else(|| scaling.get("type"));
    if kind.and_then(Value::as_str) != Some("llama3") {
        return Ok(None);
    }
    let number = |key: &str| {
        let value = scaling.get(key).or_else(|| config.get(key));
        let value = value.and_then(Value::as_f64);
        value.filter(|value| *value > 0.0).ok_or_else(|| {
            format!("its rope scaling is of the type llama3, but `{key}` is not a positive number")
        })
    };
    let (factor, context) = (
        number("factor")?,
        number("original_max_position_embeddings")?,
    );
    let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
    if low >= high {
        return Err(format!(
            "its `low_freq_factor` {low} is not below its `high_freq_factor` {high}"
        ));
    }
    let theta = number("rope_theta")?;
    let size = |key: &str| config.get(key).and_then(Value::as_u64);
    let head_dim =
        size("head_dim").or_else(|| size("hidden_size")?.checked_div(size("num_attention_heads")?));
    let head_dim = head_dim
        .filter(|size| size.is_multiple_of(2) && (2..=MAX_HEAD_DIM).contains(size))
        .ok_or(
            "its rope scaling needs an even `head_dim`, or `hidden_size` and `num_attention_heads`",
        )?;
    let one = |pair: u64| {
        let wavelength =
            2.0 * std::f64::consts::PI * theta.powf(2.0 * pair as f64 / head_dim as f64);
        let turns = context / wavelength;
        if turns > high {
            1.0
        } else if turns < low {
            factor
        } else {
            let smooth = (turns - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    Ok(Some(
        (0..head_dim / 2).map(|pair| one(pair) as f32).collect(),
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const GOLDEN: [(usize, f32); 3] = [(15, 1.651_329_3), (16, 3.292_262), (17, 9.666_729)];

    /// Llama 3.2 1B. Expected values from an independent computation in numpy of the published rule.
    #[test]
    fn llama_3_2() {
        let config = serde_json::json!({
            "hidden_size": 2048, "num_attention_heads": 32, "head_dim": 64, "rope_theta": 500000.0,
            "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                             "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        });
        let factors = factors(&config).unwrap().unwrap();
        assert_eq!(factors.len(), 32);
        assert_eq!((factors[0], factors[31]), (1.0, 32.0));
        assert!(factors.is_sorted());
        for (pair, wanted) in GOLDEN {
            assert!(
                (factors[pair] / wanted - 1.0).abs() < 1e-6,
                "{pair}: {}",
                factors[pair]
            );
        }
    }

    #[test]
    fn what_is_refused_and_what_is_left_alone() {
        let said = |text: &str| match factors(&serde_json::from_str(text).unwrap()) {
            Ok(found) => format!("{}", found.is_some()),
            Err(reason) => reason,
        };
        assert_eq!(said("{}"), "false");
        assert_eq!(said(r#"{"rope_scaling": null}"#), "false");
        assert_eq!(
            said(r#"{"rope_scaling": {"type": "linear", "factor": 8}}"#),
            "false"
        );
        assert!(said(r#"{"rope_scaling": {"rope_type": "llama3"}}"#).contains("`factor` is not"));
        let rest = r#""factor": 8, "original_max_position_embeddings": 8192, "rope_theta": 5e5"#;
        let text = format!(
            r#"{{"rope_parameters": {{"rope_type": "llama3", "low_freq_factor": 4, "high_freq_factor": 4, {rest}}}}}"#
        );
        assert!(said(&text).contains("is not below"));
        let text = text.replace("\"low_freq_factor\": 4", "\"low_freq_factor\": 1");
        assert!(said(&text).contains("even `head_dim`"));
    }
}
