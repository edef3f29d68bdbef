//! The flags that say which graph in which shape, shared by `check` and `compile`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use graphc::diag::Diagnostics;
use graphc::dtype::DType;
use graphc::expr::Value;
use graphc::graph::{FuseOptions, NativeTypes, Request};
use graphc::model::hub;
use graphc::model::metadata::ModelMetadata;
use graphc::span::SourceMap;
use graphc::weights::Checkpoint;

use crate::failure::Failure;

/// What `--weights` takes.
pub const WEIGHT_TYPES: [&str; 7] = [
    "native", "f32", "f16", "int8", "int4", "int8g64", "int4g128",
];

/// Which graph, and its parameters.
#[derive(clap::Args)]
pub struct GraphArgs {
    /// Graph file; a path that is not here is looked up in the root folder
    #[arg(value_name = "GRAPH.ron")]
    pub graph: PathBuf,
    /// GGUF file, model folder, or hf:org/name from the local Hugging Face cache, that gives the parameters
    #[arg(long, value_name = "FILE.gguf|DIR")]
    pub model: Option<String>,
    /// Give a parameter (or a dimension's bound) a value; wins over the model
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    pub set: Vec<(String, String)>,
    /// A shape: dimensions, or the name of an entry of the graph [repeatable]
    #[arg(long = "entry", value_name = "batch=32,seq=512", value_parser = entry)]
    pub entry: Vec<EntryArg>,
    /// Element type of activations and weights
    #[arg(long, value_name = "TYPE", env = "GRAPHC_DTYPE", hide_env_values = true, value_parser = ["f32", "f16"])]
    pub dtype: Option<String>,
    /// Element type of weights: what the checkpoint has (native), or one type for all; `--dtype` when missing
    #[arg(long, value_name = "TYPE", value_parser = WEIGHT_TYPES)]
    pub weights: Option<String>,
    /// Switch a fusion rule off; `all` switches every rule off [repeatable]
    #[arg(long = "no-fusion", value_name = "RULE")]
    pub no_fusion: Vec<String>,
}

/// `decode` or `batch=32,seq=512`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryArg {
    /// An entry that the graph file names.
    Named(String),
    /// Dimensions.
    Dims(BTreeMap<String, i64>),
}

impl std::fmt::Display for EntryArg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            EntryArg::Named(name) => f.write_str(name),
            EntryArg::Dims(dims) => {
                let parts: Vec<String> = dims
                    .iter()
                    .map(|(name, size)| format!("{name}={size}"))
                    .collect();
                f.write_str(&parts.join(","))
            }
        }
    }
}

impl GraphArgs {
    /// One request per entry; without `--entry`, one that leaves every size to the graph.
    pub fn requests(&self) -> Result<Vec<Request>, Failure> {
        let mut base = Request {
            set: self
                .set
                .iter()
                .map(|(name, text)| (name.clone(), value(text)))
                .collect(),
            ..Request::default()
        };
        if let Some(model) = &self.model {
            let folder = model_folder(model, false)?;
            let metadata = ModelMetadata::open(&folder).map_err(|error| {
                Failure::Diagnosed(Diagnostics::from(error.diagnostic()), SourceMap::default())
            })?;
            base.file = Some(metadata.file().display().to_string());
            base.params = metadata.values;
        }
        let dtype = self.dtype.as_deref();
        if let Some(dtype) =
            dtype.and_then(|name| DType::ALL.into_iter().find(|dtype| dtype.name() == name))
        {
            base.dtype = Some(dtype);
        }
        match self.weights.as_deref() {
            Some("native") => base.native = self.native()?,
            Some(name) => {
                let dtype = DType::ALL.into_iter().find(|dtype| dtype.name() == name);
                base.dtypes
                    .extend(dtype.map(|dtype| ("weight".into(), dtype)));
            }
            None => {}
        }
        if self.entry.is_empty() {
            return Ok(vec![base]);
        }
        let entries = self.entry.iter().map(|entry| match entry {
            EntryArg::Named(name) => Request {
                entry: Some(name.clone()),
                ..base.clone()
            },
            EntryArg::Dims(dims) => Request {
                dims: dims.clone(),
                ..base.clone()
            },
        });
        Ok(entries.collect())
    }

    /// The types of the model's own tensors; without a model there are none.
    fn native(&self) -> Result<Option<NativeTypes>, Failure> {
        let Some(model) = &self.model else {
            return Ok(None);
        };
        let checkpoint = Checkpoint::open(&model_folder(model, false)?).map_err(|error| {
            Failure::Diagnosed(Diagnostics::from(error.diagnostic()), SourceMap::default())
        })?;
        Ok(Some(NativeTypes::new(move |recipe| {
            checkpoint.native_dtype(recipe)
        })))
    }

    /// The rules to leave out.
    pub fn fusion(&self) -> FuseOptions {
        fusion(&self.no_fusion)
    }
}

/// What `--no-fusion` says: rules by name, or `all`.
pub fn fusion(off: &[String]) -> FuseOptions {
    let (all, named): (Vec<&String>, Vec<&String>) = off.iter().partition(|rule| *rule == "all");
    FuseOptions {
        off: named.into_iter().cloned().collect(),
        none: !all.is_empty(),
        ..FuseOptions::default()
    }
}

/// The folder that `--model` names.
pub fn model_folder(model: &str, download: bool) -> Result<PathBuf, Failure> {
    let Some(name) = model.strip_prefix("hf:") else {
        let folder = PathBuf::from(model);
        return match std::fs::metadata(&folder) {
            Ok(_) => Ok(folder),
            Err(_) if model.is_empty() => Err(Failure::bad_input("`--model` is empty")),
            Err(error) => Err(Failure::bad_input(format!(
                "cannot read the model `{model}`: {error}"
            ))),
        };
    };
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let found = hub::cache_folder(variable).and_then(|cache| match hub::resolve(&cache, name) {
        Err(hub::HubError::Missing { .. }) if download => hub::download(&cache, name),
        other => other,
    });
    found.map_err(|error| Failure::coded(graphc::codes::model::HUB, &error))
}

/// The value behind `--set name=`: an integer, a number, a condition or else a text.
pub fn value(text: &str) -> Value {
    if let Ok(number) = text.parse() {
        return Value::Int(number);
    }
    match (text, text.parse()) {
        ("true", _) => Value::Bool(true),
        ("false", _) => Value::Bool(false),
        (_, Ok(number)) => Value::Float(number),
        _ => Value::Text(text.to_string()),
    }
}

/// `NAME=VALUE`.
pub fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_string(), value.trim().to_string()))
        }
        _ => Err("expected NAME=VALUE, for example layers=2".into()),
    }
}

/// What follows `--entry`.
pub fn entry(text: &str) -> Result<EntryArg, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("expected dimensions such as batch=32,seq=512, or an entry's name".into());
    }
    if !text.contains('=') {
        return Ok(EntryArg::Named(text.to_string()));
    }
    let mut dims = BTreeMap::new();
    for part in text.split(',') {
        let (name, value) = part
            .split_once('=')
            .ok_or_else(|| format!("`{part}` is not NAME=NUMBER, for example seq=512"))?;
        let (name, value) = (name.trim(), value.trim());
        let number: i64 = value
            .parse()
            .map_err(|_| format!("`{value}` is not a number for `{name}`"))?;
        if number < 0 {
            return Err(format!("`{name}` must be at least 0, got {number}"));
        }
        if dims.insert(name.to_string(), number).is_some() {
            return Err(format!("`{name}` is given twice"));
        }
    }
    Ok(EntryArg::Dims(dims))
}

/// A number of bytes: plain, or of a unit.
pub fn bytes(text: &str) -> Result<u64, String> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40), ("B", 0)];
    let (number, shift) = units
        .iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))
        .unwrap_or((text, 0));
    let bytes = number.trim().parse::<f64>().ok();
    match bytes.map(|number| {
        number * f64::from(1u32 << (shift / 2)) * f64::from(1u32 << (shift - shift / 2))
    }) {
        Some(bytes) if bytes >= 1.0 && bytes < 2f64.powi(63) => Ok(bytes as u64),
        _ => Err("expected a number of bytes, for example 2000000000, 800MiB or 1.5GiB".into()),
    }
}

/// A number of milliseconds.
pub fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
        _ => Err("expected a positive number of milliseconds".into()),
    }
}
