//! What a GGUF file says about its model, in the words that graphs and tokenizers ask in.
//!
//! In: an opened file. Out: values for a graph's params, and the arrays of the tokenizer
//! ([`Vocabulary`]) as views of the file.
//!
//! Keys of the architecture stand twice, as they are (`llama.block_count`) and without the architecture
//! (`block_count`), so that a graph for several architectures asks once. Lists of numbers become `key.0`, `key.1`;
//! long ones and lists of texts are left to [`Vocabulary`].

use std::collections::BTreeMap;

use crate::expr::Value;
use crate::weights::{Gguf, GgufList, GgufValue};

/// Longest list that becomes params; those of per-layer numbers are far shorter.
const MAX_LIST: usize = 1024;
/// Longest text that becomes a param; a chat template is not one.
const MAX_TEXT: usize = 1024;
/// The matrix whose rows are the vocabulary.
const EMBEDDING: &str = "token_embd.weight";
/// The key for the number of positions.
pub(super) const POSITIONS: &str = "context_length";

/// The values of a file by key, or what in them contradicts its tensors.
pub(super) fn values(file: &Gguf) -> Result<BTreeMap<String, Value>, String> {
    let mut values = BTreeMap::new();
    for (key, value) in file.values() {
        match value {
            GgufValue::List(list) if list.len() <= MAX_LIST => {
                for (index, item) in list.iter().enumerate() {
                    if !matches!(item, GgufValue::Text(_))
                        && let Some(item) = param(item)
                    {
                        values.insert(format!("{key}.{index}"), item);
                    }
                }
            }
            other => {
                if let Some(value) = param(other) {
                    values.insert(key.to_string(), value);
                }
            }
        }
    }
    let architecture = match file.get("general.architecture") {
        Some(GgufValue::Text(name)) => name,
        Some(_) => return Err("`general.architecture` is not a text".into()),
        None => {
            return Err(
                "it has no `general.architecture`, so no graph can be chosen for it".into(),
            );
        }
    };
    let prefix = format!("{architecture}.");
    let own: Vec<_> = values
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(&prefix)?.to_string(), value.clone())))
        .collect();
    for (key, value) in own {
        values.entry(key).or_insert(value);
    }
    values.insert("model_type".into(), Value::Text(architecture.into()));
    if let Some(context) = values.get(POSITIONS).cloned() {
        values.insert("max_positions".into(), context);
    }
    add_vocabulary_size(file, &mut values)?;
    check_layers(file, &values)?;
    let tied = file.shape("output.weight").is_none();
    values.insert("tie_word_embeddings".into(), Value::Bool(tied));
    Ok(values)
}

fn param(value: GgufValue<'_>) -> Option<Value> {
    match value {
        GgufValue::Int(value) => Some(Value::Int(value)),
        GgufValue::Float(value) => Some(Value::Float(value)),
        GgufValue::Bool(value) => Some(Value::Bool(value)),
        GgufValue::Text(text) if text.len() <= MAX_TEXT => Some(Value::Text(text.into())),
        GgufValue::Text(_) | GgufValue::List(_) => None,
    }
}

/// `vocab_size` is the number of rows that the embedding has, if the file does not say another.
fn add_vocabulary_size(file: &Gguf, values: &mut BTreeMap<String, Value>) -> Result<(), String> {
    let Some(rows) = file
        .shape(EMBEDDING)
        .and_then(|shape| shape.first().copied())
    else {
        return Ok(());
    };
    let rows = i64::try_from(rows).unwrap_or(i64::MAX);
    match values.get("vocab_size").and_then(Value::as_int) {
        Some(said) if said != rows => Err(format!(
            "its metadata has a vocabulary of {said} tokens, but `{EMBEDDING}` has {rows} rows"
        )),
        Some(_) => Ok(()),
        None => {
            values.insert("vocab_size".into(), Value::Int(rows));
            Ok(())
        }
    }
}

/// The layers that have tensors are those that the metadata counts.
fn check_layers(file: &Gguf, values: &BTreeMap<String, Value>) -> Result<(), String> {
    let Some(said) = values.get("block_count").and_then(Value::as_int) else {
        return Ok(());
    };
    let layer = |name: &str| {
        name.strip_prefix("blk.")?
            .split_once('.')?
            .0
            .parse::<i64>()
            .ok()
    };
    match file.tensors().filter_map(layer).max() {
        Some(last) if last < said.saturating_sub(1) => Err(format!(
            "its metadata counts {said} layers, but its last tensors are those of layer {last} (`blk.{last}.*`)"
        )),
        Some(last) if last >= said => Err(format!(
            "its metadata counts {said} layers, but its last tensors are those of layer {last} (`blk.{last}.*`, from 0)"
        )),
        _ => Ok(()),
    }
}

/// The tokenizer of a GGUF file. Texts are views of the file.
#[derive(Clone, Debug)]
pub struct Vocabulary<'a> {
    /// `llama` for SentencePiece's merging by score, `gpt2` for byte-level BPE with merges, or another kind.
    pub model: &'a str,
    /// The name of the rule that cuts text into words before BPE.
    pub pre: Option<&'a str>,
    /// The text of every token; its place is its id.
    pub tokens: Vec<&'a str>,
    /// A score for every token.
    pub scores: Option<Vec<f32>>,
    /// The kind of every token: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub kinds: Option<Vec<i32>>,
    /// Pairs that BPE joins, best first, each two texts with a space between.
    pub merges: Vec<&'a str>,
    /// Begins a sequence.
    pub bos: Option<u32>,
    /// Ends a sequence.
    pub eos: Option<u32>,
    /// Ends a turn of a chat.
    pub eot: Option<u32>,
    /// Stands for what has no token.
    pub unk: Option<u32>,
    /// Fills up.
    pub pad: Option<u32>,
    /// Whether a prompt begins with `bos`.
    pub add_bos: Option<bool>,
    /// Whether a prompt ends with `eos`.
    pub add_eos: Option<bool>,
    /// Whether a prompt gets a space in front.
    pub add_space_prefix: Option<bool>,
    /// The Jinja template of a chat.
    pub chat_template: Option<&'a str>,
}

impl<'a> Vocabulary<'a> {
    /// The tokenizer in `file`, or which key is missing or contradicts another.
    pub(super) fn of(file: &'a Gguf) -> Result<Self, String> {
        let keys = Keys(file);
        let tokens: Vec<&str> = keys.list("tokens")?.ok_or_else(|| keys.missing("tokens"))?;
        let model: &str = keys.get("model")?.ok_or_else(|| keys.missing("model"))?;
        let (scores, kinds) = (keys.list::<f32>("scores")?, keys.list::<i32>("token_type")?);
        if kinds.is_none() {
            return Err(keys.needed("token_type", "control tokens could not be told from text"));
        }
        let merges: Option<Vec<&str>> = keys.list("merges")?;
        if model == "gpt2" && merges.as_ref().is_none_or(Vec::is_empty) {
            return Err(keys.needed(
                "merges",
                "byte-pair encoding would cut every text into bytes",
            ));
        }
        let lengths = [
            ("scores", scores.as_ref().map(Vec::len)),
            ("token_type", kinds.as_ref().map(Vec::len)),
        ];
        for (key, length) in lengths {
            if let Some(length) = length.filter(|length| *length != tokens.len()) {
                return Err(format!(
                    "`tokenizer.ggml.{key}` has {length} items, but `tokenizer.ggml.tokens` has {}",
                    tokens.len()
                ));
            }
        }
        let id = |key: &str| keys.id(key, tokens.len());
        Ok(Self {
            model,
            pre: keys.get("pre")?,
            merges: merges.unwrap_or_default(),
            bos: id("bos_token_id")?,
            eos: id("eos_token_id")?,
            eot: id("eot_token_id")?,
            unk: id("unknown_token_id")?,
            pad: id("padding_token_id")?,
            add_bos: keys.get("add_bos_token")?,
            add_eos: keys.get("add_eos_token")?,
            add_space_prefix: keys.get("add_space_prefix")?,
            chat_template: match file.get("tokenizer.chat_template") {
                None => None,
                Some(value) => Some(
                    value
                        .as_text()
                        .ok_or("`tokenizer.chat_template` is not a text")?,
                ),
            },
            tokens,
            scores,
            kinds,
        })
    }
}

/// The keys `tokenizer.ggml.*`.
struct Keys<'a>(&'a Gguf);

impl<'a> Keys<'a> {
    fn missing(&self, key: &str) -> String {
        format!("it has no `tokenizer.ggml.{key}`, so it has no tokenizer")
    }

    fn needed(&self, key: &str, why: &str) -> String {
        format!("it has no `tokenizer.ggml.{key}`, without which {why}")
    }

    fn get<T: Typed<'a>>(&self, key: &str) -> Result<Option<T>, String> {
        let key = format!("tokenizer.ggml.{key}");
        match self.0.get(&key) {
            None => Ok(None),
            Some(value) => match T::of(value) {
                Some(value) => Ok(Some(value)),
                None => Err(format!("`{key}` is not {}", T::WHAT)),
            },
        }
    }

    fn list<T: Typed<'a>>(&self, key: &str) -> Result<Option<Vec<T>>, String> {
        let Some(list) = self.get::<GgufList<'a>>(key)? else {
            return Ok(None);
        };
        let items: Option<Vec<T>> = list.iter().map(T::of).collect();
        items
            .map(Some)
            .ok_or_else(|| format!("an item of `tokenizer.ggml.{key}` is not {}", T::WHAT))
    }

    fn id(&self, key: &str, tokens: usize) -> Result<Option<u32>, String> {
        let Some(id) = self.get::<i64>(key)? else {
            return Ok(None);
        };
        match u32::try_from(id).ok().filter(|id| (*id as usize) < tokens) {
            Some(id) => Ok(Some(id)),
            // Some writers put -1 where there is none.
            None if id < 0 || id == i64::from(u32::MAX) => Ok(None),
            None => Err(format!(
                "`tokenizer.ggml.{key}` is {id}, but there are {tokens} tokens"
            )),
        }
    }
}

/// A Rust type that some values of the metadata have.
trait Typed<'a>: Sized {
    const WHAT: &'static str;
    fn of(value: GgufValue<'a>) -> Option<Self>;
}

impl<'a> Typed<'a> for &'a str {
    const WHAT: &'static str = "a text";
    fn of(value: GgufValue<'a>) -> Option<Self> {
        value.as_text()
    }
}

impl Typed<'_> for bool {
    const WHAT: &'static str = "a truth value";
    fn of(value: GgufValue<'_>) -> Option<Self> {
        value.as_bool()
    }
}

impl Typed<'_> for i64 {
    const WHAT: &'static str = "an integer";
    fn of(value: GgufValue<'_>) -> Option<Self> {
        value.as_int()
    }
}

impl Typed<'_> for i32 {
    const WHAT: &'static str = "an integer of 32 bits";
    fn of(value: GgufValue<'_>) -> Option<Self> {
        value.as_int()?.try_into().ok()
    }
}

impl Typed<'_> for f32 {
    const WHAT: &'static str = "a finite number";
    fn of(value: GgufValue<'_>) -> Option<Self> {
        match value {
            GgufValue::Float(value) => Some(value as f32).filter(|value| value.is_finite()),
            _ => None,
        }
    }
}

impl<'a> Typed<'a> for GgufList<'a> {
    const WHAT: &'static str = "a list";
    fn of(value: GgufValue<'a>) -> Option<Self> {
        value.as_list()
    }
}
