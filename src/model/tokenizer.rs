//! Text to token ids, by the model's own rules.
//!
//! In: the files of a Hugging Face folder (`tokenizer.json`, `tokenizer_config.json`, `sentence_bert_config.json`).
//! Out: [`Tokens`] of at most [`Tokenizer::limit`] ids. What always holds: special tokens survive truncation,
//! nothing is padded, every id is a row of the embedding table, and the empty text is the special tokens alone.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::{TruncationDirection, TruncationParams, TruncationStrategy};

/// The largest `tokenizer.json` that is read. The largest ones in use (vocabularies of 262,144) take 33 MB.
pub(super) const MAX_TOKENIZER_BYTES: u64 = 100_000_000;
/// The largest settings file that is read.
const MAX_SETTINGS_BYTES: u64 = 1_000_000;
/// The longest text that is tokenised; one line of input beyond this is a mistake rather than a text.
pub const MAX_TEXT_BYTES: usize = 16 << 20;

/// Why a tokenizer cannot be used. The code of each stands in [`crate::codes::model`].
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file is missing or cannot be read.
    #[error("cannot read {path}: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// A file is larger than any real one.
    #[error("{path} is {bytes} bytes long; more than {limit} are not read")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The cap.
        limit: u64,
    },
    /// A file does not hold what its name promises.
    #[error("{path} is not usable: {reason}")]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The lists of a GGUF file do not make a vocabulary.
    #[error("the tokenizer of the GGUF file cannot be used: {0}")]
    Metadata(String),
    /// The special tokens alone do not fit.
    #[error(
        "a limit of {limit} tokens leaves no room for text beside the tokenizer's {special} special tokens"
    )]
    LimitTooSmall {
        /// Tokens in all.
        limit: usize,
        /// Tokens that are always added.
        special: usize,
    },
    /// A text could not be tokenised.
    #[error("input {input} cannot be tokenised: {reason}")]
    Text {
        /// Number of the input, from 1.
        input: u64,
        /// What is wrong.
        reason: String,
    },
    /// The tokenizer and the checkpoint do not belong together.
    #[error(
        "the tokenizer gives id {id} for input {input}, but the model's embedding table has {rows} rows: \
         the tokenizer and the weights are not of the same model"
    )]
    Vocabulary {
        /// Number of the input, from 1.
        input: u64,
        /// The id.
        id: u32,
        /// Rows of the embedding table.
        rows: u64,
    },
}

impl TokenizerError {
    /// Its diagnostic code.
    pub fn code(&self) -> crate::diag::Code {
        use crate::codes::model as codes;
        match self {
            Self::Unreadable { .. }
            | Self::TooLarge { .. }
            | Self::Broken { .. }
            | Self::Metadata(_) => codes::TOKENIZER_FILE,
            Self::LimitTooSmall { .. } => codes::TOKEN_LIMIT,
            Self::Text { .. } => codes::TEXT,
            Self::Vocabulary { .. } => codes::VOCABULARY,
        }
    }
}

/// One tokenised text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// Its ids, special tokens included.
    pub ids: Vec<u32>,
    /// Whether the text was longer than the limit.
    pub truncated: bool,
}

/// A tokenizer with its model's settings.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    limit: usize,
    rows: u64,
    trim: bool,
    lowercase: bool,
}

/// What the settings files say.
#[derive(Debug, Default, PartialEq, Eq)]
struct Settings {
    max_seq_length: Option<usize>,
    model_max_length: Option<usize>,
    cut_left: bool,
    lowercase: bool,
}

impl Tokenizer {
    /// Reads the tokenizer of the model in `folder`. `positions` is the number of positions the graph can take
    /// (`max_position_embeddings`, less the ones a model reserves) and `rows` the size of its embedding table.
    pub fn load(folder: &Path, positions: u64, rows: u64) -> Result<Self, TokenizerError> {
        let path = folder.join("tokenizer.json");
        let bytes = read_capped(&path, MAX_TOKENIZER_BYTES)?;
        let inner = tokenizers::Tokenizer::from_bytes(&bytes)
            .map_err(|error| broken(&path, error.to_string()))?;
        let settings = Settings::read(folder)?;
        let positions = usize::try_from(positions).unwrap_or(usize::MAX);
        // A folder with modules.json was saved by sentence-transformers, which strips every text first.
        let trim = folder.join("modules.json").is_file();
        Self::new(inner, &settings, positions, rows, trim)
    }

    fn new(
        mut inner: tokenizers::Tokenizer,
        settings: &Settings,
        positions: usize,
        rows: u64,
        trim: bool,
    ) -> Result<Self, TokenizerError> {
        let limit = settings.limit(positions);
        let special = {
            use tokenizers::PostProcessor as _;
            inner
                .get_post_processor()
                .map_or(0, |post| post.added_tokens(false))
        };
        if limit <= special {
            return Err(TokenizerError::LimitTooSmall { limit, special });
        }
        let direction = if settings.cut_left {
            TruncationDirection::Left
        } else {
            TruncationDirection::Right
        };
        inner
            .with_truncation(Some(TruncationParams {
                direction,
                max_length: limit,
                strategy: TruncationStrategy::LongestFirst,
                stride: 0,
            }))
            .map_err(|error| TokenizerError::Text {
                input: 0,
                reason: error.to_string(),
            })?;
        inner.with_padding(None);
        Ok(Self {
            inner,
            limit,
            rows,
            trim,
            lowercase: settings.lowercase,
        })
    }

    /// The most tokens a text may have, special ones included.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Tokenises texts on all cores; the first one is input number `first` (from 1) of the stream.
    pub fn encode(&self, texts: &[String], first: u64) -> Result<Vec<Tokens>, TokenizerError> {
        for (text, input) in texts.iter().zip(first..) {
            if text.len() > MAX_TEXT_BYTES {
                let reason = format!(
                    "it is {} bytes long, and {MAX_TEXT_BYTES} are the most",
                    text.len()
                );
                return Err(TokenizerError::Text { input, reason });
            }
        }
        let prepared: Vec<std::borrow::Cow<'_, str>> =
            texts.iter().map(|text| self.prepare(text)).collect();
        let encodings = self
            .inner
            .encode_batch_fast(prepared, true)
            .map_err(|error| self.name_failing(texts, first, &error.to_string()))?;
        encodings
            .into_iter()
            .zip(first..)
            .map(|(encoding, input)| {
                let ids = encoding.get_ids().to_vec();
                self.check(&ids, input)?;
                Ok(Tokens {
                    truncated: !encoding.get_overflowing().is_empty(),
                    ids,
                })
            })
            .collect()
    }

    fn prepare<'t>(&self, text: &'t str) -> std::borrow::Cow<'t, str> {
        let text = if self.trim { text.trim() } else { text };
        if self.lowercase {
            text.to_lowercase().into()
        } else {
            text.into()
        }
    }

    /// A batch fails as a whole; this finds the input that did.
    fn name_failing(&self, texts: &[String], first: u64, reason: &str) -> TokenizerError {
        let culprit = texts
            .iter()
            .zip(first..)
            .find(|(text, _)| self.inner.encode_fast(self.prepare(text), true).is_err());
        TokenizerError::Text {
            input: culprit.map_or(first, |(_, input)| input),
            reason: reason.into(),
        }
    }

    /// Ids index the embedding table on the device, where nothing checks them.
    fn check(&self, ids: &[u32], input: u64) -> Result<(), TokenizerError> {
        if ids.is_empty() {
            let reason =
                "the tokenizer gives no token at all for it, so there is nothing to pool".into();
            return Err(TokenizerError::Text { input, reason });
        }
        match ids.iter().find(|id| u64::from(**id) >= self.rows) {
            Some(id) => Err(TokenizerError::Vocabulary {
                input,
                id: *id,
                rows: self.rows,
            }),
            None => Ok(()),
        }
    }
}

impl Settings {
    fn read(folder: &Path) -> Result<Self, TokenizerError> {
        let mut settings = Self::default();
        if let Some((path, value)) = read_settings(folder, "tokenizer_config.json")? {
            settings.model_max_length = length(&path, &value, "model_max_length")?;
            settings.cut_left =
                value.get("truncation_side").and_then(Value::as_str) == Some("left");
        }
        if let Some((path, value)) = read_settings(folder, "sentence_bert_config.json")? {
            settings.max_seq_length = length(&path, &value, "max_seq_length")?;
            settings.lowercase = value.get("do_lower_case").and_then(Value::as_bool) == Some(true);
        }
        Ok(settings)
    }

    /// sentence-transformers' own limit, else the tokenizer's, and never more than the model has positions.
    fn limit(&self, positions: usize) -> usize {
        self.max_seq_length
            .or(self.model_max_length)
            .unwrap_or(positions)
            .min(positions)
    }
}

/// A length setting. "No limit" is written as null, or as a number like 1e30 that no integer type holds.
fn length(path: &Path, settings: &Value, key: &str) -> Result<Option<usize>, TokenizerError> {
    match settings.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => match (number.as_u64(), number.as_f64()) {
            (Some(value), _) if value > 0 => Ok(usize::try_from(value).ok()),
            (None, Some(value)) if value >= 1e9 => Ok(None),
            _ => Err(broken(
                path,
                format!("`{key}` is {number}, not a number of tokens"),
            )),
        },
        Some(other) => Err(broken(
            path,
            format!("`{key}` is {other}, not a number of tokens"),
        )),
    }
}

/// An optional settings file: `None` if it is not there.
pub(super) fn read_settings(
    folder: &Path,
    name: &str,
) -> Result<Option<(PathBuf, Value)>, TokenizerError> {
    let path = folder.join(name);
    if !path.exists() {
        return Ok(None);
    }
    let bytes = read_capped(&path, MAX_SETTINGS_BYTES)?;
    let value: Value =
        serde_json::from_slice(&bytes).map_err(|error| broken(&path, error.to_string()))?;
    if !value.is_object() {
        return Err(broken(&path, "it is not a JSON object".into()));
    }
    Ok(Some((path, value)))
}

pub(super) fn read_capped(path: &Path, limit: u64) -> Result<Vec<u8>, TokenizerError> {
    let unreadable = |error: std::io::Error| TokenizerError::Unreadable {
        path: path.into(),
        reason: match error.kind() {
            std::io::ErrorKind::NotFound => {
                "it is missing\nhelp: a model's folder has config.json, tokenizer.json and \
                 model.safetensors"
                    .into()
            }
            _ => error.to_string(),
        },
    };
    let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
    if bytes > limit {
        return Err(TokenizerError::TooLarge {
            path: path.into(),
            bytes,
            limit,
        });
    }
    std::fs::read(path).map_err(unreadable)
}

pub(super) fn broken(path: &Path, reason: String) -> TokenizerError {
    TokenizerError::Broken {
        path: path.into(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    /// A word-level tokenizer of eight words that wraps texts as BERT does.
    const TINY: &str = r#"{
        "version": "1.0", "truncation": null, "padding": {"strategy": {"Fixed": 128}, "direction": "Right",
            "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]}, "decoder": null,
        "model": {"type": "WordLevel", "unk_token": "[UNK]",
            "vocab": {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "a": 4, "b": 5, "c": 6, "far": 99}}
    }"#;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn encode(tokenizer: &Tokenizer, text: &str) -> Tokens {
        tokenizer.encode(&[text.to_string()], 1).unwrap().remove(0)
    }

    #[test]
    fn limit_comes_from_sentence_transformers_then_tokenizer_then_positions() {
        let config = ("tokenizer_config.json", r#"{"model_max_length": 512}"#);
        let unlimited = ("tokenizer_config.json", r#"{"model_max_length": 1e30}"#);
        let sentence = ("sentence_bert_config.json", r#"{"max_seq_length": 256}"#);
        let limit = |files: &[(&str, &str)], positions| {
            Settings::read(folder(files).path())
                .unwrap()
                .limit(positions)
        };
        assert_eq!(limit(&[config, sentence], 512), 256);
        assert_eq!(limit(&[config], 1024), 512);
        assert_eq!(limit(&[config], 128), 128);
        assert_eq!(limit(&[unlimited], 8192), 8192);
        assert_eq!(limit(&[], 77), 77);
    }

    #[test]
    fn truncation_keeps_special_tokens_and_is_reported() {
        let dir = folder(&[
            ("tokenizer.json", TINY),
            ("sentence_bert_config.json", r#"{"max_seq_length": 4}"#),
        ]);
        let tokenizer = Tokenizer::load(dir.path(), 512, 8).unwrap();
        assert_eq!(
            encode(&tokenizer, "a b"),
            Tokens {
                ids: vec![1, 4, 5, 2],
                truncated: false
            }
        );
        assert_eq!(
            encode(&tokenizer, "a b c"),
            Tokens {
                ids: vec![1, 4, 5, 2],
                truncated: true
            }
        );
        assert_eq!(
            encode(&tokenizer, ""),
            Tokens {
                ids: vec![1, 2],
                truncated: false
            }
        );
    }

    #[test]
    fn truncation_from_the_left() {
        let side = (
            "tokenizer_config.json",
            r#"{"model_max_length": 4, "truncation_side": "left"}"#,
        );
        let dir = folder(&[("tokenizer.json", TINY), side]);
        let tokenizer = Tokenizer::load(dir.path(), 512, 8).unwrap();
        assert_eq!(encode(&tokenizer, "a b c").ids, [1, 5, 6, 2]);
    }

    #[test]
    fn sentence_transformers_settings_apply() {
        let lower = (
            "sentence_bert_config.json",
            r#"{"max_seq_length": 8, "do_lower_case": true}"#,
        );
        let dir = folder(&[("tokenizer.json", TINY), ("modules.json", "[]"), lower]);
        let tokenizer = Tokenizer::load(dir.path(), 512, 8).unwrap();
        assert_eq!(encode(&tokenizer, "  A B\t").ids, [1, 4, 5, 2]);
    }

    #[test]
    fn ids_outside_the_table_are_refused_by_input() {
        let dir = folder(&[("tokenizer.json", TINY)]);
        let tokenizer = Tokenizer::load(dir.path(), 512, 8).unwrap();
        let error = tokenizer
            .encode(&["a".into(), "far".into()], 10)
            .unwrap_err();
        assert!(
            matches!(
                error,
                TokenizerError::Vocabulary {
                    input: 11,
                    id: 99,
                    rows: 8
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn broken_files_are_named() {
        let long = "x".repeat(MAX_SETTINGS_BYTES as usize + 1);
        let cases: [(&[(&str, &str)], &str); 6] = [
            (&[], "tokenizer.json"),
            (&[("tokenizer.json", "{}")], "tokenizer.json"),
            (&[("tokenizer.json", &TINY[..200])], "tokenizer.json"),
            (
                &[("tokenizer.json", TINY), ("tokenizer_config.json", "[]")],
                "tokenizer_config.json",
            ),
            (
                &[("tokenizer.json", TINY), ("tokenizer_config.json", &long)],
                "tokenizer_config.json",
            ),
            (
                &[
                    ("tokenizer.json", TINY),
                    ("sentence_bert_config.json", r#"{"max_seq_length": -3}"#),
                ],
                "sentence_bert_config.json",
            ),
        ];
        for (files, name) in cases {
            let error = Tokenizer::load(folder(files).path(), 512, 8)
                .err()
                .expect("must fail");
            assert_eq!(error.code(), crate::codes::model::TOKENIZER_FILE);
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn a_limit_without_room_is_an_error() {
        let dir = folder(&[
            ("tokenizer.json", TINY),
            ("sentence_bert_config.json", r#"{"max_seq_length": 2}"#),
        ]);
        let error = Tokenizer::load(dir.path(), 512, 8)
            .err()
            .expect("must fail");
        assert!(
            matches!(
                error,
                TokenizerError::LimitTooSmall {
                    limit: 2,
                    special: 2
                }
            ),
            "{error}"
        );
    }
}
