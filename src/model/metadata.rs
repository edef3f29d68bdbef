//! What a model's files say about the model: numbers for the graph's params.
//!
//! In: a GGUF file (see [`super::gguf`]); or a folder with `config.json`, and the files of sentence-transformers if
//! they are there (`modules.json`, `sentence_bert_config.json`, the configuration of the pooling module). Out: one
//! flat map from dotted key to value ([`ModelMetadata::values`]), where a graph's `from: ["num_hidden_layers"]`
//! looks, and the graph file that runs the architecture ([`find_graph`]).
//!
//! Beside the keys of config.json there are:
//! - `pooling.mode`: `mean`, `cls`, `last` or `max`, if the folder configures a pooling;
//! - `normalize`: whether `modules.json` ends in a normalisation, if there is a `modules.json`;
//! - `max_seq_length`: the token limit of sentence-transformers, if given;
//! - `max_positions`: the positions that the model has, whatever its configuration calls them;
//! - `rope_factors`: whether the checkpoint has the tensor `rope_freqs.weight`, read or computed from the scaling of
//!   Llama 3 in config.json.
//!
//! Nothing is guessed: a key that no file gives is absent, and the graph's default or `--set` decides.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::flatten::flatten;
use super::gguf::{self, Vocabulary};
use crate::codes::metadata as codes;
use crate::diag::{Code, Diagnostic};
use crate::expr::Value;
use crate::span::{SourceMap, Sources};
use crate::text;
use crate::weights::{Gguf, WeightError, gguf_file, read_bounded};

/// Longest configuration file that is read. Models with many labels have some hundred KiB.
const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// Names of one activation in different configurations, and ours.
const ACTIVATIONS: &[(&str, &str)] = &[
    ("gelu_new", "gelu_tanh"),
    ("gelu_fast", "gelu_tanh"),
    ("gelu_pytorch_tanh", "gelu_tanh"),
    ("gelu_python", "gelu"),
    ("swish", "silu"),
];
/// Keys whose value is the name of an activation.
const ACTIVATION_KEYS: &[&str] = &["hidden_act", "hidden_activation", "activation_function"];
/// Keys for the number of positions, best first.
const POSITION_KEYS: &[&str] = &[
    "max_position_embeddings",
    "n_positions",
    "max_trained_positions",
];
/// Switches of a pooling configuration, and the pooling that they mean where the kernel has it.
const POOLINGS: &[(&str, Option<&str>)] = &[
    ("pooling_mode_cls_token", Some("cls")),
    ("pooling_mode_mean_tokens", Some("mean")),
    ("pooling_mode_max_tokens", Some("max")),
    ("pooling_mode_lasttoken", Some("last")),
    ("pooling_mode_mean_sqrt_len_tokens", None),
    ("pooling_mode_weightedmean_tokens", None),
];

/// Why a model's folder cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// A file is missing, cannot be read or is broken.
    #[error("{path}: {reason}", path = path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No graph accepts the architecture.
    #[error("no graph runs models of the type `{model_type}`; there are graphs for {supported}")]
    Architecture {
        /// What config.json says.
        model_type: String,
        /// Everything that some graph accepts.
        supported: String,
    },
    /// `modules.json` lists what graphs do not do.
    #[error("{path}: {reason}", path = path.display())]
    Modules {
        /// The file.
        path: PathBuf,
        /// The module and why not.
        reason: String,
    },
    /// A GGUF file cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] WeightError),
    /// The pooling is not one that the kernel has.
    #[error("{path}: {reason}", path = path.display())]
    Pooling {
        /// The file.
        path: PathBuf,
        /// What it asks for and what there is.
        reason: String,
    },
}

impl MetadataError {
    /// Its stable code, for `graphc explain`.
    pub fn code(&self) -> Code {
        match self {
            MetadataError::Config { .. } => codes::CONFIG,
            MetadataError::Architecture { .. } => codes::ARCHITECTURE,
            MetadataError::Modules { .. } => codes::MODULES,
            MetadataError::Pooling { .. } => codes::POOLING,
            MetadataError::Checkpoint(error) => error.code(),
        }
    }

    /// The same as a diagnostic, with advice where there is some.
    pub fn diagnostic(&self) -> Diagnostic {
        let diagnostic = Diagnostic::error(self.code(), self.to_string());
        match self {
            MetadataError::Checkpoint(error) => error.diagnostic(),
            MetadataError::Architecture { .. } => {
                diagnostic.help("name a graph file yourself, or write one that accepts this type")
            }
            MetadataError::Pooling { .. } => diagnostic.help(
                "correct that file so that exactly one of them is true, if you know which is right",
            ),
            _ => diagnostic,
        }
    }
}

/// What a model's files say.
#[derive(Clone, Debug)]
pub struct ModelMetadata {
    /// The folder with config.json, the tokenizer and the weights: the given one, or the one in it that
    /// `modules.json` names for the transformer. For a GGUF file, the folder that it lies in.
    pub folder: PathBuf,
    /// What [`crate::weights::Checkpoint::open`] opens: the folder, or the GGUF file.
    pub checkpoint: PathBuf,
    /// Dotted key to value.
    pub values: BTreeMap<String, Value>,
    gguf: Option<Arc<Gguf>>,
}

impl ModelMetadata {
    /// Reads the model that `path` names: a GGUF file, a folder with one and no safetensors, or a folder in the
    /// Hugging Face layout.
    pub fn open(path: &Path) -> Result<Self, MetadataError> {
        match gguf_file(path)? {
            Some(file) => Self::of_gguf(file),
            None => Self::of_folder(path),
        }
    }

    fn of_gguf(path: PathBuf) -> Result<Self, MetadataError> {
        let file = Gguf::open(&path)?;
        let mut values = gguf::values(&file).map_err(|reason| MetadataError::Config {
            path: path.clone(),
            reason,
        })?;
        let factors = file.shape("rope_freqs.weight").is_some();
        values.insert("rope_factors".into(), Value::Bool(factors));
        Ok(Self {
            folder: path.parent().map(Path::to_path_buf).unwrap_or_default(),
            checkpoint: path,
            values,
            gguf: Some(Arc::new(file)),
        })
    }

    /// The tokenizer of a GGUF file; `None` for a folder.
    pub fn vocabulary(&self) -> Result<Option<Vocabulary<'_>>, MetadataError> {
        let read = |file| {
            Vocabulary::of(file).map_err(|reason| MetadataError::Config {
                path: self.checkpoint.clone(),
                reason,
            })
        };
        self.gguf.as_deref().map(read).transpose()
    }

    fn of_folder(folder: &Path) -> Result<Self, MetadataError> {
        let modules = Modules::read(folder)?;
        let inner = match &modules {
            Some(modules) => folder.join(&modules.transformer),
            None => folder.to_path_buf(),
        };
        let config = inner.join("config.json");
        if !config.exists() {
            let reason = "it is missing; a model folder has config.json, tokenizer.json and model.safetensors, or one .gguf file";
            return Err(MetadataError::Config {
                path: config,
                reason: reason.into(),
            });
        }
        let mut values = read(&config)?;
        for key in ACTIVATION_KEYS {
            if let Some(Value::Text(name)) = values.get_mut(*key)
                && let Some((_, ours)) = ACTIVATIONS.iter().find(|(theirs, _)| theirs == name)
            {
                *name = (*ours).to_string();
            }
        }
        let positions = POSITION_KEYS
            .iter()
            .find_map(|key| values.get(*key))
            .cloned();
        if let Some(positions) = positions {
            values.insert("max_positions".into(), positions);
        }
        let pooling = match &modules {
            Some(modules) => modules.pooling.clone(),
            None => Some(folder.join("1_Pooling")),
        };
        let pooling = pooling.map(|pooling| pooling.join("config.json"));
        if let Some(path) = pooling.filter(|path| modules.is_some() || path.exists()) {
            let mode = pooling_mode(&path, &read(&path)?)?;
            values.insert("pooling.mode".into(), Value::Text(mode.into()));
        }
        if let Some(modules) = &modules {
            values.insert("normalize".into(), Value::Bool(modules.normalize));
        }
        let limits = [
            inner.join("sentence_bert_config.json"),
            folder.join("sentence_bert_config.json"),
        ];
        if let Some(path) = limits.iter().find(|path| path.exists())
            && let Some(limit) = read(path)?.remove("max_seq_length")
        {
            values.insert("max_seq_length".into(), limit);
        }
        let llama3 = ["rope_scaling", "rope_parameters"]
            .iter()
            .flat_map(|part| [format!("{part}.rope_type"), format!("{part}.type")])
            .any(|key| values.get(&key).and_then(Value::as_text) == Some("llama3"));
        values.insert("rope_factors".into(), Value::Bool(llama3));
        Ok(Self {
            checkpoint: inner.clone(),
            folder: inner,
            values,
            gguf: None,
        })
    }

    /// The file that says what the model is: the GGUF file, or config.json.
    pub fn file(&self) -> PathBuf {
        match self.gguf {
            Some(_) => self.checkpoint.clone(),
            None => self.folder.join("config.json"),
        }
    }

    /// The number under a key, which must be above 0; `None` if no file has the key.
    pub fn positive(&self, key: &str) -> Result<Option<u64>, MetadataError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Int(number)) if *number > 0 => Ok(Some(number.unsigned_abs())),
            Some(other) => Err(self.config_error(format!(
                "`{}` is {other} and not a number above 0",
                self.whole(key)
            ))),
        }
    }

    /// The error for a key that must be there.
    pub fn missing(&self, key: &str) -> MetadataError {
        self.config_error(format!("it has no `{key}`"))
    }

    /// A key as the model's file has it.
    fn whole(&self, key: &str) -> String {
        let there = |key: &&str| self.values.contains_key(*key);
        let key = match key {
            "max_positions" => {
                let mut keys = POSITION_KEYS.iter().copied().chain([gguf::POSITIONS]);
                keys.find(there).unwrap_or(key)
            }
            _ => key,
        };
        let architecture = self.values.get("model_type").and_then(Value::as_text);
        let long = architecture.map(|name| format!("{name}.{key}"));
        long.filter(|long| there(&long.as_str()))
            .unwrap_or_else(|| key.into())
    }

    /// `model_type` of config.json.
    pub fn model_type(&self) -> Result<&str, MetadataError> {
        match self.values.get("model_type") {
            Some(Value::Text(name)) => Ok(name),
            Some(other) => {
                Err(self.config_error(format!("`model_type` is {other} and not a text")))
            }
            None => Err(self
                .config_error("it has no `model_type`, so no graph can be chosen for it".into())),
        }
    }

    fn config_error(&self, reason: String) -> MetadataError {
        MetadataError::Config {
            path: self.file(),
            reason,
        }
    }
}

/// The graph file among those in the folder `graphs` that accepts `model_type`. A file that does not load is no
/// reason to refuse another one; it is passed over here and reported when somebody compiles it.
pub fn find_graph(
    model_type: &str,
    sources: &dyn Sources,
    graphs: &str,
) -> Result<String, MetadataError> {
    let files = sources
        .list(graphs)
        .map_err(|error| MetadataError::Config {
            path: PathBuf::from(graphs),
            reason: error.reason,
        })?;
    let mut supported = Vec::new();
    for path in files {
        let Ok(text) = sources.read(&path) else {
            continue;
        };
        let mut map = SourceMap::default();
        let file = map.add(path.clone(), text);
        if let Ok(text::ast::File::Graph(graph)) = text::parse(file, &map) {
            if graph.accepts.iter().any(|accepted| accepted == model_type) {
                return Ok(path);
            }
            supported.extend(graph.accepts);
        }
    }
    supported.sort();
    supported.dedup();
    let supported = match supported.as_slice() {
        [] => format!("none, as no graph in {graphs} loads"),
        names => names.join(", "),
    };
    Err(MetadataError::Architecture {
        model_type: model_type.into(),
        supported,
    })
}

fn read(path: &Path) -> Result<BTreeMap<String, Value>, MetadataError> {
    let bytes = bytes(path)?;
    flatten(&bytes).map_err(|error| MetadataError::Config {
        path: path.to_path_buf(),
        reason: error.to_string(),
    })
}

fn bytes(path: &Path) -> Result<Vec<u8>, MetadataError> {
    read_bounded(path, MAX_CONFIG_BYTES).map_err(|error| MetadataError::Config {
        path: path.to_path_buf(),
        reason: match error {
            crate::weights::WeightError::File { reason, .. } => reason,
            other => other.to_string(),
        },
    })
}

/// The one pooling that a configuration switches on.
fn pooling_mode(
    path: &Path,
    config: &BTreeMap<String, Value>,
) -> Result<&'static str, MetadataError> {
    let fault = |reason: String| MetadataError::Pooling {
        path: path.to_path_buf(),
        reason,
    };
    let mut on = Vec::new();
    for (key, value) in config
        .iter()
        .filter(|(key, _)| key.starts_with("pooling_mode"))
    {
        match (key.as_str(), value) {
            // The form of newer versions: the name itself.
            ("pooling_mode", Value::Text(name)) => {
                let known = POOLINGS
                    .iter()
                    .find_map(|(_, mode)| mode.filter(|mode| mode == name));
                on.push((
                    name.as_str(),
                    known.or((name == "lasttoken").then_some("last")),
                ));
            }
            (_, Value::Bool(false)) => {}
            (key, Value::Bool(true)) => {
                let known = POOLINGS.iter().find(|(switch, _)| *switch == key);
                on.push((key, known.and_then(|(_, mode)| *mode)));
            }
            (key, other) => return Err(fault(format!("`{key}` is {other} and not true or false"))),
        }
    }
    let names = || {
        on.iter()
            .map(|(key, _)| format!("`{key}`"))
            .collect::<Vec<_>>()
            .join(" and ")
    };
    match on.as_slice() {
        [(_, Some(mode))] => Ok(mode),
        [(key, None)] => Err(fault(format!(
            "the pooling `{key}` is not supported; there are mean, cls, last and max"
        ))),
        [] => Err(fault(
            "it switches no pooling on; one of mean, cls, last and max is needed".into(),
        )),
        _ => Err(fault(format!(
            "it switches on {} at once; only one can be used",
            names()
        ))),
    }
}

/// What `modules.json` asks for.
struct Modules {
    /// The transformer's folder, relative; often empty.
    transformer: PathBuf,
    /// The pooling module's folder.
    pooling: Option<PathBuf>,
    normalize: bool,
}

#[derive(serde::Deserialize)]
struct RawModule {
    idx: u64,
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

impl Modules {
    /// Most modules of a model.
    const MAX: usize = 64;

    fn read(folder: &Path) -> Result<Option<Self>, MetadataError> {
        let path = folder.join("modules.json");
        if !path.exists() {
            return Ok(None);
        }
        let fault = |reason: String| MetadataError::Modules {
            path: path.clone(),
            reason,
        };
        let mut raw: Vec<RawModule> =
            serde_json::from_slice(&bytes(&path)?).map_err(|error| fault(error.to_string()))?;
        if raw.len() > Self::MAX {
            return Err(fault(format!(
                "it lists {} modules, at most {} are read",
                raw.len(),
                Self::MAX
            )));
        }
        raw.sort_by_key(|module| module.idx);
        let mut transformer = None;
        let mut pooling = None;
        let mut normalize = false;
        for module in raw {
            let kind = module.kind.rsplit('.').next().unwrap_or_default();
            let inside = Path::new(&module.path);
            let escapes = !inside
                .components()
                .all(|part| matches!(part, Component::Normal(_)));
            if escapes || module.path.contains('\\') {
                return Err(fault(format!(
                    "module {} leads out of the folder: `{}`",
                    module.idx, module.path
                )));
            }
            match (kind, &transformer, &pooling) {
                ("Transformer", None, None) => transformer = Some(inside.to_path_buf()),
                ("Pooling", Some(_), None) if !normalize => pooling = Some(folder.join(inside)),
                ("Normalize", Some(_), Some(_)) => normalize = true,
                // Does nothing outside training.
                ("Dropout", Some(_), _) => {}
                ("Transformer" | "Pooling" | "Normalize", ..) => {
                    return Err(fault(format!(
                        "module {} (`{}`) stands where graphs do not have one; they run a Transformer, a Pooling \
                         and a Normalize, in this order",
                        module.idx, module.kind
                    )));
                }
                _ => {
                    return Err(fault(format!(
                        "module {} is `{}`, which no graph runs; without it every embedding would be wrong",
                        module.idx, module.kind
                    )));
                }
            }
        }
        match transformer {
            Some(transformer) => Ok(Some(Self {
                transformer,
                pooling,
                normalize,
            })),
            None => Err(fault("it lists no Transformer".into())),
        }
    }
}
